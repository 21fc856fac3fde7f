"""Where the time of finding faces goes, and beside what OpenCV offers, on a 640×480 frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxn_edge import Detector, YuNetDetector, _core, available_isas
from mxn_edge.detector import DEFAULT_DETECTOR
from mxn_edge.weights import read_detector_weights


@pytest.mark.parametrize("isa", available_isas())
def test_reduce(benchmark: Any, frame: np.ndarray, isa: str) -> None:
    benchmark.group = "reduce 640×480 BGR to the detector's grey picture"
    benchmark.extra_info["isa"] = isa
    width, height = _core.detector_size(640, 480, 0.1)
    gray = benchmark(_core.Cropper(isa).reduce, frame, "bgr", width, height)
    assert np.ptp(gray) > 50


def test_reduce_by_opencv(benchmark: Any, frame: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    benchmark.group = "reduce 640×480 BGR to the detector's grey picture"
    benchmark.extra_info["isa"] = f"OpenCV {cv2.__version__}"
    size = _core.detector_size(640, 480, 0.1)
    gray = benchmark(lambda: cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA))
    assert np.ptp(gray) > 50


@pytest.mark.parametrize("isa", available_isas())
def test_first_network(benchmark: Any, frame: np.ndarray, isa: str) -> None:
    benchmark.group = "the detector's first network"
    benchmark.extra_info["isa"] = isa
    network = _core.DetectorNetwork(read_detector_weights(DEFAULT_DETECTOR).tensors, isa)
    answers = benchmark(network.answers, _core.Cropper().reduce(frame, "bgr", *_core.detector_size(640, 480, 0.1)))
    assert answers[:, 0].max() > 0


@pytest.mark.parametrize("isa", available_isas())
def test_second_look(benchmark: Any, frame: np.ndarray, isa: str) -> None:
    benchmark.group = "the detector's second look at one candidate, already cropped"
    benchmark.extra_info["isa"] = isa
    network = _core.DetectorNetwork(read_detector_weights(DEFAULT_DETECTOR).tensors, isa)
    assert len(benchmark(network.refiner_answers, _core.Cropper().reduce(frame, "bgr", 48, 48))) == 5


@pytest.mark.parametrize("isa", available_isas())
def test_detect(benchmark: Any, frame: np.ndarray, isa: str) -> None:
    benchmark.group = "find the faces of a 640×480 frame"
    benchmark.extra_info["isa"] = isa
    assert len(benchmark(Detector(isa=isa).detect, frame)) == 1


def test_detect_by_yunet(benchmark: Any, frame: np.ndarray, data_dir: Path) -> None:
    benchmark.group = "find the faces of a 640×480 frame"
    benchmark.extra_info["isa"] = "YuNet at 320×240"
    detector = YuNetDetector(data_dir / "detectors" / "face_detection_yunet_2023mar.onnx", max_side=320)
    assert len(benchmark(detector.detect, frame)) == 1


def test_detect_by_haar(benchmark: Any, frame: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "CascadeClassifier"):
        pytest.skip(f"OpenCV {cv2.__version__} has no Haar cascade")
    benchmark.group = "find the faces of a 640×480 frame"
    benchmark.extra_info["isa"] = "Haar"
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    squares = benchmark(cascade.detectMultiScale, gray, scaleFactor=1.1, minNeighbors=5, minSize=(48, 48))
    assert len(squares) >= 1
