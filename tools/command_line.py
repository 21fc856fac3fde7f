"""What the training tools' command lines share: their common options and their report. Imports `tools.training`."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.augment import AUGMENT_HELP, NO_AUGMENTATION, AugmentOptions
from tools.ferplus import LABELS, Faces
from tools.terminal import between, fraction
from tools.training import Scores, TrainOptions


def add_training_options(parser: argparse.ArgumentParser, defaults: TrainOptions, dropout: float) -> None:
    """Add DATA, OUT and the options of the loop."""
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="ferplus.npz (see tools/ferplus.py for its content)")
    add("out", type=Path, metavar="OUT", help="safetensors file to write")
    add("--epochs", type=between(1, 100_000), default=defaults.epochs, help="passes over the training faces")
    add("--batch", type=between(2, 100_000), default=defaults.batch, help="faces per step")
    add("--learning-rate", type=float, default=defaults.learning_rate, help="peak learning rate of AdamW")
    muon = "peak learning rate of Muon for all matrices but the last, 0.02 for example; 0 leaves them to AdamW"
    add("--muon-rate", type=float, default=defaults.muon_rate, help=muon)
    add("--weight-decay", type=float, default=defaults.weight_decay, help="weight decay")
    add("--dropout", type=fraction, default=dropout, help="probability of dropping a unit before the last layer")
    add("--ema", type=fraction, default=defaults.ema, help="decay per step of the averaged weights")
    add("--least-share", type=fraction, default=0.05, help="answer as if no expression were rarer than this")
    add("--seed", type=int, default=defaults.seed, help="seed of everything random")
    add("--threads", type=between(1, 1024), default=1, help="threads; another number rounds differently")
    flag = argparse.BooleanOptionalAction
    add("--bfloat16", action=flag, default=_multiplies_bfloat16(), help="train with bfloat16 products")
    add("--checkpoint", type=Path, help="checkpoint, written after every epoch (default: OUT with suffix .checkpoint)")
    add("--resume", action="store_true", help="go on from the checkpoint if there is one")
    add("--report", type=Path, help="JSON report (default: OUT with suffix .json)")
    add("--quiet", action="store_true", help="no progress, only the last line")
    views = parser.add_argument_group("random views of the faces")
    views.add_argument("--augment", action=flag, default=True, help="show them; --no-augment shows the plain faces")
    for field in fields(AugmentOptions):
        views.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=float,
            default=field.default,
            metavar="X",
            help=AUGMENT_HELP[field.name],
        )


def _multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; without them bfloat16 is ten times slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def training_options(args: argparse.Namespace, size: int) -> tuple[TrainOptions, AugmentOptions]:
    """Return the options that were given."""
    options = TrainOptions(
        epochs=args.epochs,
        batch=args.batch,
        learning_rate=args.learning_rate,
        muon_rate=args.muon_rate,
        weight_decay=args.weight_decay,
        warmup=min(2.0, args.epochs / 4),
        ema=args.ema,
        seed=args.seed,
        views=getattr(args, "views", 0),  # only distillation has them
        size=size,
        preprocessing=getattr(args, "preprocessing", "face-square"),  # only students have one
        bfloat16=args.bfloat16,
        pairs=getattr(args, "pairs", False),  # only students answer by the mean over views
    )
    return options, view_options(args)


def view_options(args: argparse.Namespace) -> AugmentOptions:
    """Return how far the views stray."""
    if not args.augment:
        return NO_AUGMENTATION
    return AugmentOptions(**{field.name: getattr(args, field.name) for field in fields(AugmentOptions)})


def prepare_outputs(args: argparse.Namespace) -> None:
    """Fill in the paths that were not given and make their folders."""
    args.checkpoint = args.checkpoint or args.out.with_suffix(".checkpoint")
    args.report = args.report or args.out.with_suffix(".json")
    for path in (args.out, args.checkpoint, args.report):
        path.parent.mkdir(parents=True, exist_ok=True)


def write_report(
    args: argparse.Namespace,
    tool: str,
    faces: Faces,
    valid: Faces,
    scores: Scores,
    history: list[dict[str, Any]],
    **more: object,
) -> None:
    """Write what was run, on what, and what came out.

    Paths are shortened to file names: where things lay is nobody's business.
    """
    given = {key: _shortened(value) for key, value in vars(args).items()}
    words = given.pop("command_line")
    options, augment = training_options(args, 0)
    content = {
        "tool": tool,
        "command": f"python -m tools.{tool} " + " ".join(_without_folders(word) for word in words),
        "arguments": given,
        "augmentation": asdict(augment),
        "warmup": options.warmup,
        **more,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": {
            "architecture": platform.machine(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
        "data": {
            "sha256": hashlib.sha256(args.data.read_bytes()).hexdigest(),
            "train": len(faces),
            "valid": len(valid),
        },
        "labels": LABELS,
        "valid": asdict(scores),
        "seconds": sum(epoch["seconds"] for epoch in history),
    }
    # One line per epoch.
    curve = ",\n".join("  " + json.dumps(_rounded(epoch)) for epoch in history)
    args.report.write_text(json.dumps(content, indent=1)[:-2] + f',\n "curve": [\n{curve}\n ]\n}}\n')


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse, and remember the command line for the report."""
    argv = sys.argv[1:] if argv is None else argv
    return parser.parse_args(argv, argparse.Namespace(command_line=argv))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _shortened(value: Any) -> Any:
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return value.name if isinstance(value, Path) else value


def _without_folders(word: str) -> str:
    return word.rsplit("/", 1)[-1]
