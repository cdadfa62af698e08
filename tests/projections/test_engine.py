"""Catching up: what is applied when, what is built anew, and what happens when a projection fails."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import pytest

from tallystick import (
    BUILT_IN,
    BadProjection,
    Event,
    Ledger,
    NewEvent,
    Projection,
    ProjectionFailed,
    Table,
    Tables,
    TallyError,
    Views,
)
from tallystick.projections import engine
from tallystick.projections.projection import check_projections

Applied = list[int]


def seen(name: str = "seen", **attributes: Any) -> Any:
    """A projection that keeps the seq of every event that it is given; `applied` has them in order."""

    def apply(self: Any, event: Event, tables: Tables) -> None:
        self.applied.append(event.seq)
        tables[name].put({"seq": event.seq, "body": repr(event.body)})

    table = Table({"seq": int, "body": str}, pk="seq")
    attributes = {"name": name, "tables": {name: table}, "apply": apply, "applied": []} | attributes
    return type("Seen", (Projection,), attributes)()


@pytest.fixture
def three(ledger: Ledger) -> Ledger:
    for kind in ("order.placed", "order.shipped", "ticket.opened"):
        ledger.append(kind, {"kind": kind}, stream=f"{kind}:1")
    return ledger


# -- which events, and in which form ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "seqs"),
    [
        (("*",), [1, 2, 3, 4]),
        (("order.*",), [2, 3]),
        (("order.shipped", "ticket.opened"), [3, 4]),
        (("*.opened", "order.placed"), [2, 4]),
        (("nothing.like_it",), []),
        ({"order.*": None}, [2, 3]),
        ({"order.*": Any, "ticket.opened": dict[str, str]}, [2, 3, 4]),
    ],
)
def test_kinds(three: Ledger, kinds: Any, seqs: list[int]) -> None:
    projection = seen(kinds=kinds)
    with Views(three, projections=[projection]) as views:
        views.catch_up()
    assert projection.applied == seqs


def test_a_prefix_of_the_stream(three: Ledger) -> None:
    projection = seen(stream_prefix="order.")
    with Views(three, projections=[projection]) as views:
        views.catch_up()
    assert projection.applied == [2, 3]


class Order(msgspec.Struct):
    kind: str
    count: int = 7


def test_bodies_come_as_they_are_wanted(three: Ledger) -> None:
    """Exact kinds come before patterns, and patterns in the order in which they stand."""
    kinds = {"order.*": Order, "order.placed": None, "*": Any}
    with Views(three, projections=[seen(kinds=kinds)]) as views:
        bodies = {row["seq"]: row["body"] for row in views.rows("SELECT * FROM seen")}
    assert bodies[2] == "None"
    assert bodies[3] == "Order(kind='order.shipped', count=7)"
    assert bodies[4] == "{'kind': 'ticket.opened'}"


def test_bodies_that_do_not_fit_are_skipped_and_counted(three: Ledger) -> None:
    three.append("order.placed", {"kind": 5})
    three.append("order.placed", ["a list"])
    projection = seen(kinds={"order.*": Order})
    with Views(three, projections=[projection]) as views:
        views.catch_up()
        assert projection.applied == [2, 3]
        [status] = views.status()
        assert status.skipped == 2
        reasons = [row["why"] for row in views.rows("SELECT why FROM tally_skipped ORDER BY seq")]
        assert reasons[0] == "Expected `str`, got `int` - at `$.kind`"


def test_what_an_event_says_without_its_body(ledger: Ledger) -> None:
    events: list[Event] = []

    def apply(self: Any, event: Event, tables: Tables) -> None:
        events.append(event)

    receipt = ledger.append("order.placed", {"x": 1}, stream="order:1", key="k", meta={"actor": "bot"}, at=5)
    for wanted in (None, Any, dict[str, int]):
        with Views(
            ledger, projections=[seen(f"p{len(events)}", kinds={"order.*": wanted}, apply=apply)]
        ) as views:
            views.catch_up()
    bare, plain, typed = events
    assert plain == typed == ledger.get(receipt.seq)
    assert (bare.seq, bare.at, bare.kind, bare.stream, bare.key) == (2, 5, "order.placed", "order:1", "k")
    assert (bare.body, bare.meta, bare.erased, bare.hash) == (None, None, False, receipt.hash)


def test_erased_events_are_left_out_unless_asked_for(three: Ledger) -> None:
    three.erase(3, "asked for")
    some, every, bare = seen("some"), seen("every", apply_erased=True), seen("bare", kinds={"*": None})
    with Views(three, projections=[some, every, bare]) as views:
        views.catch_up()
        assert views.rows("SELECT body FROM every WHERE seq = 3") == [{"body": "None"}]
    assert (some.applied, every.applied, bare.applied) == ([1, 2, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5])


# -- when ------------------------------------------------------------------------------------------


def test_every_event_is_applied_once_in_order(three: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHUNK_EVENTS", 2)
    projection = seen()
    with Views(three, projections=[projection]) as views:
        views.catch_up()
        views.catch_up()
        three.append("order.placed")
        views.catch_up()
    with Views(three, projections=[projection]) as views:
        three.append("order.placed")
        views.catch_up()
    assert projection.applied == [1, 2, 3, 4, 5, 6]


def test_chunks_are_bounded_in_bytes(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHUNK_BYTES", 1000)
    for _ in range(5):
        ledger.append("order.placed", "x" * 600)
    counts: list[int] = []
    with Views(ledger, projections=[seen()]) as views:
        views.catch_up(counts.append)
    assert counts == [3, 5, 6]


def test_reading_catches_up(three: Ledger) -> None:
    with Views(three, projections=[seen()]) as views:
        assert views.rows("SELECT count(*) AS n FROM seen") == [{"n": 4}]
        three.append("order.placed")
        assert views.rows("SELECT count(*) AS n FROM seen") == [{"n": 5}]
        three.append("order.placed")
        assert views.db.table("seen").count == 6


def test_a_new_projection_does_not_disturb_the_others(three: Ledger) -> None:
    old = seen("old")
    with Views(three, projections=[old]) as views:
        views.catch_up()
    three.append("order.placed")
    new = seen("new")
    with Views(three, projections=[old, new]) as views:
        views.catch_up()
    assert old.applied == [1, 2, 3, 4, 5] == new.applied


def test_projections_that_are_not_given_are_left_as_they_are(three: Ledger) -> None:
    one, other = seen("one"), seen("other")
    with Views(three, projections=[one, other]) as views:
        views.catch_up()
    three.append("order.placed")
    with Views(three, projections=[one]) as views:
        views.catch_up()
        assert len(views.rows("SELECT * FROM other")) == 4
    with Views(three, projections=[one, other]) as views:
        assert len(views.rows("SELECT * FROM other")) == 5
    assert one.applied == other.applied == [1, 2, 3, 4, 5]


# -- built anew ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": 0},
        {"kinds": ("order.*", "ticket.*")},
        {"kinds": {"*": None}},
        {"apply_erased": True},
        {"stream_prefix": "order"},
        {"tables": {"seen": Table({"seq": int, "body": str, "more": str}, pk="seq")}},
        {"tables": {"seen": Table({"seq": int, "body": str}, pk="seq", indexes=("body",))}},
        {"tables": {"seen": Table({"seq": int, "body": str}, pk="seq", search=("body",))}},
        {"tables": {"seen": Table({"seq": int, "body": str}, pk=("seq", "body"))}},
        {"tables": {"seen": Table({"seq": int, "body": str}, pk="seq"), "b": Table({"x": int}, pk="x")}},
    ],
)
def test_another_version_or_definition_is_built_anew(three: Ledger, change: dict[str, Any]) -> None:
    before, other = seen(), seen("other")
    with Views(three, projections=[before, other]) as views:
        views.catch_up()
    after = seen(**change)
    with Views(three, projections=[after, other]) as views:
        assert [status.state for status in views.status()] == ["stale", "current"]
        views.catch_up()
        assert [status.state for status in views.status()] == ["current", "current"]
        assert after.applied[0] in (1, 2) and len(after.applied) >= 2
    assert other.applied == [1, 2, 3, 4]


def test_the_same_definition_is_not_built_anew(three: Ledger) -> None:
    first, second = seen(), seen()
    for projection in (first, second):
        with Views(three, projections=[projection]) as views:
            views.catch_up()
    assert second.applied == []


def test_tables_that_a_version_no_longer_has_go(three: Ledger) -> None:
    tables = {
        "seen": Table({"seq": int, "body": str}, pk="seq"),
        "gone": Table({"x": str}, pk="x", search=("x",)),
    }
    with Views(three, projections=[seen(tables=tables)]) as views:
        views.catch_up()
    with Views(three, projections=[seen()]) as views:
        assert views.rows("SELECT name FROM sqlite_schema WHERE name LIKE 'gone%'") == []


def test_a_renamed_projection_takes_its_tables_over(three: Ledger) -> None:
    tables = {"seen": Table({"seq": int, "body": str}, pk="seq")}
    with Views(three, projections=[seen("seen")]) as views:
        views.catch_up()
    with Views(
        three, projections=[seen("renamed", tables=tables, apply=seen("seen").__class__.apply)]
    ) as views:
        assert len(views.rows("SELECT * FROM seen")) == 4
        assert [row["name"] for row in views.rows("SELECT name FROM tally_projections")] == ["renamed"]


def test_rebuilding_some_or_all(three: Ledger) -> None:
    one, other = seen("one"), seen("other")
    with Views(three, projections=[one, other]) as views:
        views.catch_up()
        views.rebuild(["one"])
        assert (len(one.applied), len(other.applied)) == (8, 4)
        views.rebuild()
        assert (len(one.applied), len(other.applied)) == (12, 8)
        with pytest.raises(BadProjection, match="there are one, other"):
            views.rebuild(["nothing"])
        views.rebuild([])
        assert (len(one.applied), len(other.applied)) == (12, 8)


# -- failing -----------------------------------------------------------------------------------------


class Failing(Projection):
    """Fails at a ticket, after having written."""

    name = "failing"
    kinds = ("order.*", "ticket.*")
    tables: ClassVar[Mapping[str, Table]] = {
        "failing": Table({"seq": int, "text": str}, pk="seq", search=("text",)),
        "half": Table({"seq": int}, pk="seq"),
    }

    def apply(self, event: Event, tables: Tables) -> None:
        tables["half"].put({"seq": event.seq})
        if event.kind.startswith("ticket."):
            tables["failing"].find(text="written out")
            raise KeyError("no such customer")
        tables["failing"].put({"seq": event.seq, "text": "fine"})


def test_a_failure_names_the_projection_the_event_and_the_cause(three: Ledger) -> None:
    with Views(three, projections=[Failing()]) as views:
        with pytest.raises(
            ProjectionFailed, match=r"'failing' failed at event 4 \(KeyError: 'no such"
        ) as raised:
            views.catch_up()
        assert (raised.value.projection, raised.value.seq) == ("failing", 4)
        assert isinstance(raised.value.__cause__, KeyError)
        [status] = views.status()
        assert (status.state, status.seq, status.behind) == ("failed", 3, 1)
        assert status.failure == "at event 4: KeyError: 'no such customer'"


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_its_tables_end_just_before_that_event(
    three: Ledger, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CHUNK_EVENTS", chunk)
    three.append("order.placed")
    with Views(three, projections=[*BUILT_IN, Failing()]) as views:
        with pytest.raises(ProjectionFailed):
            views.catch_up()
        assert views.path is not None
        with sqlite3.connect(views.path) as con:
            assert con.execute("SELECT seq FROM failing").fetchall() == [(2,), (3,)]
            assert con.execute("SELECT seq FROM half").fetchall() == [(2,), (3,)]
        con.close()


def test_the_views_of_others_stay_usable(three: Ledger) -> None:
    with Views(three, projections=[Failing(), *BUILT_IN]) as views:
        for _ in range(2):
            three.append("order.placed", stream="later")
            assert len(views.rows("SELECT * FROM streams WHERE stream = 'later'")) == 1
            assert views.search("fine")
            with pytest.raises(ProjectionFailed):
                views.rows('SELECT * FROM "failing"')
            with pytest.raises(ProjectionFailed):
                views.rows("SELECT 1 FROM streams, failing_fts LIMIT 1")


def test_a_failing_event_is_tried_again_and_may_succeed(three: Ledger) -> None:
    with Views(three, projections=[Failing()]) as views, pytest.raises(ProjectionFailed):
        views.catch_up()

    class Mended(Failing):
        version = 1

        def apply(self, event: Event, tables: Tables) -> None:
            tables["half"].put({"seq": event.seq})

    with Views(three, projections=[Mended()]) as views:
        views.catch_up()
        [status] = views.status()
        assert (status.state, status.failure) == ("current", None)
        assert [row["seq"] for row in views.rows("SELECT seq FROM half ORDER BY seq")] == [2, 3, 4]


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"seq": "four", "text": "x"}, "ValidationError"),
        ({"seq": 1 << 70, "text": "x"}, "ValidationError"),
        ({"seq": 4, "text": "\ud800"}, "UnicodeEncodeError"),
        ({"seq": 4, "txt": "x"}, "BadRow"),
    ],
)
def test_a_row_that_sqlite_does_not_take_is_traced_to_its_event(
    three: Ledger, row: dict[str, Any], cause: str
) -> None:
    """Rows are written many at a time; the error still names the one event."""

    class Bad(Failing):
        def apply(self, event: Event, tables: Tables) -> None:
            good = {"seq": event.seq, "text": "good"}
            tables["failing"].put(row if event.kind.startswith("ticket") else good)

    three.append("order.placed")
    with Views(three, projections=[Bad()]) as views:
        with pytest.raises(ProjectionFailed, match=f"at event 4 \\({cause}") as raised:
            views.catch_up()
        assert raised.value.seq == 4
        [status] = views.status()
        assert status.rows["failing"] == 2


def test_a_change_of_its_tables_by_others_is_mended_by_building_anew(three: Ledger) -> None:
    """Rows are no evidence: where they make apply fail, the events decide."""

    class Sums(Projection):
        name = "sums"
        tables: ClassVar[Mapping[str, Table]] = {"sums": Table({"id": int, "facts": dict}, pk="id")}

        def apply(self, event: Event, tables: Tables) -> None:
            row = tables["sums"].get(1) or {"id": 1, "facts": {"n": 0}}
            row["facts"]["n"] += 1
            tables["sums"].put(row)

    with Views(three, projections=[Sums()]) as views:
        views.catch_up()
        assert views.path is not None
        con = sqlite3.connect(views.path)
        con.execute("UPDATE sums SET facts = '{nonsense'")
        con.commit()
        con.close()
        three.append("order.placed")
        assert views.rows("SELECT facts FROM sums") == [{"facts": '{"n":5}'}]


def test_trouble_of_the_ledger_is_not_the_projections(three: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    projection = seen()

    def broken(*_: Any, **__: Any) -> Any:
        raise TallyError("the ledger cannot be read")

    with Views(three, projections=[projection]) as views:
        with monkeypatch.context() as patch:
            patch.setattr(three, "rows", broken)
            with pytest.raises(TallyError, match="cannot be read"):
                views.catch_up()
        views.catch_up()
    assert projection.applied == [1, 2, 3, 4]


def test_an_interruption_leaves_whole_chunks(three: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHUNK_EVENTS", 2)

    def apply(self: Any, event: Event, tables: Tables) -> None:
        tables["seen"].put({"seq": event.seq, "body": ""})
        if event.seq == 4 and not interrupted:
            interrupted.append(1)
            raise KeyboardInterrupt

    interrupted: list[int] = []
    with Views(three, projections=[seen(apply=apply)]) as views:
        with pytest.raises(KeyboardInterrupt):
            views.catch_up()
        [status] = views.status()
        assert (status.state, status.seq, status.rows) == ("behind", 2, {"seen": 2})
        assert len(views.rows("SELECT * FROM seen")) == 4


# -- several at once ---------------------------------------------------------------------------------


def test_threads_share_views(ledger: Ledger, make: Any, dump: Callable[..., Any], at_once: Any) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for index in range(15):
                ledger.record(make.session(f"{number}-{index}", ["text"]))
                assert views.rows("SELECT * FROM sessions WHERE id = ?", (f"{number}-{index}",))
                views.search("text", 3)
                views.status()
        except BaseException as error:
            errors.append(error)

    with Views(ledger) as views:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert dump(views) == at_once(ledger)


def test_two_handles_take_turns(
    ledger: Ledger, make: Any, dump: Callable[..., Any], at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one handle remembers of rows is forgotten when the other has written."""
    monkeypatch.setattr(engine, "CHUNK_EVENTS", 2)
    with Views(ledger) as first, Views(ledger) as second:
        ledger.record([make.started()])
        for index in range(6):
            ledger.record([make.message("text", index=index), make.action("note")])
            (first, second)[index % 2].catch_up()
        ledger.erase(3, "asked for")
        assert first.rows("SELECT messages, actions FROM sessions") == [{"messages": 6, "actions": 6}]
        assert dump(second) == dump(first) == at_once(ledger)


# -- definitions ---------------------------------------------------------------------------------------

TABLE = Table({"x": int, "y": str}, pk="x")


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"name": "Upper"}, "is no name"),
        ({"name": "sp ace"}, "is no name"),
        ({"name": 'quo"te'}, "is no name"),
        ({"name": "x" * 64}, "is no name"),
        ({"name": None}, "is no name"),
        ({"version": "1"}, "no whole number"),
        ({"version": True}, "no whole number"),
        ({"kinds": "order.*"}, "a list of kinds"),
        ({"kinds": ()}, "a list of kinds"),
        ({"kinds": {"order.*": 5}}, "must be Any, None or a msgspec.Struct"),
        ({"kinds": {5: None}}, "is no string"),
        ({"tables": {}}, "has no tables"),
        ({"tables": {"a": "b"}}, "is no Table"),
        ({"tables": {"sqlite_master": TABLE}}, "names like this are taken"),
        ({"tables": {"tally_views": TABLE}}, "names like this are taken"),
        ({"tables": {"notes_fts": TABLE}}, "names like this are taken"),
        ({"tables": {"notes_fts_data": TABLE}}, "names like this are taken"),
        ({"tables": {"drop table": TABLE}}, "is no name"),
        ({"tables": {"a": Table({"x y": int}, pk="x y")}}, "is no name"),
        ({"tables": {"a": Table({"rowid": int}, pk="rowid")}}, "SQLite means something else"),
        ({"tables": {"a": Table({"x": object}, pk="x")}}, "its type must be one of int"),
        ({"tables": {"a": Table({"x": int}, pk="z")}}, "pk names the column 'z'"),
        ({"tables": {"a": Table({"x": int}, pk=())}}, "primary key must be"),
        ({"tables": {"a": Table({"x": list}, pk="x")}}, "primary key must be"),
        ({"tables": {"a": Table({"x": int}, pk="x", indexes=(("x", "z"),))}}, "indexes names the column 'z'"),
        ({"tables": {"a": Table({"x": int}, pk="x", search=("z",))}}, "search names the column 'z'"),
        ({"tables": {"a": Table({"x": int}, pk="x", search=("x",))}}, "only columns of type str"),
        ({"tables": {"a": Table({"x": int}, pk="x", at="z")}}, "names the column 'z'"),
        ({"tables": {"a": Table({"x": int}, pk=("x", "x"))}}, "pk names a column twice"),
        (
            {"tables": {"a": Table({"x": int, "y": str}, pk="x", search=("y", "y"))}},
            "search names a column twice",
        ),
        ({"tables": {"a": Table({"x": int}, pk="x", indexes=(("x", "x"),))}}, "indexes names a column twice"),
    ],
)
def test_a_definition_that_cannot_be_built(ledger: Ledger, attributes: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadProjection, match=problem) as raised:
        Views(ledger, projections=[seen(**attributes)])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("projections", "problem"),
    [
        ([seen(), seen()], "is given twice"),
        ([seen("a"), seen("b", tables={"a": TABLE})], "table 'a': belongs to 'a' and to 'b'"),
        ([Failing], "give objects, not classes"),
        ([*BUILT_IN, seen("messages")], "table 'messages': belongs to 'sessions'"),
    ],
)
def test_projections_that_do_not_go_together(
    ledger: Ledger, projections: Sequence[Any], problem: str
) -> None:
    with pytest.raises(BadProjection, match=problem):
        Views(ledger, projections=projections)


def test_a_table_without_further_columns(ledger: Ledger) -> None:
    """Only a key: there is nothing to change in a row that is there already."""

    class Kinds(Projection):
        name = "kinds"
        tables: ClassVar[Mapping[str, Table]] = {"kinds": Table({"kind": str}, pk="kind")}

        def apply(self, event: Event, tables: Tables) -> None:
            tables["kinds"].put({"kind": event.kind})

    ledger.append_many([NewEvent(kind="order.placed"), NewEvent(kind="order.placed")])
    with Views(ledger, projections=[Kinds()]) as views:
        assert views.rows("SELECT * FROM kinds ORDER BY 1") == [
            {"kind": "ledger.created"},
            {"kind": "order.placed"},
        ]


def test_indexes_whose_names_could_be_the_same(ledger: Ledger) -> None:
    tables = {
        "a": Table({"x": int, "b": int, "c": int, "b_c": int}, pk="x", indexes=("b_c", ("b", "c"), "b_c")),
        "a_b": Table({"x": int, "c": int}, pk="x", indexes=("c",)),
    }
    with Views(ledger, projections=[seen(tables=tables, apply=lambda *_: None)]) as views:
        found = views.rows(
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY 1"
        )
    assert [row["name"] for row in found] == ["a by b, c", "a by b_c", "a_b by c"]


def test_names_that_are_words_of_sql(ledger: Ledger) -> None:
    table = Table(
        {"order": int, "group": str, "select": str}, pk=("order", "group"), search=("select", "group")
    )

    def apply(self: Any, event: Event, tables: Tables) -> None:
        tables["table"].put({"order": event.seq, "group": "g", "select": event.kind})
        tables["table"].update((event.seq, "g"), select="changed word")

    with Views(ledger, projections=[seen("table", tables={"table": table}, apply=apply)]) as views:
        [hit] = views.search("changed")
        assert (hit.table, hit.key) == ("table", [1, "g"])


def test_a_projection_without_apply_is_refused() -> None:
    bare: Any = type("Bare", (Projection,), {"name": "bare", "tables": {"bare": Table({"id": int}, pk="id")}})
    with pytest.raises(BadProjection, match="defines no `apply`"):
        check_projections([bare()])
