"""Detectors: they find real faces, in every layout of a frame, and say what to do when they cannot be had."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from mxn_edge import DetectorUnavailableError, HaarDetector, Recognizer, YuNetDetector
from mxn_edge.preprocess import check_frame


@pytest.fixture(scope="module")
def yunet_file(data_dir: Path) -> Path:
    return data_dir / "detectors" / "face_detection_yunet_2023mar.onnx"


def detectors(yunet_file: Path) -> list[HaarDetector | YuNetDetector]:
    return [HaarDetector(), YuNetDetector(yunet_file)]


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def test_haar_finds_the_portrait(portrait: np.ndarray) -> None:
    (found,) = HaarDetector().detect(check_frame(portrait))
    assert overlap((found.x, found.y, found.width, found.height), (177, 66, 95, 95)) > 0.8
    assert found.score > 5


def test_the_same_face_in_every_colour_order(portrait: np.ndarray) -> None:
    alpha = np.dstack([portrait, np.zeros_like(portrait[:, :, :1])])
    detect = HaarDetector().detect
    expected = detect(check_frame(portrait, "bgr"))
    assert detect(check_frame(portrait[:, :, ::-1], "rgb")) == expected
    assert detect(check_frame(alpha, "bgr")) == expected
    assert detect(check_frame(alpha[:, :, [2, 1, 0, 3]], "rgba")) == expected


def test_both_draw_the_same_square(portrait: np.ndarray, yunet_file: Path) -> None:
    (haar,), (yunet,) = (detector.detect(check_frame(portrait)) for detector in detectors(yunet_file))
    squares = [(d.square.x, d.square.y, d.square.side, d.square.side) for d in (haar, yunet)]
    assert overlap(*squares) > 0.6


def test_squares_frame_a_face_as_the_training_data_does(data_dir: Path, yunet_file: Path) -> None:
    """On training pictures with room around them, the square must be the picture."""
    cv2 = pytest.importorskip("cv2")
    images = np.load(data_dir / "ferplus.npz")["valid_images"][:150]
    size, room = 144, 72
    for detector in detectors(yunet_file):
        squares = []
        for image in images:
            large = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
            found = detector.detect(
                check_frame(cv2.copyMakeBorder(large, room, room, room, room, cv2.BORDER_REPLICATE))
            )
            squares += [np.subtract(d.square, (room, room, 0)) / size for d in found]
        assert len(squares) > 100
        x, y, side = np.median(squares, axis=0)
        assert abs(side - 1) < 0.05, detector
        assert abs(x + side / 2 - 0.5) < 0.03, detector
        assert abs(y + side / 2 - 0.5) < 0.05, detector


def test_yunet_reduces_large_frames(portrait: np.ndarray, yunet_file: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    large = cv2.resize(portrait, None, fx=4, fy=4)
    (found,) = YuNetDetector(yunet_file, max_side=320).detect(check_frame(large))
    assert overlap((found.x, found.y, found.width, found.height), (712, 252, 360, 456)) > 0.7


def test_min_face(portrait: np.ndarray) -> None:
    assert HaarDetector(min_face=0.5).detect(check_frame(portrait)) == []
    for wrong in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="min_face"):
            HaarDetector(min_face=wrong)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500), (3, 2, 4), (20, 20, 1), (700, 5, 3)])
def test_tiny_frames(shape: tuple[int, ...], yunet_file: Path) -> None:
    for detector in detectors(yunet_file):
        assert detector.detect(check_frame(np.full(shape, 100, np.uint8))) == []


def test_implausible_answers_are_dropped(yunet_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = [(10, 20, 30, 40), (-29, 20, 30, 40)]
    nonsense = [(3570.8, -7e16, 1e-15, 1.4e17), (np.nan, 1, 30, 30), (10, 10, np.inf, 9), (10, 10, 0.5, 30)]
    outside = [(10, 10, -30, 30), (200, 20, 30, 30), (10, -31, 30, 30), (0, 0, 401, 50)]
    boxes = [*good, *nonsense, *outside]
    rows = np.zeros((len(boxes), 15), np.float32)
    rows[:, :4], rows[:, 14] = boxes, 1.0
    answer = types.SimpleNamespace(setInputSize=lambda size: None, detect=lambda frame: (1, rows))
    detector = YuNetDetector(yunet_file)
    monkeypatch.setattr(detector, "_network", lambda: answer)
    found = detector.detect(check_frame(np.zeros((100, 200, 3), np.uint8)))
    assert [(d.x, d.y, d.width, d.height) for d in found] == good


# ---- When they cannot be had -----------------------------------------------------------------------------------------


def test_without_opencv(monkeypatch: pytest.MonkeyPatch, portrait: np.ndarray) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    recognizer = Recognizer()
    for call in (HaarDetector, lambda: recognizer.predict(portrait)):
        with pytest.raises(DetectorUnavailableError, match=r"cannot be imported .*opencv-python-headless>=4\.10,<5"):
            call()
    assert len(recognizer.predict_faces([portrait])) == 1  # needs no detector


def test_opencv_5_has_no_cascades(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(__version__="5.0.0"))
    with pytest.raises(DetectorUnavailableError, match=r"5\.0\.0 has no CascadeClassifier; install OpenCV 4.*YuNet"):
        HaarDetector()


def test_missing_cascade_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2.data, "haarcascades", str(tmp_path))
    with pytest.raises(DetectorUnavailableError, match=r"cascade file .* is missing; install"):
        HaarDetector()


def test_yunet_file_absent_or_foreign(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no detector file"):
        YuNetDetector(tmp_path / "absent.onnx")
    (tmp_path / "foreign.onnx").write_bytes(b"not an ONNX file")
    with pytest.raises(DetectorUnavailableError, match=r"cannot run .*foreign\.onnx.*face_detection_yunet_2023mar"):
        Recognizer(detector=str(tmp_path / "foreign.onnx"))
