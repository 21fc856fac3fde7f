"""Training pictures for the face detector: composites, mosaics, real photos and backgrounds.

Imports OpenCV and `tools.detector_photos`. Every picture is a grey square of `SIDE` pixels with up to `FACES` boxes. A
box is x0, y0, x1, y1, target: the score that the network is to give, or -1 where it may say what it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pool
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.detector_photos import Image, Photo

SIDE = 176
FACES = 10
SMALLEST, LARGEST = 9.0, 200.0  # height of a face
#: From this score on a face of a photo is taken for certain; below, its score is the target; below the second, ignored.
CERTAIN, SUSPECT = 0.8, 0.5
CHUNK = 250

Float = NDArray[np.float32]
Box = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class HardPlace:
    """Where the network saw a face in a background without one: centre and side in pixels of that background."""

    background: int
    x: float
    y: float
    side: float
    score: float


@dataclass(frozen=True)
class Sources:
    """What pictures are made of.

    Attributes:
        portraits: photos of one face each, with their surroundings.
        fer: tight faces.
        groups: photos with faces.
        backgrounds: photos without faces.
        hard: places of backgrounds, the worst first.
    """

    portraits: list[Photo]
    fer: list[Photo]
    groups: list[Photo]
    backgrounds: list[Photo]
    hard: list[HardPlace]


def target(score: float) -> float:
    """What to ask of the network for a face to which YuNet gave this score."""
    return 1.0 if score >= CERTAIN else score if score >= SUSPECT else -1.0


class Renderer:
    """Draws pictures from `sources` by the numbers of `random`."""

    def __init__(self, sources: Sources, random: np.random.Generator) -> None:
        self.sources = sources
        self.random = random

    def picture(self) -> tuple[Image, NDArray[np.float32]]:
        """A picture and its boxes, FACES × 5, filled up with zeros."""
        draw = self.random.random()
        if draw < 0.42:
            canvas, boxes = self._composite()
        elif draw < 0.72:
            canvas, boxes = self._mosaic()
        elif draw < 0.88:
            canvas, boxes = self._crop(self._pick(self.sources.groups))
        else:
            canvas, boxes = self._background(SIDE), []
        image = self._as_a_camera_sees(canvas)
        out = np.zeros((FACES, 5), np.float32)
        boxes = sorted(boxes, key=lambda box: -abs(box[4]))[:FACES]
        if boxes:
            out[: len(boxes)] = boxes
        return image, out

    def _pick(self, photos: Sequence[Photo]) -> Photo:
        return photos[int(self.random.integers(len(photos)))]

    def _background(self, size: int) -> Float:
        """A square without faces: any part of any background, or a place that was taken for a face."""
        random, hard = self.random, self.sources.hard
        if hard and random.random() < 0.6:
            place = hard[int(len(hard) * random.random() ** 1.5)]
            image = self.sources.backgrounds[place.background].image
            height, width = image.shape
            side = int(np.clip(place.side * np.exp(random.uniform(0.25, 2.1)), 24, min(height, width)))
            x = int(np.clip(place.x - side * random.uniform(0.15, 0.85), 0, width - side))
            y = int(np.clip(place.y - side * random.uniform(0.15, 0.85), 0, height - side))
        else:
            image = self._pick(self.sources.backgrounds).image
            height, width = image.shape
            side = max(24, int(min(height, width) * np.exp(random.uniform(np.log(0.3), 0))))
            x, y = random.integers(width - side + 1), random.integers(height - side + 1)
        part = _resize(image[y : y + side, x : x + side], size, size)
        return part[:, ::-1] if random.random() < 0.5 else part

    def _crop(self, photo: Photo, height: int = SIDE, width: int = SIDE) -> tuple[Float, list[Box]]:
        """A part of a photo, turned and scaled, around one of its faces."""
        random = self.random
        anchor = photo.boxes[random.integers(len(photo.boxes))]
        face = float(np.sqrt(anchor[2] * anchor[3]))
        largest = min(LARGEST, (1.2 if height == width == SIDE else 0.9) * min(height, width))
        # Not much smaller than in the whole photo, nor blown up to mush.
        whole = face * max(height / photo.image.shape[0], width / photo.image.shape[1])
        high = max(SMALLEST, min(largest, 3.0 * face))
        size = np.exp(random.uniform(np.log(np.clip(0.6 * whole, SMALLEST, high)), np.log(high)))
        cx = width * random.uniform(0.05, 0.95) if random.random() < 0.25 else width * random.uniform(0.25, 0.75)
        cy = height * random.uniform(0.05, 0.95) if random.random() < 0.25 else height * random.uniform(0.25, 0.75)
        matrix = self._matrix(anchor, size / face, cx, cy)
        border = cv2.BORDER_REFLECT_101 if random.random() < 0.3 else cv2.BORDER_CONSTANT
        canvas = _warp(photo.image, matrix, width, height, border, float(random.uniform(0, 255)))
        boxes = [_turned(box, matrix, target(float(box[4]))) for box in photo.boxes]
        if border == cv2.BORDER_REFLECT_101:
            # A mirrored face may show beyond the photo's edge.
            boxes += [_turned(ghost, matrix, -1.0) for ghost in _ghosts(photo)]
        return canvas, [seen for box in boxes if (seen := _visible(box, width, height))]

    def _mosaic(self) -> tuple[Float, list[Box]]:
        """Four pictures in unequal quarters, or two halves."""
        random = self.random
        x = int(random.integers(40, SIDE - 40)) if random.random() < 0.7 else SIDE
        y = int(random.integers(40, SIDE - 40)) if random.random() < 0.7 or x == SIDE else SIDE
        canvas = np.empty((SIDE, SIDE), np.float32)
        boxes: list[Box] = []
        for x0, x1 in ((0, x), (x, SIDE)):
            for y0, y1 in ((0, y), (y, SIDE)):
                if x0 == x1 or y0 == y1:
                    continue
                width, height = x1 - x0, y1 - y0
                if random.random() < 0.65:
                    part, found = self._crop(self._pick(self.sources.portraits), height, width)
                else:
                    part, found = self._background(max(width, height))[:height, :width], []
                canvas[y0:y1, x0:x1] = part
                boxes += [(a + x0, b + y0, c + x0, d + y0, t) for a, b, c, d, t in found]
        return canvas, boxes

    def _composite(self) -> tuple[Float, list[Box]]:
        """Faces, and patches that are none, pasted on a background; something may cover a part of a face."""
        random = self.random
        canvas = self._background(SIDE).copy()
        faces = int(random.choice([1, 2, 3, 5], p=[0.5, 0.25, 0.15, 0.1]))
        kinds = [True] * faces + [False] * int(random.poisson(0.6))
        random.shuffle(kinds)
        boxes: list[Box] = []
        taken: list[tuple[float, float, float]] = []
        for is_face in kinds:
            height = np.exp(random.uniform(np.log(SMALLEST), np.log(LARGEST if faces <= 2 else 70)))
            for _ in range(8):
                cx, cy = (self._coordinate(height) for _ in range(2))
                if all(max(abs(cx - x), abs(cy - y)) > 0.55 * (height + h) for x, y, h in taken):
                    break
            else:
                continue
            if is_face:
                tight = height < 60 and random.random() < 0.3
                photo = self._pick(self.sources.fer if tight else self.sources.portraits)
                box = self._paste(canvas, photo.image, photo.boxes[0], cx, cy, height)
                found = _visible((*box, 1.0), SIDE, SIDE)
                if found:
                    boxes.append(found)
                    if random.random() < 0.2:
                        self._cover(canvas, found)
            else:
                patch = self._background(96).astype(np.uint8)
                self._paste(canvas, patch, np.array([12, 2, 72, 92], np.float32), cx, cy, height)
            taken.append((cx, cy, height))
        return canvas, boxes

    def _coordinate(self, height: float) -> float:
        """Of a face's centre: mostly wholly inside, sometimes cut by the border."""
        margin = min(height * (0.5 if self.random.random() < 0.7 else 0.2), SIDE / 2 - 1)
        return float(self.random.uniform(margin, SIDE - margin))

    def _matrix(self, box: Float, scale: float, cx: float, cy: float) -> NDArray[np.float64]:
        """Source -> canvas: scales, mirrors, stretches, turns, and brings the box's centre to cx, cy."""
        random = self.random
        angle = np.deg2rad(np.clip(random.normal(0, 9 if random.random() < 0.7 else 22), -42, 42))
        stretch = np.exp(random.normal(0, 0.05)) * (1 if random.random() < 0.5 else -1)
        cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
        matrix = np.array([[cosine * stretch, -sine, 0], [sine * stretch, cosine, 0]])
        x, y, width, height = box[:4]
        matrix[:, 2] = [cx, cy] - matrix[:, :2] @ [x + width / 2, y + height / 2]
        return matrix

    def _paste(
        self, canvas: Float, image: Image, box: Float, cx: float, cy: float, face_height: float
    ) -> tuple[float, float, float, float]:
        """Blend a face with some of its surroundings into the canvas; returns the box there."""
        random = self.random
        matrix = self._matrix(box, face_height / box[3], cx, cy)
        height, width = image.shape
        x, y, w, h = (float(v) for v in box[:4])
        mask = np.zeros((height, width), np.float32)
        draw = random.random()
        if draw < 0.4:  # the whole picture, soft at its edges
            edge = max(1, int(0.05 * max(height, width)))
            mask[edge:-edge, edge:-edge] = 1
            mask = cv2.blur(mask, (2 * edge + 1, 2 * edge + 1))  # type: ignore[assignment]
        elif draw < 0.85:  # the head
            axes = (int(w * random.uniform(0.5, 0.8)), int(h * random.uniform(0.48, 0.7)))
            cv2.ellipse(mask, (int(x + w / 2), int(y + h / 2)), axes, 0, 0, 360, 1.0, -1)
            if random.random() < 0.5:  # and what is below it
                low, half = int(y + h * 0.9), int(w * random.uniform(0.35, 0.9))
                mask[low:, max(0, int(x + w / 2) - half) : int(x + w / 2) + half] = 1
            soft = int(w * random.uniform(0.02, 0.12)) * 2 + 1
            mask = cv2.blur(mask, (soft, soft))  # type: ignore[assignment]
        else:
            mask[:] = 1
        patch = _warp(image, matrix, SIDE, SIDE, cv2.BORDER_REPLICATE)
        mask = cv2.warpAffine(mask, matrix, (SIDE, SIDE))  # type: ignore[assignment]
        if random.random() < 0.5:
            strength, deviation = random.uniform(0.2, 0.9), patch.std() + 5
            mean = patch.mean()
            ratio = 1 - strength + strength * np.clip(canvas.std() / deviation, 0.4, 1.5)
            patch = (patch - mean) * ratio + mean * (1 - strength) + strength * canvas.mean()
        patch = (patch - patch.mean()) * np.exp(random.normal(0, 0.25)) + patch.mean() + random.normal(0, 15)
        canvas += mask * (patch - canvas)
        left, top, right, bottom, _ = _turned(box, matrix, 1.0)
        return left, top, right, bottom

    def _cover(self, canvas: Float, box: Box) -> None:
        """Lay something over an edge of a face: hair, a hand, a cup."""
        random = self.random
        x0, y0, x1, y1, _ = box
        width, height = x1 - x0, y1 - y0
        side = int(max(4, width * random.uniform(0.3, 0.7)))
        anchors = [
            (x0, (y0 + y1) / 2),
            (x1, (y0 + y1) / 2),
            ((x0 + x1) / 2, y1),
            ((x0 + x1) / 2, y0),
            (x0, y1),
            (x1, y1),
        ]
        cx, cy = anchors[random.integers(len(anchors))]
        left, top = int(cx - side / 2), int(cy - height * 0.25)
        a, b, c, d = max(0, left), max(0, top), min(SIDE, left + side), min(SIDE, top + int(height * 0.5))
        if c > a and d > b:
            if random.random() < 0.6:
                canvas[b:d, a:c] = self._background(max(c - a, d - b))[: d - b, : c - a]
            else:
                canvas[b:d, a:c] = random.uniform(10, 240)

    def _as_a_camera_sees(self, canvas: Float) -> Image:
        """Gamma, light from a side, haze, contrast, blur, motion, noise, JPEG."""
        random, image = self.random, canvas
        if random.random() < 0.3:
            image = 255 * np.power(np.clip(image, 0, 255) / 255, np.exp(random.normal(0, 0.4)))
        if random.random() < 0.35:
            angle, strength = random.uniform(0, 2 * np.pi), random.uniform(0, 1.4)
            ramp = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)
            image = image * (1 + strength * (np.cos(angle) * ramp[None] + np.sin(angle) * ramp[:, None]))
        if random.random() < 0.6:
            mean = image.mean()
            image = (image - mean) * np.exp(random.normal(-0.15, 0.35)) + mean + random.normal(0, 25)
        if random.random() < 0.08:
            image = image * (keep := random.uniform(0.3, 0.8)) + random.uniform(120, 230) * (1 - keep)
        if random.random() < 0.08:
            image = image * random.uniform(0.12, 0.4)
        if random.random() < 0.3:
            image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.4, 1.5))  # type: ignore[assignment]
        elif random.random() < 0.1:
            size = int(random.integers(3, 7))
            image = cv2.blur(image, (size, 1) if random.random() < 0.7 else (1, size))  # type: ignore[assignment]
        if random.random() < 0.5:
            noise = random.standard_normal((SIDE, SIDE), dtype=np.float32)
            image = image + noise * random.uniform(1, 10)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        if random.random() < 0.2:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(20, 80))]
            pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_GRAYSCALE)  # type: ignore[assignment]
        return pixels


def _resize(image: Image, width: int, height: int) -> Float:
    way = cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=way).astype(np.float32)


def _warp(image: Image, matrix: NDArray[np.float64], width: int, height: int, border: int, value: float = 0.0) -> Float:
    """Resample; the image is blurred first where it is reduced, so that nothing aliases."""
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    source = image.astype(np.float32)
    if scale < 0.8:
        source = cv2.GaussianBlur(source, (0, 0), 0.4 / scale)  # type: ignore[assignment]
    warped: Float = cv2.warpAffine(
        source, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=value
    )  # type: ignore[assignment]
    return warped


def _turned(box: Float, matrix: NDArray[np.float64], wanted: float) -> Box:
    """The box on the canvas: upright around its turned centre, and as large as before the turn."""
    x, y, width, height = (float(v) for v in box[:4])
    cx, cy = matrix[:, :2] @ [x + width / 2, y + height / 2] + matrix[:, 2]
    half_width = width / 2 * float(np.hypot(*matrix[:, 0]))
    half_height = height / 2 * float(np.hypot(*matrix[:, 1]))
    return cx - half_width, cy - half_height, cx + half_width, cy + half_height, wanted


def _ghosts(photo: Photo) -> list[Float]:
    height, width = photo.image.shape
    found = []
    for box in photo.boxes:
        for x in (box[0], -box[0] - box[2], 2 * width - box[0] - box[2]):
            for y in (box[1], -box[1] - box[3], 2 * height - box[1] - box[3]):
                if (x, y) != (box[0], box[1]):
                    found.append(np.array([x, y, box[2], box[3], 0], np.float32))
    return found


def _visible(box: Box, width: int, height: int) -> Box | None:
    """The box, if any of it is in view; ignored where less than half is, or where it is too small to be asked for."""
    x0, y0, x1, y1, wanted = box
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return None
    seen = (min(x1, width) - max(x0, 0)) * (min(y1, height) - max(y0, 0)) / ((x1 - x0) * (y1 - y0))
    small = np.sqrt((x1 - x0) * (y1 - y0)) < 0.85 * SMALLEST
    return x0, y0, x1, y1, -1.0 if seen < 0.5 or small else wanted


_sources: Sources | None = None


def _start(sources: Sources) -> None:
    global _sources
    _sources = sources


def _chunk(job: tuple[tuple[int, ...], list[HardPlace]]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    assert _sources is not None
    seed, hard = job
    renderer = Renderer(replace(_sources, hard=hard), np.random.default_rng(seed))
    images, boxes = zip(*(renderer.picture() for _ in range(CHUNK)), strict=True)
    return np.stack(images), np.stack(boxes)


class Studio:
    """Processes that draw pictures from `sources`.

    They are forked here, once: a process that has multiplied matrices holds locks that a fork would inherit for ever.
    A `with` statement ends them.
    """

    def __init__(self, sources: Sources, workers: int) -> None:
        # Nor may they wait for threads of OpenCV, which are not forked with it.
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        self._pool = Pool(workers, _start, (sources,))
        cv2.setNumThreads(threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()
        self._pool.join()

    def render(self, count: int, seed: tuple[int, ...], hard: list[HardPlace]) -> tuple[Image, NDArray[np.float32]]:
        """Draw `count` pictures, count × SIDE × SIDE, and their boxes; the same for any number of workers."""
        chunks = -(-count // CHUNK)
        images = np.empty((chunks * CHUNK, SIDE, SIDE), np.uint8)
        boxes = np.empty((chunks * CHUNK, FACES, 5), np.float32)
        drawn = self._pool.imap(_chunk, [((*seed, i), hard) for i in range(chunks)])
        for i, (some, their) in enumerate(drawn):
            images[i * CHUNK : (i + 1) * CHUNK] = some
            boxes[i * CHUNK : (i + 1) * CHUNK] = their
        return images[:count], boxes[:count]
