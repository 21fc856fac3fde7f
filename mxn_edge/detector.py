"""Frame -> face boxes. Imports _core, preprocess and weights; cv2 only when a YuNet detector is made.

Every detector draws its boxes in its own way; each one here says how its box relates to the square that students are
trained on (`Box.square`), so that they may be exchanged.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mxn_edge import _core
from mxn_edge.preprocess import Frame, Square, check_frame
from mxn_edge.weights import read_detector_weights

DEFAULT_DETECTOR = Path(__file__).parent / "models" / "detector.safetensors"


class DetectorUnavailableError(RuntimeError):
    """A face detector cannot be had; the message says why and what to do."""


class Box(NamedTuple):
    """A face that a detector found.

    Attributes:
        x, y, width, height: in pixels of the frame (pixel i covers [i, i + 1)), from the forehead to the chin; may
            reach over the borders.
        score: how sure the detector is, 0 to 1; larger is surer.
        square: the square to cut out for a student.
    """

    x: float
    y: float
    width: float
    height: float
    score: float
    square: Square


class FaceDetector(Protocol):
    """What `Recognizer` needs of a detector; it may be called by several threads at once."""

    def detect(self, frame: NDArray[np.uint8], color: str = "bgr") -> list[Box]:
        """Faces of a frame, in any order; the frame and its colour are as `check_frame` takes them."""


class Detector:
    """The detector of the package: a small convolutional network over a grey, reduced frame, all of it in C.

    Immutable: one instance may be used by many threads at once. How it was trained, what it finds and what it misses:
    docs/detector.md.

    Args:
        model: a weight file of `tools/train_detector.py`, or None for the one that comes with the package.
        min_face: side of the smallest face to look for, as a fraction of the frame's shorter side. Half of it costs
            four times as much; faces that have fewer than a dozen pixels in the frame are not found at all.
        score_threshold: least score of a face, 0 to 1; None for what the weight file recommends.
        max_faces: of these the surest are returned.
        isa: instruction set, one of `mxn_edge.available_isas()`; default: `mxn_edge.active_isa()`.

    Raises:
        OSError, WeightFileError: the weight file cannot be opened, or is not valid.
        ValueError: an argument is out of its range, or the instruction set is not available.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        min_face: float = 0.1,
        score_threshold: float | None = None,
        max_faces: int = 32,
        isa: str | None = None,
    ) -> None:
        weights = read_detector_weights(DEFAULT_DETECTOR if model is None else model)
        threshold = weights.score_threshold if score_threshold is None else score_threshold
        if not 0 < min_face <= 1:
            raise ValueError(f"min_face is {min_face}; expected a fraction of the frame's shorter side, above 0 to 1")
        if not 0 <= threshold <= 1:
            raise ValueError(f"score_threshold is {threshold}; expected a number from 0 to 1")
        if max_faces < 1:
            raise ValueError(f"max_faces is {max_faces}; expected 1 or more")
        self._network = _core.DetectorNetwork(weights.tensors, isa)
        self._options = (float(min_face), float(threshold), int(max_faces))
        #: Least score that the weight file recommends.
        self.recommended_threshold = weights.score_threshold
        #: Instruction set that runs.
        self.isa: str = self._network.isa

    def detect(self, frame: NDArray[np.uint8], color: str = "bgr") -> list[Box]:
        """Faces of a frame, the surest first; the GIL is released meanwhile.

        Args:
            frame: uint8, H × W, H × W × 1, H × W × 3 or H × W × 4, any strides.
            color: order of the channels, see `mxn_edge.preprocess.check_frame`.

        Raises:
            TypeError, ValueError: the frame is not such an array.
        """
        checked = check_frame(frame, color)
        found = self._network.detect(checked.pixels, checked.color, *self._options)
        return [Box(x, y, w, h, score, Square(left, top, side)) for x, y, w, h, score, left, top, side in found]


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

    def detect(self, frame: NDArray[np.uint8], color: str = "bgr") -> list[Box]:
        """Faces of a frame; see `FaceDetector`."""
        cv2 = self._cv2
        bgr = _to_bgr(cv2, check_frame(frame, color))
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
        to_frame = np.array([width / reduced_width, height / reduced_height] * 2 + [1.0])
        scaled: list[tuple[float, float, float, float, float]] = (found[:, [0, 1, 2, 3, 14]] * to_frame).tolist()
        plausible = (box for box in scaled if _is_plausible(box, width, height))
        return [Box(*box, Square(*_core.face_square(*box[:4], self._SCALE))) for box in plausible]


def _is_plausible(box: tuple[float, float, float, float, float], width: int, height: int) -> bool:
    """Whether a box has a size and touches the frame; NaN is not plausible."""
    x, y, box_width, box_height, _ = box
    largest = 2 * max(width, height)
    sized = 1 <= box_width <= largest and 1 <= box_height <= largest
    return sized and -box_width < x < width and -box_height < y < height


def _import_cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise DetectorUnavailableError(
            f"YuNet needs OpenCV, which cannot be imported ({error}): pip install 'mxn-edge[opencv]', or leave out "
            "the file: the package has a detector of its own"
        ) from error
    return cv2


def _to_bgr(cv2: ModuleType, frame: Frame) -> NDArray[np.uint8]:
    """The frame's pixels blue first, contiguous as OpenCV wants them."""
    pixels = np.ascontiguousarray(frame.pixels)
    if frame.color == "bgr":
        return pixels
    converted: NDArray[np.uint8] = cv2.cvtColor(pixels, getattr(cv2, f"COLOR_{frame.color.upper()}2BGR"))
    return converted
