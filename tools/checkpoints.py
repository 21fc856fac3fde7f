"""States of trainings, to go on from after an interruption, and the error of a training that cannot. Imports torch."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch


class TrainingError(Exception):
    """A run cannot go on; the message says why."""


def read_checkpoint(path: Path, options: Any) -> dict[str, Any]:
    """What `write_checkpoint` wrote.

    Args:
        path: of the file.
        options: of the training that is to go on, and whatever else its course depends on.

    Raises:
        TrainingError: not a checkpoint, or of a training with other options.
    """
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True)
        found = saved["options"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
        raise TrainingError(f"{path}: not a checkpoint of these tools ({type(error).__name__})") from error
    if found != options:
        raise TrainingError(f"{path}: made with other options or data\n checkpoint: {found}\n this run:   {options}")
    return saved


def write_checkpoint(path: Path, options: Any, state: dict[str, Any]) -> None:
    """Write a training's options and state; whoever interrupts it leaves the file as it was."""
    partial = path.with_name(path.name + ".partial")
    torch.save({"options": options} | state, partial)
    partial.replace(path)
