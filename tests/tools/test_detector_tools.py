"""Training and judging the face detector: targets, losses, pictures, a short run that resumes, counting."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training tools need torch")
pytest.importorskip("cv2", reason="the training tools draw with OpenCV")

from tools import train_refiner as refiner_tool  # noqa: E402
from tools.checkpoints import TrainingError  # noqa: E402
from tools.detector_network import (  # noqa: E402
    DetectorNetwork,
    Refiner,
    assign,
    cells,
    decode,
    detection_loss,
    load_refiner,
    load_tensors,
    refiner_tensors,
    suppress,
    tensors_of,
    write_detector,
)
from tools.detector_photos import SPLIT_FILE, Photo, portrait_names, split_names  # noqa: E402
from tools.detector_views import FACES, SIDE, HardPlace, Renderer, Sources, Studio  # noqa: E402
from tools.evaluate_detector import View, choose_threshold, intersection_over_union, judge  # noqa: E402
from tools.train_detector import Options, train  # noqa: E402
from tools.train_refiner import Batches, Crops, box_iou, read_first_stage, reduced  # noqa: E402
from tools.train_refiner import train as train_refiner  # noqa: E402

torch.set_num_threads(1)


def drawn_face(side: int, seed: int) -> np.ndarray:
    """An oval with eyes and a mouth: enough to learn from."""
    y, x = (np.indices((side, side)) + 0.5) / side - 0.5
    image = np.where((x / 0.4) ** 2 + (y / 0.5) ** 2 < 1, 200.0, 60.0)
    for cx in (-0.15, 0.15):
        image[(x - cx) ** 2 + (y + 0.12) ** 2 < 0.004] = 20
    image[(abs(x) < 0.15) & (abs(y - 0.22) < 0.03)] = 30
    return np.clip(image + np.random.default_rng(seed).normal(0, 8, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def sources() -> Sources:
    rng = np.random.default_rng(0)

    def photo(name: str, height: int, width: int, faces: int) -> Photo:
        image = rng.integers(0, 120, (height, width), np.uint8)
        boxes = []
        for i in range(faces):
            side = 60
            x, y = 10 + 70 * i, int(rng.integers(5, height - side - 5))
            image[y : y + side, x : x + side] = drawn_face(side, i)
            boxes.append((x + 6, y, 48, 60, 0.9))
        return Photo(name, image, np.array(boxes, np.float32).reshape(-1, 5))

    return Sources(
        portraits=[photo(f"p{i}", 120, 120, 1) for i in range(4)],
        fer=[Photo("f", drawn_face(48, 9), np.array([[5, 0, 38, 48, 0.8]], np.float32))],
        groups=[photo(f"g{i}", 150, 220, 3) for i in range(2)],
        backgrounds=[photo(f"b{i}", 150, 200, 0) for i in range(3)],
        hard=[HardPlace(1, 60.0, 70.0, 30.0, 0.5)],
    )


# ---- Targets and losses ----------------------------------------------------------------------------------------------


def test_cells_lie_where_convolutions_put_them() -> None:
    centres, strides = cells(9, 20)
    assert len(centres) == 3 * 5 + 2 * 3 + 1 * 2
    assert centres[:2].tolist() == [[0.5, 0.5], [4.5, 0.5]]
    assert centres[-1].tolist() == [16.5, 0.5]
    assert Counter(strides.tolist()) == {4.0: 15, 8.0: 6, 16.0: 2}


def test_decoding_by_hand() -> None:
    answers = torch.zeros(1, 23, 5)
    answers[0, 1] = torch.tensor([0.0, 0.5, -0.25, math.log(2), 9.0])
    box = decode(answers, 9, 20)[0, 1]
    cx, cy, half_width, half_height = 4.5 + 2, 0.5 - 1, 16.0, 8 * math.exp(3)
    expected = torch.tensor([cx - half_width, cy - half_height, cx + half_width, cy + half_height])
    assert torch.allclose(box, expected)


def test_each_face_is_asked_of_the_cells_of_its_size() -> None:
    boxes = torch.zeros(1, 4, 5)
    boxes[0, 0] = torch.tensor([20.0, 20, 32, 36, 1])  # 14 pixels: stride 4
    boxes[0, 1] = torch.tensor([50.0, 10, 170, 150, 1])  # 130 pixels: stride 16
    boxes[0, 2] = torch.tensor([4.0, 120, 16, 132, -1])  # ignored
    kind, face = assign(boxes, SIDE, SIDE)
    centres, strides = cells(SIDE, SIDE)
    for number, stride in ((0, 4.0), (1, 16.0)):
        mine = (kind[0] == 1) & (face[0] == number)
        assert mine.any()
        assert set(strides[mine].tolist()) == {stride}
        middle = (boxes[0, number, :2] + boxes[0, number, 2:4]) / 2
        assert ((centres[mine] - middle).abs() <= 1.5 * stride).all()
    inside = ((centres - torch.tensor([10.0, 126.0])).abs() < 5).all(1)
    assert (kind[0, inside] == -1).all()
    far = ((centres - torch.tensor([10.0, 60.0])).abs() < 8).all(1)
    assert (kind[0, far] == 0).all()


def test_losses_by_hand() -> None:
    """One face, found exactly by its only cell with an even chance, and nothing elsewhere."""
    height = width = 9
    boxes = torch.tensor([[[0.5 - 8, 0.5 - 8, 0.5 + 8, 0.5 + 8, 1.0]]])
    answers = torch.zeros(1, len(cells(height, width)[0]), 5)
    answers[..., 0] = -100
    kind, _ = assign(boxes, height, width)
    positive = (kind[0] > 0).nonzero().flatten().tolist()
    exact = [
        i for i in positive if cells(height, width)[0][i].tolist() == [0.5, 0.5] and cells(height, width)[1][i] == 4
    ]
    answers[0, exact[0], 0] = 0
    score, box, iou = detection_loss(answers, boxes, height, width)
    assert box.item() >= 0
    assert 0 < iou.item() <= 1
    # Where all is said as asked, nothing is lost.
    answers[0, positive, 0] = 100
    decoded = decode(answers, height, width)[0]
    for i in positive:
        centre, stride = cells(height, width)[0][i], cells(height, width)[1][i]
        answers[0, i, 1:3] = (0.5 - centre) / stride
        answers[0, i, 3:5] = torch.log(torch.tensor(16.0) / (4 * stride))
    decoded = decode(answers, height, width)[0, positive]
    assert torch.allclose(decoded, boxes[0, :, :4].expand_as(decoded), atol=1e-4)
    score, box, iou = detection_loss(answers, boxes, height, width)
    assert score.item() == pytest.approx(0, abs=1e-5)
    assert box.item() == pytest.approx(0, abs=1e-5)
    assert iou.item() == pytest.approx(1, abs=1e-5)


def test_suppression() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [2, 2, 5, 5], [20, 0, 30, 10]], np.float32)
    assert suppress(boxes, np.array([0.5, 0.9, 0.8, 0.1], np.float32)) == [1, 3]


# ---- Pictures --------------------------------------------------------------------------------------------------------


def test_boxes_lie_on_faces(sources: Sources) -> None:
    """A face is brighter than what is around it, in every kind of picture on average."""
    renderer = Renderer(sources, np.random.default_rng(1))
    inside, around = [], []
    for _ in range(120):
        image, boxes = renderer.picture()
        assert image.shape == (SIDE, SIDE)
        assert image.dtype == np.uint8
        assert boxes.shape == (FACES, 5)
        for x0, y0, x1, y1, wanted in boxes[boxes[:, 4] == 1]:
            assert wanted <= 1
            cx, cy, w = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0
            if w > 30 and w < cx < SIDE - w and w < cy < SIDE - w:
                inside.append(image[int(cy), int(cx - w / 5) : int(cx + w / 5)].mean())
                around.append(image[int(cy), [int(cx - 0.9 * w), int(cx + 0.9 * w)]].mean())
    assert len(inside) > 10
    assert np.mean(np.array(inside) > around) > 0.75


def test_pictures_do_not_depend_on_workers(sources: Sources) -> None:
    drawn = []
    for workers in (1, 2):
        with Studio(sources, workers) as studio:
            drawn.append(studio.render(300, (3, 4), sources.hard))
    assert np.array_equal(drawn[0][0], drawn[1][0])
    assert np.array_equal(drawn[0][1], drawn[1][1])


# ---- Training --------------------------------------------------------------------------------------------------------


def test_training_learns_and_resumes(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(rounds=2, pictures=256, passes=2, batch=32, seed=3)
    whole = train(sources, sources, options, tmp_path / "whole", resume=False, workers=1)
    assert whole[-1]["box_loss"] < whole[0]["box_loss"]

    class StoppedError(Exception):
        pass

    replaced = Path.replace

    def replace(path: Path, target: Path) -> Path:
        result = replaced(path, target)
        if len(torch.load(target, weights_only=True)["reports"]) == 2:
            raise StoppedError
        return result

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(StoppedError):
        train(sources, sources, options, tmp_path / "cut", resume=True, workers=1)
    monkeypatch.undo()
    train(sources, sources, options, tmp_path / "cut", resume=True, workers=1)
    saved = [torch.load(tmp_path / name, weights_only=True) for name in ("whole", "cut")]
    assert saved[0]["step"] == saved[1]["step"] == options.steps
    networks = [DetectorNetwork(), DetectorNetwork()]
    for network, state in zip(networks, saved, strict=True):
        network.load_state_dict(state["average"])
    first, second = (tensors_of(network) for network in networks)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    with pytest.raises(TrainingError, match="made with other options"):
        train(sources, sources, Options(seed=4), tmp_path / "cut", resume=True, workers=1)


def test_the_refiner_learns(sources: Sources, capsys: pytest.CaptureFixture[str]) -> None:
    refiner = train_refiner(sources, steps=60, batch=32, seed=1)
    pictures, wanted, _ = Crops(sources, np.random.default_rng(5)).batch(200)
    from tools.train_refiner import as_refined_input

    with torch.no_grad():
        said = refiner(as_refined_input(pictures))[:, 0].numpy()
    assert 0.3 < wanted.mean() < 0.7
    assert said[wanted > 0].mean() > said[wanted == 0].mean() + 1


def test_the_drawing_process_makes_no_difference(sources: Sources) -> None:
    alone, beside = (train_refiner(sources, steps=3, batch=16, seed=2, workers=workers) for workers in (0, 1))
    for name, tensor in refiner_tensors(alone).items():
        assert np.array_equal(tensor, refiner_tensors(beside)[name])


def test_the_refiner_resumes(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refiner_tool, "CHECKPOINT_STEPS", 4)
    whole = train_refiner(sources, steps=6, batch=16, seed=2, checkpoint=tmp_path / "checkpoint")
    assert torch.load(tmp_path / "checkpoint", weights_only=True)["step"] == 4
    resumed = train_refiner(sources, steps=6, batch=16, seed=2, checkpoint=tmp_path / "checkpoint")
    for name, tensor in refiner_tensors(whole).items():
        assert np.array_equal(tensor, refiner_tensors(resumed)[name])
    with pytest.raises(TrainingError, match="made with other options"):
        train_refiner(sources, steps=7, batch=16, seed=2, checkpoint=tmp_path / "checkpoint")
    with pytest.raises(TrainingError, match="made with other options"):
        train_refiner(replace(sources, hard=[]), steps=6, batch=16, seed=2, checkpoint=tmp_path / "checkpoint")


def test_going_on_begins_with_what_was_learned(sources: Sources) -> None:
    refiner = train_refiner(sources, steps=30, batch=32, seed=1)
    crops = Batches(sources, steps=1, batch=300, seed=3)[0][0]
    again = Refiner()
    load_refiner(again, refiner_tensors(refiner), crops)
    with torch.no_grad():
        expected = refiner(crops)
        assert torch.allclose(again.eval()(crops), expected, atol=1e-4)
        # With the statistics of the crops, training starts from nearly the same answers (but for what is dropped).
        again.drop.p = 0.0
        assert torch.allclose(again.train()(crops), expected, atol=1e-2)
    on = train_refiner(sources, steps=1, batch=32, seed=1, learning_rate=0.0, start=refiner_tensors(refiner))
    with torch.no_grad():
        assert torch.allclose(on(crops), expected, atol=0.5)


def test_first_stage_of_a_weight_file(sources: Sources, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, again = DetectorNetwork().eval(), DetectorNetwork()
    load_tensors(again, tensors_of(network))
    assert all(np.array_equal(t, tensors_of(again)[name]) for name, t in tensors_of(network).items())
    write_detector(
        tmp_path / "x.safetensors",
        network,
        Refiner(),
        reduced(sources),
        torch.zeros(2, 1, 48, 48),
        {
            "training": "{}",
            "score_threshold": 0.5,
        },
    )
    read, trained = read_first_stage(tmp_path / "x.safetensors")
    picture = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        assert torch.allclose(read(picture), network(picture), atol=1e-5)
    assert trained == {}


def test_overlap_of_boxes_by_hand() -> None:
    here = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    there = torch.tensor([[0.0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0, 0, math.log(2)]])
    assert box_iou(here, there).tolist() == pytest.approx([1, 1 / 3, 1 / 2])


# ---- The split, and counting -----------------------------------------------------------------------------------------


def test_every_photo_has_one_place(data_dir: Path) -> None:
    with SPLIT_FILE.open(newline="") as file:
        rows = [(row["folder"], row["file"]) for row in csv.DictReader(file)]
    assert len(set(rows)) == len(rows)
    for folder in ("scenes", "backgrounds"):
        there = {path.name for path in (data_dir / folder).iterdir()}
        assert {name for where, name in rows if where == folder} == there
    assert not split_names("scenes", "train")
    assert not set(portrait_names(data_dir, "train")) & set(portrait_names(data_dir, "valid"))


def test_counting_by_hand() -> None:
    frame = np.zeros((120, 160, 3), np.uint8)
    truth = np.array(
        [[10, 10, 40, 40, 0.9], [80, 10, 12, 12, 0.9], [100, 60, 20, 20, 0.6], [140, 100, 5, 5, 0.9]], np.float32
    )
    found = np.array(
        [
            [12, 10, 40, 40, 0.9],  # the first face
            [10, 12, 40, 40, 0.8],  # it again
            [100, 60, 20, 20, 0.7],  # YuNet suspects a face there
            [50, 80, 30, 30, 0.6],  # nothing there
            [60, 100, 4, 4, 0.6],  # smaller than what is asked for
        ],
        np.float32,
    )
    view = View("a", frame, truth)
    result = judge([view, View("b", frame, truth[:0])], [found, found[:0]], 0.5)
    assert result.faces == [1, 0, 1]
    assert result.found == [0, 0, 1]
    assert result.recall() == 0.5
    assert result.recall(1) == 1.0
    assert result.false_positives == 1.0
    assert result.mean_iou == pytest.approx(38 / 42)
    assert intersection_over_union(found[:1], truth[:1])[0, 0] == pytest.approx(38 / 42)
    assert choose_threshold([view], [found], 1.0) == 0.61
    assert choose_threshold([view], [found], 0.0) == 0.81
