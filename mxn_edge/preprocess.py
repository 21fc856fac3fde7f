"""Frame and face square -> the 84×84 grey face that a student was trained for. Imports _core and numpy.

The resampling itself is one pass of C over the rows of the box (csrc/crop.c).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mxn_edge import _core
from mxn_edge.weights import INPUT_SIZE

COLORS = ("bgr", "rgb", "bgra", "rgba", "gray", "nv12", "yuyv")
_MAX_SIDE = 65535
#: How many pictures of a face a student may be shown.
VIEWS = (1, 2, 4)


class Square(NamedTuple):
    """A square in pixels of a frame (pixel i covers [i, i + 1)); it may reach over the frame's borders."""

    x: float
    y: float
    side: float


class Frame(NamedTuple):
    """A checked picture: uint8, H × W for "gray", H × W × channels otherwise, and the order of its channels."""

    pixels: NDArray[np.uint8]
    color: str


def check_frame(frame: NDArray[np.uint8], color: str = "bgr") -> Frame:
    """Check a user's picture, without copying it.

    Args:
        frame: uint8, H × W, H × W × 1, × 3 or × 4, any strides, sides from 1 to 65535.
        color: order of the channels: "bgr", "rgb", "bgra", "rgba" or "gray". A picture with one channel is grey
            whatever this says; in one with four, "bgr" and "rgb" stand for "bgra" and "rgba" (the fourth channel is
            ignored), as cameras deliver them. Two layouts of cameras whose luma is taken as it lies: "nv12", a plane
            of luma and one of colour below it, (H · 3/2) × W with an even H; and "yuyv", H × W × 2.

    Raises:
        TypeError: not an array, or not uint8.
        ValueError: wrong shape, empty, too large, an unknown colour name, or one that does not fit the channels.
    """
    if color not in COLORS:
        raise ValueError(f"color is {color!r}; expected one of {', '.join(COLORS)}")
    if not isinstance(frame, np.ndarray):
        raise TypeError(f"frame is a {type(frame).__name__}; expected a numpy array of uint8")
    if frame.dtype != np.uint8:
        raise TypeError(f"frame has dtype {frame.dtype}; expected uint8 (0..255)")
    if color in ("nv12", "yuyv"):
        frame = _luma(frame, color)
    shape = frame.shape
    channels = 1 if frame.ndim == 2 else shape[2] if frame.ndim == 3 else 0
    if channels not in (1, 3, 4):
        raise ValueError(f"frame has shape {shape}; expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if not (1 <= shape[0] <= _MAX_SIDE and 1 <= shape[1] <= _MAX_SIDE):
        raise ValueError(f"frame has shape {shape}; each side must be 1 to {_MAX_SIDE} pixels")
    if channels == 1:
        return Frame(frame if frame.ndim == 2 else frame[:, :, 0], "gray")
    if channels == 4 and color in ("bgr", "rgb"):
        return Frame(frame, color + "a")
    if color == "gray" or len(color) != channels:
        raise ValueError(f"frame has {channels} channels, but color is {color!r}")
    return Frame(frame, color)


def _luma(frame: NDArray[np.uint8], color: str) -> NDArray[np.uint8]:
    """The grey picture inside a camera's frame, H × W."""
    shape = frame.shape
    if color == "yuyv":
        if frame.ndim != 3 or shape[2] != 2:
            raise ValueError(f"frame has shape {shape}; expected (H, W, 2) for color 'yuyv'")
        return frame[:, :, 0]
    if frame.ndim != 2 or shape[0] % 3:
        raise ValueError(f"frame has shape {shape}; expected (H * 3 / 2, W) with an even H for color 'nv12'")
    return frame[: shape[0] // 3 * 2]


class Preprocessor:
    """Cuts faces out of frames, as the weights' `preprocessing` asks; one instance serves many threads.

    "face-square": the square that a Viola-Jones detector draws around a face, resampled to 84×84.
    "face-square-standardised": that, brought to mean 128 and deviation 52 (csrc/standardise.c).
    "microexpnet-paper": the protocol of the paper's authors, that square to 256×256, of it [32:256, 32:256],
    to 84×84.

    Args:
        preprocessing: one of these names.
        views: pictures of each face, 1, 2 or 4. One is the square itself; several are the square moved by a
            forty-second of its side to the left, right, top and bottom, in this order, the second and third mirrored.
        isa: instruction set, one of `mxn_edge.available_isas()`.

    Raises:
        ValueError: another number of views, or several with "microexpnet-paper", which has one; the instruction set is
            not available.
    """

    def __init__(self, preprocessing: str, *, views: int = 1, isa: str | None = None) -> None:
        self._paper = preprocessing == "microexpnet-paper"
        if views not in VIEWS:
            raise ValueError(f"views is {views!r}; expected one of {', '.join(map(str, VIEWS))}")
        if self._paper and views != 1:
            raise ValueError(f"views is {views}; weights with the preprocessing 'microexpnet-paper' take 1")
        self._cropper = _core.Cropper(isa)
        self._standardise = preprocessing == "face-square-standardised"
        self.views = int(views)

    def crop(self, frame: Frame, square: Square, out: NDArray[np.uint8]) -> None:
        """Write the face inside `square` to `out`: C-contiguous uint8, (views, 84, 84), or (84, 84) of one view."""
        self.crop_box(frame, square.x, square.y, square.side, square.side, out)

    def crop_box(self, frame: Frame, x: float, y: float, width: float, height: float, out: NDArray[np.uint8]) -> None:
        """As `crop` for a box of any shape, which is stretched to a square."""
        if not self._paper:
            self._cropper.views(frame.pixels, frame.color, x, y, width, height, self.views, self._standardise, out)
            return
        whole = np.empty((256, 256), np.uint8)
        self._cropper.crop(frame.pixels, frame.color, x, y, width, height, whole)
        self._cropper.views(whole, "gray", 32, 32, 224, 224, 1, False, out)


def empty_faces(*count: int) -> NDArray[np.uint8]:
    """Uninitialised memory for `count` faces, or for faces × views: uint8, shape (*count, 84, 84)."""
    return np.empty((*count, INPUT_SIZE, INPUT_SIZE), np.uint8)
