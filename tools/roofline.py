"""What share of this CPU's peak each layer reaches: `python -m tools.roofline --help`.

Compiles the C core with tools/roofline.c, which measures; so it needs a C compiler. Imports mxn_edge's weights,
tools.machine, tools.peer_models and tools.terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path

if not __package__:  # run as a file: the repository is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mxn_edge.cli import cpu_name
from mxn_edge.student import DEFAULT_MODEL
from mxn_edge.weights import ARCHITECTURES, WeightFileError, Weights, read_weights
from tools.machine import cache_bytes
from tools.peer_models import network_layers
from tools.terminal import markdown, positive

ROOT = Path(__file__).resolve().parents[1]
#: As in setup.py: what is measured is what is shipped.
FLAGS = ("-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
#: Faces whose instructions are counted.
COUNTED_FACES = 10


class RooflineError(RuntimeError):
    """The measurement cannot be made; the message says why."""


@dataclass
class Measured:
    """The best of all rounds: whatever else the machine does can only slow a round down.

    Attributes:
        gigahertz: cycles per nanosecond, of scalar code.
        peaks: 1e9 multiply-adds per second, by instruction set; for 8-bit products the name begins with "int8".
        seconds: per call, by instruction set, algorithm ("fastest" or "direct" of float32, "int8") and layer: load,
            conv1, conv2, dense, whole, cold.
    """

    gigahertz: float = 0
    peaks: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        isa: instruction set.
        algorithm: "fastest" or "direct" of float32, or "int8"; "" for the peak of float32.
        what: "peak", or the layer.
        multiply_adds: of the layer as a direct convolution; 0 where there is none.
        us: microseconds that it takes, None for a peak.
        bound_us: microseconds that its multiply-adds take at the peak.
        rate: 1e9 multiply-adds per second.
        per_cycle: multiply-adds per cycle.
        share: of the peak. Above 1 where an algorithm needs fewer multiplications than a direct convolution.
    """

    isa: str
    algorithm: str
    what: str
    multiply_adds: int
    us: float | None
    bound_us: float | None
    rate: float | None
    per_cycle: float | None
    share: float | None


def multiply_adds(weights: Weights) -> dict[str, int]:
    """Of one face, by layer, as a direct convolution computes them; both fully connected layers are "dense"."""
    counts = {"load": 0, "conv1": 0, "conv2": 0, "dense": 0}
    for layer in network_layers(weights):
        if layer.kind == "conv":
            height, width, _ = layer.shape
            counts[layer.name] = height * width * prod(weights.tensors[f"{layer.name}.weight"].shape)
        elif layer.kind == "dense":
            counts["dense"] += prod(weights.tensors[f"{layer.name}.weight"].shape)
    whole = sum(counts.values())
    return {**counts, "whole": whole, "cold": whole}


def build(folder: Path, default: str = "cc", source: str = "roofline.c") -> Path:
    """Compile a program of tools/ with csrc/, by what the variable CC names or by `default`."""
    compiler = shlex.split(os.environ.get("CC", default))
    if shutil.which(compiler[0]) is None:
        raise RooflineError(f"no C compiler {compiler[0]} (Debian: apt-get install gcc); the variable CC names another")
    included = {"mxn.c"} if source == "roofline.c" else set()
    core = [path for path in (ROOT / "csrc").rglob("*.c") if path.name not in included]

    def run(*arguments: str | Path) -> None:
        result = subprocess.run([*compiler, *FLAGS, *arguments], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RooflineError(f"{compiler[0]} failed:\n{result.stderr}")

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        run("-I", ROOT / "csrc", "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compile_one, [*core, ROOT / "tools" / source]))
    program = folder / Path(source).stem
    run(*objects, "-lm", "-pthread", "-o", program)
    return program


def network_arguments(weights: Weights) -> list[str]:
    """The network as the program's arguments; topologies are numbered in the same order in csrc/mxn.h."""
    return [str(list(ARCHITECTURES).index(weights.architecture)), str(weights.hidden), str(len(weights.labels))]


def measure(program: Path, weights: Weights, rounds: int) -> Measured:
    """Run it."""
    command = [str(program), "measure", *network_arguments(weights), str(rounds), str(2 * cache_bytes())]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RooflineError(f"the measuring program failed with {result.returncode}: {result.stderr}")
    return read_output(result.stdout)


def read_output(output: str) -> Measured:
    """Parse what the program prints; the best of repeated lines counts."""
    found = Measured()
    for line in output.splitlines():
        kind, _, rest = line.partition(" ")
        name, value = rest.rsplit(maxsplit=1) if kind != "cycles" else ("", rest)
        number = float(value)
        if kind == "cycles":
            found.gigahertz = max(found.gigahertz, number)
        elif kind == "peak":
            found.peaks[name] = max(found.peaks.get(name, 0), number)
        else:
            isa, algorithm, layer = name.split()
            layers = found.seconds.setdefault(isa, {}).setdefault(algorithm, {})
            layers[layer] = min(layers.get(layer, number), number)
    return found


def make_rows(found: Measured, counts: dict[str, int]) -> list[Row]:
    """The table: for each instruction set its peaks, each with the layers below it."""
    rows = []
    shown = set()
    for isa, algorithms in found.seconds.items():
        for precision in ("", "int8"):
            layers = {name: times for name, times in algorithms.items() if (name == "int8") == (precision == "int8")}
            peak_name = f"{precision} {isa}".strip()
            peak = found.peaks.get(peak_name)
            if layers and peak is not None:
                shown.add(peak_name)
                rows.append(_peak_row(isa, precision, peak, found))
            for algorithm, times in layers.items():
                rows += [_layer_row(isa, algorithm, *item, counts[item[0]], peak, found) for item in times.items()]
    for name in found.peaks.keys() - shown:
        precision, _, isa = name.rpartition(" ")
        rows.append(_peak_row(isa, precision, found.peaks[name], found))
    return rows


def _peak_row(isa: str, precision: str, peak: float, found: Measured) -> Row:
    return Row(isa, precision, "peak", 0, None, None, peak, peak / found.gigahertz, 1)


def _layer_row(
    isa: str, algorithm: str, layer: str, seconds: float, count: int, peak: float | None, found: Measured
) -> Row:
    if not count:
        return Row(isa, algorithm, layer, 0, seconds * 1e6, None, None, None, None)
    rate = count / seconds / 1e9
    bound, share = (None, None) if peak is None else (count / peak / 1e3, rate / peak)
    return Row(isa, algorithm, layer, count, seconds * 1e6, bound, rate, rate / found.gigahertz, share)


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""

    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    cells = [["ISA", "algorithm", "layer", "multiply-adds", "µs", "bound, µs", "GMAC/s", "MAC/cycle", "share of peak"]]
    for row in rows:
        count = f"{row.multiply_adds:,}" if row.multiply_adds else ""
        times = [cell(row.us, ".2f"), cell(row.bound_us, ".2f"), cell(row.rate, ".1f"), cell(row.per_cycle, ".1f")]
        cells.append([row.isa, row.algorithm, row.what, count, *times, cell(row.share, ".0%")])
    return markdown(cells, left=3)


def count_instructions(program: Path, weights: Weights, isa: str, algorithm: str) -> int | None:
    """Instructions per face, by callgrind; None where valgrind lacks the instruction set.

    The difference between two runs leaves out what happens once.
    """
    if shutil.which("valgrind") is None:
        raise RooflineError("no valgrind (Debian: apt-get install valgrind)")
    counts = []
    for faces in (1, 1 + COUNTED_FACES):
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program)]
        command += ["run", *network_arguments(weights), isa, algorithm, str(faces)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        match = re.search(r"Collected : (\d+)", result.stderr)
        if result.returncode != 0 or match is None:
            return None
        counts.append(int(match[1]))
    return (counts[1] - counts[0]) // COUNTED_FACES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="roofline",
        description="Measure how many multiply-adds one core can do per second with each instruction set, and what "
        "share of that each layer reaches, alone and with warm caches; cold is the whole network after twice the "
        "last-level cache was read. The bound is the time of a direct convolution "
        "at the peak. MAC: one multiplication and one addition, so two operations. The algorithms fastest and direct "
        "are float32; int8 stands beside the peak of 8-bit products. Kernels that several instruction sets share are "
        "measured once. Times and rates are the best of all rounds.",
    )
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="weight file (default: the package's)")
    parser.add_argument("--rounds", type=positive, default=30, help="a fraction of a second each (%(default)s)")
    parser.add_argument("--instructions", action="store_true", help="count instructions per face too, by valgrind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    args = parser.parse_args(arguments)
    try:
        weights = read_weights(args.model)
        with tempfile.TemporaryDirectory() as folder:
            program = build(Path(folder))
            found = measure(program, weights, args.rounds)
            instructions: dict[str, int | None] = {}
            if args.instructions:
                for isa, algorithms in found.seconds.items():
                    for algorithm in algorithms:
                        count = count_instructions(program, weights, isa, algorithm)
                        instructions[f"{isa} {algorithm}"] = count
        rows = make_rows(found, multiply_adds(weights))
        print(f"{cpu_name()}, one core, {found.gigahertz:.2f} GHz; best of {args.rounds} rounds\n")
        print(table(rows))
        for name, count in instructions.items():
            print(f"{name}: " + ("valgrind cannot run it" if count is None else f"{count:,} instructions per face"))
        if args.json:
            content = {
                "tool": "roofline",
                "cpu": cpu_name(),
                "gigahertz": found.gigahertz,
                "architecture": weights.architecture,
                "rounds": args.rounds,
                "rows": [asdict(row) for row in rows],
                "instructions_per_face": instructions,
            }
            args.json.write_text(json.dumps(content, indent=1) + "\n")
    except (OSError, WeightFileError, RooflineError) as error:
        print(f"roofline: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
