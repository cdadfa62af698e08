"""Incidents in tests: gathering and writing them, looking at what was written, and checking it without us."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tallystick import Incident, Ledger, Selection, write_incident
from tallystick.replay.incident import verify_ledger
from tallystick.replay.incident.gather import Ring, gather


def written(path: Path, target: Path, selection: Selection, **options: Any) -> Incident:
    """Write an incident of a closed ledger."""
    with Ledger.open(path, read_only=True) as ledger:
        return write_incident(ledger, selection, target, **options)


def gathered(ledger: Ledger, **selection: Any) -> dict[int, tuple[Ring, str]]:
    """What belongs, by seq."""
    head = ledger.head()
    found = Selection(**selection).resolved(ledger, head)
    with gather(ledger, found, head) as members:
        return {member.seq: (member.ring, member.why) for member in members.members()}


def tree(folder: Path) -> dict[str, bytes]:
    """The files in a folder, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def lines_in(folder: Path) -> list[dict[str, Any]]:
    """The events of an incident in a folder."""
    return [json.loads(line) for line in (folder / "events.jsonl").read_bytes().splitlines()]


def seqs_in(folder: Path) -> list[int]:
    """Their seqs."""
    return [line["seq"] for line in lines_in(folder)]


def checked(*arguments: str | Path) -> tuple[int, str]:
    """What the verifier says of a file: exit status and its line."""
    out = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        patch.setattr(sys, "argv", ["verify_ledger.py", *map(str, arguments)])
        return verify_ledger.main(), out.getvalue().strip()
