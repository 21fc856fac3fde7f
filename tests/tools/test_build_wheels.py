"""tools/build_wheels.py and the platforms of cibuildwheel: the same. The building itself is a step of .ci/run."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tools import build_wheels

ROOT = Path(__file__).resolve().parents[2]


def test_platforms_are_those_of_cibuildwheel() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    stable = [selector for selector in config["build"] if selector.startswith("cp311-")]
    identifiers = set()
    for selector in stable:
        family, machines = selector.removeprefix("cp311-").removesuffix("}").split("_{")
        identifiers |= {f"{family}-{machine}" for machine in machines.split(",")}
    assert identifiers == set(build_wheels.PLATFORMS)


def test_headers_are_those_of_the_target(tmp_path: Path) -> None:
    config = (build_wheels._headers(tmp_path) / "pyconfig.h").read_text()
    assert config.rstrip().endswith("#define ALIGNOF_SIZE_T __SIZEOF_SIZE_T__")
    assert (tmp_path / "include" / "Python.h").is_file()


def test_unknown_platform(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        build_wheels.main(["manylinux-sparc"])
    assert stopped.value.code == 2
    assert "no such platform: manylinux-sparc" in capsys.readouterr().err
