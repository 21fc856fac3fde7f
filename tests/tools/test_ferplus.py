"""FER+ votes: targets, splits and what is not the data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tools.toy_data import VOTE_NAMES, write_data
from tools.ferplus import FerPlusError, read_ferplus, targets_from_votes


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
