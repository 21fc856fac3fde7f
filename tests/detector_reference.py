"""The face detector by plain NumPy in double precision, and the scaler by whole numbers: what C must agree with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

STRIDES = (4, 8, 16)


def _depthwise(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """x: y-x-c; weight: ky-kx-c; one zero pixel all round."""
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    height, width = x.shape[:2]
    total = sum(weight[i, j] * padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    return np.asarray(total)[::stride, ::stride]


def _enlarge(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    return x.repeat(2, 0).repeat(2, 1)[: like.shape[0], : like.shape[1]]


def _unit(t: Mapping[str, np.ndarray], name: str, x: np.ndarray, stride: int, rounded: bool) -> np.ndarray:
    sums, weight = _depthwise(x, t[f"{name}.depthwise"], stride), t[f"{name}.pointwise"]
    if rounded:
        # Sums as 16-bit integers, 4096 to 1; weights as large as no sum of products overflows with.
        sums = np.clip(np.rint(4096 * sums), -32768, 32767)
        largest, total = abs(weight).max(0), abs(weight).sum(0)
        scale = np.minimum(((2**31 - 1) / 2**15 - 0.5 * len(weight)) / total, 32767 / largest)
        pointwise = sums @ np.rint(weight * scale) / (scale * 4096)
    else:
        pointwise = sums @ weight
    return np.asarray(np.maximum(pointwise + t[f"{name}.bias"], 0))


def _stem(t: Mapping[str, np.ndarray], name: str, gray: np.ndarray) -> np.ndarray:
    x = (gray.astype(float)[:, :, None] - 128) / 64
    # A convolution of one channel is a depthwise one of as many copies.
    return np.asarray(np.maximum(_depthwise(x.repeat(16, 2), t[f"{name}.weight"], 2) + t[f"{name}.bias"], 0))


def refiner_answers(tensors: Mapping[str, np.ndarray], pixels: np.ndarray, rounded: bool) -> np.ndarray:
    """What the second look says of 48 × 48 standardised pixels: five numbers. `rounded`: with units in 16 bits."""
    t = {name: tensor.astype(float) for name, tensor in tensors.items()}
    x = _stem(t, "refine.stem", pixels)
    for i, stride in enumerate((2, 2, 1, 1)):
        x = _unit(t, f"refine{i}", x, stride, rounded)
    return np.asarray(x.reshape(-1) @ t["refine.out.weight"] + t["refine.out.bias"])


def answers(tensors: Mapping[str, np.ndarray], gray: np.ndarray, rounded: bool) -> np.ndarray:
    """What the network says of each cell, cells × 5. `rounded`: with units in 16 bits."""
    t = {name: tensor.astype(float) for name, tensor in tensors.items()}
    x = _stem(t, "stem", gray)
    maps = []
    for level in "abc":
        for i in range(3):
            x = _unit(t, f"{level}{i}", x, 2 if i == 0 else 1, rounded)
        maps.append(x)
    a, b, c = maps
    b = b + _enlarge(c, b)
    a = a + _enlarge(b @ t["lateral.weight"] + t["lateral.bias"], a)
    said = [
        _unit(t, f"head{stride}", x, 1, rounded) @ t[f"out{stride}.weight"] + t[f"out{stride}.bias"]
        for stride, x in zip(STRIDES, (a, b, c), strict=True)
    ]
    return np.concatenate([one.reshape(-1, 5) for one in said])


def cell_boxes(said: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes, cells × 4: x0, y0, x1, y1; and scores."""
    boxes = []
    start = 0
    for stride in STRIDES:
        for y in range(0, height, stride):
            for x in range(0, width, stride):
                _, dx, dy, log_width, log_height = said[start]
                cx, cy = x + 0.5 + dx * stride, y + 0.5 + dy * stride
                w, h = (2 * stride * np.exp(np.clip(v, -3, 3)) for v in (log_width, log_height))
                boxes.append((cx - w, cy - h, cx + w, cy + h))
                start += 1
    return np.array(boxes), 1 / (1 + np.exp(-said[:, 0]))


def suppress(boxes: np.ndarray) -> list[int]:
    """Non-maximum suppression of boxes that come the surest first; numbers of those that stay."""
    kept: list[int] = []
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        area = (x1 - x0) * (y1 - y0)
        for k in kept:
            width, height = min(x1, boxes[k][2]) - max(x0, boxes[k][0]), min(y1, boxes[k][3]) - max(y0, boxes[k][1])
            shared = max(width, 0) * max(height, 0)
            other = (boxes[k][2] - boxes[k][0]) * (boxes[k][3] - boxes[k][1])
            if shared > 0.4 * (area + other - shared) or shared > 0.65 * min(area, other):
                break
        else:
            kept.append(i)
    return kept


def _weights(source: int, target: int) -> np.ndarray:
    """target × source: how much of 256 each source pixel counts, by the area that it shares with the output pixel."""
    weights = np.zeros((target, source), np.int64)
    for i in range(target):
        # In units in which a source pixel is `target` wide and an output pixel `source` wide.
        edges = np.clip(np.arange(source + 1) * target - i * source, 0, source)
        weights[i] = np.diff((edges * 256 + source // 2) // source)
    return weights


def columns_covered(source: int, target: int) -> np.ndarray:
    """How many source pixels each output pixel touches."""
    start = np.arange(target) * source
    return np.asarray(-(-(start + source) // target) - start // target)


def scale_gray(frame: np.ndarray, luma: Sequence[float], width: int, height: int) -> np.ndarray:
    """uint8, height × width. luma: of each channel, in the frame's order; of ITU-R BT.601, or 1 for a grey frame."""
    pixels = frame.reshape(*frame.shape[:2], -1).astype(np.int64)
    known = {0.299: 4899, 0.587: 9617, 0.114: 1868, 1.0: 16384, 0.0: 0}
    rows = np.tensordot(_weights(frame.shape[0], height), pixels, 1)
    columns = _weights(frame.shape[1], width)
    # Products are cut to whole numbers: half a unit for each makes up for it.
    taps = np.minimum(min(len(luma), 3) * columns_covered(frame.shape[1], width), 200)
    total = np.zeros((height, width), np.int64) + 128 + taps // 2
    for channel, share in enumerate(luma):
        weight = np.minimum((columns * known[share] + 32) >> 6, 65535)
        total += (rows[:, None, :, channel] * weight[None] >> 16).sum(2)
    return (np.minimum(total, 65535) >> 8).astype(np.uint8)
