"""Locked files, handles carried across a fork, use after close, a lost tail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wrapped_stores import SlowStore

from tallystick import (
    Closed,
    Durability,
    Head,
    Ledger,
    Locked,
    MemoryStore,
    TailLost,
    Verdict,
)
from tallystick.ledger.headfile import head_path

Make = Callable[[Path, int], Head]


# -- locks, forks, ends -------------------------------------------------------------------------------------

HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute(sys.argv[2])
print("held", flush=True)
sys.stdin.readline()
db.execute("COMMIT")
"""


@pytest.fixture
def hold(ledger_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Let another process begin a transaction on the ledger and keep it until told."""
    held: list[subprocess.Popen[str]] = []

    def start(begin: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(ledger_path), begin],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        held.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in held:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_locked_file(
    begin: str, ledger_path: Path, make_ledger: Make, hold: Callable[[str], subprocess.Popen[str]]
) -> None:
    """Invariant: another's lock is Locked after the time-out, stores nothing, and passes with the lock."""
    make_ledger(ledger_path, 3)
    with Ledger.open(ledger_path, timeout_s=0.05) as ledger:
        holder = hold(begin)
        with pytest.raises(Locked) as caught:
            ledger.append("note.kept", key="k")
        assert caught.value.waited_s == 0.05
        with pytest.raises(Locked):
            ledger.erase(2, "reason")
        assert ledger.verify().finding is None, "readers are not in the way"
        assert holder.stdin is not None
        holder.stdin.write("go\n")
        holder.stdin.close()
        holder.wait()
        assert ledger.append("note.kept", key="k").seq == 4
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_a_lock_that_passes_in_time_is_waited_for(
    ledger_path: Path, make_ledger: Make, hold: Callable[[str], subprocess.Popen[str]]
) -> None:
    """Within the time-out, a caller sees no lock at all."""
    make_ledger(ledger_path, 3)
    with Ledger.open(ledger_path) as ledger:
        holder = hold("BEGIN IMMEDIATE")
        assert holder.stdin is not None
        threading.Timer(0.1, holder.stdin.close).start()
        assert ledger.append("note.kept").seq == 4


def in_child(work: Callable[[], str]) -> str:
    """What `work` returns in a forked child, or the name of its error; the child is killed if it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)
            try:
                said = work()
            except BaseException as error:
                said = type(error).__name__
            os.write(writing, said.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said or "hung"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_handle_carried_across_a_fork(ledger_path: Path, make_ledger: Make) -> None:
    """Invariant: the child refuses to use it, its end does no harm, and the parent goes on."""
    make_ledger(ledger_path, 3)
    with Ledger.open(ledger_path, durability=Durability.PROCESS) as ledger:
        ledger.append("note.kept")
        uses: list[Callable[[], object]] = [
            lambda: ledger.append("note.kept"),
            lambda: ledger.append_many([{"kind": "note.kept"}]),
            lambda: ledger.erase(2, "reason"),
            lambda: list(ledger.read()),
            ledger.head,
            ledger.verify,
        ]
        for use in uses:
            assert in_child(lambda use=use: str(use())) == "Closed"  # type: ignore[misc]
        assert in_child(lambda: str(ledger.close())) == "None"

        def reopen() -> str:
            with Ledger.open(ledger_path, durability=Durability.PROCESS) as own:
                return str(own.append("note.kept", {"by": "child"}).seq)

        assert in_child(reopen) == "5"
        assert ledger.append("note.kept").seq == 6
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_anothers_commit() -> None:
    """Invariant: the child does not wait for a thread that it does not have."""
    store = SlowStore(MemoryStore())
    ledger = Ledger.over(store)
    store.hold()
    leader = threading.Thread(target=ledger.append, args=("note.kept",))
    leader.start()
    store.entered.wait()
    try:
        assert in_child(lambda: str(ledger.append("note.kept"))) == "Closed"
    finally:
        store.release()
        leader.join()
    assert ledger.append("note.kept").seq == 3


def test_use_after_close(ledger_path: Path, make_ledger: Make) -> None:
    """Every use of a closed ledger is Closed, and closing again is fine."""
    make_ledger(ledger_path, 3)
    ledger = Ledger.open(ledger_path)
    reading = ledger.read()
    ledger.close()
    ledger.close()
    for use in (
        lambda: ledger.append("note.kept"),
        lambda: ledger.append_many([{"kind": "note.kept"}]),
        lambda: ledger.erase(2, "reason"),
        lambda: next(reading),
        lambda: next(ledger.follow(0)),
        ledger.head,
        ledger.verify,
        ledger.stats,
        lambda: ledger.backup(ledger_path.with_name("copy.tally")),
    ):
        with pytest.raises(Closed):
            use()
    assert not ledger_path.with_name("copy.tally").exists()


def test_a_lost_tail_is_not_written_over(ledger_path: Path, make_ledger: Make) -> None:
    """Invariant: a log that ends before its head file opens for reading only, and the remedy works."""
    make_ledger(ledger_path, 3)
    early = ledger_path.read_bytes()
    with Ledger.open(ledger_path) as ledger:
        ledger.append("note.kept")
    ledger_path.write_bytes(early)
    with pytest.raises(TailLost) as caught:
        Ledger.open(ledger_path)
    assert (caught.value.last, caught.value.expected) == (3, 4)
    with Ledger.open(ledger_path, read_only=True) as ledger:
        assert ledger.verify().verdict is Verdict.BROKEN
    head_path(ledger_path).rename(ledger_path.with_name("kept.head"))
    with Ledger.open(ledger_path) as ledger:
        assert ledger.append("note.kept").seq == 4
