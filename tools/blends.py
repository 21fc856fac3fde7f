"""Pictures that go over from one face to another, which a student learns from its teacher. Imports numpy only.

Half an upper and half a lower face, or two that shine through each other. A teacher answers faces that it was trained
with as if it had seen their labels; these are new to it, and as many as one likes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def blend(faces: NDArray[np.uint8], count: int, seed: int) -> NDArray[np.uint8]:
    """Blend pairs of faces along a border of random place, direction and width.

    A sharp border is a cut (CutMix, Yun et al., 2019), one as wide as the picture a mean of the two (mixup, Zhang et
    al., 2018). That a teacher's answers to mixed pictures help a small student is from Beyer et al., 2022.

    Args:
        faces: (N, size, size).
        count: how many pictures to make; every N of them show each face once as the first and once as the second.
        seed: seed of everything random; fewer than N pictures of two seeds have nothing in common.

    Returns:
        (count, size, size).
    """
    parts, sets = [], -(-count // len(faces))
    for number in range(sets):
        part = count * (number + 1) // sets - count * number // sets
        parts.append(_blend_once(faces, part, np.random.default_rng([seed, number])))
    return np.concatenate(parts) if parts else faces[:0]


def _blend_once(faces: NDArray[np.uint8], count: int, random: np.random.Generator) -> NDArray[np.uint8]:
    size = faces.shape[1]
    first, second = random.permutation(len(faces))[:count], random.permutation(len(faces))[:count]
    angle, place = random.uniform(0, 2 * np.pi, count), random.uniform(-0.3, 0.3, count)
    width = np.exp(random.uniform(np.log(0.03), np.log(1.0), count))  # of the border, in sides of the picture
    across = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    blends = np.empty((count, size, size), np.uint8)
    for i in range(count):
        distance = np.cos(angle[i]) * across + np.sin(angle[i]) * across[:, None] - place[i]
        share = 1 / (1 + np.exp(-distance / width[i] * 2))
        one, other = faces[first[i]].astype(np.float32), faces[second[i]].astype(np.float32)
        blends[i] = np.rint(one + share * (other - one))
    return blends
