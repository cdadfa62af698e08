"""Killed at any moment, or two at once: the next read completes the views, and they are right."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick import Ledger, Views

Start = Callable[..., "subprocess.Popen[str]"]
FOR_EVER = 1_000_000


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]


def fill(ledger: Ledger, make: Any, round_number: int) -> None:
    for number in range(8):
        session_id = f"{round_number:03d}-{number}"
        ledger.record(make.session(session_id, ["the blue mug", "a red cup", f"words of {session_id}"]))
    ledger.record([make.executed(output=f"of round {round_number}")])
    if round_number:
        ledger.erase(ledger.head().seq - 40, "asked for")


def kill_rounds(
    ledger: Ledger, make: Any, start: Start, dump: Any, at_once: Any, rounds: int, seed: int
) -> None:
    rng = random.Random(seed)
    path = ledger.path
    assert path is not None
    unfinished = 0
    for round_number in range(rounds):
        fill(ledger, make, round_number)
        worker = start("catch_up.py", path, rng.choice((3, 20, 200)), FOR_EVER, round_number)
        ready(worker)
        time.sleep(rng.random() * 0.08)
        worker.kill()
        worker.wait()
        with Views(ledger) as views:
            unfinished += any(status.state != "current" for status in views.status())
            if round_number % 10 == 9 or round_number == rounds - 1:
                assert dump(views) == at_once(ledger)
            else:
                count = views.rows("SELECT sum(events) AS n FROM streams")
                assert count == [{"n": ledger.head().seq}]
                assert len(views.rows("SELECT * FROM sessions")) == 8 * (round_number + 1)
    assert unfinished > rounds // 5, "too few were killed at work"


def test_killed_while_catching_up(
    ledger: Ledger, make: Any, start_worker: Start, dump: Any, at_once: Any
) -> None:
    kill_rounds(ledger, make, start_worker, dump, at_once, rounds=12, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_many_times(ledger: Ledger, make: Any, start_worker: Start, dump: Any, at_once: Any) -> None:
    kill_rounds(ledger, make, start_worker, dump, at_once, rounds=200, seed=2)


def together(
    ledger: Ledger, make: Any, start: Start, dump: Any, at_once: Any, processes: int, rounds: int
) -> None:
    for round_number in range(20):
        fill(ledger, make, round_number)
    path = ledger.path
    assert path is not None
    workers = [start("catch_up.py", path, 50, rounds, number) for number in range(processes)]
    for worker in workers:
        ready(worker)
    for round_number in range(20, 30):
        fill(ledger, make, round_number)
        time.sleep(0.02)
    for worker in workers:
        out, err = worker.communicate(timeout=100)
        assert worker.returncode == 0, err[-4000:]
        assert 0 < int(out) <= ledger.head().seq
    with Views(ledger) as views:
        assert dump(views) == at_once(ledger)
    assert not Path(f"{path}.views-wal").exists()


def test_two_processes_at_once_do_no_harm(
    ledger: Ledger, make: Any, start_worker: Start, dump: Any, at_once: Any
) -> None:
    """Both catch up and rebuild, while a third appends and erases."""
    together(ledger, make, start_worker, dump, at_once, processes=2, rounds=3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_six_processes_at_once_do_no_harm(
    ledger: Ledger, make: Any, start_worker: Start, dump: Any, at_once: Any
) -> None:
    together(ledger, make, start_worker, dump, at_once, processes=6, rounds=20)


def test_two_processes_find_the_file_missing_again_and_again(
    ledger: Ledger, make: Any, start_worker: Start, dump: Any, at_once: Any
) -> None:
    """Deleted under both of them: each notices, and what is read is whole."""
    for round_number in range(10):
        fill(ledger, make, round_number)
    path = ledger.path
    assert path is not None
    workers = [start_worker("catch_up.py", path, 50, 6, number) for number in range(2)]
    for worker in workers:
        ready(worker)
    views_file = Path(f"{path}.views")
    for _ in range(6):
        time.sleep(0.08)
        for suffix in ("-wal", "-shm", ""):
            Path(f"{views_file}{suffix}").unlink(missing_ok=True)
    for worker in workers:
        out, err = worker.communicate(timeout=100)
        assert worker.returncode == 0, err[-4000:]
        assert int(out) == ledger.head().seq
    with Views(ledger) as views:
        assert dump(views) == at_once(ledger)
