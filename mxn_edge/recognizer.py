"""Recognizer: frame -> the expression of every face in it. Imports detector, preprocess, student and _core.

The main job, top to bottom: detect, crop, classify.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxn_edge import _core
from mxn_edge.detector import Detector, FaceDetector, YuNetDetector
from mxn_edge.preprocess import VIEWS, Frame, Preprocessor, check_frame, empty_faces
from mxn_edge.student import Precision, Student, mean_logits, softmax


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face and its expression.

    Attributes:
        box: x, y, width, height in pixels of the frame, inside the frame.
        expression: the most probable label.
        confidence: its probability, 0 to 1.
        probabilities: probability of every label; they sum to 1.
        logits: float32, one per label, in the order of `probabilities`: the mean over the views of the face.
        detection_score: how sure the detector is that this is a face, 0 to 1; None for a face that was
            handed in already cropped.
    """

    box: tuple[int, int, int, int]
    expression: str
    confidence: float
    probabilities: dict[str, float]
    logits: NDArray[np.float32]
    detection_score: float | None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain lists, strings and numbers, for `json.dumps`."""
        return {
            "box": list(self.box),
            "expression": self.expression,
            "confidence": self.confidence,
            "probabilities": dict(self.probabilities),
            "logits": self.logits.tolist(),
            "detection_score": self.detection_score,
        }


class Recognizer:
    """Finds the faces of a frame and names their expressions. One instance may be used by several threads at once.

    Args:
        model: a `Student`, the path of a weight file, or None for the weights that come with the package.
        detector: None for the package's own `Detector`, the path of a YuNet ONNX file (needs OpenCV), or any object
            with a `detect` method like theirs.
        min_face, score_threshold, max_faces: of the package's own detector, see `Detector`.
        views: pictures of each face that the student is shown, 1, 2 or 4: moved by two of its pixels, half of them
            mirrored (see `Preprocessor`); the answer is the mean of their logits. One is fastest, four are right most
            often; None means four, or one for weights that ask for the paper's protocol.
        precision: "auto", "float32" or "int8" for a model that is loaded here, see `Student`, which keeps its own.
        isa: instruction set for what is loaded here, one of `mxn_edge.available_isas()`; default:
            `mxn_edge.active_isa()`. A `Student` keeps its own.

    Raises:
        OSError, WeightFileError: the weight file cannot be opened, or is not valid.
        ValueError: the instruction set is not available, or the precision not with these weights; an option of the
            package's detector is out of its range, or was given along with another detector; the number of views.
        DetectorUnavailableError: YuNet cannot be had.
    """

    def __init__(
        self,
        model: Student | str | os.PathLike[str] | None = None,
        detector: FaceDetector | str | os.PathLike[str] | None = None,
        *,
        min_face: float | None = None,
        score_threshold: float | None = None,
        max_faces: int | None = None,
        views: int | None = None,
        precision: Precision = "auto",
        isa: str | None = None,
    ) -> None:
        self._student = model if isinstance(model, Student) else Student.load(model, precision=precision, isa=isa)
        info = self.student.info
        if views is None:
            views = 1 if info.preprocessing == "microexpnet-paper" else max(VIEWS)
        self._preprocessor = Preprocessor(info.preprocessing, views=views, isa=info.isa)
        given = {"min_face": min_face, "score_threshold": score_threshold, "max_faces": max_faces}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if detector is not None and options:
            raise ValueError(f"{', '.join(options)}: options of the package's detector; another one was given")
        self._detector: FaceDetector
        #: Of the package's own parts; what a user has written is called step by step.
        self._pipeline: _core.Pipeline | None = None
        if detector is None:
            self._detector = Detector(isa=isa, **options)
        elif isinstance(detector, str | os.PathLike):
            self._detector = YuNetDetector(detector)
        else:
            self._detector = detector
        if type(self._detector) is Detector and type(self.student) is Student:
            self._pipeline = _in_one_call(self._detector, self.student, self._preprocessor)

    @property
    def student(self) -> Student:
        """The network that names the expressions."""
        return self._student

    @property
    def views(self) -> int:
        """Pictures of each face that the student is shown."""
        return self._preprocessor.views

    def predict(self, frame: NDArray[np.uint8], color: str = "bgr") -> list[Face]:
        """Expressions of all faces in a frame, the largest face first; an empty list when there is none.

        Args:
            frame: uint8, H × W, H × W × 1, H × W × 3 or H × W × 4, any strides.
            color: order of the channels, see `mxn_edge.preprocess.check_frame`; OpenCV and picamera2 give "bgr".

        Raises:
            TypeError: the frame is not a uint8 array.
            ValueError: its shape, size or colour name is not one of the accepted.
        """
        checked = check_frame(frame, color)
        if self._pipeline is not None:
            return [Face(*fields) for fields in self._pipeline.run(*checked)]
        found = self._detector.detect(checked.pixels, checked.color)
        detections = sorted(found, key=lambda box: box.width * box.height, reverse=True)
        faces = empty_faces(len(detections), self.views)
        for detection, face in zip(detections, faces, strict=True):
            self._preprocessor.crop(checked, detection.square, face)
        boxes = [_clip(checked, d.x, d.y, d.width, d.height) for d in detections]
        return self._classify(faces, boxes, [d.score for d in detections])

    def predict_faces(self, crops: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], color: str = "bgr") -> list[Face]:
        """Expressions of faces that are already cropped, without detection, in the order given.

        Args:
            crops: a list of pictures, or an array n × H × W or n × H × W × channels. Each is stretched to the
                network's input; a square one that holds the face from forehead to chin fits best.
            color: as for `predict`.

        Returns:
            One `Face` per picture; its `box` is the whole picture.

        Raises:
            TypeError, ValueError: as `predict`.
        """
        if isinstance(crops, np.ndarray) and (crops.ndim == 2 or (crops.ndim == 3 and crops.shape[2] in (1, 3, 4))):
            raise ValueError(f"crops has the shape of one picture, {crops.shape}; put it into a list: [crop]")
        frames = [check_frame(crop, color) for crop in crops]
        faces = empty_faces(len(frames), self.views)
        boxes = []
        for frame, face in zip(frames, faces, strict=True):
            height, width = frame.pixels.shape[:2]
            self._preprocessor.crop_box(frame, 0, 0, width, height, face)
            boxes.append((0, 0, width, height))
        return self._classify(faces, boxes, [None] * len(boxes))

    def _classify(
        self, faces: NDArray[np.uint8], boxes: list[tuple[int, int, int, int]], scores: Sequence[float | None]
    ) -> list[Face]:
        """faces: (count, views, 84, 84)."""
        if not boxes:
            return []
        labels = self.student.labels
        logits = mean_logits(self.student, faces)
        rows = softmax(logits).tolist()
        return [
            Face(
                box=box,
                expression=labels[best],
                confidence=row[best],
                probabilities=dict(zip(labels, row, strict=True)),
                logits=face_logits,
                detection_score=score,
            )
            for box, score, face_logits, row in zip(boxes, scores, logits, rows, strict=True)
            for best in [row.index(max(row))]
        ]


def _in_one_call(detector: Detector, student: Student, preprocessor: Preprocessor) -> _core.Pipeline | None:
    """Detection, crops and student without Python between them; None for the paper's crops, which take two steps."""
    if student.info.preprocessing == "microexpnet-paper":
        return None
    standardise = student.info.preprocessing == "face-square-standardised"
    parts = detector._network, preprocessor._cropper, student._network
    return _core.Pipeline(*parts, standardise, preprocessor.views, student.labels, detector._options)


def _clip(frame: Frame, x: float, y: float, width: float, height: float) -> tuple[int, int, int, int]:
    """The part of a box that lies inside the frame, in whole pixels; at least one pixel."""
    rows, columns = frame.pixels.shape[:2]
    left, top = min(max(round(x), 0), columns - 1), min(max(round(y), 0), rows - 1)
    right, bottom = min(max(round(x + width), left + 1), columns), min(max(round(y + height), top + 1), rows)
    return left, top, right - left, bottom - top
