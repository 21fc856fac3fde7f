"""The C library as a user builds, installs and links it, and its example, also with files made to break it."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mxn_edge import Recognizer, Student
from mxn_edge.student import DEFAULT_MODEL
from mxn_edge.weights import Weights, write_weights

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "c"


def run(*command: object, code: int = 0, **options: object) -> str:
    """Output of a command, of both kinds, whose exit code must be `code`."""
    result = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    assert result.returncode == code, result.stdout
    return result.stdout


def needs(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} (Debian: apt-get install {package})")
    return found


def cmake(source: Path, build: Path, *options: str) -> None:
    needs("cmake", "cmake")
    run("cmake", "-S", source, "-B", build, "-DCMAKE_C_FLAGS=-Werror", *options)
    run("cmake", "--build", build, "--parallel", "2")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cmake --install` makes of csrc/ without the rest of the repository."""
    folder = tmp_path_factory.mktemp("library")
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    cmake(folder / "csrc", folder / "build", f"-DCMAKE_INSTALL_PREFIX={folder / 'usr'}", "-DCMAKE_INSTALL_LIBDIR=lib")
    run("cmake", "--install", folder / "build")
    return folder / "usr"


@pytest.fixture(scope="module")
def example(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/c, built against the installed CMake package."""
    build = tmp_path_factory.mktemp("example")
    cmake(EXAMPLE, build, f"-DCMAKE_PREFIX_PATH={installed}")
    return build / "classify_pgm"


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole repository, built with sanitizers."""
    build = tmp_path_factory.mktemp("sanitized")
    # More optimisation takes GCC minutes with sanitizers.
    cmake(
        ROOT / "csrc",
        build,
        "-DMXN_SANITIZE=address,undefined",
        "-DCMAKE_C_FLAGS_RELEASE=-O1 -g",
    )
    return build


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A picture of smooth noise, in a file and in memory."""
    rng = np.random.default_rng(5)
    picture = np.kron(rng.integers(0, 256, (12, 10)), np.ones((9, 11))).astype(np.uint8)
    path = tmp_path_factory.mktemp("face") / "face.pgm"
    header = f"P5\n# a comment\n{picture.shape[1]} {picture.shape[0]}\n255\n"
    path.write_bytes(header.encode() + picture.tobytes())
    return path, picture


def logits_in(output: str) -> tuple[list[str], np.ndarray]:
    lines = [line.rsplit(maxsplit=2) for line in output.splitlines()]
    return [line[0] for line in lines], np.array([float(line[2]) for line in lines], np.float32)


def public_functions() -> set[str]:
    return set(re.findall(r"^[^#/ ].*?\*?\b(mxn_\w+)\(", (ROOT / "csrc" / "mxn.h").read_text(), re.MULTILINE))


def test_exports_what_the_header_declares(installed: Path) -> None:
    symbols = run("nm", "-D", "--defined-only", installed / "lib" / "libmxn.so").split()[2::3]
    assert set(symbols) == public_functions()
    assert len(symbols) > 30


def test_soname_has_the_abi_version(installed: Path) -> None:
    major = re.search(r"MXN_ABI_MAJOR (\d+)", (ROOT / "csrc" / "mxn.h").read_text())
    assert major
    dynamic = run("readelf", "-d", installed / "lib" / "libmxn.so")
    assert f"[libmxn.so.{major[1]}]" in dynamic
    assert not (set(re.findall(r"NEEDED.*\[(.*)\]", dynamic)) - {"libm.so.6", "libc.so.6", "libpthread.so.0"})


def build_api_test(installed: Path, target: Path, *options: str) -> Path:
    needs("pkg-config", "pkg-config")
    found = {"PKG_CONFIG_PATH": str(installed / "lib" / "pkgconfig"), "PATH": "/usr/bin:/bin"}
    flags = run("pkg-config", "--cflags", "--libs", *options, "mxn", env=found).split()
    warnings = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    run(
        "gcc",
        *warnings,
        ROOT / "tests" / "c" / "test_api.c",
        "-o",
        target,
        *flags,
        "-lm",
        f"-Wl,-rpath,{installed}/lib",
    )
    return target


def test_every_function_by_pkg_config(installed: Path, tmp_path: Path) -> None:
    assert run(build_api_test(installed, tmp_path / "test_api")).startswith("ok ")


def test_every_public_function_is_tested() -> None:
    called = (ROOT / "tests" / "c" / "test_api.c").read_text()
    assert {name for name in public_functions() if f"{name}(" not in called} == set()


def test_under_valgrind(installed: Path, tmp_path: Path) -> None:
    """No memory lost, none read before it was written."""
    needs("valgrind", "valgrind")
    program = build_api_test(installed, tmp_path / "test_api")
    check = ["valgrind", "--quiet", "--leak-check=full", "--show-leak-kinds=all", "--errors-for-leak-kinds=all"]
    assert re.fullmatch(r"ok \d+ backends, 0 wrong\n", run(*check, "--error-exitcode=9", program))


def test_with_sanitizers(sanitized: Path) -> None:
    assert run(sanitized / "test_api").startswith("ok ")


def test_with_musl(tmp_path: Path) -> None:
    needs("musl-gcc", "musl-tools")
    cmake(ROOT / "csrc", tmp_path, "-DCMAKE_C_COMPILER=musl-gcc", "-DMXN_BUILD_EXAMPLES=OFF")
    assert "libc.so.6" not in run("readelf", "-d", tmp_path / "test_api")
    assert "100% tests passed" in run("ctest", "--test-dir", tmp_path)


def test_example_gives_the_logits_of_the_package(example: Path, face: tuple[Path, np.ndarray]) -> None:
    labels, logits = logits_in(run(example, face[0], DEFAULT_MODEL))
    expected = Recognizer().predict_faces([face[1]])[0]
    assert tuple(labels) == tuple(expected.probabilities)
    np.testing.assert_array_equal(logits, expected.logits)


@pytest.mark.parametrize("architecture", ["microexpnet-v", "microexpnet-p1", "microexpnet-p2", "microexpnet-p12"])
@pytest.mark.parametrize("preprocessing", ["face-square", "microexpnet-paper"])
def test_example_reads_every_kind_of_weights(
    sanitized: Path,
    face: tuple[Path, np.ndarray],
    tmp_path: Path,
    random_weights: Callable[..., Weights],
    architecture: str,
    preprocessing: str,
) -> None:
    plain = random_weights(architecture, hidden=17, classes=3)
    labels = ('a "b" \\ / c', "fröhlich", "\N{GRINNING FACE}")
    weights = Weights(architecture, labels, preprocessing, "", plain.tensors)
    write_weights(tmp_path / "w.safetensors", weights)
    found, logits = logits_in(run(sanitized / "examples" / "classify_pgm", face[0], tmp_path / "w.safetensors"))
    assert tuple(found) == labels
    expected = Recognizer(Student(weights)).predict_faces([face[1]])[0].logits
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def hostile_weights(original: bytes) -> list[bytes]:
    """Weight files with damage: cut off, with bytes changed at random, and with headers that lie."""
    rng = random.Random(3)
    length = int.from_bytes(original[:8], "little")
    header, body = json.loads(original[8 : 8 + length]), original[8 + length :]
    files = [
        b"",
        b"\0" * 8,
        b"\xff" * 8,
        b"\xff" * 100,
        original[:7],
        original[:8],
        original[: 8 + length],
        original[:-1],
    ]
    for _ in range(150):
        damaged = bytearray(original)
        for _ in range(rng.choice([1, 1, 3, 20])):
            damaged[rng.randrange(8 + length)] = rng.choice([rng.randrange(256), *b'"\\[]{}:,0']) & 0xFF
        files.append(bytes(damaged))

    def with_header(text: str) -> bytes:
        return len(text.encode()).to_bytes(8, "little") + text.encode() + body

    lies = [
        {"shape": [1 << 40]},
        {"shape": [-1]},
        {"shape": [8] * 9},
        {"shape": []},
        {"data_offsets": [0, 1 << 24]},
        {"data_offsets": [1 << 24, 0]},
        {"data_offsets": [4, 0]},
        {"data_offsets": [0]},
        {"dtype": "F64"},
        {"dtype": "I8"},
        {"dtype": "F32"},
    ]
    for name in header:
        files.append(with_header(json.dumps({key: value for key, value in header.items() if key != name})))
        files += [with_header(json.dumps({**header, name: {**header[name], **lie}})) for lie in lies]
    for key in header["__metadata__"]:
        for value in ("", "\\u12", "[", '["\\ud800"]', '["\0"]', "[" * 10000, 7, None):
            metadata = {**header["__metadata__"], key: value}
            files.append(with_header(json.dumps({**header, "__metadata__": metadata})))
    files.append(with_header('{"fc1.bias":' * 50000))
    files.append(with_header('{"__metadata__":{"labels":"\\'))
    return files


def test_example_survives_hostile_weights(sanitized: Path, face: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """Read or refused, but never a crash, a leak or a byte out of bounds."""
    refused = 0
    for content in hostile_weights(DEFAULT_MODEL.read_bytes()):
        (tmp_path / "w").write_bytes(content)
        result = subprocess.run(
            [sanitized / "examples" / "classify_pgm", face[0], tmp_path / "w"], capture_output=True, check=False
        )
        assert result.returncode in (0, 1), result.stderr
        assert b"Sanitizer" not in result.stderr
        assert b"runtime error" not in result.stderr
        refused += result.returncode
    assert refused > 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"P5",
        b"P6 1 1 255\n\0",
        b"P5 1 1 65535\n\0\0",
        b"P5 2 2 255\n\0\0\0",
        b"P5 0 4 255\n",
        b"P5 -4 4 255\n",
        b"P5 99999999999999999999 4 255\n",
        b"P5 65535 65535 255\n\0",
        b"P5 #" + b"x" * 1000,
    ],
)
def test_example_refuses_broken_pictures(sanitized: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "picture.pgm").write_bytes(content)
    output = run(sanitized / "examples" / "classify_pgm", tmp_path / "picture.pgm", DEFAULT_MODEL, code=1)
    assert "not a readable PGM picture" in output
    assert "Sanitizer" not in output


def test_example_says_what_is_wrong(sanitized: Path, face: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    program = sanitized / "examples" / "classify_pgm"
    assert "usage" in run(program, code=2)
    assert "cannot be opened" in run(program, face[0], tmp_path / "absent", code=1)
    assert "instruction set" in run(program, face[0], DEFAULT_MODEL, code=1, env={"MXN_EDGE_ISA": "avx1024"})
