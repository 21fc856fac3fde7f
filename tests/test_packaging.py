"""What is installed: its version, and what it needs and costs at run time."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import mxn_edge

ROOT = Path(__file__).resolve().parents[1]


def test_version_has_one_source() -> None:
    assert importlib.metadata.version("mxn-edge") == mxn_edge.__version__
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]
    holders = [path for path in ROOT.glob("mxn_edge/*.py") if re.search(r"^__version__ =", path.read_text(), re.M)]
    assert holders == [ROOT / "mxn_edge" / "__init__.py"]
