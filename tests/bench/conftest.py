"""What the benchmarks share: faces, the CPU and instruction set in every result, one thread unless said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mxn_edge import active_isa
from mxn_edge.cli import cpu_name


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    cv2 = pytest.importorskip("cv2")
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture(autouse=True)
def machine(benchmark: Any) -> None:
    """Say in each result what it was measured on."""
    benchmark.extra_info.update(cpu=cpu_name(), isa=active_isa())


@pytest.fixture(scope="session")
def faces(portrait: np.ndarray) -> np.ndarray:
    """64 different grey faces: the portrait's, shifted and scaled. uint8, 64 × 84 × 84."""
    from mxn_edge.preprocess import Preprocessor, Square, check_frame, empty_faces

    crops = empty_faces(64)
    preprocessor, frame = Preprocessor("face-square"), check_frame(portrait)
    for i, crop in enumerate(crops):
        preprocessor.crop(frame, Square(170 + i % 8 * 2, 58 + i // 8 * 2, 90 + i % 5 * 4), crop)
    return crops


@pytest.fixture(scope="session")
def frame(portrait: np.ndarray) -> np.ndarray:
    """The portrait in a 640×480 frame. uint8, 480 × 640 × 3, BGR."""
    frame = np.full((480, 640, 3), 127, np.uint8)
    frame[:, :512] = portrait[:480]
    return frame
