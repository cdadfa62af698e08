"""Verification against its floor, which is reading the rows, and two processes against one."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import apsw

from tallystick import Ledger, SQLiteStore, Verdict
from tallystick.ledger.event import COLUMNS

from .bodies import support_events
from .harness import Bench, Figure, Run, check, stopwatch, times_as_fast
from .peers import build_ledger


def verify(bench: Bench) -> list[Figure]:
    """Against the store's own reader, the rows thrown away."""
    count = bench.scale.verify_events
    with bench.place() as kept:
        path = kept / "ours.tally"
        build_ledger(path, support_events(count))

        def reading(_: Path) -> float:
            store = SQLiteStore(path, read_only=True)
            with stopwatch() as elapsed:
                seen = sum(1 for _ in store.read_raw())
            store.close()
            check(seen == count + 1, "the reader has not seen every row")
            return elapsed[0]

        def bare(_: Path) -> float:
            con = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            with stopwatch() as elapsed:
                deque(con.execute(f"SELECT {', '.join(COLUMNS)} FROM events ORDER BY seq"), maxlen=0)
            con.close()
            return elapsed[0]

        checked, read, cursor = bench.race(
            "verify",
            [
                ("tallystick verify", verifying(path, count, jobs=1)),
                ("the same rows read in pages by the same store", reading),
                ("the same rows from one bare apsw cursor", bare),
            ],
            count,
        )
    return [
        times_as_fast("verify", "against reading the same rows", read, checked, must=0.4, aim=0.6),
        times_as_fast("verify", "against one bare cursor", cursor, checked, note="information"),
    ]


def jobs(bench: Bench) -> list[Figure]:
    """Two processes against one, starting them included."""
    count = bench.scale.jobs_events
    with bench.place() as kept:
        path = kept / "ours.tally"
        build_ledger(path, support_events(count))
        one, two = bench.race(
            "jobs",
            [
                ("tallystick verify, one process", verifying(path, count, jobs=1)),
                ("tallystick verify, two processes", verifying(path, count, jobs=2)),
            ],
            count,
        )
    return [times_as_fast("jobs", "two processes against one", one, two, must=1.6, aim=1.9)]


def verifying(path: Path, count: int, jobs: int) -> Run:
    """Verify the ledger at `path`, as `Ledger.verify` does it."""

    def run(_: Path) -> float:
        with Ledger.open(path, read_only=True) as ledger, stopwatch() as elapsed:
            report = ledger.verify(jobs=jobs)
        check(report.verdict is Verdict.UNANCHORED and report.events == count + 1, str(report))
        return elapsed[0]

    return run
