"""Fixtures that several tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

# tools/ and tests/ are not installed with the package.
sys.path.insert(0, str(ROOT))

from mxn_edge import available_isas  # noqa: E402
from mxn_edge.weights import Weights, tensor_shapes  # noqa: E402
from tests.networks import ALGORITHMS, ALL_ISAS  # noqa: E402


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The data that MANIFEST.md describes: MXN_EDGE_DATA, or ../shared/data beside the repository."""
    path = Path(os.environ.get("MXN_EDGE_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no data directory at {path} (set MXN_EDGE_DATA)")
    return path


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """A real photo with one smiling face (NASA, public domain): uint8, 512 × 512 × 3, BGR."""
    data = pytest.importorskip("skimage.data", reason="the portrait comes with the demo extra")
    return np.ascontiguousarray(data.astronaut()[:, :, ::-1])


def _random_weights(
    architecture: str = "microexpnet-p12", hidden: int = 48, classes: int = 8, seed: int = 0
) -> Weights:
    """Weights of the scale that training starts from (He), so that logits are near 1 for grey values 0..255."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(architecture, hidden, classes).items():
        if name.endswith("bias"):
            scale = 0.1
        else:
            scale = (2 / np.prod(shape[:-1])) ** 0.5
            if name == "conv1.weight":
                scale /= 147  # root mean square of a grey value
        tensors[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
    return Weights(
        architecture=architecture,
        labels=tuple(f"class {i}" for i in range(classes)),
        preprocessing="face-square",
        training=f"random, seed {seed}",
        tensors=tensors,
    )


@pytest.fixture(scope="session")
def random_weights() -> Callable[..., Weights]:
    """A function (architecture, hidden, classes, seed) -> Weights, all with defaults."""
    return _random_weights


def _quantised_weights(
    architecture: str = "microexpnet-p12", hidden: int = 48, classes: int = 8, seed: int = 0, extreme: bool = False
) -> Weights:
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(architecture, hidden, classes).items():
        layer = name.split(".")[0]
        if name.endswith("bias"):
            tensor = 20 * rng.standard_normal(shape)
        elif layer == "fc2":
            tensor = rng.standard_normal(shape) / 1000
        else:
            fan_in = np.prod(shape[:-1])
            q = rng.integers(-127, 128, shape)
            q.reshape(-1, shape[-1])[rng.integers(fan_in, size=shape[-1]), np.arange(shape[-1])] = 127
            if extreme:
                q = np.where(rng.random(shape[-1]) < 0.5, 127, -127) * np.ones(shape, int)
            # Scales of 16 bits, such that sums of random bytes have a deviation of 100 or so.
            scale = np.round(rng.uniform(0.5, 1, shape[-1]) * 2**16) / 2**16 * 2.0 ** -round(np.log2(fan_in**0.5 * 100))
            tensor = q * scale
        tensors[name] = tensor.astype(np.float32)
    return Weights(
        architecture=architecture,
        labels=tuple(f"class {i}" for i in range(classes)),
        preprocessing="face-square",
        training=f"random, seed {seed}",
        tensors=tensors,
        quantised=True,
    )


@pytest.fixture(scope="session")
def quantised_weights() -> Callable[..., Weights]:
    """A function (architecture, hidden, classes, seed, extreme) -> quantised Weights, all with defaults.

    Activations fill 0..255 and beyond on random faces; `extreme`: every int8 weight is 127 or -127.
    """
    return _quantised_weights


@pytest.fixture(params=ALL_ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name not in available_isas():
        pytest.skip(f"this CPU does not run {name} (tests/test_c_core.py emulates what it can)")
    return name


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session", params=["module", "file"])
def run_tool(request: pytest.FixtureRequest) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function (name, *arguments) that runs a tool in a process of its own, in both ways that a user may."""

    def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        how = ["-m", f"tools.{name}"] if request.param == "module" else [f"tools/{name}.py"]
        command = [sys.executable, *how, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    return run
