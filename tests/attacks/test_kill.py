"""`kill -9` at any moment: what was promised is kept, what was not is whole or absent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tallystick import Durability

Start = Callable[..., "subprocess.Popen[str]"]
Finish = Callable[..., str]

QUICK_ROUNDS = {"write": 10, "erase": 3, "backup": 3, "create": 10}
SLOW_ROUNDS = {"write": 200, "erase": 100, "backup": 100, "create": 200}


def run(
    mode: str, durability: Durability, rounds: int, seed: int, folder: Path, start: Start, finish: Finish
) -> None:
    worker = start("kill_rounds.py", mode, durability.name, rounds, seed, folder)
    reports = int(finish(worker, timeout_s=1700))
    assert reports >= rounds // 3, "the rounds were killed before anything was promised"


@pytest.mark.parametrize("mode", QUICK_ROUNDS)
def test_killed(
    mode: str, durability: Durability, tmp_path: Path, start_worker: Start, finish: Finish
) -> None:
    """Invariant: an acknowledged append, erasure, backup or creation survives `kill -9`; a batch is whole.

    What was in flight is there as a whole or not at all, and the ledger opens, verifies (against
    its head file too) and takes appends again.
    """
    run(mode, durability, QUICK_ROUNDS[mode], 1, tmp_path, start_worker, finish)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", SLOW_ROUNDS)
def test_killed_many_times(
    mode: str, durability: Durability, tmp_path: Path, start_worker: Start, finish: Finish
) -> None:
    """The same, over many rounds with other moments."""
    run(mode, durability, SLOW_ROUNDS[mode], 2, tmp_path, start_worker, finish)
