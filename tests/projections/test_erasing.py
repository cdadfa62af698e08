"""Erased bodies leave the views: the tables, the full text index, and the bytes of the file and its log."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tallystick import BUILT_IN, Event, Ledger, Projection, Table, Tables, Views, views_of
from tallystick.projections import file as module

#: Words that nothing else begins with, since an index keeps only what differs from the word before.
SECRET = "zyxwvut qponmlk"
PIECES = (b"zyxwvut", b"yxwvut", b"qponmlk", b"ponmlk")


class Notes(Projection):
    """Text of an app's events, searchable; with no way to forget a stream."""

    name = "notes"
    kinds = ("note.*",)
    tables: ClassVar[Mapping[str, Table]] = {
        "notes": Table({"seq": int, "text": str}, pk="seq", search=("text",)),
        "last_notes": Table({"stream": str, "text": str}, pk="stream"),
    }
    applied = 0

    def apply(self, event: Event, tables: Tables) -> None:
        self.applied += 1
        tables["notes"].put({"seq": event.seq, "text": event.body["text"]})
        tables["last_notes"].put({"stream": event.stream, "text": event.body["text"]})


def traces(path: Path) -> list[str]:
    """What is left of the secret in the file and beside it, as bytes or as words of an index."""
    found = []
    for file in path.parent.glob(f"{path.name}*"):
        data = file.read_bytes()
        found += [f"{piece!r} in {file.name}" for piece in PIECES if piece in data]
    with closing(sqlite3.connect(path)) as con:
        for (name,) in con.execute(
            "SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL%'"
        ).fetchall():
            con.execute(f"CREATE VIRTUAL TABLE temp.words USING fts5vocab('main', '{name}', 'row')")
            words = con.execute("SELECT term FROM temp.words WHERE term IN ('zyxwvut', 'qponmlk')").fetchall()
            found += [f"{word} in {name}" for word in words]
            con.execute("DROP TABLE temp.words")
    return found


@pytest.fixture
def secret(ledger: Ledger, make: Any) -> Ledger:
    """A ledger with the secret in event 103, and much else around it."""
    ledger.record(make.session("01A", [f"the blue mug {number}" for number in range(50)]))
    assert ledger.head().seq == 103
    ledger.record([make.started("02B"), make.message(SECRET, "02B"), make.action(SECRET, "02B")])
    ledger.record(make.session("03C", [f"a red cup {number}" for number in range(50)]))
    return ledger


def test_nothing_is_left_of_an_erased_message(secret: Ledger) -> None:
    views = views_of(secret)
    assert len(views.search(SECRET)) == 2
    assert views.path is not None and traces(views.path)
    secret.erase(105, "asked for")
    secret.erase(106, "asked for")
    views.catch_up()
    assert traces(views.path) == []
    assert views.search(SECRET) == []
    assert len(views.search("mug", 200)) == 100 + 1  # with the label of the other session


@pytest.mark.parametrize("again", [False, True])
def test_nothing_is_left_when_views_are_opened_later(secret: Ledger, again: bool) -> None:
    """Whoever reads next: another handle, long after the one that built the views."""
    with Views(secret) as views:
        views.catch_up()
    secret.erase_many([105, 106], "asked for")
    with Views(secret) as views:
        if again:
            views.rebuild()
        assert views.search(SECRET) == []
        assert views.path is not None and traces(views.path) == []


def test_nothing_is_left_of_a_label_and_an_output(ledger: Ledger, make: Any) -> None:
    ledger.record([make.started("01A", SECRET), make.executed("session:01A", SECRET, error=SECRET)])
    views = views_of(ledger)
    assert len(views.search(SECRET)) == 2
    ledger.erase_many([2, 3], "asked for")
    assert views.search(SECRET) == []
    assert views.path is not None and traces(views.path) == []


def test_nothing_is_left_in_a_projection_that_cannot_forget(ledger: Ledger) -> None:
    notes = Notes()
    with Views(ledger, projections=[*BUILT_IN, notes]) as views:
        for text in ("first", SECRET, "last"):
            ledger.append("note.made", {"text": text})
        ledger.append("note.made", {"text": SECRET}, stream="other")
        assert len(views.search(SECRET)) == 2
        ledger.erase_many([3, 5], "asked for")
        assert views.rows("SELECT seq, text FROM notes ORDER BY seq") == [
            {"seq": 2, "text": "first"},
            {"seq": 4, "text": "last"},
        ]
        assert views.rows("SELECT * FROM last_notes") == [{"stream": "main", "text": "last"}]
        assert views.path is not None and traces(views.path) == []
        assert notes.applied == 4 + 2, "it was built anew once"


def test_projections_of_others_are_emptied(ledger: Ledger) -> None:
    """What this process does not know how to derive again is derived again by who does."""
    with Views(ledger, projections=[*BUILT_IN, Notes()]) as views:
        ledger.append("note.made", {"text": SECRET})
        ledger.append("note.made", {"text": "stays"})
        views.catch_up()
    ledger.erase(2, "asked for")
    with Views(ledger) as views:
        views.catch_up()
        assert views.path is not None and traces(views.path) == []
        assert views.rows("SELECT name FROM sqlite_schema WHERE name = 'notes'") == []
    with Views(ledger, projections=[*BUILT_IN, Notes()]) as views:
        assert views.rows("SELECT text FROM notes") == [{"text": "stays"}]


def test_projections_of_others_that_are_not_concerned_stay(ledger: Ledger, make: Any) -> None:
    with Views(ledger, projections=[*BUILT_IN, Notes()]) as views:
        ledger.append("note.made", {"text": "stays"})
        ledger.record([make.message(SECRET)])
        views.catch_up()
    ledger.erase(3, "asked for")
    with Views(ledger) as views:
        assert views.rows("SELECT text FROM notes") == [{"text": "stays"}]


class Strict(Notes):
    """Fails at an event of its own, and stays behind."""

    name = "strict"
    tables: ClassVar[Mapping[str, Table]] = {
        "strict": Table({"seq": int, "text": str}, pk="seq", search=("text",)),
    }

    def apply(self, event: Event, tables: Tables) -> None:
        if event.body["text"] == "poison":
            raise ValueError(event.body["text"])
        tables["strict"].put({"seq": event.seq, "text": event.body["text"]})


def test_a_projection_that_failed_keeps_nothing_either(ledger: Ledger) -> None:
    with Views(ledger, projections=[*BUILT_IN, Strict()]) as views:
        for text in (SECRET, "fine", "poison"):
            ledger.append("note.made", {"text": text})
        views.rows("SELECT * FROM sessions")
        assert views.path is not None and traces(views.path)
        ledger.erase(2, "asked for")
        assert views.rows("SELECT * FROM sessions") == []
        assert traces(views.path) == []


def test_bodies_that_no_projection_reads_cost_nothing(
    ledger: Ledger, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrubbed = []
    real = module.ViewsFile.scrub
    monkeypatch.setattr(module.ViewsFile, "scrub", lambda self: scrubbed.append(1) or real(self))
    ledger.append("order.placed", {"text": SECRET})
    ledger.record([make.message("x")])
    views = views_of(ledger)
    views.catch_up()
    ledger.erase(2, "asked for")
    views.catch_up()
    assert scrubbed == []
    ledger.erase(3, "asked for")
    views.catch_up()
    assert scrubbed == [1]


def test_erasures_met_while_building_are_no_reason_to_start_again(ledger: Ledger, make: Any) -> None:
    notes = Notes()
    for _ in range(5):
        ledger.append("note.made", {"text": SECRET})
    ledger.erase_many([2, 3, 4], "asked for")
    with Views(ledger, projections=[notes]) as views:
        views.catch_up()
        assert notes.applied == 2


def test_one_stream_alone_is_derived_again(
    ledger: Ledger, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An erasure costs its stream, not the ledger."""
    for number in range(20):
        ledger.record(make.session(f"{number:03d}", ["text"]))
    views = views_of(ledger)
    views.catch_up()
    [sessions] = [projection for projection in BUILT_IN if projection.name == "sessions"]
    applied = []
    real = type(sessions).apply
    monkeypatch.setattr(
        type(sessions),
        "apply",
        lambda self, event, tables: applied.append(event) or real(self, event, tables),
    )
    ledger.erase(3, "asked for")
    views.catch_up()
    assert [event.stream for event in applied] == ["session:000"] * 4


def test_a_reader_in_the_way_delays_the_end_of_the_traces(
    secret: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old pages are in the log while it reads; reading goes on, and the next catch-up finishes."""
    monkeypatch.setattr(module, "SCRUB_TIMEOUT_S", 0.1)
    views = views_of(secret)
    views.catch_up()
    path = views.path
    assert path is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as con:
        con.execute("BEGIN")
        con.execute("SELECT * FROM messages").fetchone()
        secret.erase_many([105, 106], "asked for")
        assert views.search(SECRET) == []
        con.execute("COMMIT")
    views.catch_up()
    assert traces(path) == []


def test_a_reader_that_ends_soon_is_waited_for(secret: Ledger) -> None:
    views = views_of(secret)
    views.catch_up()
    path = views.path
    assert path is not None
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as con:
        con.execute("BEGIN")
        con.execute("SELECT * FROM messages").fetchone()
        secret.erase_many([105, 106], "asked for")
        timer = threading.Timer(0.3, lambda: con.execute("COMMIT"))
        timer.start()
        views.catch_up()
        timer.join()
        assert traces(path) == []


def test_a_crash_before_the_traces_are_gone_is_made_up_for(
    secret: Ledger, monkeypatch: pytest.MonkeyPatch, dump: Callable[..., Any], at_once: Callable[..., Any]
) -> None:
    """What is to be scrubbed is noted in the transaction that removes it from the tables."""
    with Views(secret) as views:
        views.catch_up()
        secret.erase_many([105, 106], "asked for")

        def crash(self: module.ViewsFile) -> bool:
            raise KeyboardInterrupt

        with monkeypatch.context() as crashing:
            crashing.setattr(module.ViewsFile, "scrub", crash)
            with pytest.raises(KeyboardInterrupt):
                views.catch_up()
    with Views(secret) as views:
        assert dump(views) == at_once(secret)
        assert views.path is not None and traces(views.path) == []
