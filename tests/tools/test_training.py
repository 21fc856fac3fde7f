"""The training tools: FER+ targets, augmentation, the student network and its folding, the loop, the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training tools need PyTorch (pip install mxn-edge[train])")
pytest.importorskip("tqdm", reason="the training tools need tqdm (pip install mxn-edge[train])")

import torch.nn.functional as F  # noqa: E402

from mxn_edge.detector import Detector  # noqa: E402
from mxn_edge.preprocess import Preprocessor, check_frame, empty_faces  # noqa: E402
from mxn_edge.weights import ARCHITECTURES, Weights, read_weights, tensor_shapes, write_weights  # noqa: E402
from tests.reference import reference_logits  # noqa: E402
from tools import distil, evaluate_teacher, train_student, train_teacher  # noqa: E402
from tools.augment import (  # noqa: E402
    NO_AUGMENTATION,
    AugmentOptions,
    draw_views,
    preparation,
    render,
    resize_faces,
)
from tools.blends import blend  # noqa: E402
from tools.ferplus import LABELS, FerPlusError, read_ferplus, targets_from_votes  # noqa: E402
from tools.labelled_faces import LabelledFacesError, read_unlabelled_faces  # noqa: E402
from tools.student_network import StudentNetwork, from_weights, to_weights  # noqa: E402
from tools.teacher_network import (  # noqa: E402
    TEACHER_SIZE,
    TeacherFileError,
    TeacherNetwork,
    read_teacher,
    write_teacher,
)
from tools.training import (  # noqa: E402
    TrainingError,
    TrainOptions,
    predict,
    run_views,
    score,
    seeded,
    soft_cross_entropy,
    train,
)
from tools.view_cache import CachedTeacher, CachedViews  # noqa: E402

# The work is tiny: threads would only wait for each other.
torch.set_num_threads(1)

VOTE_NAMES = [
    *("neutral", "happiness", "surprise", "sadness", "anger"),
    *("disgust", "fear", "contempt", "unknown", "not-a-face"),
]


def random_weights(architecture: str, hidden: int = 5, classes: int = 8, seed: int = 0) -> Weights:
    random = np.random.default_rng(seed)
    tensors = {
        name: (random.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)
        for name, shape in tensor_shapes(architecture, hidden, classes).items()
    }
    tensors["conv1.weight"] /= 128
    return Weights(architecture, tuple(f"label {i}" for i in range(classes)), "face-square", "random", tensors)


def random_faces(count: int, seed: int = 0, size: int = 48) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, size // 8, size // 8))
    return (coarse.repeat(8, 1).repeat(8, 2) * 0.8 + random.integers(0, 51, (count, size, size))).astype(np.uint8)


# --- the network -------------------------------------------------------------------------------------------------


def test_the_default_student_has_65000_parameters() -> None:
    network = StudentNetwork(batch_norm=True, dropout=0.1, input_scale=1 / 256)
    assert to_weights(network, LABELS, "face-square", "").parameters == 65_000
    assert sum(parameter.numel() for parameter in StudentNetwork().parameters()) == 65_000


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_network_matches_a_reference_without_torch(architecture: str) -> None:
    weights = random_weights(architecture, hidden=7, classes=6)
    faces = random_faces(2, size=84 // 12 * 16)[:, :84, :84]
    expected = reference_logits(weights, faces)
    with torch.no_grad():
        logits = from_weights(weights).double()(torch.from_numpy(faces)[:, None].double())
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_weights_survive_the_round_trip_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    weights = random_weights(architecture, seed=3)
    again = to_weights(from_weights(weights), weights.labels, weights.preprocessing, weights.training)
    for name, tensor in weights.tensors.items():
        assert np.array_equal(again.tensors[name].view(np.uint32), tensor.view(np.uint32)), name
    write_weights(tmp_path / "a", weights)
    write_weights(tmp_path / "b", again)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_folding_keeps_the_logits(architecture: str) -> None:
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


# --- FER+ ----------------------------------------------------------------------------------------------------------


def test_targets_of_hand_made_votes() -> None:
    #        neu hap sur sad ang dis fea con unk naf
    votes = np.array(
        [
            [4, 0, 0, 1, 3, 2, 0, 0, 0, 0],  # the single vote for sadness is an outlier
            [1, 0, 0, 0, 0, 0, 0, 1, 1, 0],  # nothing but single votes: all stay
            [4, 0, 0, 0, 0, 0, 0, 0, 6, 0],  # unknown wins
            [0, 0, 3, 0, 0, 0, 0, 0, 3, 4],  # not a face wins
            [0, 5, 0, 0, 0, 0, 5, 0, 0, 0],  # a tie: fear comes before happiness in LABELS
            [0, 4, 0, 0, 0, 0, 0, 0, 4, 2],  # as many for happiness as for unknown
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ],
        dtype=np.uint8,
    )
    keep, targets, labels = targets_from_votes(votes, VOTE_NAMES)
    assert keep.tolist() == [True, True, False, False, True, True, False]
    #           neu anger contempt disgust fear hap sad sur
    expected = [
        [4 / 9, 3 / 9, 0, 2 / 9, 0, 0, 0, 0],
        [0.5, 0, 0.5, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0.5, 0.5, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0],
    ]
    np.testing.assert_allclose(targets, expected, rtol=1e-6)
    assert targets.dtype == np.float32
    assert labels.tolist() == [0, 0, 4, 5]


def write_data(path: Path, count: int = 96) -> Path:
    """Faces of two expressions that can be told apart, and a few that raters could not name."""
    arrays: dict[str, np.ndarray] = {"vote_names": np.array(VOTE_NAMES)}
    for seed, split in enumerate(("train", "valid")):
        images = random_faces(count, seed)
        votes = np.zeros((count, 10), dtype=np.uint8)
        votes[::2, 1], votes[1::2, 3], votes[:, 0] = 8, 8, 2
        votes[:4] = np.eye(10, dtype=np.uint8)[8] * 10
        images[::2, 24:] //= 4
        arrays |= {f"{split}_images": images, f"{split}_votes": votes}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_splits_are_read_and_the_unnamed_left_out(tmp_path: Path) -> None:
    faces = read_ferplus(write_data(tmp_path / "data.npz"), "train")
    assert len(faces) == 92
    assert faces.images.dtype == np.uint8
    np.testing.assert_allclose(faces.targets.sum(axis=1), 1, rtol=1e-6)


def test_foreign_data_is_named(tmp_path: Path) -> None:
    text, other, small = tmp_path / "text.npz", tmp_path / "other.npz", tmp_path / "small.npz"
    text.write_text("hello")
    np.savez(other, something=np.zeros(3))
    np.savez(
        small,
        train_images=np.zeros((3, 32, 32), np.uint8),
        train_votes=np.ones((3, 10), np.uint8),
        vote_names=np.array(VOTE_NAMES),
    )
    for path in (text, other, small):
        with pytest.raises(FerPlusError, match=path.name):
            read_ferplus(path, "train")


# --- augmentation --------------------------------------------------------------------------------------------------


def test_views_have_the_right_shape_and_range() -> None:
    faces = torch.from_numpy(random_faces(64))
    for size in (48, 84):
        shown = render(faces, draw_views(64, AugmentOptions(), seeded(1)), seeded(2), size)
        assert shown.shape == (64, 1, size, size)
        assert shown.dtype == torch.float32
        assert shown.min() >= 0
        assert shown.max() <= 255
        assert torch.isfinite(shown).all()


def test_mild_views_stray_less_far_and_are_else_the_same() -> None:
    alike, mild = (draw_views(4000, AugmentOptions(mildness=mildness), seeded(1)) for mildness in (0.0, 1.0))
    shifts = [views.affine[:, :, 2].abs() / 2 for views in (alike, mild)]
    assert shifts[0].mean() == pytest.approx(AugmentOptions().shift / 2, rel=0.05)
    assert shifts[1].mean() == pytest.approx(AugmentOptions().shift / 4, rel=0.05)
    assert (shifts[1] <= shifts[0]).all()
    assert torch.equal(alike.box, mild.box)
    assert torch.equal(alike.fill, mild.fill)


def test_views_are_reproducible_and_seeds_differ() -> None:
    faces = torch.from_numpy(random_faces(8))
    a, b, c = (render(faces, draw_views(8, AugmentOptions(), seeded(s)), seeded(9)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_part_of_the_views_is_the_same_part_of_the_picture() -> None:
    faces = torch.from_numpy(random_faces(8))
    views = draw_views(8, replace(AugmentOptions(), noise=0.0), seeded(1))
    torch.testing.assert_close(render(faces[2:5], views[2:5], seeded(0)), render(faces, views, seeded(0))[2:5])


def test_no_augmentation_is_the_plain_resize() -> None:
    faces = torch.from_numpy(random_faces(8))
    shown = render(faces, draw_views(8, NO_AUGMENTATION, seeded(1)), seeded(2))
    assert (shown - resize_faces(faces)).abs().max() <= 0.501  # the resize rounds
    torch.testing.assert_close(
        render(faces, draw_views(8, NO_AUGMENTATION, seeded(1)), seeded(2), 48)[:, 0], faces.float(), rtol=0, atol=1e-3
    )


def test_each_option_does_what_it_says() -> None:
    faces = torch.from_numpy(random_faces(8))
    plain = faces.float()[:, None]

    def shown(**options: float) -> torch.Tensor:
        return render(faces, draw_views(8, replace(NO_AUGMENTATION, **options), seeded(1)), seeded(2), 48)

    torch.testing.assert_close(shown(flip=1.0), plain.flip(3), rtol=0, atol=1e-3)
    change = shown(brightness=20.0) - plain
    inside = (plain > 20) & (plain < 235)
    for face in range(8):
        assert change[face][inside[face]].std() < 1e-3
    for option in ("shift", "scale", "rotation", "contrast", "gamma", "blur", "noise", "cutout"):
        assert not torch.allclose(shown(**{option: 1.0}), plain, atol=1e-2), option


def test_the_border_goes_on_beyond_the_picture() -> None:
    faces = torch.full((4, 48, 48), 200, dtype=torch.uint8)
    options = replace(NO_AUGMENTATION, shift=0.5, scale=0.5, rotation=45.0, flip=0.5, blur=1.0)
    shown = render(faces, draw_views(4, options, seeded(1)), seeded(2))
    torch.testing.assert_close(shown, torch.full_like(shown, 200.0), rtol=0, atol=1e-2)


def test_resize_is_the_triangle_filter() -> None:
    face = random_faces(1)[0].astype(np.float64)
    position = np.clip((np.arange(84) + 0.5) * 48 / 84 - 0.5, 0, 47)
    low = np.minimum(position.astype(int), 46)
    matrix = np.zeros((84, 48))
    matrix[np.arange(84), low] = 1 - (position - low)
    matrix[np.arange(84), low + 1] = position - low
    expected = matrix @ face @ matrix.T
    found = resize_faces(torch.from_numpy(face.astype(np.uint8))[None])[0, 0].numpy()
    assert np.array_equal(found, np.round(found))
    assert np.abs(found - expected).max() <= 0.5001


def test_standard_light_is_the_same_in_training_and_at_run_time() -> None:
    faces = random_faces(6)
    faces[0] //= 16  # faint
    faces[1] = 90  # blank
    found = preparation("face-square-standardised")(resize_faces(torch.from_numpy(faces)))[:, 0].numpy()
    preprocessor, expected = Preprocessor("face-square-standardised"), empty_faces(len(faces))
    for face, out in zip(faces, expected, strict=True):
        preprocessor.crop_box(check_frame(face, "gray"), 0, 0, 48, 48, out)
    difference = np.abs(found - expected)
    assert difference.max() <= 6  # a grey level that the resize rounded the other way, times the largest gain, 5.2
    assert (difference > 0).mean() < 0.03
    assert preparation("face-square")(torch.zeros(1)) == 0


# --- the loop ------------------------------------------------------------------------------------------------------

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


def test_a_foreign_teacher_is_refused(tmp_path: Path) -> None:
    write_weights(tmp_path / "student", random_weights("microexpnet-p12"))
    (tmp_path / "text").write_text("hello")
    for name in ("student", "text"):
        with pytest.raises(TeacherFileError, match=name):
            read_teacher(tmp_path / name)


# --- distillation --------------------------------------------------------------------------------------------------


def test_distillation_loss_by_hand() -> None:
    z, t, labels = np.array([1.0, 2.0, 0.5]), np.array([3.0, -1.0, 0.0]), np.array([0.25, 0.75, 0.0])

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum()

    votes = -(labels * np.log(softmax(z))).sum()
    teaching = -(softmax(t / 8) * np.log(softmax(z / 8))).sum()
    uniform = np.full((4, 3), 1 / 3, dtype=np.float32)
    plain = soft_cross_entropy(uniform, 0.0)
    arguments = [torch.from_numpy(array)[None].float() for array in (z, labels, t)]
    for weight, scale, factor in ((0.5, False, 1), (0.3, False, 1), (0.3, True, 64), (0.0, True, 64), (1.0, False, 1)):
        loss = distil.distillation_loss(plain, 8.0, weight, scale_gradient=scale)
        expected = (1 - weight) * votes + weight * factor * teaching
        assert loss(*arguments).item() == pytest.approx(expected, rel=1e-5)


def test_the_cached_teacher_sees_the_views_of_the_run(tmp_path: Path) -> None:
    faces = read_ferplus(write_data(tmp_path / "data.npz", count=20), "train")
    torch.manual_seed(0)
    network = TeacherNetwork("small").eval()
    augment = replace(AugmentOptions(), noise=0.0)
    teacher = CachedTeacher(network, faces, augment, 3, tmp_path, bfloat16=False, progress=False)
    first = teacher(1).clone()
    shown = render(torch.from_numpy(faces.images), run_views(len(faces), augment, 3, 1), seeded(0), TEACHER_SIZE)
    torch.testing.assert_close(first, predict(network, shown))
    (file,) = tmp_path.glob(f"teacher-{teacher.fingerprint}-*.npy")
    np.save(file, first.numpy() + 1)
    torch.testing.assert_close(teacher(1), first + 1)  # read back, not worked out again
    assert not torch.equal(teacher(2), first)
    other = CachedTeacher(network, faces, augment, 4, tmp_path, bfloat16=False, progress=False)
    assert other.fingerprint != teacher.fingerprint
    noisy = CachedTeacher(network, faces, AugmentOptions(), 3, tmp_path, bfloat16=False, progress=False)
    assert noisy.fingerprint == teacher.fingerprint  # it does not see the noise


@pytest.mark.parametrize("preprocessing", ["face-square", "face-square-standardised"])
def test_cached_views_show_the_views_of_the_run(preprocessing: str, tmp_path: Path) -> None:
    faces = read_ferplus(write_data(tmp_path / "data.npz", count=20), "train")
    views = CachedViews(faces, AugmentOptions(), 3, 84, preprocessing, tmp_path, progress=False)
    first = views(1).clone()
    drawn = run_views(len(faces), AugmentOptions(), 3, 1)
    shown = preparation(preprocessing)(render(torch.from_numpy(faces.images), drawn, seeded(3, 1, 1), 84))
    assert first.dtype == torch.uint8
    assert (first - shown[:, 0]).abs().max() <= 0.5
    (file,) = tmp_path.glob(f"faces-{views.fingerprint}-*.npy")
    np.save(file, first.numpy()[::-1])
    assert torch.equal(views(1), first.flip(0))  # read back, not worked out again
    assert not torch.equal(views(2), first)
    other = CachedViews(faces, AugmentOptions(), 4, 84, preprocessing, tmp_path, progress=False)
    assert other.fingerprint != views.fingerprint


def test_rendered_pictures_are_shown_and_then_mirrored(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.npz", count=16)
    faces, valid = read_ferplus(data, "train"), read_ferplus(data, "valid")
    pictures = torch.arange(len(faces) * 84 * 84).reshape(-1, 84, 84).to(torch.uint8)
    seen: list[torch.Tensor] = []

    class Watched(StudentNetwork):
        def forward(self, faces: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append(faces.clone())
            return super().forward(faces)

    loss = soft_cross_entropy(faces.targets, 0.0)
    options = TrainOptions(epochs=3, batch=len(faces), views=1)
    train(Watched(), faces, valid, loss, options, NO_AUGMENTATION, pictures=lambda view: pictures, progress=False)
    order = [torch.randperm(len(faces), generator=seeded(options.seed, epoch, 2)) for epoch in range(3)]
    for epoch in range(3):
        expected = pictures[order[epoch]][:, None].float()
        assert torch.equal(seen[epoch], expected.flip(3) if epoch == 1 else expected)


def test_a_teacher_is_corrected_to_the_least_share_of_the_student(tmp_path: Path) -> None:
    """The same teacher, once as trained with another least share and once with that correction in its last layer."""
    data, teacher = write_data(tmp_path / "data.npz", count=40), tmp_path / "teacher"
    torch.manual_seed(0)
    network = TeacherNetwork("small").eval()
    write_teacher(teacher, network, "nothing")
    share = torch.from_numpy(read_ferplus(data, "train").targets.mean(axis=0)).clamp_min(1e-6)
    with torch.no_grad():
        network.head[1].bias += torch.log(share.clamp_min(0.4) / share.clamp_min(0.1))
    write_teacher(tmp_path / "corrected", network, "nothing")
    arguments = ["--epochs", "1", "--batch", "16", "--views", "1", "--quiet", "--least-share", "0.4", "--no-bfloat16"]
    outs = [tmp_path / "one", tmp_path / "two"]
    corrected = ["--teacher", str(tmp_path / "corrected")]
    for out, more in zip(outs, (["--teacher", str(teacher), "--teacher-least-share", "0.1"], corrected), strict=True):
        assert distil.main([str(data), str(out), *arguments, *more]) == 0
    one, two = (read_weights(out).tensors["fc2.bias"] for out in outs)
    np.testing.assert_allclose(one, two, atol=2e-3)  # teachers are kept as float16
    assert distil.main([str(data), str(tmp_path / "three"), *arguments, "--teacher", str(teacher)]) == 0
    assert np.abs(read_weights(tmp_path / "three").tensors["fc2.bias"] - one).max() > 4e-3


def test_distil_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, teacher = write_data(tmp_path / "data.npz", count=40), tmp_path / "s.safetensors", tmp_path / "teacher"
    write_teacher(teacher, TeacherNetwork("small"), "nothing")
    arguments = [str(data), str(out), "--teacher", str(teacher), "--epochs", "3", "--batch", "16", "--views", "2"]
    arguments += ["--quiet", "--threads", "1", "--temperature", "4", "--scale-gradient"]
    assert distil.main(arguments) == 0
    assert len(list(out.with_suffix(".views").glob("teacher-*.npy"))) == 2
    assert len(list(out.with_suffix(".views").glob("faces-*.npy"))) == 2
    assert "distilled with T=4, l=0.5 and T^2" in read_weights(out).training
    first = out.read_bytes()
    assert distil.main([*arguments, "--checkpoint", str(tmp_path / "again")]) == 0
    assert out.read_bytes() == first
    teacher.write_text("hello")
    assert distil.main(arguments) == 1
    assert "teacher" in capsys.readouterr().err


def test_sharpened_answers_are_what_the_student_learns(tmp_path: Path) -> None:
    """Squared votes and teachers against the same with a teacher whose last layer doubles its logits."""
    data, one, two = write_data(tmp_path / "data.npz", count=40), tmp_path / "one", tmp_path / "two"
    faces = read_ferplus(data, "train")
    sharp = faces.sharpened(2)
    np.testing.assert_allclose(sharp.targets.sum(axis=1), 1, rtol=1e-6)
    squares = faces.targets**2
    np.testing.assert_allclose(sharp.targets * squares.sum(axis=1, keepdims=True), squares, rtol=1e-5)
    np.testing.assert_array_equal(sharp.labels, faces.labels)
    assert faces.sharpened(1).targets.tobytes() == faces.targets.tobytes()
    torch.manual_seed(0)
    network = TeacherNetwork("small").eval()
    write_teacher(one, network, "nothing")
    with torch.no_grad():
        network.head[1].weight *= 2
        network.head[1].bias *= 2
    write_teacher(two, network, "nothing")
    # The votes have no part in it, nor rare expressions.
    arguments = ["--epochs", "1", "--batch", "16", "--views", "1", "--quiet", "--no-bfloat16", "--teacher-weight", "1"]
    found = []
    for teacher, power in ((one, "2"), (two, "1"), (one, "1")):
        out = tmp_path / f"{teacher.name}-{power}"
        sharpen = ["--teacher", str(teacher), "--sharpen", power, "--least-share", "0"]
        assert distil.main([str(data), str(out), *arguments, *sharpen]) == 0
        found.append(read_weights(out).tensors["fc2.bias"])
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)  # teachers are kept as float16
    assert np.abs(found[0] - found[2]).max() > 1e-4
    with pytest.raises(SystemExit):
        distil.main([str(data), str(tmp_path / "three"), *arguments, "--sharpen", "0"])


def test_faces_without_labels_learn_from_the_teacher_alone() -> None:
    torch.manual_seed(0)
    z, t, targets = torch.randn(3, 8), torch.randn(3, 8), torch.softmax(torch.randn(3, 8), 1)
    targets[2] = 0
    loss = distil.distillation_loss(soft_cross_entropy(np.full((4, 8), 1 / 8, np.float32), 0.0), 2.0, 0.5)
    alone = loss(z[2:], torch.zeros(1, 8), t[2:])
    assert loss(z, targets, t).item() == pytest.approx((2 * loss(z[:2], targets[:2], t[:2]) + alone).item() / 3)
    assert alone.item() == pytest.approx(-(torch.softmax(t[2] / 2, 0) * F.log_softmax(z[2] / 2, 0)).sum().item() / 2)


def test_photos_and_blends_join_the_training_faces(tmp_path: Path, portrait: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    data, photos = write_data(tmp_path / "data.npz", count=20), tmp_path / "photos"
    labelled = read_ferplus(data, "train")
    (photos / "more").mkdir(parents=True)
    with pytest.raises(LabelledFacesError, match="no face was found in any of 0 pictures"):
        read_unlabelled_faces(photos, Detector(), 48)
    cv2.imwrite(str(photos / "more" / "a.png"), portrait)
    cv2.imwrite(str(photos / "blank.png"), np.zeros((100, 100), np.uint8))
    (photo,) = read_unlabelled_faces(photos, Detector(), 48)
    assert photo.std() > 20
    faces = distil.joined([labelled, distil.without_labels(photo[None])])
    assert (len(faces), faces.targets[-1].sum(), faces.labels[-1]) == (len(labelled) + 1, 0, -1)
    np.testing.assert_array_equal(faces.images[:-1], labelled.images)

    teacher, out = tmp_path / "teacher", tmp_path / "s.safetensors"
    write_teacher(teacher, TeacherNetwork("small"), "nothing")
    arguments = [
        str(data),
        str(out),
        "--teacher",
        str(teacher),
        "--epochs",
        "1",
        "--batch",
        "7",
        "--views",
        "1",
        "--quiet",
    ]
    for extra, faces_without, files in (
        ([], 0, 2),
        (["--unlabelled", str(photos)], 1, 4),
        (["--unlabelled", str(photos), "--blends", "30"], 31, 6),
    ):
        assert distil.main([*arguments, *extra]) == 0
        note = f" and {faces_without} faces without labels" if faces_without else ""
        assert f"{len(labelled)} training faces{note}" in read_weights(out).training
        assert len(list(out.with_suffix(".views").glob("*.npy"))) == files  # views and answers of each part, once


def test_blends_go_over_from_one_face_to_another() -> None:
    black, white = np.zeros((1, 48, 48), np.uint8), np.full((1, 48, 48), 200, np.uint8)
    blends = blend(np.concatenate([black, white]), 400, seed=3)
    assert blends.shape == (400, 48, 48)
    # Of each set of two, either both show a face twice or each shows both, exchanged.
    pairs = blends.reshape(200, 2, 48, 48).astype(int)
    both = pairs.std((2, 3)).min(1) > 0
    assert 60 < both.sum() < 140
    assert set(np.unique(pairs[~both])) == {0, 200}
    means = pairs[both].mean((1, 2, 3))
    assert means.min() < 90 < 110 < means.max()
    steepest = np.abs(np.diff(pairs[both], axis=3)).max((1, 2, 3))
    assert steepest.min() < 15  # they shine through each other
    assert steepest.max() > 60  # or are cut
    np.testing.assert_array_equal(blend(white, 5, seed=1), np.repeat(white, 5, 0))
    assert len(blend(white, 0, seed=1)) == 0


def test_blends_show_every_face_alike_and_depend_on_the_seed() -> None:
    faces = np.repeat(np.arange(50, dtype=np.uint8)[:, None, None], 12, 1).repeat(12, 2)
    twice = blend(faces, 100, seed=1).astype(float)
    assert twice.mean() == pytest.approx(faces.mean(), abs=2)
    np.testing.assert_array_equal(blend(faces, 100, seed=1), twice)
    assert (blend(faces, 100, seed=2) != twice).any()
    np.testing.assert_array_equal(blend(faces, 50, seed=1), twice[:50])
    assert (twice[:50] != twice[50:]).any()


def test_no_teacher_is_needed_where_it_has_no_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_data(tmp_path / "data.npz", count=40), tmp_path / "s.safetensors"
    arguments = [str(data), str(out), "--epochs", "1", "--batch", "16", "--views", "2", "--quiet"]
    assert distil.main(arguments) == 1
    assert "--teacher is needed" in capsys.readouterr().err
    assert distil.main([*arguments, "--teacher-weight", "0"]) == 0
    assert "no distillation" in read_weights(out).training


# --- the command line ----------------------------------------------------------------------------------------------


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
