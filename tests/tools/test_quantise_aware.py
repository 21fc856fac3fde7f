"""tools/quantise_aware.py: what is simulated is integer arithmetic, and what is written quantises without loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training tools need PyTorch (pip install mxn-edge[train])")
pytest.importorskip("tqdm", reason="the training tools need tqdm (pip install mxn-edge[train])")

from mxn_edge.weights import ARCHITECTURES, Weights, read_weights, write_weights  # noqa: E402
from tools import quantise_aware  # noqa: E402
from tools.ferplus import LABELS  # noqa: E402
from tools.quantise_aware import QuantisationError, QuantisedStudent, _quantise, rescale  # noqa: E402
from tools.student_network import from_weights  # noqa: E402

torch.set_num_threads(1)

Make = Callable[..., Weights]


def random_faces(count: int, size: int = 84) -> np.ndarray:
    random = np.random.default_rng(5)
    coarse = random.integers(0, 256, (count, size // 12, size // 12))
    return (coarse.repeat(12, 1).repeat(12, 2) * 0.8 + random.integers(0, 51, (count, size, size))).astype(np.uint8)


def as_input(faces: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(faces)[:, None].float()


# --- a reference in integers, from the text of the module ------------------------------------------------------------


def quantised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = np.abs(weight).reshape(-1, weight.shape[-1]).max(axis=0) / np.float32(127)
    assert scale.dtype == np.float32
    return np.rint(weight / scale).astype(np.int8), scale


def convolved(x: np.ndarray, q: np.ndarray, stride: int, before: int, after: int) -> np.ndarray:
    """(H, W, in) uint8 and (kh, kw, in, out) int8 -> (h, w, out) int32."""
    padded = np.pad(x, ((before, after), (before, after), (0, 0))).astype(np.int32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, q.shape[:2], (0, 1))[::stride, ::stride]
    return np.einsum("hwikl,klio->hwo", windows, q.astype(np.int32))


def pooled(x: np.ndarray) -> np.ndarray:
    odd = x.shape[0] % 2
    x = np.pad(x, ((0, odd), (0, odd), (0, 0)), constant_values=np.iinfo(np.int32).min)
    return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max(axis=(1, 3))


def requantised(a: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    assert a.dtype == np.int32
    return (a.astype(np.float32) * scale + bias).astype(np.float32)


def to_u8(y: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(y), 0, 255).astype(np.uint8)


def integer_reference(weights: Weights, face: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    t = weights.tensors
    stride, before, pool1 = (2, 3, True) if weights.architecture.endswith(("p1", "p12")) else (4, 2, False)
    q, scale = quantised(t["conv1.weight"])
    a = convolved(face[:, :, None], q, stride, before, before)
    first = to_u8(requantised(pooled(a) if pool1 else a, scale, t["conv1.bias"]))
    q, scale = quantised(t["conv2.weight"])
    a = convolved(first, q, 2, 1, 2)
    second = to_u8(requantised(pooled(a) if weights.architecture.endswith("2") else a, scale, t["conv2.bias"]))
    q, scale = quantised(t["fc1.weight"])
    sums = second.reshape(-1).astype(np.int32) @ q.astype(np.int32)
    hidden = np.maximum(requantised(sums, scale, t["fc1.bias"]), np.float32(0))
    return first, second, hidden, hidden.astype(np.float64) @ t["fc2.weight"] + t["fc2.bias"]


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
        np.testing.assert_array_equal(first[index].permute(1, 2, 0).numpy(), expected[0])
        np.testing.assert_array_equal(second[index].permute(1, 2, 0).numpy(), expected[1])
        np.testing.assert_array_equal(hidden[index].numpy().view(np.uint32), expected[2].view(np.uint32))
        # The last layer is float32, in any order of summation.
        np.testing.assert_allclose(logits[index].numpy(), expected[3], rtol=1e-5, atol=1e-5)
        assert expected[0].max() > 200
        assert expected[1].max() > 200


def test_training_computes_nearly_the_same(written: Weights, faces: np.ndarray) -> None:
    student = QuantisedStudent(written)
    with torch.no_grad():
        torch.testing.assert_close(student.train()(as_input(faces)), student.eval()(as_input(faces)))


def test_written_weights_quantise_without_loss(written: Weights) -> None:
    for name in quantise_aware.QUANTISED:
        weight = written.tensors[f"{name}.weight"]
        q, scale = quantised(weight)
        assert np.array_equal((q * scale).astype(np.float32), weight), name
        assert (np.abs(q.astype(int)).reshape(-1, q.shape[-1]).max(axis=0) == 127).all(), name
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


# --- the command line ----------------------------------------------------------------------------------------------


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
    assert set(report["activation_scales"].values()) == {1.0}
    for name in quantise_aware.QUANTISED:
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
