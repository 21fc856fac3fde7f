"""The network by named kernels, by its references, and faces that bring errors out. Imports the package only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mxn_edge import _core, active_isa
from mxn_edge.weights import Weights

ALL_ISAS = ("scalar", "sse2", "avx2", "avxvnni", "avx512", "avx512vnni", "neon", "neondot")
#: Those that have the float32 kernels of another one.
SHARED_FLOAT32 = {"avxvnni": "avx2", "avx512vnni": "avx512", "neondot": "neon"}
ALGORITHMS = ("direct", "toom-cook")
MakeWeights = Callable[..., Weights]


def network_logits(weights: Weights, faces: np.ndarray, isa: str | None, algorithm: str | None) -> np.ndarray:
    """Logits by the named kernels and no others; unpooled layers have direct ones only."""
    if algorithm == "toom-cook" and weights.architecture == "microexpnet-v":
        pytest.skip("no layer of microexpnet-v has a max-pool")
    network = _core.Network(weights.architecture, weights.tensors, isa, algorithm=algorithm)
    assert network.isa == isa or isa is None
    assert network.algorithm == algorithm or algorithm is None
    logits = np.empty((len(faces), len(weights.labels)), np.float32)
    network.logits(np.ascontiguousarray(faces), logits)
    return logits


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 84, 84), np.uint8)


def single_pixels() -> np.ndarray:
    """Black faces with one lit pixel, at every crossing of the rows and columns where paddings matter."""
    edges = [0, 1, 2, 3, 41, 80, 81, 82, 83]
    faces = np.zeros((len(edges) ** 2, 84, 84), np.uint8)
    for face, (y, x) in zip(faces, ((y, x) for y in edges for x in edges), strict=True):
        face[y, x] = 255
    return faces


def border_lines() -> np.ndarray:
    """Black faces with one row or column of noise, at and near the borders."""
    lines = [0, 1, 2, 81, 82, 83]
    faces = np.zeros((2 * len(lines), 84, 84), np.uint8)
    for i, line in enumerate(lines):
        faces[2 * i, line] = faces[2 * i + 1, :, line] = noise(1, seed=i)[0, 0]
    return faces


def real_faces(data_dir: Path, count: int) -> np.ndarray:
    cv2 = pytest.importorskip("cv2")
    images = np.load(data_dir / "ferplus.npz")["valid_images"][:count]
    return np.stack([cv2.resize(image, (84, 84)) for image in images])


def c_reference(weights: Weights, faces: np.ndarray) -> np.ndarray:
    logits = np.empty((len(faces), len(weights.labels)))
    for face, out in zip(faces.astype(np.float32), logits, strict=True):
        _core.reference_logits(weights.architecture, weights.tensors, face, out)
    return logits


def int8_reference(weights: Weights, faces: np.ndarray) -> np.ndarray:
    logits = np.empty((len(faces), len(weights.labels)), np.float32)
    for face, out in zip(faces, logits, strict=True):
        _core.reference_logits_int8(weights.architecture, weights.tensors, face, out)
    return logits


def int8_logits(weights: Weights, faces: np.ndarray, isa: str | None) -> np.ndarray:
    network = _core.Network(weights.architecture, weights.tensors, isa, "int8")
    assert (network.isa, network.precision, network.algorithm) == (isa or active_isa(), "int8", "direct")
    logits = np.empty((len(faces), len(weights.labels)), np.float32)
    network.logits(np.ascontiguousarray(faces), logits)
    return logits


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
