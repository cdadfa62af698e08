"""Faults planted in a ledger by somebody who makes every hash follow, and what replay says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forging import Forger

from tallystick import Ledger, ReplayReport, replay_ledger
from tallystick.replay.report import Entry, Layer, Result

Forge = Callable[[Forger, int], None]


@dataclass(frozen=True)
class Fault:
    """A change to the nth event of a kind, and the layer and field that show it."""

    name: str
    kind: str
    nth: int
    what: str
    forge: Forge
    layer: Layer = Layer.DIGEST


def column(**columns: Any) -> Forge:
    return lambda forger, seq: forger.replace(seq, **columns)


def put(value: Any, *path: str | int) -> Forge:
    """Put a value at a path of a body."""
    return lambda forger, seq: forger.put(seq, value, *path)


def derived(value: Any, *path: str | int) -> Forge:
    """Put a value at a path of the derived half of a body."""
    return put(value, "derived", *path)


def text(change: Callable[[str], str], *path: str | int) -> Forge:
    """Change a text at a path of a body."""

    def forge(forger: Forger, seq: int) -> None:
        value = forger.body(seq)
        for step in path:
            value = value[step]
        forger.put(seq, change(value), *path)

    return forge


def replayed(path: Path, **options: Any) -> ReplayReport:
    """The replay of a closed ledger."""
    with Ledger.open(path, read_only=True) as ledger:
        return replay_ledger(ledger, **options)


def diverged(report: ReplayReport) -> list[Entry]:
    """What diverged, in the report's order."""
    return [entry for entry in report.entries if entry.result is Result.DIVERGED]


def check_found(path: Path, fault: Fault) -> None:
    """Plant a fault, and see that it is found in its layer at its event, and nothing before it."""
    with Forger(path) as forger:
        seq = forger.seq_of(fault.kind, fault.nth)
        fault.forge(forger, seq)
    report = replayed(path)
    assert report.layers[Layer.CHAIN].diverged == 0, "the forger made every hash follow"
    first = report.first
    assert first is not None
    assert (first.seq, first.layer) == (seq, fault.layer)
    assert fault.what in {entry.what for entry in diverged(report) if entry.seq == seq}
