"""Parity of every instruction set and algorithm with two references and ONNX Runtime; int8 bit for bit."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from mxn_edge import Student, _core
from mxn_edge.weights import ARCHITECTURES
from tests.networks import (
    MakeWeights,
    assert_same_bits,
    border_lines,
    c_reference,
    int8_logits,
    int8_reference,
    network_logits,
    noise,
    real_faces,
    relative_error,
    single_pixels,
)
from tests.reference import integer_reference, reference_logits

# ---- Parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_two_references_agree(architecture: str, random_weights: MakeWeights) -> None:
    weights = random_weights(architecture, 33, 5)
    faces = np.concatenate([noise(2), single_pixels()[::7]])
    assert relative_error(c_reference(weights, faces), reference_logits(weights, faces)) < 1e-12


@pytest.mark.parametrize(("hidden", "classes"), [(48, 8), (1, 1), (7, 3), (50, 17), (257, 64), (1024, 8)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_matches_the_reference(
    isa: str, algorithm: str, architecture: str, hidden: int, classes: int, random_weights: MakeWeights
) -> None:
    weights = random_weights(architecture, hidden, classes)
    faces = noise(3)
    expected = reference_logits(weights, faces)
    for given in (faces, faces.astype(np.float32)):
        assert relative_error(network_logits(weights, given, isa, algorithm), expected) < 2e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("make_faces", [single_pixels, border_lines])
def test_paddings(
    isa: str, algorithm: str, architecture: str, make_faces: Callable[[], np.ndarray], random_weights: MakeWeights
) -> None:
    weights = random_weights(architecture, 40)
    faces = make_faces()
    found, expected = network_logits(weights, faces, isa, algorithm), reference_logits(weights, faces)
    assert np.ptp(expected, axis=0).min() > 1e-2  # the pixels do make a difference
    assert relative_error(found, expected) < 2e-5


def test_every_batch_size(isa: str, algorithm: str, random_weights: MakeWeights) -> None:
    weights = random_weights()
    faces = noise(65)
    one_by_one = np.concatenate([network_logits(weights, face[None], isa, algorithm) for face in faces])
    for count in range(66):
        np.testing.assert_array_equal(network_logits(weights, faces[:count], isa, algorithm), one_by_one[:count])


@pytest.mark.parametrize("hidden", [48, 7, 1024])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_quantised_weights_in_float32(
    isa: str, architecture: str, hidden: int, quantised_weights: MakeWeights, random_weights: MakeWeights
) -> None:
    """Their first fully connected layer is kept as bytes where that is faster: the answers are as close as ever."""
    fc1 = quantised_weights(architecture, hidden).tensors["fc1.weight"] / 128
    weights = random_weights(architecture, hidden)
    weights = replace(weights, tensors={**weights.tensors, "fc1.weight": fc1})
    faces = noise(7)
    expected = reference_logits(weights, faces)
    one_by_one = np.concatenate([network_logits(weights, face[None], isa, None) for face in faces])
    for count in range(1, 8):
        found = network_logits(weights, faces[:count], isa, None)
        assert relative_error(found, expected[:count]) < 2e-5
        np.testing.assert_array_equal(found, one_by_one[:count])


def test_earlier_faces_leave_nothing_behind(isa: str, algorithm: str, random_weights: MakeWeights) -> None:
    """Huge values fill a workspace with infinity and NaN; the next face must not see them."""
    weights = random_weights()
    network = _core.Network(weights.architecture, weights.tensors, isa, algorithm=algorithm)
    face, huge = noise(1), np.full((1, 84, 84), 3e38, np.float32)
    before, after = np.empty((1, 8), np.float32), np.empty((1, 8), np.float32)
    network.logits(face, before)
    network.logits(huge, after)
    network.logits(face, after)
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_matches_onnx_runtime(isa: str, algorithm: str, architecture: str, random_weights: MakeWeights) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the onnx extra")
    pytest.importorskip("onnx", reason="needs the onnx extra")
    from mxn_edge.onnx_model import build_model

    weights = random_weights(architecture, 37, 8)
    session = onnxruntime.InferenceSession(build_model(weights).SerializeToString(), providers=["CPUExecutionProvider"])
    faces = np.concatenate([noise(4), single_pixels()[::5]])
    (expected,) = session.run(None, {"faces": faces[:, None].astype(np.float32)})
    found = network_logits(weights, faces, isa, algorithm)
    assert relative_error(found, expected) < 2e-5
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


def test_default_weights_on_real_faces(isa: str, algorithm: str, data_dir: Path) -> None:
    from mxn_edge.student import DEFAULT_MODEL
    from mxn_edge.weights import read_weights

    weights = read_weights(DEFAULT_MODEL)
    faces = real_faces(data_dir, 64)
    found, expected = network_logits(weights, faces, isa, algorithm), reference_logits(weights, faces)
    assert relative_error(found, expected) < 2e-5
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize("views", [1, 4])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_default_weights_do_what_their_card_says(
    precision: Literal["float32", "int8"], views: int, data_dir: Path
) -> None:
    from mxn_edge.preprocess import Preprocessor
    from mxn_edge.student import DEFAULT_MODEL
    from tools.labelled_faces import read_labelled_faces
    from tools.metrics import measure

    name = f"{views} view{'s' if views > 1 else ''}, {precision}"
    row = rf"^\| valid, {name} \| ([\d.]+) % \[.*\| ([\d.]+) % \[.*\| ([\d.]+) % \[.*\| ([\d.]+) \["
    card = re.search(row, DEFAULT_MODEL.with_name("MODEL_CARD.md").read_text(), re.MULTILINE)
    assert card is not None
    student = Student.load(precision=precision)
    faces = read_labelled_faces(data_dir / "ferplus.npz", student.labels, split="valid")
    logits = faces.logits(student, Preprocessor(student.info.preprocessing, views=views))
    found = measure(logits, faces.labels, student.labels, resamples=1)
    assert 100 * found.accuracy.value == pytest.approx(float(card[1]), abs=0.1)
    assert 100 * found.balanced_accuracy.value == pytest.approx(float(card[2]), abs=0.1)
    assert 100 * found.expected_calibration_error.value == pytest.approx(float(card[3]), abs=0.1)
    assert found.negative_log_likelihood.value == pytest.approx(float(card[4]), abs=0.002)
    assert all(estimate.value > 0 for estimate in found.recall.values())


# ---- int8: bit for bit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [1, 33])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_two_int8_references_are_the_same(
    architecture: str, hidden: int, quantised_weights: MakeWeights, random_weights: MakeWeights
) -> None:
    faces = np.concatenate([noise(2), single_pixels()[::17]])
    for weights in (quantised_weights(architecture, hidden, 5), random_weights(architecture, hidden, 5)):
        expected = np.stack([integer_reference(weights, face).logits for face in faces])
        assert_same_bits(int8_reference(weights, faces), expected)
    middle = integer_reference(quantised_weights(architecture, hidden, 5), faces[0])
    for activations in (middle.first, middle.second):  # they neither vanish nor saturate
        assert np.mean((activations > 0) & (activations < 255)) > 0.2


@pytest.mark.parametrize(("hidden", "classes"), [(48, 8), (1, 1), (7, 3), (50, 17), (257, 64), (1024, 8)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_int8_is_the_reference(
    isa: str, architecture: str, hidden: int, classes: int, quantised_weights: MakeWeights
) -> None:
    weights = quantised_weights(architecture, hidden, classes)
    faces = noise(3)
    expected = int8_reference(weights, faces)
    assert hidden < 7 or len(np.unique(expected)) > classes
    for given in (faces, faces.astype(np.float32)):
        assert_same_bits(int8_logits(weights, given, isa), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("make_faces", [single_pixels, border_lines])
def test_int8_paddings(
    isa: str, architecture: str, make_faces: Callable[[], np.ndarray], quantised_weights: MakeWeights
) -> None:
    weights = quantised_weights(architecture, 40)
    faces = make_faces()
    expected = int8_reference(weights, faces)
    assert np.ptp(expected, axis=0).min() > 1e-3  # the pixels do make a difference
    assert_same_bits(int8_logits(weights, faces, isa), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_int8_does_not_saturate(isa: str, architecture: str, quantised_weights: MakeWeights) -> None:
    """All pixels 255 and all weights ±127: the largest sums there are, also of two products."""
    weights = quantised_weights(architecture, 64, extreme=True)
    tensors = {name: np.abs(t) if name == "conv1.weight" else t for name, t in weights.tensors.items()}
    weights = replace(weights, tensors=tensors)
    faces = np.stack([np.full((84, 84), 255, np.uint8), *noise(2)])
    assert_same_bits(int8_logits(weights, faces, isa), int8_reference(weights, faces))


def test_int8_rounds_float_faces(isa: str, quantised_weights: MakeWeights) -> None:
    weights = quantised_weights()
    values = np.array(
        [0, -0.0, 0.5, 0.50001, 1.5, 2.5, 3.49999, 253.5, 254.5, 254.50002, 255, 255.5, 256, 1e30, -0.5, -7, -1e30,
         1e-45, 3.4e38], np.float32
    )  # fmt: skip
    faces = np.random.default_rng(1).choice(values, (3, 84, 84))
    rounded = np.clip(np.rint(faces), 0, 255).astype(np.uint8)
    assert_same_bits(int8_logits(weights, faces, isa), int8_reference(weights, rounded))


def test_int8_of_every_batch_size(isa: str, quantised_weights: MakeWeights) -> None:
    weights = quantised_weights()
    faces = noise(65)
    expected = int8_reference(weights, faces)
    for count in range(66):
        assert_same_bits(int8_logits(weights, faces[:count], isa), expected[:count])


def test_int8_of_weights_that_are_not_quantised(isa: str, random_weights: MakeWeights) -> None:
    """The C core quantises whatever it is given; dead outputs and denormal weights included."""
    weights = random_weights(hidden=20)
    tensors = {name: tensor.copy() for name, tensor in weights.tensors.items()}
    tensors["conv1.weight"] *= 30
    tensors["conv1.weight"][..., 3] = 0
    tensors["conv2.weight"][..., 5] *= np.float32(1e-44)
    tensors["fc1.weight"][:, 7] = 0
    weights = replace(weights, tensors=tensors)
    faces = noise(2)
    assert_same_bits(int8_logits(weights, faces, isa), int8_reference(weights, faces))


def test_int8_and_float32_take_turns_in_threads(quantised_weights: MakeWeights) -> None:
    weights, faces = quantised_weights(), noise(8)
    students = [Student(weights, precision="int8"), Student(weights, precision="float32")]
    expected = [student.logits(faces) for student in students]
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(100):
            if not np.array_equal(students[which].logits(faces), expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(n % 2,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
