"""How much accuracy is lost when the box is wrong or the picture is bad. Imports OpenCV, mxn_edge and the data tools.

Each face is pasted into a larger frame, the frame is spoilt or the box moved, and the package's own Preprocessor cuts
it out again: what is measured is the run-time path. Beyond its border a face goes on as its mirror image, which has
the texture of a face and hair; training repeats the border instead, so that this does not flatter the student.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mxn_edge.preprocess import Frame, Preprocessor
from mxn_edge.student import Student
from tools.labelled_faces import Box, LabelledFaces
from tools.metrics import Estimate, confusion_matrix, difference

#: The largest loss of accuracy that counts as robust.
LIMIT = 0.03
# Of the box, on every side of the face: room for the largest shift and scale.
_MARGIN = 0.25

Picture = NDArray[np.uint8]
#: Of a frame and the width of the face in it.
Degrade = Callable[[Picture, float], Picture]


def _gain(factor: float) -> Degrade:
    return lambda pixels, width: cv2.convertScaleAbs(pixels, alpha=factor).astype(np.uint8, copy=False)


def _blur(pixels: Picture, width: float) -> Picture:
    return cv2.GaussianBlur(pixels, (0, 0), 0.02 * width).astype(np.uint8, copy=False)


def _jpeg(quality: int) -> Degrade:
    def compress(pixels: Picture, width: float) -> Picture:
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        flag = cv2.IMREAD_GRAYSCALE if pixels.ndim == 2 else cv2.IMREAD_COLOR
        decoded: Picture = np.asarray(cv2.imdecode(data, flag), np.uint8)
        return decoded

    return compress


@dataclass(frozen=True)
class Condition:
    """One way to make it harder.

    Attributes:
        name: what is done, for the table.
        dx, dy: shift of the box, as fractions of it.
        scale: factor on the sides of the box, about its centre.
        width: width that the face is resized to, in pixels; None leaves it.
        degrade: what happens to the frame.
    """

    name: str
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    width: int | None = None
    degrade: Degrade | None = None

    def apply(self, frame: Frame, box: Box) -> tuple[Frame, Box]:
        """Return the harder frame and the box in it."""
        pixels = frame.pixels
        if self.width is not None and self.width != round(box.width):
            pixels, box = _resize(pixels, box, self.width / box.width)
        margin = math.ceil(_MARGIN * max(box.width, box.height))
        pixels = np.asarray(cv2.copyMakeBorder(pixels, margin, margin, margin, margin, cv2.BORDER_REFLECT), np.uint8)
        box = box._replace(x=box.x + margin, y=box.y + margin)
        if self.degrade is not None:
            pixels = self.degrade(pixels, box.width)
        width, height = box.width * self.scale, box.height * self.scale
        x = box.x + self.dx * box.width + (box.width - width) / 2
        y = box.y + self.dy * box.height + (box.height - height) / 2
        return Frame(pixels, frame.color), Box(x, y, width, height)


def _resize(pixels: Picture, box: Box, factor: float) -> tuple[Picture, Box]:
    rows, columns = pixels.shape[:2]
    size = max(round(columns * factor), 1), max(round(rows * factor), 1)
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(pixels, size, interpolation=interpolation), np.uint8)
    x, y = size[0] / columns, size[1] / rows
    return resized, Box(box.x * x, box.y * y, box.width * x, box.height * y)


CONDITIONS = (
    *(Condition(f"box shifted {dx:+.0%} in x", dx=dx) for dx in (-0.1, 0.1)),
    *(Condition(f"box shifted {dy:+.0%} in y", dy=dy) for dy in (-0.1, 0.1)),
    *(
        Condition(f"box shifted {dx:+.0%} in x, {dy:+.0%} in y", dx=dx, dy=dy)
        for dx in (-0.1, 0.1)
        for dy in (-0.1, 0.1)
    ),
    Condition("box 15 % smaller", scale=0.85),
    Condition("box 15 % larger", scale=1.15),
    # The chin stays where it is.
    Condition("12 % less forehead, tighter at the sides", scale=0.88, dy=0.06),
    Condition("12 % more forehead, wider at the sides", scale=1.12, dy=-0.06),
    Condition("face 48 px wide", width=48),
    Condition("face 200 px wide", width=200),
    Condition("darker (× 0.6)", degrade=_gain(0.6)),
    Condition("brighter (× 1.4, clipped)", degrade=_gain(1.4)),
    Condition("blurred (sigma 2 % of the face)", degrade=_blur),
    Condition("JPEG, quality 75", degrade=_jpeg(75)),
    Condition("JPEG, quality 50", degrade=_jpeg(50)),
)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: the condition's name.
        accuracy: fraction of faces whose label is found.
        balanced_accuracy: mean of the recalls.
        difference: accuracy less that of the plain faces.
        within: whether no more than `LIMIT` is lost.
    """

    name: str
    accuracy: float
    balanced_accuracy: float
    difference: Estimate
    within: bool


def robustness(
    student: Student, faces: LabelledFaces, preprocessor: Preprocessor, *, resamples: int = 1000, seed: int = 0
) -> list[Row]:
    """Measure every condition; the first row is the plain faces."""
    plain = faces.logits(student, preprocessor).argmax(axis=1) == faces.labels
    rows = []
    for condition in (Condition("as it is"), *CONDITIONS):
        pairs = [condition.apply(frame, box) for frame, box in zip(faces.frames, faces.boxes, strict=True)]
        harder = replace(faces, frames=[frame for frame, _ in pairs], boxes=[box for _, box in pairs])
        answers = harder.logits(student, preprocessor).argmax(axis=1)
        confusion = confusion_matrix(faces.labels, answers, len(student.labels))
        count = confusion.sum(axis=1)
        change = difference(answers == faces.labels, plain, resamples=resamples, seed=seed)
        rows.append(
            Row(
                condition.name,
                float(confusion.trace() / count.sum()),
                float((confusion.diagonal()[count > 0] / count[count > 0]).mean()),
                change,
                change.value >= -LIMIT,
            )
        )
    return rows
