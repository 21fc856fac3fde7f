"""The `mxn-edge` command: predict, demo, info, bench, export. Imports what a command needs when it is given.

Exit codes: 0 all went well, 1 something could not be done (some picture was unreadable, say), 2 wrong usage. Results go
to stdout, complaints to stderr.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import mxn_edge

if TYPE_CHECKING:
    from mxn_edge.recognizer import Face, Recognizer

BENCH_FRAME = (640, 480)


class CommandError(Exception):
    """The command cannot go on; the message is for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; `arguments` default to those of the process. Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, say) has gone; keep the interpreter from complaining about it at exit.
        sys.stdout = None
        return 1
    except KeyboardInterrupt:
        return 130
    except (CommandError, OSError, ValueError, RuntimeError) as error:
        print(f"mxn-edge: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mxn-edge", description="Find the faces in pictures and name their expressions, on a plain CPU."
    )
    parser.add_argument("--version", action="version", version=f"mxn-edge {mxn_edge.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", metavar="FILE", help="weight file (.safetensors); default: the one in the package")
    recognizer = argparse.ArgumentParser(add_help=False)
    recognizer.add_argument(
        "--detector",
        metavar="FILE",
        help="YuNet face detector (.onnx) to use in place of the package's own; needs OpenCV",
    )
    recognizer.add_argument(
        "--min-face",
        metavar="FRACTION",
        type=float,
        help="side of the smallest face to look for, of the picture's shorter side (default: 0.1)",
    )

    recognizer.add_argument(
        "--views",
        metavar="NUMBER",
        type=int,
        help="pictures of each face whose answers are averaged: 1 (fastest), 2 or 4 (right most often; the default)",
    )

    predict = commands.add_parser(
        "predict",
        parents=[model, recognizer],
        help="expressions of the faces in pictures",
        description="Print box, expression and confidence of every face, largest first. "
        "Exit code 1 when a picture could not be read; the others are still done.",
    )
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="picture file (JPEG, PNG, ...)")
    predict.add_argument("--json", action="store_true", help="print a JSON list with one object per picture")
    predict.add_argument(
        "--annotate", metavar="DIR", type=Path, help="write each picture with its faces marked into this folder, as PNG"
    )
    predict.set_defaults(run=_predict)

    demo = commands.add_parser(
        "demo",
        parents=[model, recognizer],
        help="try it on a real portrait",
        description="Recognise the expression in a public-domain portrait (NASA's Eileen Collins, from scikit-image; "
        "pip install 'mxn-edge[demo]') and write the picture with the face marked.",
    )
    demo.add_argument(
        "--output", metavar="FILE", type=Path, default=Path("mxn-edge-demo.png"), help="default: %(default)s"
    )
    demo.set_defaults(run=_demo)

    info = commands.add_parser("info", parents=[model], help="versions, CPU, instruction sets, model")
    info.add_argument("--json", action="store_true", help="print a JSON object")
    info.set_defaults(run=_info)

    bench = commands.add_parser(
        "bench",
        parents=[model, recognizer],
        help="how fast this machine is",
        description="Latency of the network alone for 1, 8 and 64 faces, in float32 and, with quantised weights, in "
        "int8, and of the whole path and its parts on a 640×480 frame: the demo portrait (needs the demo extra) or a "
        "picture of yours. MXN_EDGE_ISA forces an instruction set.",
    )
    bench.add_argument("--image", metavar="FILE", help="picture with a face, resized to 640×480")
    bench.add_argument("--seconds", type=float, default=1.0, help="time per figure (default: %(default)s)")
    bench.add_argument("--json", action="store_true", help="print a JSON object")
    bench.set_defaults(run=_bench)

    export = commands.add_parser(
        "export",
        help="weights for other programs",
        description="Write weights as an ONNX model, as a weight file, or as C source for libmxn.",
    )
    export.add_argument("model", nargs="?", metavar="MODEL", help="weight file; default: the one in the package")
    export.add_argument("--to", required=True, choices=("onnx", "safetensors", "c"), help="format to write")
    export.add_argument("--output", metavar="FILE", type=Path, help="default: the model's name, in this folder")
    export.add_argument("--opset", type=int, help="of ONNX: version of the operators, 13 to 17 (default: 17)")
    export.add_argument(
        "--layout", choices=("nchw", "nhwc"), help="of ONNX: n×1×84×84 or n×84×84×1 faces (default: nchw)"
    )
    export.add_argument("--name", help="of C: the variable that is defined (default: mxn_exported)")
    export.set_defaults(run=_export)
    return parser


def _predict(options: argparse.Namespace) -> int:
    _opencv()
    from mxn_edge.annotate import annotate

    recognizer = _recognizer(options)
    results: list[dict[str, Any]] = []
    failed = False
    if options.annotate:
        options.annotate.mkdir(parents=True, exist_ok=True)
    written: set[Path] = set()
    for image in options.images:
        try:
            picture = _read_picture(image)
        except (CommandError, OSError) as error:
            print(f"mxn-edge: {error}", file=sys.stderr)
            failed = True
            continue
        faces = recognizer.predict(picture)
        if options.json:
            results.append({"image": image, "faces": [face.to_dict() for face in faces]})
        else:
            _print_faces(image, faces)
        if options.annotate:
            target = _unused_name(options.annotate, Path(image).stem, written)
            _write_picture(target, annotate(picture, faces))
    if options.json:
        print(json.dumps(results, indent=2))
    return 1 if failed else 0


def _demo(options: argparse.Namespace) -> int:
    _opencv()
    from mxn_edge.annotate import annotate

    portrait = _demo_portrait()
    faces = _recognizer(options).predict(portrait)
    _print_faces("NASA portrait of Eileen Collins (public domain)", faces)
    _write_picture(options.output, annotate(portrait, faces))
    print(f"wrote {options.output}")
    return 0


def _info(options: argparse.Namespace) -> int:
    from mxn_edge.student import DEFAULT_MODEL, Student
    from mxn_edge.weights import read_weights

    weights = read_weights(options.model or DEFAULT_MODEL)
    student = Student(weights)
    info = student.info
    report = {
        "mxn-edge": mxn_edge.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": _opencv_version(),
        "cpu": cpu_name(),
        "machine": platform.machine(),
        "ISA active": info.isa,
        "ISA available": list(mxn_edge.available_isas()),
        "precision": info.precision,
        "quantised": weights.quantised,
        "model": info.source,
        "architecture": info.architecture,
        "hidden units": info.hidden,
        "parameters": info.parameters,
        "labels": list(student.labels),
        "preprocessing": info.preprocessing,
        "training": info.training,
    }
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for key, value in report.items():
            shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
            print(f"{key + ':':<15} {', '.join(shown) if isinstance(shown, list) else shown}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from mxn_edge.benchmark import benchmark_predict, benchmark_stages, benchmark_student
    from mxn_edge.recognizer import Recognizer
    from mxn_edge.student import DEFAULT_MODEL, Student
    from mxn_edge.weights import read_weights

    weights = read_weights(options.model or DEFAULT_MODEL)
    recognizer = Recognizer(Student(weights), options.detector, min_face=options.min_face, views=options.views)
    info = recognizer.student.info
    students = [Student(weights, precision="float32")]
    if weights.quantised:
        students.append(Student(weights, precision="int8"))
    frame = _bench_frame(options.image)
    if options.detector:
        _opencv().setNumThreads(1)
    latencies = [latency for student in students for latency in benchmark_student(student, seconds=options.seconds)]
    if frame is not None:
        latencies.append(benchmark_predict(recognizer, frame, seconds=options.seconds))
        if not options.detector:
            latencies += benchmark_stages(recognizer, frame, seconds=options.seconds)
    if options.json:
        results = [latency.to_dict() for latency in latencies]
        report = {"cpu": cpu_name(), "isa": info.isa, "precision": info.precision, "model": info.source}
        print(json.dumps({**report, "results": results}, indent=2))
    else:
        network = f"{info.architecture} with {info.parameters:,} parameters"
        print(f"{cpu_name()}, {info.isa}, {network}, predict in {info.precision}, one thread")
        print(f"{'':<28}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}{'per second':>13}")
        for item in latencies:
            print(f"{item.name:<28}{item.p50:>10.4f}{item.p90:>10.4f}{item.p99:>10.4f}{item.per_second:>13,.0f}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from mxn_edge import export
    from mxn_edge.student import DEFAULT_MODEL
    from mxn_edge.weights import read_weights

    writers: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
        "onnx": (export.export_onnx, ("opset", "layout")),
        "safetensors": (export.export_safetensors, ()),
        "c": (export.export_c, ("name",)),
    }
    write, known = writers[options.to]
    given = {key: getattr(options, key) for key in ("opset", "layout", "name") if getattr(options, key) is not None}
    if foreign := [f"--{key}" for key in given if key not in known]:
        raise CommandError(f"{', '.join(foreign)} says nothing about {options.to}")
    model = Path(options.model or DEFAULT_MODEL)
    output = options.output or Path(model.stem + export.SUFFIXES[options.to])
    write(output, read_weights(model), **given)
    print(f"wrote {output}")
    return 0


def _recognizer(options: argparse.Namespace) -> Recognizer:
    from mxn_edge.recognizer import Recognizer

    return Recognizer(options.model, options.detector, min_face=options.min_face, views=options.views)


def _print_faces(image: str, faces: Sequence[Face]) -> None:
    print(f"{image}: {len(faces) or 'no'} face{'' if len(faces) == 1 else 's'}")
    for face in faces:
        x, y, width, height = face.box
        print(f"  {face.expression:<10} {face.confidence:6.1%}  x {x}, y {y}, {width}×{height} pixels")


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise CommandError(f"picture files need OpenCV ({error}): pip install 'mxn-edge[opencv]'") from error
    return cv2


def _read_picture(path: str) -> NDArray[np.uint8]:
    cv2 = _opencv()
    encoded = np.fromfile(path, np.uint8)
    try:
        picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except cv2.error:  # broken headers, absurd sizes
        picture = None
    if picture is None:
        raise CommandError(f"{path} is not a picture that OpenCV can read")
    return np.asarray(picture, np.uint8)


def _write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    cv2 = _opencv()
    try:
        _, encoded = cv2.imencode(path.suffix, picture)
    except cv2.error as error:
        raise CommandError(f"cannot write {path}: {path.suffix!r} names no picture format") from error
    path.write_bytes(encoded.tobytes())


def _unused_name(folder: Path, stem: str, written: set[Path]) -> Path:
    """A name that no other picture of this run has taken (two folders may hold files of one name)."""
    target, number = folder / f"{stem}.png", 1
    while target in written:
        number += 1
        target = folder / f"{stem}-{number}.png"
    written.add(target)
    return target


def _demo_portrait() -> NDArray[np.uint8]:
    try:
        from skimage import data
    except ImportError as error:
        raise CommandError("the demo portrait needs scikit-image: pip install 'mxn-edge[demo]'") from error
    rgb: NDArray[np.uint8] = data.astronaut()  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(rgb[:, :, ::-1])


def _bench_frame(image: str | None) -> NDArray[np.uint8] | None:
    """The user's picture or the demo portrait at the benchmark's size; None, and a word to the user, without."""
    if image:
        return _fit(_read_picture(image), *BENCH_FRAME)
    try:
        return _fit(_demo_portrait(), *BENCH_FRAME)
    except CommandError as error:
        print(f"mxn-edge: predict is not measured: {error}; or give --image", file=sys.stderr)
        return None


def _fit(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The picture inside a frame of this size, in its own proportions, on grey."""
    cv2 = _opencv()
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    frame = np.full((height, width, 3), 127, np.uint8)
    frame[: size[1], : size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return frame


def cpu_name() -> str:
    """The processor's name as the kernel tells it."""
    device_tree = Path("/proc/device-tree/model")
    if device_tree.is_file():
        return device_tree.read_text().strip("\0\n ")
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _opencv_version() -> str:
    try:
        import cv2
    except ImportError:
        return "not installed"
    return cv2.__version__
