"""What apps call: open, append, read, context, register, stats; every argument and error."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick import (
    BodyTooLarge,
    Closed,
    Durability,
    Event,
    Head,
    InvalidEvent,
    KeyConflict,
    Ledger,
    LedgerNotFound,
    MemoryStore,
    NewEvent,
    NoSuchEvent,
    NotALedger,
    NotCanonical,
    PositionConflict,
    ReservedKind,
    SQLiteStore,
    TailLost,
    TallyError,
    Unavailable,
    Verdict,
    __version__,
)
from tallystick.ledger.chain import genesis_hash
from tallystick.ledger.headfile import head_path

Open = Callable[..., Ledger]


def bodies(ledger: Ledger, **asked: Any) -> list[Any]:
    return [event.body for event in ledger.read(1, **asked)]


# ---- opening ----


def test_a_new_ledger_holds_its_creation(ledger: Ledger) -> None:
    (first,) = ledger.read()
    assert (first.seq, first.kind, first.stream, first.key, first.meta) == (
        1,
        "ledger.created",
        "ledger",
        None,
        None,
    )
    assert (first.body["v"], first.body["format"]) == (1, 1)
    assert first.body["program"] == f"tallystick {__version__}"
    assert first.body["engine"]["name"] == "sqlite"
    assert first.body["engine"]["pragmas"]["journal_mode"] == "wal"
    ledger_id = bytes.fromhex(first.body["ledger_id"])
    assert first.prev_hash == genesis_hash(ledger_id)
    assert ledger.head() == Head(1, first.hash, ledger_id)


def test_two_ledgers_are_different_ones(open_ledger: Open) -> None:
    assert open_ledger("a.tally").head().ledger_id != open_ledger("b.tally").head().ledger_id


def test_opening_again_goes_on_where_it_was(open_ledger: Open) -> None:
    with open_ledger() as first:
        receipt = first.append("a.b", 1)
        head = first.head()
    again = open_ledger()
    assert again.head() == head
    assert again.get(receipt.seq).hash == receipt.hash
    assert again.append("a.b", 2).seq == 3
    assert again.verify(again.head()).verdict is Verdict.VERIFIED


def test_create_false_makes_nothing(open_ledger: Open, tmp_path: Path) -> None:
    with pytest.raises(LedgerNotFound, match="no such ledger"):
        open_ledger(create=False)
    assert list(tmp_path.iterdir()) == []
    open_ledger().close()
    assert open_ledger(create=False).head().seq == 1


def test_a_ledger_opened_read_only_can_be_read_and_no_more(open_ledger: Open) -> None:
    ledger = open_ledger()
    ledger.append("a.b", 1)
    reader = open_ledger(read_only=True)
    assert bodies(reader) == [1]
    ledger.append("a.b", 2)
    assert bodies(reader) == [1, 2]
    assert reader.verify(ledger.head()).verdict is Verdict.VERIFIED
    writes: list[Callable[[], object]] = [
        lambda: reader.append("a.b"),
        lambda: reader.append_many([{"kind": "a.b"}]),
        lambda: reader.append_many([]),
        lambda: reader.erase(2, "why"),
    ]
    for write in writes:
        with pytest.raises(Unavailable, match="was opened read-only; open it without read_only to append"):
            write()
    assert ledger.head().seq == 3


def test_read_only_creates_nothing(open_ledger: Open, tmp_path: Path) -> None:
    with pytest.raises(LedgerNotFound):
        open_ledger(read_only=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read_only", [True, False])
def test_another_file_is_refused_and_left_as_it_is(
    open_ledger: Open, tmp_path: Path, read_only: bool
) -> None:
    (tmp_path / "a.tally").write_bytes(b"something else" * 1000)
    with pytest.raises(NotALedger):
        open_ledger(read_only=read_only)
    assert (tmp_path / "a.tally").read_bytes() == b"something else" * 1000


def test_a_directory_is_no_ledger(open_ledger: Open, tmp_path: Path) -> None:
    (tmp_path / "a.tally").mkdir()
    with pytest.raises(NotALedger, match="is a directory"):
        open_ledger()


@pytest.mark.parametrize("durability", Durability)
def test_durability_is_part_of_event_1(open_ledger: Open, durability: Durability) -> None:
    ledger = open_ledger(durability=durability)
    synchronous = ledger.get(1).body["engine"]["pragmas"]["synchronous"]
    assert synchronous == {Durability.POWER: 2, Durability.PROCESS: 1}[durability]


def test_a_ledger_over_a_store() -> None:
    store = MemoryStore()
    first = Ledger.over(store)
    first.append("a.b", 1)
    again = Ledger.over(store)  # its event 1 is there already
    assert again.head() == first.head()
    assert bodies(again) == [1]
    assert again.verify(first.head()).verdict is Verdict.VERIFIED
    assert again.get(1).body["engine"] == store.engine()


def test_a_store_whose_event_1_is_another(chained: Any) -> None:
    store = MemoryStore()
    store.append(chained.build({"kind": "order.placed"}))
    with pytest.raises(NotALedger, match=r"its event 1 is no ledger\.created"):
        Ledger.over(store)


def test_the_same_clock_and_entropy_make_the_same_bytes(
    open_ledger: Open, tmp_path: Path, reproducible: Callable[[], dict[str, Any]]
) -> None:
    files = []
    for name in ("a.tally", "b.tally"):
        with open_ledger(name, **reproducible()) as ledger:
            with ledger.context(actor="me"):
                ledger.append("a.b", {"x": [1, 2.5, None]}, key="k")
            ledger.append_many({"kind": "a.b", "body": n} for n in range(50))
            ledger.erase(3, "why")
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert head_path(tmp_path / "a.tally").read_bytes() == head_path(tmp_path / "b.tally").read_bytes()


def test_without_them_no_two_ledgers_are_alike(open_ledger: Open) -> None:
    hashes = {open_ledger(name).append("a.b", at=0).hash for name in ("a.tally", "b.tally")}
    assert len(hashes) == 2


def test_the_clock_gives_the_time_and_at_overrides_it(open_ledger: Open) -> None:
    ledger = open_ledger(clock=lambda: 42)
    assert ledger.append("a.b").at == ledger.get(2).at == 42
    assert ledger.append("a.b", at=-7).at == ledger.get(3).at == -7
    assert [receipt.at for receipt in ledger.append_many([{"kind": "a.b", "at": 1}, {"kind": "a.b"}])] == [
        1,
        42,
    ]


def test_the_size_limit_is_the_ledgers(open_ledger: Open) -> None:
    ledger = open_ledger(max_body_bytes=10)
    assert ledger.append("a.b", "x" * 8).seq == 2
    with pytest.raises(BodyTooLarge, match=r"^body: 11 bytes of JSON, more than the 10 allowed"):
        ledger.append("a.b", "x" * 9)
    with pytest.raises(BodyTooLarge, match=r"^meta: "):
        ledger.append("a.b", meta={"x": "x" * 9})
    assert ledger.erase(2, "the limit is not for the ledger's own events").seq == 3
    assert ledger.head().seq == 3
    large = open_ledger("large.tally", max_body_bytes=3 << 20)
    large.append("a.b", "x" * (2 << 20))
    assert large.get(2).body == "x" * (2 << 20)


# ---- the head file ----


def test_close_keeps_the_head(open_ledger: Open, tmp_path: Path) -> None:
    with open_ledger() as ledger:
        ledger.append("a.b")
        head = ledger.head()
    assert head_path(tmp_path / "a.tally").read_text() == f"{head}\n"


def test_a_reader_leaves_the_head_file_alone(open_ledger: Open, tmp_path: Path) -> None:
    open_ledger().close()
    head_path(tmp_path / "a.tally").unlink()
    with open_ledger(read_only=True) as reader:
        reader.verify()
    assert not head_path(tmp_path / "a.tally").exists()


def test_a_ledger_that_ends_before_its_kept_head_opens_for_reading_only(
    open_ledger: Open, tmp_path: Path
) -> None:
    with open_ledger() as ledger:
        ledger.append("a.b")
        head = ledger.head()
    later = Head(head.seq + 5, head.hash, head.ledger_id)
    head_path(tmp_path / "a.tally").write_text(f"{later}\n")
    with pytest.raises(TailLost, match=r"the log ends at event 2, but .+ vouches for event 7") as caught:
        open_ledger()
    assert (caught.value.last, caught.value.expected) == (2, 7)
    assert open_ledger(read_only=True).verify().verdict is Verdict.BROKEN


@pytest.mark.parametrize("part", ["hash", "ledger_id"])
def test_a_kept_head_of_another_history(open_ledger: Open, tmp_path: Path, part: str) -> None:
    with open_ledger() as ledger:
        head = ledger.head()
    other = msgspec.structs.replace(head, **{part: b"x" * len(getattr(head, part))})
    head_path(tmp_path / "a.tally").write_text(f"{other}\n")
    with pytest.raises(TailLost, match="its end was lost or its history replaced"):
        open_ledger()


def test_trouble_with_the_head_file_is_no_trouble_with_the_append(
    open_ledger: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tallystick.ledger.headfile.HeadFile.write", full)
        patch.setattr("tallystick.ledger.headfile.HeadFile.due", lambda _: True)
        assert ledger.append("a.b").seq == 2
    assert ledger.head().seq == 2


# ---- append ----


def test_an_event_reads_back_as_it_was_appended(ledger: Ledger) -> None:
    body = {"b": [1, 2.5, None, True, "é\U0001f9fe"], "a": {}}
    receipt = ledger.append("order.shipped", body, stream="order:81", key="k", meta={"actor": "me"}, at=7)
    event = ledger.get(receipt.seq)
    assert (event.seq, event.hash, event.at) == (receipt.seq, receipt.hash, receipt.at) == (2, event.hash, 7)
    assert (event.kind, event.stream, event.key) == ("order.shipped", "order:81", "k")
    assert (event.meta, event.body, event.erased) == ({"actor": "me"}, body, False)
    assert event.prev_hash == ledger.get(1).hash


def test_the_default_body_is_an_empty_object_and_none_is_null(ledger: Ledger) -> None:
    ledger.append("a.b")
    ledger.append("a.b", None)
    ledger.append_many([{"kind": "a.b"}, {"kind": "a.b", "body": None}, NewEvent(kind="a.b", body=None)])
    assert bodies(ledger) == [{}, None, {}, None, None]
    assert not any(event.erased for event in ledger.read())


def test_a_struct_as_body(ledger: Ledger) -> None:
    class Shipped(msgspec.Struct):
        order: int
        to: str = "me"

    ledger.append("order.shipped", Shipped(81))
    assert bodies(ledger) == [{"order": 81, "to": "me"}]


BAD_ARGUMENTS: list[tuple[dict[str, Any], type[InvalidEvent], str]] = [
    ({"kind": "order"}, InvalidEvent, "kind"),
    ({"kind": None}, InvalidEvent, "kind"),
    ({"kind": "ledger.created"}, ReservedKind, "kind"),
    ({"kind": "decision.recorded"}, ReservedKind, "kind"),
    ({"body": float("nan")}, NotCanonical, "body"),
    ({"body": {"items": [{"price": {1}}]}}, NotCanonical, "body.items[0].price"),
    ({"body": "x" * (1 << 20)}, BodyTooLarge, "body"),
    ({"stream": ""}, InvalidEvent, "stream"),
    ({"stream": "a\nb"}, InvalidEvent, "stream"),
    ({"stream": None}, InvalidEvent, "stream"),
    ({"key": ""}, InvalidEvent, "key"),
    ({"key": 7}, InvalidEvent, "key"),
    ({"meta": {"actor": 1}}, InvalidEvent, "meta.actor"),
    ({"meta": {"x": b""}}, NotCanonical, "meta.x"),
    ({"meta": "x"}, InvalidEvent, "meta"),
    ({"at": "now"}, InvalidEvent, "at"),
    ({"at": 2**63}, InvalidEvent, "at"),
]


@pytest.mark.parametrize(("arguments", "error", "path"), BAD_ARGUMENTS, ids=lambda value: str(value)[:40])
def test_a_bad_event_is_refused_with_its_place(
    ledger: Ledger, arguments: dict[str, Any], error: type[InvalidEvent], path: str
) -> None:
    with pytest.raises(InvalidEvent) as caught:
        ledger.append(**{"kind": "a.b", **arguments})
    assert (type(caught.value), caught.value.path, caught.value.appended) == (error, path, None)
    with pytest.raises(InvalidEvent) as caught:
        ledger.append_many([{"kind": "a.b"}, {"kind": "a.b", **arguments}])
    assert (type(caught.value), caught.value.path) == (error, f"events[1].{path}")
    assert str(caught.value).startswith(f"events[1].{path}: ")
    assert (caught.value.appended, caught.value.index) == (0, 1)
    assert ledger.head().seq == 1


@pytest.mark.parametrize("expect", [-1, 1.0, "1", True], ids=repr)
def test_what_is_no_expected_position(ledger: Ledger, expect: Any) -> None:
    with pytest.raises(InvalidEvent, match="is no seq; give the stream's last seq, or 0") as caught:
        ledger.append("a.b", expect=expect)
    assert caught.value.path == "expect"


# ---- keys ----


def test_the_same_key_gives_the_first_receipt_again(ledger: Ledger) -> None:
    first = ledger.append("a.b", {"x": 1, "y": 2}, stream="s", key="k", at=5)
    ledger.append("a.b")
    again = ledger.append("a.b", {"y": 2, "x": 1}, stream="s", key="k", meta={"actor": "other"}, at=9)
    assert again == first
    assert ledger.head().seq == 3


@pytest.mark.parametrize(
    ("change", "difference"),
    [({"body": 2}, "body"), ({"stream": "t"}, "stream"), ({"kind": "a.c"}, "kind"), ({"body": 1.0}, "body")],
)
def test_the_same_key_for_something_else(ledger: Ledger, change: dict[str, Any], difference: str) -> None:
    event = {"kind": "a.b", "body": 1, "stream": "s", "key": "k"}
    ledger.append(**event)
    with pytest.raises(KeyConflict) as caught:
        ledger.append(**{**event, **change})
    assert (caught.value.key, caught.value.seq, caught.value.difference) == ("k", 2, difference)
    assert ledger.head().seq == 2


def test_a_key_twice_in_one_batch(ledger: Ledger) -> None:
    event = {"kind": "a.b", "body": 1, "key": "k"}
    receipts = ledger.append_many([event, {"kind": "a.b"}, event])
    assert [receipt.seq for receipt in receipts] == [2, 3, 2]
    with pytest.raises(KeyConflict) as caught:
        ledger.append_many([{"kind": "a.b", "key": "n"}, {"kind": "a.b", "key": "n", "body": 1}])
    assert (caught.value.seq, caught.value.appended) == (4, 0)
    assert ledger.head().seq == 3
    assert ledger.append("a.b", key="n").seq == 4  # nothing of that batch holds the key


# ---- expected positions ----


def test_expect_is_the_seq_of_the_streams_last_event(ledger: Ledger) -> None:
    first = ledger.append("a.b", stream="s", expect=0)
    ledger.append("a.b", stream="t")
    second = ledger.append("a.b", stream="s", expect=first.seq)
    for wrong in (0, first.seq, second.seq - 1, second.seq + 1):
        with pytest.raises(PositionConflict) as caught:
            ledger.append("a.b", stream="s", expect=wrong)
        assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("s", wrong, second.seq)
    with pytest.raises(PositionConflict, match=r"stream 'new': expected .+ seq 5, found 0"):
        ledger.append("a.b", stream="new", expect=5)
    assert ledger.head().seq == 4


def test_a_retry_with_its_key_needs_no_position(ledger: Ledger) -> None:
    """The first attempt moved the stream on; asking again is still the same request."""
    first = ledger.append("a.b", 1, stream="s", key="k", expect=0)
    ledger.append("a.b", 2, stream="s")
    assert ledger.append("a.b", 1, stream="s", key="k", expect=0) == first
    with pytest.raises(KeyConflict):
        ledger.append("a.b", 3, stream="s", key="k", expect=0)
    with pytest.raises(PositionConflict):
        ledger.append("a.b", 3, stream="s", key="k2", expect=0)
    assert ledger.head().seq == 3


# ---- append_many ----


def test_many_events_of_every_form(ledger: Ledger) -> None:
    receipts = ledger.append_many(
        event for event in [NewEvent(kind="a.b", body=0), {"kind": "a.b", "body": 1, "stream": "s"}]
    )
    assert [receipt.seq for receipt in receipts] == [2, 3]
    assert [receipt.hash for receipt in receipts] == [event.hash for event in ledger.read(1)]
    assert ledger.append_many([]) == ledger.append_many([], atomic=True) == []


class Counting(MemoryStore):
    """Counts the events of each commit."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[int] = []

    def append(self, build: Any) -> Head:
        before = self.head().seq
        head = super().append(build)
        self.commits.append(head.seq - before)
        return head


@pytest.mark.parametrize(
    ("count", "options", "commits"),
    [
        (5, {"chunk": 2}, [2, 2, 1]),
        (4, {"chunk": 2}, [2, 2]),
        (3, {"chunk": 1}, [1, 1, 1]),
        (2500, {}, [1000, 1000, 500]),
        (2500, {"atomic": True}, [2500]),
        (5, {"chunk": 2, "atomic": True}, [5]),
        (5000, {"chunk": 5000}, [5000]),
    ],
)
def test_a_chunk_is_a_commit(count: int, options: dict[str, Any], commits: list[int]) -> None:
    store = Counting()
    ledger = Ledger.over(store)
    receipts = ledger.append_many(({"kind": "a.b", "body": n} for n in range(count)), **options)
    assert store.commits[1:] == commits
    assert [receipt.seq for receipt in receipts] == list(range(2, count + 2))
    assert bodies(ledger) == list(range(count))


@pytest.mark.parametrize(("atomic", "stored"), [(False, 4), (True, 0)])
def test_a_bad_event_in_a_batch(ledger: Ledger, atomic: bool, stored: int) -> None:
    events = [{"kind": "a.b", "body": n} for n in range(8)]
    events[5]["body"] = {"x": float("inf")}
    with pytest.raises(NotCanonical) as caught:
        ledger.append_many(events, chunk=2, atomic=atomic)
    assert (caught.value.path, caught.value.index, caught.value.appended) == ("events[5].body.x", 5, stored)
    assert bodies(ledger) == list(range(stored))


@pytest.mark.parametrize(("atomic", "stored"), [(False, 4), (True, 0)])
def test_a_conflict_in_a_batch(ledger: Ledger, atomic: bool, stored: int) -> None:
    ledger.append("a.b", "first", key="k")
    events: list[dict[str, Any]] = [{"kind": "a.b", "body": n} for n in range(8)]
    events[5]["key"] = "k"
    with pytest.raises(KeyConflict) as caught:
        ledger.append_many(events, chunk=2, atomic=atomic)
    assert (caught.value.appended, caught.value.index) == (stored, 5)
    assert bodies(ledger) == ["first", *range(stored)]


def test_events_are_drawn_a_chunk_at_a_time(ledger: Ledger) -> None:
    seen: list[int] = []

    def events() -> Iterator[dict[str, Any]]:
        for n in range(6):
            seen.append(ledger.head().seq)
            yield {"kind": "a.b", "body": n}

    ledger.append_many(events(), chunk=2)
    assert seen == [1, 1, 3, 3, 5, 5]


def test_a_source_that_fails_keeps_the_chunks_before(ledger: Ledger) -> None:
    def events() -> Iterator[dict[str, Any]]:
        yield from ({"kind": "a.b", "body": n} for n in range(3))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ledger.append_many(events(), chunk=2)
    assert bodies(ledger) == [0, 1]


@pytest.mark.parametrize("chunk", [0, -1])
def test_what_is_no_chunk(ledger: Ledger, chunk: int) -> None:
    with pytest.raises(InvalidEvent, match="is no chunk size; give at least 1") as caught:
        ledger.append_many([{"kind": "a.b"}], chunk=chunk)
    assert caught.value.path == "chunk"


# ---- register ----


class Order(msgspec.Struct):
    order: int


def test_registered_bodies_are_checked_on_every_way_in(ledger: Ledger) -> None:
    ledger.register("order.shipped", Order)
    ledger.append("order.shipped", {"order": 1})
    ledger.append("order.shipped", Order(2))
    with pytest.raises(InvalidEvent, match=r"^body\.order: Expected `int`, got `str`") as caught:
        ledger.append("order.shipped", {"order": "x"})
    assert caught.value.path == "body.order"
    with pytest.raises(InvalidEvent) as caught:
        ledger.append_many([{"kind": "order.shipped", "body": {"order": 3}}, {"kind": "order.shipped"}])
    assert caught.value.path == "events[1].body"
    assert bodies(ledger) == [{"order": 1}, {"order": 2}]
    assert ledger.json_schemas() == {"order.shipped": msgspec.json.schema(Order)}


def test_reserved_kinds_are_not_registered(ledger: Ledger) -> None:
    with pytest.raises(ReservedKind):
        ledger.register("session.started", Order)


# ---- context ----


def metas(ledger: Ledger) -> list[Any]:
    return [event.meta for event in ledger.read(1)]


def test_context_is_put_into_meta(ledger: Ledger) -> None:
    with ledger.context(actor="a", correlation="c", causation="1", traceparent="t", team="x", n=1):
        ledger.append("a.b")
        ledger.append("a.b", meta={"actor": "b", "m": None})
        ledger.append_many([{"kind": "a.b", "meta": {"n": 2}}])
    ledger.append("a.b")
    whole = {"actor": "a", "correlation": "c", "causation": "1", "traceparent": "t", "team": "x", "n": 1}
    assert metas(ledger) == [whole, {**whole, "actor": "b", "m": None}, {**whole, "n": 2}, None]


def test_the_context_says_who_erased(ledger: Ledger) -> None:
    ledger.append("a.b")
    with ledger.context(actor="privacy-desk"):
        ledger.erase(2, "why")
    assert metas(ledger) == [None, {"actor": "privacy-desk"}]


def test_each_thread_has_its_own_context(ledger: Ledger) -> None:
    inside, checked = threading.Event(), threading.Event()

    def other() -> None:
        with ledger.context(actor="other"):
            inside.set()
            checked.wait(10)
            ledger.append("a.b", "other")

    with ledger.context(actor="main"):
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait(10)
        ledger.append("a.b", "main")
        checked.set()
        thread.join()
        context = contextvars.copy_context()  # taken along on purpose
        thread = threading.Thread(target=context.run, args=(ledger.append, "a.b", "carried"))
        thread.start()
        thread.join()
    found = {event.body: event.meta for event in ledger.read(1)}
    assert found == {"main": {"actor": "main"}, "other": {"actor": "other"}, "carried": {"actor": "main"}}


def test_each_task_has_its_own_context(ledger: Ledger) -> None:
    async def task(name: str) -> None:
        with ledger.context(actor=name):
            await asyncio.sleep(0)
            ledger.append("a.b", name)
            await asyncio.sleep(0)
            ledger.append("a.b", name)

    async def main() -> None:
        with ledger.context(team="x"):
            await asyncio.gather(*(task(name) for name in "abc"))
            ledger.append("a.b", None)

    asyncio.run(main())
    for event in ledger.read(1):
        assert event.meta == ({"team": "x"} if event.body is None else {"team": "x", "actor": event.body})
    assert ledger.head().seq == 8


# ---- reading ----


def test_read_takes_filters(ledger: Ledger) -> None:
    for n in range(6):
        ledger.append("order.placed" if n % 2 else "order.shipped", n, stream=f"s{n % 3}")
    assert [event.seq for event in ledger.read()] == list(range(1, 8))
    assert bodies(ledger, stream="s1") == [1, 4]
    assert bodies(ledger, kinds=["order.placed"]) == [1, 3, 5]
    assert bodies(ledger, kinds=["order.*"], before=4) == [0, 1]
    assert bodies(ledger, reverse=True, limit=2) == [5, 4]
    assert bodies(ledger, kinds=[]) == []
    assert all(type(event) is Event for event in ledger.read())


def test_an_event_that_is_not_there(ledger: Ledger) -> None:
    ledger.append("a.b")
    for seq in (0, -1, 3, 2**70):
        with pytest.raises(NoSuchEvent, match=f"no event {seq}: the ledger holds 1 to 2") as caught:
            ledger.get(seq)
        assert (caught.value.seq, caught.value.last) == (seq, 2)
    with pytest.raises(LookupError):
        ledger.get(9)


def test_head_is_the_last_event(ledger: Ledger) -> None:
    for _ in range(3):
        receipt = ledger.append("a.b")
        head = ledger.head()
        assert (head.seq, head.hash) == (receipt.seq, receipt.hash)
        assert Head.parse(str(head)) == head


def test_stats(ledger: Ledger, tmp_path: Path) -> None:
    ledger.append_many([{"kind": "a.b", "stream": "s", "body": "x" * 100, "at": 5}] * 3)
    ledger.erase(2, "why")
    stats = ledger.stats()
    assert stats["ledger_id"] == ledger.get(1).body["ledger_id"]
    assert (stats["events"], stats["streams"], stats["erased"]) == (5, 2, 1)
    assert stats["kinds"] == {"a.b": 3, "ledger.body_erased": 1, "ledger.created": 1}
    assert stats["first_at"] == 5
    assert stats["last_at"] == ledger.get(5).at
    assert stats["largest_body_bytes"] > 100
    assert stats["body_bytes"] == sum(
        len(json.dumps(event.body, separators=(",", ":"))) for event in ledger.read() if not event.erased
    )
    assert stats["file_bytes"] == (tmp_path / "a.tally").stat().st_size
    assert stats["wal_bytes"] == (tmp_path / "a.tally-wal").stat().st_size == 0


# ---- closing ----


def test_a_closed_ledger(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger()
    ledger.append("a.b")
    ledger.close()
    ledger.close()
    assert sorted(os.listdir(tmp_path)) == ["a.tally", "a.tally.head"]  # the log is folded into the file
    uses: list[Callable[[], object]] = [
        lambda: ledger.append("a.b"),
        lambda: ledger.append_many([{"kind": "a.b"}]),
        lambda: ledger.erase(2, "why"),
        lambda: ledger.get(2),
        lambda: list(ledger.read()),
        ledger.head,
        ledger.stats,
        ledger.verify,
        lambda: ledger.backup(tmp_path / "copy.tally"),
    ]
    for use in uses:
        for _ in range(2):
            with pytest.raises(Closed):
                use()
    assert sorted(os.listdir(tmp_path)) == ["a.tally", "a.tally.head"]


def test_a_closed_ledger_in_memory() -> None:
    with Ledger.over(MemoryStore()) as ledger:
        ledger.append("a.b")
    with pytest.raises(Closed):
        ledger.append("a.b")


def test_the_block_closes_on_an_error_too(open_ledger: Open) -> None:
    with pytest.raises(ZeroDivisionError), open_ledger() as ledger:
        raise ZeroDivisionError
    with pytest.raises(Closed):
        ledger.head()


def test_a_failed_open_closes_the_store(open_ledger: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[SQLiteStore] = []
    real = SQLiteStore.close
    monkeypatch.setattr(SQLiteStore, "close", lambda self: (closed.append(self), real(self))[1])
    with pytest.raises(ZeroDivisionError):
        open_ledger(entropy=lambda size: bytes(1 // 0))
    assert len(closed) == 1
    assert open_ledger().head().seq == 1


FORK = """
import os, sys, threading
from tallystick import Closed, Durability, Ledger, SQLiteStore

ledger = Ledger.open(sys.argv[1], durability=Durability.PROCESS)
ledger.append("a.b", "parent")
# Fork while a thread is inside a commit: the child's copy of the queue is led by nobody.
inside, go_on = threading.Event(), threading.Event()
real = SQLiteStore.append
def append(self, build):
    inside.set()
    go_on.wait(30)
    return real(self, build)
SQLiteStore.append = append
thread = threading.Thread(target=ledger.append, args=("a.b", "thread"))
thread.start()
inside.wait(30)
child = os.fork()
if not child:
    said = []
    for use in (lambda: ledger.append("a.b", "child"), lambda: ledger.append_many([{"kind": "a.b"}]),
                lambda: ledger.erase(2, "why"), ledger.head, lambda: list(ledger.read())):
        try:
            use()
        except Closed as error:
            said.append("before a fork" in str(error))
    ledger.close()
    os._exit(0 if said == [True] * 5 else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
go_on.set()
thread.join()
ledger.append("a.b", "after")
print(status, [event.body for event in ledger.read(1)], ledger.verify(ledger.head()).verdict)
ledger.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_handle_carried_across_a_fork_refuses(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORK, str(tmp_path / "a.tally")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "0 ['parent', 'thread', 'after'] VERIFIED\n", done.stderr


def test_every_error_of_the_library_has_one_root() -> None:
    for error in (InvalidEvent, KeyConflict, PositionConflict, NoSuchEvent, Unavailable, Closed):
        assert issubclass(error, TallyError)
