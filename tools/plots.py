"""Pictures of results, as PNG or SVG by their suffix. Imports matplotlib and tools.metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure  # not pyplot: no window system is asked for

from tools.metrics import Metrics

# The same data give the same bytes.
mpl.rcParams["svg.hashsalt"] = "mxn-edge"
_NO_DATE = {".svg": {"Date": None}, ".png": {"Software": None}}


def save(figure: Figure, path: Path) -> None:
    """Write a figure."""
    figure.savefig(path, dpi=120, bbox_inches="tight", metadata=_NO_DATE.get(path.suffix))


def plot_confusion(metrics: Metrics, names: Sequence[str], path: Path) -> None:
    """Confusion matrix: colour is the fraction of the row, numbers are faces."""
    counts = metrics.confusion
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(1.5 + 0.75 * len(names), 1 + 0.7 * len(names)))
    axes = figure.add_subplot()
    image = axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), [f"{name} ({total})" for name, total in zip(names, counts.sum(1), strict=True)])
    for row in range(len(names)):
        for column in range(len(names)):
            colour = "white" if rates[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    axes.set(xlabel="answer", ylabel="label (faces)", title=f"accuracy {metrics.accuracy.value:.1%}")
    figure.colorbar(image, label="fraction of the label's faces")
    save(figure, path)


def plot_reliability(metrics: Metrics, path: Path) -> None:
    """Reliability diagram: accuracy against confidence, and how many faces each bin holds."""
    bins = len(metrics.reliability)
    count, confidence, accuracy = metrics.reliability.T
    filled = count > 0
    left = np.arange(bins) / bins
    figure = Figure(figsize=(5, 6))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.bar(left[filled], accuracy[filled], 1 / bins, align="edge", edgecolor="black", label="accuracy")
    upper.plot(confidence[filled], accuracy[filled], "o", color="black", markersize=4, label="at the mean confidence")
    upper.plot([0, 1], [0, 1], "--", color="grey", label="perfectly calibrated")
    error = metrics.expected_calibration_error.value
    upper.set(ylabel="accuracy", ylim=(0, 1), title=f"expected calibration error {error:.3f} ({bins} bins)")
    upper.legend(loc="upper left")
    lower.bar(left, count, 1 / bins, align="edge", edgecolor="black", color="lightgrey")
    lower.set(xlabel="confidence", ylabel="faces", xlim=(0, 1))
    save(figure, path)


@dataclass(frozen=True)
class Line:
    """A line of `plot_lines`.

    Attributes:
        name: for the legend.
        x, y: its points; a NaN leaves a gap.
        level: height of a dashed horizontal line of the same colour, NaN for none.
        dashed: draw the line itself dashed.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    level: float = float("nan")
    dashed: bool = False


def plot_lines(lines: Sequence[Line], path: Path, xlabel: str, ylabel: str, *, log2: bool = False) -> None:
    """Lines with a marker at each point; `log2` makes the x axis logarithmic."""
    figure = Figure(figsize=(7, 4.5))
    axes = figure.add_subplot()
    for line in lines:
        (drawn,) = axes.plot(line.x, line.y, "o--" if line.dashed else "o-", markersize=4, label=line.name)
        if not np.isnan(line.level):
            axes.axhline(line.level, linestyle="--", linewidth=1, color=drawn.get_color())
    if log2:
        axes.set_xscale("log", base=2)
        ticks = sorted({x for line in lines for x in line.x})
        if len(ticks) <= 10:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save(figure, path)


@dataclass(frozen=True)
class Bar:
    """A bar of `plot_bars`.

    Attributes:
        name: what it stands for.
        value: its length.
        high: where a line from its end reaches to.
        ours: whether it stands out.
    """

    name: str
    value: float
    high: float
    ours: bool = False


def plot_bars(bars: Sequence[Bar], path: Path, xlabel: str) -> None:
    """Horizontal bars from 0, the first on top, each with its value."""
    figure = Figure(figsize=(8, 1 + 0.35 * len(bars)))
    axes = figure.add_subplot()
    limit = 1.15 * max(bar.value for bar in bars)  # a line that is far longer than its bar is cut
    for place, bar in enumerate(bars):
        axes.barh(place, bar.value, color="tab:blue" if bar.ours else "lightgrey", edgecolor="black", linewidth=0.5)
        axes.plot([bar.value, bar.high], [place, place], color="black", linewidth=1)
        axes.text(min(bar.high, limit), place, f" {bar.value:.{0 if bar.value >= 100 else 1}f}", va="center")
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.set_xlim(0, limit)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def plot_detection(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Recall against false positives per picture, one curve or point for each detector."""
    figure = Figure(figsize=(6, 4.5))
    axes = figure.add_subplot()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), "o-" if len(points) > 1 else "s", markersize=3, label=name)
    axes.set(xlabel="false positives per photo", ylabel="recall", xlim=(0, 0.5), ylim=(0.5, 1.0))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save(figure, path)
