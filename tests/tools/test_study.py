"""tools/study.py: the runs are the paper's, finished ones are not repeated, and the page says what the runs said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training tools need PyTorch (pip install mxn-edge[train])")
pytest.importorskip("tqdm", reason="the training tools need tqdm (pip install mxn-edge[train])")
pytest.importorskip("matplotlib", reason="plots need matplotlib")

from mxn_edge.weights import read_weights  # noqa: E402
from tools import study  # noqa: E402
from tools.ferplus import LABELS  # noqa: E402
from tools.study import Run, Setting, StudyError, plan  # noqa: E402
from tools.teacher_network import TeacherNetwork, write_teacher  # noqa: E402

torch.set_num_threads(1)


def report(accuracy: float, epochs: int = 40) -> dict[str, Any]:
    valid = {"accuracy": accuracy, "balanced_accuracy": accuracy - 0.2, "cross_entropy": 1.0}
    return {"arguments": {"epochs": epochs, "views": 40}, "valid": valid, "data": {"valid": 3260}}


def test_the_settings_are_those_of_the_paper() -> None:
    settings = {setting for group in study.comparisons().values() for setting in group}
    names = {setting.name for setting in settings}
    assert {f"{topology}-{size}-plain" for topology in study.TOPOLOGIES for size in study.SIZES} <= names
    assert {f"p12-xxs-t{temperature}-l0.5" for temperature in (2, 4, 8, 16, 20, 32, 64)} <= names
    assert len(names) == len(settings) == 60
    hidden = {(setting.topology, setting.size): setting.hidden for setting in settings}
    assert [hidden["v", size] for size in study.SIZES] == [256, 64, 32, 16]
    assert [hidden["p12", size] for size in study.SIZES] == [768, 192, 96, 48]
    assert Setting("p12", "xxs").parameters == 65_000


def test_close_results_ask_for_another_seed() -> None:
    fresh = plan({}, seeds=3, close=0.01)
    assert {run.seed for run in fresh} == {1}
    assert len(fresh) == 60
    distilled = Setting("v", "s")
    far = {Run(distilled, 1): report(0.74), Run(distilled.plain, 1): report(0.72)}
    assert {run.seed for run in plan(far, 3, 0.01)} == {1}
    near = {Run(distilled, 1): report(0.74), Run(distilled.plain, 1): report(0.735)}
    more = {run for run in plan(near, 3, 0.01) if run.seed > 1}
    assert more == {Run(distilled, 2), Run(distilled.plain, 2)}
    assert {run.seed for run in plan(near, 1, 0.01)} == {1}
    # The second seeds decide it: no third is asked for, though the first ones were close.
    decided = {**near, Run(distilled, 2): report(0.78), Run(distilled.plain, 2): report(0.72)}
    assert max(run.seed for run in plan(decided, 3, 0.01)) == 2


def test_a_selection_selects() -> None:
    assert {run.name for run in plan({}, 3, 0.01, ["v-x*-plain-s1", "p1-m-t8-*"])} == {
        "v-xs-plain-s1",
        "v-xxs-plain-s1",
        "p1-m-t8-l0.5-s1",
    }


def test_reports_of_another_study_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v-m-plain-s2.json").write_text(json.dumps(report(0.7)))
    (tmp_path / "something-s1.json").write_text("not of the study")
    assert list(study.read_results(tmp_path, 40, 40)) == [Run(Setting("v", "m").plain, 2)]
    with pytest.raises(StudyError, match=r"v-m-plain-s2\.json: 40 epochs"):
        study.read_results(tmp_path, 41, 40)
    (tmp_path / "v-m-plain-s2.json").write_text("{")
    with pytest.raises(StudyError, match="not a report"):
        study.read_results(tmp_path, 40, 40)


def test_the_page_says_what_the_runs_said(tmp_path: Path) -> None:
    setting = Setting("p12", "xxs")
    results = {
        Run(setting, 1): report(0.75),
        Run(setting, 2): report(0.77),
        Run(setting.plain, 1): report(0.74),
        Run(setting.plain, 2): report(0.73),
        Run(Setting("v", "m"), 1): report(0.7),
    }
    study.write_study(tmp_path, results, 40)
    page = (tmp_path / "study.md").read_text()
    assert "| p12 | XXS | 65,000 | 8 | 0.5 | 2 | 76.0 ± 1.4 | 56.0 ± 1.4 | 1.000 | +2.5 |" in page
    assert "| p12 | XXS | 65,000 |  | 0 | 2 | 73.5 ± 0.7 | 53.5 ± 0.7 | 1.000 |  |" in page
    assert "| v | M | 1,002,808 | 8 | 0.5 | 1 | 70.0 | 50.0 | 1.000 |  |" in page
    plots = {path.name for path in tmp_path.glob("*.svg")}
    assert plots == {"study-temperature.svg", "study-size.svg", "study-weight.svg"}
    assert all(f"({name})" in page for name in plots)
    first = {name: (tmp_path / name).read_bytes() for name in plots}
    study.write_study(tmp_path, results, 40)
    assert first == {name: (tmp_path / name).read_bytes() for name in plots}

    with (tmp_path / "study.md").open("a") as file:
        file.write("\n## Findings\n\nSmall differences.\n")
    study.write_study(tmp_path, {**results, Run(setting, 3): report(0.76)}, 40)
    again = (tmp_path / "study.md").read_text()
    assert "| 3 | 76.0 ± 1.0 |" in again
    assert again.endswith("\n## Findings\n\nSmall differences.\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"vote_names": np.array([*LABELS, "unknown", "not-a-face"])}
    for split in ("train", "valid"):
        arrays[f"{split}_images"] = random.integers(0, 256, (160, 48, 48), np.uint8)
        arrays[f"{split}_votes"] = np.eye(10, dtype=np.uint8)[np.arange(160) % 8] * 10
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    return tmp_path / "data.npz"


def test_a_stopped_study_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, runs, docs = tmp_path / "teacher.safetensors", tmp_path / "runs", tmp_path / "docs"
    write_teacher(teacher, TeacherNetwork(), "nothing")
    arguments = [str(data), str(runs), "--teacher", str(teacher), "--docs", str(docs), "--epochs", "1", "--views", "1"]
    arguments += ["--only", "p2-xxs-*-s1"]
    done: list[str] = []
    original = study.do

    def stop_after_one(run: Run, args: Any) -> None:
        if done:
            raise KeyboardInterrupt
        original(run, args)
        done.append(run.name)

    monkeypatch.setattr(study, "do", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        study.main(arguments)
    assert {path.stem for path in runs.glob("*.json")} == set(done)
    first = (runs / f"{done[0]}.json").read_bytes()

    monkeypatch.setattr(study, "do", original)
    assert study.main(arguments) == 0
    assert {path.stem for path in runs.glob("*.json")} == {"p2-xxs-t8-l0.5-s1", "p2-xxs-plain-s1"}
    assert (runs / f"{done[0]}.json").read_bytes() == first  # not repeated
    assert not list(runs.glob("*.checkpoint"))
    assert read_weights(runs / "p2-xxs-plain-s1.safetensors").architecture == "microexpnet-p2"
    page = (docs / "study.md").read_text()
    assert "| p2 | XXS |" in page
    assert "speed" not in page
    assert study.main([*arguments, "--write-only", "--latency"]) == 0
    assert (docs / "study-latency.svg").exists()
    (row,) = re.findall(
        r"^\| p2 \| XXS \| [\d,]+ \| ([\d.]+) \| [\d.]+ \|$", (docs / "study.md").read_text(), re.MULTILINE
    )
    assert 0 < float(row) < 1e5

    monkeypatch.delattr(study, "do")  # nothing is left to do
    assert study.main(arguments) == 0
    capsys.readouterr()
    assert study.main([*arguments, "--plan"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished\n") == 2
    assert "2 runs finished, 0 to do" in printed


def test_the_plan_estimates(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.main([str(data), str(tmp_path / "none"), "--plan", "--only", "v-xxs-*"]) == 0
    printed = capsys.readouterr().out
    assert "v-xxs-plain-s1" in printed
    assert "0 runs finished, 2 to do: about" in printed
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("options", "message"), [([], "--teacher is needed"), (["--write-only"], "no finished runs")])
def test_command_line_explains(
    options: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.main([str(data), str(tmp_path / "runs"), *options]) == 1
    assert message in capsys.readouterr().err
