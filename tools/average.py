"""Average weight files of one student: `python -m tools.average --help`. Imports mxn_edge and numpy.

Students that were trained on from the same weights are right for more faces when their weights are averaged than each
alone, and with their start among them lose less of what that could do (Wortsman et al., 2022: model soups; WiSE-FT).
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mxn_edge.weights import WeightFileError, Weights, read_weights, write_weights
from tools.terminal import HelpFormatter, above_zero

#: Layers whose outputs go through a ReLU into the next one.
_LAYERS = ("conv1", "conv2", "fc1", "fc2")


class AverageError(ValueError):
    """Weights have no mean; the message says why."""


def with_equal_channels(weights: Weights) -> dict[str, NDArray[np.float64]]:
    """Return tensors that compute the same logits, the weights into every channel and hidden unit of norm 1.

    A positive factor goes through ReLU and pool into the next layer: before a mean it must be the same in all.
    """
    tensors = {name: tensor.astype(np.float64) for name, tensor in weights.tensors.items()}
    for layer, following in itertools.pairwise(_LAYERS):
        weight, onwards = tensors[f"{layer}.weight"], tensors[f"{following}.weight"]
        norm = np.sqrt(np.square(weight).sum(axis=tuple(range(weight.ndim - 1))))
        norm = np.where(norm > 0, norm, 1.0)
        weight /= norm
        tensors[f"{layer}.bias"] /= norm
        # Inputs are the last axis but one; those of fc1 are all channels of each pixel in turn.
        onwards *= np.tile(norm, onwards.shape[-2] // len(norm))[:, None]
    return tensors


def average(files: Sequence[Weights], shares: Sequence[float]) -> Weights:
    """Return the mean of weights, each with its share of the sum of shares; it is not quantised.

    Raises `AverageError` when they are not of the same student.
    """
    first = files[0]
    for other in files[1:]:
        for name in ("architecture", "hidden", "labels", "preprocessing"):
            if getattr(other, name) != getattr(first, name):
                raise AverageError(f"{name} {getattr(other, name)!r} beside {getattr(first, name)!r}")
    total = sum(shares)
    parts = [with_equal_channels(weights) for weights in files]
    tensors = {
        name: np.average([part[name] for part in parts], axis=0, weights=shares).astype(np.float32)
        for name in first.tensors
    }
    notes = [first.training, *(_after(first.training, weights.training) for weights in files[1:])]
    training = "mean of " + ", ".join(
        f"{share / total:.3g} of ({note})" for share, note in zip(shares, notes, strict=True)
    )
    return replace(first, tensors=tensors, training=training, source="", quantised=False)


def _after(start: str, note: str) -> str:
    """Shorten the note of a student that was trained on from another, whose note the reader knows."""
    return "that" + note.removeprefix(start) if note.startswith(start) else note


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    shares = args.shares or [1.0] * len(args.models)
    try:
        if len(shares) != len(args.models):
            raise AverageError(f"{len(shares)} shares of {len(args.models)} files")
        mean = average([read_weights(path) for path in args.models], shares)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_weights(args.out, mean)
    except (AverageError, WeightFileError, OSError) as error:
        print(f"average: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: mean of {len(args.models)} files")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.average",
        description="Write the mean of weight files: of students that python -m tools.distil --start trained on from "
        "the same one, and of that one. Others have no useful mean. Quantised files are read as floats; quantise "
        "the mean.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="weight file to write")
    add("models", type=Path, nargs="+", metavar="MODEL", help="weight files")
    add("--shares", type=above_zero, nargs="+", metavar="SHARE", help="share of each file (default: all the same)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
