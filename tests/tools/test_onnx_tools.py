"""mxn_edge/onnx_model.py and tools/import_onnx.py: the same logits, the same bytes, and foreign files refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

from mxn_edge import cli  # noqa: E402
from mxn_edge.export import export_onnx  # noqa: E402
from mxn_edge.onnx_model import INPUT_SHAPES, OPSETS, build_model  # noqa: E402
from mxn_edge.weights import ARCHITECTURES, Weights, read_weights, write_weights  # noqa: E402
from tests.reference import reference_logits  # noqa: E402
from tools import import_checkpoint, import_onnx  # noqa: E402
from tools.import_onnx import OnnxFileError  # noqa: E402

MakeWeights = Callable[..., Weights]


def run_onnx(model: onnx.ModelProto, layout: str, faces: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shaped = faces[:, None] if layout == "nchw" else faces[..., None]
    return session.run(["logits"], {"faces": shaped.astype(np.float32)})[0]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("layout", INPUT_SHAPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_the_reference(random_weights: MakeWeights, architecture: str, layout: str, opset: int) -> None:
    weights = random_weights(architecture, seed=opset)
    model = build_model(weights, opset, layout)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    faces = np.random.default_rng(opset).uniform(0, 255, (5, 84, 84)).astype(np.float32)
    expected = reference_logits(weights, faces)
    for count in (1, 5):
        logits = run_onnx(model, layout, faces[:count])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[:count], rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("hidden", "classes"), [(1, 1), (17, 3), (129, 64)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_widths(random_weights: MakeWeights, architecture: str, hidden: int, classes: int) -> None:
    weights = random_weights(architecture, hidden, classes)
    faces = np.random.default_rng(0).integers(0, 256, (3, 84, 84), dtype=np.uint8)
    expected = reference_logits(weights, faces)
    logits = run_onnx(build_model(weights), "nchw", faces)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_borders_are_padded_as_tensorflow_does(random_weights: MakeWeights) -> None:
    """One bright pixel at a time along the border, where wrong padding would show."""
    faces = np.zeros((16, 84, 84), np.uint8)
    edges = [0, 1, 82, 83]
    for i in range(16):
        faces[i, edges[i // 4], edges[i % 4]] = 255
    for architecture in ARCHITECTURES:
        weights = random_weights(architecture)
        expected = reference_logits(weights, faces)
        assert len(np.unique(expected[:, 0])) > 1
        logits = run_onnx(build_model(weights), "nchw", faces)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_interface_of_the_model(random_weights: MakeWeights) -> None:
    weights = random_weights(hidden=2, classes=5)
    for layout, shape in (("nchw", ["n", 1, 84, 84]), ("nhwc", ["n", 84, 84, 1])):
        graph = build_model(weights, 17, layout).graph
        for value, name, expected in ((graph.input, "faces", shape), (graph.output, "logits", ["n", 5])):
            assert [v.name for v in value] == [name]
            tensor = value[0].type.tensor_type
            assert tensor.elem_type == onnx.TensorProto.FLOAT
            assert [d.dim_param or d.dim_value for d in tensor.shape.dim] == expected
    metadata = {entry.key: entry.value for entry in build_model(weights).metadata_props}
    assert metadata == {
        "format": "mxn-edge",
        "format_version": "1",
        "architecture": "microexpnet-p12",
        "labels": json.dumps(list(weights.labels)),
        "input_size": "84",
        "preprocessing": "face-square",
        "training": weights.training,
    }


def round_trip(folder: Path, weights: Weights, *options: str) -> tuple[bytes, bytes]:
    original, model, again = folder / "a.safetensors", folder / "a.onnx", folder / "b.safetensors"
    write_weights(original, weights)
    assert cli.main(["export", str(original), "--to", "onnx", "--output", str(model), *options]) == 0
    assert import_onnx.main([str(model), str(again)]) == 0
    return original.read_bytes(), again.read_bytes()


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("layout", INPUT_SHAPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip(tmp_path: Path, random_weights: MakeWeights, architecture: str, layout: str, opset: int) -> None:
    weights = random_weights(architecture, hidden=2 * opset + 1, classes=opset)
    original, again = round_trip(tmp_path, weights, "--layout", layout, "--opset", str(opset))
    assert original == again


def test_round_trip_keeps_every_bit_and_letter(tmp_path: Path, random_weights: MakeWeights) -> None:
    base = random_weights(hidden=1, classes=2)
    tensors = {name: tensor.copy() for name, tensor in base.tensors.items()}
    tensors["fc1.weight"][:4, 0] = [-0.0, 1e-45, np.finfo(np.float32).max, -1e-38]
    weights = Weights("microexpnet-p12", ("Überraschung", '"\\\n'), "face-square", "", tensors)
    original, again = round_trip(tmp_path, weights)
    assert original == again


def test_published_weights(data_dir: Path, tmp_path: Path) -> None:
    weights = import_checkpoint.import_checkpoint(data_dir / "published" / "CK" / "MicroExpNet_CK")
    original, again = round_trip(tmp_path, weights)
    assert original == again
    faces = np.random.default_rng(0).integers(0, 256, (4, 84, 84), dtype=np.uint8)
    expected = reference_logits(weights, faces)
    logits = run_onnx(build_model(weights), "nchw", faces)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_changed_weights_are_imported(tmp_path: Path, random_weights: MakeWeights) -> None:
    model = build_model(random_weights(hidden=3))
    tuned = random_weights(hidden=3, seed=1)
    del model.graph.initializer[:]
    model.graph.initializer.extend(build_model(tuned).graph.initializer)
    path = tmp_path / "tuned.onnx"
    path.write_bytes(model.SerializeToString())
    imported = import_onnx.import_onnx(path)
    for name, tensor in tuned.tensors.items():
        np.testing.assert_array_equal(imported.tensors[name], tensor)


# Foreign and damaged files.


def set_metadata(key: str, value: str | None) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        del model.metadata_props[:]
        del metadata[key]
        onnx.helper.set_model_props(model, metadata if value is None else {**metadata, key: value})

    return change


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(initializer for initializer in model.graph.initializer if initializer.name == name)


def replace(name: str, values: np.ndarray) -> Callable[[onnx.ModelProto], None]:
    return lambda model: tensor(model, name).CopyFrom(onnx.numpy_helper.from_array(values, name))


def attribute(node: int, name: str, change: Callable[[onnx.AttributeProto], None]) -> Callable[[onnx.ModelProto], None]:
    return lambda model: change(next(a for a in model.graph.node[node].attribute if a.name == name))


def store_outside(model: onnx.ModelProto) -> None:
    tensor(model, "fc1.bias").data_location = onnx.TensorProto.EXTERNAL


def shorten(model: onnx.ModelProto) -> None:
    tensor(model, "fc1.bias").raw_data = b"\0\0\0\0"


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        pytest.param(set_metadata("format", None), "lacks 'format'", id="no format"),
        pytest.param(set_metadata("training", None), "lacks 'training'", id="no training note"),
        pytest.param(set_metadata("format", "other"), "format is 'other'", id="format"),
        pytest.param(set_metadata("format_version", "2"), "format version is '2'", id="version"),
        pytest.param(set_metadata("input_size", "48"), "input size is '48'", id="input size"),
        pytest.param(set_metadata("architecture", "resnet"), "architecture 'resnet'", id="architecture"),
        pytest.param(set_metadata("architecture", "microexpnet-v"), "expected \\(3872", id="other architecture"),
        pytest.param(set_metadata("architecture", "microexpnet-p2"), "nodes are not", id="same shapes, other graph"),
        pytest.param(set_metadata("labels", "{"), "not JSON", id="labels: not JSON"),
        pytest.param(set_metadata("labels", "[" * 100_000), "not JSON", id="labels: deep JSON"),
        pytest.param(set_metadata("labels", "3"), "not a JSON list", id="labels: number"),
        pytest.param(set_metadata("labels", "[1, 2]"), "labels must be", id="labels: numbers"),
        pytest.param(set_metadata("labels", '["a"]'), "shape", id="labels: too few"),
        pytest.param(replace("fc1.bias", np.ones(3)), "ONNX type 11", id="double"),
        pytest.param(replace("fc1.bias", ones(4)), "shape", id="hidden width"),
        pytest.param(replace("fc1.weight", ones(33, 3)), "shape", id="odd feature map"),
        pytest.param(replace("fc1.weight", ones(1152)), "shape", id="fc1 rank"),
        pytest.param(replace("fc1.weight", ones(0, 3)), "shape", id="empty"),
        pytest.param(replace("conv1.weight", ones(8, 8)), "shape", id="conv1 rank"),
        pytest.param(replace("conv2.bias", np.full(32, np.inf, np.float32)), "NaN or infinity", id="infinity"),
        pytest.param(store_outside, "outside the file", id="external data"),
        pytest.param(shorten, "damaged", id="too few values"),
        pytest.param(lambda m: m.graph.initializer.pop(), "missing tensors", id="missing tensor"),
        pytest.param(lambda m: m.graph.initializer.append(tensor(m, "fc1.bias")), "repeat", id="tensor twice"),
        pytest.param(
            lambda m: m.graph.initializer.append(onnx.numpy_helper.from_array(ones(1), "extra")), "unknown", id="extra"
        ),
        pytest.param(lambda m: setattr(m.opset_import[0], "version", 12), "opset is 12", id="opset 12"),
        pytest.param(lambda m: setattr(m.opset_import[0], "version", 18), "opset is 18", id="opset 18"),
        pytest.param(lambda m: setattr(m.opset_import[0], "domain", "other"), "opset is 0", id="no opset"),
        pytest.param(lambda m: setattr(m.graph.input[0], "name", "image"), "inputs are not", id="input name"),
        pytest.param(lambda m: m.graph.output.append(m.graph.output[0]), "outputs are not", id="two outputs"),
        pytest.param(attribute(0, "pads", lambda a: a.ints.__setitem__(0, 2)), "nodes are not", id="padding"),
        pytest.param(lambda m: m.graph.node.pop(2), "nodes are not", id="no pool"),
        pytest.param(lambda m: setattr(m.graph.node[1], "op_type", "Sigmoid"), "nodes are not", id="sigmoid"),
        pytest.param(lambda m: m.graph.Clear(), "fc1.bias", id="no graph"),
    ],
)
def test_foreign_model(
    tmp_path: Path, random_weights: MakeWeights, change: Callable[[onnx.ModelProto], object], cause: str
) -> None:
    model = build_model(random_weights(hidden=3))
    change(model)
    path = tmp_path / "foreign.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match=cause) as caught:
        import_onnx.import_onnx(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"", b"\0", b"not an ONNX file", bytes(100), b"\xff" * 100])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    with pytest.raises(OnnxFileError, match=r"text\.onnx: "):
        import_onnx.import_onnx(path)


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(OnnxFileError, match="too large"):
        import_onnx.import_onnx(path)


@pytest.fixture(scope="session")
def small_model(random_weights: MakeWeights) -> Callable[[], bytes]:
    """A function, or hypothesis would print all of the bytes."""
    content = build_model(random_weights(hidden=1, classes=1)).SerializeToString()
    return lambda: content


def test_truncated(tmp_path: Path, small_model: Callable[[], bytes]) -> None:
    content = small_model()
    path = tmp_path / "truncated.onnx"
    for length in [*range(0, 1000, 7), *range(1000, len(content), 997)]:
        path.write_bytes(content[:length])
        with pytest.raises(OnnxFileError, match=r"truncated\.onnx: "):
            import_onnx.import_onnx(path)


@given(st.lists(st.tuples(st.integers(-1000, 1499), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_damaged_model_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, small_model: Callable[[], bytes], changes: list[tuple[int, int]]
) -> None:
    # The weights' values may be anything; the first 1500 bytes and the last 1000 hold what surrounds them.
    damaged = bytearray(small_model())
    for position, value in changes:
        damaged[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(damaged)
    with contextlib.suppress(OnnxFileError):
        import_onnx.import_onnx(path)


@pytest.mark.parametrize("text", [b"format", b"face-square", b"fc1.bias", b"random", b"conv1_relu"])
def test_text_that_is_not_utf8(tmp_path: Path, small_model: Callable[[], bytes], text: bytes) -> None:
    path = tmp_path / "latin1.onnx"
    path.write_bytes(small_model().replace(text, b"\xfc" + text[1:]))
    with pytest.raises(OnnxFileError, match=r"latin1\.onnx: "):
        import_onnx.import_onnx(path)


def test_command_line(tmp_path: Path, random_weights: MakeWeights, run_tool: Callable[..., object]) -> None:
    write_weights(tmp_path / "a.safetensors", random_weights(hidden=3))
    export_onnx(tmp_path / "a.onnx", read_weights(tmp_path / "a.safetensors"), layout="nhwc")
    imported = run_tool("import_onnx", tmp_path / "a.onnx", tmp_path / "b.safetensors")
    assert (imported.returncode, imported.stderr) == (0, "")
    assert read_weights(tmp_path / "b.safetensors").hidden == 3

    for source in ("a.safetensors", "absent"):
        failed = run_tool("import_onnx", tmp_path / source, tmp_path / "out")
        assert failed.returncode == 1
        assert failed.stderr.startswith("import_onnx: error: ")
        assert source in failed.stderr
        assert "Traceback" not in failed.stderr
        assert not (tmp_path / "out").exists()

    assert "mxn-edge export" in run_tool("import_onnx", "--help").stdout
