"""Latency of the student and of the whole path on this machine, for `mxn-edge bench`. Imports recognizer, student."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxn_edge.recognizer import Recognizer
from mxn_edge.student import Student
from mxn_edge.weights import INPUT_SIZE


@dataclass(frozen=True)
class Latency:
    """Percentiles of the time of one call.

    Attributes:
        name: what was called.
        p50, p90, p99: milliseconds per call.
        per_second: faces (student) or frames (predict) per second at the median.
        calls: number of calls measured.
    """

    name: str
    p50: float
    p90: float
    p99: float
    per_second: float
    calls: int

    def to_dict(self) -> dict[str, Any]:
        """The same for `json.dumps`."""
        return asdict(self)


def measure(name: str, call: Callable[[], object], *, items: int = 1, seconds: float = 1.0) -> Latency:
    """Time `call` again and again for about `seconds`, at least 20 times, after a warm-up of a tenth of that."""
    _time_calls(call, seconds / 10, 2)
    times = np.array(_time_calls(call, seconds, 20)) / 1e6
    p50, p90, p99 = np.percentile(times, [50, 90, 99]).tolist()
    return Latency(name, p50, p90, p99, items * 1000 / p50, len(times))


def _time_calls(call: Callable[[], object], seconds: float, least: int) -> list[int]:
    clock = time.perf_counter_ns
    times: list[int] = []
    end = clock() + int(seconds * 1e9)
    while len(times) < least or clock() < end:
        start = clock()
        call()
        times.append(clock() - start)
    return times


def benchmark_student(student: Student, *, seconds: float = 1.0) -> list[Latency]:
    """Logits of 1, 8 and 64 faces of noise per call."""
    faces = np.random.default_rng(0).integers(0, 256, (64, INPUT_SIZE, INPUT_SIZE), np.uint8)
    results = []
    for batch in (faces[:1], faces[:8], faces):
        name = f"student {student.info.precision}, batch {len(batch)}"
        results.append(measure(name, partial(student.logits, batch), items=len(batch), seconds=seconds))
    return results


def benchmark_predict(recognizer: Recognizer, frame: NDArray[np.uint8], *, seconds: float = 1.0) -> Latency:
    """`Recognizer.predict` on a BGR frame, detection included."""
    found = len(recognizer.predict(frame))
    height, width = frame.shape[:2]
    name = f"predict, {width}×{height}, {found} face{'' if found == 1 else 's'}"
    return measure(name, partial(recognizer.predict, frame), seconds=seconds)
