"""Calibrate a student's probabilities by temperature scaling: `python -m tools.calibrate --help`.

Imports mxn_edge and the data tools. One temperature T divides all logits (Guo et al., 2017). The logits are the last
layer's output, so that dividing fc2.weight and fc2.bias by T does the same: the weight file needs no new field, and
the run-time path does no more work. The order of the logits stays, but for ties within float32 rounding. Before
that, a constant per class may be added to them that makes rare classes more or less likely.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mxn_edge.preprocess import VIEWS, Preprocessor
from mxn_edge.student import Student
from mxn_edge.weights import WeightFileError, Weights, read_weights, write_weights
from tools.ferplus import LABELS, FerPlusError, read_ferplus
from tools.labelled_faces import LabelledFacesError, read_labelled_faces
from tools.metrics import Labels, Metrics, log_softmax, measure
from tools.terminal import add_views

_LOWEST, _HIGHEST = 0.01, 100.0


class CalibrationError(ValueError):
    """No temperature can be fitted; the message says why."""


def fit_temperature(logits: NDArray[np.floating], labels: Labels) -> float:
    """Return the temperature with the lowest mean negative log-likelihood of labels (N,) under logits (N, classes)."""
    z = logits.astype(np.float64)
    label_logits = z[np.arange(len(labels)), labels]

    def slope(sharpness: float) -> float:
        """Of the negative log-likelihood, which is convex in 1 / T."""
        return float(((np.exp(log_softmax(sharpness * z)) * z).sum(axis=1) - label_logits).mean())

    return _root(slope)


def match_confidence(logits: NDArray[np.floating], labels: Labels) -> float:
    """Return the temperature at which the mean probability of the top class is the accuracy.

    The labels are a little less likely than with `fit_temperature`'s, but where probabilities are too low in the middle
    and too high at the top, the calibration error is smaller.
    """
    z = logits.astype(np.float64)
    accuracy = float((z.argmax(axis=1) == labels).mean())

    def gap(sharpness: float) -> float:
        """Grows with the sharpness."""
        return float(np.exp(log_softmax(sharpness * z).max(axis=1)).mean()) - accuracy

    return _root(gap)


def _root(rising: Callable[[float], float]) -> float:
    """Return the temperature at whose inverse a rising function is 0."""
    low, high = 1 / _HIGHEST, 1 / _LOWEST
    if not rising(low) < 0 < rising(high):
        raise CalibrationError(
            f"the best temperature is not between {_LOWEST:g} and {_HIGHEST:g}: the answers are all right or no better "
            "than chance"
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return 2 / (low + high)


#: Name on the command line -> function and what it fits by.
METHODS = {
    "likelihood": (fit_temperature, "negative log-likelihood"),
    "confidence": (match_confidence, "mean confidence"),
}


def fold_temperature(weights: Weights, temperature: float, note: str) -> Weights:
    """Return weights whose logits are those of `weights` divided by the temperature; `note` joins the training note."""
    tensors = dict(weights.tensors)
    for name in ("fc2.weight", "fc2.bias"):
        tensors[name] = (tensors[name] / np.float64(temperature)).astype(np.float32)
    return replace(weights, tensors=tensors, training=f"{weights.training}; {note}")


def change_least_share(weights: Weights, share: NDArray[np.floating], trained: float, wanted: float) -> Weights:
    """Return weights that answer as if no class made up less than `wanted` of the faces.

    Args:
        weights: trained to answer as if none made up less than `trained` (see `tools.training.soft_cross_entropy`).
        share: (classes,), of the training faces.
        trained: 0 is the shares as they are, 1 the same share for every class.
        wanted: the same.
    """
    if not (0 <= trained <= 1 and 0 <= wanted <= 1 and (share > 0).all()):
        raise CalibrationError(
            f"least shares {trained:g} and {wanted:g} are not between 0 and 1, or a class has no face"
        )
    odds = np.maximum(share, wanted) / np.maximum(share, trained)
    bias = (weights.tensors["fc2.bias"] + np.log(odds)).astype(np.float32)
    note = f"answers as if no expression were rarer than {wanted:g}"
    return replace(weights, tensors={**weights.tensors, "fc2.bias": bias}, training=f"{weights.training}; {note}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except (CalibrationError, LabelledFacesError, FerPlusError, WeightFileError, OSError) as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    weights = read_weights(args.model)
    faces = read_labelled_faces(args.data, weights.labels, split="valid")
    try:
        preprocessor = Preprocessor(weights.preprocessing, views=args.views)
    except ValueError as error:
        raise CalibrationError(f"{args.model}: {error}") from error
    before = logits = faces.logits(Student(weights, precision="float32"), preprocessor)
    if args.least_share:
        if weights.labels != LABELS:
            raise CalibrationError(f"{args.model}: --least-share needs FER+'s labels, not {', '.join(weights.labels)}")
        weights = change_least_share(weights, read_ferplus(args.data, "train").targets.mean(axis=0), *args.least_share)
        logits = faces.logits(Student(weights, precision="float32"), preprocessor)
    fit, criterion = METHODS[args.fit]
    temperature = fit(logits, faces.labels)
    source = "FER+ valid" if args.data.suffix.lower() == ".npz" else args.data.name
    shown = f", {args.views} views of each face," if args.views > 1 else ""
    note = f"temperature {temperature:.4f}, fitted on {source}{shown} by {criterion}, is folded into fc2"
    calibrated = fold_temperature(weights, temperature, note)
    scores = {
        "before": measure(before, faces.labels, weights.labels),
        "after": measure(
            faces.logits(Student(calibrated, precision="float32"), preprocessor), faces.labels, weights.labels
        ),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_weights(args.out, calibrated)
    report = {
        "tool": "calibrate",
        "model": args.model.name,
        "data": source,
        "faces": len(faces),
        "fit": args.fit,
        "views": args.views,
        "least_share": args.least_share,
        "temperature": temperature,
        **{when: metrics.to_dict() for when, metrics in scores.items()},
    }
    (args.report or args.out.with_suffix(".json")).write_text(json.dumps(report, indent=1) + "\n")
    print(f"{args.out}: temperature {temperature:.4f}, fitted on the {len(faces)} faces that are measured here")
    for when, metrics in scores.items():
        print(_line(when, metrics))


def _line(when: str, metrics: Metrics) -> str:
    error, loss = metrics.expected_calibration_error, metrics.negative_log_likelihood
    return (
        f"{when:<7} negative log-likelihood {loss.value:.4f} [{loss.low:.4f}, {loss.high:.4f}]"
        f"  calibration error {error.value:.4f} [{error.low:.4f}, {error.high:.4f}]"
        f"  accuracy {metrics.accuracy.value:.4f}  balanced {metrics.balanced_accuracy.value:.4f}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.calibrate",
        description="Fit the temperature of a student's probabilities, fold it into the last layer "
        "and write the weight file and a JSON report. Only probabilities change, not the answers; those do with "
        "--least-share.",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="weight file")
    add("data", type=Path, metavar="DATA", help="ferplus.npz (its valid split), or faces as tools.evaluate reads them")
    add("out", type=Path, metavar="OUT", help="weight file to write")
    add(
        "--fit",
        choices=sorted(METHODS),
        default="likelihood",
        help="make the labels most likely, or the mean confidence equal to the accuracy (default: %(default)s)",
    )
    add(
        "--least-share",
        type=float,
        nargs=2,
        metavar=("TRAINED", "WANTED"),
        help="first let a student that was trained with one --least-share answer as with another (FER+ only)",
    )
    add_views(parser, VIEWS, 1)
    add("--report", type=Path, help="JSON report (default: OUT with suffix .json)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
