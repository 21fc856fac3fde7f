"""What the measuring tools read from the command line and print. Imports nothing of ours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def positive(text: str) -> int:
    """Argparse type for whole numbers from 1."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


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
