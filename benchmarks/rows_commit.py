"""Durable appends one at a time, by one caller and by sixteen threads."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tallystick import Ledger

from .bodies import support_events
from .harness import Bench, Figure, check, stopwatch, times_as_fast
from .peers import TEXTBOOK_INSERT, check_ledger, check_textbook, ready_rows, textbook

THREADS: Final = 16


def singles(bench: Bench) -> list[Figure]:
    """One caller, one event a commit, against `sqlite3` insert and commit of the same row, ready-made."""
    events = support_events(bench.scale.single_appends)
    rows = ready_rows(events)

    def ours(place: Path) -> float:
        path = place / "ours.tally"
        with Ledger.open(path) as ledger, stopwatch() as elapsed:
            for kind, stream, body in events:
                ledger.append(kind, body, stream=stream)
        check_ledger(path, len(events))
        return elapsed[0]

    def theirs(place: Path) -> float:
        path = place / "textbook.db"
        con = textbook(path)
        with stopwatch() as elapsed:
            for row in rows:
                con.execute(TEXTBOOK_INSERT, row)
                con.commit()
        con.close()
        check_textbook(path, len(rows))
        return elapsed[0]

    mine, peer = bench.race(
        "singles", [("tallystick append", ours), ("sqlite3 insert and commit", theirs)], len(events)
    )
    return [times_as_fast("singles", "against sqlite3 insert and commit", peer, mine, must=0.9, aim=1.0)]


def threads(bench: Bench) -> list[Figure]:
    """Sixteen threads sharing a ledger, against sixteen sharing one locked `sqlite3` connection."""
    each = bench.scale.thread_appends
    events = support_events(each * THREADS)
    rows = ready_rows(events, numbered=False)

    def ours(place: Path) -> float:
        path = place / "ours.tally"
        with Ledger.open(path) as ledger:

            def work(thread: int) -> None:
                for kind, stream, body in events[thread * each : (thread + 1) * each]:
                    ledger.append(kind, body, stream=stream)

            elapsed = _together(work)
        check_ledger(path, len(events))
        return elapsed

    def one_lock(place: Path) -> float:
        path = place / "textbook.db"
        con = textbook(path, check_same_thread=False)
        lock = threading.Lock()

        def work(thread: int) -> None:
            for row in rows[thread * each : (thread + 1) * each]:
                with lock:
                    con.execute(TEXTBOOK_INSERT, row)
                    con.commit()

        elapsed = _together(work)
        con.close()
        check_textbook(path, len(rows))
        return elapsed

    def connection_each(place: Path) -> float:
        path = place / "textbook.db"
        options: dict[str, Any] = {"check_same_thread": False, "timeout": 120, "isolation_level": "IMMEDIATE"}
        cons: list[sqlite3.Connection] = [textbook(path, **options) for _ in range(THREADS)]

        def work(thread: int) -> None:
            con = cons[thread]
            for row in rows[thread * each : (thread + 1) * each]:
                con.execute(TEXTBOOK_INSERT, row)
                con.commit()

        elapsed = _together(work)
        for con in cons:
            con.close()
        check_textbook(path, len(rows))
        return elapsed

    mine, locked, own = bench.race(
        "threads",
        [
            ("tallystick append, shared", ours),
            ("sqlite3, one lock around one connection", one_lock),
            ("sqlite3, a connection a thread", connection_each),
        ],
        len(events),
    )
    return [
        times_as_fast("threads", "against one lock around one connection", locked, mine, must=3, aim=4),
        times_as_fast("threads", "against a connection a thread", own, mine, note="information"),
    ]


def _together(work: Callable[[int], None]) -> float:
    """The seconds that all threads take, from the moment they are let go."""
    barrier = threading.Barrier(THREADS + 1)
    failures: list[BaseException] = []

    def body(thread: int) -> None:
        barrier.wait()
        try:
            work(thread)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=body, args=(thread,)) for thread in range(THREADS)]
    for worker in workers:
        worker.start()
    with stopwatch() as elapsed:
        barrier.wait()
        for worker in workers:
            worker.join()
    check(not failures, f"a thread failed: {failures[:1]!r}")
    return elapsed[0]
