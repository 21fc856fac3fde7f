"""The programs of docs/deploy.md, run with simulated cameras that show the portrait and then end."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import mxn_edge

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / "docs" / "deploy.md").read_text()
PROGRAMS = dict(re.findall(r"```python\n# camera: (\w+)\n(.*?)```", DOCUMENT, re.DOTALL))


@pytest.fixture
def frame(portrait: np.ndarray) -> np.ndarray:
    cv2 = pytest.importorskip("cv2")
    shown = np.full((480, 640, 3), 90, np.uint8)
    shown[:, :480] = cv2.resize(portrait, (480, 480), interpolation=cv2.INTER_AREA)
    return shown


def run(folder: Path, program: str, stdin: bytes = b"") -> str:
    (folder / "camera.py").write_text(program)
    command = [sys.executable, folder / "camera.py"]
    result = subprocess.run(command, input=stdin, capture_output=True, cwd=folder, check=False)
    errors = result.stderr.decode()
    assert result.returncode == 0 or "no more frames" in errors, errors
    return result.stdout.decode()


def luma(frame: np.ndarray) -> np.ndarray:
    return (frame @ np.array([0.114, 0.587, 0.299])).round().astype(np.uint8)


def test_recipes_name_this_licence_and_version() -> None:
    digest = hashlib.md5((ROOT / "LICENSE").read_bytes(), usedforsecurity=False).hexdigest()
    assert f"md5={digest}" in DOCUMENT
    assert f"PYTHON_MXN_EDGE_VERSION = {mxn_edge.__version__}\n" in DOCUMENT
    assert f"python3-mxn-edge_{mxn_edge.__version__}.bb" in DOCUMENT


def test_every_python_block_is_run() -> None:
    assert DOCUMENT.count("```python") == len(PROGRAMS) == 3


def test_picamera2(tmp_path: Path, frame: np.ndarray) -> None:
    np.save(tmp_path / "frame.npy", frame)
    (tmp_path / "picamera2.py").write_text(
        textwrap.dedent("""
            import numpy

            class Picamera2:
                left = 2

                def create_video_configuration(self, main):
                    assert main == {"size": (640, 480), "format": "RGB888"}
                    return main

                def configure(self, configuration): pass

                def start(self): pass

                def capture_array(self):
                    self.left -= 1
                    if self.left < 0:
                        raise SystemExit("no more frames")
                    return numpy.load("frame.npy")
        """)
    )
    assert run(tmp_path, PROGRAMS["picamera2"]).count("happiness") == 2


def test_v4l2(tmp_path: Path, frame: np.ndarray) -> None:
    np.save(tmp_path / "frame.npy", np.dstack([luma(frame), np.full((480, 640), 128, np.uint8)]))
    (tmp_path / "cv2.py").write_text(
        textwrap.dedent("""
            import numpy

            CAP_V4L2 = CAP_PROP_FOURCC = CAP_PROP_CONVERT_RGB = 0

            class VideoWriter:
                @staticmethod
                def fourcc(*letters): return "".join(letters)

            class VideoCapture:
                left = 2

                def __init__(self, number, interface): pass

                def set(self, what, value): assert value in ("YUYV", 0)

                def isOpened(self): return True

                def read(self):
                    self.left -= 1
                    if self.left < 0:
                        raise SystemExit("no more frames")
                    return True, numpy.load("frame.npy").reshape(1, -1)
        """)
    )
    assert run(tmp_path, PROGRAMS["v4l2"]).count("happiness") == 2


def test_gstreamer(tmp_path: Path, frame: np.ndarray) -> None:
    frames = np.vstack([luma(frame), np.full((240, 640), 128, np.uint8)]).tobytes() * 2
    assert run(tmp_path, PROGRAMS["gstreamer"], stdin=frames + b"cut").count("happiness") == 2


def test_the_unit_is_well_formed() -> None:
    import configparser

    (unit,) = re.findall(r"```ini\n(.*?)```", DOCUMENT, re.DOTALL)
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit)
    assert set(parser) == {"DEFAULT", "Unit", "Service", "Install"}
