"""The network of `mxn_edge.weights`, in plain numpy float64: the yardstick of the tests. Imports numpy only.

It follows the MicroExpNet paper and TensorFlow's definition of SAME padding, and shares no code with what it judges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
