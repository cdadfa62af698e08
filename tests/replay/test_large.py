"""Replay, back-testing and export of very many mixed events: little memory, and work in proportion.

Work is counted in rows that are read, since no machine's clock tells linear from not. A ledger of a million
events takes minutes to make, so that is for whoever asks: `TALLYSTICK_MIXED_EVENTS=1000000`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import mixed_ledger
import pytest

from tallystick import Ledger, Views

SMALL = 25_000
LARGE = int(os.environ.get("TALLYSTICK_MIXED_EVENTS", "250000"))
RSS_MAX_KIB = 150 * 1024
WORKER = Path(__file__).parent / "workers" / "work_done.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(max(900, LARGE // 250))]


class Work(NamedTuple):
    """What a process did."""

    events: int
    rows_read: int
    peak_kib: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ledgers lie, with their views; each is made in a process of its own."""
    folder = tmp_path_factory.mktemp("large")
    for events in (SMALL, LARGE):
        path = folder / f"{events}.tally"
        subprocess.run([sys.executable, mixed_ledger.__file__, str(path), str(events)], check=True)
        with Ledger.open(path, read_only=True) as ledger, Views(ledger) as views:
            views.catch_up()
    return folder


def work(what: str, ledger: Path, target: Path) -> Work:
    """Do it in a process of its own."""
    target.mkdir()
    command = [sys.executable, str(WORKER), what, str(ledger), str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Work(*map(int, done.stdout.split()))


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
@pytest.mark.parametrize("what", ["replay", "backtest", "export"])
def test_very_many_mixed_events(what: str, folder: Path, tmp_path: Path) -> None:
    """Under 150 MiB, and an event of a large ledger costs what one of a small ledger costs."""
    small = work(what, folder / f"{SMALL}.tally", tmp_path / "small")
    large = work(what, folder / f"{LARGE}.tally", tmp_path / "large")
    assert large.events >= LARGE
    assert large.peak_kib < RSS_MAX_KIB, f"{large.peak_kib / 1024:.0f} MiB"
    assert large.rows_read / large.events < 1.1 * small.rows_read / small.events
