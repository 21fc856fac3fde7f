"""Weight files: read, check, write. Imports numpy and safetensors only.

A student's weight file is a safetensors file with eight float32 tensors (`tensor_shapes`) and string metadata
(`FORMAT`, `FORMAT_VERSION`, architecture, labels, input size, preprocessing, training note). In a quantised one the
weights of `QUANTISED_LAYERS` are int8, with a float32 scale for each output. The detector's file is of the same kind:
float32 tensors (`detector_shapes`) and metadata. Nothing in a file is executed, and nothing in it is believed before
it is checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

FORMAT = "mxn-edge"
FORMAT_VERSION = "1"
INPUT_SIZE = 84

#: Width of the flattened feature map that enters the first fully connected layer (MicroExpNet paper, section 4).
ARCHITECTURES: Mapping[str, int] = {
    "microexpnet-v": 11 * 11 * 32,
    "microexpnet-p1": 11 * 11 * 32,
    "microexpnet-p2": 6 * 6 * 32,
    "microexpnet-p12": 6 * 6 * 32,
}
MAX_HIDDEN = 1024
MAX_CLASSES = 64

#: How a detected face box becomes the network's input; see `mxn_edge.preprocess`.
PREPROCESSINGS = ("face-square", "face-square-standardised", "microexpnet-paper")

#: Layers whose weights a quantised file has as int8, each with the tensor "<layer>.scale".
QUANTISED_LAYERS = ("conv1", "conv2", "fc1")
#: The largest int8 weight of an output; -128 is not used.
INT8_MAX = 127
_INT8_TENSORS = tuple(f"{layer}.weight" for layer in QUANTISED_LAYERS)
# Bits of a scale, so few that 127 times the scale is exact in float32.
_SCALE_BITS = 16

# The largest valid file is 16 MB (v, 1024 hidden units, 64 classes); anything far above it is not ours.
_MAX_FILE_BYTES = 32 << 20


class WeightFileError(ValueError):
    """A weight file cannot be used; the message says which file and why."""


def tensor_shapes(architecture: str, hidden: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a student. Convolutions are kh-kw-ic-oc, fully connected layers in-out.

    The flattened feature map is in height-width-channel order. Raises `KeyError` for an unknown architecture.
    """
    return {
        "conv1.weight": (8, 8, 1, 16),
        "conv1.bias": (16,),
        "conv2.weight": (4, 4, 16, 32),
        "conv2.bias": (32,),
        "fc1.weight": (ARCHITECTURES[architecture], hidden),
        "fc1.bias": (hidden,),
        "fc2.weight": (hidden, classes),
        "fc2.bias": (classes,),
    }


@dataclass(frozen=True)
class Weights:
    """A student's weights with all that is needed to use them.

    Attributes:
        architecture: a key of `ARCHITECTURES`.
        labels: one name per class, in the order of the logits.
        preprocessing: one of `PREPROCESSINGS`, the one that the weights were trained with.
        training: free text, what the weights were trained on and how.
        tensors: float32 arrays, named and shaped as `tensor_shapes` says.
        source: where the weights came from (a path, or "" when they were made in memory).
        quantised: whether they may run in int8: activations fill 0..255, and `quantise_tensor` loses nothing of the
            weights of `QUANTISED_LAYERS`.

    Construction checks everything and raises `WeightFileError`.
    """

    architecture: str
    labels: tuple[str, ...]
    preprocessing: str
    training: str
    tensors: Mapping[str, NDArray[np.float32]] = field(repr=False)
    source: str = ""
    quantised: bool = False

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise WeightFileError(f"architecture {self.architecture!r} is not one of {', '.join(ARCHITECTURES)}")
        if self.preprocessing not in PREPROCESSINGS:
            raise WeightFileError(f"preprocessing {self.preprocessing!r} is not one of {', '.join(PREPROCESSINGS)}")
        if not 1 <= len(self.labels) <= MAX_CLASSES:
            raise WeightFileError(f"{len(self.labels)} labels; 1 to {MAX_CLASSES} are supported")
        if not all(isinstance(label, str) and label for label in self.labels):
            raise WeightFileError(f"labels must be non-empty strings: {self.labels!r}")
        if len(set(self.labels)) != len(self.labels):
            raise WeightFileError(f"labels repeat: {self.labels!r}")
        _check_tensors(self.architecture, len(self.labels), self.tensors)
        if self.quantised:
            for layer in QUANTISED_LAYERS:
                name = f"{layer}.weight"
                try:
                    quantise_tensor(self.tensors[name])
                except WeightFileError as error:
                    raise WeightFileError(f"tensor {name!r} of quantised weights: {error}") from None

    @property
    def hidden(self) -> int:
        """Number of hidden units."""
        return int(self.tensors["fc1.bias"].shape[0])

    @property
    def parameters(self) -> int:
        """Number of trained parameters (65,000 for the paper's MicroExpNet)."""
        return sum(tensor.size for tensor in self.tensors.values())


def _check_tensors(architecture: str, classes: int, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    bias = tensors.get("fc1.bias")
    if bias is None or bias.ndim != 1 or not 1 <= bias.shape[0] <= MAX_HIDDEN:
        found = "is missing" if bias is None else f"has shape {bias.shape}"
        raise WeightFileError(f"tensor 'fc1.bias' {found}; expected (hidden,) with 1 to {MAX_HIDDEN} hidden units")
    _check_shapes(tensors, tensor_shapes(architecture, bias.shape[0], classes), architecture)


def _check_shapes(
    tensors: Mapping[str, NDArray[np.float32]], expected: Mapping[str, tuple[int, ...]], architecture: str
) -> None:
    if missing := expected.keys() - tensors.keys():
        raise WeightFileError(f"missing tensors: {', '.join(sorted(missing))}")
    if foreign := tensors.keys() - expected.keys():
        raise WeightFileError(f"unknown tensors: {', '.join(sorted(foreign))}")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.dtype != np.float32:
            raise WeightFileError(f"tensor {name!r} has dtype {tensor.dtype}; expected float32")
        if tensor.shape != shape:
            raise WeightFileError(f"tensor {name!r} has shape {tensor.shape}; expected {shape} for {architecture}")
        if not np.isfinite(tensor).all():
            raise WeightFileError(f"tensor {name!r} contains NaN or infinity")


def quantise_tensor(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return whole numbers -127..127 and scales, one for each output (the last axis), whose product is `weight`.

    An output's scale is its largest |weight| / 127, and 1 where all are zero. Raises `WeightFileError` when the product
    differs, or a scale has more bits than are exact.
    """
    largest = np.abs(weight).reshape(-1, weight.shape[-1]).max(axis=0)
    scale = largest / np.float32(INT8_MAX)
    scale[largest == 0] = 1
    if not (scale > 0).all():
        raise WeightFileError("a scale is too small for float32")
    if not _has_few_bits(scale).all():
        raise WeightFileError(f"a scale, largest |weight| / {INT8_MAX}, has more than {_SCALE_BITS} significant bits")
    q = np.rint(weight / scale)
    if not np.array_equal(q * scale, weight):
        raise WeightFileError("weights are not whole multiples of their output's scale")
    return q.astype(np.int8), scale


def _has_few_bits(scale: NDArray[np.float32]) -> NDArray[np.bool_]:
    mantissa = np.frexp(scale)[0] * np.float32(2**_SCALE_BITS)
    few: NDArray[np.bool_] = mantissa == np.rint(mantissa)
    return few


def _dequantise(layer: str, tensors: dict[str, NDArray[Any]]) -> None:
    """Put the product in the place of a layer's int8 weights and scales, which are checked."""
    name = f"{layer}.scale"
    scale, q = tensors.pop(name, None), tensors.get(f"{layer}.weight")
    if scale is None:
        raise WeightFileError(f"missing tensors: {name}")
    if q is None:
        return  # the check of all tensors says so
    if q.ndim == 0 or scale.shape != q.shape[-1:]:
        raise WeightFileError(f"tensor {name!r} has shape {scale.shape}; its weights have shape {q.shape}")
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise WeightFileError(f"tensor {name!r} has scales that are not positive and finite")
    if not _has_few_bits(scale).all():
        raise WeightFileError(f"tensor {name!r} has scales of more than {_SCALE_BITS} significant bits")
    largest = np.abs(q.astype(np.int16)).reshape(-1, q.shape[-1]).max(axis=0, initial=0)
    if (largest > INT8_MAX).any():
        raise WeightFileError(f"tensor '{layer}.weight' holds -128")
    if ((largest != INT8_MAX) & (largest != 0)).any():
        raise WeightFileError(f"tensor '{layer}.weight': the largest |weight| of an output is not {INT8_MAX}")
    if (scale[largest == 0] != 1).any():
        raise WeightFileError(f"tensor {name!r}: the scale of an output without weights is not 1")
    with np.errstate(over="ignore"):  # the check of all tensors refuses infinity
        tensors[f"{layer}.weight"] = q * scale


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Read and check a weight file.

    Raises `FileNotFoundError` (or another `OSError`) when it cannot be opened, `WeightFileError` when its content is
    truncated, foreign or inconsistent.
    """
    path = Path(path)
    try:
        return _read_checked(path)
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from error.__cause__


def _read_checked(path: Path) -> Weights:
    metadata, tensors = _read_tensors(path)
    if _is_quantised(metadata):
        for layer in QUANTISED_LAYERS:
            _dequantise(layer, tensors)
    return weights_from_metadata(metadata, tensors, str(path))


def _read_tensors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Metadata and tensors, of which those that metadata call quantised may be int8 and all others are float32."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
    if size > _MAX_FILE_BYTES:
        raise WeightFileError(f"{size} bytes; a weight file has at most {_MAX_FILE_BYTES}")
    try:
        with safe_open(path, framework="np") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            quantised = _is_quantised(metadata)
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                expected = "I8" if quantised and name in _INT8_TENSORS else "F32"
                if (dtype := opened.get_slice(name).get_dtype()) != expected:
                    raise WeightFileError(f"tensor {name!r} has dtype {dtype}; expected {expected}")
            return metadata, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightFileError(f"not a readable safetensors file ({error})") from error


def _is_quantised(metadata: Mapping[str, str]) -> bool:
    if (precision := metadata.get("precision", "float32")) not in ("float32", "int8"):
        raise WeightFileError(f"precision {precision!r} is not one of float32, int8")
    return precision == "int8"


class _Metadata:
    """Metadata of a file of one of our formats; what it lacks is an error."""

    def __init__(self, metadata: Mapping[str, str], expected: str) -> None:
        self._metadata = metadata
        if (found := self("format")) != expected:
            raise WeightFileError(f"format is {found!r}; expected {expected!r}")
        if (version := self("format_version")) != FORMAT_VERSION:
            raise WeightFileError(f"format version is {version!r}; this mxn-edge reads version {FORMAT_VERSION!r}")

    def __call__(self, key: str) -> str:
        if key not in self._metadata:
            raise WeightFileError(f"metadata lacks {key!r}; was this file written by mxn-edge's tools?")
        return self._metadata[key]


def weights_from_metadata(
    metadata: Mapping[str, str], tensors: Mapping[str, NDArray[np.float32]], source: str
) -> Weights:
    """Weights of the metadata that `metadata_of` writes. Raises `WeightFileError` when anything is wrong or missing."""
    required = _Metadata(metadata, FORMAT)
    if (input_size := required("input_size")) != str(INPUT_SIZE):
        raise WeightFileError(f"input size is {input_size!r}; expected '{INPUT_SIZE}'")
    try:
        labels = json.loads(required("labels"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise WeightFileError(f"metadata 'labels' is not JSON ({error})") from error
    if not isinstance(labels, list):
        raise WeightFileError(f"metadata 'labels' is not a JSON list: {labels!r}")
    return Weights(
        architecture=required("architecture"),
        labels=tuple(labels),
        preprocessing=required("preprocessing"),
        training=required("training"),
        tensors=tensors,
        source=source,
        quantised=_is_quantised(metadata),
    )


def metadata_of(weights: Weights) -> dict[str, str]:
    """What a weight file says beside its tensors."""
    precision = {"precision": "int8"} if weights.quantised else {}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": weights.architecture,
        "labels": json.dumps(weights.labels),
        "input_size": str(INPUT_SIZE),
        "preprocessing": weights.preprocessing,
        "training": weights.training,
        **precision,
    }


def write_weights(path: str | os.PathLike[str], weights: Weights) -> None:
    """Write a weight file. The same weights give the same bytes. An existing file is replaced in one step."""
    tensors: dict[str, NDArray[Any]] = dict(weights.tensors)
    if weights.quantised:
        for layer in QUANTISED_LAYERS:
            tensors[f"{layer}.weight"], tensors[f"{layer}.scale"] = quantise_tensor(weights.tensors[f"{layer}.weight"])
    # Written here, not by the library, whose order of the metadata changes from run to run.
    header: dict[str, object] = {"__metadata__": metadata_of(weights)}
    body = b""
    # Floats first, so that every tensor is aligned.
    for name in sorted(tensors, key=lambda name: (tensors[name].dtype == np.int8, name)):
        kind = "I8" if tensors[name].dtype == np.int8 else "F32"
        data = tensors[name].astype("i1" if kind == "I8" else "<f4").tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": kind, "shape": list(tensors[name].shape), "data_offsets": offsets}
        body += data
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)
    partial.replace(path)


#: Of the detector's weight file; see docs/detector.md.
DETECTOR_FORMAT = "mxn-edge-detector"
_DETECTOR_CHANNELS = {"stem": 16, "a": 32, "b": 64, "c": 64}


def detector_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the detector. Convolutions are kh-kw-oc or kh-kw-c, pointwise ones ic-oc.

    Depthwise sums should lie within -8 to 8: some instruction sets round them to 1/4096, and clamp them there.
    """
    stem, *maps = _DETECTOR_CHANNELS.values()
    shapes: dict[str, tuple[int, ...]] = {"stem.weight": (3, 3, stem), "stem.bias": (stem,)}

    def unit(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.depthwise"] = (3, 3, inputs)
        shapes[f"{name}.pointwise"] = (inputs, outputs)
        shapes[f"{name}.bias"] = (outputs,)

    before = stem
    for level, channels in zip("abc", maps, strict=True):
        for i in range(3):
            unit(f"{level}{i}", before, channels)
            before = channels
    shapes["lateral.weight"], shapes["lateral.bias"] = (maps[1], maps[0]), (maps[0],)
    for stride, channels in zip((4, 8, 16), maps, strict=True):
        unit(f"head{stride}", channels, channels)
        shapes[f"out{stride}.weight"], shapes[f"out{stride}.bias"] = (channels, 5), (5,)
    # The second look at a candidate, 48×48 pixels.
    shapes["refine.stem.weight"], shapes["refine.stem.bias"] = (3, 3, stem), (stem,)
    for i, (inputs, outputs) in enumerate(((16, 32), (32, 64), (64, 64), (64, 64))):
        unit(f"refine{i}", inputs, outputs)
    shapes["refine.out.weight"], shapes["refine.out.bias"] = (6 * 6 * 64, 5), (5,)
    return shapes


@dataclass(frozen=True)
class DetectorWeights:
    """The detector's weights.

    Attributes:
        tensors: float32 arrays, named and shaped as `detector_shapes` says.
        score_threshold: the least score of a face that its makers recommend, 0 to 1.
        training: free text.
        source: path of the file.

    Construction checks everything and raises `WeightFileError`.
    """

    tensors: Mapping[str, NDArray[np.float32]] = field(repr=False)
    score_threshold: float
    training: str
    source: str = ""

    def __post_init__(self) -> None:
        _check_shapes(self.tensors, detector_shapes(), "the detector")
        if not 0 < self.score_threshold < 1:
            raise WeightFileError(f"score threshold is {self.score_threshold}; expected a number between 0 and 1")


def read_detector_weights(path: str | os.PathLike[str]) -> DetectorWeights:
    """Read and check the detector's weight file. Raises as `read_weights` does."""
    path = Path(path)
    try:
        metadata, tensors = _read_tensors(path)
        required = _Metadata(metadata, DETECTOR_FORMAT)
        try:
            threshold = float(required("score_threshold"))
        except ValueError as error:
            if isinstance(error, WeightFileError):
                raise
            raise WeightFileError(f"score threshold is {metadata['score_threshold']!r}; expected a number") from error
        return DetectorWeights(tensors, threshold, required("training"), str(path))
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from error.__cause__
