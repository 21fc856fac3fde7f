"""Weight files: round trips, and every way in which a file can be wrong."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxn_edge.weights import (
    ARCHITECTURES,
    WeightFileError,
    Weights,
    quantise_tensor,
    read_weights,
    write_weights,
)

MakeWeights = Callable[..., Weights]


def split(data: bytes) -> tuple[dict, bytes]:
    """Header and tensor bytes of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: object, body: bytes) -> bytes:
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + body


@pytest.fixture
def path(tmp_path: Path, random_weights: MakeWeights) -> Path:
    path = tmp_path / "model.safetensors"
    write_weights(path, random_weights(hidden=5, classes=3))
    return path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip(architecture: str, tmp_path: Path, random_weights: MakeWeights) -> None:
    weights = random_weights(architecture, 19, 7)
    write_weights(tmp_path / "a", weights)
    back = read_weights(tmp_path / "a")
    assert back.source == str(tmp_path / "a")
    assert (back.architecture, back.labels, back.preprocessing, back.training) == (
        weights.architecture, weights.labels, weights.preprocessing, weights.training,
    )  # fmt: skip
    for name, tensor in weights.tensors.items():
        np.testing.assert_array_equal(back.tensors[name], tensor)
    write_weights(tmp_path / "b", back)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip_of_quantised_weights(architecture: str, tmp_path: Path, quantised_weights: MakeWeights) -> None:
    weights = quantised_weights(architecture, 19, 7)
    weights.tensors["conv2.weight"][..., 4] = 0  # a dead output
    write_weights(tmp_path / "a", weights)
    back = read_weights(tmp_path / "a")
    assert back.quantised
    assert back.parameters == weights.parameters
    for name, tensor in weights.tensors.items():
        np.testing.assert_array_equal(back.tensors[name], tensor)
        assert back.tensors[name].dtype == np.float32
    write_weights(tmp_path / "b", back)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_quantised_files_say_so_and_are_small(tmp_path: Path, quantised_weights: MakeWeights) -> None:
    from safetensors.numpy import load

    path, plain = tmp_path / "model", tmp_path / "plain"
    write_weights(path, quantised_weights())
    write_weights(plain, replace(quantised_weights(), quantised=False))
    assert split(path.read_bytes())[0]["__metadata__"]["precision"] == "int8"
    assert "precision" not in split(plain.read_bytes())[0]["__metadata__"]
    assert not read_weights(plain).quantised
    assert path.stat().st_size < 70_000
    tensors = load(path.read_bytes())
    assert {name for name, tensor in tensors.items() if tensor.dtype == np.int8} == {
        "conv1.weight", "conv2.weight", "fc1.weight",
    }  # fmt: skip
    assert tensors["conv1.scale"].shape == (16,)
    assert tensors["fc1.scale"].dtype == np.float32


def test_quantised_tensors_by_hand() -> None:
    weight = np.array([[-254, 0, 0.5], [6, 0, 63.5]], np.float32)
    q, scale = quantise_tensor(weight)
    assert q.tolist() == [[-127, 0, 1], [3, 0, 127]]
    assert q.dtype == np.int8
    assert scale.tolist() == [2, 1, 0.5]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([[127.0], [0.5]], "not whole multiples"),
        ([[127 * (1 + 2.0**-17)], [0]], "more than 16 significant bits"),
        ([[1.0], [0.5]], "more than 16 significant bits"),
        ([[1e-44], [0]], "too small"),
    ],
)
def test_other_tensors_are_not_quantised(
    weight: list[list[float]], message: str, quantised_weights: MakeWeights
) -> None:
    with pytest.raises(WeightFileError, match=message):
        quantise_tensor(np.array(weight, np.float32))
    weights = quantised_weights(hidden=1)
    column = np.zeros((1152, 1), np.float32)
    column[:2] = weight
    with pytest.raises(WeightFileError, match=f"tensor 'fc1.weight' of quantised weights: .*{message}"):
        replace(weights, tensors={**weights.tensors, "fc1.weight": column})


def test_other_libraries_can_read_it(path: Path) -> None:
    from safetensors.numpy import load

    tensors = load(path.read_bytes())
    assert tensors["fc1.weight"].shape == (1152, 5)


def test_paper_size(random_weights: MakeWeights) -> None:
    assert random_weights().parameters == 65_000


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", None, "lacks 'format'"),
        ("format", "gguf", "format is 'gguf'"),
        ("format_version", "2", "version is '2'"),
        ("architecture", "resnet", "architecture 'resnet' is not one of"),
        ("architecture", "microexpnet-v", r"'fc1.weight' has shape \(1152, 5\); expected \(3872, 5\)"),
        ("labels", "not json", "not JSON"),
        ("labels", "[" * 100_000, "not JSON"),
        ("labels", '{"a": 1}', "not a JSON list"),
        ("labels", "[]", "0 labels"),
        ("labels", '["a", "b", 3]', "non-empty strings"),
        ("labels", '["a", "b", "a"]', "labels repeat"),
        ("labels", '["a", "b"]', "shape"),
        ("labels", json.dumps([str(i) for i in range(65)]), "65 labels"),
        ("input_size", "96", "input size is '96'"),
        ("preprocessing", "whatever", "preprocessing 'whatever' is not one of"),
        ("training", None, "lacks 'training'"),
    ],
)
def test_wrong_metadata(path: Path, key: str, value: str | None, message: str) -> None:
    header, body = split(path.read_bytes())
    if value is None:
        del header["__metadata__"][key]
    else:
        header["__metadata__"][key] = value
    path.write_bytes(join(header, body))
    with pytest.raises(WeightFileError, match=f"model.safetensors: .*{message}"):
        read_weights(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv2.bias"), "missing tensors: conv2.bias"),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), "unknown tensors: extra"),
        (lambda t: t.update({"fc2.bias": np.zeros(3)}), "'fc2.bias' has dtype F64"),
        (lambda t: t.update({"fc2.bias": np.zeros(3, np.float16)}), "'fc2.bias' has dtype F16"),
        (lambda t: t.update({"fc2.bias": np.zeros((3, 1), np.float32)}), r"'fc2.bias' has shape \(3, 1\)"),
        (lambda t: t.update({"fc1.bias": np.zeros(0, np.float32)}), r"'fc1.bias' has shape \(0,\)"),
        (lambda t: t.update({"fc1.bias": np.zeros(1025, np.float32)}), r"'fc1.bias' has shape \(1025,\)"),
        (lambda t: t.update({"fc1.bias": np.zeros((), np.float32)}), r"'fc1.bias' has shape \(\)"),
        (lambda t: t.pop("fc1.bias"), "'fc1.bias' is missing"),
        (lambda t: t.update({"conv1.bias": np.full(16, np.nan, np.float32)}), "'conv1.bias' contains NaN"),
        (lambda t: t.update({"conv1.bias": np.full(16, -np.inf, np.float32)}), "'conv1.bias' contains NaN or inf"),
        (lambda t: t.clear(), "'fc1.bias' is missing"),
    ],
)
def test_wrong_tensors(path: Path, change: Callable[[dict], object], message: str) -> None:
    from safetensors.numpy import load, save

    metadata = split(path.read_bytes())[0]["__metadata__"]
    tensors = load(path.read_bytes())
    change(tensors)
    path.write_bytes(save(tensors, metadata))
    with pytest.raises(WeightFileError, match=message):
        read_weights(path)


def _set(name: str, place: object, value: float) -> Callable[[dict], None]:
    def change(tensors: dict) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name][place] = value

    return change


def _first_of_127(tensors: dict) -> None:
    """No weight of an output is as large as it should be."""
    q = tensors["conv2.weight"].copy()
    q[..., 3] = np.clip(q[..., 3], -126, 126)
    tensors["conv2.weight"] = q


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv2.scale"), "missing tensors: conv2.scale"),
        (lambda t: t.pop("conv2.weight"), "missing tensors: conv2.weight"),
        (lambda t: t.pop("fc2.weight"), "missing tensors: fc2.weight"),
        (lambda t: t.update({"fc2.scale": np.ones(3, np.float32)}), "unknown tensors: fc2.scale"),
        (lambda t: t.update({"fc2.weight": np.ones((5, 3), np.int8)}), "'fc2.weight' has dtype I8; expected F32"),
        (lambda t: t.update({"fc1.weight": np.ones((1152, 5), np.float32)}), "'fc1.weight' has dtype F32; expected I8"),
        (lambda t: t.update({"fc1.weight": np.ones((1152, 5), np.uint8)}), "'fc1.weight' has dtype U8; expected I8"),
        (lambda t: t.update({"fc1.scale": np.ones(5)}), "'fc1.scale' has dtype F64; expected F32"),
        (lambda t: t.update({"fc1.scale": np.ones(6, np.float32)}), r"'fc1.scale' has shape \(6,\)"),
        (lambda t: t.update({"fc1.scale": np.ones((5, 1), np.float32)}), r"'fc1.scale' has shape \(5, 1\)"),
        (lambda t: t.update({"fc1.scale": np.ones((), np.float32)}), r"'fc1.scale' has shape \(\)"),
        (lambda t: t.update({"fc1.weight": np.ones((), np.int8)}), r"its weights have shape \(\)"),
        (lambda t: t.update({"fc1.weight": np.ones((0, 5), np.int8)}), r"'fc1.scale': the scale of an output without"),
        (lambda t: t.update({"fc1.weight": np.full((1151, 5), 127, np.int8)}), r"'fc1.weight' has shape \(1151, 5\)"),
        (_set("conv1.weight", (0, 0, 0, 0), -128), "'conv1.weight' holds -128"),
        (_first_of_127, "'conv2.weight': the largest .* is not 127"),
        (_set("conv1.scale", 3, 0), "not positive and finite"),
        (_set("conv1.scale", 3, -1), "not positive and finite"),
        (_set("conv1.scale", 3, np.nan), "not positive and finite"),
        (_set("conv1.scale", 3, np.inf), "not positive and finite"),
        (_set("conv1.scale", 3, 1 + 2.0**-16), "more than 16 significant bits"),
        (_set("conv1.scale", 3, 2.0**127), "'conv1.weight' contains NaN or infinity"),
        (_set("conv1.weight", (..., 3), 0), "'conv1.scale': the scale of an output without weights is not 1"),
        (lambda t: t.clear(), "missing tensors: conv1.scale"),
    ],
)
def test_wrong_quantised_tensors(
    tmp_path: Path, quantised_weights: MakeWeights, change: Callable[[dict], object], message: str
) -> None:
    from safetensors.numpy import load, save

    path = tmp_path / "model.safetensors"
    write_weights(path, quantised_weights(hidden=5, classes=3))
    metadata = split(path.read_bytes())[0]["__metadata__"]
    tensors = load(path.read_bytes())
    change(tensors)
    path.write_bytes(save(tensors, metadata))
    with pytest.raises(WeightFileError, match=f"model.safetensors: .*{message}"):
        read_weights(path)


def test_scales_at_the_limits(tmp_path: Path, quantised_weights: MakeWeights) -> None:
    """As small as float32 goes, and as large as leaves the weights finite."""
    weights = quantised_weights()
    q = quantise_tensor(weights.tensors["conv1.weight"])[0]
    for scale in (2.0**-149, 3 * 2.0**-149, 2.0**-126, 2.0**121, (2**16 - 1) * 2.0**105):
        tensors = {**weights.tensors, "conv1.weight": q * np.float32(scale)}
        write_weights(tmp_path / "model", replace(weights, tensors=tensors))
        np.testing.assert_array_equal(read_weights(tmp_path / "model").tensors["conv1.weight"], tensors["conv1.weight"])


@pytest.mark.parametrize(
    ("precision", "message"),
    [("int4", "precision 'int4' is not one of"), ("float32", "'conv1.weight' has dtype I8; expected F32")],
)
def test_precision_that_is_not_the_tensors(
    tmp_path: Path, quantised_weights: MakeWeights, precision: str, message: str
) -> None:
    path = tmp_path / "model"
    write_weights(path, quantised_weights())
    header, body = split(path.read_bytes())
    header["__metadata__"]["precision"] = precision
    path.write_bytes(join(header, body))
    with pytest.raises(WeightFileError, match=message):
        read_weights(path)


def test_float_file_that_says_int8(path: Path) -> None:
    header, body = split(path.read_bytes())
    header["__metadata__"]["precision"] = "int8"
    path.write_bytes(join(header, body))
    with pytest.raises(WeightFileError, match="has dtype F32; expected I8"):
        read_weights(path)


def test_truncated_anywhere(path: Path) -> None:
    data = path.read_bytes()
    header_end = 8 + int.from_bytes(data[:8], "little")
    for length in [*range(0, header_end, 13), header_end, header_end + 1, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(WeightFileError, match="not a readable safetensors file"):
            read_weights(path)


@pytest.mark.parametrize(
    "data",
    [b"PK\x03\x04" + bytes(100), b"\x80\x04\x95" + bytes(100), b"\xff" * 8 + b"{}", (1 << 40).to_bytes(8, "little"),
     join({}, b""), join([], b""), join({"a": {"dtype": "F32", "shape": [1 << 62], "data_offsets": [0, 1 << 62]}}, b""),
     join({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, b""),
     join({"__metadata__": {"format": 3}}, b"")],
)  # fmt: skip
def test_foreign_or_hostile(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(WeightFileError):
        read_weights(tmp_path / "file")


def test_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(WeightFileError, match="1099511627776 bytes"):
        read_weights(tmp_path / "file")


def test_absent_and_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "absent")
    with pytest.raises(IsADirectoryError):
        read_weights(tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 1500), value=st.integers(0, 255))
def test_any_flipped_byte_is_read_or_refused(path: Path, position: int, value: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] = value
    damaged = path.with_name("damaged")
    damaged.write_bytes(data)
    with contextlib.suppress(WeightFileError):
        read_weights(damaged)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 3000), value=st.integers(0, 255))
def test_any_flipped_byte_of_a_quantised_file_is_read_or_refused(
    tmp_path: Path, quantised_weights: MakeWeights, position: int, value: int
) -> None:
    path = tmp_path / "quantised"
    if not path.exists():
        write_weights(path, quantised_weights(hidden=5, classes=3))
    data = bytearray(path.read_bytes())
    data[position] = value
    damaged = path.with_name("damaged")
    damaged.write_bytes(data)
    with contextlib.suppress(WeightFileError):
        read_weights(damaged)


def test_a_failed_write_leaves_the_old_file(
    path: Path, random_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(*_: object) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="no space left"):
        write_weights(path, random_weights())
    assert path.read_bytes() == before
