"""The detector's network and the scaler in C against plain NumPy, for every instruction set."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from mxn_edge import _core, available_isas
from mxn_edge.detector import DEFAULT_DETECTOR
from mxn_edge.weights import detector_shapes, read_detector_weights
from tests.detector_reference import answers, cell_boxes, refiner_answers, scale_gray, suppress

SIZES = [(1, 1), (2, 3), (17, 31), (45, 60), (7, 100)]
COLORS = {"gray": (1, [1.0]), "bgr": (3, [0.114, 0.587, 0.299]), "rgba": (4, [0.299, 0.587, 0.114, 0.0])}


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """Random weights that keep activations near 1 (He), depthwise sums below 8, and scores on both sides of a half."""
    rng = np.random.default_rng(0)
    made = {}
    for name, shape in detector_shapes().items():
        spread = 0.3 if name.endswith("bias") else (2 / np.prod(shape[:-1])) ** 0.5
        spread *= 0.25 if name.endswith("depthwise") else 4 if name.endswith("pointwise") else 1
        made[name] = (spread * rng.standard_normal(shape)).astype(np.float32)
        if "out" in name:
            made[name][..., 0] *= 0.5
            made[name][..., 1:] *= 0.1  # boxes of about the size of a face
    return made


def rounds(isa: str) -> bool:
    """Whether its units multiply 16-bit integers."""
    return isa in ("avx512vnni", "avxvnni", "avx2", "sse2")


def allowed_error(isa: str) -> float:
    """Of answers, as a share of the largest: a depthwise sum may be rounded the other way."""
    return 1e-3 if rounds(isa) else 2e-5


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("size", SIZES)
def test_network(tensors: dict[str, np.ndarray], isa: str, size: tuple[int, int]) -> None:
    gray = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    network = _core.DetectorNetwork(tensors, isa)
    assert network.isa == isa
    expected = answers(tensors, gray, rounds(isa))
    found = network.answers(gray)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= allowed_error(isa) * np.abs(expected).max()


def test_network_in_torch(tensors: dict[str, np.ndarray]) -> None:
    """What is trained is what runs."""
    torch = pytest.importorskip("torch")
    from tools.detector_network import (
        DetectorNetwork,
        Refiner,
        as_input,
        depthwise_peaks,
        equalise,
        refiner_tensors,
        tensors_of,
    )
    from tools.train_refiner import as_refined_input

    torch.manual_seed(0)
    trained, refiner = DetectorNetwork(), Refiner()
    with torch.no_grad():
        for module in [*trained.modules(), *refiner.modules()]:
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
    gray = np.random.default_rng(2).integers(0, 256, (72, 97), np.uint8)
    pixels = np.random.default_rng(3).integers(0, 256, (48, 48), np.uint8)
    with torch.no_grad():
        expected = trained.eval()(as_input(gray[None]))[0].numpy()
    made = tensors_of(trained) | refiner_tensors(refiner)
    plain = _core.DetectorNetwork(made, "scalar")
    peaks = depthwise_peaks(trained, [as_input(gray[None])])
    equalise(made, peaks + depthwise_peaks(refiner.eval(), [as_refined_input(pixels[None])]))
    assert np.array_equal(_core.DetectorNetwork(made, "scalar").answers(gray), plain.answers(gray))
    network = _core.DetectorNetwork(made)
    assert np.abs(network.answers(gray) - expected).max() <= 1e-3 * np.abs(expected).max()
    # Every channel's sums fill 16 bits between a quarter and a half.
    for peak, weight in zip(peaks, (made[name] for name in made if name.endswith(".depthwise")), strict=False):
        name = next(name for name in made if made[name] is weight)
        size = peak * abs(weight / tensors_of(trained)[name]).max((0, 1))
        assert (((size > 2) | (peak < 1e-4)) & (size <= 4)).all()
    standardised = pixels.copy()
    _core.standardise(standardised)
    with torch.no_grad():
        expected = refiner.eval()(as_refined_input(pixels[None]))[0].numpy()
    # Training does not round the standardised pixels.
    assert np.allclose(network.refiner_answers(standardised), expected, atol=0.05)


def look(
    tensors: dict[str, np.ndarray], frame: np.ndarray, reduced: np.ndarray, boxes: np.ndarray, mirrored: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """New boxes and logits. A square that is reduced anyway is cut from the reduced frame."""
    to_y, to_x = np.array(reduced.shape) / frame.shape
    cropper = _core.Cropper()
    pixels = np.empty((48, 48), np.uint8)
    new_boxes, logits = [], []
    for x0, y0, x1, y1 in boxes:
        side = 1.4 * max(x1 - x0, y1 - y0)
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
        x, y = cx - side / 2, cy - side / 2
        if min(side * to_x, side * to_y) >= 48:
            cropper.crop(reduced, "gray", x * to_x, y * to_y, side * to_x, side * to_y, pixels)
        else:
            cropper.crop(frame, "gray", x, y, side, side, pixels)
        _core.standardise(pixels)
        shown = np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels
        logit, dx, dy, log_width, log_height = refiner_answers(tensors, shown, False)
        dx = -dx if mirrored else dx
        w, h = (side / 2 * np.exp(np.clip(v, -3, 3)) for v in (log_width, log_height))
        x, y = cx + dx * side, cy + dy * side
        new_boxes.append((x - w, y - h, x + w, y + h))
        logits.append(logit)
    return np.array(new_boxes), np.array(logits)


@pytest.mark.parametrize("isa", available_isas())
def test_second_look(tensors: dict[str, np.ndarray], isa: str) -> None:
    network = _core.DetectorNetwork(tensors, isa)
    rng = np.random.default_rng(10)
    for _ in range(3):
        pixels = rng.integers(0, 256, (48, 48), np.uint8)
        expected = refiner_answers(tensors, pixels, rounds(isa))
        assert np.abs(network.refiner_answers(pixels) - expected).max() <= allowed_error(isa) * np.abs(expected).max()
    with pytest.raises(ValueError, match="48 × 48"):
        network.refiner_answers(np.zeros((47, 48), np.uint8))


@pytest.mark.parametrize("isa", [isa for isa in available_isas() if not rounds(isa)])
@pytest.mark.parametrize("shape", [(100, 140), (61, 33), (200, 320)])
def test_boxes(tensors: dict[str, np.ndarray], isa: str, shape: tuple[int, int]) -> None:
    """From a frame to boxes, step by step in NumPy. Answers rounded another way would choose other cells."""
    # Random weights move a box so far that the next look would make much of every rounded pixel, and rule out nothing.
    unsure = tensors["refine.out.bias"] - np.array([4, 0, 0, 0, 0], np.float32)
    tensors = tensors | {"refine.out.weight": tensors["refine.out.weight"] / 4, "refine.out.bias": unsure}
    frame = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    min_face, threshold = 0.2, 0.5
    found = _core.DetectorNetwork(tensors, isa).detect(frame, "gray", min_face, threshold, 500)
    scale = min(1.0, np.floor(16 / min_face + 0.5) / min(shape))
    height, width = (int(np.floor(side * scale + 0.5)) for side in shape)
    reduced = scale_gray(frame, [1.0], width, height)
    boxes, scores = cell_boxes(answers(tensors, reduced, False), height, width)
    chosen = np.flatnonzero(scores >= 0.15)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:512]
    boxes, scores = boxes[chosen], scores[chosen]
    kept = suppress(boxes)[:16]
    boxes, scores = boxes[kept] * np.tile([shape[1] / width, shape[0] / height], 2), scores[kept]
    scores = np.minimum(scores, 0.999999)  # so that the second look can overrule it
    first = np.log(scores / (1 - scores))
    refined, second = look(tensors, frame, reduced, boxes)
    mirrored, third = look(tensors, frame, reduced, boxes, mirrored=True)
    likely = 1 / (1 + np.exp(-(first + second) / 2)) >= 0.3
    assert 0 < likely.sum() < len(likely)
    boxes = np.where(likely[:, None], (refined + mirrored) / 2, refined)
    scores = 1 / (1 + np.exp(-(first + np.where(likely, (second + third) / 2, second)) / 2))
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    kept = [i for i in suppress(boxes) if scores[i] >= threshold]
    boxes, scores = boxes[kept], scores[kept]
    boxes = (boxes + look(tensors, frame, reduced, boxes)[0]) / 2
    sides = boxes[:, 2:] - boxes[:, :2]
    seen = (boxes[:, 0] < shape[1]) & (boxes[:, 1] < shape[0]) & (boxes[:, 2:] > 0).all(1)
    wanted = seen & (np.sqrt(sides.prod(1)) >= 0.8 * min_face * min(shape))
    expected = np.concatenate([boxes[:, :2], sides, scores[:, None]], 1)[wanted]
    assert len(expected) > 0
    assert len(found) == len(expected)
    # A square's float32 corner may round a pixel of the crop the other way.
    assert np.abs(np.array(found)[:, :5] - expected)[:, :4].max() < 0.3
    assert np.abs(np.array(found)[:, :5] - expected)[:, 4].max() < 3e-3


@pytest.mark.parametrize("isa", available_isas())
def test_trained_weights_find_the_same_boxes(portrait: np.ndarray, isa: str) -> None:
    trained = read_detector_weights(DEFAULT_DETECTOR).tensors
    for frame in (portrait, portrait[:, ::-1], portrait[::2, ::2]):
        (found,), (expected,) = (
            _core.DetectorNetwork(trained, name).detect(frame, "bgr", 0.1, 0.5, 10) for name in (isa, "scalar")
        )
        assert np.abs(np.subtract(found[:4], expected[:4])).max() <= 0.003 * expected[2]
        assert abs(found[4] - expected[4]) <= 0.003


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("color", COLORS)
def test_scaling_is_exact(isa: str, color: str) -> None:
    channels, luma = COLORS[color]
    rng = np.random.default_rng(4)
    for height, width, to_height, to_width in [
        (1, 1, 1, 1),
        (13, 17, 13, 17),
        (50, 41, 7, 40),
        (97, 130, 9, 11),
        (40, 700, 2, 9),
    ]:
        frame = rng.integers(0, 256, (height, width, channels), np.uint8)
        frame = frame[:, :, 0] if channels == 1 else frame
        found = _core.Cropper(isa).reduce(frame, color, to_width, to_height)
        assert np.array_equal(found, scale_gray(frame, luma, to_width, to_height))


def test_scaling_is_the_mean_of_the_area() -> None:
    frame = np.random.default_rng(5).integers(0, 256, (90, 120, 3), np.uint8)
    gray = frame @ np.array([0.114, 0.587, 0.299])
    found = _core.Cropper().reduce(frame, "bgr", 30, 18)
    assert np.abs(found - gray.reshape(18, 5, 30, 4).mean((1, 3))).max() < 1
    for value in (0, 1, 127, 254, 255):
        for width in (91, 7000):
            flat = np.full((77, width, 3), value, np.uint8)
            found = _core.Cropper().reduce(flat, "rgb", 23, 19).astype(int)
            assert np.abs(found - value).max() <= (0 if width == 91 else 2)


def test_every_way_to_hold_a_frame() -> None:
    frame = np.random.default_rng(6).integers(0, 256, (60, 80, 3), np.uint8)
    expected = _core.Cropper().reduce(frame, "bgr", 21, 17)
    ways = [
        (frame[:, :, ::-1], "rgb"),
        (np.asfortranarray(frame), "bgr"),
        (np.dstack([frame, frame[:, :, :1]]), "bgra"),
        (np.dstack([frame, frame[:, :, :1]])[:, :, :3], "bgr"),
        (np.repeat(np.repeat(frame, 2, 0), 3, 1)[::2, ::3], "bgr"),
    ]
    for view, color in ways:
        assert np.array_equal(_core.Cropper().reduce(view, color, 21, 17), expected)
    turned = frame[::-1, ::-1]
    assert np.array_equal(
        _core.Cropper().reduce(turned, "bgr", 21, 17), _core.Cropper().reduce(turned.copy(), "bgr", 21, 17)
    )
    with pytest.raises(ValueError, match="80 × 60 cannot be reduced to 81 × 60"):
        _core.Cropper().reduce(frame, "bgr", 81, 60)


def hostile() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "black": np.zeros((480, 640, 3), np.uint8),
        "white": np.full((480, 640, 3), 255, np.uint8),
        "noise": rng.integers(0, 256, (480, 640, 3), np.uint8),
        "checkerboard": np.repeat((np.indices((480, 640)).sum(0) // 4 % 2 * 255).astype(np.uint8)[:, :, None], 3, 2),
        "line": rng.integers(0, 256, (1, 5000, 3), np.uint8),
        "column": rng.integers(0, 256, (5000, 1, 3), np.uint8),
        "pixel": np.zeros((1, 1, 3), np.uint8),
    }


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("name", hostile())
def test_hostile_frames(tensors: dict[str, np.ndarray], isa: str, name: str) -> None:
    """Random weights see faces everywhere: the worst case for what comes after the network."""
    network = _core.DetectorNetwork(tensors, isa)
    start = time.perf_counter()
    found = network.detect(hostile()[name], "bgr", 0.1, 0.0, 1000)
    assert time.perf_counter() - start < 5  # a hang, not a speed
    assert len(found) <= 512
    assert np.isfinite(np.array(found)).all()


def test_huge_weights_do_no_harm(tensors: dict[str, np.ndarray]) -> None:
    huge = {name: tensor * 1e30 for name, tensor in tensors.items()}
    frame = np.random.default_rng(8).integers(0, 256, (120, 160), np.uint8)
    for isa in available_isas():
        assert isinstance(_core.DetectorNetwork(huge, isa).detect(frame, "gray", 0.1, 0.5, 10), list)


def test_wrong_tensors(tensors: dict[str, np.ndarray]) -> None:
    lacking = {name: tensor for name, tensor in tensors.items() if name != "b1.bias"}
    with pytest.raises(ValueError, match=r"'b1\.bias' is missing"):
        _core.DetectorNetwork(lacking)
    for wrong in (np.zeros(15, np.float32), np.zeros((16, 1), np.float32)):
        with pytest.raises(ValueError, match=r"'stem\.bias' must have shape \(16,\)"):
            _core.DetectorNetwork(tensors | {"stem.bias": wrong})
    with pytest.raises(ValueError, match=r"'stem\.bias' must be native float32"):
        _core.DetectorNetwork(tensors | {"stem.bias": np.zeros(16)})


def test_wrong_options(tensors: dict[str, np.ndarray]) -> None:
    network = _core.DetectorNetwork(tensors)
    frame = np.zeros((8, 8), np.uint8)
    for options in ((0.0, 0.5, 1), (1.1, 0.5, 1), (np.nan, 0.5, 1), (0.1, -0.1, 1), (0.1, np.nan, 1), (0.1, 0.5, 0)):
        with pytest.raises(ValueError, match="out of range"):
            network.detect(frame, "gray", *options)
    with pytest.raises(TypeError):
        network.detect(np.zeros((8, 8), np.float32), "gray", 0.1, 0.5, 1)
    with pytest.raises(ValueError, match="wrong shape"):
        network.detect(frame, "bgr", 0.1, 0.5, 1)


def test_threads_and_changing_sizes(tensors: dict[str, np.ndarray]) -> None:
    network = _core.DetectorNetwork(tensors)
    rng = np.random.default_rng(9)
    frames = [rng.integers(0, 256, shape, np.uint8) for shape in ((90, 120), (31, 50), (200, 64), (90, 120))]
    expected = [network.detect(frame, "gray", 0.1, 0.5, 50) for frame in frames]
    results = []

    def work(first: int) -> None:
        order = [(first + i) % len(frames) for i in range(40)]
        results.append(all(network.detect(frames[i], "gray", 0.1, 0.5, 50) == expected[i] for i in order))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 6
