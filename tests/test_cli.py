"""The `mxn-edge` command, as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mxn_edge import available_isas
from mxn_edge._core import prefers_int8

cv2 = pytest.importorskip("cv2")


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mxn_edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory, portrait: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("photos") / "portrait.jpg"
    cv2.imwrite(str(path), portrait)
    return path


@pytest.fixture(scope="module")
def empty(photo: Path) -> Path:
    path = photo.with_name("no face.png")
    cv2.imwrite(str(path), np.full((100, 120, 3), 90, np.uint8))
    return path


def test_predict(photo: Path, empty: Path) -> None:
    result = run("predict", photo, empty)
    assert result.returncode == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == f"{photo}: 1 face"
    assert lines[1].split()[0] == "happiness"
    assert lines[2:] == [f"{empty}: no faces"]


def test_predict_json(photo: Path, empty: Path) -> None:
    result = run("predict", "--json", photo, empty)
    assert result.returncode == 0
    first, second = json.loads(result.stdout)
    assert first["image"] == str(photo)
    (face,) = first["faces"]
    assert face["expression"] == "happiness"
    assert set(face) == {"box", "expression", "confidence", "probabilities", "logits", "detection_score"}
    assert second == {"image": str(empty), "faces": []}


def test_predict_annotate(photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / photo.name
    other.parent.mkdir()
    other.write_bytes(photo.read_bytes())
    result = run("predict", photo, other, "--annotate", tmp_path / "new" / "folder")
    assert result.returncode == 0
    original = cv2.imread(str(photo))
    written = sorted((tmp_path / "new" / "folder").iterdir())
    assert [path.name for path in written] == ["portrait-2.png", "portrait.png"]
    for path in written:
        drawn = cv2.imread(str(path))
        changed = (drawn != original).any(axis=2)
        assert drawn.shape == original.shape
        assert 500 < changed.sum() < 0.1 * changed.size


def test_one_bad_picture_does_not_stop_the_others(photo: Path, tmp_path: Path) -> None:
    text, nothing, cut = tmp_path / "text.jpg", tmp_path / "nothing.png", tmp_path / "cut.png"
    text.write_text("no picture")
    nothing.touch()
    cv2.imwrite(str(cut), np.zeros((50, 50), np.uint8))
    cut.write_bytes(cut.read_bytes()[:40])
    result = run("predict", "--json", text, nothing, cut, tmp_path / "absent.jpg", tmp_path, photo)
    assert result.returncode == 1
    assert [entry["image"] for entry in json.loads(result.stdout)] == [str(photo)]
    for name in ("text.jpg", "nothing.png", "cut.png", "absent.jpg"):
        assert name in result.stderr
    assert "Traceback" not in result.stderr


def test_demo(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="needs the demo extra")
    result = run("demo", "--output", tmp_path / "out.png")
    assert result.returncode == 0, result.stderr
    assert "happiness" in result.stdout
    assert cv2.imread(str(tmp_path / "out.png")).shape == (512, 512, 3)
    result = run("demo", "--output", tmp_path / "out.what")
    assert result.returncode == 1
    assert "'.what' names no picture format" in result.stderr


def test_info() -> None:
    text, report = run("info"), json.loads(run("info", "--json").stdout)
    assert text.returncode == 0
    assert report["ISA available"] == list(available_isas())
    assert report["ISA active"] in available_isas()
    assert report["parameters"] == 65_000
    assert report["cpu"]
    for key in report:
        assert f"{key}:" in text.stdout


def test_bench(photo: Path) -> None:
    result = run("bench", "--seconds", "0.05", "--image", photo, "--json", MXN_EDGE_ISA="scalar")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["isa"] == "scalar"
    assert report["precision"] in ("float32", "int8")
    names = [item["name"].strip() for item in report["results"]]
    assert names[:3] == ["student float32, batch 1", "student float32, batch 8", "student float32, batch 64"]
    whole = names.index("predict, 640×480, 1 face")
    stages = ["find faces", "reduce to 213×160", "first network", "crop a face, 4 views", "classify it, 4 views"]
    assert names[whole + 1 :] == stages
    for item in report["results"]:
        assert 0 < item["p50"] <= item["p90"] <= item["p99"]
        assert item["calls"] >= 20
    table = run("bench", "--seconds", "0.01", "--image", photo)
    assert table.returncode == 0
    assert "p99 ms" in table.stdout


def test_model_option(photo: Path, tmp_path: Path, random_weights) -> None:
    from mxn_edge.weights import write_weights

    write_weights(tmp_path / "model.safetensors", random_weights(classes=2))
    result = run("predict", "--json", photo, "--model", tmp_path / "model.safetensors")
    assert set(json.loads(result.stdout)[0]["faces"][0]["probabilities"]) == {"class 0", "class 1"}


def test_precision(photo: Path, tmp_path: Path, quantised_weights, random_weights) -> None:
    from mxn_edge.weights import write_weights

    write_weights(tmp_path / "quantised", quantised_weights(classes=2))
    write_weights(tmp_path / "plain", random_weights(classes=2))
    for isa in available_isas():
        found = {}
        for name in ("quantised", "plain"):
            report = json.loads(run("info", "--json", "--model", tmp_path / name, MXN_EDGE_ISA=isa).stdout)
            assert report["quantised"] == (name == "quantised")
            found[name] = report["precision"]
        assert found == {"quantised": "int8" if prefers_int8(isa) else "float32", "plain": "float32"}
    assert "quantised:      yes" in run("info", "--model", tmp_path / "quantised").stdout
    result = run("bench", "--json", "--seconds", "0.01", "--image", photo, "--model", tmp_path / "quantised")
    names = [item["name"] for item in json.loads(result.stdout)["results"]]
    assert [name for name in names if name.startswith("student")] == [
        f"student {precision}, batch {count}" for precision in ("float32", "int8") for count in (1, 8, 64)
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "required: COMMAND"),
        (["predict"], 2, "required: IMAGE"),
        (["fly"], 2, "invalid choice: 'fly'"),
        (["predict", "PHOTO", "--views", "3"], 1, "views is 3; expected one of 1, 2, 4"),
        (["predict", "PHOTO", "--model", "/absent"], 1, "No such file or directory: '/absent'"),
        (["predict", "PHOTO", "--model", "PHOTO"], 1, "not a readable safetensors file"),
        (["predict", "PHOTO", "--detector", "/absent"], 1, "there is no detector file '/absent'"),
        (["predict", "PHOTO", "--detector", "PHOTO"], 1, "face_detection_yunet_2023mar.onnx"),
        (["predict", "PHOTO", "--annotate", "PHOTO"], 1, "File exists"),
        (["bench", "--image", "/absent"], 1, "No such file"),
        (["bench", "--seconds", "x"], 2, "invalid float value"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str, photo: Path) -> None:
    result = run(*(str(photo) if argument == "PHOTO" else argument for argument in arguments))
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == "" or arguments[0] == "bench"


def test_forced_isa() -> None:
    result = run("info", MXN_EDGE_ISA="mmx")
    assert result.returncode == 1
    assert (
        f"MXN_EDGE_ISA='mmx' is not available on this machine; available: {', '.join(available_isas())}"
        in result.stderr
    )
    for isa in available_isas():
        assert json.loads(run("info", "--json", MXN_EDGE_ISA=isa).stdout)["ISA active"] == isa


@pytest.mark.parametrize("arguments", [[], ["predict"], ["demo"], ["info"], ["bench"]])
def test_help(arguments: list[str]) -> None:
    result = run(*arguments, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("usage: mxn-edge")


def test_closed_pipe(photo: Path) -> None:
    program = f'"{sys.executable}" -m mxn_edge predict --json {" ".join([str(photo)] * 3)} | true'
    result = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr
