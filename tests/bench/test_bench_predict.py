"""Preprocessing, and the whole path on a 640×480 frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxn_edge import Recognizer, available_isas
from mxn_edge.preprocess import Preprocessor, Square, check_frame, empty_faces


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("side", [50, 95, 240])
def test_crop(benchmark: Any, frame: np.ndarray, side: int, isa: str) -> None:
    benchmark.group = f"crop of {side}×{side} BGR pixels to 84×84 grey"
    benchmark.extra_info["isa"] = isa
    (out,) = empty_faces(1)
    benchmark(Preprocessor("face-square", isa=isa).crop, check_frame(frame), Square(177.3, 66.2, side), out)
    assert np.ptp(out) > 50


@pytest.mark.parametrize("side", [50, 95, 240])
def test_crop_by_opencv(benchmark: Any, frame: np.ndarray, side: int) -> None:
    cv2 = pytest.importorskip("cv2")
    benchmark.group = f"crop of {side}×{side} BGR pixels to 84×84 grey"
    benchmark.extra_info["isa"] = f"OpenCV {cv2.__version__}"
    interpolation = cv2.INTER_AREA if side > 84 else cv2.INTER_LINEAR

    def crop() -> Any:
        gray = cv2.cvtColor(frame[66 : 66 + side, 177 : 177 + side], cv2.COLOR_BGR2GRAY)
        return cv2.resize(gray, (84, 84), interpolation=interpolation)

    assert benchmark(crop).shape == (84, 84)


@pytest.mark.parametrize("isa", available_isas())
def test_predict(benchmark: Any, frame: np.ndarray, isa: str) -> None:
    benchmark.group = "predict, 640×480"
    benchmark.extra_info["isa"] = isa
    faces = benchmark(Recognizer(isa=isa).predict, frame)
    assert "happiness" in {face.expression for face in faces}


def test_predict_without_a_face(benchmark: Any) -> None:
    data = pytest.importorskip("skimage.data")
    benchmark.group = "predict, 640×480"
    coffee = np.tile(data.coffee()[:, :, ::-1], (2, 2, 1))[:480, :640]
    assert benchmark(Recognizer().predict, coffee) == []


def test_predict_with_yunet(benchmark: Any, frame: np.ndarray, data_dir: Path) -> None:
    benchmark.group = "predict, 640×480"
    recognizer = Recognizer(detector=data_dir / "detectors" / "face_detection_yunet_2023mar.onnx")
    faces = benchmark(recognizer.predict, frame)
    assert [face.expression for face in faces] == ["happiness"]
