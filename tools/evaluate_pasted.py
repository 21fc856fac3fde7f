"""What detection costs in expressions: python -m tools.evaluate_pasted DATA.

Imports OpenCV, mxn_edge, `tools.ferplus` and what the measuring tools print with. FER+ validation faces, 64 to 240
pixels wide, are pasted into photos without faces, 640×480; each face that a detector finds is classified twice, in the
square that the detector gives and in the one where the face was put.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mxn_edge import Recognizer
from tools.detector_photos import YUNET_FILE
from tools.ferplus import LABELS, read_ferplus
from tools.terminal import HelpFormatter, between, markdown


@dataclass(frozen=True)
class Result:
    """Counts of faces.

    Attributes:
        pasted: how many there were.
        found: by the detector.
        right: of those found, with the right expression in the detector's square.
        right_exact: of those found, with the right expression in their own square.
    """

    pasted: int
    found: int
    right: int
    right_exact: int


def measure(recognizer: Recognizer, data: Path, count: int, seed: int = 0) -> Result:
    """Paste, find and classify."""
    faces = read_ferplus(data / "ferplus.npz", "valid")
    with (data / "backgrounds.csv").open(newline="") as file:
        faceless = [data / "backgrounds" / row[0] for row in list(csv.reader(file))[1:] if row[3] == "0"]
    rng = np.random.default_rng(seed)
    found = right = right_exact = 0
    for index in rng.choice(len(faces), count, replace=False):
        side = int(rng.integers(64, 241))
        x, y = int(rng.integers(0, 640 - side)), int(rng.integers(0, 480 - side))
        photo = np.asarray(cv2.imread(str(faceless[rng.integers(len(faceless))])), np.uint8)
        frame = np.asarray(cv2.resize(photo, (640, 480)), np.uint8)
        face = cv2.resize(faces.images[index], (side, side), interpolation=cv2.INTER_CUBIC)
        frame[y : y + side, x : x + side] = face[:, :, None]
        label = LABELS[faces.labels[index]]
        for answer in recognizer.predict(frame):
            left, top, width, height = answer.box
            if abs(left + width / 2 - x - side / 2) < side / 4 and abs(top + height / 2 - y - side / 2) < side / 4:
                (exact,) = recognizer.predict_faces([frame[y : y + side, x : x + side]])
                found += 1
                right += answer.expression == label
                right_exact += exact.expression == label
                break
    return Result(count, found, right, right_exact)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluate_pasted", description=__doc__, formatter_class=HelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with ferplus.npz, backgrounds and detectors")
    parser.add_argument("--faces", type=between(1, 3000), default=1200, help="to paste")
    parser.add_argument("--seed", type=int, default=0, help="of sizes, places and photos")
    args = parser.parse_args(arguments)
    lines = [["detector", "pasted", "found", "right, %", "right on exact squares, %"]]
    for name, detector in (("mxn-edge", None), ("YuNet", args.data / YUNET_FILE)):
        result = measure(Recognizer(detector=detector), args.data, args.faces, args.seed)
        shares = [f"{100 * n / max(1, result.found):.1f}" for n in (result.right, result.right_exact)]
        lines.append([name, str(result.pasted), str(result.found), *shares])
    print(markdown(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
