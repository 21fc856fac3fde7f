"""Evaluate a weight file on labelled faces, through the run-time path: `python -m tools.evaluate --help`.

Imports mxn_edge and the data tools; plots need matplotlib, cross-validation needs the training tools.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mxn_edge.detector import Detector
from mxn_edge.preprocess import VIEWS, Preprocessor
from mxn_edge.student import Student
from mxn_edge.weights import WeightFileError, Weights, read_weights
from tools.ferplus import SPLITS, FerPlusError
from tools.labelled_faces import LabelledFaces, LabelledFacesError, read_labelled_faces
from tools.metrics import Estimate, Metrics, measure
from tools.robustness import LIMIT, robustness
from tools.terminal import add_views

_DATA_HELP = """\
DATA is one of
  ferplus.npz       one split of it (--split)
  a folder          one folder per label inside, named like the model's labels ("happy" for "happiness" and the like
                    are understood), pictures at any depth below. The person is the part of the file name before the
                    first "_" or "-":
                      CK+/happiness/S010_006_00000015.png      person S010
                      Oulu-CASIA/surprise/P001_VL_Strong_12.jpeg   person P001
  a CSV file        with the columns file (relative to the CSV), label and, for cross-validation, person

For figures like those of the MicroExpNet paper, put the pictures of its protocol into the tree (usually the last three
frames of each sequence, and for CK+ the first frame as neutral) and run
  python -m tools.evaluate MODEL TREE --detect --cross-validate
which trains ten students of MODEL's architecture, from scratch or (--fine-tune) from MODEL's weights, each on nine
folds of persons, and tests each on the tenth. MODEL decides how faces are cropped.
"""


class EvaluationError(ValueError):
    """The options cannot be followed; the message says why."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except (EvaluationError, LabelledFacesError, FerPlusError, WeightFileError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    _check(args)
    weights = read_weights(args.model)
    if args.precision == "int8" and not weights.quantised:
        raise EvaluationError(f"{args.model}: --precision int8 needs quantised weights (python -m tools.quantise)")
    student = Student(weights, precision=args.precision)
    try:
        preprocessor = Preprocessor(weights.preprocessing, views=args.views)
    except ValueError as error:
        raise EvaluationError(f"{args.model}: {error}") from error
    detector = Detector() if args.detect else None
    faces = read_labelled_faces(args.data, weights.labels, split=args.split, detector=detector)
    result = _provenance(args, weights, student, faces)

    if args.cross_validate:
        logits, result["folds"] = _cross_validate(args, weights, faces, preprocessor)
    else:
        logits = faces.logits(student, preprocessor)
    metrics = measure(
        logits,
        faces.labels,
        weights.labels,
        bins=args.bins,
        resamples=args.resamples,
        seed=args.seed,
        groups=faces.persons if args.cross_validate else None,
    )
    result["metrics"] = metrics.to_dict()
    _print_metrics(metrics, weights, args.bins)
    if faces.agreed is not None:
        # The usual protocol of FER+ (Barsoum et al., 2016) has only these faces.
        agreed = measure(logits[faces.agreed], faces.labels[faces.agreed], weights.labels, resamples=args.resamples)
        result["agreed"] = {"count": agreed.count, "accuracy": agreed.accuracy._asdict()}
        accuracy = agreed.accuracy
        print(
            f"accuracy on the {agreed.count} faces on which more than half of the raters agree"
            f" {accuracy.value:.4f}  [{accuracy.low:.4f}, {accuracy.high:.4f}]"
        )
    if faces.left_out:
        print(f"{faces.left_out} pictures left out: no face found in them")
    if args.cross_validate:
        accuracies = [fold["accuracy"] for fold in result["folds"]]
        print(f"mean accuracy of {len(accuracies)} folds {mean(accuracies):.4f}, deviation {stdev(accuracies):.4f}")
    if args.robustness:
        result["robustness"] = _robustness(args, student, faces, preprocessor)

    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.plots:
        from tools.plots import plot_confusion, plot_reliability

        args.plots.mkdir(parents=True, exist_ok=True)
        plot_confusion(metrics, weights.labels, args.plots / "confusion.png")
        plot_reliability(metrics, args.plots / "reliability.png")


def _check(args: argparse.Namespace) -> None:
    for name in ("bins", "resamples", "epochs", "threads"):
        if getattr(args, name) < 1:
            raise EvaluationError(f"--{name} is {getattr(args, name)}; expected at least 1")
    if args.folds < 2:
        raise EvaluationError(f"--folds is {args.folds}; expected at least 2")
    if args.seed < 0:
        raise EvaluationError(f"--seed is {args.seed}; expected 0 or more")
    if args.precision == "int8" and args.cross_validate:
        raise EvaluationError("--cross-validate trains students in float32, not --precision int8")
    if args.views != 1 and args.cross_validate:
        raise EvaluationError("--cross-validate follows the paper, which has one view of a face")
    if args.robustness and args.cross_validate:
        raise EvaluationError("--robustness is of one model; --cross-validate trains several: choose one of them")
    if args.plots:
        try:
            import matplotlib  # noqa: F401 (fail now, not after the work)
        except ImportError as error:
            raise EvaluationError(f"--plots needs matplotlib (pip install matplotlib): {error}") from error


def _provenance(args: argparse.Namespace, weights: Weights, student: Student, faces: LabelledFaces) -> dict[str, Any]:
    """What was evaluated on what. File names without their folders: where things lay is nobody's business."""
    return {
        "tool": "evaluate",
        "model": {
            "file": args.model.name,
            "sha256": hashlib.sha256(args.model.read_bytes()).hexdigest(),
            "architecture": weights.architecture,
            "hidden": weights.hidden,
            "preprocessing": weights.preprocessing,
            "training": weights.training,
            "isa": student.info.isa,
            "precision": student.info.precision,
            "views": args.views,
        },
        "data": {
            "file": args.data.name,
            "split": args.split if args.data.suffix.lower() == ".npz" else None,
            "faces": len(faces),
            "without_a_face": faces.left_out,
        },
        "labels": list(weights.labels),
        "bootstrap": {"resamples": args.resamples, "seed": args.seed, "interval": "95 %, percentile"},
    }


def _print_metrics(metrics: Metrics, weights: Weights, bins: int) -> None:
    def line(name: str, estimate: Estimate) -> None:
        print(f"{name:<32}{estimate.value:8.4f}  [{estimate.low:.4f}, {estimate.high:.4f}]")

    print(f"{metrics.count} faces; in brackets the 95 % confidence interval")
    line("accuracy", metrics.accuracy)
    line("balanced accuracy", metrics.balanced_accuracy)
    line(f"calibration error ({bins} bins)", metrics.expected_calibration_error)
    line("negative log-likelihood (nats)", metrics.negative_log_likelihood)
    for name, estimate in metrics.recall.items():
        line(f"recall of {name}", estimate)
    width = max(5, *map(len, weights.labels)) + 1
    print("\nlabel \\ answer" + "".join(f"{name:>{width}}" for name in weights.labels))
    for name, row in zip(weights.labels, metrics.confusion.tolist(), strict=True):
        print(f"{name:<14}" + "".join(f"{cell:>{width}}" for cell in row))


def _robustness(
    args: argparse.Namespace, student: Student, faces: LabelledFaces, preprocessor: Preprocessor
) -> list[dict[str, Any]]:
    rows = robustness(student, faces, preprocessor, resamples=args.resamples, seed=args.seed)
    print(f"\n{'condition':<38}{'accuracy':>9}{'balanced':>10}{'difference, points':>26}")
    for row in rows:
        change, low, high = (100 * value for value in row.difference)
        print(
            f"{row.name:<38}{row.accuracy:>9.4f}{row.balanced_accuracy:>10.4f}"
            f"{change:>+10.2f} [{low:+.2f}, {high:+.2f}]" + ("" if row.within else f"  more than {100 * LIMIT:g} lost")
        )
    return [{**asdict(row), "difference": row.difference._asdict()} for row in rows]


def _cross_validate(
    args: argparse.Namespace, weights: Weights, faces: LabelledFaces, preprocessor: Preprocessor
) -> tuple[Any, list[dict[str, Any]]]:
    try:
        import torch

        from tools.checkpoints import TrainingError
        from tools.cross_validation import CrossValidationError, cross_validate
        from tools.training import TrainOptions
    except ImportError as error:
        raise EvaluationError(f"--cross-validate trains students (pip install mxn-edge[train]): {error}") from error
    torch.set_num_threads(args.threads)
    options = TrainOptions(
        epochs=args.epochs,
        batch=args.batch,
        learning_rate=args.learning_rate or (4e-4 if args.fine_tune else 4e-3),
        warmup=min(2.0, args.epochs / 4),
        seed=args.seed,
    )
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        try:
            logits, folds = cross_validate(
                weights,
                faces.crop(preprocessor),
                faces.labels,
                faces.persons,
                folds=args.folds,
                options=options,
                dropout=args.dropout,
                fine_tune=args.fine_tune,
                work=work,
                progress=not args.quiet,
            )
        except (CrossValidationError, TrainingError) as error:
            raise EvaluationError(str(error)) from error
    return logits, [asdict(fold) for fold in folds]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluate",
        description="Accuracy, recalls, confusion matrix and calibration of a weight file on labelled faces, with "
        "bootstrap confidence intervals; faces are cropped and classified by the package itself.",
        epilog=_DATA_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="weight file")
    add("data", type=Path, metavar="DATA", help="labelled faces, see below")
    add("--split", choices=SPLITS, default="valid", help="split of FER+ (default: %(default)s)")
    add(
        "--precision",
        choices=("float32", "int8"),
        default="float32",
        help="what to compute in; int8 needs quantised weights (default: %(default)s)",
    )
    add_views(parser, VIEWS, 1)
    add("--detect", action="store_true", help="find the face in each picture; without this, a picture is a face")
    add("--bins", type=int, default=15, help="confidence bins of the calibration error (default: %(default)s)")
    add("--resamples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the bootstrap and the training (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write everything to this file")
    add("--plots", type=Path, metavar="FOLDER", help="write confusion.png and reliability.png there")
    add("--robustness", action="store_true", help="also measure with moved boxes and spoilt pictures")
    group = parser.add_argument_group("person-independent cross-validation")
    add = group.add_argument
    add("--cross-validate", action="store_true", help="train and test by folds; intervals then draw persons, not faces")
    add("--folds", type=int, default=10, help="number of folds (default: %(default)s)")
    add("--fine-tune", action="store_true", help="start from MODEL's weights instead of from scratch")
    add("--epochs", type=int, default=100, help="passes over the training faces (default: %(default)s)")
    add("--batch", type=int, default=64, help="faces per step (default: %(default)s)")
    add("--learning-rate", type=float, help="peak rate (default: 4e-3, fine-tuning 4e-4)")
    add("--dropout", type=float, default=0.5, help="of the hidden layer (default: %(default)s)")
    add("--threads", type=int, default=1, help="threads of the training (default: %(default)s)")
    add("--work", type=Path, metavar="FOLDER", help="keep checkpoints there, to go on after a stop")
    add("--quiet", action="store_true", help="no progress of the training")
    return parser


if __name__ == "__main__":
    sys.exit(main())
