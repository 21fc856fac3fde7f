"""What the tools that measure time must know of the machine. Imports the standard library."""

from __future__ import annotations

from pathlib import Path


def cache_bytes() -> int:
    """Size of the last-level cache; 32 MiB where the kernel does not tell."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * {"K": 1 << 10, "M": 1 << 20}[size[-1]] for size in sizes), default=32 << 20)
