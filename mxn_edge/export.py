"""Weights -> files for other programs: ONNX, safetensors, C source. Imports weights, and for ONNX onnx_model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mxn_edge.weights import Weights, write_weights

#: The formats, and how the names of their files end.
SUFFIXES = {"onnx": ".onnx", "safetensors": ".safetensors", "c": ".c"}
DEFAULT_NAME = "mxn_exported"

_TOPOLOGIES = {
    "microexpnet-v": "MXN_TOPOLOGY_V",
    "microexpnet-p1": "MXN_TOPOLOGY_P1",
    "microexpnet-p2": "MXN_TOPOLOGY_P2",
    "microexpnet-p12": "MXN_TOPOLOGY_P12",
}
_FLOATS_PER_LINE = 8


class ExportError(RuntimeError):
    """A file cannot be written in the format asked for; the message is for the user."""


def export_onnx(path: Path, weights: Weights, *, opset: int = 17, layout: str = "nchw") -> None:
    """Write an ONNX model with the input "faces" (raw grey values 0..255) and the output "logits", both float32.

    Args:
        path: the file to write.
        weights: the student.
        opset: version of the ONNX operators, 13 to 17.
        layout: "nchw" for faces of shape n × 1 × 84 × 84, "nhwc" for n × 84 × 84 × 1.

    Raises:
        ExportError: the extra `onnx` is not installed.
        ValueError: the operators' version or the layout is none of these.
    """
    try:
        from mxn_edge.onnx_model import INPUT_SHAPES, OPSETS, build_model
    except ImportError as error:
        raise ExportError(f"ONNX files need the package onnx ({error}): pip install 'mxn-edge[onnx]'") from error
    if opset not in OPSETS:
        raise ValueError(f"opset is {opset}; expected {OPSETS[0]} to {OPSETS[-1]}")
    if layout not in INPUT_SHAPES:
        raise ValueError(f"layout is {layout!r}; expected one of {', '.join(INPUT_SHAPES)}")
    path.write_bytes(build_model(weights, opset, layout).SerializeToString())


def export_safetensors(path: Path, weights: Weights) -> None:
    """Write a weight file, as `Student.load` and examples/c read it."""
    write_weights(path, weights)


def export_c(path: Path, weights: Weights, *, name: str = DEFAULT_NAME) -> None:
    """Write a C source that defines `const mxn_student NAME` of mxn.h.

    Raises `ValueError` when `name` is not a C identifier.
    """
    path.write_text(c_source(weights, name), encoding="ascii")


def c_source(weights: Weights, name: str = DEFAULT_NAME) -> str:
    """What `export_c` writes. Floats are hexadecimal, so that every compiler reads the same bits."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is not a C identifier")
    tensors = {tensor.replace(".", "_"): weights.tensors[tensor] for tensor in sorted(weights.tensors)}
    fields = ", ".join(f".{tensor} = {name}_{tensor}" for tensor in tensors)
    config = f"{_TOPOLOGIES[weights.architecture]}, {weights.hidden}, {len(weights.labels)}"
    parts = [
        f"/* {weights.architecture} for libmxn: compile it into the program, which declares\n *\n"
        f' *     #include "mxn.h"\n *     extern const mxn_student {name};\n */\n#include "mxn.h"\n',
        *(_array(f"{name}_{tensor}", values) for tensor, values in tensors.items()),
        f"static const char *const {name}_labels[] = {{{', '.join(map(_string, weights.labels))}}};\n",
        f"extern const mxn_student {name};\nconst mxn_student {name} = {{\n"
        f"    .config = {{{config}}},\n"
        f"    .weights = {{{fields}}},\n"
        f"    .quantised = {'true' if weights.quantised else 'false'},\n"
        f"    .preprocessing = {_string(weights.preprocessing)},\n"
        f"    .labels = {name}_labels,\n"
        "};\n",
    ]
    return "\n".join(parts)


def _array(name: str, values: NDArray[np.float32]) -> str:
    def lines() -> Iterator[str]:
        flat = [_number(value) for value in values.ravel().tolist()]
        for start in range(0, len(flat), _FLOATS_PER_LINE):
            yield "    " + ", ".join(flat[start : start + _FLOATS_PER_LINE]) + ","

    return f"static const float {name}[] = {{\n" + "\n".join(lines()) + "\n};\n"


def _number(value: float) -> str:
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f" if "." in mantissa else f"{mantissa}p{exponent}f"


def _string(text: str) -> str:
    """A C string literal of printable ASCII; what is not becomes octal escapes, of which none can run on."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'
