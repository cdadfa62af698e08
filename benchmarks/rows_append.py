"""Ingest: `append_many` in chunks, one commit a chunk, against four ways to do without it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tallystick import Ledger, NewEvent

from .bodies import Plain, support_events
from .harness import Bench, Figure, Run, Timing, check, chunks_of, stopwatch, times_as_fast
from .peers import (
    TEXTBOOK_INSERT,
    TextbookRow,
    canonical,
    check_ledger,
    check_textbook,
    need,
    ready_rows,
    recorder,
    recorder_events,
    textbook,
    textbook_json,
    textbook_row,
)

if TYPE_CHECKING:
    from eventsourcing.persistence import StoredEvent


def append_many(bench: Bench) -> list[Figure]:
    """Against `sqlite3` executemany of the same columns, unhashed, unindexed, unguarded."""
    events, chunk = _input(bench), bench.scale.chunk_events
    rows = ready_rows(events)
    ours, ready, same = bench.race(
        "append_many",
        [
            ("tallystick append_many", appending(events, chunk)),
            ("sqlite3 executemany, rows ready-made", _executemany(lambda: chunks_of(chunk, rows), len(rows))),
            (
                "sqlite3 executemany, from the same dicts",
                _executemany(lambda: _encoding(events, chunk), len(rows)),
            ),
        ],
        len(events),
    )
    return _both("append_many", "sqlite3 executemany", ready, same, ours, must=0.60, aim=1.0)


def against_recorder(bench: Bench) -> list[Figure]:
    """Against `eventsourcing`'s SQLite application recorder, in batches of the same size."""
    need("eventsourcing.sqlite")
    events, chunk = _input(bench), bench.scale.chunk_events
    stored = list(recorder_events(events, canonical))

    def recording(batches: Callable[[], Iterable[Sequence[StoredEvent]]]) -> Run:
        def run(place: Path) -> float:
            new, datastore = recorder(place / "recorder.db")
            with stopwatch() as elapsed:
                for batch in batches():
                    new.insert_events(batch)
            check(new.max_notification_id() == len(events), "the recorder has not every event")
            datastore.close()
            return elapsed[0]

        return run

    def encoding() -> Iterator[list[StoredEvent]]:
        source = recorder_events(events, textbook_json)
        while batch := list(islice(source, chunk)):
            yield batch

    ours, ready, same = bench.race(
        "recorder",
        [
            ("tallystick append_many", appending(events, chunk)),
            ("eventsourcing insert_events, ready-made", recording(lambda: chunks_of(chunk, stored))),
            ("eventsourcing insert_events, from the same dicts", recording(encoding)),
        ],
        len(events),
    )
    return _both("recorder", "eventsourcing insert_events", ready, same, ours, must=1.0, aim=1.5)


def against_application(bench: Bench) -> list[Figure]:
    """Against `eventsourcing`'s Application.save, one call a batch; with and without making the events."""
    need("eventsourcing.application")
    from .eventsourcing_desk import Ticket, open_desk

    events, chunk = _input(bench), bench.scale.chunk_events

    def saving(place: Path, making_counts: bool) -> float:
        app = open_desk(place / "application.db")
        tickets = {stream: Ticket() for stream in {stream for _, stream, _ in events}}
        app.save(*tickets.values())
        seconds = 0.0
        for batch in chunks_of(chunk, events):
            touched = [tickets[stream] for stream in {stream for _, stream, _ in batch}]
            with stopwatch() as making:
                for kind, stream, body in batch:
                    tickets[stream].note(kind, body)
            with stopwatch() as saved:
                app.save(*touched)
            seconds += saved[0] + (making[0] if making_counts else 0.0)
        last = app.recorder.max_notification_id()
        check(last == len(events) + len(tickets), "the application has not every event")
        app.close()
        return seconds

    ours, ready, same = bench.race(
        "application",
        [
            ("tallystick append_many", appending(events, chunk)),
            ("eventsourcing save, events made before", lambda place: saving(place, making_counts=False)),
            ("eventsourcing save, events made from dicts", lambda place: saving(place, making_counts=True)),
        ],
        len(events),
    )
    return _both("application", "eventsourcing save", ready, same, ours, must=3, aim=5)


def against_sqlite_utils(bench: Bench) -> list[Figure]:
    """Information: against `sqlite-utils` insert_all of the same columns, rows ready-made."""
    database = need("sqlite_utils").Database
    events, chunk = _input(bench), bench.scale.chunk_events
    columns = "seq at kind stream key meta salt body body_hash prev_hash hash".split()
    rows = [dict(zip(columns, row, strict=True)) for row in ready_rows(events)]

    def inserting(place: Path) -> float:
        path = place / "utils.db"
        con = textbook(path)
        table = database(con)["events"]
        with stopwatch() as elapsed:
            table.insert_all(rows, batch_size=chunk)
        con.close()
        check_textbook(path, len(rows))
        return elapsed[0]

    ours, theirs = bench.race(
        "sqlite_utils",
        [("tallystick append_many", appending(events, chunk)), ("sqlite-utils insert_all", inserting)],
        len(events),
    )
    return [
        times_as_fast("sqlite_utils", "against sqlite-utils insert_all", theirs, ours, note="information")
    ]


def appending(events: Sequence[Plain], chunk: int) -> Run:
    """From plain events to acknowledged receipts: every index, guard and check, POWER durability."""

    def run(place: Path) -> float:
        path = place / "ours.tally"
        with Ledger.open(path) as ledger:
            source = (NewEvent(kind=kind, stream=stream, body=body) for kind, stream, body in events)
            with stopwatch() as elapsed:
                receipts = ledger.append_many(source, chunk=chunk)
            check(len(receipts) == len(events), "not every event has a receipt")
        check_ledger(path, len(events))
        return elapsed[0]

    return run


def _executemany(batches: Callable[[], Iterable[Sequence[TextbookRow]]], count: int) -> Run:
    def run(place: Path) -> float:
        path = place / "textbook.db"
        con: sqlite3.Connection = textbook(path)
        with stopwatch() as elapsed:
            for batch in batches():
                con.executemany(TEXTBOOK_INSERT, batch)
                con.commit()
        con.close()
        check_textbook(path, count)
        return elapsed[0]

    return run


def _encoding(events: Sequence[Plain], chunk: int) -> Iterator[list[TextbookRow]]:
    """Batches of rows, each made when its turn comes, as a program without a ledger would."""
    numbered = list(enumerate(events, 1))
    for batch in chunks_of(chunk, numbered):
        yield [textbook_row(seq, kind, stream, textbook_json(body)) for seq, (kind, stream, body) in batch]


def _both(row: str, peer: str, ready: Timing, same: Timing, ours: Timing, **bounds: float) -> list[Figure]:
    """Both readings of "against": the same input is quoted, the peer's input ready-made is stricter."""
    return [
        times_as_fast(row, f"against {peer}, same input", same, ours, note="quoted", **bounds),
        times_as_fast(row, f"against {peer}, its input ready-made", ready, ours, note="strict", **bounds),
    ]


def _input(bench: Bench) -> list[Plain]:
    return support_events(bench.scale.chunks * bench.scale.chunk_events)
