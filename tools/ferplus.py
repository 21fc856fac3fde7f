"""FER+ data: faces and the votes of ten raters, as training targets. Imports numpy only.

The file is a numpy archive with, for each of the splits train, valid and test, `<split>_images` (N, 48, 48) uint8 and
`<split>_votes` (N, 10), and with `vote_names`, which names the columns of the votes.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Our classes, in the order of the student's logits.
LABELS = ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
SPLITS = ("train", "valid", "test")
FACE_SIZE = 48


class FerPlusError(ValueError):
    """The data file cannot be used; the message says which file and why."""


@dataclass(frozen=True)
class Faces:
    """One split.

    Attributes:
        images: (N, 48, 48) uint8, grey.
        targets: (N, 8) float32, the raters' distribution over `LABELS`; rows sum to 1.
        labels: (N,) int64, the majority label. A tie goes to the label that comes first in `LABELS`.
    """

    images: NDArray[np.uint8]
    targets: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> Faces:
        return Faces(self.images[part], self.targets[part], self.labels[part])

    def sharpened(self, power: float) -> Faces:
        """Return the same faces with targets raised to `power` and divided by their sum: above 1 the majority gains."""
        targets = self.targets**power
        return Faces(self.images, targets / targets.sum(axis=1, keepdims=True), self.labels)


def read_ferplus(path: str | os.PathLike[str], split: str) -> Faces:
    """Read one split, without the faces that the raters could not name (see `targets_from_votes`).

    Raises `FileNotFoundError` (or another `OSError`) when the file cannot be opened, `FerPlusError` when it is not
    FER+.
    """
    path = Path(path)
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, votes, names = archive[f"{split}_images"], archive[f"{split}_votes"], archive["vote_names"]
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FerPlusError(f"{path}: not a FER+ archive ({error})") from error
    if images.dtype != np.uint8 or images.shape[1:] != (FACE_SIZE, FACE_SIZE) or not len(images):
        raise FerPlusError(f"{path}: {split}_images is {images.dtype} {images.shape}; expected uint8 (N, 48, 48)")
    if votes.dtype.kind not in "iu" or votes.shape != (len(images), len(names)) or votes.min() < 0:
        raise FerPlusError(f"{path}: {split}_votes is {votes.dtype} {votes.shape}; expected one row of counts per face")
    if absent := set(LABELS) - set(names.tolist()):
        raise FerPlusError(f"{path}: vote_names lacks {', '.join(sorted(absent))}")
    keep, targets, labels = targets_from_votes(votes, names.tolist())
    if not keep.any():
        raise FerPlusError(f"{path}: no face of {split} has a majority for an expression")
    return Faces(images[keep], targets, labels)


def targets_from_votes(
    votes: NDArray[np.integer], vote_names: Sequence[str]
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.int64]]:
    """Turn vote counts into training targets.

    A face is kept when no other column (unknown, not a face) has more votes than its best expression. Single votes are
    outliers and removed, as in the FER+ paper (Barsoum et al., 2016), unless no expression has more than one vote. What
    remains is divided by its sum.

    Returns:
        keep: (N,) which faces are kept; targets (M, 8) and majority labels (M,) of the kept faces.
    """
    columns = [vote_names.index(label) for label in LABELS]
    others = [column for column in range(len(vote_names)) if column not in columns]
    expressions = votes[:, columns].astype(np.float32)
    best = expressions.max(axis=1)
    keep: NDArray[np.bool_] = best > 0
    if others:
        keep &= best >= votes[:, others].max(axis=1)
    expressions, best = expressions[keep], best[keep]
    labels = expressions.argmax(axis=1)
    expressions[(expressions == 1) & (best > 1)[:, None]] = 0
    return keep, expressions / expressions.sum(axis=1, keepdims=True), labels
