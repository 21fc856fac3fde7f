"""Distil a teacher into a MicroExpNet student and write its weight file: `python -m tools.distil --help`.

Imports the training tools. The loss is that of the MicroExpNet paper (section 3): with student logits z, teacher logits
t, temperature T and weight l,

    cost = (1 - l) * CE(labels, softmax(z)) + l * CE(softmax(t / T), softmax(z / T))
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mxn_edge.detector import Detector
from mxn_edge.weights import INPUT_SIZE, WeightFileError
from tools.checkpoints import TrainingError
from tools.command_line import parse, prepare_outputs, view_options
from tools.ferplus import Faces, FerPlusError, read_ferplus
from tools.labelled_faces import LabelledFacesError, read_unlabelled_faces
from tools.teacher_network import TeacherFileError, TeacherNetwork, read_teacher
from tools.terminal import HelpFormatter, between, fraction
from tools.train_student import add_student_options, train_and_write
from tools.training import Loss, soft_cross_entropy
from tools.view_cache import CachedTeacher, CachedViews


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
    images = read_unlabelled_faces(folder, Detector(), labelled.images.shape[1])
    return Faces(
        np.concatenate([labelled.images, images]),
        np.concatenate([labelled.targets, np.zeros((len(images), labelled.targets.shape[1]), np.float32)]),
        np.concatenate([labelled.labels, np.full(len(images), -1)]),
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse(_parser(), argv)
    torch.set_num_threads(args.threads)
    try:
        _run(args)
    except (
        FerPlusError,
        LabelledFacesError,
        TeacherFileError,
        TrainingError,
        WeightFileError,
        OSError,
    ) as error:
        print(f"distil: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.teacher is None and args.teacher_weight > 0:
        raise TrainingError("--teacher is needed (python -m tools.train_teacher makes one), or --teacher-weight 0")
    teachers = [read_teacher(path) for path in args.teacher] if args.teacher_weight > 0 else []
    labelled, valid = read_ferplus(args.data, "train").sharpened(args.sharpen), read_ferplus(args.data, "valid")
    faces = labelled if args.unlabelled is None else with_unlabelled(labelled, args.unlabelled)
    prepare_outputs(args)
    # Photos have views of their own, so that runs with and without them share the rest.
    parts = [part for part in (labelled, faces[len(labelled) :]) if len(part)]
    augment, folder, progress = view_options(args), args.cache or args.out.with_suffix(".views"), not args.quiet
    seed = args.seed if args.view_seed is None else args.view_seed

    def shown(part: Faces) -> CachedViews:
        return CachedViews(part, augment, seed, INPUT_SIZE, args.preprocessing, folder, progress=progress)

    def answered(teacher: TeacherNetwork, part: Faces) -> CachedTeacher:
        return CachedTeacher(teacher, part, augment, seed, folder, bfloat16=args.bfloat16, progress=progress)

    pictures = [shown(part) for part in parts]
    answers = [[answered(teacher, part) for part in parts] for teacher in teachers]

    # Teachers that answer as if rare expressions were rarer than the student is to hold them.
    share = torch.from_numpy(labelled.targets.mean(axis=0)).clamp_min(1e-6)
    taught = args.least_share if args.teacher_least_share is None else args.teacher_least_share
    odds = share.clamp_min(args.least_share) / share.clamp_min(taught)

    def teacher_logits(view: int) -> Tensor:
        mean = torch.stack([_joined(parts, view) for parts in answers]).mean(0)
        return torch.add(odds.log(), mean, alpha=args.sharpen)

    loss = distillation_loss(
        soft_cross_entropy(labelled.targets, args.least_share),
        args.temperature,
        args.teacher_weight,
        scale_gradient=args.scale_gradient,
    )
    setup = {
        "views": [part.fingerprint for part in pictures],
        "teachers": [part.fingerprint for parts in answers for part in parts],
        "teacher_least_share": taught,
        "temperature": args.temperature,
        "teacher_weight": args.teacher_weight,
        "scale_gradient": args.scale_gradient,
    }
    note = f"distilled with T={args.temperature:g}, l={args.teacher_weight:g}" + " and T^2" * args.scale_gradient
    if not teachers:
        note = "no distillation"
    teacher = teacher_logits if teachers else None
    train_and_write(
        "distil",
        args,
        faces,
        valid,
        loss,
        note,
        teacher=teacher,
        pictures=lambda view: _joined(pictures, view),
        setup=setup,
    )


def _joined(parts: Sequence[Callable[[int], Tensor]], view: int) -> Tensor:
    return parts[0](view) if len(parts) == 1 else torch.cat([part(view) for part in parts])


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
    add(
        "--teacher",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="teacher files, as tools.train_teacher writes them; several teach the mean of their logits",
    )
    add("--teacher-least-share", type=fraction, help="--least-share of the teachers' training, if it was another")
    add("--unlabelled", type=Path, metavar="FOLDER", help="photos whose faces learn from the teacher alone")
    add("--temperature", type=float, default=8.0, metavar="T", help="softens both answers")
    add("--teacher-weight", type=fraction, default=0.5, metavar="L", help="the teacher's part of the loss")
    add("--scale-gradient", action="store_true", help="multiply the teacher's part by T^2 (the paper does not)")
    add(
        "--views",
        type=between(1, 100_000),
        default=24,
        help="different views of the faces, shown in turn, then mirrored",
    )
    add("--view-seed", type=int, metavar="SEED", help="seed of the views alone (default: that of everything)")
    add(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="keeps views and answers of teachers (default: OUT with suffix .views)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
