"""What tools read from the command line and print. Imports nothing of ours, and no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but only those that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def between(low: int, high: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from low to high."""

    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not between {low} and {high}")
        return value

    return number


def fraction(text: str) -> float:
    """Argparse type for numbers from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def above_zero(text: str) -> float:
    """Argparse type for finite numbers above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not a finite number above 0")
    return value


def positive(text: str) -> int:
    """Argparse type for whole numbers from 1."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def add_views(parser: argparse.ArgumentParser, choices: Sequence[int], default: int) -> None:
    """Add the option --views."""
    shown = "pictures of each face whose logits are averaged; mxn_edge.Recognizer has 4 (default: %(default)s)"
    parser.add_argument("--views", type=int, choices=choices, default=default, help=shown)


def markdown(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table that is also readable as it is.

    Args:
        lines: cells of the header and of each row.
        left: number of columns that are aligned to the left; the others, numbers, to the right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rules = ["-" * width if place < left else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    padded = (
        [cell.ljust(width) if place < left else cell.rjust(width) for place, (cell, width) in enumerate(pairs)]
        for pairs in (zip(cells, widths, strict=True) for cells in (lines[0], rules, *lines[1:]))
    )
    return "\n".join("| " + " | ".join(cells) + " |" for cells in padded)
