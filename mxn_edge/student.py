"""Student: 84×84 grey faces -> logits and probabilities. Imports weights and _core.

MicroExpNet (arXiv 1711.07011v4) and its sister topologies, run by the C core.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mxn_edge import _core
from mxn_edge.weights import INPUT_SIZE, QUANTISED_LAYERS, Weights, read_weights

_DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))
#: What to compute in; "auto" is int8 where the weights are quantised and the CPU is faster with them.
Precision = Literal["auto", "float32", "int8"]
DEFAULT_MODEL = Path(__file__).parent / "models" / "default.safetensors"


def active_isa() -> str:
    """The instruction set that a model loaded now would use: `MXN_EDGE_ISA`, or the fastest of `available_isas()`.

    Raises `ValueError`, with what is available, when `MXN_EDGE_ISA` names something else.
    """
    return _core.resolve_isa()


@dataclass(frozen=True)
class StudentInfo:
    """What a `Student` is.

    Attributes:
        architecture: "microexpnet-p12" and its sisters; see `mxn_edge.weights.ARCHITECTURES`.
        hidden: number of hidden units.
        parameters: number of trained parameters.
        bytes: size of the parameters in `precision`.
        preprocessing: how faces must be cropped for it.
        training: what it was trained on and how.
        source: the file that it came from, or "" for one made in memory.
        isa: the instruction set that runs it.
        precision: "float32" or "int8", what it is computed in.
        threads: how many threads share a batch.
    """

    architecture: str
    hidden: int
    parameters: int
    bytes: int
    preprocessing: str
    training: str
    source: str
    isa: str
    precision: str
    threads: int


class Student:
    """A trained network, ready to run. Immutable: one instance may be used by many threads at once.

    Args:
        weights: checked weights; most users call `Student.load` instead.
        precision: "float32"; "int8", with weights that are quantised; or "auto", which is int8 where the weights are
            quantised and the instruction set is faster with them. In int8, float32 faces are rounded to whole grey
            levels (halves to even) and clamped to 0..255, and logits are the same bits on every machine.
        isa: instruction set to run on, one of `available_isas()`; default: `active_isa()`.
        threads: how many threads share the faces of a call, the caller's included; never more than the CPUs that this
            process may use, and 0 for all of them. They are started once and sleep between calls. A call that finds
            them at work for another one runs on its own thread alone, as does every call in a forked process.

    Raises:
        ValueError: `isa` or the environment variable MXN_EDGE_ISA names an instruction set that is not available; the
            precision is unknown; it is "int8" and the weights are not quantised; `threads` is negative.
    """

    def __init__(
        self, weights: Weights, *, precision: Precision = "auto", isa: str | None = None, threads: int = 1
    ) -> None:
        chosen = _choose_precision(weights, precision, isa)
        count = _choose_threads(threads)
        self._network = _core.Network(weights.architecture, weights.tensors, isa, chosen, threads=count)
        self._labels = weights.labels
        self._info = StudentInfo(
            architecture=weights.architecture,
            hidden=weights.hidden,
            parameters=weights.parameters,
            bytes=_parameter_bytes(weights, chosen),
            preprocessing=weights.preprocessing,
            training=weights.training,
            source=weights.source,
            isa=self._network.isa,
            precision=self._network.precision,
            threads=count,
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        precision: Precision = "auto",
        isa: str | None = None,
        threads: int = 1,
    ) -> Student:
        """Load a weight file; without a path, the weights that come with the package.

        Raises `OSError` when the file cannot be opened, `WeightFileError` when its content is not valid, and
        `ValueError` as the class does.
        """
        return cls(read_weights(DEFAULT_MODEL if path is None else path), precision=precision, isa=isa, threads=threads)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self._labels

    @property
    def info(self) -> StudentInfo:
        """What this student is and where it came from."""
        return self._info

    def logits(
        self, faces: NDArray[np.uint8] | NDArray[np.float32], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Logits of grey faces; the GIL is released meanwhile.

        Args:
            faces: uint8 or float32, shape (84, 84) or (n, 84, 84), grey levels 0..255 (not 0..1), any strides.
            out: where to write, C-contiguous float32 of the result's shape; a new array by default.

        Returns:
            float32, shape (classes,) for one face, (n, classes) for n.

        Raises:
            TypeError: wrong dtype.
            ValueError: wrong shape, or NaN or infinity in a face.
        """
        found = self._network.try_logits(faces, out)
        if found is not None:
            return found
        contiguous = np.ascontiguousarray(faces)
        shape = contiguous.shape
        if contiguous.dtype not in _DTYPES:
            raise TypeError(f"faces have dtype {contiguous.dtype}; expected uint8 or float32 in native byte order")
        if shape[-2:] != (INPUT_SIZE, INPUT_SIZE) or not 2 <= len(shape) <= 3:
            raise ValueError(f"faces have shape {shape}; expected (84, 84) or (n, 84, 84)")
        expected = (*shape[:-2], len(self._labels))
        if out is None:
            out = np.empty(expected, np.float32)
        elif out.shape != expected or not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError(f"out has shape {out.shape}; expected a writable C-contiguous array of shape {expected}")
        self._network.logits(contiguous, out)
        return out

    def probabilities(self, faces: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Softmax of the logits: float32, shaped like them, each row summing to 1. Arguments and errors as `logits`."""
        return softmax(self.logits(faces))


def _choose_precision(weights: Weights, precision: str, isa: str | None) -> Literal["float32", "int8"]:
    if precision == "float32":
        return "float32"
    if precision == "int8":
        if not weights.quantised:
            where = f"{weights.source}: " if weights.source else ""
            raise ValueError(
                f"{where}these weights are not quantised, which int8 needs; `python -m tools.quantise` of a clone of "
                "mxn-edge does that"
            )
        return "int8"
    if precision == "auto":
        return "int8" if weights.quantised and _core.prefers_int8(isa) else "float32"
    raise ValueError(f"precision {precision!r} is not one of auto, float32, int8")


def _choose_threads(threads: int) -> int:
    if threads < 0:
        raise ValueError(f"threads is {threads}; expected 0 (all CPUs) or more")
    cpus = min(len(os.sched_getaffinity(0)), _core.MAX_THREADS)
    return min(threads, cpus) or cpus


def _parameter_bytes(weights: Weights, precision: str) -> int:
    if precision == "float32":
        return 4 * weights.parameters
    layers = [weights.tensors[f"{layer}.weight"] for layer in QUANTISED_LAYERS]
    scales: int = sum(layer.shape[-1] for layer in layers)
    return 4 * (weights.parameters + scales) - 3 * sum(layer.size for layer in layers)


def mean_logits(student: Student, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The answer to faces shown in several views: float32, (n, classes), the means of the views' logits.

    Args:
        student: gives the logits.
        faces: uint8, (n, views, 84, 84), see `mxn_edge.preprocess.Preprocessor`.
    """
    count, views = faces.shape[:2]
    logits = student.logits(faces.reshape(count * views, INPUT_SIZE, INPUT_SIZE))
    means: NDArray[np.float32] = logits.reshape(count, views, len(student.labels)).mean(axis=1)
    return means


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the last axis, safe for logits of any size."""
    probabilities = np.empty_like(logits)
    _core.softmax(logits, probabilities)
    return probabilities
