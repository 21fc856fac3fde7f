"""tools/evaluate.py and its parts: metrics with known answers, the ways to hand in data, robustness, folds."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="the evaluation tools read pictures with OpenCV")

from mxn_edge.detector import Box as FoundBox  # noqa: E402
from mxn_edge.preprocess import Preprocessor, Square, check_frame  # noqa: E402
from mxn_edge.student import Student  # noqa: E402
from mxn_edge.weights import Weights, write_weights  # noqa: E402
from tools import evaluate  # noqa: E402
from tools.ferplus import LABELS  # noqa: E402
from tools.labelled_faces import Box, LabelledFaces, LabelledFacesError, read_labelled_faces  # noqa: E402
from tools.metrics import bootstrap_weights, confusion_matrix, difference, measure  # noqa: E402
from tools.robustness import CONDITIONS, Condition, robustness  # noqa: E402

Make = Callable[..., Weights]


# --- metrics -------------------------------------------------------------------------------------------------------


def test_metrics_by_hand() -> None:
    probabilities = np.array(
        [
            [0.90, 0.05, 0.05],  # class 0, found
            [0.60, 0.30, 0.10],  # class 0, found
            [0.30, 0.65, 0.05],  # class 0, missed: 1
            [0.20, 0.75, 0.05],  # class 1, found
        ]
    )
    found = measure(np.log(probabilities), np.array([0, 0, 0, 1]), ("a", "b", "c"), bins=2)
    assert found.count == 4
    assert found.accuracy.value == 0.75
    assert found.balanced_accuracy.value == pytest.approx((2 / 3 + 1) / 2)  # no face of class c: it does not count
    assert {name: recall.value for name, recall in found.recall.items()} == pytest.approx({"a": 2 / 3, "b": 1.0})
    assert found.negative_log_likelihood.value == pytest.approx(-np.log([0.9, 0.6, 0.3, 0.75]).mean())
    # All four are in the upper bin: mean confidence 0.725, accuracy 0.75.
    assert found.expected_calibration_error.value == pytest.approx(0.025)
    assert found.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(found.reliability, [[0, np.nan, np.nan], [4, 0.725, 0.75]])


def test_calibration_error_of_several_bins_by_hand() -> None:
    # Confidences 0.55 and 0.6 (bin 2 of 3, one of two right), 0.7 and 1.0 (bin 3, one of two right).
    probabilities = np.array([[0.55, 0.45], [0.6, 0.4], [0.7, 0.3], [1.0, 0.0]])
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(probabilities), -100)
    found = measure(logits, np.array([0, 1, 1, 0]), ("a", "b"), bins=3)
    expected = 0.5 * abs(0.575 - 0.5) + 0.5 * abs(0.85 - 0.5)
    assert found.expected_calibration_error.value == pytest.approx(expected)
    assert found.reliability[:, 0].tolist() == [0, 2, 2]


def test_a_confusion_matrix_has_a_row_per_label() -> None:
    matrix = confusion_matrix(np.array([0, 0, 1, 2, 2]), np.array([1, 1, 1, 0, 2]), 3)
    assert matrix.tolist() == [[0, 2, 0], [0, 1, 0], [1, 0, 1]]


def test_huge_logits_keep_the_loss_finite() -> None:
    found = measure(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([1, 1]), ("a", "b"))
    assert found.negative_log_likelihood.value == pytest.approx(5000)
    json.dumps(found.to_dict(), allow_nan=False)


def test_intervals_have_the_width_that_theory_says() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 2000)
    hits = random.random(2000) < 0.7
    logits = np.where(hits, 1, -1)[:, None] * (2 * np.eye(2)[labels] - 1)
    accuracy = measure(logits, labels, ("a", "b")).accuracy
    deviation = np.sqrt(accuracy.value * (1 - accuracy.value) / 2000)
    assert accuracy.low < accuracy.value < accuracy.high
    assert accuracy.high - accuracy.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_the_bootstrap_of_persons_keeps_their_faces_together() -> None:
    groups = ["b", "a", "b", "c", "a", "b"]
    for weights in bootstrap_weights(6, 50, 1, groups):
        assert weights[0] == weights[2] == weights[5]
        assert weights[1] == weights[4]
        assert weights[0] + weights[1] + weights[3] == 3
    assert all(weights.sum() == 6 for weights in bootstrap_weights(6, 50, 1))


def test_a_difference_keeps_the_pairs() -> None:
    before = np.array([True, True, False, False] * 100)
    assert difference(before, before) == (0, 0, 0)
    after = before.copy()
    after[::4] = False
    change = difference(after, before)
    assert change.value == -0.25
    assert -0.3 < change.low < -0.25 < change.high < -0.2


# --- data ----------------------------------------------------------------------------------------------------------


def grey(seed: int, size: int = 48) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8))
    return coarse.repeat(8, 0).repeat(8, 1).astype(np.uint8)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Twelve persons, each happy and sad."""
    for person in range(12):
        for number, label in enumerate(("happy", "Sadness")):
            write_picture(
                tmp_path / "tree" / label / "deeper" / f"P{person:02d}_{label}.png", grey(2 * person + number)
            )
    (tmp_path / "tree" / "happy" / "notes.txt").write_text("not a picture")
    return tmp_path / "tree"


def write_ferplus(path: Path, count: int = 40) -> Path:
    images = np.stack([grey(seed) for seed in range(count)])
    votes = np.zeros((count, 10), np.uint8)
    votes[np.arange(count), np.arange(count) % 3] = 9
    names = np.array([*LABELS, "unknown", "not-a-face"])
    np.savez(path, valid_images=images, valid_votes=votes, vote_names=names)
    return path


def model_of(path: Path, weights: Weights, labels: tuple[str, ...] = LABELS) -> Path:
    write_weights(path, replace(weights, labels=labels))
    return path


def test_a_tree_of_label_folders(tree: Path) -> None:
    faces = read_labelled_faces(tree, LABELS)
    assert len(faces) == 24
    assert faces.labels.tolist() == [LABELS.index("sadness")] * 12 + [LABELS.index("happiness")] * 12
    assert faces.persons == [f"P{person:02d}" for person in range(12)] * 2
    assert faces.boxes[0] == (0, 0, 48, 48)


def test_a_csv_file(tree: Path) -> None:
    with (tree / "faces.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["person", "label", "file"])
        rows.writerow(["Ada", "happiness", "happy/deeper/P01_happy.png"])
        rows.writerow(["Bob", "sad", "Sadness/deeper/P01_Sadness.png"])
    faces = read_labelled_faces(tree / "faces.csv", LABELS)
    assert faces.labels.tolist() == [LABELS.index("happiness"), LABELS.index("sadness")]
    assert faces.persons == ["Ada", "Bob"]
    np.testing.assert_array_equal(faces.frames[0].pixels[:, :, 0], grey(2))


def test_ferplus_finds_its_place_among_the_labels_of_a_model(tmp_path: Path) -> None:
    path = write_ferplus(tmp_path / "data.npz", 6)
    assert read_labelled_faces(path, ("contempt", "angry", "neutral")).labels.tolist() == [2, 1, 0, 2, 1, 0]
    with pytest.raises(LabelledFacesError, match="anger"):
        read_labelled_faces(path, ("contempt", "neutral"))


def test_a_face_is_found_and_cut_out_with_its_surroundings(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    write_picture(tmp_path / "tree" / "happy" / "found.png", pixels)
    write_picture(tmp_path / "tree" / "happy" / "none.png", grey(1))
    square = Square(70.0, 50.0, 24.0)

    class Stub:
        def detect(self, frame: np.ndarray, color: str = "bgr") -> list[FoundBox]:
            large = FoundBox(70, 50, 24, 24, 1.0, square)
            small = FoundBox(10, 10, 8, 8, 9.0, Square(10, 10, 8))
            return [small, large] if frame.shape[0] == 120 else []

    faces = read_labelled_faces(tmp_path / "tree", LABELS, detector=Stub())
    assert (len(faces), faces.left_out) == (1, 1)
    assert faces.frames[0].pixels.size < pixels.size / 3
    expected = np.empty((84, 84), np.uint8)
    preprocessor = Preprocessor("face-square")
    preprocessor.crop(check_frame(pixels), square, expected)
    assert np.array_equal(faces.crop(preprocessor)[0], expected)


def test_bad_data_is_named(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabelledFacesError, match="empty: no pictures"):
        read_labelled_faces(tmp_path / "empty", LABELS)
    write_picture(tree / "bored" / "a_1.png", grey(0))
    with pytest.raises(LabelledFacesError, match="bored"):
        read_labelled_faces(tree, LABELS)
    (tree / "bored" / "a_1.png").write_text("hello")
    with pytest.raises(LabelledFacesError, match=r"a_1\.png: not a readable picture"):
        read_labelled_faces(tree, (*LABELS, "bored"))
    (tree / "faces.csv").write_text("file,person\nx,y\n")
    with pytest.raises(LabelledFacesError, match="no column label"):
        read_labelled_faces(tree / "faces.csv", LABELS)


# --- robustness ----------------------------------------------------------------------------------------------------


def faces_of(images: list[np.ndarray], labels: np.ndarray) -> LabelledFaces:
    frames = [check_frame(image) for image in images]
    boxes = [Box(0, 0, image.shape[1], image.shape[0]) for image in images]
    return LabelledFaces(frames, boxes, labels, [""] * len(images))


def test_a_plain_condition_changes_nothing() -> None:
    faces = faces_of([grey(0), grey(1, 96)], np.zeros(2, int))
    pasted = [Condition("plain").apply(frame, box) for frame, box in zip(faces.frames, faces.boxes, strict=True)]
    again = replace(faces, frames=[frame for frame, _ in pasted], boxes=[box for _, box in pasted])
    preprocessor = Preprocessor("face-square")
    assert np.array_equal(again.crop(preprocessor), faces.crop(preprocessor))


def test_conditions_move_the_box_as_they_say() -> None:
    frame, box = check_frame(grey(0)), Box(0, 0, 48, 48)
    plain = Condition("").apply(frame, box)[1]
    assert Condition("", dx=0.1).apply(frame, box)[1] == pytest.approx(plain._replace(x=plain.x + 4.8))
    assert Condition("", dy=-0.1).apply(frame, box)[1] == pytest.approx(plain._replace(y=plain.y - 4.8))
    larger = Condition("", scale=1.5).apply(frame, box)[1]
    assert larger == pytest.approx((plain.x - 12, plain.y - 12, 72, 72))
    assert Condition("", width=96).apply(frame, box)[1] == pytest.approx((24, 24, 96, 96))


def test_every_box_stays_inside_its_frame() -> None:
    for condition in CONDITIONS:
        frame, box = condition.apply(check_frame(grey(0)), Box(0, 0, 48, 48))
        rows, columns = frame.pixels.shape
        assert box.x >= 0, condition.name
        assert box.y >= 0, condition.name
        assert box.x + box.width <= columns, condition.name
        assert box.y + box.height <= rows, condition.name
        assert frame.pixels.dtype == np.uint8


def test_robustness_counts_what_is_lost(random_weights: Make) -> None:
    student = Student(random_weights())
    images = [grey(seed) for seed in range(30)]
    preprocessor = Preprocessor("face-square")
    faces = faces_of(images, np.zeros(30, int))
    faces = replace(faces, labels=student.logits(faces.crop(preprocessor)).argmax(axis=1))
    rows = robustness(student, faces, preprocessor, resamples=20)
    assert len(rows) == 1 + len(CONDITIONS)
    assert (rows[0].accuracy, rows[0].balanced_accuracy, rows[0].difference) == (1.0, 1.0, (0, 0, 0))
    same = next(row for row in rows if row.name == "face 48 px wide")
    assert same.within
    for row in rows:
        assert row.difference.value == pytest.approx(row.accuracy - 1)
        assert row.within == (row.accuracy >= 0.97)
    assert any(row.accuracy < 1 for row in rows)


def test_answers_are_means_over_views(random_weights: Make) -> None:
    student = Student(random_weights())
    faces = faces_of([grey(seed) for seed in range(5)], np.zeros(5, int))
    one, four = (Preprocessor("face-square-standardised", views=views) for views in (1, 4))
    assert faces.crop(one).shape == (5, 84, 84)
    assert np.array_equal(faces.logits(student, one), student.logits(faces.crop(one)))
    shown = faces.crop(four)
    assert shown.shape == (5, 4, 84, 84)
    means = [student.logits(views).mean(axis=0) for views in shown]
    np.testing.assert_allclose(faces.logits(student, four), means, rtol=1e-5, atol=1e-5)


# --- the command line ----------------------------------------------------------------------------------------------


def test_command_line_on_ferplus(tmp_path: Path, random_weights: Make, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_ferplus(tmp_path / "data.npz")
    model = model_of(tmp_path / "model.safetensors", random_weights())
    out = tmp_path / "new" / "report.json"
    arguments = [str(model), str(data), "--resamples", "20", "--json", str(out), "--robustness", "--bins", "5"]
    assert evaluate.main(arguments) == 0
    printed = capsys.readouterr().out
    report = json.loads(out.read_text())
    assert f"{report['metrics']['accuracy']['value']:.4f}" in printed
    confusion = np.array(report["metrics"]["confusion"])
    assert confusion.sum(axis=1).tolist() == [14, 13, 13, 0, 0, 0, 0, 0]
    assert confusion.trace() / 40 == pytest.approx(report["metrics"]["accuracy"]["value"])
    assert len(report["metrics"]["reliability"]) == 5
    assert report["agreed"]["count"] == int(read_labelled_faces(data, LABELS).agreed.sum()) <= 40
    assert len(report["robustness"]) == 1 + len(CONDITIONS)
    assert str(tmp_path) not in out.read_text()
    first = out.read_text()
    assert evaluate.main(arguments) == 0
    assert out.read_text() == first


def test_command_line_takes_views(tmp_path: Path, random_weights: Make) -> None:
    data = write_ferplus(tmp_path / "data.npz")
    weights = random_weights()
    model = model_of(tmp_path / "model.safetensors", weights)
    reports = []
    for views in ("1", "4"):
        out = tmp_path / views
        assert evaluate.main([str(model), str(data), "--resamples", "5", "--views", views, "--json", str(out)]) == 0
        reports.append(json.loads(out.read_text()))
    assert [report["model"]["views"] for report in reports] == [1, 4]
    student, faces = Student(weights), read_labelled_faces(data, LABELS)
    answers = faces.logits(student, Preprocessor(weights.preprocessing, views=4)).argmax(axis=1)
    assert reports[1]["metrics"]["accuracy"]["value"] == pytest.approx((answers == faces.labels).mean())
    paper = model_of(tmp_path / "paper", replace(weights, preprocessing="microexpnet-paper"))
    assert evaluate.main([str(paper), str(data), "--views", "4"]) == 1


def test_command_line_draws_plots(tmp_path: Path, random_weights: Make) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    data = write_ferplus(tmp_path / "data.npz")
    model = model_of(tmp_path / "model.safetensors", random_weights())
    arguments = [str(model), str(data), "--resamples", "5", "--plots", str(tmp_path / "plots")]
    assert evaluate.main(arguments) == 0
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "plots").iterdir()}
    assert set(pictures) == {"confusion.png", "reliability.png"}
    assert all(data.startswith(b"\x89PNG") for data in pictures.values())
    assert evaluate.main(arguments) == 0
    assert pictures == {path.name: path.read_bytes() for path in (tmp_path / "plots").iterdir()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bins", "0"], "--bins is 0"),
        (["--folds", "1"], "--folds is 1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--robustness", "--cross-validate"], "choose one"),
        (["--precision", "int8"], "needs quantised weights"),
        (["--precision", "int8", "--cross-validate"], "in float32"),
        (["--views", "2", "--cross-validate"], "one view"),
        (["--cross-validate"], "not known whose"),
    ],
)
def test_command_line_explains_bad_options(
    options: list[str], message: str, tmp_path: Path, random_weights: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    if message == "not known whose":
        pytest.importorskip("torch", reason="cross-validation trains students")
    model = model_of(tmp_path / "model.safetensors", random_weights())
    assert evaluate.main([str(model), str(write_ferplus(tmp_path / "data.npz")), *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("absent", ["model", "data"])
def test_command_line_names_a_missing_file(
    absent: str, tmp_path: Path, random_weights: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = model_of(tmp_path / "model", random_weights()), write_ferplus(tmp_path / "data.npz")
    (model if absent == "model" else data).unlink()
    assert evaluate.main([str(model), str(data)]) == 1
    assert absent in capsys.readouterr().err


# --- cross-validation ----------------------------------------------------------------------------------------------


def test_no_person_is_in_two_folds() -> None:
    pytest.importorskip("torch", reason="cross-validation trains students")
    from tools.cross_validation import CrossValidationError, divide

    random = np.random.default_rng(0)
    persons = [f"S{number:03d}" for number in random.integers(0, 37, 400)]
    folds = divide(persons, 10)
    for person in set(persons):
        assert len({fold for fold, other in zip(folds, persons, strict=True) if other == person}) == 1
    # Persons in ascending order are dealt in turn.
    order = sorted(set(persons))
    assert [int(folds[persons.index(person)]) for person in order] == [index % 10 for index in range(len(order))]
    with pytest.raises(CrossValidationError, match="cannot fill 10 folds"):
        divide(["a", "b"], 10)
    with pytest.raises(CrossValidationError, match="not known"):
        divide(["a", ""], 2)


@pytest.mark.parametrize("fine_tune", [False, True])
def test_cross_validation_from_the_command_line(
    fine_tune: bool, tree: Path, tmp_path: Path, random_weights: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="cross-validation trains students")
    torch.set_num_threads(1)
    model = model_of(tmp_path / "model.safetensors", random_weights(hidden=6))
    out = tmp_path / "report.json"
    arguments = [str(model), str(tree), "--cross-validate", "--folds", "3", "--epochs", "2", "--batch", "8", "--quiet"]
    arguments += ["--json", str(out), "--resamples", "20", "--work", str(tmp_path / "work")]
    assert evaluate.main(arguments + ["--fine-tune"] * fine_tune) == 0
    assert "mean accuracy of 3 folds" in capsys.readouterr().out
    report = json.loads(out.read_text())
    tested = [person for fold in report["folds"] for person in fold["persons"]]
    assert sorted(tested) == [f"P{person:02d}" for person in range(12)]
    assert [fold["count"] for fold in report["folds"]] == [8, 8, 8]
    assert np.sum(report["metrics"]["confusion"]) == 24


def test_fine_tuning_starts_from_the_same_function(random_weights: Make) -> None:
    torch = pytest.importorskip("torch", reason="cross-validation trains students")
    from tools.cross_validation import _start
    from tools.student_network import from_weights

    weights = random_weights()
    faces = torch.from_numpy(np.stack([grey(seed, 88)[:84, :84] for seed in range(4)])).float()[:, None]
    with torch.no_grad():
        start = _start(weights, 0.5, fine_tune=True).eval()
        torch.testing.assert_close(start(faces), from_weights(weights)(faces))
    assert start.dropout.p == 0.5
