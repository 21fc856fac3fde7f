"""tools/check_parity.py: what counts as agreement, which faces it reads, and that it fails when the logits are off."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx", reason="needs the extra 'onnx'")
pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

from mxn_edge import available_isas
from mxn_edge.weights import Weights, write_weights
from tests.reference import reference_logits
from tools import check_parity as tool
from tools.check_parity import FacesError, compare
from tools.import_checkpoint import import_checkpoint

MakeWeights = Callable[..., Weights]
EXPECTED = np.array([[1, 2, -10], [4, 3, 0]], np.float32)


def test_equal_logits_pass() -> None:
    result = compare(EXPECTED, EXPECTED.copy())
    assert (result.absolute, result.relative, result.count, result.same, result.ties) == (0, 0, 2, 2, 0)
    assert result.passed


def test_differences_are_relative_to_the_largest_logit() -> None:
    logits = EXPECTED.copy()
    logits[1, 2] = 0.0005
    result = compare(EXPECTED, logits)
    assert result.absolute == pytest.approx(5e-4)
    assert result.relative == pytest.approx(5e-5)
    assert result.passed
    logits[1, 2] = 0.0015
    assert not compare(EXPECTED, logits).passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_number_fails(value: float) -> None:
    logits = EXPECTED.copy()
    logits[0, 0] = value
    assert not compare(EXPECTED, logits).passed
    assert not compare(logits, EXPECTED).passed


def test_another_top_class_fails_unless_it_ties() -> None:
    expected = np.array([[10, 10 - 1e-4], [10, 10 - 5e-4]], np.float32)
    tied = expected.copy()
    tied[0, 1] = 10 + 1e-5
    result = compare(expected, tied)
    assert (result.same, result.ties) == (1, 1)
    assert result.passed
    other = expected.copy()
    other[1, 1] = 10 + 1e-5
    result = compare(expected, other)
    assert (result.same, result.ties) == (1, 0)
    assert result.relative < tool.TOLERANCE
    assert not result.passed


def test_all_zero_logits() -> None:
    zero = np.zeros((2, 3), np.float32)
    assert compare(zero, zero).passed
    assert not compare(zero, EXPECTED).passed


def test_wrong_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        compare(EXPECTED, EXPECTED[:1])


def test_onnx_runtime_is_the_reference(random_weights: MakeWeights) -> None:
    weights = random_weights(hidden=5)
    faces = tool.random_faces(3, np.random.default_rng(0))
    assert compare(reference_logits(weights, faces).astype(np.float32), tool.onnx_runtime(weights)(faces)).passed


# Faces.


def read(path: Path, count: int = 8, seed: int = 0) -> NDArray[np.float32]:
    faces = tool.read_faces(path, count, np.random.default_rng(seed))
    assert faces.dtype == np.float32
    assert faces.shape[1:] == (84, 84)
    assert faces.min() >= 0
    assert faces.max() <= 255
    return faces


def test_folder_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (84, 84), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    np.testing.assert_array_equal(read(tmp_path), grey[None].astype(np.float32))
    cv2.imwrite(str(tmp_path / "colour.JPG"), rng.integers(0, 256, (31, 200, 3), dtype=np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    assert len(read(tmp_path)) == 2
    assert len(read(tmp_path, count=1)) == 1
    np.testing.assert_array_equal(read(tmp_path, seed=3), read(tmp_path, seed=3))


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_folder_with_a_damaged_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "face.png").write_bytes(content)
    with pytest.raises(FacesError, match=r"face\.png: not a readable image"):
        read(tmp_path)


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(FacesError, match="no images"):
        read(tmp_path)


def test_npz(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48), dtype=np.uint8)
    np.savez(tmp_path / "faces.npz", valid_images=images[:1], test_images=images[1:], names=np.array(["a", "b"]))
    assert len(read(tmp_path / "faces.npz")) == 3
    assert len(read(tmp_path / "faces.npz", count=2)) == 2


def test_damaged_npz(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48), dtype=np.uint8)
    path = tmp_path / "faces.npz"
    np.savez_compressed(path, valid_images=images, test_images=images)
    content = path.read_bytes()
    for length in range(0, len(content), 101):
        path.write_bytes(content[:length])
        with pytest.raises(FacesError, match=r"faces\.npz: "):
            read(path)
    for position in range(0, len(content), 101):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        with contextlib.suppress(FacesError):
            read(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"valid_images": np.zeros((2, 48, 48), np.uint8)},
        {"valid_images": np.zeros((2, 48, 48), np.uint8), "test_images": np.zeros((2, 48), np.uint8)},
        {"valid_images": np.zeros((2, 48, 48), np.uint8), "test_images": np.zeros((2, 48, 48), np.float32)},
        {"valid_images": np.zeros((2, 48, 48), np.uint8), "test_images": np.zeros((0, 48, 48), np.uint8)},
        {"valid_images": np.zeros((2, 48, 48), np.uint8), "test_images": np.array([{}], dtype=object)},
    ],
)
def test_other_npz(tmp_path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(FacesError, match=r"other\.npz: "):
        read(tmp_path / "other.npz")


def test_lone_array(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(FacesError, match=r"array\.npy: "):
        read(tmp_path / "array.npy")


# The whole tool.


@pytest.mark.parametrize("architecture", ["microexpnet-v", "microexpnet-p1", "microexpnet-p2", "microexpnet-p12"])
def test_every_instruction_set_agrees(
    tmp_path: Path, random_weights: MakeWeights, capsys: pytest.CaptureFixture[str], architecture: str
) -> None:
    write_weights(tmp_path / "net.safetensors", random_weights(architecture, hidden=31))
    status = tool.main([str(tmp_path / "net.safetensors"), "--count", "9"])
    output = capsys.readouterr().out
    assert status == 0, output
    rows = [line.split()[:3] for line in output.splitlines()[1:]]
    assert rows == [[isa, "random", dtype] for isa in available_isas() for dtype in ("uint8", "float32")]


def test_published_weights_on_real_faces(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ck.safetensors"
    write_weights(path, import_checkpoint(data_dir / "published" / "CK" / "MicroExpNet_CK"))
    for faces in ("ferplus.npz", "portraits"):
        status = tool.main([str(path), "--count", "32", "--faces", str(data_dir / faces)])
        output = capsys.readouterr().out
        assert status == 0, output
        assert output.count(" real ") == 2 * len(available_isas())


@pytest.mark.parametrize("error", [1e-3, np.nan])
def test_wrong_logits_fail(
    tmp_path: Path,
    random_weights: MakeWeights,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: float,
) -> None:
    weights = random_weights(hidden=5)
    write_weights(tmp_path / "net.safetensors", weights)

    class Wrong:
        @classmethod
        def load(cls, path: Path, precision: str, isa: str) -> Wrong:
            assert precision == "float32"
            return cls()

        def logits(self, faces: NDArray[np.generic]) -> NDArray[np.float32]:
            logits = reference_logits(weights, faces).astype(np.float32)
            # Only one logit of the last face, and only for floats.
            if faces.dtype == np.float32:
                logits[-1, -1] += error * np.abs(logits).max()
            return logits

    monkeypatch.setattr(tool, "Student", Wrong)
    assert tool.main([str(tmp_path / "net.safetensors"), "--count", "3"]) == 1
    rows = capsys.readouterr().out.splitlines()[1:]
    assert all(row.endswith("FAILED") == (" float32 " in row) for row in rows)


def test_command_line(tmp_path: Path, random_weights: MakeWeights, run_tool: Callable[..., object]) -> None:
    model = tmp_path / "net.safetensors"
    write_weights(model, random_weights(hidden=5))
    done = run_tool("check_parity", model, "--count", "2", "--seed", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert "top-1" in done.stdout

    (tmp_path / "text").write_text("neither weights nor faces")
    for arguments, cause in (
        ([tmp_path / "absent"], "absent"),
        ([tmp_path / "text"], "text: not a readable safetensors file"),
        ([model, "--faces", tmp_path / "absent"], "absent"),
        ([model, "--faces", tmp_path / "text"], "text: not an .npz file"),
        ([model, "--count", "0"], "0 is below 1"),
        ([model, "--count", "many"], "invalid integer value: 'many'"),
        ([model, "--seed", "-1"], "-1 is below 0"),
    ):
        failed = run_tool("check_parity", *arguments)
        assert failed.returncode == 2
        assert cause in failed.stderr
        assert "Traceback" not in failed.stderr
    assert "Exit code" in run_tool("check_parity", "--help").stdout
