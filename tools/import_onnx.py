"""Turn an ONNX model that `mxn-edge export` wrote back into its weight file, bit for bit.

The weights may have been changed in between (fine-tuned, say), the graph may not. Imports numpy, onnx, mxn_edge.weights
and mxn_edge.onnx_model only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

if not __package__:  # run as a file: the repository is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mxn_edge.onnx_model import CONV2_CHANNELS, INPUT_SHAPES, OPSETS, build_model
from mxn_edge.weights import WeightFileError, Weights, weights_from_metadata, write_weights

# The largest student has 16 MB; anything far above it is not ours.
_MAX_FILE_BYTES = 32 << 20


class OnnxFileError(ValueError):
    """An ONNX file cannot be imported; the message says which file and why."""


def _tensor(initializer: onnx.TensorProto) -> NDArray[np.float32]:
    name = initializer.name
    if initializer.data_type != TensorProto.FLOAT:
        raise OnnxFileError(f"tensor {name!r} has ONNX type {initializer.data_type}; expected float32")
    if initializer.data_location == TensorProto.EXTERNAL:
        raise OnnxFileError(f"tensor {name!r} is stored outside the file, which is not supported")
    try:
        tensor = numpy_helper.to_array(initializer)
    except ValueError as error:
        raise OnnxFileError(f"tensor {name!r} is damaged ({error})") from error
    if name in ("conv1.weight", "conv2.weight") and tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
    elif name == "fc1.weight" and tensor.ndim == 2 and tensor.shape[0] % CONV2_CHANNELS == 0:
        rows, hidden = tensor.shape
        tensor = tensor.reshape(CONV2_CHANNELS, -1, hidden).transpose(1, 0, 2).reshape(rows, hidden)
    # Any other rank is left as it is, for the check of the shapes to refuse.
    return np.ascontiguousarray(tensor, dtype=np.float32)


def _to_weights(model: onnx.ModelProto) -> Weights:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    names = [initializer.name for initializer in model.graph.initializer]
    # Protobuf hands out bytes for a string that is not UTF-8.
    if not all(isinstance(text, str) for text in (*metadata, *metadata.values(), *names)):
        raise OnnxFileError("a name or the metadata is not UTF-8")
    if len(set(names)) != len(names):
        raise OnnxFileError("tensor names repeat")
    tensors = {initializer.name: _tensor(initializer) for initializer in model.graph.initializer}
    return weights_from_metadata(metadata, tensors, source="")


def _check_graph(model: onnx.ModelProto, weights: Weights) -> None:
    """Check that the graph computes what mxn-edge will: that it is the one that the export writes."""
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    opset = opsets.get("", 0)
    if opset not in OPSETS:
        raise OnnxFileError(f"opset is {opset}; expected {OPSETS[0]} to {OPSETS[-1]}")
    graphs = [build_model(weights, opset, layout).graph for layout in INPUT_SHAPES]
    if not any(model.graph.input == graph.input for graph in graphs):
        raise OnnxFileError("the inputs are not those that mxn-edge writes")
    expected = next(graph for graph in graphs if model.graph.input == graph.input)
    if model.graph.output != expected.output:
        raise OnnxFileError("the outputs are not those that mxn-edge writes")
    if model.graph.node != expected.node:
        raise OnnxFileError("the nodes are not those that mxn-edge writes")


def import_onnx(path: Path) -> Weights:
    """Read the weights from an ONNX file.

    Raises `OSError` when it cannot be opened, `OnnxFileError` when it is damaged or its network is not a student's.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_FILE_BYTES + 1)
    try:
        if len(content) > _MAX_FILE_BYTES:
            raise OnnxFileError(f"more than {_MAX_FILE_BYTES} bytes, too large for a student")
        model = onnx.load_model_from_string(content)
        weights = _to_weights(model)
        _check_graph(model, weights)
    except DecodeError as error:
        raise OnnxFileError(f"{path}: not an ONNX file ({error})") from error
    except (OnnxFileError, WeightFileError) as error:
        raise OnnxFileError(f"{path}: {error}") from error
    return weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="import_onnx",
        description="Turn an ONNX model written by `mxn-edge export` back into a weight file of mxn-edge. "
        "Other ONNX models are refused.",
    )
    parser.add_argument("model", type=Path, metavar="IN.onnx", help="ONNX file to read")
    parser.add_argument("output", type=Path, metavar="OUT.safetensors", help="weight file to write")
    options = parser.parse_args(arguments)
    try:
        weights = import_onnx(options.model)
        write_weights(options.output, weights)
    except (OSError, OnnxFileError) as error:
        print(f"import_onnx: error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {weights.architecture}, {weights.parameters:,} parameters, {', '.join(weights.labels)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
