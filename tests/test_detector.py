"""Detectors: they find real faces, in every layout of a frame, and say what to do when they cannot be had."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mxn_edge import (
    Box,
    Detector,
    DetectorUnavailableError,
    Recognizer,
    WeightFileError,
    YuNetDetector,
    _core,
    available_isas,
)
from mxn_edge.detector import DEFAULT_DETECTOR
from mxn_edge.weights import detector_shapes, read_detector_weights

FACE = (178, 62, 90, 114)  # in the portrait, as YuNet draws it


@pytest.fixture(scope="module")
def yunet_file(data_dir: Path) -> Path:
    return data_dir / "detectors" / "face_detection_yunet_2023mar.onnx"


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def corners(box: Box) -> tuple[float, float, float, float]:
    return box.x, box.y, box.width, box.height


@pytest.mark.parametrize("isa", available_isas())
def test_finds_the_portrait(portrait: np.ndarray, isa: str) -> None:
    detector = Detector(isa=isa)
    assert detector.isa == isa
    (found,) = detector.detect(portrait)
    assert overlap(corners(found), FACE) > 0.7
    assert 0.5 < found.score <= 1


def test_the_same_face_in_every_layout(portrait: np.ndarray) -> None:
    detect = Detector().detect
    alpha = np.dstack([portrait, np.zeros_like(portrait[:, :, :1])])
    expected = detect(portrait)
    assert detect(np.ascontiguousarray(portrait[:, :, ::-1]), "rgb") == expected
    assert detect(portrait[:, :, ::-1], "rgb") == expected
    assert detect(alpha, "bgr") == expected
    assert detect(alpha[:, :, [2, 1, 0, 3]], "rgba") == expected
    assert detect(np.asfortranarray(portrait)) == expected
    assert detect(np.repeat(portrait, 2, axis=1)[:, ::2]) == expected


def test_luma_of_cameras(portrait: np.ndarray) -> None:
    detect = Detector().detect
    luma = (portrait.astype(float) @ [0.114, 0.587, 0.299]).round().astype(np.uint8)
    expected = detect(luma)
    assert len(expected) == 1
    chroma = np.random.default_rng(0).integers(0, 256, (256, 512), np.uint8)
    assert detect(np.vstack([luma, chroma]), "nv12") == expected
    assert detect(np.dstack([luma, np.full_like(luma, 128)]), "yuyv") == expected
    for shape, color in (((6, 4, 3), "nv12"), ((7, 4), "nv12"), ((6, 4), "yuyv"), ((6, 4, 3), "yuyv")):
        with pytest.raises(ValueError, match=f"for color '{color}'"):
            detect(np.zeros(shape, np.uint8), color)


def test_a_mirrored_frame_has_mirrored_faces(portrait: np.ndarray) -> None:
    (found,) = Detector().detect(portrait)
    (mirrored,) = Detector().detect(portrait[:, ::-1])
    assert (
        overlap((512 - mirrored.x - mirrored.width, mirrored.y, mirrored.width, mirrored.height), corners(found)) > 0.8
    )


@pytest.mark.parametrize("size", [(640, 480), (1920, 1080), (480, 640), (320, 240), (3840, 2160)])
def test_frames_of_many_sizes(portrait: np.ndarray, size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    scale = min(size) / 512
    frame = np.full((size[1], size[0], 3), 90, np.uint8)
    side = min(size)
    frame[:side, :side] = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    boxes = [corners(found) for found in Detector().detect(frame)]
    assert max(overlap(box, tuple(scale * v for v in FACE)) for box in boxes) > 0.6


def test_a_smaller_min_face_finds_smaller_faces(portrait: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    frame = np.full((960, 1280, 3), 90, np.uint8)
    frame[500:760, 800:1060] = cv2.resize(portrait, (260, 260), interpolation=cv2.INTER_AREA)
    (found,) = Detector(min_face=0.04).detect(frame)
    assert overlap(corners(found), (800 + 0.508 * 178, 500 + 0.508 * 62, 0.508 * 90, 0.508 * 114)) > 0.5
    assert Detector(min_face=0.5).detect(frame) == []


def test_options_are_checked(portrait: np.ndarray) -> None:
    for name, values in {
        "min_face": (0, -1, 1.5, float("nan")),
        "score_threshold": (-0.1, 1.1, float("nan")),
        "max_faces": (0, -3),
    }.items():
        for value in values:
            with pytest.raises(ValueError, match=name):
                Detector(**{name: value})
            with pytest.raises(ValueError, match=name):
                Recognizer(**{name: value})
    everything = Detector(score_threshold=0.02, max_faces=100).detect(portrait)
    assert len(everything) > 1
    scores = [box.score for box in everything]
    assert scores == sorted(scores, reverse=True)
    assert Detector(score_threshold=0.02, max_faces=1).detect(portrait) == everything[:1]
    with pytest.raises(ValueError, match="min_face, max_faces: options of the package's detector"):
        Recognizer(detector=Detector(), min_face=0.1, max_faces=3)
    with pytest.raises(ValueError, match="'mmx' is not available"):
        Detector(isa="mmx")


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500), (3, 2, 4), (20, 20, 1), (700, 5, 3), (1, 5000, 3)])
def test_tiny_frames(shape: tuple[int, ...]) -> None:
    assert Detector().detect(np.full(shape, 100, np.uint8)) == []


def test_bad_frames_leave_it_usable(portrait: np.ndarray) -> None:
    detector = Detector()
    for frame in (np.zeros((0, 5, 3), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.float32), None):
        with pytest.raises((TypeError, ValueError)):
            detector.detect(frame)  # type: ignore[arg-type]
    assert len(detector.detect(portrait)) == 1


def test_threads_share_a_detector(portrait: np.ndarray) -> None:
    detector = Detector()
    frames = [portrait, portrait[50:400], np.ascontiguousarray(portrait[::2, ::2]), np.zeros((480, 640, 3), np.uint8)]
    expected = [detector.detect(frame) for frame in frames]
    results = []

    def work() -> None:
        results.append(all(detector.detect(f) == e for _ in range(20) for f, e in zip(frames, expected, strict=True)))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 6


# ---- Its weight file -------------------------------------------------------------------------------------------------


def test_the_weights_of_the_package() -> None:
    weights = read_detector_weights(DEFAULT_DETECTOR)
    assert {name: tensor.shape for name, tensor in weights.tensors.items()} == detector_shapes()
    assert DEFAULT_DETECTOR.stat().st_size <= 400_000


def test_hostile_weight_files(tmp_path: Path) -> None:
    tensors = load_file(DEFAULT_DETECTOR)
    metadata = {"format": "mxn-edge-detector", "format_version": "1", "training": "", "score_threshold": "0.5"}
    path = tmp_path / "detector.safetensors"

    def refused(match: str, tensors: dict[str, np.ndarray], **changes: str | None) -> None:
        mixed = {key: value for key, value in (metadata | changes).items() if value is not None}
        save_file(tensors, path, mixed)
        with pytest.raises(WeightFileError, match=match):
            Detector(path)

    save_file(tensors, path, metadata)
    assert Detector(path).recommended_threshold == 0.5
    refused("format is 'mxn-edge'", tensors, format="mxn-edge")
    refused("metadata lacks 'score_threshold'", tensors, score_threshold=None)
    refused("expected a number", tensors, score_threshold="much")
    refused("score threshold is nan", tensors, score_threshold="nan")
    refused("missing tensors: stem.bias", {name: t for name, t in tensors.items() if name != "stem.bias"})
    refused("unknown tensors: more", tensors | {"more": np.zeros(1, np.float32)})
    refused("has shape", tensors | {"stem.bias": np.zeros(15, np.float32)})
    refused("expected F32", tensors | {"stem.bias": np.zeros(16, np.float64)})
    refused("NaN or infinity", tensors | {"stem.bias": np.full(16, np.nan, np.float32)})
    path.write_bytes(DEFAULT_DETECTOR.read_bytes()[:5000])
    with pytest.raises(WeightFileError, match="not a readable safetensors file"):
        Detector(path)
    with pytest.raises(FileNotFoundError):
        Detector(tmp_path / "absent")


# ---- Squares for the student -----------------------------------------------------------------------------------------


def test_squares_lie_on_a_grid() -> None:
    """Boxes that differ in the last digits mean the same crop."""
    d = 1e-4
    assert len({_core.face_square(100 + d * i, 50 - d * i, 61.3 - d * i, 80.2 + d * i, 1.12) for i in range(10)}) == 1
    rng = np.random.default_rng(0)
    for width, height in rng.uniform(1, 3000, (50, 2)).tolist():
        x, y = rng.uniform(-100, 2000, 2).tolist()
        left, top, side = _core.face_square(x, y, width, height, 1.12)
        exact = 1.12 * (width * height) ** 0.5
        assert abs(side - exact) <= exact / 64
        assert abs(left - (x + (width - exact) / 2)) <= 1.01 * exact / 64
        assert abs(top - (y + (height - exact) / 2)) <= 1.01 * exact / 64


def test_squares_frame_a_face_as_the_training_data_does(data_dir: Path, yunet_file: Path) -> None:
    """On training pictures with room around them, the square must be the picture."""
    cv2 = pytest.importorskip("cv2")
    images = np.load(data_dir / "ferplus.npz")["valid_images"][:150]
    size, room = 144, 72
    for detector in (Detector(), YuNetDetector(yunet_file)):
        squares = []
        for image in images:
            large = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
            found = detector.detect(cv2.copyMakeBorder(large, room, room, room, room, cv2.BORDER_REPLICATE))
            squares += [np.subtract(box.square, (room, room, 0)) / size for box in found]
        assert len(squares) > 100
        x, y, side = np.median(squares, axis=0)
        assert abs(side - 1) < 0.05, detector
        assert abs(x + side / 2 - 0.5) < 0.03, detector
        assert abs(y + side / 2 - 0.5) < 0.05, detector


# ---- YuNet -----------------------------------------------------------------------------------------------------------


def test_yunet_reduces_large_frames(portrait: np.ndarray, yunet_file: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    large = cv2.resize(portrait, None, fx=4, fy=4)
    (found,) = YuNetDetector(yunet_file, max_side=320).detect(large)
    assert overlap(corners(found), (712, 252, 360, 456)) > 0.7


def test_yunet_in_every_colour_order(portrait: np.ndarray, yunet_file: Path) -> None:
    detect = YuNetDetector(yunet_file).detect
    alpha = np.dstack([portrait, np.zeros_like(portrait[:, :, :1])])
    expected = detect(portrait)
    assert detect(portrait[:, :, ::-1], "rgb") == expected
    assert detect(alpha[:, :, [2, 1, 0, 3]], "rgba") == expected


def test_yunet_on_tiny_frames(yunet_file: Path) -> None:
    for shape in ((1, 1, 3), (1, 500), (3, 2, 4), (20, 20, 1), (700, 5, 3)):
        assert YuNetDetector(yunet_file).detect(np.full(shape, 100, np.uint8)) == []


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
    assert [corners(box) for box in detector.detect(np.zeros((100, 200, 3), np.uint8))] == good


def test_yunet_file_absent_or_foreign(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no detector file"):
        YuNetDetector(tmp_path / "absent.onnx")
    pytest.importorskip("cv2")
    (tmp_path / "foreign.onnx").write_bytes(b"not an ONNX file")
    with pytest.raises(DetectorUnavailableError, match=r"cannot run .*foreign\.onnx.*face_detection_yunet_2023mar"):
        Recognizer(detector=str(tmp_path / "foreign.onnx"))


def test_only_yunet_needs_opencv(monkeypatch: pytest.MonkeyPatch, portrait: np.ndarray, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert len(Recognizer().predict(portrait)) == 1
    (tmp_path / "yunet.onnx").write_bytes(b"")
    with pytest.raises(DetectorUnavailableError, match=r"cannot be imported .*mxn-edge\[opencv\]"):
        YuNetDetector(tmp_path / "yunet.onnx")
