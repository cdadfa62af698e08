"""What the doctor says of one thing that it looked at, and how it says sizes and times."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

Status: TypeAlias = Literal["ok", "warn", "fail"]


class Check(msgspec.Struct, frozen=True):
    """One thing looked at: what was found, and what to do where it is not well."""

    name: str
    status: Status
    finding: str
    remedy: str = ""


def size_of(path: Path) -> int:
    """The size of a file in bytes; 0 if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def in_bytes(size: float) -> str:
    """A number of bytes in words: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def age(seconds: float) -> str:
    """A length of time in words: `3 days`."""
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
