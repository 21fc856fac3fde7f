"""The C core without Python: tests/c/test_core natively, under sanitizers, on emulated ARM, AVX-512 and VNNI."""

from __future__ import annotations

import functools
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
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
        pytest.skip(f"no compiler {compiler} (Debian: apt-get install gcc-aarch64-linux-gnu, gcc-arm-linux-gnueabihf)")

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        subprocess.run([compiler, *STRICT, *flags, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, SOURCES))
    program = folder / "test_core"
    # The test itself needs no vectorising, which takes GCC long.
    test_flags = ["-O1" if flag == "-O3" else flag for flag in flags]
    checks = sorted((ROOT / "tests" / "c" / "test_core").glob("*.c"))
    subprocess.run(
        [compiler, *STRICT, *test_flags, *checks, *objects, "-o", program, "-lm", "-pthread", *link_flags], check=True
    )
    return program


def backends_that_passed(output: str) -> set[str]:
    """Backends with a line for each topology with each algorithm or int8, and four more, all of them ok."""
    lines = output.splitlines()
    assert lines
    assert all(line.startswith("ok ") for line in lines), output
    names = [line.split()[1] for line in lines]
    return {name for name in names if names.count(name) == 15}


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


ARM = {"aarch64": "aarch64-linux-gnu", "arm": "arm-linux-gnueabihf"}  # as qemu and as compilers name them


@pytest.fixture(scope="module")
def for_arm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The test program for a machine, linked statically."""

    @functools.cache
    def build_for(machine: str) -> Path:
        flags = [*RELEASE, "-DMXN_TEST_QUICK"]
        return build(tmp_path_factory.mktemp(machine), f"{ARM[machine]}-gcc", flags, "-static")

    return build_for


@pytest.mark.parametrize(
    ("machine", "cpu", "isas"),
    [
        ("aarch64", "max", {"neondot", "neon", "scalar"}),
        ("aarch64", "cortex-a53", {"neon", "scalar"}),
        ("arm", "max", {"neon", "scalar"}),
        ("arm", "cortex-a7", {"neon", "scalar"}),
        ("arm", "cortex-a9", {"scalar"}),  # NEON without fused multiply-add
    ],
)
def test_neon_under_emulation(for_arm: Callable[[str], Path], machine: str, cpu: str, isas: set[str]) -> None:
    program = for_arm(machine)
    emulator = shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")
    if emulator is None:
        pytest.skip(f"no qemu-{machine} (Debian: apt-get install qemu-user-static)")
    result = subprocess.run([emulator, "-cpu", cpu, program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert backends_that_passed(result.stdout) == isas


@pytest.fixture(scope="module")
def for_bochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if platform.machine() != "x86_64" or importlib.util.find_spec("bochscpu") is None:
        pytest.skip("not run: no emulator (pip install bochscpu-python==0.4.0, x86-64 only)")
    flags = [*RELEASE, "-DMXN_TEST_QUICK"]
    return build(tmp_path_factory.mktemp("bochs"), "gcc", flags, "-static", "-no-pie")


@pytest.mark.parametrize("isa", ["avx512", "avx512vnni", "avxvnni"])
def test_avx512_under_emulation(request: pytest.FixtureRequest, isa: str) -> None:
    if isa in available_isas():
        pytest.skip("this CPU runs it natively")
    command = [sys.executable, ROOT / "tests" / "c" / "emulated_avx512.py", request.getfixturevalue("for_bochs"), isa]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert backends_that_passed(result.stdout) == {isa}


def exported_symbols(program: Path, source: Path) -> list[str]:
    command = ["nm", "--extern-only", "--defined-only", program.parent / f"{source.stem}.o"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[2::3]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_exported_symbols(release: Path, source: Path) -> None:
    """A file compiled for a CPU extension offers its tables and nothing else that others might call."""
    symbols = exported_symbols(release, source)
    if source.parent.name == "isa":
        assert set(symbols) <= {f"mxn_{table}_{source.stem}" for table in ("float32", "int8", "detector")}
    else:
        assert symbols
        assert all(symbol.startswith("mxn_") for symbol in symbols)


@pytest.mark.parametrize(
    ("isa", "wanted", "foreign"),
    [
        ("avx512vnni", r"vpdpbusd .*%zmm(?s:.*)vpdpwssd .*%zmm", r"vpmaddubsw"),
        ("avxvnni", r"\{vex\} vpdpbusd .*%ymm(?s:.*)\{vex\} vpdpwssd .*%ymm", r"%zmm|vpmaddubsw"),
        ("avx2", r"vpmaddwd .*%ymm", r"%zmm|vpdpbusd|vpmaddubsw"),
        ("sse2", r"pmaddwd .*%xmm", r"%[yz]mm|\bv[a-z]+ |pmaddubsw|pmulld|pshufb"),
        ("avx512", r"vfmadd.*%zmm", r"vpdpbusd"),
    ],
)
def test_instructions_are_those_of_the_name(release: Path, isa: str, wanted: str, foreign: str) -> None:
    """int8 logits are the same on all: only the code tells which one has run. Nor may one need what another CPU has."""
    if shutil.which("objdump") is None or platform.machine() != "x86_64":
        pytest.skip("needs objdump (Debian: apt-get install binutils) and an x86-64 compiler")
    _check_instructions("objdump", release.parent / f"{isa}.o", wanted, foreign)


@pytest.mark.parametrize(
    ("machine", "isa", "wanted", "foreign"),
    [
        ("aarch64", "neondot", r"\tsdot\t", "[us]mmla"),
        ("aarch64", "neon", r"\tsadalp\t", r"\t[us]dot\t"),
        ("arm", "neon", r"\tvfma\.f32\t", r"\tv[us]dot|fmaf"),
        ("arm", "scalar", r"\tvmla?u?l?\.f32\ts", r"\tvfma|\tv[a-z0-9.]+\tq"),
    ],
)
def test_arm_instructions_are_those_of_the_name(
    for_arm: Callable[[str], Path], machine: str, isa: str, wanted: str, foreign: str
) -> None:
    _check_instructions(f"{ARM[machine]}-objdump", for_arm(machine).parent / f"{isa}.o", wanted, foreign)


def _check_instructions(objdump: str, compiled: Path, wanted: str, foreign: str) -> None:
    command = [objdump, "--disassemble", "--no-show-raw-insn", compiled]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(wanted, code)
    assert not re.search(foreign, code)


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
