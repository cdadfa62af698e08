"""The commands `tally views` and `tally search`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tallystick import Event, Ledger, NewEvent, Projection, Table, Tables, Views

Tally = Callable[..., Any]
NOON_US = 1_773_316_800_000_000


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The default ledger, with a session of two messages."""
    path = tmp_path / "agents.tally"
    about = {
        "label": "A chipped mug",
        "kernel": "ckp://Kernel#Desk:v1.0",
        "action": "",
        "retention_hours": 48,
    }
    started = {"derived": about, "observed": {"urn": "ckp://S#01A", "started_at": "2026-03-12T12:00:00Z"}}
    texts = ["The blue mug arrived \x1b[31mchipped\x1b[0m.", "A new mug is on its way."]
    with Ledger.open(path) as ledger:
        ledger.record(
            [
                NewEvent(kind="session.started", stream="session:01A", body=started, at=NOON_US),
                *(
                    NewEvent(
                        kind="message.recorded",
                        stream="session:01A",
                        body={"derived": {"index": index, "role": "user", "content": text}},
                        at=NOON_US + 1_000_000 * (index + 1),
                    )
                    for index, text in enumerate(texts)
                ),
            ]
        )
    return path


# -- tally views -----------------------------------------------------------------------------------


def test_status_before_and_after_reading(tally: Tally, desk: Path) -> None:
    before = tally("views", "status")
    assert (before.status, before.err) == (0, "")
    assert before.out.splitlines()[0] == "sessions\t1\tnot built\t0\t4\t0\t"
    assert not Path("agents.tally.views").exists()
    assert tally("search", "mug").status == 0
    lines = tally("views", "status").out.splitlines()
    assert lines[0] == "sessions\t1\tcurrent\t4\t0\t0\tactions 0, messages 2, sessions 1"
    assert {"sessions", "executions", "streams"} <= {line.split("\t")[0] for line in lines}


def test_status_as_json(tally: Tally, desk: Path) -> None:
    tally("search", "mug")
    found = tally("views", "status", "--json").json
    assert (found["path"], found["elsewhere"], found["head"]) == ("agents.tally.views", None, 4)
    [sessions] = [one for one in found["projections"] if one["name"] == "sessions"]
    assert sessions == {
        "name": "sessions",
        "version": 1,
        "state": "current",
        "seq": 4,
        "behind": 0,
        "rows": {"actions": 0, "messages": 2, "sessions": 1},
        "skipped": 0,
        "failure": None,
    }


def test_status_on_a_terminal(terminal: Callable[..., tuple[int, str]], desk: Path) -> None:
    status, shown = terminal("views", "status", NO_COLOR="1")
    assert status == 0
    assert shown.splitlines()[0].split() == "projection version state seq behind skipped rows".split()


def test_status_names_what_failed(tally: Tally, desk: Path) -> None:
    tally("search", "mug")
    with closing(sqlite3.connect("agents.tally.views")) as con:
        con.execute(
            "UPDATE tally_projections SET failed_seq = 3, failure = 'KeyError: 1' WHERE name = 'streams'"
        )
        con.commit()
    found = tally("views", "status")
    assert found.status == 1
    assert found.err == "tally: projection 'streams' failed at event 3: KeyError: 1\n"


def test_rebuild(tally: Tally, desk: Path) -> None:
    done = tally("views", "rebuild")
    assert (done.status, done.out, done.err) == (0, "", "agents.tally.views: rebuilt from 4 events\n")
    with closing(sqlite3.connect("agents.tally.views")) as con:
        con.execute("DELETE FROM messages")
        con.execute("DELETE FROM streams")
        con.commit()
    assert tally("views", "rebuild", "sessions").status == 0
    rows = tally("views", "status", "--json").json["projections"]
    counts = {table: count for one in rows for table, count in one["rows"].items()}
    assert (counts["messages"], counts["streams"]) == (2, 0)
    tally("views", "rebuild", "streams", "executions")
    rows = tally("views", "status", "--json").json["projections"]
    assert {table: count for one in rows for table, count in one["rows"].items()}["streams"] == 2


def test_projections_that_an_app_defines_are_listed_and_named_when_they_go(tally: Tally, desk: Path) -> None:
    class Own(Projection):
        name = "own"
        version = 1
        tables: ClassVar = {"seen": Table({"seq": int}, pk="seq")}

        def apply(self, event: Event, tables: Tables) -> None:
            tables["seen"].put({"seq": event.seq})

    with Ledger.open(desk) as ledger, Views(ledger, projections=[Own()]) as views:
        views.catch_up()
    assert "own\t1\tnot ours\t4\t0\t0\tseen 4" in tally("views", "status").out.splitlines()
    assert tally("views", "rebuild", "streams").err.count("\n") == 1
    found = tally("views", "rebuild")
    assert found.err.endswith("projection 'own' is gone until the program that defines it reads it again\n")
    assert "own" not in tally("views", "status").out


def test_rebuild_of_what_is_not_there(tally: Tally, desk: Path) -> None:
    found = tally("views", "rebuild", "sesions")
    assert (found.status, found.out) == (2, "")
    assert found.err.startswith("tally: projection 'sesions': there is none; there are sessions, ")


def test_path(tally: Tally, desk: Path) -> None:
    assert tally("views", "path").out == "agents.tally.views\n"
    assert not Path("agents.tally.views").exists()
    for arguments in (["-f", str(desk), "views", "path"], ["views", "path", "-f", str(desk)]):
        assert tally(*arguments).out == f"{desk}.views\n"
    assert tally("views", "-f", str(desk), "path").out == f"{desk}.views\n"


def test_views_alone_is_no_command(tally: Tally, desk: Path) -> None:
    found = tally("views")
    assert (found.status, found.out) == (2, "")
    assert "rebuild" in found.err


@pytest.mark.parametrize(
    "arguments", [["views", "status"], ["views", "path"], ["views", "rebuild"], ["search", "x"]]
)
def test_without_a_ledger(tally: Tally, arguments: list[str]) -> None:
    found = tally(*arguments)
    assert (found.status, found.out) == (3, "")
    assert "no such ledger" in found.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("arguments", [["views", "status"], ["views", "rebuild"], ["search", "x"]])
def test_a_file_of_others_in_the_place_of_the_views(tally: Tally, desk: Path, arguments: list[str]) -> None:
    Path("agents.tally.views").write_text("my notes")
    found = tally(*arguments)
    assert (found.status, found.out) == (3, "")
    assert found.err == (
        "tally: agents.tally.views: is no database, and the views would go there; "
        "move it away, or name another place with Views(path=…)\n"
    )
    assert Path("agents.tally.views").read_text() == "my notes"


def test_where_the_views_are_if_not_beside_the_ledger(
    tally: Tally, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tallystick.projections import file

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file, "_can_write", lambda path: "cache" in str(path))
    found = tally("search", "blue")
    assert found.status == 0 and len(found.out.splitlines()) == 1
    [views] = (tmp_path / "cache" / "tallystick").glob("*.views")
    assert found.err == f"the views are in {views}, since . cannot be written\n"
    assert tally("views", "path").out == f"{views}\n"
    assert tally("views", "status", "--json").json["elsewhere"] == ". cannot be written"


# -- tally search ----------------------------------------------------------------------------------


def test_search(tally: Tally, desk: Path) -> None:
    found = tally("search", "mug", "blue")
    assert (found.status, found.err) == (0, "")
    assert found.out == (
        "3\t2026-03-12 12:00:01.000Z\t01A\tmessages\tThe [blue] [mug] arrived \\x1b[31mchipped\\x1b[0m.\n"
    )


def test_search_as_json(tally: Tally, desk: Path) -> None:
    expected = {
        "table": "messages",
        "key": 4,
        "seq": 4,
        "time": "2026-03-12T12:00:02.000Z",
        "at": NOON_US + 2_000_000,
        "session": "01A",
        "snippet": "A [new] mug is on its way.",
    }
    assert tally("search", "new", "--json").json == [expected]
    assert tally("search", "new", "--nl").lines == [expected]
    assert tally("search", "nothing like it", "--json").json == []
    assert tally("search", "nothing like it", "--nl").out == ""


def test_search_on_a_terminal(terminal: Callable[..., tuple[int, str]], desk: Path) -> None:
    status, shown = terminal("search", "mug", columns=100, NO_COLOR="1")
    assert status == 0
    heading, *lines = shown.splitlines()
    assert heading.split() == ["seq", "time", "(UTC)", "session", "in", "text"]
    assert len(lines) == 3 and "\x1b" not in shown


def test_search_limit(tally: Tally, desk: Path) -> None:
    assert len(tally("search", "mug").out.splitlines()) == 3
    assert len(tally("search", "mug", "--limit", "2").out.splitlines()) == 2
    assert len(tally("search", "mug", "-n", "1").out.splitlines()) == 1
    assert tally("search", "mug", "-n", "0").status == 2


def test_search_takes_phrases_and_beginnings(tally: Tally, desk: Path) -> None:
    assert len(tally("search", '"blue mug"').out.splitlines()) == 1
    assert len(tally("search", '"mug blue"').out.splitlines()) == 0
    assert len(tally("search", "arr*").out.splitlines()) == 1
    assert tally("search", '"mug').status == 0


@pytest.mark.parametrize("arguments", [["search"], ["search", "x", "--json", "--nl"]])
def test_search_usage(tally: Tally, desk: Path, arguments: list[str]) -> None:
    assert tally(*arguments).status == 2
