"""`mxn-edge export`: other programs read what it writes, and give the logits of `Student`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mxn_edge import Student, cli
from mxn_edge.export import SUFFIXES, c_source, export_c
from mxn_edge.student import DEFAULT_MODEL
from mxn_edge.weights import ARCHITECTURES, Weights, read_weights, write_weights
from tests.test_c_library import EXAMPLE, ROOT, cmake, logits_in, run

MakeWeights = Callable[..., Weights]

# Prints what an exported student is made of: its head, and the bits of every weight.
PROBE = """
#include <stdio.h>
#include "mxn.h"
extern const mxn_student probe;
static void print(const float *values, long count) { fwrite(values, sizeof *values, (size_t)count, stdout); }
int main(void) {
    const mxn_config c = probe.config;
    const mxn_weights *w = &probe.weights;
    const long flat = c.topology >= MXN_TOPOLOGY_P2 ? MXN_FLAT_POOLED : MXN_FLAT_PLAIN;
    printf("%d %d %d %d %s\\n", c.topology, c.hidden, c.classes, probe.quantised, probe.preprocessing);
    for (int i = 0; i < c.classes; i++) printf("%s%c", probe.labels[i], 0);
    print(w->conv1_bias, 16), print(w->conv1_weight, 1024), print(w->conv2_bias, 32), print(w->conv2_weight, 8192);
    print(w->fc1_bias, c.hidden), print(w->fc1_weight, flat * c.hidden);
    print(w->fc2_bias, c.classes), print(w->fc2_weight, c.hidden * c.classes);
    return 0;
}
"""


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, 84, 84), dtype=np.uint8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_c_holds_the_same_bits(tmp_path: Path, random_weights: MakeWeights, architecture: str) -> None:
    plain = random_weights(architecture, hidden=5, classes=4)
    tensors = dict(plain.tensors)
    tensors["conv1.bias"] = np.array([0, -0.0, 1, -1, 1e-45, -1e-38, 3.4028235e38, 0.1, *range(8)], np.float32)
    labels = ("plain", 'quote " \\ ??/', "*/ line\nbreak\t\x01", "fröhlich \N{GRINNING FACE}7")
    weights = Weights(architecture, labels, "face-square-standardised", "", tensors)
    export_c(tmp_path / "probe.c", weights, name="probe")
    (tmp_path / "main.c").write_text(PROBE)
    strict = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wmissing-prototypes", "-Werror", "-I", ROOT / "csrc"]
    run("gcc", *strict, tmp_path / "main.c", tmp_path / "probe.c", "-o", tmp_path / "probe")
    output = subprocess.run([tmp_path / "probe"], capture_output=True, check=True).stdout
    expected = f"{list(ARCHITECTURES).index(architecture)} 5 4 0 face-square-standardised\n".encode()
    expected += b"".join(label.encode() + b"\0" for label in labels)
    expected += b"".join(tensors[name].tobytes() for name in sorted(tensors))
    assert output == expected


def test_compiled_in_weights_give_the_same_logits(tmp_path: Path) -> None:
    """The default weights, quantised, in the example: the same lines as from the file."""
    assert cli.main(["export", "--to", "c", "--output", str(tmp_path / "student.c")]) == 0
    picture = faces(1)[0]
    (tmp_path / "face.pgm").write_bytes(b"P5 84 84 255\n" + picture.tobytes())
    cmake(ROOT / "csrc", tmp_path / "build", f"-DMXN_STUDENT={tmp_path / 'student.c'}", "-DMXN_BUILD_TESTS=OFF")
    programs = tmp_path / "build" / "examples"
    compiled = run(programs / "classify_pgm_compiled", tmp_path / "face.pgm")
    assert compiled == run(programs / "classify_pgm", tmp_path / "face.pgm", DEFAULT_MODEL)
    labels, logits = logits_in(compiled)
    assert tuple(labels) == Student.load().labels
    assert np.isfinite(logits).all()
    assert "usage" in run(programs / "classify_pgm_compiled", code=2)
    assert EXAMPLE.is_dir()


@pytest.mark.parametrize("name", ["", "7up", "a b", "a;", "ä", "a\n"])
def test_names_that_are_none(random_weights: MakeWeights, name: str) -> None:
    with pytest.raises(ValueError, match="is not a C identifier"):
        c_source(random_weights(hidden=1), name)


def test_onnx_gives_the_same_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "--to", "onnx"]) == 0
    session = onnxruntime.InferenceSession("default.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"faces": faces(5)[:, None].astype(np.float32)})[0]
    np.testing.assert_allclose(found, Student.load(precision="float32").logits(faces(5)), rtol=0, atol=1e-4)


def test_safetensors_is_the_weight_file(tmp_path: Path, random_weights: MakeWeights) -> None:
    assert cli.main(["export", "--to", "safetensors", "--output", str(tmp_path / "default")]) == 0
    assert (tmp_path / "default").read_bytes() == DEFAULT_MODEL.read_bytes()
    write_weights(tmp_path / "a", random_weights())
    assert cli.main(["export", str(tmp_path / "a"), "--to", "safetensors", "--output", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_weights(tmp_path / "b").hidden == 48


def test_without_onnx_the_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['onnx'] = None; from mxn_edge.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "export", "--output", str(tmp_path / "out"), "--to"]
    failed = subprocess.run([*command, "onnx"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "pip install 'mxn-edge[onnx]'" in failed.stderr
    assert "Traceback" not in failed.stderr
    for other in set(SUFFIXES) - {"onnx"}:
        subprocess.run([*command, other], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "c", "--opset", "13"], "--opset says nothing about c"),
        (["--to", "onnx", "--name", "a"], "--name says nothing about onnx"),
        (["--to", "onnx", "--opset", "12"], "opset is 12; expected 13 to 17"),
        (["--to", "c", "--name", "1"], "not a C identifier"),
        (["absent", "--to", "c"], "absent"),
        (["--to", "c", "--output", "no/such/folder/a.c"], "no/such/folder"),
    ],
)
def test_complaints(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
