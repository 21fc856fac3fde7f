"""What is installed: its version, and what it needs and costs at run time."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import mxn_edge

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


def test_free_threading_is_declared() -> None:
    """An interpreter without a GIL would otherwise switch it on again when it loads the extension."""
    setup = (ROOT / "setup.py").read_text()
    assert '"freethreading_compatible": True' in setup
