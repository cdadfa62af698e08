"""What stands in a ledger file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tallystick import Ledger


def bodies(path: str | Path = "agents.tally") -> list[Any]:
    """The bodies of all events but ledger.created."""
    with Ledger.open(path, create=False, read_only=True) as ledger:
        return [event.body for event in ledger.read(1)]
