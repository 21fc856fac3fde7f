"""Cycles of a face, or of a frame, on ARM cores that are not at hand: `python -m tools.modelled_cycles --help`.

Runs tools/roofline.c or tools/frame.c under qemu, which logs each block of instructions that it comes to, and lets
llvm-mca simulate the pipeline for each. Caches always hit and branches are always right there, so that the figures are
for comparing kernels, not boards. Imports mxn_edge's weights, tools.roofline and tools.terminal, and OpenCV for frames.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

if not __package__:  # run as a file: the repository is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mxn_edge.detector import DEFAULT_DETECTOR
from mxn_edge.student import DEFAULT_MODEL
from mxn_edge.weights import WeightFileError, detector_shapes, read_detector_weights, read_weights
from tools.roofline import RooflineError, build, network_arguments
from tools.terminal import markdown

COMPILER = "aarch64-linux-gnu-gcc -static"
CORES = ("cortex-a53", "cortex-a55", "cortex-a57")
#: Of the larger of two runs; the smaller one has a single face, and both begin with what happens once.
FACES = 3
#: Turns of each block that llvm-mca simulates, as if they followed each other.
TURNS = 100


@dataclass(frozen=True)
class Block:
    """Instructions that are run one after the other, in 32-bit words of eight hexadecimal digits."""

    function: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What a face, or a frame, costs in a function: instructions, and cycles of each core."""

    instructions: float
    cycles: tuple[float, ...]


def read_log(lines: Iterable[str]) -> Counter[Block]:
    """How often each block was run, from qemu's log of in_asm and exec."""
    functions: dict[int, str] = {}
    words: dict[int, list[str]] = {}
    function, start = "", None
    counts: Counter[int] = Counter()
    for line in lines:
        if line.startswith("IN:"):
            function, start = line[3:].strip(), None
        elif match := re.match(r"0x([0-9a-f]+):\s+([0-9a-f]{8})\s", line):
            if start is None:
                start = int(match[1], 16)
                functions[start], words[start] = function, []
            words[start].append(match[2])
        elif match := re.match(r"Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/", line):
            counts[int(match[1], 16)] += 1
    blocks: Counter[Block] = Counter()
    for address, count in counts.items():
        blocks[Block(functions[address], tuple(words[address]))] += count
    return blocks


def run(program: Path, *arguments: str | Path) -> Counter[Block]:
    """Run the program under qemu."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        raise RooflineError("no qemu-aarch64 (Debian: apt-get install qemu-user-static)")
    with tempfile.NamedTemporaryFile("r") as log:
        command = [emulator, "-d", "in_asm,exec,nochain", "-D", log.name, program, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RooflineError(f"the program failed under qemu with {result.returncode}: {result.stderr}")
        return read_log(log)


def face_costs(folder: Path, model: Path, isa: str, algorithm: str, cores: Sequence[str]) -> dict[str, Cost]:
    """Of one face in the student."""
    arguments = ["run", *network_arguments(read_weights(model)), isa, algorithm]
    program = build(folder, COMPILER)
    one, more = (run(program, *arguments, str(faces)) for faces in (1, FACES))
    return costs(one, more, FACES - 1, cores)


def frame_costs(folder: Path, picture: Path, isa: str, cores: Sequence[str]) -> dict[str, Cost]:
    """Of detection in a picture, reduced to 640×480, and of cutting out its faces."""
    pixels = cv2.imread(str(picture), cv2.IMREAD_COLOR)
    if pixels is None:
        raise RooflineError(f"{picture} is not a picture")
    frame, raw = folder / "frame.bin", folder / "weights.bin"
    frame.write_bytes(cv2.resize(pixels, (640, 480), interpolation=cv2.INTER_AREA).tobytes())
    weights = read_detector_weights(DEFAULT_DETECTOR)
    raw.write_bytes(b"".join(weights.tensors[name].tobytes() for name in detector_shapes()))
    program = build(folder, COMPILER, "frame.c")
    one, more = (run(program, raw, frame, isa, str(frames)) for frames in (1, 2))
    return costs(one, more, 1, cores)


def _llvm(tool: str, arguments: Sequence[str], text: str) -> str:
    if shutil.which(tool) is None:
        raise RooflineError(f"no {tool} (Debian: apt-get install llvm)")
    command = [tool, *arguments]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RooflineError(f"{tool} failed:\n{result.stderr}")
    return result.stdout


def simulate(block: Block, cores: Sequence[str]) -> tuple[float, ...]:
    """Cycles of a turn of the block on each core, by llvm-mca."""
    features = "--mattr=+neon,+dotprod"
    # In memory a word's lowest byte is the first.
    code = "\n".join(" ".join(f"0x{byte:02x}" for byte in bytes.fromhex(word)[::-1]) for word in block.words)
    assembly = _llvm("llvm-mc", ["--disassemble", "--triple=aarch64", features], code)
    cycles = []
    for core in cores:
        report = _llvm("llvm-mca", ["--mtriple=aarch64", features, f"--mcpu={core}", f"--iterations={TURNS}"], assembly)
        match = re.search(r"Total Cycles:\s+(\d+)", report)
        if match is None:
            raise RooflineError(f"llvm-mca says nothing of cycles:\n{report}")
        cycles.append(int(match[1]) / TURNS)
    return tuple(cycles)


def costs(one: Counter[Block], more: Counter[Block], faces: int, cores: Sequence[str]) -> dict[str, Cost]:
    """By function, the most instructions first, then "whole". `more` had `faces` faces, or frames, more than `one`."""
    found: dict[str, Cost] = {}
    for block, count in more.items():
        per_face = (count - one[block]) / faces
        if per_face <= 0:
            continue
        cycles = simulate(block, cores)
        for function in (block.function, "whole"):
            cost = found.get(function, Cost(0, (0.0,) * len(cores)))
            sums = tuple(a + per_face * b for a, b in zip(cost.cycles, cycles, strict=True))
            found[function] = Cost(cost.instructions + per_face * len(block.words), sums)
    names = sorted(found, key=lambda name: (name == "whole", -found[name].instructions))
    return {name: found[name] for name in names}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="modelled_cycles",
        description="How many instructions and cycles a face takes on ARM cores, by function; with --frame, detection "
        "in a picture and the crops of its faces. The instructions are those that qemu runs, the cycles those of "
        "llvm-mca's model of each core, in which caches always hit: for comparing kernels where no board is at hand. "
        f"The variable CC names the compiler ({COMPILER}).",
    )
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="weight file (default: the package's)")
    parser.add_argument("--isa", choices=("neon", "neondot"), default="neon", help="instruction set (%(default)s)")
    parser.add_argument("--algorithm", choices=("fastest", "direct", "int8"), default="fastest", help="(%(default)s)")
    parser.add_argument("--frame", type=Path, metavar="PICTURE", help="look for faces in this one instead")
    parser.add_argument(
        "--cores", nargs="+", default=CORES, metavar="CORE", help=f"llvm-mca's names ({', '.join(CORES)})"
    )
    args = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if args.frame is None:
                found = face_costs(Path(folder), args.model, args.isa, args.algorithm, args.cores)
            else:
                found = frame_costs(Path(folder), args.frame, args.isa, args.cores)
    except (OSError, WeightFileError, RooflineError) as error:
        print(f"modelled_cycles: error: {error}", file=sys.stderr)
        return 1
    lines = [("function", "instructions", *args.cores)]
    for name, cost in found.items():
        if cost.instructions >= found["whole"].instructions / 100:
            lines.append((name, f"{cost.instructions:,.0f}", *(f"{cycles:,.0f}" for cycles in cost.cycles)))
    print(markdown(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
