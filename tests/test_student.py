"""Student: which kernels and precision it chooses, and its Python API."""

from __future__ import annotations

import os
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from mxn_edge import Student, WeightFileError, _core, active_isa, available_isas
from mxn_edge.weights import write_weights
from tests.networks import (
    ALGORITHMS,
    SHARED_FLOAT32,
    MakeWeights,
    assert_same_bits,
    int8_reference,
    network_logits,
    noise,
    relative_error,
)
from tests.reference import reference_logits

# ---- Choosing a precision --------------------------------------------------------------------------------------------


def test_precision_by_default(isa: str, quantised_weights: MakeWeights, random_weights: MakeWeights) -> None:
    faster = isa in ("avx512vnni", "avxvnni", "neondot")
    assert _core.prefers_int8(isa) == faster
    for precision in ({}, {"precision": "auto"}):
        assert Student(quantised_weights(), isa=isa, **precision).info.precision == ("int8" if faster else "float32")
        assert Student(random_weights(), isa=isa, **precision).info.precision == "float32"


def test_precision_by_default_follows_the_environment(
    isa: str, quantised_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXN_EDGE_ISA", isa)
    student = Student(quantised_weights())
    assert student.info.isa == isa
    assert student.info.precision == ("int8" if _core.prefers_int8(isa) else "float32")
    assert_same_bits(Student(quantised_weights(), precision="int8").logits(noise(2)),
                     int8_reference(quantised_weights(), noise(2)))  # fmt: skip


def test_forced_precision(quantised_weights: MakeWeights, tmp_path: Path) -> None:
    weights, faces = quantised_weights(), noise(4)
    write_weights(tmp_path / "model", weights)
    int8, float32 = (Student.load(tmp_path / "model", precision=precision) for precision in ("int8", "float32"))
    assert (int8.info.precision, float32.info.precision) == ("int8", "float32")
    assert float32.info.bytes == 260_000
    assert int8.info.bytes == 64_512 + 4 * (488 + 96)
    assert_same_bits(int8.logits(faces), int8_reference(weights, faces))
    assert_same_bits(int8.logits(faces[0]), int8_reference(weights, faces)[0])
    assert relative_error(float32.logits(faces), reference_logits(weights, faces)) < 2e-5
    with pytest.raises(ValueError, match="NaN or infinity"):
        int8.logits(np.full((84, 84), np.nan, np.float32))


def test_int8_needs_quantised_weights(random_weights: MakeWeights, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"these weights are not quantised.*tools\.quantise"):
        Student(random_weights(), precision="int8")
    write_weights(tmp_path / "plain.safetensors", random_weights())
    with pytest.raises(ValueError, match=r"plain\.safetensors: these weights are not quantised"):
        Student.load(tmp_path / "plain.safetensors", precision="int8")


def test_unknown_precision(quantised_weights: MakeWeights) -> None:
    weights = quantised_weights()
    with pytest.raises(ValueError, match="precision 'int4' is not one of auto, float32, int8"):
        Student(weights, precision="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="precision 'int4' is unknown"):
        _core.Network(weights.architecture, weights.tensors, precision="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="algorithm 'toom-cook' for microexpnet-p12 in int8"):
        _core.Network(weights.architecture, weights.tensors, precision="int8", algorithm="toom-cook")


# ---- Forcing an instruction set --------------------------------------------------------------------------------------


def test_fastest_is_active_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MXN_EDGE_ISA", raising=False)
    assert active_isa() == available_isas()[0]
    assert available_isas()[-1] == "scalar"


def test_forced_one_is_the_one_that_runs(
    isa: str, random_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, faces = random_weights(), noise(20)
    logits = {name: Student(weights, isa=name).logits(faces) for name in available_isas()}
    monkeypatch.setenv("MXN_EDGE_ISA", isa)
    assert active_isa() == isa
    student = Student(weights)
    assert student.info.isa == isa
    forced = student.logits(faces)
    np.testing.assert_array_equal(forced, logits[isa])
    # Each sums in an order of its own: equal logits would mean that another one ran.
    for name in available_isas():
        shared = SHARED_FLOAT32.get(name, name) == SHARED_FLOAT32.get(isa, isa)
        assert (forced != logits[name]).any() != shared, name


@pytest.mark.parametrize("architecture", ["microexpnet-p1", "microexpnet-p2", "microexpnet-p12"])
def test_forced_algorithm_is_the_one_that_runs(isa: str, architecture: str, random_weights: MakeWeights) -> None:
    weights, faces = random_weights(architecture), noise(20)
    direct, toom_cook = (network_logits(weights, faces, isa, name) for name in ALGORITHMS)
    # Each rounds in a way of its own: equal logits would mean that another one ran.
    assert (direct != toom_cook).any()
    fastest = _core.Network(architecture, weights.tensors, isa).algorithm
    by_default = Student(weights, isa=isa).logits(faces)
    np.testing.assert_array_equal(by_default, {"direct": direct, "toom-cook": toom_cook}[fastest])


def test_unavailable_algorithm(random_weights: MakeWeights) -> None:
    weights = random_weights("microexpnet-v")
    assert _core.Network(weights.architecture, weights.tensors).algorithm == "direct"
    with pytest.raises(ValueError, match="algorithm 'toom-cook' for microexpnet-v"):
        _core.Network(weights.architecture, weights.tensors, algorithm="toom-cook")
    with pytest.raises(ValueError, match=r"algorithm 'fft' is unknown.*direct.*toom-cook"):
        _core.Network(weights.architecture, weights.tensors, algorithm="fft")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["avx1024", "AVX2", "neon" if "neon" not in available_isas() else "sse2"])
def test_unavailable_isa(name: str, random_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    message = f"{name}.*available: {', '.join(available_isas())}"
    with pytest.raises(ValueError, match=message):
        Student(random_weights(), isa=name)
    monkeypatch.setenv("MXN_EDGE_ISA", name)
    for call in (active_isa, Student.load):
        with pytest.raises(ValueError, match=f"MXN_EDGE_ISA='{message}"):
            call()


# ---- API -------------------------------------------------------------------------------------------------------------


def test_default_student() -> None:
    student = Student.load(precision="float32")
    assert student.info.parameters == 65_000
    assert student.info.bytes == 260_000
    assert student.info.architecture == "microexpnet-p12"
    assert student.info.source.endswith("default.safetensors")
    assert student.info.training
    assert set(student.labels) == {
        "neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise",
    }  # fmt: skip
    assert isinstance(student.labels, tuple)


def test_shapes_and_dtypes(random_weights: MakeWeights) -> None:
    student = Student(random_weights(classes=5))
    for dtype in (np.uint8, np.float32):
        one = student.logits(np.ones((84, 84), dtype))
        assert one.shape == (5,)
        assert one.dtype == np.float32
        assert student.logits(np.ones((3, 84, 84), dtype)).shape == (3, 5)
        assert student.logits(np.ones((0, 84, 84), dtype)).shape == (0, 5)
        assert student.probabilities(np.ones((0, 84, 84), dtype)).shape == (0, 5)


def test_strides_do_not_matter(random_weights: MakeWeights) -> None:
    student = Student(random_weights())
    faces = noise(8)
    expected = student.logits(np.ascontiguousarray(faces[::-2, ::-1, ::-1].transpose(0, 2, 1)))
    np.testing.assert_array_equal(student.logits(faces[::-2, ::-1, ::-1].transpose(0, 2, 1)), expected)
    read_only = faces.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(student.logits(read_only), student.logits(faces))


def test_probabilities(random_weights: MakeWeights) -> None:
    student = Student(random_weights())
    logits = student.logits(noise(5)).astype(float)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(student.probabilities(noise(5)), expected, rtol=1e-5)
    np.testing.assert_allclose(student.probabilities(noise(5)[0]), expected[0], rtol=1e-5)


def test_probabilities_of_huge_logits(random_weights: MakeWeights) -> None:
    faces = np.full((1, 84, 84), 1e30, np.float32)
    assert np.isfinite(Student(random_weights()).probabilities(faces)).all()


def test_in_place_and_converted_faces_give_the_same(random_weights: MakeWeights) -> None:
    """Arrays that are handed to C as they are, and everything that is not."""
    student = Student(random_weights())
    faces = noise(3)
    expected = student.logits(faces)
    for given in (np.asfortranarray(faces), memoryview(faces), np.ma.masked_array(faces), faces.view(np.recarray)):
        np.testing.assert_array_equal(student.logits(given), expected)
    np.testing.assert_array_equal(student.logits(faces[1]), expected[1])
    out = np.empty(8, np.float32)
    assert student.logits(faces[1], out) is out
    np.testing.assert_array_equal(out, expected[1])
    for faces_in, bad in ((faces[1], np.empty((1, 8), np.float32)), (faces[:1], out)):
        with pytest.raises(ValueError, match="out has shape"):
            student.logits(faces_in, bad)


def test_out(random_weights: MakeWeights) -> None:
    student = Student(random_weights())
    out = np.empty((4, 8), np.float32)
    assert student.logits(noise(4), out=out) is out
    np.testing.assert_array_equal(out, student.logits(noise(4)))
    read_only = out.copy()
    read_only.flags.writeable = False
    for bad in (
        np.empty((3, 8), np.float32),
        np.empty(8, np.float32),
        np.empty((4, 16), np.float32)[:, ::2],
        read_only,
    ):
        with pytest.raises(ValueError, match="out has shape"):
            student.logits(noise(4), out=bad)
    with pytest.raises(TypeError, match="out must be native float32"):
        student.logits(noise(4), out=np.empty((4, 8)))


@pytest.mark.parametrize(
    "faces",
    [np.ones((84, 83), np.uint8), np.ones(84 * 84, np.uint8), np.ones((1, 1, 84, 84), np.uint8),
     np.ones((84, 84, 3), np.uint8), np.uint8(3)],
    ids=lambda faces: str(np.shape(faces)),
)  # fmt: skip
def test_wrong_shape(faces: np.ndarray) -> None:
    student = Student.load()
    with pytest.raises(ValueError, match=r"expected \(84, 84\) or \(n, 84, 84\)"):
        student.logits(faces)
    student.logits(noise(1))


@pytest.mark.parametrize("dtype", [">f4", "f8", "i1", "u2", "i8", "?", "c8", "f2", "M8[s]", "O", "S1", "U1", "u1,u1"])
def test_wrong_dtype(dtype: str) -> None:
    student = Student.load()
    with pytest.raises(TypeError, match="expected uint8 or float32"):
        student.logits(np.zeros((84, 84), dtype))
    student.logits(noise(1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0), (2, 83, 83), (1, 40, 3)])
def test_not_finite(isa: str, value: float, place: tuple[int, int, int], random_weights: MakeWeights) -> None:
    student = Student(random_weights(), isa=isa)
    faces = noise(3).astype(np.float32)
    expected = student.logits(faces)
    poisoned = faces.copy()
    poisoned[place] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        student.logits(poisoned)
    np.testing.assert_array_equal(student.logits(faces), expected)


def test_one_student_in_many_threads(random_weights: MakeWeights) -> None:
    student = Student(random_weights())
    faces = noise(64)
    expected = student.logits(faces)
    wrong: list[int] = []

    def work(offset: int) -> None:
        for i in range(200):
            count = 1 + (i + offset) % 64
            if not np.array_equal(student.logits(faces[:count]), expected[:count]):
                wrong.append(count)

    # More threads than the 16 workspaces that are kept.
    threads = [threading.Thread(target=work, args=(5 * n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_threads_give_the_same_bits(precision: str, quantised_weights: MakeWeights) -> None:
    weights, faces = quantised_weights(), noise(65)
    expected = Student(weights, precision=precision).logits(faces)  # type: ignore[arg-type]
    # As many as there are CPUs at most: the machine that runs this may have one.
    for threads in (0, 2, 1000):
        student = Student(weights, precision=precision, threads=threads)  # type: ignore[arg-type]
        assert student.info.threads == min(threads or 1000, len(os.sched_getaffinity(0)))
        for count in range(66):
            assert_same_bits(student.logits(faces[:count]), expected[:count])
            assert_same_bits(student.logits(faces[:count].astype(np.float32)), expected[:count])
    with pytest.raises(ValueError, match="threads is -1"):
        Student(weights, threads=-1)


def test_threads_are_kept_and_sleep(random_weights: MakeWeights) -> None:
    """No call starts a thread, and an idle student takes no time."""
    weights, faces = random_weights(), noise(64)
    network = _core.Network(weights.architecture, weights.tensors, threads=4)  # more than a Student may have here
    out = np.empty((64, 8), np.float32)

    def running() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = running()
    for _ in range(50):
        network.logits(faces, out)
    assert running() == before
    spent = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - spent < 0.1
    del network
    assert running() == before - 3


def test_a_forked_process_computes_alone(random_weights: MakeWeights) -> None:
    weights, faces = random_weights(), noise(64)
    network = _core.Network(weights.architecture, weights.tensors, threads=3)
    out, again = np.empty((64, 8), np.float32), np.empty((64, 8), np.float32)
    network.logits(faces, out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that this process has threads
        child = os.fork()
    if child == 0:
        network.logits(faces, again)
        os._exit(0 if np.array_equal(out, again) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    network.logits(faces, again)
    assert_same_bits(again, out)


def test_gil_is_released(random_weights: MakeWeights) -> None:
    """While one thread computes a long batch, this one goes on."""
    student = Student(random_weights("microexpnet-v", 1024), isa="scalar")
    faces = noise(64).repeat(4, axis=0)
    thread = threading.Thread(target=student.logits, args=(faces,))
    turns = 0
    thread.start()
    while thread.is_alive():
        turns += 1
        thread.join(timeout=0.0005)
    assert turns > 3


def test_memory_does_not_grow(random_weights: MakeWeights) -> None:
    resource = pytest.importorskip("resource")
    weights, faces = random_weights(), noise(4)

    def work(times: int) -> int:
        for _ in range(times):
            Student(weights).logits(faces)
            Student(weights).probabilities(faces.astype(np.float32))
        peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak

    before = work(200)
    assert work(2000) - before < 4096  # kilobytes; losing one workspace per call would be 720,000


def test_load(tmp_path: Path, random_weights: MakeWeights) -> None:
    weights = random_weights("microexpnet-p1", 20, 3)
    path = tmp_path / "model.safetensors"
    write_weights(path, weights)
    for given in (path, str(path)):
        student = Student.load(given)
        assert student.labels == weights.labels
        assert student.info.source == str(path)
        np.testing.assert_array_equal(student.logits(noise(2)), Student(weights).logits(noise(2)))
    with pytest.raises(FileNotFoundError):
        Student.load(tmp_path / "absent.safetensors")
    with pytest.raises(WeightFileError):
        Student.load(__file__)
