"""tools/calibrate.py: the fitted temperature is the right one, and folding it changes the logits and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="the evaluation tools read pictures with OpenCV")

from mxn_edge.recognizer import Recognizer
from mxn_edge.student import Student
from mxn_edge.weights import Weights, read_weights, write_weights
from tools import calibrate
from tools.ferplus import LABELS
from tools.metrics import log_softmax

Make = Callable[..., Weights]


def test_temperature_of_two_classes_by_hand() -> None:
    # Three of four right, each with logit difference 2: the best probability is 3/4, at difference log 3.
    logits = np.array([[2.0, 0], [2, 0], [2, 0], [0, 2]])
    assert calibrate.fit_temperature(logits, np.array([0, 0, 0, 0])) == pytest.approx(2 / np.log(3), rel=1e-9)


def test_temperature_of_drawn_labels_is_found() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (20_000, 8))
    cumulative = np.exp(log_softmax(logits / 1.7)).cumsum(axis=1)
    labels = (random.random((len(logits), 1)) > cumulative).sum(axis=1).clip(max=7)
    assert calibrate.fit_temperature(logits, labels) == pytest.approx(1.7, rel=0.02)


def test_confidence_is_matched_to_accuracy_by_hand() -> None:
    # Three of four are right, and the top class of equal faces has the probability 1 / (1 + exp(-2 / T)).
    logits = np.array([[2.0, 0], [2, 0], [2, 0], [0, 2]])
    assert calibrate.match_confidence(logits, np.array([0, 0, 0, 0])) == pytest.approx(2 / np.log(3), rel=1e-9)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_answers_that_are_all_right_or_all_wrong_have_no_temperature(labels: list[int]) -> None:
    with pytest.raises(calibrate.CalibrationError, match="not between"):
        calibrate.fit_temperature(np.array([[1.0, 0], [3, 0]]), np.array(labels))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 3.0])
def test_folding_divides_the_logits_and_keeps_their_order(temperature: float, random_weights: Make) -> None:
    weights = random_weights()
    folded = calibrate.fold_temperature(weights, temperature, "folded")
    faces = np.random.default_rng(1).integers(0, 256, (64, 84, 84), np.uint8)
    before, after = Student(weights).logits(faces), Student(folded).logits(faces)
    np.testing.assert_allclose(after, before / temperature, rtol=1e-5, atol=1e-5)
    assert np.array_equal(after.argsort(axis=1), before.argsort(axis=1))
    assert folded.training == weights.training + "; folded"
    for name in weights.tensors.keys() - {"fc2.weight", "fc2.bias"}:
        assert np.array_equal(folded.tensors[name], weights.tensors[name]), name


def test_another_least_share_by_hand(random_weights: Make) -> None:
    share = np.array([0.5, 0.3, 0.1, 0.04, 0.03, 0.01, 0.01, 0.01])
    weights = random_weights()
    changed = calibrate.change_least_share(weights, share, 0.02, 0.1)
    odds = [1, 1, 1, 2.5, 0.1 / 0.03, 5, 5, 5]
    np.testing.assert_allclose(changed.tensors["fc2.bias"] - weights.tensors["fc2.bias"], np.log(odds), rtol=1e-5)
    back = calibrate.change_least_share(changed, share, 0.1, 0.02)
    np.testing.assert_allclose(back.tensors["fc2.bias"], weights.tensors["fc2.bias"], atol=1e-6)
    assert changed.training.endswith("answers as if no expression were rarer than 0.1")
    for wrong in ((-0.1, 0.1), (0.1, 1.5), (0.1, float("nan"))):
        with pytest.raises(calibrate.CalibrationError, match="not between 0 and 1"):
            calibrate.change_least_share(weights, share, *wrong)
    with pytest.raises(calibrate.CalibrationError, match="no face"):
        calibrate.change_least_share(weights, share * 0, 0.1, 0.1)


@pytest.mark.parametrize("views", [1, 4])
def test_command_line(views: int, tmp_path: Path, random_weights: Make, capsys: pytest.CaptureFixture[str]) -> None:
    weights = replace(random_weights(), labels=LABELS)
    write_weights(tmp_path / "model.safetensors", weights)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 48, 48), np.uint8)
    # The raters agree with the student on two faces of three.
    said = Recognizer(Student(weights), views=views).predict_faces(images)
    answers = np.array([LABELS.index(face.expression) for face in said])
    answers[::3] = (answers[::3] + 1) % 8
    votes = np.eye(8, dtype=np.uint8)[answers] * 10
    data, out = tmp_path / "data.npz", tmp_path / "new" / "out.safetensors"
    np.savez(data, valid_images=images, valid_votes=votes, vote_names=np.array(LABELS))
    assert calibrate.main([str(tmp_path / "model.safetensors"), str(data), str(out), "--views", str(views)]) == 0
    assert "fitted on the 60 faces" in capsys.readouterr().out
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["before"]["accuracy"] == report["after"]["accuracy"]
    assert report["before"]["accuracy"]["value"] == pytest.approx(2 / 3)
    losses = [report[when]["negative_log_likelihood"]["value"] for when in ("before", "after")]
    assert losses[1] < losses[0]
    written = read_weights(out)
    assert "fitted on FER+ valid" in written.training
    expected = weights.tensors["fc2.weight"] / report["temperature"]
    np.testing.assert_allclose(written.tensors["fc2.weight"], expected, rtol=1e-6)


def test_command_line_names_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate.main([str(tmp_path / "absent.safetensors"), "data.npz", str(tmp_path / "out")]) == 1
    assert "absent.safetensors" in capsys.readouterr().err
