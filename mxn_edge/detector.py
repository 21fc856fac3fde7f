"""Frame -> face boxes, through OpenCV. Imports preprocess and, when a detector is made, cv2.

Every detector draws its boxes in its own way; each one here says how its box relates to the square that students are
trained on (`Detection.square`), so that they may be exchanged.
"""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mxn_edge.preprocess import Frame, Square

_REMEDY = (
    "install OpenCV 4 (pip install 'opencv-python-headless>=4.10,<5'), or give the YuNet face detector's file, which "
    "OpenCV 4 and 5 run: Recognizer(detector='face_detection_yunet_2023mar.onnx')"
)


class DetectorUnavailableError(RuntimeError):
    """A face detector cannot be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A face that a detector found.

    Attributes:
        x, y, width, height: its box in pixels of the frame, as the detector drew it; may reach over the borders.
        score: how sure the detector is, in its own unit; larger is surer.
        square: the square to cut out, as a Viola-Jones detector would draw it.
    """

    x: float
    y: float
    width: float
    height: float
    score: float
    square: Square


class Detector(Protocol):
    """What `Recognizer` needs of a detector; it may be called by several threads at once."""

    def detect(self, frame: Frame) -> list[Detection]:
        """Faces of a frame that `check_frame` has checked, in any order."""


def _detection(box: list[float], score: float, scale: float) -> Detection:
    """`scale`: side of the square, in units of the box's mean side."""
    x, y, width, height = box
    side = scale * math.sqrt(width * height)
    square = Square(x + (width - side) / 2, y + (height - side) / 2, side)
    return Detection(x, y, width, height, score, square)


def _import_cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise DetectorUnavailableError(f"OpenCV cannot be imported ({error}); {_REMEDY}") from error
    return cv2


class HaarDetector:
    """OpenCV's Viola-Jones detector with its frontal face cascade; OpenCV 4 only.

    Args:
        min_face: side of the smallest face, as a fraction of the frame's shorter side.

    Raises:
        DetectorUnavailableError: OpenCV is missing, or is a release without cascades (5 and later).
    """

    #: FER+ faces fill their pictures; this cascade's box has 0.98 of the picture's side (median of 573).
    _SCALE = 1.02

    def __init__(self, *, min_face: float = 0.1) -> None:
        if not 0 < min_face <= 1:
            raise ValueError(f"min_face is {min_face}; expected a fraction of the frame's shorter side, above 0 to 1")
        self._min_face = min_face
        self._cv2 = _import_cv2()
        if not hasattr(self._cv2, "CascadeClassifier"):
            raise DetectorUnavailableError(f"OpenCV {self._cv2.__version__} has no CascadeClassifier; {_REMEDY}")
        self._local = threading.local()
        self._cascade()

    def _cascade(self) -> Any:
        # A cascade keeps state while it detects: each thread has its own.
        cascade = getattr(self._local, "cascade", None)
        if cascade is None:
            path = Path(self._cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
            if not path.is_file():
                raise DetectorUnavailableError(f"OpenCV's cascade file {path} is missing; {_REMEDY}")
            cascade = self._local.cascade = self._cv2.CascadeClassifier(str(path))
        return cascade

    def detect(self, frame: Frame) -> list[Detection]:
        """Faces of a frame; the score is the number of overlapping hits that were merged."""
        gray = _convert(self._cv2, frame, "gray")
        smallest = max(24, round(self._min_face * min(gray.shape)))
        boxes, hits = self._cascade().detectMultiScale2(
            gray, scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest)
        )
        return [
            _detection(box, float(score), self._SCALE)
            for box, score in zip(np.asarray(boxes, float).tolist(), np.ravel(hits), strict=True)
        ]


class YuNetDetector:
    """OpenCV's YuNet detector, from the user's copy of its ONNX file; OpenCV 4.5.4 and later, 5 included.

    Args:
        path: face_detection_yunet_2023mar.onnx of the OpenCV model zoo.
        score_threshold: least score, 0 to 1.
        max_side: larger frames are reduced to this many pixels on the longer side; smaller finds fewer small faces,
            in less time.

    Raises:
        FileNotFoundError: there is no such file.
        DetectorUnavailableError: OpenCV is missing or cannot run the file.
    """

    #: This detector's box is 0.77 wide and 0.99 high on a FER+ face of side 1 (medians of 629).
    _SCALE = 1.15
    #: With a side of 32 or less OpenCV 4.14 finds faces in blank frames, different ones each time; with 64 it does not.
    _LEAST_SIDE = 64

    def __init__(self, path: str | os.PathLike[str], *, score_threshold: float = 0.7, max_side: int = 640) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no detector file {os.fspath(path)!r}")
        self._path = os.fspath(path)
        self._score_threshold = score_threshold
        self._max_side = max_side
        self._cv2 = _import_cv2()
        self._local = threading.local()
        self._network()

    def _network(self) -> Any:
        # The network keeps its input size: each thread has its own.
        network = getattr(self._local, "network", None)
        if network is None:
            try:
                network = self._cv2.FaceDetectorYN.create(self._path, "", (320, 320), self._score_threshold)
            except (AttributeError, self._cv2.error) as error:
                version = self._cv2.__version__
                reason = str(getattr(error, "err", error)).strip()
                raise DetectorUnavailableError(
                    f"OpenCV {version} cannot run {self._path} as a YuNet detector ({reason}); give "
                    "face_detection_yunet_2023mar.onnx of the OpenCV model zoo, with OpenCV 4.5.4 or later"
                ) from error
            self._local.network = network
        return network

    def detect(self, frame: Frame) -> list[Detection]:
        """Faces of a frame; the score is the network's, 0 to 1."""
        cv2 = self._cv2
        bgr = _convert(cv2, frame, "bgr")
        height, width = bgr.shape[:2]
        scale = min(1.0, self._max_side / max(height, width))
        if scale < 1.0:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
        reduced_height, reduced_width = bgr.shape[:2]
        bottom, right = max(0, self._LEAST_SIDE - reduced_height), max(0, self._LEAST_SIDE - reduced_width)
        if bottom or right:
            bgr = cv2.copyMakeBorder(bgr, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        network = self._network()
        network.setInputSize((bgr.shape[1], bgr.shape[0]))
        _, found = network.detect(bgr)
        if found is None:
            return []
        to_frame = np.array([width / reduced_width, height / reduced_height] * 2)
        return [
            _detection(box, float(score), self._SCALE)
            for box, score in zip((found[:, :4] * to_frame).tolist(), found[:, 14], strict=True)
            if _is_plausible(box, width, height)
        ]


def _is_plausible(box: list[float], width: int, height: int) -> bool:
    """Whether a box has a size and touches the frame; NaN is not plausible."""
    x, y, box_width, box_height = box
    largest = 2 * max(width, height)
    sized = 1 <= box_width <= largest and 1 <= box_height <= largest
    return sized and -box_width < x < width and -box_height < y < height


def _convert(cv2: ModuleType, frame: Frame, color: str) -> NDArray[np.uint8]:
    """The frame's pixels in another order of channels, contiguous as OpenCV wants them."""
    pixels = np.ascontiguousarray(frame.pixels)
    if frame.color == color:
        return pixels
    code = getattr(cv2, f"COLOR_{frame.color.upper()}2{color.upper()}")
    converted: NDArray[np.uint8] = cv2.cvtColor(pixels, code)
    return converted
