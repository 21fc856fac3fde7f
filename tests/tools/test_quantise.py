"""tools/quantise.py: quantised weights from faces of FER+ or a folder, and what it refuses."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training tools need PyTorch (pip install mxn-edge[train])")
pytest.importorskip("tqdm", reason="the training tools need tqdm (pip install mxn-edge[train])")
cv2 = pytest.importorskip("cv2")

from mxn_edge import Student  # noqa: E402
from mxn_edge.weights import Weights, read_weights, write_weights  # noqa: E402
from tests.tools.test_quantisation import random_faces  # noqa: E402
from tools import quantise  # noqa: E402
from tools.ferplus import LABELS  # noqa: E402

Make = Callable[..., Weights]


@pytest.fixture
def model(tmp_path: Path, random_weights: Make) -> Path:
    path = tmp_path / "model.safetensors"
    write_weights(path, replace(random_weights(hidden=12), labels=LABELS))
    return path


@pytest.fixture(params=["ferplus.npz", "folder"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    faces = random_faces(60, 48)
    path = tmp_path / request.param
    if path.suffix:
        votes = np.eye(10, dtype=np.uint8)[np.arange(60) % 8] * 10
        np.savez(path, train_images=faces, train_votes=votes, vote_names=np.array([*LABELS, "unknown", "no"]))
    else:
        (path / "deep").mkdir(parents=True)
        for i, face in enumerate(faces):
            cv2.imwrite(str(path / ("deep" if i % 2 else ".") / f"{i}.png"), face[:, : 48 - i % 5])
    return path


@pytest.mark.filterwarnings("ignore")
def test_command_line(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out.safetensors"
    assert quantise.main([str(model), str(data), str(out), "--count", "40"]) == 0
    message = capsys.readouterr().out
    assert "ranges of 40 faces" in message
    assert "of 20 other faces get the class of float32" in message
    plain, quantised = read_weights(model), read_weights(out)
    assert quantised.quantised
    source = "FER+ train" if data.suffix else "the folder folder"
    assert quantised.training.startswith(f"{plain.training}; quantised to int8 with the ranges of 40 faces of {source}")
    faces = quantise.crop(quantise.read_faces(data), plain.preprocessing)
    expected, found = Student(plain).logits(faces), Student(quantised, precision="int8").logits(faces)
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert quantise.agreement(plain, quantised, faces) > 0.9
    first = out.read_bytes()
    assert quantise.main([str(model), str(data), str(out), "--count", "40"]) == 0
    assert out.read_bytes() == first
    assert quantise.main([str(model), str(data), str(out), "--count", "40", "--seed", "2"]) == 0
    assert out.read_bytes() != first


def test_all_faces_are_used_when_there_are_few(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantise.main([str(model), str(data), str(tmp_path / "out")]) == 0
    assert "of 60 the same faces" in capsys.readouterr().out


def test_what_it_refuses(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    assert quantise.main([str(model), str(data), str(out)]) == 0
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no picture")
    for arguments, message in (
        ([out, data], "are quantised already"),
        ([tmp_path / "absent", data], "No such file"),
        ([model, tmp_path / "empty"], "no pictures"),
        ([model, tmp_path / "broken"], "a.png: not a readable picture"),
        ([model, tmp_path / "absent.npz"], "No such file"),
        ([model, model], "not a FER+ archive"),
    ):
        capsys.readouterr()
        assert quantise.main([*map(str, arguments), str(tmp_path / "other")]) == 1, message
        error = capsys.readouterr().err
        assert error.startswith("quantise: ")
        assert message in error
        assert not (tmp_path / "other").exists()


def test_both_ways_to_run_it(run_tool: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = run_tool("quantise", "--help")
    assert result.returncode == 0
    assert "usage: python -m tools.quantise" in result.stdout
