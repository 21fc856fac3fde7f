"""Frames per second of the whole path beside OpenCV's detectors: python -m tools.bench_detection DATA.

Imports OpenCV, ONNX Runtime, mxn_edge and what the measuring tools print with. Every path gets the
same 640×480 frames, one thread, in interleaved rounds: the package's for every instruction set, and YuNet or Haar with
the same student in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mxn_edge import Recognizer, YuNetDetector, available_isas
from mxn_edge.onnx_model import build_model
from mxn_edge.preprocess import VIEWS, Preprocessor, check_frame, empty_faces
from mxn_edge.student import DEFAULT_MODEL
from mxn_edge.weights import read_weights
from tools.detector_photos import YUNET_FILE, split_names
from tools.terminal import HelpFormatter, add_views, between, markdown

Picture = NDArray[np.uint8]


def frames_with(data: Path, faces: bool, count: int) -> list[Picture]:
    """Test photos at 640×480 in which YuNet finds one face, or none."""
    yunet = YuNetDetector(data / YUNET_FILE)
    frames: list[Picture] = []
    for folder in ("scenes", "backgrounds"):
        for name in split_names(folder, "test"):
            photo = cv2.imread(str(data / folder / name)) if name.endswith(".jpg") else None
            if photo is None or len(frames) == count:
                continue
            frame = np.asarray(cv2.resize(photo, (640, 480), interpolation=cv2.INTER_AREA), np.uint8)
            if len(yunet.detect(frame)) == int(faces):
                frames.append(frame)
    return frames


def with_onnx_runtime(
    find: Callable[[Picture], Sequence[tuple[float, float, float]]], views: int
) -> Callable[[Picture], object]:
    """Detection, our crop, and the default student in ONNX Runtime; `find` gives squares."""
    onnxruntime = import_module("onnxruntime")  # has no type hints
    weights = read_weights(DEFAULT_MODEL)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = build_model(weights).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    preprocessor = Preprocessor(weights.preprocessing, views=views)

    def predict(frame: Picture) -> object:
        squares = find(frame)
        faces = empty_faces(len(squares), views)
        checked = check_frame(frame)
        for (x, y, side), face in zip(squares, faces, strict=True):
            preprocessor.crop_box(checked, x, y, side, side, face)
        if not squares:
            return None
        logits = session.run(None, {name: faces.reshape(-1, 1, *faces.shape[2:]).astype(np.float32)})[0]
        return logits.reshape(len(squares), views, -1).mean(axis=1)

    return predict


def yunet_squares(data: Path) -> Callable[[Picture], Sequence[tuple[float, float, float]]]:
    """YuNet on the frame at half its size."""
    detector = YuNetDetector(data / YUNET_FILE, max_side=320)
    return lambda frame: [box.square for box in detector.detect(frame)]


def haar_squares() -> Callable[[Picture], Sequence[tuple[float, float, float]]]:
    """OpenCV's Viola-Jones cascade."""
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))

    def find(frame: Picture) -> Sequence[tuple[float, float, float]]:
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        return [(x, y, w) for x, y, w, _ in cascade.detectMultiScale(gray, 1.1, 5, minSize=(48, 48))]

    return find


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench_detection", description=__doc__, formatter_class=HelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with scenes, backgrounds and detectors")
    parser.add_argument("--rounds", type=between(1, 10_000), default=20, help="over the frames")
    parser.add_argument("--frames", type=between(1, 1000), default=10, help="of each kind")
    add_views(parser, VIEWS, 4)
    args = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    paths: dict[str, Callable[[Picture], object]] = {
        f"mxn-edge, {isa}": Recognizer(isa=isa, views=args.views).predict for isa in available_isas() if isa != "scalar"
    }
    paths["YuNet at 320×240, ONNX Runtime"] = with_onnx_runtime(yunet_squares(args.data), args.views)
    if hasattr(cv2, "CascadeClassifier"):
        paths["Haar, ONNX Runtime"] = with_onnx_runtime(haar_squares(), args.views)
    lines = [["", "one face, µs", "frames per second", "ratio", "no face, µs"]]
    medians: dict[str, list[float]] = {name: [] for name in paths}
    for faces in (True, False):
        frames = frames_with(args.data, faces, args.frames)
        times: dict[str, list[float]] = {name: [] for name in paths}
        for _ in range(args.rounds):
            for name, predict in paths.items():
                for frame in frames:
                    start = time.perf_counter()
                    predict(frame)
                    times[name].append(time.perf_counter() - start)
        for name in paths:
            medians[name].append(1e6 * float(np.median(times[name])))
    fastest = medians[next(iter(paths))][0]
    for name, (with_face, without) in medians.items():
        lines.append(
            [name, f"{with_face:.0f}", f"{1e6 / with_face:,.0f}", f"{with_face / fastest:.2f}", f"{without:.0f}"]
        )
    print(markdown(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
