"""The training loop, the teacher and the command lines of both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training tools need PyTorch (pip install mxn-edge[train])")
pytest.importorskip("tqdm", reason="the training tools need tqdm (pip install mxn-edge[train])")

from mxn_edge.weights import read_weights, write_weights  # noqa: E402
from tests.networks import MakeWeights  # noqa: E402
from tests.tools.toy_data import random_faces, write_data  # noqa: E402
from tools import evaluate_teacher, train_student, train_teacher  # noqa: E402
from tools.augment import NO_AUGMENTATION, AugmentOptions, face_views, resize_faces, standardise  # noqa: E402
from tools.checkpoints import TrainingError  # noqa: E402
from tools.ferplus import LABELS, read_ferplus  # noqa: E402
from tools.student_network import StudentNetwork, from_weights, to_weights  # noqa: E402
from tools.teacher_network import (  # noqa: E402
    TEACHER_SIZE,
    TeacherFileError,
    TeacherNetwork,
    read_teacher,
    write_teacher,
)
from tools.training import (  # noqa: E402
    TrainOptions,
    mean_prediction,
    predict,
    score,
    seeded,
    soft_cross_entropy,
    train,
)

# The work is tiny: threads would only wait for each other.
torch.set_num_threads(1)


SHORT = TrainOptions(epochs=3, batch=16, warmup=1.0, ema=0.9, seed=5)


def short_run(data: Path, checkpoint: Path, epochs: int = 3, resume: bool = False, **more: float) -> dict[str, object]:
    faces, valid = read_ferplus(data, "train"), read_ferplus(data, "valid")
    options = replace(SHORT, **more)  # type: ignore[arg-type]
    torch.manual_seed(options.seed)
    network = StudentNetwork(batch_norm=True, dropout=0.2, input_scale=1 / 256)
    stop = StopAfter(epochs)
    try:
        train(
            network,
            faces,
            valid,
            stop.watch(soft_cross_entropy(faces.targets, 0.1)),
            options,
            AugmentOptions(),
            checkpoint=checkpoint,
            resume=resume,
            progress=False,
        )
    except KeyboardInterrupt:
        return {}
    return dict(to_weights(network, LABELS, "face-square", "").tensors)


class StopAfter:
    """Kills a run in the first step after `epochs` epochs of five steps."""

    def __init__(self, epochs: int) -> None:
        self.steps = epochs * 5

    def watch(self, loss):  # type: ignore[no-untyped-def]
        def watched(*args):  # type: ignore[no-untyped-def]
            if self.steps == 0:
                raise KeyboardInterrupt
            self.steps -= 1
            return loss(*args)

        return watched


@pytest.mark.parametrize("muon_rate", [0.0, 0.02])
def test_runs_are_deterministic_and_resume_exactly(muon_rate: float, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.npz")
    whole = short_run(data, tmp_path / "whole", muon_rate=muon_rate)
    again = short_run(data, tmp_path / "again", muon_rate=muon_rate)
    assert short_run(data, tmp_path / "killed", epochs=1, muon_rate=muon_rate) == {}
    resumed = short_run(data, tmp_path / "killed", resume=True, muon_rate=muon_rate)
    other = short_run(data, tmp_path / "other", seed=6, muon_rate=muon_rate)
    for name, tensor in whole.items():
        assert np.array_equal(tensor, again[name]), name
        assert np.array_equal(tensor, resumed[name]), name
    assert not np.array_equal(whole["conv1.weight"], other["conv1.weight"])


def test_muon_steps_have_equal_singular_values(tmp_path: Path) -> None:
    faces = read_ferplus(write_data(tmp_path / "data.npz", count=16), "train")
    network = StudentNetwork(batch_norm=True, input_scale=1 / 256)
    before = {name: value.clone() for name, value in network.named_parameters()}
    options = TrainOptions(epochs=1, batch=len(faces), warmup=0.0, ema=0.0, muon_rate=0.1, weight_decay=0.0)
    train(network, faces, faces, soft_cross_entropy(faces.targets, 0.0), options, NO_AUGMENTATION, progress=False)
    for name, parameter in network.named_parameters():
        step = (parameter - before[name]).detach()
        assert step.abs().max() > 0
        if name in ("conv1.weight", "conv2.weight", "fc1.weight"):
            values = torch.linalg.svdvals(step.flatten(1))[:8]  # of a few faces with 8 labels
            assert values[0] < 2 * values[-1], name
        else:
            assert step.abs().max() <= 1.001 * options.learning_rate  # of AdamW


def test_pairs_learn_by_the_mean_of_their_answers_and_by_each(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.npz", count=36)
    faces, valid = read_ferplus(data, "train"), read_ferplus(data, "valid")
    seen, answers, judged = [], [], []

    class Watched(StudentNetwork):
        def forward(self, faces: torch.Tensor) -> torch.Tensor:
            logits = super().forward(faces)
            if self.training:
                seen.append(faces.clone())
                answers.append(logits)
            return logits

    def loss(logits: torch.Tensor, targets: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
        judged.append(logits)
        return soft_cross_entropy(faces.targets, 0.0)(logits, targets, None)

    options = TrainOptions(epochs=1, batch=16, warmup=0.0, pairs=True)
    network = Watched()
    (record,) = train(network, faces, valid, loss, options, NO_AUGMENTATION, progress=False)
    plain = resize_faces(torch.from_numpy(faces.images))
    order = torch.randperm(len(faces), generator=seeded(options.seed, 0, 2))
    costs = []
    for step in range(2):
        index = order[16 * step : 16 * (step + 1)]
        views = face_views(plain[index])
        torch.testing.assert_close(seen[step], torch.cat(views[:2] if step else views[2:]), rtol=0, atol=1)
        first, second = answers[step][:16], answers[step][16:]
        for found, expected in zip(judged[3 * step : 3 * step + 3], (first, second, (first + second) / 2), strict=True):
            torch.testing.assert_close(found, expected)
        targets = torch.from_numpy(faces.targets)[index]
        parts = [-(targets * part.log_softmax(1)).sum(1).mean() for part in (first, second, (first + second) / 2)]
        costs.append((parts[0] / 4 + parts[1] / 4 + parts[2] / 2).item())
    assert record["loss"] == pytest.approx(np.mean(costs), rel=1e-5)
    shown = face_views(resize_faces(torch.from_numpy(valid.images)))
    assert record["cross_entropy"] == pytest.approx(score(mean_prediction(network, shown), valid).cross_entropy)


def test_a_checkpoint_of_other_options_is_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.npz")
    short_run(data, tmp_path / "checkpoint")
    with pytest.raises(TrainingError, match="other options"):
        short_run(data, tmp_path / "checkpoint", resume=True, seed=6)
    with pytest.raises(TrainingError, match="other options or data"):
        short_run(write_data(data, count=100), tmp_path / "checkpoint", resume=True)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.npz")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").touch()
    torch.save([1, 2], tmp_path / "list")
    for name in ("text", "empty", "list"):
        with pytest.raises(TrainingError, match=name):
            short_run(data, tmp_path / name, resume=True)


def test_cross_entropy_corrects_rare_classes_only() -> None:
    targets = np.tile(np.array([0.7, 0.25, 0.05], dtype=np.float32), (4, 1))
    logits, soft = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.5, 0.25, 0.25]])

    def expected(weights: list[float]) -> float:
        odds = np.exp([1, 2, 0]) * weights
        return float(-np.dot([0.5, 0.25, 0.25], np.log(odds / odds.sum())))

    assert soft_cross_entropy(targets, 0.0)(logits, soft, None).item() == pytest.approx(expected([1, 1, 1]))
    assert soft_cross_entropy(targets, 0.2)(logits, soft, None).item() == pytest.approx(expected([1, 1, 0.25]))
    assert soft_cross_entropy(targets, 0.5)(logits, soft, None).item() == pytest.approx(expected([1, 0.5, 0.1]))


def test_scores_of_hand_made_logits(tmp_path: Path) -> None:
    valid = read_ferplus(write_data(tmp_path / "data.npz"), "valid")
    logits = torch.zeros(len(valid), 8)
    logits[:, LABELS.index("happiness")] = 1
    scores = score(logits, valid)
    assert scores.recall == {"happiness": 1.0, "sadness": 0.0}
    assert scores.accuracy == pytest.approx(0.5)
    assert scores.balanced_accuracy == pytest.approx(0.5)


# --- the teacher ---------------------------------------------------------------------------------------------------


def test_teacher_survives_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TeacherNetwork("small").eval()
    faces = resize_faces(torch.from_numpy(random_faces(3)), TEACHER_SIZE)
    write_teacher(tmp_path / "teacher", network, "nothing")
    with torch.no_grad():
        expected = network(faces)
        assert expected.shape == (3, 8)
        torch.testing.assert_close(read_teacher(tmp_path / "teacher")(faces), expected)
        torch.testing.assert_close(network(faces * 0.5 + 20), expected, rtol=0, atol=0.2)  # light says little


def test_a_foreign_teacher_is_refused(tmp_path: Path, random_weights: MakeWeights) -> None:
    write_weights(tmp_path / "student", random_weights("microexpnet-p12"))
    (tmp_path / "text").write_text("hello")
    for name in ("student", "text"):
        with pytest.raises(TeacherFileError, match=name):
            read_teacher(tmp_path / name)


# --- the command lines ---------------------------------------------------------------------------------------------


def test_command_line_writes_weights_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_data(tmp_path / "data.npz"), tmp_path / "new" / "student.safetensors"
    arguments = [str(data), str(out), "--epochs", "2", "--batch", "16", "--hidden", "6", "--quiet", "--threads", "1"]
    arguments += ["--architecture", "microexpnet-p2"]
    assert train_student.main(arguments) == 0
    weights = read_weights(out)
    assert (weights.architecture, weights.hidden, weights.labels) == ("microexpnet-p2", 6, LABELS)
    assert weights.preprocessing == "face-square-standardised"
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["arguments"]["epochs"] == len(report["curve"]) == 2
    assert report["command"].startswith("python -m tools.train_student data.npz student.safetensors --epochs 2")
    assert (report["data"]["train"], report["data"]["valid"]) == (92, 92)
    assert set(report["valid"]["recall"]) == {"happiness", "sadness"}
    first = out.read_bytes()
    assert train_student.main([*arguments, "--resume"]) == 0
    assert out.read_bytes() == first
    assert "valid accuracy" in capsys.readouterr().out


def test_a_run_goes_on_from_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, start, out = write_data(tmp_path / "data.npz"), tmp_path / "start", tmp_path / "out"
    usual = ["--batch", "16", "--hidden", "6", "--quiet", "--threads", "1"]
    assert train_student.main([str(data), str(start), "--epochs", "3", *usual]) == 0
    more = [str(data), str(out), *usual, "--epochs", "1", "--pairs", "--start", str(start)]
    assert train_student.main([*more, "--learning-rate", "0", "--no-augment"]) == 0
    before, after = read_weights(start), read_weights(out)
    shown = standardise(resize_faces(torch.from_numpy(read_ferplus(data, "valid").images)))
    old, new = (predict(from_weights(weights), shown) for weights in (before, after))
    assert (new - old).abs().max() < 0.1 * old.std()
    assert after.training.startswith(before.training + "; then FER+ votes of 92 training faces, 1 epochs")
    assert after.training.endswith("by pairs of views")
    assert train_student.main([*more, "--learning-rate", "0.01", "--checkpoint", str(tmp_path / "moved")]) == 0
    assert (predict(from_weights(read_weights(out)), shown) - old).abs().max() > 0.2 * old.std()
    assert train_student.main([*more, "--hidden", "7"]) == 1
    assert "to start a run of ('microexpnet-p12', 7" in capsys.readouterr().err
    start.write_text("hello")
    assert train_student.main(more) == 1
    assert "start: " in capsys.readouterr().err


def test_teacher_command_line(tmp_path: Path) -> None:
    data, out = write_data(tmp_path / "data.npz", count=40), tmp_path / "teacher.safetensors"
    arguments = [str(data), str(out), "--epochs", "1", "--batch", "16", "--quiet", "--threads", "1"]
    for size, parameters in (("small", 2_409_736), ("large", 2_759_400)):
        assert train_teacher.main([*arguments, "--size", size]) == 0
        assert read_teacher(out).size == size
        assert json.loads(out.with_suffix(".json").read_text())["parameters"] == parameters


def test_teachers_are_evaluated_alone_and_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, files = write_data(tmp_path / "data.npz", count=40), [tmp_path / "one", tmp_path / "two"]
    logits = []
    valid = read_ferplus(data, "valid")
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        network = TeacherNetwork("small").eval()
        write_teacher(file, network, "nothing")
        logits.append(predict(network, resize_faces(torch.from_numpy(valid.images), TEACHER_SIZE)))
    out = tmp_path / "report.json"
    assert evaluate_teacher.main([str(data), *map(str, files), "--json", str(out)]) == 0
    report = json.loads(out.read_text())["teachers"]
    for name, answers in {"one": logits[0], "two": logits[1], "mean of their logits": sum(logits) / 2}.items():
        expected = score(answers, valid)
        assert report[name]["accuracy"]["value"] == pytest.approx(expected.accuracy)
        assert report[name]["balanced_accuracy"]["value"] == pytest.approx(expected.balanced_accuracy)
    views = face_views(resize_faces(torch.from_numpy(valid.images), TEACHER_SIZE))
    mean = torch.stack([predict(read_teacher(files[0]), view) for view in views]).mean(0)
    assert evaluate_teacher.main([str(data), str(files[0]), "--views", "4", "--json", str(out)]) == 0
    found = json.loads(out.read_text())["teachers"]["one"]["accuracy"]["value"]
    assert found == pytest.approx(score(mean, valid).accuracy)
    files[0].write_text("hello")
    capsys.readouterr()
    assert evaluate_teacher.main([str(data), str(files[0])]) == 1
    assert "one: not a readable teacher file" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"not a zip file"])
def test_command_line_names_a_bad_data_file(content: bytes | None, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    data = tmp_path / "faces.npz"
    if content is not None:
        data.write_bytes(content)
    assert train_student.main([str(data), str(tmp_path / "out.safetensors")]) == 1
    assert "faces.npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--hidden", "0"], ["--least-share", "1.5"], ["--epochs", "none"], ["--architecture", "resnet"]]
)
def test_command_line_refuses_bad_options(option: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        train_student.main(["data", "out", *option])
