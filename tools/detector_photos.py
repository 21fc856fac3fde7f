"""Photos for the face detector: the split, and boxes by YuNet, the detector whose answers ours learns from.

Imports OpenCV and numpy. Photos are grey, uint8; boxes are x, y, width, height in their pixels, with YuNet's score.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "valid", "test"]
Image = NDArray[np.uint8]

#: Which photo of scenes/ and backgrounds/ is for what; fixed before the first training. Portraits go by their person.
SPLIT_FILE = Path(__file__).with_name("detector_split.csv")
YUNET_FILE = Path("detectors/face_detection_yunet_2023mar.onnx")
#: Boxes below this score are not kept.
LEAST_SCORE = 0.3
#: Of a hundred persons of the portraits, so many are kept from training.
PORTRAIT_VALID_PERCENT = 3


@dataclass(frozen=True)
class Photo:
    """A photo and what YuNet says of it.

    Attributes:
        name: folder and file, or `fer/` and the number of a face.
        image: uint8, H × W.
        boxes: float32, n × 5: x, y, width, height, score of YuNet, at least `LEAST_SCORE`.
    """

    name: str
    image: Image
    boxes: NDArray[np.float32]

    @property
    def is_free_of_faces(self) -> bool:
        """Whether YuNet suspects nothing."""
        return not len(self.boxes)


def split_names(folder: str, split: Split) -> list[str]:
    """Return the files of a folder, scenes or backgrounds, that belong to a split."""
    with SPLIT_FILE.open(newline="") as file:
        return [row["file"] for row in csv.DictReader(file) if row["folder"] == folder and row["split"] == split]


def portrait_names(data: Path, split: Split) -> list[str]:
    """Return the portraits of a split; all photos of a person are in the same. There is no test split of them."""
    with (data / "portraits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    held_out = [int(row["person"]) % 100 < PORTRAIT_VALID_PERCENT for row in rows]
    return [row["file"] for row, held in zip(rows, held_out, strict=True) if split == ("valid" if held else "train")]


class YuNet:
    """OpenCV's YuNet on pictures of any size.

    Args:
        path: its ONNX file.
        least_score: boxes below are left out.
        scale: the picture is enlarged or reduced by this first.
        margin: width of a border that repeats the outermost pixels, as a fraction of the longer side, before that.
    """

    def __init__(
        self, path: Path, *, least_score: float = LEAST_SCORE, scale: float = 1.0, margin: float = 0.0
    ) -> None:
        cv2.setNumThreads(1)
        self._network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), least_score, 0.3, 500)
        self._scale, self._margin = scale, margin

    def __call__(self, picture: Image) -> NDArray[np.float32]:
        """Boxes and scores, n × 5, of a grey or BGR picture."""
        bgr = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR) if picture.ndim == 2 else picture
        border = int(self._margin * max(bgr.shape[:2]))
        bgr = cv2.copyMakeBorder(bgr, border, border, border, border, cv2.BORDER_REPLICATE)
        if self._scale != 1:
            way = cv2.INTER_AREA if self._scale < 1 else cv2.INTER_LINEAR
            bgr = cv2.resize(bgr, None, fx=self._scale, fy=self._scale, interpolation=way)
        self._network.setInputSize((bgr.shape[1], bgr.shape[0]))
        found = self._network.detect(bgr)[1]
        if found is None:
            return np.zeros((0, 5), np.float32)
        boxes = np.asarray(found[:, [0, 1, 2, 3, 14]], np.float32)
        boxes[:, :4] *= 1 / self._scale
        boxes[:, :2] -= border
        return boxes


_yunet: YuNet | None = None


def _start(make: Callable[[], YuNet]) -> None:
    global _yunet
    _yunet = make()


def _boxes(picture: Path | Image) -> list[list[float]]:
    assert _yunet is not None
    image = np.asarray(cv2.imread(str(picture)), np.uint8) if isinstance(picture, Path) else picture
    boxes: list[list[float]] = _yunet(image).round(3).tolist()
    return boxes


def _label(pictures: Iterable[Any], make: Callable[[], YuNet], workers: int) -> list[list[list[float]]]:
    with Pool(workers, _start, (make,)) as pool:
        return pool.map(_boxes, pictures, chunksize=32)


def label(data: Path, cache: Path, workers: int) -> dict[str, list[list[float]]]:
    """Boxes of all photos of training and validation, by name; kept in the JSON file `cache`.

    Portraits show a head and little else: a border gives YuNet the surroundings that it expects. Backgrounds are small:
    enlarged, they show it more faces.
    """
    if cache.is_file():
        known: dict[str, list[list[float]]] = json.loads(cache.read_text())
        return known
    yunet = data / YUNET_FILE
    names = [f"portraits/{name}" for split in ("train", "valid") for name in portrait_names(data, split)]
    found = _label([data / name for name in names], partial(YuNet, yunet, margin=0.25), workers)
    labels = dict(zip(names, found, strict=True))
    names = [
        f"backgrounds/{name}" for split in ("train", "valid", "test") for name in split_names("backgrounds", split)
    ]
    found = _label([data / name for name in names], partial(YuNet, yunet, scale=1.6), workers)
    labels |= dict(zip(names, found, strict=True))
    faces = np.load(data / "ferplus.npz")["train_images"]
    found = _label(list(faces), partial(YuNet, yunet, scale=3.0, margin=0.4), workers)
    labels |= {f"fer/{i}": boxes for i, boxes in enumerate(found)}
    cache.write_text(json.dumps(labels))
    return labels


def load(data: Path, names: Iterable[str], labels: dict[str, list[list[float]]]) -> list[Photo]:
    """Read photos, in grey."""
    photos = []
    for name in names:
        image = cv2.imread(str(data / name), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise OSError(f"{data / name} is not a picture that OpenCV can read")
        boxes = np.array(labels[name], np.float32).reshape(-1, 5)
        photos.append(Photo(name, np.asarray(image, np.uint8), boxes))
    return photos


def load_fer(data: Path, labels: dict[str, list[list[float]]]) -> list[Photo]:
    """FER2013's training faces in which YuNet finds one face."""
    faces = np.load(data / "ferplus.npz")["train_images"]
    boxes = [np.array(labels[f"fer/{i}"], np.float32).reshape(-1, 5) for i in range(len(faces))]
    return [
        Photo(f"fer/{i}", faces[i], found) for i, found in enumerate(boxes) if len(found) == 1 and found[0, 4] > 0.7
    ]
