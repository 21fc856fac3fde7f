"""tools/modelled_cycles.py: qemu's log, the sums, and the whole tool where its programs are. No cycles are asserted."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from tools import modelled_cycles as tool
from tools.modelled_cycles import Block, Cost

LOG = """\
----------------
IN: outer
0x00401080:  d503201f  nop
0x00401084:  d280001d  movz     x29, #0

Trace 0: 0x7f0220000540 [0000000001009331/0000000000401080/00000001/00000200] outer
----------------
IN: inner
0x00401100:  4e20d400  fadd     v0.4s, v0.4s, v0.4s

Trace 0: 0x7f0220000640 [0000000001009331/0000000000401100/00000001/00000200] inner
Trace 0: 0x7f0220000640 [0000000001009331/0000000000401100/00000001/00000200] inner
"""
OUTER, INNER = Block("outer", ("d503201f", "d280001d")), Block("inner", ("4e20d400",))


def need(program: str, package: str) -> None:
    """Skip the test where a program is missing that only developers for other machines have."""
    if shutil.which(program) is None:
        pytest.skip(f"no {program} (Debian: apt-get install {package})")


def test_log() -> None:
    assert tool.read_log(LOG.splitlines(keepends=True)) == {OUTER: 1, INNER: 2}


def test_costs_are_the_difference_of_two_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "simulate", lambda block, cores: tuple(float(len(block.words) * n) for n in (1, 2)))
    found = tool.costs(Counter({OUTER: 7, INNER: 2}), Counter({OUTER: 7, INNER: 12}), 5, ("a", "b"))
    assert found == {"inner": Cost(2, (2, 4)), "whole": Cost(2, (2, 4))}
    assert list(tool.costs(Counter(), Counter({INNER: 1, OUTER: 1}), 1, ("a", "b"))) == ["outer", "inner", "whole"]


def test_additions_wait_for_one_another() -> None:
    need("llvm-mca", "llvm")
    cycles = tool.simulate(INNER, tool.CORES)
    assert len(cycles) == len(tool.CORES)
    assert min(cycles) > 2  # v0 is a source of the addition that writes it


def table_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    """Instructions of every function, as the tool prints them."""
    need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    need("llvm-mca", "llvm")
    if shutil.which("qemu-aarch64") is None:
        need("qemu-aarch64-static", "qemu-user-static")
    assert tool.main([*arguments, "--cores", "cortex-a55"]) == 0
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["function", "instructions", "cortex-a55"]
    return {row[0]: int(row[1].replace(",", "")) for row in rows[2:]}


def test_whole_tool(capsys: pytest.CaptureFixture[str]) -> None:
    found = table_of([], capsys)
    assert list(found)[:2] == ["conv1_toom_cook_u8", "conv2_toom_cook"]
    assert list(found)[-1] == "whole"
    *parts, whole = found.values()
    assert 0.97 * whole < sum(parts) <= whole


def test_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "noise.png"
    cv2.imwrite(str(picture), np.random.default_rng(1).integers(0, 256, (960, 1280, 3), np.uint8))
    found = table_of(["--frame", str(picture)], capsys)
    assert {"unit_32_32_1", "unit_64_64_1", "detector_stem", "average_rows", "average_columns"} < set(found)
    *parts, whole = found.values()
    assert 0.9 * whole < sum(parts) <= whole


def test_frame_that_is_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "text.png"
    picture.write_text("text")
    assert tool.main(["--frame", str(picture)]) == 1
    assert capsys.readouterr().err == f"modelled_cycles: error: {picture} is not a picture\n"


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert tool.main([]) == 1
    assert capsys.readouterr().err.startswith("modelled_cycles: error: no C compiler no-such-compiler")


def test_without_an_emulator(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tool, "build", lambda folder, default: folder / "program")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert tool.main([]) == 1
    assert "no qemu-aarch64" in capsys.readouterr().err
