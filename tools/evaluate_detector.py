"""How well faces are found: python -m tools.evaluate_detector DATA.

Imports OpenCV, mxn_edge, `tools.detector_photos` and what the measuring tools print with. The package's detector, YuNet
at half resolution and, with OpenCV 4, Haar look at the same photos and clips; YuNet at full resolution says where faces
are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mxn_edge.detector import Detector
from tools.detector_photos import YUNET_FILE, Split, YuNet, split_names
from tools.terminal import HelpFormatter, fraction, markdown

Picture = NDArray[np.uint8]
#: x, y, width, height, score.
Boxes = NDArray[np.float32]
Find = Callable[[Picture], Boxes]

#: Photos are brought to this size at most, clips stay as they are.
FRAME = (640, 480)
#: Sides of faces, as fractions of the frame's shorter side.
SIZES = ((1 / 12, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 9.0))
#: YuNet's score of a face that must be found; of one that may be found.
CERTAIN, SUSPECT = 0.8, 0.5
#: A face is found by a box that overlaps it so much.
LEAST_IOU = 0.4
#: YuNet takes these for faces; they are none.
NO_FACES = {"ncappzoo_cat.jpg", "skimage_chelsea.jpg"}
CLIP_FRAMES = 60


@dataclass(frozen=True)
class View:
    """A frame and the boxes of YuNet at full resolution, `SUSPECT` and surer."""

    name: str
    frame: Picture
    truth: Boxes


@dataclass(frozen=True)
class Result:
    """What a detector found at one threshold.

    Attributes:
        faces, found: by size, see `SIZES`.
        false_positives: boxes where no face is, per picture.
        mean_iou: of the faces found with YuNet's box at full resolution.
        pictures: how many there were.
    """

    faces: list[int]
    found: list[int]
    false_positives: float
    mean_iou: float
    pictures: int

    def recall(self, first_size: int = 0) -> float:
        """Of all faces of a size and larger."""
        return sum(self.found[first_size:]) / max(1, sum(self.faces[first_size:]))


def photos(data: Path, split: Split) -> Iterator[View]:
    """The photos of a split, brought to the size of a frame."""
    yunet = YuNet(data / YUNET_FILE, least_score=SUSPECT)
    enlarged = YuNet(data / YUNET_FILE, least_score=SUSPECT, scale=1.6)
    for folder in ("scenes", "backgrounds"):
        for name in split_names(folder, split):
            if not name.endswith(".jpg"):
                continue
            photo = np.asarray(cv2.imread(str(data / folder / name)), np.uint8)
            scale = min(FRAME[0] / max(photo.shape[:2]), FRAME[1] / min(photo.shape[:2]))
            way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            frame = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=way), np.uint8)
            truth = (enlarged if max(photo.shape) < 500 else yunet)(photo)
            truth[:, :4] *= scale
            yield View(name, frame, truth[:0] if name in NO_FACES else truth)


def clips(data: Path) -> Iterator[View]:
    """Frames of the clips, which all belong to the test split."""
    yunet = YuNet(data / YUNET_FILE, least_score=SUSPECT)
    for name in split_names("scenes", "test"):
        if name.endswith(".jpg"):
            continue
        capture = cv2.VideoCapture(str(data / "scenes" / name))
        frames = []
        while (read := capture.read())[0]:
            frames.append(np.asarray(read[1], np.uint8))
        for i in np.unique(np.linspace(0, len(frames) - 1, CLIP_FRAMES).astype(int)):
            truth = yunet(frames[i])
            yield View(f"{name}#{i}", frames[i], truth[:0] if name.startswith("car") else truth)


def judge(views: Sequence[View], found: Sequence[Boxes], threshold: float) -> Result:
    """Count what was found and what was not a face.

    A box is not counted against a detector where YuNet suspects a face, or that is smaller than what is asked for.
    """
    faces, hits, wrong, overlaps = [0] * len(SIZES), [0] * len(SIZES), 0, []
    for view, boxes in zip(views, found, strict=True):
        shorter = min(view.frame.shape[:2])
        boxes = boxes[boxes[:, 4] >= threshold]
        sides = np.sqrt(view.truth[:, 2] * view.truth[:, 3]) / shorter
        asked = (view.truth[:, 4] >= CERTAIN) & (sides >= SIZES[0][0])
        overlap = intersection_over_union(boxes, view.truth)
        used = np.zeros(len(boxes), bool)
        for face in np.flatnonzero(asked):
            size = next(i for i, (low, high) in enumerate(SIZES) if low <= sides[face] < high)
            faces[size] += 1
            free = np.where(used, 0.0, overlap[:, face])
            if len(boxes) and free.max() >= LEAST_IOU:
                used[best := int(free.argmax())] = True
                hits[size] += 1
                overlaps.append(float(free[best]))
        excused = (overlap[:, ~asked] >= 0.3).any(axis=1) | (np.sqrt(boxes[:, 2] * boxes[:, 3]) < 0.9 / 12 * shorter)
        wrong += int((~used & ~excused).sum())
    return Result(faces, hits, wrong / len(views), float(np.mean(overlaps)) if overlaps else 0.0, len(views))


def intersection_over_union(some: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Of every box with every other, len(some) × len(others)."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, :2] + some[:, None, 2:4], others[None, :, :2] + others[None, :, 2:4])
    shared = np.prod(np.clip(high - low, 0, None), 2)
    area = (some[:, None, 2:4].prod(2), others[None, :, 2:4].prod(2))
    iou: NDArray[np.float32] = shared / np.maximum(area[0] + area[1] - shared, 1e-6)
    return iou


def ours(detector: Detector) -> Find:
    """The package's detector."""

    def find(frame: Picture) -> Boxes:
        boxes = detector.detect(frame)
        return np.array([[b.x, b.y, b.width, b.height, b.score] for b in boxes], np.float32).reshape(-1, 5)

    return find


def haar() -> Find:
    """OpenCV's Viola-Jones cascade; its squares are trimmed to boxes as YuNet draws them (medians on found faces)."""
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))

    def find(frame: Picture) -> Boxes:
        smallest = max(24, min(frame.shape[:2]) // 12)
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        squares = cascade.detectMultiScale(gray, scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest))
        boxes = np.ones((len(squares), 5), np.float32)
        if len(squares):
            x, y, side, _ = np.asarray(squares, np.float32).T
            boxes[:, :4] = np.stack([x + 0.14 * side, y + 0.06 * side, 0.72 * side, 0.95 * side], 1)
        return boxes

    return find


def choose_threshold(views: Sequence[View], found: Sequence[Boxes], allowed: float) -> float:
    """The lowest score at which false positives per picture are not above `allowed`."""
    steps = np.arange(0.20, 0.90, 0.01)
    fits = [float(t) for t in steps if judge(views, found, float(t)).false_positives <= allowed]
    return round(min(fits, default=0.9), 2)


def _row(name: str, result: Result, base: Result | None) -> list[str]:
    share = [f"{result.recall(i) / max(base.recall(i), 1e-9):.3f}" if base else "1" for i in (0, 1)]
    by_size = " / ".join(f"{h / max(1, n):.2f}" for h, n in zip(result.found, result.faces, strict=True))
    rest = [f"{result.false_positives:.3f}", f"{result.mean_iou:.3f}"]
    return [name, f"{result.recall():.3f}", by_size, *share, *rest]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluate_detector", description=__doc__, formatter_class=HelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder with scenes, backgrounds and detectors")
    add("--model", type=Path, help="weight file of a detector (default: the one in the package)")
    add("--split", choices=("valid", "test"), default="test", help="which photos; clips belong to test")
    add("--threshold", type=fraction, help="least score (default: the weight file's)")
    add("--allow", type=fraction, help="choose the threshold: so many false positives a picture, for --split valid")
    add("--min-face", type=fraction, default=0.1, help="of the package's detector")
    add("--json", type=Path, help="write the figures here")
    add("--plot", type=Path, help="write curves of recall against false positives here, as SVG or PNG")
    args = parser.parse_args(arguments)
    if args.allow is not None and args.split == "test":
        parser.error("a threshold is chosen on the valid photos, never on the test photos")
    detector = Detector(args.model, min_face=args.min_face, score_threshold=0.05, max_faces=100)
    threshold = detector.recommended_threshold if args.threshold is None else args.threshold
    sets = {"photos": list(photos(args.data, args.split))}
    if args.split == "test":
        sets["clips"] = list(clips(args.data))
    finders: dict[str, tuple[Find, float]] = {
        "YuNet at half resolution": (YuNet(args.data / YUNET_FILE, least_score=0.05, scale=0.5), 0.7),
        "mxn-edge": (ours(detector), threshold),
    }
    if hasattr(cv2, "CascadeClassifier"):
        finders["Haar"] = (haar(), 0.0)
    else:
        print(f"not measured: Haar, which OpenCV {cv2.__version__} lacks")
    report: dict[str, object] = {"split": args.split, "min_face": args.min_face, "threshold": threshold}
    curves: dict[str, list[tuple[float, float]]] = {}
    for place, views in sets.items():
        lines = [["", "recall", "by size", "share ≥ 1/12", "share ≥ 1/8", "false positives", "mean IoU"]]
        base: Result | None = None
        for name, (find, least) in finders.items():
            found = [find(view.frame) for view in views]
            if name == "mxn-edge" and args.allow is not None:
                least = threshold = choose_threshold(views, found, args.allow)
                report["threshold"] = threshold
            result = judge(views, found, least)
            lines.append(_row(f"{name}, score ≥ {least:g}" if least else name, result, base))
            base = base or result
            report[f"{place}, {name}"] = asdict(result) | {"recall": result.recall()}
            if place == "photos" and least:
                points = [judge(views, found, float(t)) for t in np.arange(0.1, 0.95, 0.025)]
                curves[name] = [(point.false_positives, point.recall()) for point in points]
            elif place == "photos":
                curves[name] = [(result.false_positives, result.recall())]
        sizes = " / ".join(str(n) for n in result.faces)
        print(f"\n{len(views)} {place}, {sum(result.faces)} faces ({sizes} of 1/12, 1/8, 1/4 of the shorter side up)")
        print(markdown(lines))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        from tools.plots import plot_detection

        plot_detection(curves, args.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
