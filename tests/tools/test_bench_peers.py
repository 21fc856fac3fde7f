"""tools/bench_peers.py: what is compared before it is timed, the statistics, what is written. No times are asserted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mxn_edge import available_isas
from mxn_edge.student import DEFAULT_MODEL, Student
from mxn_edge.weights import Weights, read_weights, write_weights
from tools import bench_peers as tool
from tools import peer_models, peers
from tools.peers import Engine, Peer
from tools.terminal import markdown

MakeWeights = Callable[..., Weights]
ARCHITECTURES = ["microexpnet-v", "microexpnet-p1", "microexpnet-p2", "microexpnet-p12"]
QUICK = ["--count", "5", "--rounds", "2", "--calls", "3"]


def fake(key: str, error: float = 0.0, precision: str = "float32") -> tuple[Peer, list[int]]:
    """An engine that is ours, with an error added to every logit, and the count of its calls."""
    calls = [0]

    def build(weights: Weights, calibration: np.ndarray) -> Engine:
        assert calibration.shape == (tool.CALIBRATION_FACES, 84, 84)
        student = Student(weights, precision="float32", isa="scalar")

        def run(face: np.ndarray) -> np.ndarray:
            calls[0] += 1
            return student.logits(face)[None] + np.float32(error)

        return Engine("1.2", lambda face: face.astype(np.float32), run)

    return Peer(key, f"Fake {key}", precision, f"fake-{key}", build), calls


def broken(key: str, error: Exception) -> Peer:
    def build(weights: Weights, calibration: np.ndarray) -> Engine:
        raise error

    return Peer(key, f"Fake {key}", "float32", f"fake-{key}", build)


@pytest.fixture
def with_peers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(*fakes: Peer) -> None:
        monkeypatch.setattr(tool, "PEERS", fakes)

    return install


# --- comparing -----------------------------------------------------------------------------------------------------


def test_deviation_by_hand() -> None:
    expected = np.array([[1.0, 2, -10], [4, 3, 0]])
    found = tool.deviation_from(expected, np.array([[1.0, 2, -9.5], [3, 4, 0]]))
    assert found == tool.Deviation(0.1, 0.5)
    assert found.fault("float32") == "logits differ by 1.0e-01 of the largest"
    assert found.fault("int8") == "only 50.0% of the top classes are right"
    assert tool.Deviation(0.1, 0.95).fault("int8") == ""
    assert tool.Deviation(1e-5, 1).fault("float32") == ""
    assert tool.deviation_from(expected, np.full((2, 3), np.nan)).fault("float32")


def test_the_reference_is_independent_of_instruction_sets(random_weights: MakeWeights) -> None:
    weights = random_weights(hidden=5)
    faces = tool.synthetic_faces(3)
    assert (
        tool.deviation_from(tool.reference(weights, faces), Student(weights, precision="float32").logits(faces)).largest
        < 1e-5
    )


def test_a_tampered_peer_is_refused_before_timing(
    with_peers: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    good, good_calls = fake("good")
    tampered, tampered_calls = fake("tampered", 0.1)
    with_peers(tampered, good)
    assert tool.main([*QUICK, "--engines", "good", "tampered"]) == 1
    output = capsys.readouterr().out
    assert "refused: Fake tampered float32, logits differ by" in output
    assert tampered_calls == [5]  # each face once, for the comparison
    assert good_calls == [5 + 2 * 2 * 3]  # and each call of each round untimed and timed
    assert "| Fake good" in output


def test_our_own_logits_are_checked_too(
    with_peers: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_peers()
    monkeypatch.setattr(tool, "reference", lambda weights, faces: np.ones((len(faces), 8)))
    assert tool.main([*QUICK]) == 1
    assert "to which all ratios refer: logits differ" in capsys.readouterr().err


def test_int8_is_judged_by_its_top_classes(with_peers: Callable[..., None]) -> None:
    with_peers(fake("close", 0.1, "int8")[0])
    assert tool.main([*QUICK, "--engines", "close"]) == 0


def test_missing_and_failing_peers_are_named(
    with_peers: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with_peers(broken("absent", ModuleNotFoundError("No module named 'absent'")), broken("bad", OSError("no luck")))
    assert tool.main([*QUICK, "--engines", "absent"]) == 0
    reason = "not installed (No module named 'absent'): pip install fake-absent"
    assert f"missing: Fake absent float32, {reason}" in capsys.readouterr().out
    assert tool.main([*QUICK, "--engines", "absent", "bad"]) == 1
    assert "refused: Fake bad float32, does not load: no luck" in capsys.readouterr().out


def test_our_int8_stands_beside_float32(
    with_peers: Callable[..., None],
    quantised_weights: MakeWeights,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_peers()
    write_weights(tmp_path / "quantised", quantised_weights())
    assert tool.main([*QUICK, "--model", str(tmp_path / "quantised")]) in (0, 1)  # random weights may miss the classes
    output = capsys.readouterr().out
    for isa in available_isas():
        assert len([line for line in output.splitlines() if line.startswith(f"| mxn-edge {isa} ")]) == 2
    write_weights(tmp_path / "plain", replace(quantised_weights(), quantised=False))
    assert tool.main([*QUICK, "--model", str(tmp_path / "plain")]) == 0
    assert "missing: mxn-edge int8, the weights are not quantised" in capsys.readouterr().out


def test_other_shapes_are_refused(with_peers: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine("1", lambda face: face, lambda face: np.zeros((1, 7)))
    with_peers(Peer("seven", "Seven", "float32", "seven", lambda weights, faces: engine))
    assert tool.main([*QUICK, "--engines", "seven"]) == 1
    assert "refused: Seven float32, gives 7 numbers for a face; expected 8" in capsys.readouterr().out


# --- timing --------------------------------------------------------------------------------------------------------


def test_statistics_by_hand() -> None:
    row = tool.Row("x", "float32")
    times = np.array([[10.0, 20, 30], [40, 40, 40], [30, 90, 60]])  # medians of the rounds: 20, 40, 60
    base = np.array([[10.0, 10, 10], [5, 10, 15], [10, 10, 1000]])  # 10, 10, 10
    tool.fill_in(row, times, base)
    assert (row.median_us, row.ratio) == (40, 4)
    assert row.p90_us == pytest.approx(66)
    base[1] *= 8  # ratios 2, 0.5, 6
    tool.fill_in(row, times, base)
    assert row.ratio == 2


def test_engines_take_turns_on_the_same_faces() -> None:
    log: list[tuple[str, int]] = []
    engines = [
        Engine("", lambda face: int(face[0, 0]), lambda face, name=name: log.append((name, face))) for name in "ab"
    ]
    faces = np.arange(5, dtype=np.uint8)[:, None, None].repeat(84, 1).repeat(84, 2)
    times = tool.time_engines(engines, faces, rounds=2, calls=3)
    assert times.shape == (2, 2, 3)
    turns = [log[start : start + 3] for start in range(0, len(log), 3)]
    first, second = [0, 1, 2], [3, 4, 0]
    expected = [("a", first), ("a", first), ("b", first), ("b", first)]  # untimed, then timed
    expected += [("b", second), ("b", second), ("a", second), ("a", second)]  # another one first
    assert turns == [[(name, face) for face in turn] for name, turn in expected]


def test_cold_calls_follow_an_eviction() -> None:
    log: list[str] = []
    engine = Engine("", lambda face: face, lambda face: log.append("run"))
    tool.time_engines([engine], tool.synthetic_faces(2), 1, 2, lambda: log.append("evict"))
    assert log == ["evict", "run", "evict", "run"]
    assert tool.cache_bytes() > 1 << 14
    assert tool.cache_evictor()() == 1


# --- faces ---------------------------------------------------------------------------------------------------------


def test_synthetic_faces_are_textured_and_always_the_same() -> None:
    faces = tool.synthetic_faces(4)
    np.testing.assert_array_equal(faces, tool.synthetic_faces(4))
    assert faces.shape == (4, 84, 84)
    assert all(face.std() > 20 and len(np.unique(face)) > 60 for face in faces)
    assert len(np.unique(faces.reshape(4, -1), axis=0)) == 4


def test_ferplus_faces(tmp_path: Path) -> None:
    path = write_ferplus(tmp_path, 6)
    faces = tool.ferplus_faces(path, read_weights(DEFAULT_MODEL), 5)
    assert faces.shape == (5, 84, 84)
    np.testing.assert_array_equal(faces, tool.ferplus_faces(path, read_weights(DEFAULT_MODEL), 5))


def write_ferplus(folder: Path, count: int) -> Path:
    names = ["neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"]
    images = np.random.default_rng(0).integers(0, 256, (count, 48, 48), dtype=np.uint8)
    votes = np.zeros((count, 8), np.int64)
    votes[:, 5] = 10
    np.savez(folder / "ferplus.npz", valid_images=images, valid_votes=votes, vote_names=names)
    return folder / "ferplus.npz"


# --- what is written -----------------------------------------------------------------------------------------------


def test_table_json_and_chart(
    with_peers: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chart: list[str] = []
    if find_spec("matplotlib"):
        chart = ["--chart", str(tmp_path / "chart.svg")]
    with_peers(fake("good")[0], broken("absent", ModuleNotFoundError("No module named 'absent'")))
    files = ["--json", str(tmp_path / "bench.json"), *chart]
    isas = available_isas()
    assert tool.main([*QUICK, "--engines", "good", "absent", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"ratios to mxn-edge {isas[0]} float32" in lines[1]
    rows = [line for line in lines if line.startswith("| mxn-edge") and " float32 " in line]
    assert len(rows) == len(isas)
    content = json.loads((tmp_path / "bench.json").read_text())
    assert content["base"] == f"mxn-edge {isas[0]} float32"
    assert content["faces"] == {"source": "synthetic", "compared": 5, "timed": 5}
    assert content["weights"]["file"] == "default.safetensors"
    assert [row["name"] for row in content["rows"]][: len(isas)] == [f"mxn-edge {isa}" for isa in isas]
    assert [row["name"] for row in content["rows"]][-2:] == ["Fake good", "Fake absent"]
    ours, good, absent = content["rows"][0], *content["rows"][-2:]
    assert ours["ratio"] == 1
    assert good["status"] == "timed"
    assert good["version"] == "1.2"
    assert good["deviation"]["agreement"] == 1
    assert good["p90_us"] >= good["median_us"] > 0
    assert absent["status"] == "missing"
    assert absent["median_us"] is None
    if chart:
        assert "Fake good" in (tmp_path / "chart.svg").read_text()


def test_charts_are_the_same_for_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'peers' or 'train'")
    from tools.plots import Bar, plot_bars

    for name in ("a.svg", "b.svg"):
        plot_bars([Bar("ours", 20, 22.5, ours=True), Bar("theirs", 150, 4000)], tmp_path / name, "µs")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert ">" in (tmp_path / "a.svg").read_text()


def test_markdown() -> None:
    assert markdown([["name", "µs"], ["a", "10.5"]]).splitlines() == [
        "| name |   µs |",
        "| ---- | ---: |",
        "| a    | 10.5 |",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "none.safetensors"], "none.safetensors"),
        (["--data", "none.npz"], "none.npz"),
        (["--json", "no/such/folder/x.json"], "there is no folder no/such/folder"),
    ],
)
def test_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([*QUICK, *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("bench_peers: error: ")
    assert message in error


def test_too_few_faces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([*QUICK, "--data", str(write_ferplus(tmp_path, 9))]) == 1
    assert "9 faces; 261 are needed" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--chart", "x.pdf"], ["--engines", "abacus"]])
def test_wrong_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        tool.main(arguments)
    assert error.value.code == 2


def test_stdout_holds_only_the_table(run_tool: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = run_tool("bench_peers", *QUICK, "--isa", available_isas()[0], "--engines")
    assert result.returncode == 0, result.stderr
    assert [line[:2] for line in result.stdout.splitlines()[3:6]] == ["| "] * 3


# --- the engines that are installed --------------------------------------------------------------------------------


def test_layers_of_the_published_network(random_weights: MakeWeights) -> None:
    layers = peer_models.network_layers(random_weights())
    assert [(layer.name, layer.shape, layer.before, layer.after) for layer in layers] == [
        ("conv1", (42, 42, 16), 3, 3),
        ("pool1", (21, 21, 16), 0, 0),
        ("conv2", (11, 11, 32), 1, 2),
        ("pool2", (6, 6, 32), 0, 1),
        ("fc1", (48,), 0, 0),
        ("fc2", (8,), 0, 0),
    ]
    assert [layer.relu for layer in layers] == [True, False, True, False, True, False]


def test_files_of_ncnn(random_weights: MakeWeights) -> None:
    weights = random_weights(hidden=5, classes=3)
    text, binary = peer_models.ncnn_model(weights)
    lines = text.splitlines()
    assert lines[:2] == ["7767517", "7 7"]
    assert "Convolution conv2 1 1 pool1 conv2 0=32 1=4 3=2 4=1 15=2 14=1 16=2 5=1 6=8192 9=1" in lines
    assert len(binary) == 4 * (weights.parameters + 4)  # and a flag for each layer with weights


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("peer", [peer for peer in peers.PEERS if peer.precision == "float32"], ids=lambda p: p.key)
def test_float32_peers_agree(random_weights: MakeWeights, peer: Peer, architecture: str) -> None:
    weights = random_weights(architecture, hidden=31, classes=5)
    faces = tool.synthetic_faces(3)
    try:
        engine = peer.build(weights, faces)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error} (pip install {peer.packages})")
    assert engine.version
    found = tool.deviation_from(tool.reference(weights, faces), tool.logits_of(engine, faces, 5))
    assert found.largest < tool.TOLERANCE


@pytest.mark.parametrize("peer", [peer for peer in peers.PEERS if peer.precision == "int8"], ids=lambda p: p.key)
@pytest.mark.filterwarnings("ignore")  # those of the quantiser are not ours
def test_int8_peers_agree(peer: Peer) -> None:
    weights = read_weights(DEFAULT_MODEL)
    faces = tool.synthetic_faces(96)
    try:
        engine = peer.build(weights, faces[:64])
    except ModuleNotFoundError as error:
        pytest.skip(f"{error} (pip install {peer.packages})")
    found = tool.deviation_from(tool.reference(weights, faces[64:]), tool.logits_of(engine, faces[64:], 8))
    assert 0 < found.largest < 0.5
    assert found.agreement > 0.75
