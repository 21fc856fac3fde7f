"""Latency of the student and of the whole path on this machine, for `mxn-edge bench`.

Imports recognizer, student, detector, preprocess and _core.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxn_edge import _core
from mxn_edge.detector import DEFAULT_DETECTOR, Detector
from mxn_edge.preprocess import Preprocessor, check_frame, empty_faces
from mxn_edge.recognizer import Recognizer
from mxn_edge.student import Student
from mxn_edge.weights import INPUT_SIZE, read_detector_weights


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


def benchmark_stages(recognizer: Recognizer, frame: NDArray[np.uint8], *, seconds: float = 1.0) -> list[Latency]:
    """Where the time of `predict` on a BGR frame goes, with the detector of the package and its default options.

    Finding faces is everything of the detector; of it, reducing the frame and the first network are also timed alone.
    The rest of it is decoding and the second look at candidates.
    """
    isa = recognizer.student.info.isa
    detector = Detector(isa=isa)
    network = _core.DetectorNetwork(read_detector_weights(DEFAULT_DETECTOR).tensors, isa)
    width, height = _core.detector_size(frame.shape[1], frame.shape[0], 0.1)
    cropper = _core.Cropper(isa)
    gray = cropper.reduce(frame, "bgr", width, height)
    boxes = detector.detect(frame)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("  find faces", partial(detector.detect, frame)),
        (f"    reduce to {width}×{height}", partial(cropper.reduce, frame, "bgr", width, height)),
        ("    first network", partial(network.answers, gray)),
    ]
    if boxes:
        views = recognizer.views
        preprocessor = Preprocessor(recognizer.student.info.preprocessing, views=views, isa=isa)
        faces = empty_faces(views)
        shown = f", {views} views" if views > 1 else ""
        calls.append((f"  crop a face{shown}", partial(preprocessor.crop, check_frame(frame), boxes[0].square, faces)))
        preprocessor.crop(check_frame(frame), boxes[0].square, faces)
        calls.append((f"  classify it{shown}", partial(recognizer.student.logits, faces)))
    return [measure(name, call, seconds=seconds) for name, call in calls]
