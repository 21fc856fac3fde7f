"""tools/quantisation.py: what is simulated is what the C core computes, and what comes out quantises without loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training tools need PyTorch (pip install mxn-edge[train])")
pytest.importorskip("tqdm", reason="the training tools need tqdm (pip install mxn-edge[train])")

from mxn_edge import Student  # noqa: E402
from mxn_edge.weights import (  # noqa: E402
    ARCHITECTURES,
    QUANTISED_LAYERS,
    Weights,
    quantise_tensor,
    read_weights,
    write_weights,
)
from tests.reference import integer_reference, quantised  # noqa: E402
from tools.ferplus import LABELS  # noqa: E402
from tools.quantisation import QuantisationError, QuantisedStudent, _quantise, rescale  # noqa: E402
from tools.student_network import from_weights  # noqa: E402

torch.set_num_threads(1)

Make = Callable[..., Weights]


def random_faces(count: int, size: int = 84) -> np.ndarray:
    random = np.random.default_rng(5)
    coarse = random.integers(0, 256, (count, size // 12, size // 12))
    return (coarse.repeat(12, 1).repeat(12, 2) * 0.8 + random.integers(0, 51, (count, size, size))).astype(np.uint8)


def as_input(faces: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(faces)[:, None].float()


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return random_faces(6)


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def written(request: pytest.FixtureRequest, random_weights: Make, faces: np.ndarray, tmp_path_factory) -> Weights:  # type: ignore[no-untyped-def]
    """Weights as they come out of a file."""
    student = QuantisedStudent(rescale(random_weights(request.param, hidden=20), as_input(faces)))
    path = tmp_path_factory.mktemp("weights") / "out.safetensors"
    write_weights(path, student.to_weights(LABELS, "face-square", "toy"))
    return read_weights(path)


def test_the_simulation_is_the_integer_reference_bit_for_bit(written: Weights, faces: np.ndarray) -> None:
    student = QuantisedStudent(written).eval()
    with torch.no_grad():
        first, second, hidden = student.activations(as_input(faces))
        logits = student(as_input(faces))
    for index, face in enumerate(faces):
        expected = integer_reference(written, face)
        np.testing.assert_array_equal(first[index].permute(1, 2, 0).numpy(), expected.first)
        np.testing.assert_array_equal(second[index].permute(1, 2, 0).numpy(), expected.second)
        np.testing.assert_array_equal(hidden[index].numpy().view(np.uint32), expected.hidden.view(np.uint32))
        # PyTorch adds up the last layer in another order.
        np.testing.assert_allclose(logits[index].numpy(), expected.logits, rtol=1e-5, atol=1e-5)
        assert expected.first.max() > 200
        assert expected.second.max() > 200


def same_logits(weights: Weights, faces: np.ndarray) -> None:
    """By PyTorch and by the C core, but for the rounding of the last layer; the top class of each face."""
    student = QuantisedStudent(weights).eval()
    with torch.no_grad():
        expected = student(as_input(faces)).numpy()
    found = Student(weights, precision="int8").logits(faces)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


def test_the_simulation_agrees_with_the_c_core(written: Weights) -> None:
    assert written.quantised
    same_logits(written, random_faces(64))


def test_the_simulation_agrees_with_the_c_core_on_real_faces(data_dir: Path) -> None:
    from mxn_edge.student import DEFAULT_MODEL
    from tools.quantise import crop, read_faces

    weights = read_weights(DEFAULT_MODEL)
    faces = crop(read_faces(data_dir / "ferplus.npz")[:512], weights.preprocessing)
    if not weights.quantised:
        scaled = QuantisedStudent(rescale(weights, as_input(faces[:256])))
        weights = scaled.to_weights(weights.labels, weights.preprocessing, "")
    same_logits(weights, faces[256:])


def test_training_computes_nearly_the_same(written: Weights, faces: np.ndarray) -> None:
    student = QuantisedStudent(written)
    with torch.no_grad():
        torch.testing.assert_close(student.train()(as_input(faces)), student.eval()(as_input(faces)))


def test_written_weights_quantise_without_loss(written: Weights) -> None:
    for name in QUANTISED_LAYERS:
        weight = written.tensors[f"{name}.weight"]
        q, scale = quantised(weight)
        assert np.array_equal((q * scale).astype(np.float32), weight), name
        assert (np.abs(q.astype(int)).reshape(-1, q.shape[-1]).max(axis=0) == 127).all(), name
        np.testing.assert_array_equal(quantise_tensor(weight)[0], q)
    again = QuantisedStudent(written).to_weights(LABELS, "face-square", "toy")
    for name, tensor in written.tensors.items():
        assert np.array_equal(again.tensors[name], tensor), name


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_rescaling_keeps_the_function_and_fills_the_range(
    architecture: str, random_weights: Make, faces: np.ndarray
) -> None:
    weights = random_weights(architecture, hidden=20)
    scaled = rescale(weights, as_input(faces), quantile=1.0)
    with torch.no_grad():
        expected, found = from_weights(weights)(as_input(faces)), from_weights(scaled)(as_input(faces))
        network = from_weights(scaled)
        seen: list[torch.Tensor] = []
        network.norm1.register_forward_hook(lambda module, inputs, output: seen.append(output.relu()))
        network(as_input(faces))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    strongest = seen[0].amax((0, 2, 3))
    assert strongest.max().item() == pytest.approx(255, rel=1e-3)
    assert strongest.median().item() == pytest.approx(255, rel=1e-3)


def test_a_silent_layer_is_named(random_weights: Make, faces: np.ndarray) -> None:
    weights = random_weights()
    tensors = {**weights.tensors, "conv2.weight": np.zeros_like(weights.tensors["conv2.weight"])}
    tensors["conv2.bias"] = np.full(32, -1, np.float32)
    with pytest.raises(QuantisationError, match="silent"):
        rescale(replace(weights, tensors=tensors), as_input(faces))


def test_quantising_by_hand() -> None:
    weight = torch.tensor([[127.0, -63.4, 0.5, -0.6], [0, 0, 0, 0], [-254.0, 3.1, 1.0, 0]], requires_grad=True)
    q, scale = _quantise(weight)
    assert q.tolist() == [[127, -63, 0, -1], [0, 0, 0, 0], [-127, 2, 0, 0]]
    assert scale.tolist() == [1, 1, 2]
    (q * scale[:, None] * torch.arange(4.0)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0, 1, 2, 3]] * 3  # straight through


def test_scales_have_sixteen_bits() -> None:
    _, scale = _quantise(torch.rand(1000, 3, generator=torch.Generator().manual_seed(0)))
    mantissa, _ = np.frexp(scale.numpy())
    assert np.array_equal(mantissa * 2**16, np.rint(mantissa * 2**16))


def test_gradients_reach_every_parameter(random_weights: Make, faces: np.ndarray) -> None:
    student = QuantisedStudent(rescale(random_weights(), as_input(faces))).train()
    student(as_input(faces)).square().sum().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
