"""Evaluate teachers, alone or together, on FER+: `python -m tools.evaluate_teacher --help`.

Imports the training tools and tools.metrics.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from tools.augment import face_views, resize_faces
from tools.ferplus import LABELS, SPLITS, FerPlusError, read_ferplus
from tools.metrics import measure
from tools.teacher_network import TEACHER_SIZE, TeacherFileError, read_teacher
from tools.terminal import HelpFormatter, add_views, between
from tools.training import mean_prediction


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        _run(args)
    except (FerPlusError, TeacherFileError, OSError) as error:
        print(f"evaluate_teacher: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    faces = read_ferplus(args.data, args.split)
    inputs = resize_faces(torch.from_numpy(faces.images), TEACHER_SIZE)
    shown = (inputs,) if args.views == 1 else face_views(inputs)
    logits = {}
    for path in args.teachers:
        teacher = read_teacher(path)
        logits[path.name] = mean_prediction(teacher, shown).numpy()
    if len(logits) > 1:
        logits["mean of their logits"] = np.mean(list(logits.values()), axis=0)
    report = {}
    print(f"{len(faces)} faces of FER+ {args.split}; in brackets the 95 % confidence interval")
    for name, answers in logits.items():
        metrics = measure(answers, faces.labels, LABELS, seed=args.seed)
        report[name] = metrics.to_dict()
        for score in ("accuracy", "balanced_accuracy", "negative_log_likelihood"):
            value, low, high = getattr(metrics, score)
            print(f"{name:<32}{score.replace('_', ' '):<26}{value:.4f}  [{low:.4f}, {high:.4f}]")
    if args.json:
        args.json.write_text(
            json.dumps({"split": args.split, "views": args.views, "teachers": report}, indent=1) + "\n"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluate_teacher",
        description="Accuracy, balanced accuracy and negative log-likelihood of teachers on plain faces of FER+; of "
        "several also together, as python -m tools.distil uses them.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="ferplus.npz")
    add("teachers", type=Path, nargs="+", metavar="TEACHER", help="files of python -m tools.train_teacher")
    add("--split", choices=SPLITS, default="valid", help="split of FER+")
    add_views(parser, (1, 4), 1)
    add("--seed", type=int, default=0, help="seed of the bootstrap")
    add("--threads", type=between(1, 1024), default=1, help="threads")
    add("--json", type=Path, metavar="FILE", help="write all metrics to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
