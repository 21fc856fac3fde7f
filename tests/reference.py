"""The network of `mxn_edge.weights` in plain numpy, float64 and int8: the yardstick of the tests. Imports numpy only.

It follows the MicroExpNet paper and TensorFlow's definition of SAME padding, and shares no code with what it judges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from mxn_edge.weights import Weights

Array = NDArray[np.float64]

# architecture -> (stride of conv1, pool after conv1, pool after conv2)
TOPOLOGIES = {
    "microexpnet-v": (4, False, False),
    "microexpnet-p1": (2, True, False),
    "microexpnet-p2": (4, False, True),
    "microexpnet-p12": (2, True, True),
}


def _same_windows(maps: Array, kernel: int, stride: int, fill: float) -> Array:
    """Windows (n, height, width, channel, kernel, kernel) of maps (n, height, width, channel), padded by `fill`."""
    pads = []
    for size in maps.shape[1:3]:
        total = max(kernel - stride if size % stride == 0 else kernel - size % stride, 0)
        pads.append((total // 2, (total + 1) // 2))
    padded = np.pad(maps, [(0, 0), *pads, (0, 0)], constant_values=fill)
    return sliding_window_view(padded, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]


def _conv(maps: Array, weight: Array, bias: Array, stride: int) -> Array:
    windows = _same_windows(maps, weight.shape[0], stride, 0.0)
    return np.tensordot(windows, weight, axes=((3, 4, 5), (2, 0, 1))) + bias


def _pool(maps: Array) -> Array:
    return _same_windows(maps, 2, 2, -np.inf).max(axis=(4, 5))


def _relu(values: Array) -> Array:
    return np.maximum(values, 0.0)


def reference_logits(weights: Weights, faces: ArrayLike) -> Array:
    """Logits (n, classes) of faces (n, 84, 84) or one face (84, 84), of any number type."""
    stride, pool1, pool2 = TOPOLOGIES[weights.architecture]
    tensors = {name: tensor.astype(np.float64) for name, tensor in weights.tensors.items()}
    maps = np.asarray(faces, dtype=np.float64).reshape(-1, 84, 84, 1)
    maps = _relu(_conv(maps, tensors["conv1.weight"], tensors["conv1.bias"], stride))
    if pool1:
        maps = _pool(maps)
    maps = _relu(_conv(maps, tensors["conv2.weight"], tensors["conv2.bias"], 2))
    if pool2:
        maps = _pool(maps)
    features = maps.reshape(maps.shape[0], -1)
    hidden = _relu(features @ tensors["fc1.weight"] + tensors["fc1.bias"])
    logits: Array = hidden @ tensors["fc2.weight"] + tensors["fc2.bias"]
    return logits


# ---- int8: the arithmetic of tools/quantisation.py, in integers ------------------------------------------------------


def quantised(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers and scales of the outputs, which are the last axis."""
    scale = np.abs(weight).reshape(-1, weight.shape[-1]).max(axis=0) / np.float32(127)
    assert scale.dtype == np.float32
    scale[scale == 0] = 1
    return np.rint(weight / scale).astype(np.int8), scale


def _conv_bytes(x: NDArray[np.uint8], q: NDArray[np.int8], stride: int, before: int, after: int) -> NDArray[np.int32]:
    """(H, W, in) and (kh, kw, in, out) -> (h, w, out)."""
    padded = np.pad(x, ((before, after), (before, after), (0, 0))).astype(np.int32)
    windows = sliding_window_view(padded, q.shape[:2], (0, 1))[::stride, ::stride]
    return np.einsum("hwikl,klio->hwo", windows, q.astype(np.int32))


def _pool_sums(x: NDArray[np.int32]) -> NDArray[np.int32]:
    odd = x.shape[0] % 2
    x = np.pad(x, ((0, odd), (0, odd), (0, 0)), constant_values=np.iinfo(np.int32).min)
    return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max(axis=(1, 3))


def _scaled(a: NDArray[np.int32], scale: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.float32]:
    assert a.dtype == np.int32
    return (a.astype(np.float32) * scale + bias).astype(np.float32)


def _to_u8(y: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(y), 0, 255).astype(np.uint8)


class IntegerActivations(NamedTuple):
    """What enters conv2, fc1 and fc2, and the logits."""

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    hidden: NDArray[np.float32]
    logits: NDArray[np.float32]


def integer_reference(weights: Weights, face: NDArray[np.uint8]) -> IntegerActivations:
    """Activations and logits of one face (84, 84), bit for bit what every instruction set gives."""
    t = weights.tensors
    stride, pool1, pool2 = TOPOLOGIES[weights.architecture]
    before = 3 if stride == 2 else 2
    q, scale = quantised(t["conv1.weight"])
    a = _conv_bytes(face[:, :, None], q, stride, before, before)
    first = _to_u8(_scaled(_pool_sums(a) if pool1 else a, scale, t["conv1.bias"]))
    q, scale = quantised(t["conv2.weight"])
    a = _conv_bytes(first, q, 2, 1, 2)
    second = _to_u8(_scaled(_pool_sums(a) if pool2 else a, scale, t["conv2.bias"]))
    q, scale = quantised(t["fc1.weight"])
    sums = second.reshape(-1).astype(np.int32) @ q.astype(np.int32)
    hidden = np.maximum(_scaled(sums, scale, t["fc1.bias"]), np.float32(0))
    # Every fourth input to one of four sums, the first of which starts at the bias.
    parts = np.zeros((4, len(weights.labels)), np.float32)
    parts[0] = t["fc2.bias"]
    for i, value in enumerate(hidden):
        parts[i % 4] += value * t["fc2.weight"][i]
    return IntegerActivations(first, second, hidden, (parts[0] + parts[1]) + (parts[2] + parts[3]))
