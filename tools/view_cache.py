"""What the views of a run show and what a teacher says of it, worked out once and kept in a folder.

Rendering a view takes as long as a step of a small student, and a teacher far longer; runs with the same data, seed and
options share both. Imports torch, tqdm and the training tools.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from tools.augment import AugmentOptions, preparation, render
from tools.ferplus import Faces
from tools.teacher_network import TEACHER_SIZE, TeacherNetwork
from tools.training import predict, run_views, seeded

_BATCH = 256


class _Kept:
    """Arrays by view number, one file each; `fingerprint` says what they depend on."""

    def __init__(self, folder: Path, name: str, *parts: object, progress: bool) -> None:
        digest = hashlib.sha256()
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
        self.fingerprint = digest.hexdigest()[:16]
        self._folder, self._name, self._progress = folder, name, progress
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, view: int, make: Callable[[Iterator[slice]], NDArray[np.generic]], count: int) -> Tensor:
        path = self._folder / f"{self._name}-{self.fingerprint}-{view:04d}.npy"
        if not path.exists():
            starts, disable = range(0, count, _BATCH), None if self._progress else True
            bar = tqdm(starts, f"{self._name}, view {view}", leave=False, disable=disable)
            partial = path.with_suffix(".partial.npy")
            np.save(partial, make(slice(start, start + _BATCH) for start in bar))
            partial.replace(path)
        return torch.from_numpy(np.load(path, mmap_mode="c"))  # private pages: torch wants them writable


class CachedViews:
    """The pictures that a student trains on, as it sees them: prepared, and rounded to whole grey levels.

    Args:
        faces: training faces.
        augment: how far the views stray.
        seed: seed of the run, which decides the views.
        size: side of the pictures.
        preprocessing: see `mxn_edge.preprocess.Preprocessor`.
        folder: where they are kept; a view takes `size`² bytes per face.
        progress: show a progress bar (on a terminal).
    """

    def __init__(
        self,
        faces: Faces,
        augment: AugmentOptions,
        seed: int,
        size: int,
        preprocessing: str,
        folder: Path,
        *,
        progress: bool = True,
    ) -> None:
        self._images, self._augment, self._seed, self._size = torch.from_numpy(faces.images), augment, seed, size
        self._prepare = preparation(preprocessing)
        self._kept = _Kept(folder, "faces", augment, seed, size, preprocessing, faces.images, progress=progress)
        self.fingerprint = self._kept.fingerprint

    def __call__(self, view: int) -> Tensor:
        """Return a view: (N, size, size) uint8."""
        return self._kept.get(view, lambda parts: self._show(view, parts), len(self._images))

    def _show(self, view: int, parts: Iterator[slice]) -> NDArray[np.uint8]:
        count, size = len(self._images), self._size
        views, noise = run_views(count, self._augment, self._seed, view), seeded(self._seed, view, 1)
        pictures = np.empty((count, size, size), np.uint8)
        for part in parts:
            shown = self._prepare(render(self._images[part], views[part], noise, size))
            pictures[part] = torch.floor(shown[:, 0] + 0.5).to(torch.uint8).numpy()
        return pictures


class CachedTeacher:
    """A teacher's logits of every training face in every view.

    The teacher sees what the student sees, smaller, without the noise and before the student's preparation.

    Args:
        network: the teacher.
        faces: training faces.
        augment: how far the views stray.
        seed: seed of the run, which decides the views.
        folder: where the logits are kept.
        bfloat16: multiply in bfloat16.
        progress: show a progress bar (on a terminal).
    """

    def __init__(
        self,
        network: TeacherNetwork,
        faces: Faces,
        augment: AugmentOptions,
        seed: int,
        folder: Path,
        *,
        bfloat16: bool = True,
        progress: bool = True,
    ) -> None:
        self._network, self._images, self._augment, self._seed = network, torch.from_numpy(faces.images), augment, seed
        self._bfloat16 = bfloat16
        weights = (value.contiguous().numpy() for value in network.state_dict().values())
        seen = replace(augment, noise=0.0)  # its size changes no other draw
        self._kept = _Kept(folder, "teacher", seen, seed, bfloat16, faces.images, *weights, progress=progress)
        self.fingerprint = self._kept.fingerprint

    def __call__(self, view: int) -> Tensor:
        """Return the logits (N, classes) of a view."""
        return self._kept.get(view, lambda parts: self._answer(view, parts), len(self._images))

    def _answer(self, view: int, parts: Iterator[slice]) -> NDArray[np.float32]:
        count = len(self._images)
        views = replace(run_views(count, self._augment, self._seed, view), noise=torch.zeros(count))
        answers = []
        for part in parts:
            inputs = render(self._images[part], views[part], seeded(0), TEACHER_SIZE)
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
                logits = predict(self._network, inputs.contiguous(memory_format=torch.channels_last))
            answers.append(logits.float().numpy())
        return np.concatenate(answers)
