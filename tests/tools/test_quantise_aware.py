"""tools/quantise_aware.py: the command line. What it trains is tested in test_quantisation.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training tools need PyTorch (pip install mxn-edge[train])")
pytest.importorskip("tqdm", reason="the training tools need tqdm (pip install mxn-edge[train])")

from mxn_edge.weights import QUANTISED_LAYERS, Weights, read_weights, write_weights  # noqa: E402
from tests.reference import quantised  # noqa: E402
from tests.tools.test_quantisation import random_faces  # noqa: E402
from tools import quantise_aware  # noqa: E402
from tools.ferplus import LABELS  # noqa: E402

torch.set_num_threads(1)

Make = Callable[..., Weights]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    arrays: dict[str, np.ndarray] = {"vote_names": np.array([*LABELS, "unknown", "not-a-face"])}
    for split in ("train", "valid"):
        arrays[f"{split}_images"] = random_faces(160, 48)
        arrays[f"{split}_votes"] = np.eye(10, dtype=np.uint8)[np.arange(160) % 8] * 10
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    return tmp_path / "data.npz"


def test_command_line(data: Path, tmp_path: Path, random_weights: Make, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "model.safetensors", tmp_path / "new" / "out.safetensors"
    write_weights(model, replace(random_weights(hidden=12), labels=LABELS))
    assert quantise_aware.main([str(model), str(data), str(out), "--epochs", "2", "--quiet"]) == 0
    assert "same answer as float" in capsys.readouterr().out
    weights, report = read_weights(out), json.loads(out.with_suffix(".json").read_text())
    assert "fine-tuned for int8" in weights.training
    assert weights.quantised
    assert set(report["activation_scales"].values()) == {1.0}
    for name in QUANTISED_LAYERS:
        scale = quantised(weights.tensors[f"{name}.weight"])[1]
        assert np.array_equal(np.array(report["weight_scales"][name], np.float32), scale), name
    assert report["valid"]["float"]["agreement"] == 1
    assert report["valid"]["int8"]["agreement"] > 0.9
    first = out.read_bytes()
    assert quantise_aware.main([str(model), str(data), str(out), "--epochs", "2", "--quiet", "--resume"]) == 0
    assert out.read_bytes() == first


def test_command_line_refuses_other_labels(
    data: Path, tmp_path: Path, random_weights: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    write_weights(tmp_path / "model.safetensors", random_weights())
    assert quantise_aware.main([str(tmp_path / "model.safetensors"), str(data), str(tmp_path / "out")]) == 1
    assert "are not FER+'s" in capsys.readouterr().err
