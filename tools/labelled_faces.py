"""Faces of FER+ or of a user's own pictures: with labels, as the run-time path wants them (frame and box), or cut out.

Imports numpy, OpenCV, tqdm, mxn_edge's detector, preprocess and student, and tools.ferplus.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from mxn_edge._core import Cropper
from mxn_edge.detector import FaceDetector
from mxn_edge.preprocess import Frame, Preprocessor, check_frame, empty_faces
from mxn_edge.student import Student, mean_logits
from mxn_edge.weights import INPUT_SIZE
from tools.ferplus import LABELS, read_ferplus

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp")

#: Other names of our labels, as data sets and models use them.
_ALIASES = {
    "angry": "anger",
    "contemptuous": "contempt",
    "disgusted": "disgust",
    "fearful": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
}


class LabelledFacesError(ValueError):
    """The data cannot be used; the message says which file and why."""


class Box(NamedTuple):
    """Left, top, width and height in pixels of a frame; may reach over its borders."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class LabelledFaces:
    """Faces to be classified.

    Attributes:
        frames: picture that each face is in.
        boxes: where in it.
        labels: class of each face, an index into the model's labels.
        persons: whose face it is; empty where that is not known.
        left_out: number of pictures in which no face was found.
        agreed: which faces more than half of the raters gave the same label; None where that is not known.
    """

    frames: list[Frame]
    boxes: list[Box]
    labels: NDArray[np.int64]
    persons: list[str]
    left_out: int = 0
    agreed: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def crop(self, preprocessor: Preprocessor) -> NDArray[np.uint8]:
        """What the student sees of them: (N, 84, 84), or (N, views, 84, 84) where the preprocessor makes several."""
        faces = empty_faces(len(self), preprocessor.views)
        for frame, box, face in zip(self.frames, self.boxes, faces, strict=True):
            preprocessor.crop_box(frame, *box, face)
        return faces[:, 0] if preprocessor.views == 1 else faces

    def logits(self, student: Student, preprocessor: Preprocessor) -> NDArray[np.float32]:
        """The student's answers, (N, classes): means over the preprocessor's views."""
        faces = self.crop(preprocessor)
        return mean_logits(student, faces.reshape(len(self), preprocessor.views, INPUT_SIZE, INPUT_SIZE))


def read_labelled_faces(
    path: Path, names: Sequence[str], *, split: str = "valid", detector: FaceDetector | None = None
) -> LabelledFaces:
    """Read ferplus.npz (one split), a tree of label folders, or a CSV file with the columns file, label and person.

    Args:
        path: an .npz file, a .csv file or a folder.
        names: the model's labels; every label of the data must be among them, by its name or a common synonym.
        split: split of FER+.
        detector: finds the face of each picture, the largest one counts; None: a picture is a face. FER+ has faces.

    Raises:
        OSError, FerPlusError, LabelledFacesError: the data cannot be used.
    """
    classes = {_canonical(name): index for index, name in enumerate(names)}
    if path.suffix.lower() == ".npz":
        return _ferplus(path, split, classes)
    rows = list(_rows_of_csv(path) if path.suffix.lower() == ".csv" else _rows_of_tree(path))
    if not rows:
        raise LabelledFacesError(f"{path}: no pictures ({', '.join(IMAGE_SUFFIXES)})")
    if foreign := {label for _, label, _ in rows if _canonical(label) not in classes}:
        raise LabelledFacesError(f"{path}: labels {', '.join(sorted(foreign))} are not the model's: {', '.join(names)}")
    frames, boxes, labels, persons = [], [], [], []
    for file, label, person in rows:
        frame = _read_picture(file)
        box = Box(0, 0, frame.pixels.shape[1], frame.pixels.shape[0])
        if detector is not None:
            detections = detector.detect(frame.pixels, frame.color)
            if not detections:
                continue
            x, y, side = max(detections, key=lambda detection: detection.square.side).square
            frame, box = _surroundings(frame, Box(x, y, side, side))
        frames.append(frame)
        boxes.append(box)
        labels.append(classes[_canonical(label)])
        persons.append(person)
    if not frames:
        raise LabelledFacesError(f"{path}: no face was found in any of {len(rows)} pictures")
    return LabelledFaces(frames, boxes, np.array(labels), persons, len(rows) - len(frames))


def read_unlabelled_faces(folder: Path, detector: FaceDetector, size: int) -> NDArray[np.uint8]:
    """Cut the largest face out of every picture below a folder; pictures without one are left out.

    Args:
        folder: pictures at any depth.
        detector: finds the faces.
        size: side of the squares that are returned, in pixels.

    Returns:
        (N, size, size), grey, in the order of the files' names.

    Raises:
        OSError, LabelledFacesError: the pictures cannot be read, or no face was found.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    crop, faces = Cropper().crop, []
    for file in tqdm(files, "finding faces", leave=False, disable=None):
        frame = _read_picture(file)
        if detections := detector.detect(frame.pixels, frame.color):
            x, y, side = max(detections, key=lambda detection: detection.square.side).square
            faces.append(np.empty((size, size), np.uint8))
            crop(frame.pixels, frame.color, x, y, side, side, faces[-1])
    if not faces:
        raise LabelledFacesError(f"{folder}: no face was found in any of {len(files)} pictures")
    return np.stack(faces)


def read_cropped_faces(folder: Path) -> list[Frame]:
    """Read every picture below a folder, in the order of the files' names; each is a face.

    Raises `OSError` or `LabelledFacesError` when one cannot be read or there is none.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise LabelledFacesError(f"{folder}: no pictures ({', '.join(IMAGE_SUFFIXES)})")
    return [_read_picture(file) for file in files]


def _canonical(label: str) -> str:
    label = label.strip().lower()
    return _ALIASES.get(label, label)


def _ferplus(path: Path, split: str, classes: dict[str, int]) -> LabelledFaces:
    faces = read_ferplus(path, split)
    if absent := {LABELS[label] for label in np.unique(faces.labels)} - classes.keys():
        raise LabelledFacesError(f"the model does not know FER+'s {', '.join(sorted(absent))}")
    index = np.array([classes.get(label, -1) for label in LABELS])
    frames = [check_frame(image, "gray") for image in faces.images]
    size = faces.images.shape[1]
    boxes, persons = [Box(0, 0, size, size)] * len(faces), [""] * len(faces)
    return LabelledFaces(frames, boxes, index[faces.labels], persons, agreed=faces.targets.max(axis=1) > 0.5)


def _rows_of_tree(path: Path) -> Iterator[tuple[Path, str, str]]:
    for folder in sorted(path.iterdir()):
        if folder.is_dir():
            for file in sorted(folder.rglob("*")):
                if file.suffix.lower() in IMAGE_SUFFIXES:
                    yield file, folder.name, re.split("[_-]", file.stem)[0]


def _rows_of_csv(path: Path) -> Iterator[tuple[Path, str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if absent := {"file", "label"} - set(rows.fieldnames or ()):
            raise LabelledFacesError(f"{path}: no column {', '.join(sorted(absent))}")
        for row in rows:
            if not row["file"] or not row["label"]:
                raise LabelledFacesError(f"{path}: line {rows.line_num} lacks a file or a label")
            yield path.parent / row["file"], row["label"], row.get("person") or ""


def _read_picture(path: Path) -> Frame:
    data = np.fromfile(path, np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if pixels is None:
        raise LabelledFacesError(f"{path}: not a readable picture")
    return check_frame(pixels.astype(np.uint8, copy=False))


def _surroundings(frame: Frame, box: Box) -> tuple[Frame, Box]:
    """Only the box and half its size around it, so that a large set of photos fits into memory."""
    rows, columns = frame.pixels.shape[:2]
    left, top = max(int(box.x - box.width / 2), 0), max(int(box.y - box.height / 2), 0)
    right, bottom = min(int(box.x + box.width * 1.5) + 1, columns), min(int(box.y + box.height * 1.5) + 1, rows)
    part = frame.pixels[top:bottom, left:right].copy()
    return Frame(part, frame.color), box._replace(x=box.x - left, y=box.y - top)
