"""Random views of faces, and the plain view."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training tools need PyTorch (pip install mxn-edge[train])")
pytest.importorskip("tqdm", reason="the training tools need tqdm (pip install mxn-edge[train])")

from mxn_edge.preprocess import Preprocessor, check_frame, empty_faces  # noqa: E402
from tests.tools.toy_data import random_faces  # noqa: E402
from tools.augment import (  # noqa: E402
    NO_AUGMENTATION,
    AugmentOptions,
    draw_views,
    face_views,
    preparation,
    render,
    resize_faces,
)
from tools.training import seeded  # noqa: E402

# The work is tiny: threads would only wait for each other.
torch.set_num_threads(1)


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


def test_the_least_blur_bounds_it_and_changes_no_other_draw() -> None:
    usual, blunt = (draw_views(4000, AugmentOptions(blur=1.0, least_blur=least), seeded(1)) for least in (-0.7, 0.2))
    assert usual.blur.min() == pytest.approx(-0.7, abs=0.01)
    assert blunt.blur.min() == pytest.approx(0.2, abs=0.01)
    assert blunt.blur.max() == pytest.approx(1.0, abs=0.01)
    assert torch.equal(usual.affine, blunt.affine)
    assert torch.equal(usual.noise, blunt.noise)


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


def test_the_views_of_a_face_are_the_same_in_training_and_at_run_time() -> None:
    faces = random_faces(3, size=80)
    faces = np.pad(faces, ((0, 0), (2, 2), (2, 2)), mode="reflect")  # 84 × 84
    found = torch.stack(face_views(torch.from_numpy(faces)[:, None].float()), 1)[:, :, 0].numpy()
    preprocessor = Preprocessor("face-square", views=4)
    for face, views in zip(faces, found, strict=True):
        expected = empty_faces(4)
        preprocessor.crop_box(check_frame(face, "gray"), 0, 0, 84, 84, expected)
        assert np.array_equal(views, expected)
