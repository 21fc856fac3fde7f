"""Repeat the MicroExpNet paper's study of distillation on FER+: `python -m tools.study --help`.

Imports the training tools; plots need matplotlib. Every run is one run of tools.distil, whose JSON report is the record
that the run is finished. All runs share their views and the teachers' answers: a seed changes the first weights and the
order of the faces. A run without distillation gives the teacher the weight 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from mxn_edge.benchmark import measure
from mxn_edge.student import Student, active_isa
from mxn_edge.weights import tensor_shapes
from tools import distil
from tools.augment import INPUT_SIZE, AugmentOptions
from tools.ferplus import LABELS, Faces, FerPlusError, read_ferplus
from tools.student_network import StudentNetwork
from tools.terminal import HelpFormatter, between, fraction
from tools.train_student import INPUT_SCALE
from tools.training import TrainOptions, soft_cross_entropy, train

TEMPERATURES = (2, 4, 8, 16, 20, 32, 64)
TEACHER_WEIGHTS = (0.1, 0.25, 0.5, 0.75, 0.9)
#: Size -> hidden units without and with the second pool.
SIZES = {"m": (256, 768), "s": (64, 192), "xs": (32, 96), "xxs": (16, 48)}
TOPOLOGIES = ("v", "p1", "p2", "p12")
#: Of study.md; the tool writes what is above it.
_FINDINGS = "## Findings\n"
# The paper's choice, where the study varies something else.
_TEMPERATURE, _TEACHER_WEIGHT = 8, 0.5


class StudyError(Exception):
    """The study cannot go on; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What is compared; the seeds of a setting differ by chance only.

    Attributes:
        topology: one of `TOPOLOGIES`.
        size: one of `SIZES`.
        temperature: T; of no effect without a teacher.
        teacher_weight: l, 0 without distillation.
    """

    topology: str
    size: str
    temperature: int = _TEMPERATURE
    teacher_weight: float = _TEACHER_WEIGHT

    @property
    def name(self) -> str:
        """For example p12-xxs-t8-l0.5, or p12-xxs-plain without distillation."""
        distilled = f"t{self.temperature}-l{self.teacher_weight:g}"
        return f"{self.topology}-{self.size}-{distilled if self.teacher_weight else 'plain'}"

    @property
    def architecture(self) -> str:
        """Name in the weight file."""
        return f"microexpnet-{self.topology}"

    @property
    def hidden(self) -> int:
        """Hidden units."""
        return SIZES[self.size][self.topology in ("p2", "p12")]

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        shapes = tensor_shapes(self.architecture, self.hidden, len(LABELS)).values()
        return sum(int(np.prod(shape)) for shape in shapes)

    @property
    def plain(self) -> Setting:
        """The same without distillation."""
        return Setting(self.topology, self.size, teacher_weight=0.0)


@dataclass(frozen=True)
class Run:
    """One training run."""

    setting: Setting
    seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.setting.name}-s{self.seed}"


def comparisons() -> dict[str, list[Setting]]:
    """What the study compares: name -> settings, of which the best is sought."""
    groups = {}
    for size in SIZES:
        setting = Setting("p12", size)
        groups[f"temperature, p12 {size}"] = [
            *(replace(setting, temperature=temperature) for temperature in TEMPERATURES),
            setting.plain,
        ]
    smallest = Setting("p12", "xxs")
    groups["teacher's weight, p12 xxs"] = [replace(smallest, teacher_weight=weight) for weight in TEACHER_WEIGHTS]
    for topology in TOPOLOGIES:
        for size in SIZES:
            setting = Setting(topology, size)
            groups[f"distillation, {topology} {size}"] = [setting, setting.plain]
    for size in SIZES:
        groups[f"topology, {size}"] = [Setting(topology, size) for topology in TOPOLOGIES]
    return groups


def plan(results: dict[Run, dict[str, Any]], seeds: int, close: float, only: Sequence[str] = ()) -> list[Run]:
    """Return the runs that are wanted, given what is known: finished ones first, then those to do.

    Every setting is run with seed 1. In each comparison, settings whose mean accuracy is less than `close` below the
    best get another seed, up to `seeds`, as long as more than one of them is that good.

    Args:
        results: reports of the finished runs.
        seeds: most runs of a setting.
        close: difference of accuracy that one seed does not decide.
        only: patterns of run names, * and ? as in file names; none selects all.
    """
    groups = comparisons()
    wanted = dict.fromkeys(Run(setting, 1) for settings in groups.values() for setting in settings)
    for settings in groups.values():
        accuracies = {setting: seeds_of(setting, results) for setting in settings}
        means = {setting: mean(values.values()) for setting, values in accuracies.items() if values}
        rivals = [setting for setting, value in means.items() if value > max(means.values()) - close]
        if len(rivals) > 1:
            for setting in rivals:
                # One more than there are: the next round sees what it brought.
                count = min(max(accuracies[setting]) + 1, seeds)
                wanted |= dict.fromkeys(Run(setting, seed) for seed in range(1, count + 1))
    wanted |= dict.fromkeys(results)
    selected = [run for run in wanted if not only or any(fnmatchcase(run.name, pattern) for pattern in only)]
    return sorted(selected, key=lambda run: (run not in results, run.seed))


def seeds_of(setting: Setting, results: dict[Run, dict[str, Any]], score: str = "accuracy") -> dict[int, float]:
    """Return seed -> score on valid of the finished runs of a setting."""
    return {run.seed: report["valid"][score] for run, report in results.items() if run.setting == setting}


def read_results(folder: Path, epochs: int, views: int) -> dict[Run, dict[str, Any]]:
    """Read the reports of the finished runs in a folder. Raises `StudyError` when one is of another study."""
    settings = dict.fromkeys(setting for group in comparisons().values() for setting in group)
    by_name = {setting.name: setting for setting in settings}
    results = {}
    for path in sorted(folder.glob("*-s*.json")):
        name, _, seed = path.stem.rpartition("-s")
        if name not in by_name or not seed.isdigit():
            continue
        try:
            report = json.loads(path.read_text())
            found = report["arguments"]["epochs"], report["arguments"]["views"]
            report["valid"]["accuracy"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise StudyError(f"{path}: not a report of tools.distil; remove it to repeat the run") from error
        if found != (epochs, views):
            raise StudyError(
                f"{path}: {found[0]} epochs and {found[1]} views, but this study has {epochs} and {views}; give it a "
                "folder of its own"
            )
        results[Run(by_name[name], int(seed))] = report
    return results


def do(run: Run, args: argparse.Namespace) -> None:
    """Train one student; goes on from its checkpoint if it was stopped."""
    setting, out = run.setting, args.runs / f"{run.name}.safetensors"
    # The report is the record: it gets its name when it is complete.
    partial = args.runs / f"{run.name}.partial"
    words = [str(args.data), str(out), "--cache", str(args.runs / "views"), "--view-seed", "1"]
    if setting.teacher_weight:
        words += ["--teacher", *map(str, args.teacher)]
    words += ["--temperature", str(setting.temperature), "--teacher-weight", str(setting.teacher_weight)]
    words += ["--architecture", setting.architecture, "--hidden", str(setting.hidden), "--seed", str(run.seed)]
    words += ["--epochs", str(args.epochs), "--views", str(args.views), "--threads", str(args.threads)]
    words += ["--report", str(partial), "--resume", "--quiet"]
    if distil.main(words):
        raise StudyError(f"run {run.name} failed")
    partial.replace(out.with_suffix(".json"))
    out.with_suffix(".checkpoint").unlink()


def seconds_per_epoch(settings: Sequence[Setting], faces: int, valid: int, threads: int) -> dict[Setting, float]:
    """Time a few steps of each network on this machine and scale them to an epoch of the real data."""
    torch.set_num_threads(threads)
    sample = 8 * TrainOptions().batch
    random = np.random.default_rng(0)

    def drawn(count: int) -> Faces:
        targets = np.full((count, len(LABELS)), 1 / len(LABELS), np.float32)
        return Faces(random.integers(0, 256, (count, 48, 48), np.uint8), targets, np.arange(count) % len(LABELS))

    few, fewer = drawn(sample), drawn(max(sample * valid // faces, 1))
    pictures = torch.from_numpy(random.integers(0, 256, (sample, INPUT_SIZE, INPUT_SIZE), np.uint8))
    loss = soft_cross_entropy(few.targets, 0.1)
    times: dict[tuple[str, int], float] = {}
    for setting in settings:
        key = setting.architecture, setting.hidden
        if key not in times:
            network = StudentNetwork(*key, batch_norm=True, input_scale=INPUT_SCALE)
            options = TrainOptions(epochs=2)
            epochs = train(
                network, few, fewer, loss, options, AugmentOptions(), pictures=lambda view: pictures, progress=False
            )
            times[key] = epochs[-1]["seconds"] * faces / sample  # the first one warms up
    return {setting: times[setting.architecture, setting.hidden] for setting in settings}


def latencies(runs: Path) -> dict[Setting, float]:
    """Median microseconds per face of each distilled network in a folder of runs: one thread, one face per call."""
    times = {}
    for setting in (Setting(topology, size) for topology in TOPOLOGIES for size in SIZES):
        if (file := runs / f"{Run(setting, 1).name}.safetensors").exists():
            student = Student.load(file)
            faces = np.random.default_rng(0).integers(0, 256, (1, INPUT_SIZE, INPUT_SIZE), np.uint8)
            times[setting] = 1000 * measure(setting.name, partial(student.logits, faces), seconds=0.5).p50
    return times


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except (StudyError, FerPlusError, OSError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    results = read_results(args.runs, args.epochs, args.views)
    if args.plan:
        _print_plan(args, results)
        return
    if not args.write_only:
        args.runs.mkdir(parents=True, exist_ok=True)
        while todo := [run for run in plan(results, args.seeds, args.close, args.only) if run not in results]:
            run = todo[0]
            if run.setting.teacher_weight and args.teacher is None:
                raise StudyError("--teacher is needed to distil (python -m tools.train_teacher makes one)")
            print(f"{len(results)} runs finished, at least {len(todo)} to do: {run.name}", flush=True)
            do(run, args)
            results = read_results(args.runs, args.epochs, args.views)
    if not results:
        raise StudyError(f"{args.runs}: no finished runs")
    write_study(args.docs, results, args.epochs, latencies(args.runs) if args.latency else None)


def _print_plan(args: argparse.Namespace, results: dict[Run, dict[str, Any]]) -> None:
    faces, valid = read_ferplus(args.data, "train"), read_ferplus(args.data, "valid")
    runs = plan(results, args.seeds, args.close, args.only)
    todo = [run for run in runs if run not in results]
    seconds = seconds_per_epoch([run.setting for run in todo], len(faces), len(valid), args.threads)
    for run in runs:
        state = "finished" if run in results else f"{args.epochs * seconds[run.setting] / 60:6.1f} min"
        print(f"{run.name:<24}{run.setting.parameters:>10,} parameters  {state}")
    hours = args.epochs * sum(seconds[run.setting] for run in todo) / 3600
    print(
        f"{len(runs) - len(todo)} runs finished, {len(todo)} to do: about {hours:.1f} h with {args.threads} threads, "
        f"without rendering and teaching {args.views} views and without the seeds that close results will ask for"
    )


def write_study(
    folder: Path, results: dict[Run, dict[str, Any]], epochs: int, times: dict[Setting, float] | None = None
) -> None:
    """Write study.md and its plots; `times` are those of `latencies`, if they were measured."""
    try:
        from tools.plots import Line, plot_lines
    except ImportError as error:
        raise StudyError(f"plots need matplotlib (pip install matplotlib): {error}") from error
    folder.mkdir(parents=True, exist_ok=True)

    def average(setting: Setting) -> float:
        values = seeds_of(setting, results)
        return mean(values.values()) if values else float("nan")

    lines = []
    for size in SIZES:
        settings = [replace(Setting("p12", size), temperature=temperature) for temperature in TEMPERATURES]
        level = average(Setting("p12", size).plain)
        lines.append(Line(f"{size.upper()}", list(TEMPERATURES), [average(setting) for setting in settings], level))
    plot_lines(lines, folder / "study-temperature.svg", "temperature (dashed: no distillation)", "accuracy", log2=True)

    lines = []
    for topology in TOPOLOGIES:
        for distilled in (True, False):
            settings = [Setting(topology, size) for size in SIZES]
            heights = [average(setting if distilled else setting.plain) for setting in settings]
            name = topology + ("" if distilled else ", no distillation")
            lines.append(Line(name, [setting.parameters for setting in settings], heights, dashed=not distilled))
    plot_lines(lines, folder / "study-size.svg", "parameters", "accuracy", log2=True)

    settings = [replace(Setting("p12", "xxs"), teacher_weight=weight) for weight in TEACHER_WEIGHTS]
    heights = [average(settings[0].plain), *map(average, settings)]
    lines = [Line("p12 XXS, T = 8", [0.0, *TEACHER_WEIGHTS], heights)]
    plot_lines(lines, folder / "study-weight.svg", "weight of the teacher", "accuracy")
    if times:
        lines = []
        for topology in TOPOLOGIES:
            settings = [setting for setting in times if setting.topology == topology]
            lines.append(Line(topology, [times[setting] for setting in settings], list(map(average, settings))))
        plot_lines(lines, folder / "study-latency.svg", "microseconds per face", "accuracy", log2=True)
    page = folder / "study.md"
    # What people concluded stays when the figures are written again.
    _, heading, findings = page.read_text().partition(_FINDINGS) if page.exists() else ("", "", "")
    page.write_text(_markdown(results, epochs, times or {}) + ("\n" + heading + findings if heading else ""))


def _markdown(results: dict[Run, dict[str, Any]], epochs: int, times: dict[Setting, float]) -> str:
    faces = next(iter(results.values()))["data"]["valid"]
    error = 100 * 1.96 * (0.73 * 0.27 / faces) ** 0.5
    settings = dict.fromkeys(run.setting for run in sorted(results, key=_order))
    rows = "\n".join(_row(setting, results) for setting in settings)
    return f"""# Distillation on FER+

The study of the [MicroExpNet paper](https://arxiv.org/abs/1711.07011), section 4, on FER+ instead of CK+ and
Oulu-CASIA: which temperature, how much of the teacher, which size, which topology, and whether to distil at all.
Written by `python -m tools.study` from {len(results)} runs of {epochs} epochs each.

All figures are of the FER+ valid split ({faces} faces), which also chose the epoch; the test split was not read. The
sampling error of one accuracy near 73 % is ±{error:.1f} points (95 %). All runs see the same views of the same faces;
other seeds, where the table has more than one, change the first weights and the order. ± is the standard deviation over
seeds. Gain is the mean difference, in points of accuracy, from the same network, with the same seed,
without distillation.

![Accuracy against temperature](study-temperature.svg)
![Accuracy against size](study-size.svg)
![Accuracy against the teacher's weight](study-weight.svg)

M, S, XS and XXS have 256, 64, 32 and 16 hidden units in v and p1, and 768, 192, 96 and 48 in p2 and p12. p12 XXS is
MicroExpNet.

| topology | size | parameters | T | teacher's weight | seeds | accuracy, % | balanced, % | cross-entropy | gain |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
{rows}
""" + (_latency_table(times, results) if times else "")


def _latency_table(times: dict[Setting, float], results: dict[Run, dict[str, Any]]) -> str:
    rows = "\n".join(
        f"| {setting.topology} | {setting.size.upper()} | {setting.parameters:,} | {time:.1f} "
        f"| {100 * mean(seeds_of(setting, results).values()):.1f} |"
        for setting, time in times.items()
    )
    return f"""
## Size, accuracy and speed

The distilled networks (T = 8) in float32, one face per call from Python, one thread, medians on the machine that wrote
this page ({active_isa()}):

![Accuracy against microseconds per face](study-latency.svg)

| topology | size | parameters | µs | accuracy, % |
|---|---|---:|---:|---:|
{rows}
"""


def _order(run: Run) -> tuple[int, int, bool, float, int]:
    setting = run.setting
    place = TOPOLOGIES.index(setting.topology), list(SIZES).index(setting.size)
    return *place, setting.teacher_weight > 0, setting.teacher_weight, setting.temperature


def _row(setting: Setting, results: dict[Run, dict[str, Any]]) -> str:
    def percent(score: str) -> str:
        values = [100 * value for value in seeds_of(setting, results, score).values()]
        return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")

    accuracies, plain = seeds_of(setting, results), seeds_of(setting.plain, results)
    both = accuracies.keys() & plain.keys() if setting.teacher_weight else set()
    gain = f"{100 * mean(accuracies[seed] - plain[seed] for seed in both):+.1f}" if both else ""
    cells = [setting.topology, setting.size.upper(), f"{setting.parameters:,}"]
    cells += [f"{setting.temperature}", f"{setting.teacher_weight:g}"] if setting.teacher_weight else ["", "0"]
    cells += [str(len(accuracies)), percent("accuracy"), percent("balanced_accuracy")]
    cells += [f"{mean(seeds_of(setting, results, 'cross_entropy').values()):.3f}", gain]
    return "| " + " | ".join(cells) + " |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.study",
        description="Repeat the MicroExpNet paper's study on FER+: temperatures, the teacher's weight, sizes and "
        "topologies, with and without distillation; more seeds where the difference is small. Each finished run is a "
        "JSON file in RUNS and is not repeated; a stopped run goes on from its checkpoint. Writes study.md and plots; "
        "what stands in study.md from its heading Findings on is kept.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="ferplus.npz")
    add("runs", type=Path, metavar="RUNS", help="folder of the runs")
    add("--teacher", type=Path, nargs="+", metavar="FILE", help="teacher files, as tools.train_teacher writes them")
    add("--docs", type=Path, default=Path("docs"), metavar="FOLDER", help="where study.md and its plots go")
    add("--plan", action="store_true", help="only print the runs and how long they will take")
    add("--latency", action="store_true", help="also time the networks on this machine, which should be quiet")
    add("--write-only", action="store_true", help="only write study.md, from the runs that are finished")
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="runs whose name fits, like 'p12-xxs-*' or '*-plain-s1'",
    )
    add("--epochs", type=between(1, 100_000), default=40, help="passes over the training faces")
    add("--views", type=between(1, 100_000), default=40, help="different views of the faces, shown in turn")
    add("--seeds", type=between(1, 1000), default=3, help="most runs of one setting")
    add("--close", type=fraction, default=0.01, help="accuracy difference that asks for another seed")
    add("--threads", type=between(1, 1024), default=1, help="threads; another number rounds differently")
    return parser


if __name__ == "__main__":
    sys.exit(main())
