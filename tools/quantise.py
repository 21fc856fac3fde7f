"""Quantise a trained student to int8, without training: `python -m tools.quantise --help`.

Imports mxn_edge, tools.quantisation, tools.labelled_faces and tools.ferplus.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

if not __package__:  # run as a file: the repository is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mxn_edge.preprocess import Frame, Preprocessor, check_frame, empty_faces
from mxn_edge.student import Student
from mxn_edge.weights import WeightFileError, Weights, read_weights, write_weights
from tools.ferplus import FerPlusError, read_ferplus
from tools.labelled_faces import LabelledFacesError, read_cropped_faces
from tools.quantisation import QuantisationError, QuantisedStudent, rescale
from tools.terminal import HelpFormatter, between, fraction

Faces = NDArray[np.uint8]


def read_faces(path: Path) -> list[Frame]:
    """Faces of the training split of ferplus.npz, or all pictures below a folder.

    Raises `OSError`, `FerPlusError` or `LabelledFacesError`.
    """
    if path.is_dir():
        return read_cropped_faces(path)
    return [check_frame(image, "gray") for image in read_ferplus(path, "train").images]


def crop(frames: list[Frame], preprocessing: str) -> Faces:
    """What the student sees of pictures of faces: (n, 84, 84)."""
    preprocessor, faces = Preprocessor(preprocessing), empty_faces(len(frames))
    for frame, face in zip(frames, faces, strict=True):
        height, width = frame.pixels.shape[:2]
        preprocessor.crop_box(frame, 0, 0, width, height, face)
    return faces


def quantise(weights: Weights, faces: Faces, quantile: float, note: str) -> Weights:
    """Return quantised weights whose activations on the faces (n, 84, 84) fill 0..255; `note` is added to `training`.

    Raises `QuantisationError` when the weights are quantised already, or silent.
    """
    if weights.quantised:
        raise QuantisationError("the weights are quantised already")
    scaled = rescale(weights, torch.from_numpy(faces)[:, None].float(), quantile)
    return QuantisedStudent(scaled).to_weights(weights.labels, weights.preprocessing, f"{weights.training}; {note}")


def agreement(weights: Weights, quantised: Weights, faces: Faces) -> float:
    """Fraction of faces to which both give the same class."""
    expected = Student(weights, precision="float32").logits(faces).argmax(axis=1)
    return float((Student(quantised, precision="int8").logits(faces).argmax(axis=1) == expected).mean())


def _run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    weights = read_weights(args.model)
    frames = read_faces(args.data)
    order = np.random.default_rng(args.seed).permutation(len(frames))
    used, others = (
        crop([frames[i] for i in part], weights.preprocessing)
        for part in (order[: args.count], order[args.count : 2 * args.count])
    )
    source = "FER+ train" if args.data.suffix == ".npz" else f"the folder {args.data.name}"
    note = f"quantised to int8 with the ranges of {len(used)} faces of {source}, quantile {args.quantile:g}"
    quantised = quantise(weights, used, args.quantile, note)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_weights(args.out, quantised)
    kind, tested = ("other", others) if len(others) else ("the same", used)
    same = agreement(weights, quantised, tested)
    print(f"{args.out}: ranges of {len(used)} faces; {same:.1%} of {len(tested)} {kind} faces get the class of float32")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except (QuantisationError, FerPlusError, LabelledFacesError, WeightFileError, OSError) as error:
        print(f"quantise: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.quantise",
        description="Write a quantised weight file: weights as int8 with a scale for each output, rescaled so that the "
        "activations on real faces fill 0..255 in every channel. tools.quantise_aware fine-tunes as well, and stays "
        "closer to float32.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="weight file of the float student")
    add("data", type=Path, metavar="DATA", help="ferplus.npz, or a folder of pictures that are cropped to a face each")
    add("out", type=Path, metavar="OUT", help="weight file to write")
    add("--count", type=between(1, 100_000), default=1024, help="faces, chosen at random, whose ranges count")
    add(
        "--quantile", type=fraction, default=0.9999, help="share of the activations that must fit; the rest are clamped"
    )
    add("--seed", type=between(0, 2**32 - 1), default=1, help="seed of that choice")
    return parser


if __name__ == "__main__":
    sys.exit(main())
