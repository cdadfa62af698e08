"""Sessions from several processes and threads at once, and processes that die (contracts S3, S4, S7, S8)."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tallystick import Durability, Ledger, Session, get_session, list_sessions
from tallystick.events import session as bodies

WORKER = Path(__file__).parent / "workers" / "sessions.py"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.tally"


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Starts the worker in a mode; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(mode: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-X", "faulthandler", str(WORKER), mode, str(path), *map(str, arguments)]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finished(process: subprocess.Popen[str], timeout_s: float = 600) -> list[str]:
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err[-4000:]
    return out.splitlines()


def lines_of(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def next_line(process: subprocess.Popen[str]) -> str:
    """What a worker promises next; it must not have ended."""
    line = lines_of(process).readline()
    assert line, process.communicate(timeout=60)[1][-4000:]
    return line.strip()


def check_recorded(path: Path, promised: dict[str, list[int]], actions: int) -> None:
    """Every session is complete and in order: its seqs, the order of its events, its end and its list."""
    with Ledger.open(path) as ledger:
        assert ledger.verify().finding is None
        for session_id, seqs in promised.items():
            events = list(ledger.read(stream=bodies.STREAM_PREFIX + session_id))
            assert [event.kind for event in events] == [
                bodies.STARTED,
                *[bodies.ACTION_RECORDED] * actions,
                bodies.CLOSED,
            ]
            recorded = [event.body["derived"] for event in events[1:-1]]
            assert [body["seq"] for body in recorded] == seqs == list(range(1, actions + 1))
            assert [body["evidence"]["n"] for body in recorded] == list(range(actions))
            assert events[-1].body["derived"]["actions"] == {"verified": actions}
        listed = {summary.session_id: summary for summary in list_sessions(ledger)}
        assert set(listed) == set(promised)
        assert {summary.action_count for summary in listed.values()} == {actions}


def run_recorders(
    path: Path, start: Start, processes: int, threads: int, sessions: int, actions: int
) -> None:
    Ledger.open(path, durability=Durability.PROCESS).close()
    workers = [start("record", threads, sessions, actions) for _ in range(processes)]
    lines = [line.split() for worker in workers for line in finished(worker)]
    promised = {session_id: [int(seq) for seq in seqs.split(",")] for session_id, seqs in lines}
    assert len(promised) == len(lines) == processes * threads * sessions
    check_recorded(path, promised, actions)


def test_s8_processes_and_threads_record_sessions_at_once(path: Path, start: Start) -> None:
    run_recorders(path, start, processes=3, threads=4, sessions=2, actions=6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_s8_sixty_four_threads_in_four_processes_record_sessions_at_once(path: Path, start: Start) -> None:
    run_recorders(path, start, processes=4, threads=16, sessions=5, actions=40)


def run_sharers(path: Path, start: Start, processes: int, threads: int, actions: int) -> None:
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        session = Session.start(ledger, "shared")
        workers = [start("share", session.session_id, threads, actions) for _ in range(processes)]
        lines = [line for worker in workers for line in finished(worker)]
        given = [[int(seq) for seq in line.split(",")] for line in lines]
        total = processes * threads * actions
        assert all(seqs == sorted(seqs) for seqs in given)
        assert sorted(itertools.chain(*given)) == list(range(1, total + 1))
        assert session.close().action_count == total
        assert [action.seq for action in session.actions()] == list(range(1, total + 1))


def test_processes_sharing_one_session_take_turns(path: Path, start: Start) -> None:
    run_sharers(path, start, processes=2, threads=3, actions=10)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sixty_four_threads_in_four_processes_sharing_one_session_take_turns(
    path: Path, start: Start
) -> None:
    run_sharers(path, start, processes=4, threads=16, actions=10)


# -- kill -9 -------------------------------------------------------------------------------


def test_s4_killed_between_the_action_and_its_record(path: Path, start: Start) -> None:
    worker = start("die_between")
    session_id = next_line(worker)
    assert next_line(worker) == "acted"
    worker.kill()
    worker.wait(60)
    with Ledger.open(path) as ledger:
        assert ledger.verify().finding is None
        record = get_session(ledger, session_id)
        assert (record.outcome, record.ended_at) == ("in_progress", None)
        assert [action.action_type for action in record.actions] == ["first"]
        assert (record.last_seq, record.last_kind) == (record.actions[-1].event_seq, "action.recorded")
        [summary] = list_sessions(ledger, outcome="in_progress")
        assert (summary.session_id, summary.last_seq) == (session_id, record.last_seq)
        with Session.resume(ledger, session_id) as session:
            assert session.record_action("second", "verified").seq == 2
        assert get_session(ledger, session_id).outcome == "partial"


def run_killed_recorders(path: Path, start: Start, rounds: int) -> None:
    chosen = random.Random(rounds)
    for _ in range(rounds):
        worker = start("keep_recording")
        session_id = next_line(worker)
        next_line(worker)
        time.sleep(chosen.uniform(0, 0.1))
        worker.kill()
        promised = 1 + len(lines_of(worker).read().splitlines())
        worker.wait(60)
        with Ledger.open(path) as ledger:
            assert ledger.verify().finding is None
            record = get_session(ledger, session_id)
            assert [action.seq for action in record.actions] == list(range(1, record.action_count + 1))
            assert record.action_count in (promised, promised + 1)
            assert (
                Session.resume(ledger, session_id).record_action("a", "failed").seq == record.action_count + 1
            )


def test_s3_a_killed_recorder_has_recorded_what_it_was_promised(path: Path, start: Start) -> None:
    run_killed_recorders(path, start, rounds=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_s3_a_killed_recorder_has_recorded_what_it_was_promised_many_times(path: Path, start: Start) -> None:
    run_killed_recorders(path, start, rounds=40)


def run_killed_expiry(path: Path, start: Start, rounds: int, sessions: int) -> None:
    chosen = random.Random(rounds)
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        for _ in range(rounds):
            for _ in range(sessions):
                with Session.start(ledger, "x", retention_hours=1) as session:
                    for n in range(10):
                        session.record_action("a", "verified", evidence=n)
    done: set[str] = set()
    for _ in range(rounds):
        worker = start("keep_expiring")
        next_line(worker)
        time.sleep(chosen.uniform(0, 0.1))
        worker.kill()
        done |= set(lines_of(worker).read().split())
        worker.wait(60)
        with Ledger.open(path) as ledger:
            assert ledger.verify().finding is None
            for summary in list_sessions(ledger):
                erased = [event.erased for event in ledger.read(stream=summary.stream)]
                expired = summary.outcome == "expired"
                assert erased == ([True] * 12 + [False] if expired else [False] * 12)
                assert expired or summary.session_id not in done


def test_s7_a_killed_expiry_is_whole_or_absent(path: Path, start: Start) -> None:
    run_killed_expiry(path, start, rounds=2, sessions=8)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_s7_a_killed_expiry_is_whole_or_absent_many_times(path: Path, start: Start) -> None:
    run_killed_expiry(path, start, rounds=30, sessions=10)
