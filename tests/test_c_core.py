"""The C core without Python: tests/c/test_core.c natively, under sanitizers, on emulated AArch64 and AVX-512."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mxn_edge import available_isas

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("csrc/*.c"), *ROOT.glob("csrc/isa/*.c")])
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", str(ROOT / "csrc")]
RELEASE = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]  # as in setup.py
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def build(folder: Path, compiler: str, flags: list[str], *link_flags: str) -> Path:
    """Compile the core with `flags`, warnings being errors, and link the test program."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no compiler {compiler} (Debian: apt-get install gcc, gcc-aarch64-linux-gnu)")

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        subprocess.run([compiler, *STRICT, *flags, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, SOURCES))
    program = folder / "test_core"
    # The test itself needs no vectorising, which takes GCC long.
    test_flags = ["-O1" if flag == "-O3" else flag for flag in flags]
    test = ROOT / "tests" / "c" / "test_core.c"
    subprocess.run([compiler, *STRICT, *test_flags, test, *objects, "-o", program, "-lm", *link_flags], check=True)
    return program


def backends_that_passed(output: str) -> set[str]:
    """Backends with a line for each topology and algorithm and one for the crops, all of them ok."""
    lines = output.splitlines()
    assert lines
    assert all(line.startswith("ok ") for line in lines), output
    names = [line.split()[1] for line in lines]
    return {name for name in names if names.count(name) == 8}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("release"), "gcc", RELEASE)


def test_native(release: Path) -> None:
    result = subprocess.run([release], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert backends_that_passed(result.stdout) == set(available_isas())


def test_absent_backend_is_an_error(release: Path) -> None:
    result = subprocess.run([release, "avx1024"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "backend avx1024 is not available" in result.stdout


def test_under_sanitizers(tmp_path: Path) -> None:
    program = build(tmp_path, "gcc", SANITIZED)
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert backends_that_passed(result.stdout) == set(available_isas())


def test_neon_under_emulation(tmp_path: Path) -> None:
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("no qemu-aarch64 (Debian: apt-get install qemu-user-static)")
    program = build(tmp_path, "aarch64-linux-gnu-gcc", [*RELEASE, "-DMXN_TEST_QUICK"], "-static")
    result = subprocess.run([emulator, program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert backends_that_passed(result.stdout) == {"neon", "scalar"}


def test_avx512_under_emulation(tmp_path: Path) -> None:
    if "avx512" in available_isas():
        pytest.skip("this CPU runs it natively")
    if platform.machine() != "x86_64" or importlib.util.find_spec("bochscpu") is None:
        pytest.skip("avx512 is not run: no emulator (pip install bochscpu-python==0.4.0, x86-64 only)")
    program = build(tmp_path, "gcc", [*RELEASE, "-DMXN_TEST_QUICK"], "-static", "-no-pie")
    command = [sys.executable, ROOT / "tests" / "c" / "emulated_avx512.py", program, "avx512"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert backends_that_passed(result.stdout) == {"avx512"}


def exported_symbols(program: Path, source: Path) -> list[str]:
    command = ["nm", "--extern-only", "--defined-only", program.parent / f"{source.stem}.o"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[2::3]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_exported_symbols(release: Path, source: Path) -> None:
    """A file compiled for a CPU extension offers its table and nothing else that others might call."""
    symbols = exported_symbols(release, source)
    if source.parent.name == "isa":
        assert symbols in ([], [f"mxn_backend_{source.stem}"])
    else:
        assert symbols
        assert all(symbol.startswith("mxn_") for symbol in symbols)


def test_the_core_knows_no_python() -> None:
    for path in ROOT.glob("csrc/**/*"):
        if path.is_file():
            assert not re.search(r"Python\.h|numpy|PyObject", path.read_text()), path


def test_header_is_usable_from_cpp(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no compiler g++")
    (tmp_path / "use.cpp").write_text('#include "mxn.h"\nint main() { return mxn_workspace_bytes() == 0; }\n')
    subprocess.run(
        [
            "g++",
            "-std=c++11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fsyntax-only",
            "-I",
            ROOT / "csrc",
            tmp_path / "use.cpp",
        ],
        check=True,
    )
