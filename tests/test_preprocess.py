"""Crops: against Pillow's resampling, at borders, for every layout of a frame, and bad frames."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from mxn_edge import _core, available_isas
from mxn_edge.preprocess import Frame, Preprocessor, Square, check_frame, empty_faces

Image = pytest.importorskip("PIL.Image", reason="Pillow is the yardstick")


def picture(height: int = 120, width: int = 160, channels: int = 3) -> np.ndarray:
    """Structure at every scale: a smooth ramp, edges, and noise."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    smooth = 96 + 60 * np.sin(x / 9) + 40 * np.cos(y / 5 + x / 31)
    image = smooth[..., None] + rng.normal(0, 25, (height, width, channels))
    image[height // 3 : height // 2, width // 4 : width // 3] = 255
    return image.clip(0, 255).astype(np.uint8)


def crop(
    frame: np.ndarray, color: str, square: Square, preprocessing: str = "face-square", isa: str | None = None
) -> np.ndarray:
    (out,) = empty_faces(1)
    Preprocessor(preprocessing, isa=isa).crop(check_frame(frame, color), square, out)
    return out


def pillow_crop(gray: np.ndarray, square: Square, size: int = 84) -> np.ndarray:
    """The same by Pillow, on a copy whose borders are repeated far enough for the square and the filter's support."""
    margin = 300
    padded = np.pad(gray, margin, mode="edge")
    box = (square.x + margin, square.y + margin, square.x + square.side + margin, square.y + square.side + margin)
    return np.asarray(Image.fromarray(padded).resize((size, size), Image.Resampling.BILINEAR, box=box))


SQUARES = [
    Square(20, 10, 84), Square(20.25, 10.75, 84), Square(0, 0, 120), Square(31.3, 17.9, 48.6), Square(70, 60, 11),
    Square(-25, -30, 100), Square(100, 70, 130), Square(-60, -60, 280), Square(158.5, 118.5, 20), Square(50, 50, 1),
    Square(50.2, 50.7, 0.3), Square(400, 300, 50), Square(-200, 20, 90),
]  # fmt: skip


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("square", SQUARES, ids=str)
def test_matches_pillow(square: Square, isa: str) -> None:
    gray = picture(channels=1)
    found = crop(gray, "gray", square, isa=isa).astype(int)
    # Pillow rounds between its two passes, we do not.
    assert np.abs(found - pillow_crop(gray[:, :, 0], square)).max() <= 1


def test_no_change_when_nothing_is_to_be_done() -> None:
    gray = picture(channels=1)[:, :, 0]
    np.testing.assert_array_equal(crop(gray, "gray", Square(20, 10, 84)), gray[10:94, 20:104])


def test_flat_stays_flat() -> None:
    for level in (0, 1, 127, 254, 255):
        for square in SQUARES:
            assert (crop(np.full((120, 160), level, np.uint8), "gray", square) == level).all()


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("color", ["bgr", "rgb", "bgra", "rgba"])
def test_gray_conversion(color: str, isa: str) -> None:
    frame = picture(channels=len(color))
    weights = {"r": 0.299, "g": 0.587, "b": 0.114, "a": 0.0}
    expected = sum(frame[:, :, i] * weights[name] for i, name in enumerate(color))
    found = crop(frame, color, Square(20, 10, 84), isa=isa)
    assert np.abs(found - expected[10:94, 20:104]).max() < 0.51


def layouts(frame: np.ndarray) -> dict[str, np.ndarray]:
    """The same pixels in different memory."""
    read_only = frame.copy()
    read_only.flags.writeable = False
    wide = np.zeros((frame.shape[0], 2 * frame.shape[1], *frame.shape[2:]), np.uint8)
    wide[:, ::2] = frame
    result = {
        "contiguous": np.ascontiguousarray(frame),
        "read-only": read_only,
        "flipped up-down": np.ascontiguousarray(frame[::-1])[::-1],
        "flipped left-right": np.ascontiguousarray(frame[:, ::-1])[:, ::-1],
        "part of a wider one": np.pad(frame, [(3, 3), (5, 5), (0, 0)][: frame.ndim])[3:-3, 5:-5],
        "every other column": wide[:, ::2],
        "Fortran order": np.asfortranarray(frame),
    }
    if frame.ndim == 3:
        result["planar"] = np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0)
        result["channels reversed"] = np.ascontiguousarray(frame[:, :, ::-1])[:, :, ::-1]
    return result


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_any_strides(channels: int | None, isa: str) -> None:
    frame = picture(channels=channels or 1)
    frame = frame[:, :, 0] if channels is None else frame
    for square in SQUARES:
        expected = crop(frame, "bgr", square, isa="scalar")
        for name, layout in layouts(frame).items():
            np.testing.assert_array_equal(crop(layout, "bgr", square, isa=isa), expected, err_msg=name)


def test_one_pixel_frames() -> None:
    for shape in ((1, 1), (1, 200), (200, 1), (2, 3)):
        frame = np.full((*shape, 3), 77, np.uint8)
        assert (crop(frame, "bgr", Square(0, 0, max(shape))) == 77).all()


def test_paper_protocol() -> None:
    gray = picture(200, 220, 1)[:, :, 0]
    for square in (Square(10, 5, 180), Square(60, 60, 90), Square(-10, 20, 150)):
        whole = pillow_crop(gray, square, 256)
        expected = np.asarray(Image.fromarray(whole[32:, 32:]).resize((84, 84), Image.Resampling.BILINEAR))
        found = crop(gray, "gray", square, "microexpnet-paper").astype(int)
        # The borders may differ: Pillow cuts the filter off there, we repeat the last pixels.
        assert np.abs(found - expected)[1:-1, 1:-1].max() <= 2


def test_threads_share_a_preprocessor() -> None:
    preprocessor, frame = Preprocessor("face-square"), check_frame(picture())
    expected = [crop(frame.pixels, "bgr", square) for square in SQUARES]
    wrong: list[Square] = []

    def work() -> None:
        for square, face in itertools.islice(itertools.cycle(zip(SQUARES, expected, strict=True)), 400):
            (out,) = empty_faces(1)
            preprocessor.crop(frame, square, out)
            if not np.array_equal(out, face):
                wrong.append(square)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("x", "y", "width", "height"),
    [(np.nan, 0, 1, 1), (0, np.inf, 1, 1), (0, 0, 0, 1), (0, 0, 1, -1), (0, 0, np.nan, 1), (0, 0, 1e9, 1),
     (1e300, 0, 1, 1), (0, 0, 1, np.inf)],
)  # fmt: skip
def test_impossible_boxes(x: float, y: float, width: float, height: float) -> None:
    preprocessor, frame = Preprocessor("face-square"), check_frame(picture())
    (out,) = empty_faces(1)
    with pytest.raises(ValueError, match="out of range"):
        preprocessor.crop_box(frame, x, y, width, height, out)
    preprocessor.crop_box(frame, 0, 0, 50, 50, out)


def test_very_large_boxes_and_frames() -> None:
    frame = np.full((4320, 7680), 90, np.uint8)
    assert (crop(frame, "gray", Square(-1000, -2000, 9000)) == 90).all()
    for views in (1, 4):
        faces = empty_faces(views)
        Preprocessor("face-square", views=views).crop(check_frame(frame[:5, :5]), Square(-30000, -30000, 65535), faces)
        assert (faces == 90).all()


# ---- Views -----------------------------------------------------------------------------------------------------------

#: The moves, in pixels of the face, and whether it is mirrored.
VIEWS = [(-2, 0, False), (2, 0, True), (0, -2, True), (0, 2, False)]


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("square", SQUARES, ids=str)
def test_views_are_crops_of_moved_squares(square: Square, isa: str) -> None:
    frame = check_frame(picture())
    faces = empty_faces(4)
    Preprocessor("face-square", views=4, isa=isa).crop(frame, square, faces)
    for face, (dx, dy, mirrored) in zip(faces, VIEWS, strict=True):
        moved = Square(square.x + dx * square.side / 84, square.y + dy * square.side / 84, square.side)
        expected = crop(*frame, moved)[:, :: -1 if mirrored else 1]
        # A pixel whose value lies between two grey levels may be rounded either way.
        assert np.abs(face.astype(int) - expected).max() <= 1
    two = empty_faces(2)
    Preprocessor("face-square", views=2, isa=isa).crop(frame, square, two)
    np.testing.assert_array_equal(two, faces[:2])


def test_views_get_the_same_light() -> None:
    frame, square = check_frame(picture()), Square(31.3, 17.9, 48.6)
    plain, standardised = empty_faces(4), empty_faces(4)
    Preprocessor("face-square", views=4).crop(frame, square, plain)
    Preprocessor("face-square-standardised", views=4).crop(frame, square, standardised)
    side, margin = square.side * 88 / 84, square.side * 2 / 84
    whole = np.empty((88, 88), np.uint8)
    _core.Cropper().crop(*frame, square.x - margin, square.y - margin, side, side, whole)
    before = whole.copy()
    _core.standardise(whole)
    for level in range(256):
        if (before == level).any():
            assert set(standardised[plain == level]) <= {whole[before == level][0]}


@pytest.mark.parametrize("views", [0, 3, -1, 8, 1.5, "4", None])
def test_other_numbers_of_views(views: object) -> None:
    with pytest.raises(ValueError, match=r"views is .*; expected one of 1, 2, 4"):
        Preprocessor("face-square", views=views)  # type: ignore[arg-type]


def test_the_papers_protocol_has_one_view() -> None:
    with pytest.raises(ValueError, match=r"views is 2; weights with the preprocessing 'microexpnet-paper' take 1"):
        Preprocessor("microexpnet-paper", views=2)


def test_room_for_views() -> None:
    preprocessor, frame = Preprocessor("face-square", views=2), check_frame(picture())
    for faces, error in ((empty_faces(1), ValueError), (empty_faces(3), ValueError), (empty_faces(2) * 1.0, TypeError)):
        with pytest.raises(error, match=r"2 × 84 × 84|uint8"):
            preprocessor.crop(frame, Square(0, 0, 50), faces)
    with pytest.raises(ValueError, match="number of views 3 is out of range"):
        _core.Cropper().views(*frame, 0, 0, 50, 50, 3, False, empty_faces(3))
    preprocessor.crop(frame, Square(0, 0, 50), empty_faces(2))


# ---- check_frame -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "color", "expected"),
    [((4, 5), "bgr", "gray"), ((4, 5), "gray", "gray"), ((4, 5, 1), "rgb", "gray"), ((4, 5, 3), "bgr", "bgr"),
     ((4, 5, 3), "rgb", "rgb"), ((4, 5, 4), "bgr", "bgra"), ((4, 5, 4), "rgb", "rgba"), ((4, 5, 4), "bgra", "bgra"),
     ((4, 5, 4), "rgba", "rgba")],
)  # fmt: skip
def test_accepted(shape: tuple[int, ...], color: str, expected: str) -> None:
    pixels = np.zeros(shape, np.uint8)
    frame = check_frame(pixels, color)
    assert frame.color == expected
    assert np.shares_memory(frame.pixels, pixels)
    assert isinstance(frame, Frame)


@pytest.mark.parametrize(
    ("frame", "color", "error", "message"),
    [
        (np.zeros((4, 5, 3)), "bgr", TypeError, "dtype float64; expected uint8"),
        (np.zeros((4, 5, 3), np.int8), "bgr", TypeError, "dtype int8"),
        (np.zeros((4, 5, 3), bool), "bgr", TypeError, "dtype bool"),
        ([[1, 2], [3, 4]], "bgr", TypeError, "is a list; expected a numpy array"),
        (None, "bgr", TypeError, "is a NoneType"),
        (np.zeros((4, 5, 3), np.uint8), "BGR", ValueError, "color is 'BGR'; expected one of bgr, rgb"),
        (np.zeros((4, 5, 3), np.uint8), "yuv", ValueError, "expected one of"),
        (np.zeros((4, 5, 3), np.uint8), "gray", ValueError, "3 channels, but color is 'gray'"),
        (np.zeros((4, 5, 3), np.uint8), "rgba", ValueError, "3 channels, but color is 'rgba'"),
        (np.zeros((4, 5, 4), np.uint8), "gray", ValueError, "4 channels, but color is 'gray'"),
        (np.zeros((4, 5, 2), np.uint8), "bgr", ValueError, r"shape \(4, 5, 2\); expected"),
        (np.zeros((4, 5, 0), np.uint8), "bgr", ValueError, r"shape \(4, 5, 0\); expected"),
        (np.zeros(4, np.uint8), "bgr", ValueError, r"shape \(4,\); expected"),
        (np.zeros((1, 4, 5, 3), np.uint8), "bgr", ValueError, r"shape \(1, 4, 5, 3\); expected"),
        (np.zeros((0, 5, 3), np.uint8), "bgr", ValueError, "each side must be 1 to 65535"),
        (np.zeros((5, 0), np.uint8), "bgr", ValueError, "each side must be 1 to 65535"),
        (np.zeros((1, 65536), np.uint8), "bgr", ValueError, "each side must be 1 to 65535"),
    ],
)
def test_refused(frame: np.ndarray, color: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_frame(frame, color)


# --- standard light and contrast ----------------------------------------------------------------------------------


def standardised(face: np.ndarray) -> np.ndarray:
    """The definition, in numpy."""
    levels = face.astype(np.float64)
    gain = 52 / max(levels.std(), 10)
    return np.clip(np.floor((levels - levels.mean()) * gain + 128.5), 0, 255).astype(np.uint8)


def test_standardised_faces_follow_the_definition() -> None:
    frame = picture()
    for square in (Square(3, 5, 60), Square(-20, -30, 200), Square(10.5, 7.25, 31)):
        plain = crop(frame, "bgr", square)
        np.testing.assert_array_equal(crop(frame, "bgr", square, "face-square-standardised"), standardised(plain))


def test_light_and_contrast_do_not_matter_once_standardised() -> None:
    face = np.random.default_rng(0).integers(20, 120, (84, 84), np.uint8)
    whole = Square(0, 0, 84)
    expected = crop(face, "gray", whole, "face-square-standardised").astype(int)
    for other in (face + 90, face // 2 + 40, 2 * face):
        found = crop(other.astype(np.uint8), "gray", whole, "face-square-standardised").astype(int)
        assert np.abs(found - expected).max() <= 3  # a halved face has lost half a grey level


@pytest.mark.parametrize("level", [0, 7, 255])
def test_a_blank_face_becomes_grey(level: int) -> None:
    face = np.full((100, 100), level, np.uint8)
    assert (crop(face, "gray", Square(0, 0, 100), "face-square-standardised") == 128).all()


def test_faint_noise_is_not_blown_up() -> None:
    face = 100 + np.random.default_rng(0).integers(0, 2, (84, 84), np.uint8)
    found = crop(face, "gray", Square(0, 0, 84), "face-square-standardised")
    assert np.ptp(found.astype(int)) <= 6
