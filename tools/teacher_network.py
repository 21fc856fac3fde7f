"""A residual network that teaches students: far larger than they are, too slow for the product. Imports torch.

Its weights are kept in a safetensors file, as float16, with size and labels: a teacher is never taken for another.
"""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tools.ferplus import LABELS

#: Side of the teacher's input.
TEACHER_SIZE = 48
_FORMAT = "mxn-edge-teacher"


class TeacherFileError(ValueError):
    """A teacher file cannot be used; the message says which file and why."""


class _Block(nn.Module):
    """Two 3x3 convolutions and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.norm2.weight)  # a block starts as its shortcut
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


#: Name -> channels of the stem and of each stage; a stage halves the picture. 227 and 51 million multiply-adds.
TEACHER_CHANNELS = {"large": (32, 64, 128, 256), "small": (16, 24, 48, 96, 256)}


class TeacherNetwork(nn.Module):
    """Residual network for (N, 1, 48, 48) raw grey, 0..255; returns logits (N, classes).

    Args:
        size: "large" (2.8 million parameters) or "small" (2.4 million, four times as fast).
        classes: number of classes.
        dropout: probability of dropping a pooled feature in training.
    """

    def __init__(self, size: str = "large", classes: int = len(LABELS), dropout: float = 0.3) -> None:
        super().__init__()
        self.size = size
        stem, *stages = TEACHER_CHANNELS[size]
        self.stem = nn.Sequential(nn.Conv2d(1, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        blocks = []
        for inputs, outputs in pairwise((stem, *stages)):
            blocks += [_Block(inputs, outputs, 2), _Block(outputs, outputs, 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(stages[-1], classes))

    def forward(self, faces: Tensor) -> Tensor:
        """Return logits; every face is first brought to mean 0 and deviation 1, as the light says little."""
        mean, deviation = faces.mean((2, 3), keepdim=True), faces.std((2, 3), keepdim=True)
        x = self.blocks(self.stem((faces - mean) / (deviation + 8)))  # + 8: a blank picture stays blank
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def write_teacher(path: str | os.PathLike[str], network: TeacherNetwork, training: str) -> None:
    """Round the weights to float16 and write a teacher file, replacing an existing one in one step.

    The network keeps the rounded weights: what is measured is what is written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    tensors = {name: value.contiguous() for name, value in network.half().state_dict().items()}
    network.float()
    save_file(
        tensors, partial, {"format": _FORMAT, "labels": json.dumps(LABELS), "size": network.size, "training": training}
    )
    partial.replace(path)


def read_teacher(path: str | os.PathLike[str]) -> TeacherNetwork:
    """Read a teacher in evaluation mode. Raises `TeacherFileError` when the file is foreign, `OSError` when absent."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
        if metadata.get("format") != _FORMAT or metadata.get("labels") != json.dumps(LABELS):
            raise TeacherFileError(f"{path}: not a teacher of these tools, or one of other labels")
        network = TeacherNetwork(metadata["size"])
        network.load_state_dict(load_file(path))  # copies into float32
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise TeacherFileError(f"{path}: not a readable teacher file ({error})") from error
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return,unused-ignore]
