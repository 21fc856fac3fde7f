"""Compare the float32 logits of every instruction set of this machine with ONNX Runtime's.

Imports numpy, OpenCV, ONNX Runtime, mxn_edge, mxn_edge.onnx_model and tools.labelled_faces only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

if not __package__:  # run as a file: the repository is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mxn_edge import available_isas
from mxn_edge.onnx_model import build_model
from mxn_edge.student import Student
from mxn_edge.weights import INPUT_SIZE, WeightFileError, Weights, read_weights
from tools.labelled_faces import IMAGE_SUFFIXES

#: Largest difference allowed, relative to the largest |logit| of the batch.
TOLERANCE = 1e-4
#: Two logits closer than this, by the same measure, are a tie: float32 rounding may order them either way.
TIE = 2e-5

Faces = NDArray[np.uint8] | NDArray[np.float32]
Logits = NDArray[np.float32]


class FacesError(ValueError):
    """Faces cannot be read; the message says from where and why."""


@dataclass(frozen=True)
class Comparison:
    """How far logits are from the expected ones, over one batch.

    Attributes:
        absolute: largest difference.
        relative: the same, divided by the largest expected |logit|.
        count: number of faces.
        same: number of faces with the same top class.
        ties: number of the other faces whose two top classes tie.
    """

    absolute: float
    relative: float
    count: int
    same: int
    ties: int

    @property
    def passed(self) -> bool:
        """Whether the logits agree; NaN never does."""
        return self.relative <= TOLERANCE and self.same + self.ties == self.count


def compare(expected: Logits, logits: Logits) -> Comparison:
    """Compare logits (n, classes)."""
    if logits.shape != expected.shape:
        raise ValueError(f"logits have shape {logits.shape}; expected {expected.shape}")
    scale = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    absolute = float(np.abs(logits.astype(np.float64) - expected).max())
    rows = np.arange(len(expected))
    top, expected_top = logits.argmax(axis=1), expected.argmax(axis=1)
    same = top == expected_top
    ties = ~same & (expected[rows, expected_top] - expected[rows, top] <= TIE * scale)
    return Comparison(absolute, absolute / scale, len(expected), int(same.sum()), int(ties.sum()))


def onnx_runtime(weights: Weights) -> Callable[[Faces], Logits]:
    """The network as ONNX Runtime computes it: faces (n, 84, 84) -> logits (n, classes)."""
    session = onnxruntime.InferenceSession(build_model(weights).SerializeToString(), providers=["CPUExecutionProvider"])

    def logits(faces: Faces) -> Logits:
        result: Logits = session.run(["logits"], {"faces": faces.astype(np.float32)[:, None]})[0]
        return result

    return logits


def random_faces(count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise, with fractions of grey values."""
    return rng.uniform(0, 255, (count, INPUT_SIZE, INPUT_SIZE)).astype(np.float32)


def read_faces(path: Path, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """At most `count` faces, at random, from a folder of images or the valid and test images of ferplus.npz.

    Resized to 84x84 without rounding. Raises `OSError` or `FacesError`.
    """
    images = _read_folder(path, count, rng) if path.is_dir() else _read_npz(path, count, rng)
    # Interpolation may leave the range of its input by a rounding error.
    return np.stack([cv2.resize(image.astype(np.float32), (INPUT_SIZE, INPUT_SIZE)) for image in images]).clip(0, 255)


def _read_folder(path: Path, count: int, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise FacesError(f"{path}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    images = []
    for index in rng.permutation(len(files))[:count]:
        data = np.fromfile(files[index], np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
        if image is None:
            raise FacesError(f"{files[index]}: not a readable image")
        images.append(image.astype(np.uint8))
    return images


def _read_npz(path: Path, count: int, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                splits = [arrays[name] for name in ("valid_images", "test_images")]
        except Exception as error:  # a damaged archive makes numpy raise a dozen unrelated types
            raise FacesError(f"{path}: not an .npz file with arrays valid_images and test_images ({error})") from error
    for split in splits:
        if split.ndim != 3 or split.dtype != np.uint8 or 0 in split.shape:
            raise FacesError(f"{path}: images are {split.dtype} of shape {split.shape}; expected uint8 (n, h, w)")
    images = [image for split in splits for image in split]
    return [images[index] for index in rng.permutation(len(images))[:count]]


def _integer_from(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return integer


def check(path: Path, batches: dict[str, NDArray[np.float32]]) -> bool:
    """Print the comparison of every instruction set on every batch of faces; returns whether all of them passed."""
    expected_logits = onnx_runtime(read_weights(path))
    print(f"{'isa':<12}{'faces':<8}{'input':<9}{'count':>5}{'max abs':>11}{'max rel':>11}  top-1")
    passed = True
    for isa in available_isas():
        student = Student.load(path, precision="float32", isa=isa)
        for name, faces in batches.items():
            for inputs in (faces.round().astype(np.uint8), faces):
                result = compare(expected_logits(inputs), student.logits(inputs))
                passed = passed and result.passed
                print(
                    f"{isa:<12}{name:<8}{inputs.dtype!s:<9}{result.count:>5}{result.absolute:>11.1e}"
                    f"{result.relative:>11.1e}  {result.same}/{result.count}"
                    + (f" and {result.ties} tied" if result.ties else "")
                    + ("" if result.passed else "  FAILED")
                )
    return passed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="check_parity",
        description="Compare the float32 logits of every instruction set that this machine has with ONNX Runtime's, on "
        f"random faces and on real ones. Exit code: 0 when all differences are below {TOLERANCE:g} of the largest "
        "|logit| and all top classes agree (ties apart), 1 when not, 2 when the files cannot be used.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.safetensors", help="weight file")
    parser.add_argument(
        "--faces",
        type=Path,
        metavar="DIR_OR_NPZ",
        help="real faces: a folder of images, or an .npz file with uint8 arrays valid_images and test_images (n, h, w)",
    )
    parser.add_argument(
        "--count",
        type=_integer_from(1),
        default=64,
        metavar="N",
        help="number of random faces, and of real faces at most (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=_integer_from(0),
        default=0,
        metavar="S",
        help="seed of the random faces and of the choice of the real ones (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    try:
        batches = {"random": random_faces(options.count, rng)}
        if options.faces is not None:
            batches["real"] = read_faces(options.faces, options.count, rng)
        return 0 if check(options.model, batches) else 1
    except (OSError, FacesError, WeightFileError) as error:
        print(f"check_parity: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
