"""Means of students: what they compute, and what has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mxn_edge.weights import ARCHITECTURES, Weights, read_weights, write_weights
from tests.networks import MakeWeights
from tests.reference import reference_logits
from tests.tools.toy_data import random_faces
from tools import average


def scaled(weights: Weights, factor: float) -> Weights:
    """The same student, written with other factors between its layers."""
    tensors = {name: tensor.copy() for name, tensor in weights.tensors.items()}
    factors = factor ** np.linspace(0.5, 1.5, 16, dtype=np.float32)
    tensors["conv1.weight"] *= factors
    tensors["conv1.bias"] *= factors
    tensors["conv2.weight"] /= factors[:, None]
    tensors["fc1.weight"] *= np.float32(factor)
    tensors["fc1.bias"] *= np.float32(factor)
    tensors["fc2.weight"] /= np.float32(factor)
    return replace(weights, tensors=tensors)


@pytest.fixture
def faces() -> np.ndarray:
    return random_faces(3, size=96)[:, :84, :84]


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_equal_channels_compute_the_same(architecture: str, random_weights: MakeWeights, faces: np.ndarray) -> None:
    weights = random_weights(architecture, hidden=7, classes=5)
    tensors = average.with_equal_channels(weights)
    for layer in ("conv1", "conv2", "fc1"):
        weight = tensors[f"{layer}.weight"]
        norms = np.linalg.norm(weight.reshape(-1, weight.shape[-1]), axis=0)
        np.testing.assert_allclose(norms, 1)
    equal = replace(weights, tensors={name: tensor.astype(np.float32) for name, tensor in tensors.items()})
    np.testing.assert_allclose(reference_logits(equal, faces), reference_logits(weights, faces), rtol=1e-4, atol=1e-5)


def test_a_student_is_the_mean_of_itself_however_it_is_written(random_weights: MakeWeights, faces: np.ndarray) -> None:
    weights = random_weights("microexpnet-p12", hidden=7)
    mean = average.average([weights, scaled(weights, 3.0), scaled(weights, 0.2)], [1, 2, 0.5])
    np.testing.assert_allclose(reference_logits(mean, faces), reference_logits(weights, faces), rtol=1e-4, atol=1e-5)


def test_shares_weigh_the_last_layer(random_weights: MakeWeights) -> None:
    one = random_weights("microexpnet-p12", hidden=7)
    other = replace(one, tensors={**one.tensors, "fc2.bias": one.tensors["fc2.bias"] + np.float32(1)})
    mean = average.average([one, other], [1, 3])
    np.testing.assert_allclose(mean.tensors["fc2.bias"], one.tensors["fc2.bias"] + 0.75, rtol=1e-6)
    assert mean.training == f"mean of 0.25 of ({one.training}), 0.75 of (that)"
    other = replace(one, training=one.training + "; then more")
    assert average.average([one, other], [1, 1]).training.endswith(f"({one.training}), 0.5 of (that; then more)")
    other = replace(one, training="something else")
    assert average.average([one, other], [1, 1]).training.endswith("0.5 of (something else)")


def test_dead_channels_stay_dead(random_weights: MakeWeights, faces: np.ndarray) -> None:
    weights = random_weights("microexpnet-p12", hidden=7)
    for name in ("conv1.weight", "conv1.bias"):
        weights.tensors[name][..., 3] = 0
    mean = average.average([weights, weights], [1, 1])
    np.testing.assert_allclose(reference_logits(mean, faces), reference_logits(weights, faces), rtol=1e-4, atol=1e-5)


def test_command_line(tmp_path: Path, random_weights: MakeWeights, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    for seed, file in enumerate(files):
        write_weights(file, random_weights("microexpnet-p12", hidden=7, seed=seed))
    out = tmp_path / "new" / "mean"
    assert average.main([str(out), *map(str, files)]) == 0
    expected = average.average([read_weights(file) for file in files], [1, 1])
    for name, tensor in read_weights(out).tensors.items():
        np.testing.assert_array_equal(tensor, expected.tensors[name])
    capsys.readouterr()
    assert average.main([str(out), *map(str, files), "--shares", "1"]) == 1
    assert "1 shares of 2 files" in capsys.readouterr().err
    write_weights(files[1], random_weights("microexpnet-p12", hidden=8))
    assert average.main([str(out), *map(str, files)]) == 1
    assert "hidden 8 beside 7" in capsys.readouterr().err
    files[1].write_text("hello")
    assert average.main([str(out), *map(str, files)]) == 1
    assert "two: " in capsys.readouterr().err
