"""Made-up votes and faces that the tests of the training tools share. Imports numpy only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

VOTE_NAMES = [
    *("neutral", "happiness", "surprise", "sadness", "anger"),
    *("disgust", "fear", "contempt", "unknown", "not-a-face"),
]


def random_faces(count: int, seed: int = 0, size: int = 48) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, size // 8, size // 8))
    return (coarse.repeat(8, 1).repeat(8, 2) * 0.8 + random.integers(0, 51, (count, size, size))).astype(np.uint8)


def write_data(path: Path, count: int = 96) -> Path:
    """Faces of two expressions that can be told apart, and a few that raters could not name."""
    arrays: dict[str, np.ndarray] = {"vote_names": np.array(VOTE_NAMES)}
    for seed, split in enumerate(("train", "valid")):
        images = random_faces(count, seed)
        votes = np.zeros((count, 10), dtype=np.uint8)
        votes[::2, 1], votes[1::2, 3], votes[:, 0] = 8, 8, 2
        votes[:4] = np.eye(10, dtype=np.uint8)[8] * 10
        images[::2, 24:] //= 4
        arrays |= {f"{split}_images": images, f"{split}_votes": votes}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path
