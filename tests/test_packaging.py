"""What is installed: its version, and what it needs and costs at run time."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import mxn_edge
from mxn_edge import Student, _core
from mxn_edge.detector import DEFAULT_DETECTOR
from mxn_edge.student import DEFAULT_MODEL
from mxn_edge.weights import read_detector_weights, read_weights

ROOT = Path(__file__).resolve().parents[1]


def test_version_has_one_source() -> None:
    assert importlib.metadata.version("mxn-edge") == mxn_edge.__version__
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]
    holders = [path for path in ROOT.glob("mxn_edge/*.py") if re.search(r"^__version__ =", path.read_text(), re.M)]
    assert holders == [ROOT / "mxn_edge" / "__init__.py"]


def test_resident_memory() -> None:
    """A recogniser that has seen a frame, over a Python that has imported numpy: at most 8 MB."""
    program = """
import numpy
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
import resource
frame = numpy.full((480, 640, 3), 90, numpy.uint8)
before = resident()
from mxn_edge import Recognizer
recognizer = Recognizer()
recognizer.predict(frame)
recognizer.predict_faces([frame])
print(resident() - before)
"""
    megabytes = [
        float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(megabytes) <= 8, megabytes


def test_only_numpy_and_safetensors_are_needed() -> None:
    required = [line for line in importlib.metadata.requires("mxn-edge") or [] if "extra ==" not in line]
    assert sorted(re.split(r"[>=<]", line)[0] for line in required) == ["numpy", "safetensors"]
    program = "import sys, numpy, mxn_edge; mxn_edge.Recognizer().predict(numpy.zeros((90, 90, 3), numpy.uint8))"
    program += "; print([name for name in ('cv2', 'onnx', 'torch', 'onnxruntime') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


_PARALLEL = """
import sys, threading
import numpy
from mxn_edge import _core
assert not sys._is_gil_enabled(), "loading the extension has switched the GIL on"
given = dict(numpy.load(sys.argv[1]))
part = lambda name: {key.partition("/")[2]: value for key, value in given.items() if key.startswith(name + "/")}
detector = _core.DetectorNetwork(part("detector"))
networks = {p: _core.Network("microexpnet-p12", part("student"), precision=p, threads=t)
            for p, t in (("float32", 2), ("int8", 1))}
wrong, start = [], threading.Barrier(4)
def work():
    start.wait()
    for _ in range(50):
        if detector.detect(given["frame"], "bgr", 0.1, 0.5, 100) != list(map(tuple, given["boxes"])):
            wrong.append("boxes")
        for precision, network in networks.items():
            out = numpy.empty((len(given["faces"]), network.classes), numpy.float32)
            network.logits(given["faces"], out)
            if not numpy.array_equal(out, given[precision]):
                wrong.append(precision)
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("wrong answers:", wrong)
"""


def test_free_threaded_interpreter(portrait: np.ndarray, tmp_path: Path) -> None:
    """Threads that run at once share a detector and students, and get the answers of an interpreter with a GIL."""
    # An interpreter without a GIL would switch it on when it loads an extension that does not say this.
    assert '"freethreading_compatible": True' in (ROOT / "setup.py").read_text()
    interpreter = shutil.which("python3.14t") or shutil.which("python3.13t")
    if interpreter is None:
        pytest.skip("not run: no free-threaded python3.14t or python3.13t on the path")
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([interpreter, "-m", "venv", tmp_path / "env"], check=True)
    ignored = shutil.ignore_patterns("build", "*.egg-info", "*.so", "_core.c", ".git", ".venv*")
    shutil.copytree(ROOT, tmp_path / "source", ignore=ignored)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "numpy"], check=True)
    subprocess.run([*pip, "--no-deps", tmp_path / "source"], check=True)

    student, faces = read_weights(DEFAULT_MODEL), np.random.default_rng(1).integers(0, 256, (9, 84, 84), np.uint8)
    tensors = read_detector_weights(DEFAULT_DETECTOR).tensors
    expected = {precision: Student(student, precision=precision).logits(faces) for precision in ("float32", "int8")}
    boxes = _core.DetectorNetwork(tensors).detect(portrait, "bgr", 0.1, 0.5, 100)
    assert boxes
    given = {f"student/{name}": tensor for name, tensor in student.tensors.items()}
    given |= {f"detector/{name}": tensor for name, tensor in tensors.items()}
    np.savez(tmp_path / "given.npz", frame=portrait, boxes=boxes, faces=faces, **given, **expected)
    command = [python, "-c", _PARALLEL, tmp_path / "given.npz"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.stdout.strip() == "wrong answers: []", result.stdout + result.stderr
