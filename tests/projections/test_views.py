"""`Views`: reading, finding by prefix, how things stand, and its life beside the ledger's."""

from __future__ import annotations

import gc
import os
import sqlite3
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick import AmbiguousPrefix, Closed, Ledger, MemoryStore, NoSuchId, Unavailable, Views, views_of
from tallystick.projections import engine


@pytest.fixture
def sessions(ledger: Ledger, make: Any) -> Ledger:
    ledger.record([make.started(name) for name in ("01ABC", "01ABD", "02XYZ", "02XYZ9", "1%_")])
    return ledger


# -- reading -------------------------------------------------------------------------------------


def test_rows_are_dicts(sessions: Ledger) -> None:
    views = views_of(sessions)
    assert views.rows("SELECT id, 1 + 1 AS two FROM sessions WHERE id = ?", ("01ABC",)) == [
        {"id": "01ABC", "two": 2}
    ]
    assert views.rows("SELECT id FROM sessions WHERE id = :id", {"id": "02XYZ"}) == [{"id": "02XYZ"}]


def test_the_database_is_one_of_sqlite_utils(sessions: Ledger) -> None:
    db = views_of(sessions).db
    assert db.table("sessions").get("01ABC")["label"] == "A chipped mug"
    assert [row["id"] for row in db.table("sessions").search("chipped", limit=2)] == ["01ABC", "01ABD"]
    assert db.table("sessions").detect_fts() == "sessions_fts"


@pytest.mark.parametrize("sql", ["DELETE FROM sessions", "DROP TABLE sessions", "CREATE TABLE x (y)"])
def test_reading_does_not_write(sessions: Ledger, sql: str) -> None:
    views = views_of(sessions)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        views.rows(sql)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        views.db.execute(sql)
    assert len(views.rows("SELECT * FROM sessions")) == 5


@pytest.mark.parametrize(
    ("sql", "params", "error"),
    [
        ("SELECT * FROM nothing", (), sqlite3.OperationalError),
        ("SELEKT", (), sqlite3.OperationalError),
        ("SELECT ?", (), sqlite3.ProgrammingError),
        ("SELECT ?", ([],), sqlite3.ProgrammingError),
    ],
)
def test_sql_that_is_wrong_is_its_writers_affair(
    sessions: Ledger, sql: str, params: Any, error: type[Exception]
) -> None:
    views = views_of(sessions)
    views.catch_up()
    inode = views.path.stat().st_ino if views.path else 0
    with pytest.raises(error):
        views.rows(sql, params)
    assert views.path is not None and views.path.stat().st_ino == inode, "the file was made anew"


def test_an_append_is_not_blocked_while_views_are_read(sessions: Ledger, make: Any) -> None:
    """Nor while they are built: the ledger is another file, which is only read."""
    blocked = []

    def progress(_: int) -> None:
        blocked.append(sessions.append("order.placed"))

    views = views_of(sessions)
    views.catch_up(progress)
    assert len(blocked) == 1 and views.rows("SELECT last_seq FROM streams WHERE stream = 'main'")


# -- ids by unique prefix ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("01ABC", "01ABC"),
        ("01ABD", "01ABD"),
        ("02XYZ", "02XYZ"),
        ("02XYZ9", "02XYZ9"),
        ("1", "1%_"),
        ("1%", "1%_"),
    ],
)
def test_a_unique_prefix_finds_its_row(sessions: Ledger, prefix: str, found: str) -> None:
    row = views_of(sessions).find_by_prefix("sessions", "id", prefix)
    assert (row["id"], row["label"]) == (found, "A chipped mug")


@pytest.mark.parametrize("prefix", ["3", "01ABCD", "01abc", "%", "_", "0_ABC", "\U0010ffff"])
def test_no_such_id(sessions: Ledger, prefix: str) -> None:
    with pytest.raises(NoSuchId) as raised:
        views_of(sessions).find_by_prefix("sessions", "id", prefix)
    assert (raised.value.what, raised.value.prefix) == ("sessions", prefix)


def test_an_ambiguous_prefix_names_the_candidates(sessions: Ledger) -> None:
    with pytest.raises(AmbiguousPrefix, match="01ABC, 01ABD; give more of it") as raised:
        views_of(sessions).find_by_prefix("sessions", "id", "01A")
    assert raised.value.candidates == ("01ABC", "01ABD")
    with pytest.raises(AmbiguousPrefix):
        views_of(sessions).find_by_prefix("sessions", "id", "")


def test_many_candidates_are_not_all_named(ledger: Ledger, make: Any) -> None:
    ledger.record([make.started(f"0{number:03d}") for number in range(30)])
    with pytest.raises(AmbiguousPrefix) as raised:
        views_of(ledger).find_by_prefix("sessions", "id", "0")
    assert str(raised.value).endswith("0003, 0004, …; give more of it")
    assert len(raised.value.candidates) == 10


# -- how things stand ----------------------------------------------------------------------------


def test_status_before_after_and_between(sessions: Ledger, make: Any) -> None:
    views = views_of(sessions)
    assert {(one.state, one.seq, one.behind) for one in views.status()} == {("not built", 0, 6)}
    assert views.path is not None and not views.path.exists(), "looking builds nothing"
    views.catch_up()
    assert {(one.state, one.seq, one.behind) for one in views.status()} == {("current", 6, 0)}
    sessions.append("order.placed")
    assert {(one.state, one.seq, one.behind) for one in views.status()} == {("behind", 6, 1)}
    by_name = {one.name: one for one in views.status()}
    assert by_name["sessions"].rows == {"actions": 0, "messages": 0, "sessions": 5}
    assert by_name["streams"].rows == {"streams": 6}
    assert msgspec.json.decode(msgspec.json.encode(by_name["streams"]))["version"] == 1


def test_progress_counts_events(sessions: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHUNK_EVENTS", 4)
    counts: list[int] = []
    views = views_of(sessions)
    views.catch_up(counts.append)
    views.rebuild(progress=counts.append)
    assert counts == [4, 6, 4, 6]


# -- its life ------------------------------------------------------------------------------------


def test_one_views_a_handle(sessions: Ledger) -> None:
    assert views_of(sessions) is views_of(sessions)
    assert sessions.path is not None
    with Ledger.open(sessions.path, read_only=True) as other:
        assert views_of(other) is not views_of(sessions)
        assert views_of(other).rows("SELECT id FROM sessions") == views_of(sessions).rows(
            "SELECT id FROM sessions"
        )


def test_closing_the_ledger_closes_its_views(sessions: Ledger) -> None:
    views = views_of(sessions)
    path = views.path
    views.catch_up()
    assert path is not None and Path(f"{path}-wal").exists()
    sessions.close()
    assert not Path(f"{path}-wal").exists()
    with pytest.raises(Closed):
        views.rows("SELECT 1")


def test_closed_views_say_so(sessions: Ledger) -> None:
    views = Views(sessions)
    views.catch_up()
    views.close()
    views.close()
    for attempt in (views.catch_up, lambda: views.db, views.rebuild, lambda: views.search("x"), views.status):
        with pytest.raises(Closed, match="the views were closed"):
            attempt()


def test_views_go_with_a_ledger_that_is_dropped() -> None:
    ledger = Ledger.over(MemoryStore())
    views_of(ledger).catch_up()
    gone = weakref.ref(ledger)
    del ledger
    gc.collect()
    assert gone() is None


def test_views_are_not_carried_across_a_fork(sessions: Ledger) -> None:
    views = views_of(sessions)
    views.catch_up()
    child = os.fork()
    if not child:
        status = 1
        try:
            views.catch_up()
        except Closed:
            views.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(views.rows("SELECT * FROM sessions")) == 5
    sessions.append("order.placed")
    assert views.rows("SELECT events FROM streams WHERE stream = 'main'") == [{"events": 1}]


def test_a_lock_that_is_held_is_named(sessions: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    views = views_of(sessions)
    views.catch_up()
    assert views.path is not None
    views.db.execute("PRAGMA busy_timeout=50")
    con = sqlite3.connect(views.path, isolation_level=None)
    con.execute("BEGIN IMMEDIATE")
    sessions.append("order.placed")
    with pytest.raises(Unavailable, match="locked by another process"):
        views.catch_up()
    con.execute("ROLLBACK")
    con.close()
    views.catch_up()


def test_a_read_only_ledger_has_views(
    sessions: Ledger, make: Any, dump: Callable[..., Any], at_once: Callable[..., Any]
) -> None:
    assert sessions.path is not None
    with Ledger.open(sessions.path, read_only=True) as reader:
        assert len(views_of(reader).rows("SELECT * FROM sessions")) == 5
        sessions.record([make.started("03NEW")])
        assert len(views_of(reader).rows("SELECT * FROM sessions")) == 6
        assert dump(views_of(reader)) == at_once(reader)
