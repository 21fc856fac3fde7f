"""Distillation: the loss, what teacher and student see, faces without labels, the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training tools need PyTorch (pip install mxn-edge[train])")
pytest.importorskip("tqdm", reason="the training tools need tqdm (pip install mxn-edge[train])")

import torch.nn.functional as F  # noqa: E402

from mxn_edge.weights import read_weights  # noqa: E402
from tests.tools.toy_data import write_data  # noqa: E402
from tools import distil  # noqa: E402
from tools.augment import NO_AUGMENTATION, AugmentOptions, preparation, render  # noqa: E402
from tools.ferplus import read_ferplus  # noqa: E402
from tools.labelled_faces import LabelledFacesError  # noqa: E402
from tools.student_network import StudentNetwork  # noqa: E402
from tools.teacher_network import TEACHER_SIZE, TeacherNetwork, write_teacher  # noqa: E402
from tools.training import TrainOptions, predict, run_views, seeded, soft_cross_entropy, train  # noqa: E402
from tools.view_cache import CachedTeacher, CachedViews  # noqa: E402

# The work is tiny: threads would only wait for each other.
torch.set_num_threads(1)


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


def test_photos_join_the_training_faces(tmp_path: Path, portrait: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    labelled = read_ferplus(write_data(tmp_path / "data.npz", count=20), "train")
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    with pytest.raises(LabelledFacesError, match="no face was found in any of 0 pictures"):
        distil.with_unlabelled(labelled, photos)
    cv2.imwrite(str(photos / "more" / "a.png"), portrait)
    cv2.imwrite(str(photos / "blank.png"), np.zeros((100, 100), np.uint8))
    faces = distil.with_unlabelled(labelled, photos)
    assert len(faces) == len(labelled) + 1
    assert faces.targets[-1].sum() == 0
    assert faces.images[-1].std() > 20
    np.testing.assert_array_equal(faces.images[:-1], labelled.images)

    teacher, out = tmp_path / "teacher", tmp_path / "s.safetensors"
    write_teacher(teacher, TeacherNetwork("small"), "nothing")
    arguments = [str(tmp_path / "data.npz"), str(out), "--teacher", str(teacher), "--unlabelled", str(photos)]
    assert distil.main([*arguments, "--epochs", "1", "--batch", "7", "--views", "1", "--quiet"]) == 0
    assert f"{len(labelled)} training faces and 1 faces without labels" in read_weights(out).training
    assert len(list(out.with_suffix(".views").glob("*.npy"))) == 4  # views and answers, with labels and without


def test_no_teacher_is_needed_where_it_has_no_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_data(tmp_path / "data.npz", count=40), tmp_path / "s.safetensors"
    arguments = [str(data), str(out), "--epochs", "1", "--batch", "16", "--views", "2", "--quiet"]
    assert distil.main(arguments) == 1
    assert "--teacher is needed" in capsys.readouterr().err
    assert distil.main([*arguments, "--teacher-weight", "0"]) == 0
    assert "no distillation" in read_weights(out).training
