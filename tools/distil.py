"""Distil a teacher into a MicroExpNet student and write its weight file: `python -m tools.distil --help`.

Imports the training tools. The loss is that of the MicroExpNet paper (section 3): with student logits z, teacher logits
t, temperature T and weight l,

    cost = (1 - l) * CE(labels, softmax(z)) + l * CE(softmax(t / T), softmax(z / T))
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from mxn_edge.detector import DetectorUnavailableError, HaarDetector
from tools.augment import AugmentOptions, render
from tools.command_line import HelpFormatter, between, fraction, parse, prepare_outputs, training_options
from tools.ferplus import Faces, FerPlusError, read_ferplus
from tools.labelled_faces import LabelledFacesError, read_unlabelled_faces
from tools.teacher_network import TEACHER_SIZE, TeacherFileError, TeacherNetwork, read_teacher
from tools.train_student import add_student_options, train_and_write
from tools.training import Loss, TrainingError, predict, run_views, seeded, soft_cross_entropy


def distillation_loss(labels_loss: Loss, temperature: float, weight: float, *, scale_gradient: bool = False) -> Loss:
    """Return the paper's loss.

    Args:
        labels_loss: cross-entropy against the labels.
        temperature: T.
        weight: l, the teacher's part; 0 without a teacher.
        scale_gradient: multiply the teacher's part by T², which makes up for the 1 / T² that T takes from its gradient
            (Hinton et al., 2015). The paper does not.
    """
    factor = weight * (temperature**2 if scale_gradient else 1.0)

    def loss(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None) -> Tensor:
        if teacher_logits is None:  # a weight of 0 needs no teacher
            return labels_loss(logits, targets, None)
        teaching = F.cross_entropy(logits / temperature, torch.softmax(teacher_logits / temperature, 1))
        return (1 - weight) * labels_loss(logits, targets, teacher_logits) + factor * teaching

    return loss


def with_unlabelled(labelled: Faces, folder: Path) -> Faces:
    """Append the faces of a folder's photos, with targets of zero: the labels' cross-entropy is 0 for them."""
    images = read_unlabelled_faces(folder, HaarDetector(), labelled.images.shape[1])
    return Faces(
        np.concatenate([labelled.images, images]),
        np.concatenate([labelled.targets, np.zeros((len(images), labelled.targets.shape[1]), np.float32)]),
        np.concatenate([labelled.labels, np.full(len(images), -1)]),
    )


class CachedTeacher:
    """A teacher's logits of every training face in every view, worked out once and kept in a folder.

    The teacher sees what the student sees, smaller and without the noise.

    Args:
        network: the teacher.
        faces: training faces.
        augment: how far the views stray.
        seed: seed of the run, which decides the views.
        folder: where the logits are kept, one file per view.
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
        self._network, self._faces, self._augment, self._seed = network, faces, augment, seed
        self._folder, self._bfloat16, self._progress = folder, bfloat16, progress
        digest = hashlib.sha256(repr((augment, seed, bfloat16)).encode())
        digest.update(np.ascontiguousarray(faces.images).tobytes())
        for value in network.state_dict().values():
            digest.update(value.contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def __call__(self, view: int) -> Tensor:
        """Return the logits (N, classes) of a view."""
        path = self._folder / f"{self.fingerprint}-{view:04d}.npy"
        if path.exists():
            return torch.from_numpy(np.load(path))
        logits = self._work_out(view)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, logits.numpy())
        partial.replace(path)
        return logits

    def _work_out(self, view: int) -> Tensor:
        count = len(self._faces)
        images = torch.from_numpy(self._faces.images)
        views = replace(run_views(count, self._augment, self._seed, view), noise=torch.zeros(count))
        parts = []
        bar = tqdm(range(0, count, 256), f"teacher, view {view}", leave=False, disable=None if self._progress else True)
        for start in bar:
            part = slice(start, start + 256)
            inputs = render(images[part], views[part], seeded(0), TEACHER_SIZE)
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
                parts.append(predict(self._network, inputs.contiguous(memory_format=torch.channels_last)).float())
        return torch.cat(parts)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse(_parser(), argv)
    torch.set_num_threads(args.threads)
    try:
        _run(args)
    except (
        DetectorUnavailableError,
        FerPlusError,
        LabelledFacesError,
        TeacherFileError,
        TrainingError,
        OSError,
    ) as error:
        print(f"distil: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.teacher is None and args.teacher_weight > 0:
        raise TrainingError("--teacher is needed (python -m tools.train_teacher makes one), or --teacher-weight 0")
    network = read_teacher(args.teacher) if args.teacher_weight > 0 else None
    labelled, valid = read_ferplus(args.data, "train"), read_ferplus(args.data, "valid")
    faces = labelled if args.unlabelled is None else with_unlabelled(labelled, args.unlabelled)
    prepare_outputs(args)
    options, augment = training_options(args, TEACHER_SIZE)
    teacher = None
    if network is not None:
        args.cache = args.cache or args.out.with_suffix(".teacher")
        args.cache.mkdir(parents=True, exist_ok=True)
        teacher = CachedTeacher(
            network, faces, augment, options.seed, args.cache, bfloat16=args.bfloat16, progress=not args.quiet
        )
    loss = distillation_loss(
        soft_cross_entropy(labelled.targets, args.least_share),
        args.temperature,
        args.teacher_weight,
        scale_gradient=args.scale_gradient,
    )
    setup = {
        "teacher": "" if teacher is None else teacher.fingerprint,
        "temperature": args.temperature,
        "teacher_weight": args.teacher_weight,
        "scale_gradient": args.scale_gradient,
    }
    note = f"distilled with T={args.temperature:g}, l={args.teacher_weight:g}" + " and T^2" * args.scale_gradient
    if teacher is None:
        note = "no distillation"
    train_and_write("distil", args, faces, valid, loss, note, teacher=teacher, setup=setup)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.distil",
        description="Train a MicroExpNet student on the votes of FER+ and on the answers of a teacher (see python -m "
        "tools.train_teacher), and write its weight file. Loss: (1 - l) CE(votes, softmax(z)) + l CE(softmax(t/T), "
        "softmax(z/T)). Epoch selection, test split and --resume are as in python -m tools.train_student.",
        formatter_class=HelpFormatter,
    )
    add_student_options(parser)
    add = parser.add_argument
    add("--teacher", type=Path, metavar="FILE", help="teacher file, as tools.train_teacher writes it")
    add("--unlabelled", type=Path, metavar="FOLDER", help="photos whose faces learn from the teacher alone")
    add("--temperature", type=float, default=8.0, metavar="T", help="softens both answers")
    add("--teacher-weight", type=fraction, default=0.5, metavar="L", help="the teacher's part of the loss")
    add("--scale-gradient", action="store_true", help="multiply the teacher's part by T^2 (the paper does not)")
    add("--views", type=between(1, 100_000), default=40, help="different views of the faces, shown in turn")
    add("--cache", type=Path, metavar="FOLDER", help="keeps the teacher's answers (default: OUT with suffix .teacher)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
