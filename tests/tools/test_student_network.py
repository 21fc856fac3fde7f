"""The student in PyTorch: its size, its answers and its weight file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training tools need PyTorch (pip install mxn-edge[train])")

from mxn_edge.weights import ARCHITECTURES, write_weights  # noqa: E402
from tests.networks import MakeWeights  # noqa: E402
from tests.reference import reference_logits  # noqa: E402
from tests.tools.toy_data import random_faces  # noqa: E402
from tools.augment import resize_faces  # noqa: E402
from tools.ferplus import LABELS  # noqa: E402
from tools.student_network import StudentNetwork, from_weights, to_weights, trainable_from_weights  # noqa: E402

# The work is tiny: threads would only wait for each other.
torch.set_num_threads(1)


def test_the_default_student_has_65000_parameters() -> None:
    network = StudentNetwork(batch_norm=True, dropout=0.1, input_scale=1 / 256)
    assert to_weights(network, LABELS, "face-square", "").parameters == 65_000
    assert sum(parameter.numel() for parameter in StudentNetwork().parameters()) == 65_000


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_network_matches_a_reference_without_torch(architecture: str, random_weights: MakeWeights) -> None:
    weights = random_weights(architecture, hidden=7, classes=6)
    faces = random_faces(2, size=84 // 12 * 16)[:, :84, :84]
    expected = reference_logits(weights, faces)
    with torch.no_grad():
        logits = from_weights(weights).double()(torch.from_numpy(faces)[:, None].double())
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_weights_survive_the_round_trip_bit_for_bit(
    architecture: str, tmp_path: Path, random_weights: MakeWeights
) -> None:
    weights = random_weights(architecture, seed=3)
    again = to_weights(from_weights(weights), weights.labels, weights.preprocessing, weights.training)
    for name, tensor in weights.tensors.items():
        assert np.array_equal(again.tensors[name].view(np.uint32), tensor.view(np.uint32)), name
    write_weights(tmp_path / "a", weights)
    write_weights(tmp_path / "b", again)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_folding_keeps_the_logits(architecture: str, random_weights: MakeWeights) -> None:
    torch.manual_seed(0)
    network = StudentNetwork(architecture, 9, batch_norm=True, dropout=0.5, input_scale=1 / 256)
    faces = resize_faces(torch.from_numpy(random_faces(16)))
    with torch.no_grad():
        for _ in range(20):  # give the normalisation statistics of its own
            network(faces)
        for norm in (network.norm1, network.norm2, network.norm3):
            norm.bias.normal_()
        network.eval()
        folded = from_weights(to_weights(network, LABELS, "face-square", ""))
        expected, found = network.double()(faces.double()), folded.double()(faces.double())
    assert found.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_weight_file_is_trained_from_where_it_is(architecture: str, random_weights: MakeWeights) -> None:
    weights = random_weights(architecture, hidden=9)
    faces = resize_faces(torch.from_numpy(random_faces(24)))
    torch.manual_seed(0)
    network = trainable_from_weights(weights, faces, input_scale=1 / 256)
    with torch.no_grad():
        expected = from_weights(weights)(faces)
        tolerance = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(network(faces), expected, rtol=0, atol=tolerance)
        again = to_weights(network, weights.labels, weights.preprocessing, "")
        torch.testing.assert_close(from_weights(again)(faces), expected, rtol=0, atol=tolerance)
        network.train()  # by the statistics of the faces instead of those it holds: the same ones
        torch.testing.assert_close(network(faces), expected, rtol=0, atol=tolerance)
    fresh = StudentNetwork(architecture, 9, batch_norm=True)
    for name in ("conv1", "conv2", "fc1"):
        norms = [getattr(student, name).weight.norm().item() for student in (network, fresh)]
        assert norms[0] == pytest.approx(norms[1], rel=0.2), name
