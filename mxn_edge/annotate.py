"""Draw recognised faces into a picture. Imports recognizer and cv2."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mxn_edge.recognizer import Face

_GREEN, _BLACK = (80, 220, 80), (0, 0, 0)


def annotate(picture: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.uint8]:
    """A copy of a BGR picture (uint8, H × W × 3) with a box, the expression and its probability at every face."""
    drawn = picture.copy()
    rows, columns = drawn.shape[:2]
    unit = max(1, round(min(rows, columns) / 400))
    scale = 0.55 * unit
    for face in faces:
        x, y, width, height = face.box
        cv2.rectangle(drawn, (x, y), (x + width - 1, y + height - 1), _GREEN, 2 * unit)
        text = f"{face.expression} {face.confidence:.0%}"
        (text_width, text_height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, unit)
        # Above the box where there is room, else below it; never outside the picture.
        left = max(0, min(x, columns - text_width - 2 * unit))
        top = y - text_height - baseline - 2 * unit
        if top < 0:
            top = min(y + height, rows - text_height - baseline - 2 * unit)
        corner = (left + text_width + 2 * unit, top + text_height + baseline + 2 * unit)
        cv2.rectangle(drawn, (left, top), corner, _GREEN, cv2.FILLED)
        origin = (left + unit, top + text_height + unit)
        cv2.putText(drawn, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, _BLACK, unit, cv2.LINE_AA)
    return drawn
