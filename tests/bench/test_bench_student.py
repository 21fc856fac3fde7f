"""The network alone, per instruction set, algorithm, precision and number of threads, beside ONNX Runtime."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from mxn_edge import Student, _core, available_isas
from mxn_edge.student import DEFAULT_MODEL
from mxn_edge.weights import read_weights

BATCHES = (1, 8, 64)


def check(benchmark: Any, found: np.ndarray, faces: np.ndarray) -> None:
    """A result counts only when the logits are right."""
    expected = Student.load(precision="float32", isa="scalar").logits(faces)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    benchmark.extra_info["faces"] = len(faces)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("batch", BATCHES)
def test_student(benchmark: Any, faces: np.ndarray, batch: int, isa: str) -> None:
    benchmark.group = f"logits of {batch}"
    benchmark.extra_info["isa"] = isa
    student = Student.load(precision="float32", isa=isa)
    check(benchmark, benchmark(student.logits, faces[:batch]), faces[:batch])


@pytest.mark.parametrize("out", [False, True], ids=["new array", "out="])
def test_call(benchmark: Any, faces: np.ndarray, out: bool) -> None:
    """No faces: what is left is the cost of a call from Python."""
    benchmark.group = "logits of 0"
    student = Student.load()
    arguments = (faces[:0], np.empty((0, len(student.labels)), np.float32)) if out else (faces[:0],)
    found = benchmark.pedantic(student.logits, arguments, rounds=1000, iterations=100)
    assert found.shape == (0, len(student.labels))


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("batch", BATCHES)
def test_direct(benchmark: Any, faces: np.ndarray, batch: int, isa: str) -> None:
    benchmark.group = f"logits of {batch}"
    benchmark.extra_info["isa"] = isa
    weights = read_weights(DEFAULT_MODEL)
    network = _core.Network(weights.architecture, weights.tensors, isa, algorithm="direct")
    out = np.empty((batch, len(weights.labels)), np.float32)
    benchmark(network.logits, faces[:batch], out)
    check(benchmark, out, faces[:batch])


@pytest.mark.parametrize("threads", range(2, min(len(os.sched_getaffinity(0)), 4) + 1))
@pytest.mark.parametrize("batch", BATCHES[1:])
def test_threads(benchmark: Any, faces: np.ndarray, batch: int, threads: int) -> None:
    benchmark.group = f"logits of {batch}"
    benchmark.extra_info["threads"] = threads
    student = Student.load(precision="float32", threads=threads)
    check(benchmark, benchmark(student.logits, faces[:batch]), faces[:batch])


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("batch", BATCHES)
def test_int8(benchmark: Any, faces: np.ndarray, batch: int, isa: str) -> None:
    """A result counts only when it is the reference, bit for bit."""
    benchmark.group = f"logits of {batch}"
    benchmark.extra_info.update(isa=isa, precision="int8", faces=batch)
    weights = read_weights(DEFAULT_MODEL)
    network = _core.Network(weights.architecture, weights.tensors, isa, "int8")
    out, expected = (np.empty((batch, len(weights.labels)), np.float32) for _ in range(2))
    benchmark(network.logits, faces[:batch], out)
    for face, logits in zip(faces, expected, strict=False):
        _core.reference_logits_int8(weights.architecture, weights.tensors, face, logits)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("batch", BATCHES)
def test_onnx_runtime(benchmark: Any, faces: np.ndarray, batch: int) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the onnx extra")
    pytest.importorskip("onnx", reason="needs the onnx extra")
    from mxn_edge.onnx_model import build_model

    benchmark.group = f"logits of {batch}"
    benchmark.extra_info["isa"] = f"ONNX Runtime {onnxruntime.__version__}"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = build_model(read_weights(DEFAULT_MODEL)).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {"faces": faces[:batch, None].astype(np.float32)}
    (logits,) = benchmark(session.run, ["logits"], inputs)
    check(benchmark, logits, faces[:batch])
