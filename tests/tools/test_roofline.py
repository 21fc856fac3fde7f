"""tools/roofline.py: counts, the arithmetic of the table, and the measuring program. No times are asserted."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mxn_edge import available_isas
from mxn_edge.weights import ARCHITECTURES, Weights
from tools import roofline as tool
from tools.roofline import Measured, Row

MakeWeights = Callable[..., Weights]
LAYERS = ["load", "conv1", "conv2", "dense", "whole", "cold"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled without the optimisations that take long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "FLAGS", ("-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"))
        try:
            return tool.build(tmp_path_factory.mktemp("roofline"))
        except tool.RooflineError as error:
            if "no C compiler" in str(error):
                pytest.skip(str(error))
            raise


@pytest.mark.parametrize(
    ("architecture", "conv1", "flat"),
    [
        ("microexpnet-p12", 1_806_336, 1152),
        ("microexpnet-p1", 1_806_336, 3872),
        ("microexpnet-p2", 451_584, 1152),
        ("microexpnet-v", 451_584, 3872),
    ],
)
def test_multiply_adds(random_weights: MakeWeights, architecture: str, conv1: int, flat: int) -> None:
    counts = tool.multiply_adds(random_weights(architecture))
    dense = 48 * flat + 48 * 8
    layers = {"load": 0, "conv1": conv1, "conv2": 991_232, "dense": dense}
    whole = conv1 + 991_232 + dense
    assert counts == {**layers, "whole": whole, "cold": whole}


def test_the_best_of_repeated_lines_counts() -> None:
    lines = ["cycles 3.1", "peak avx2\t40", "peak int8 avx2\t90", "layer avx2 direct conv1 2e-05"]
    lines += ["cycles 3.2", "peak avx2\t51", "peak int8 avx2\t80", "layer avx2 direct conv1 3e-05"]
    found = tool.read_output("\n".join(lines))
    assert found == Measured(3.2, {"avx2": 51, "int8 avx2": 90}, {"avx2": {"direct": {"conv1": 2e-05}}})


def test_rows_by_hand() -> None:
    peaks: dict[str, float] = {"avx2": 32, "int8 avx2": 64, "int8 other": 8}
    found = Measured(2.0, peaks, {"avx2": {"fastest": {"load": 1e-06, "conv1": 100e-06}}})
    found.seconds["avx2"]["int8"] = {"conv1": 50e-06}
    found.seconds["old"] = {"int8": {"conv1": 100e-06}}
    rows = tool.make_rows(found, {"load": 0, "conv1": 1_600_000})
    assert rows == [
        Row("avx2", "", "peak", 0, None, None, 32, 16, 1),
        Row("avx2", "fastest", "load", 0, 1, None, None, None, None),
        Row("avx2", "fastest", "conv1", 1_600_000, 100, 50, pytest.approx(16), pytest.approx(8), pytest.approx(0.5)),
        Row("avx2", "int8", "peak", 0, None, None, 64, 32, 1),
        Row("avx2", "int8", "conv1", 1_600_000, 50, 25, pytest.approx(32), pytest.approx(16), pytest.approx(0.5)),
        Row("old", "int8", "conv1", 1_600_000, 100, None, pytest.approx(16), pytest.approx(8), None),
        Row("other", "int8", "peak", 0, None, None, 8, 4, 1),
    ]
    lines = tool.table(rows).splitlines()
    cells = [cell.strip() for cell in lines[4].strip("| ").split("|")]
    assert cells == ["avx2", "fastest", "conv1", "1,600,000", "100.00", "50.00", "16.0", "8.0", "50%"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_program(program: Path, random_weights: MakeWeights, architecture: str) -> None:
    found = tool.measure(program, random_weights(architecture, hidden=17), 1)
    assert found.gigahertz > 0
    assert tuple(found.seconds) == available_isas()
    with_float32 = [isa for isa, algorithms in found.seconds.items() if "fastest" in algorithms]
    assert set(with_float32) <= set(found.peaks)
    assert set(with_float32) >= {"scalar"}
    assert all(rate > 0 for rate in found.peaks.values())
    for algorithms in found.seconds.values():
        assert list(algorithms) in (["int8"], ["fastest", "direct"], ["fastest", "direct", "int8"])
        for layers in algorithms.values():
            assert list(layers) == LAYERS
            assert min(layers.values()) > 0


def test_whole_tool(
    program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "build", lambda folder: program)
    monkeypatch.setattr(
        tool, "count_instructions", lambda program, weights, isa, algorithm: 123 if isa == "scalar" else None
    )
    arguments = ["--rounds", "1", "--instructions", "--json", str(tmp_path / "roofline.json")]
    assert tool.main(arguments) == 0
    output = capsys.readouterr().out
    assert "best of 1 rounds" in output
    assert "scalar int8: 123 instructions per face" in output
    content = json.loads((tmp_path / "roofline.json").read_text())
    assert {row["isa"] for row in content["rows"]} >= set(available_isas())
    assert content["instructions_per_face"]["scalar direct"] == 123


def test_instructions(program: Path, random_weights: MakeWeights) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("no valgrind (Debian: apt-get install valgrind)")
    for algorithm in ("fastest", "int8"):
        count = tool.count_instructions(program, random_weights(), "scalar", algorithm)
        assert count is not None
        assert count > 2_853_248  # at least one for each multiply-add
    assert tool.count_instructions(program, random_weights(), "no such instruction set", "int8") is None


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert tool.main([]) == 1
    assert capsys.readouterr().err.startswith("roofline: error: no C compiler no-such-compiler")


def test_failing_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CC", "false")
    assert tool.main([]) == 1
    assert capsys.readouterr().err.startswith("roofline: error: false failed")


def test_no_such_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--model", "none.safetensors"]) == 1
    assert "none.safetensors" in capsys.readouterr().err


def test_flags_are_those_of_the_package() -> None:
    setup = (tool.ROOT / "setup.py").read_text()
    assert all(f'"{flag}"' in setup for flag in tool.FLAGS)


def test_program_for_arm() -> None:
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("no compiler aarch64-linux-gnu-gcc (Debian: apt-get install gcc-aarch64-linux-gnu)")
    source = tool.ROOT / "tools" / "roofline.c"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", tool.ROOT / "csrc", "-fsyntax-only"]
    subprocess.run([compiler, *flags, source], check=True)
