"""Our network beside other engines, on the same faces with the same weights: `python -m tools.bench_peers --help`.

Imports OpenCV, mxn_edge, tools.machine, tools.peers, tools.terminal and the data tools; charts need matplotlib.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

if not __package__:  # run as a file: the repository is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mxn_edge import __version__, available_isas
from mxn_edge._core import reference_logits
from mxn_edge.cli import cpu_name
from mxn_edge.preprocess import Preprocessor
from mxn_edge.student import DEFAULT_MODEL, Student
from mxn_edge.weights import INPUT_SIZE, WeightFileError, Weights, read_weights
from tools.ferplus import FerPlusError
from tools.labelled_faces import LabelledFacesError, read_labelled_faces
from tools.machine import cache_bytes
from tools.peers import PEERS, Engine
from tools.terminal import markdown, positive

Floats = NDArray[np.float64]
Faces = NDArray[np.uint8]

#: Ours; int8 with weights that are quantised.
PRECISIONS: tuple[Literal["float32", "int8"], ...] = ("float32", "int8")
#: Largest difference of float32 logits from the reference, relative to the largest |logit|.
TOLERANCE = 1e-4
#: Least fraction of faces on which int8 logits have the top class of the reference.
AGREEMENT = 0.9
#: Faces for the calibration of int8 peers; they are not among those compared or timed.
CALIBRATION_FACES = 256
#: Faces that are timed; few enough to be prepared beforehand for every engine.
TIMED_FACES = 64


class BenchError(ValueError):
    """The benchmark cannot be run; the message says why."""


@dataclass(frozen=True)
class Deviation:
    """How far logits are from the reference.

    Attributes:
        largest: largest difference, relative to the largest |logit| of the reference.
        agreement: fraction of faces with the same top class.
    """

    largest: float
    agreement: float

    def fault(self, precision: str) -> str:
        """Why an engine with this deviation is not timed, or "". NaN is never good enough."""
        if precision == "int8":
            return "" if self.agreement >= AGREEMENT else f"only {self.agreement:.1%} of the top classes are right"
        return "" if self.largest <= TOLERANCE else f"logits differ by {self.largest:.1e} of the largest"


@dataclass
class Row:
    """An engine and what was found out about it.

    Attributes:
        name, precision, version: what it is.
        status: "timed", "missing" or "refused".
        reason: why it is not timed.
        deviation: from the reference.
        median_us, p90_us: microseconds per call, over all rounds.
        ratio: median over rounds of its time, divided by that of the base in the same round.
    """

    name: str
    precision: str
    version: str = ""
    status: str = "timed"
    reason: str = ""
    deviation: Deviation | None = None
    median_us: float | None = None
    p90_us: float | None = None
    ratio: float | None = None


# ---- Faces ----------------------------------------------------------------------------------------------------------


def ferplus_faces(path: Path, weights: Weights, count: int) -> Faces:
    """At most `count` of the FER+ validation faces, at random, as the Recognizer would crop them: (n, 84, 84)."""
    faces = read_labelled_faces(path, weights.labels).crop(Preprocessor(weights.preprocessing))
    return faces[np.random.default_rng(0).permutation(len(faces))[:count]]


def synthetic_faces(count: int) -> Faces:
    """Smooth texture at four scales behind an oval, the same in every run: (n, 84, 84)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : INPUT_SIZE * 1j, -1 : 1 : INPUT_SIZE * 1j]
    oval = 1 / (1 + np.exp(12 * (x**2 / 0.6 + y**2 / 0.9 - 1)))
    faces = np.empty((count, INPUT_SIZE, INPUT_SIZE), np.uint8)
    for face in faces:
        texture = np.zeros((INPUT_SIZE, INPUT_SIZE))
        for cells in (3, 6, 12, 24):
            noise = rng.standard_normal((cells, cells))
            texture += cv2.resize(noise, (INPUT_SIZE, INPUT_SIZE), interpolation=cv2.INTER_CUBIC) * (3 / cells)
        face[:] = np.clip(60 + 80 * oval + 25 * texture, 0, 255).astype(np.uint8)
    return faces


# ---- Comparing ------------------------------------------------------------------------------------------------------


def reference(weights: Weights, faces: Faces) -> Floats:
    """Logits by plain loops in double precision."""
    logits = np.empty((len(faces), len(weights.labels)))
    for face, out in zip(faces, logits, strict=True):
        reference_logits(weights.architecture, weights.tensors, face.astype(np.float32), out)
    return logits


def deviation_from(expected: Floats, logits: Floats) -> Deviation:
    """Compare logits (n, classes)."""
    scale = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    same = logits.argmax(axis=1) == expected.argmax(axis=1)
    return Deviation(float(np.abs(logits - expected).max()) / scale, float(same.mean()))


def logits_of(engine: Engine, faces: Faces, classes: int) -> Floats:
    """What the engine gives, (n, classes)."""
    inputs = [engine.prepare(face) for face in faces]  # all beforehand, as they are timed
    # Copied at once: an engine may hand out the same memory again.
    found = [np.array(engine.run(face), np.float64).ravel() for face in inputs]
    if any(logits.shape != (classes,) for logits in found):
        raise BenchError(f"gives {found[0].size} numbers for a face; expected {classes}")
    return np.stack(found)


# ---- Timing ---------------------------------------------------------------------------------------------------------


def time_engines(
    engines: Sequence[Engine], faces: Faces, rounds: int, calls: int, evict: Callable[[], object] | None = None
) -> Floats:
    """Microseconds of each call: (engines, rounds, calls).

    In each round each engine has its turn, on the same faces as the others, and another engine comes first. A turn
    begins with all of its calls untimed, so that the timed ones find everything in the caches; with `evict`, that is
    called before every timed call instead.
    """
    inputs = [[engine.prepare(face) for face in faces[:TIMED_FACES]] for engine in engines]
    times = np.empty((len(engines), rounds, calls))
    clock = time.perf_counter_ns
    for turn in range(rounds):
        for place in range(len(engines)):
            index = (place + turn) % len(engines)
            run, mine = engines[index].run, inputs[index]
            chosen = [mine[(turn * calls + call) % len(mine)] for call in range(calls)]
            if evict is None:
                for face in chosen:
                    run(face)
            for call, face in enumerate(chosen):
                if evict is not None:
                    evict()
                start = clock()
                run(face)
                times[index, turn, call] = (clock() - start) / 1e3
    return times


def fill_in(row: Row, times: Floats, base: Floats) -> None:
    """The statistics of times (rounds, calls) beside those of the base in the same rounds."""
    row.median_us, row.p90_us = np.percentile(times, [50, 90]).tolist()
    row.ratio = float(np.median(np.median(times, axis=1) / np.median(base, axis=1)))


def cache_evictor() -> Callable[[], object]:
    """A function that streams twice the last-level cache through it."""
    buffer = np.ones(2 * cache_bytes() // 8)
    return buffer.max


# ---- The whole ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Some engines print while they load, past Python; the table is to stay readable by programs."""
    sys.stdout.flush()
    before = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


def load(
    weights: Weights, calibration: Faces, isas: Sequence[str], keys: Sequence[str]
) -> tuple[list[Row], list[Engine | None]]:
    """The rows of the table, ours first, with the engine of each that is installed."""
    rows: list[Row] = []
    engines: list[Engine | None] = []
    for precision in PRECISIONS:
        if precision == "int8" and not weights.quantised:
            reason = "the weights are not quantised: python -m tools.quantise"
            rows.append(Row("mxn-edge", precision, __version__, "missing", reason))
            engines.append(None)
            continue
        for isa in isas:
            rows.append(Row(f"mxn-edge {isa}", precision, __version__))
            student = Student(weights, precision=precision, isa=isa)
            engines.append(Engine(__version__, np.ascontiguousarray, student.logits))
    for peer in PEERS:
        if peer.key not in keys:
            continue
        row = Row(peer.name, peer.precision)
        engine = None
        try:
            with _stdout_to_stderr():
                engine = peer.build(weights, calibration)
            row.version = engine.version
        except ModuleNotFoundError as error:
            row.status, row.reason = "missing", f"not installed ({error}): pip install {peer.packages}"
        except Exception as error:  # a peer that fails, for whatever reason, must not stop the others
            row.status, row.reason = "refused", f"does not load: {error}"
        rows.append(row)
        engines.append(engine)
    return rows, engines


def compare(rows: Sequence[Row], engines: Sequence[Engine | None], weights: Weights, faces: Faces) -> None:
    """Fill in the deviations, and refuse the engines that are wrong."""
    expected = reference(weights, faces)
    for row, engine in zip(rows, engines, strict=True):
        if engine is None:
            continue
        try:
            with _stdout_to_stderr():
                row.deviation = deviation_from(expected, logits_of(engine, faces, len(weights.labels)))
            row.reason = row.deviation.fault(row.precision)
        except Exception as error:  # as above
            row.reason = str(error)
        if row.reason:
            row.status = "refused"


def bench(
    weights: Weights,
    calibration: Faces,
    faces: Faces,
    isas: Sequence[str],
    keys: Sequence[str],
    rounds: int,
    calls: int,
    evict: Callable[[], object] | None = None,
) -> list[Row]:
    """Load, compare, then time what is right. The base of the ratios is the first row."""
    rows, engines = load(weights, calibration, isas, keys)
    compare(rows, engines, weights, faces)
    if rows[0].status != "timed":
        raise BenchError(f"{rows[0].name}, to which all ratios refer: {rows[0].reason}")
    timed = [(row, engine) for row, engine in zip(rows, engines, strict=True) if engine and row.status == "timed"]
    times = time_engines([engine for _, engine in timed], faces, rounds, calls, evict)
    for (row, _), mine in zip(timed, times, strict=True):
        fill_in(row, mine, times[0])
    return rows


def table(rows: Sequence[Row]) -> str:
    """The timed rows as a Markdown table, then the others with their reasons."""
    cells = [["engine", "version", "precision", "median µs", "p90 µs", "ratio", "largest difference", "same top class"]]
    for row in rows:
        if row.status == "timed" and row.deviation is not None:
            numbers = [f"{row.median_us:.1f}", f"{row.p90_us:.1f}", f"{row.ratio:.2f}"]
            checked = [f"{row.deviation.largest:.1e}", f"{row.deviation.agreement:.1%}"]
            cells.append([row.name, row.version, row.precision, *numbers, *checked])
    others = [f"{row.status}: {row.name} {row.precision}, {row.reason}" for row in rows if row.status != "timed"]
    return "\n".join([markdown(cells, left=3), *([""] if others else []), *others])


def report(rows: Sequence[Row], args: argparse.Namespace, source: str, count: int) -> dict[str, Any]:
    """What was measured, on what, and how."""
    return {
        "tool": "bench_peers",
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "weights": {"file": args.model.name, "sha256": hashlib.sha256(args.model.read_bytes()).hexdigest()},
        "faces": {"source": source, "compared": count, "timed": min(count, TIMED_FACES)},
        "rounds": args.rounds,
        "calls": args.calls,
        "caches": "cold" if args.cold else "warm",
        "base": f"{rows[0].name} {rows[0].precision}",
        "rows": [asdict(row) for row in rows],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench_peers",
        description="Time our network on every instruction set beside other engines: one face per call, one thread "
        "each, the same weights and faces. Engines take turns in every round, and an engine whose logits differ from "
        "the double-precision reference is refused before anything is timed. Faces are converted to what a peer needs "
        "(float32, its tensor type) outside of its time; ours are timed from uint8.",
        epilog="Exit code: 0, or 1 when an engine was refused or the benchmark could not be run.",
    )
    add = parser.add_argument
    keys = [peer.key for peer in PEERS]
    add("--model", type=Path, default=DEFAULT_MODEL, help="weight file (default: the package's)")
    add("--data", type=Path, metavar="FERPLUS.npz", help="take its validation faces, instead of synthetic ones")
    add("--count", type=positive, default=256, help="faces on which outputs are compared (default: %(default)s)")
    add("--rounds", type=positive, default=100, help="turns of each engine (default: %(default)s)")
    add("--calls", type=positive, default=10, help="timed calls of a turn, one face each (default: %(default)s)")
    add("--engines", nargs="*", choices=keys, default=keys, metavar="PEER", help=f"of {', '.join(keys)} (default: all)")
    isas = available_isas()
    add("--isa", nargs="+", choices=isas, default=isas, help="our instruction sets; ratios refer to the first")
    add("--cold", action="store_true", help="evict the caches before every call, as the rest of a camera loop does")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--chart", type=Path, metavar="FILE", help="draw the medians there, .svg or .png")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.chart and args.chart.suffix not in (".svg", ".png"):
        parser.error(f"--chart {args.chart}: the suffix must be .svg or .png")
    try:
        # All that could go wrong after the timing is looked at before it.
        if args.chart and find_spec("matplotlib") is None:
            raise BenchError("--chart needs matplotlib: pip install matplotlib")
        for path in filter(None, (args.json, args.chart)):
            if not path.parent.is_dir():
                raise BenchError(f"{path}: there is no folder {path.parent}")
        weights = read_weights(args.model)
        wanted = CALIBRATION_FACES + args.count
        faces = ferplus_faces(args.data, weights, wanted) if args.data else synthetic_faces(wanted)
        if len(faces) < wanted:
            raise BenchError(f"{args.data}: {len(faces)} faces; {wanted} are needed")
        source = f"{args.data.name}, validation" if args.data else "synthetic"
        calibration, faces = faces[:CALIBRATION_FACES], faces[CALIBRATION_FACES:]
        evict = cache_evictor() if args.cold else None
        rows = bench(weights, calibration, faces, args.isa, args.engines, args.rounds, args.calls, evict)
        caches = "cold" if args.cold else "warm"
        print(f"{cpu_name()}; one thread, one {source} face per call, {caches} caches")
        print(f"{args.rounds} rounds of {args.calls} calls; ratios to {rows[0].name} {rows[0].precision}\n")
        print(table(rows))
        if args.json:
            content = report(rows, args, source, len(faces))
            args.json.write_text(json.dumps(content, indent=1) + "\n")
        if args.chart:
            _draw(rows, args.chart)
    except (OSError, WeightFileError, FerPlusError, LabelledFacesError, BenchError) as error:
        print(f"bench_peers: error: {error}", file=sys.stderr)
        return 1
    return 1 if any(row.status == "refused" for row in rows) else 0


def _draw(rows: Sequence[Row], path: Path) -> None:
    from tools.plots import Bar, plot_bars

    bars = [
        Bar(f"{row.name}, {row.precision}", row.median_us, row.p90_us, ours=row.name.startswith("mxn-edge"))
        for row in rows
        if row.median_us is not None and row.p90_us is not None
    ]
    plot_bars(bars, path, "µs per face (median; the line reaches to the 90th percentile)")


if __name__ == "__main__":
    sys.exit(main())
