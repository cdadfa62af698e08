"""Appending: one event, with a key, at an expected position, many; every argument and error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tallystick import (
    BodyTooLarge,
    Head,
    InvalidEvent,
    KeyConflict,
    Ledger,
    MemoryStore,
    NewEvent,
    NotCanonical,
    PositionConflict,
    ReservedKind,
)

Open = Callable[..., Ledger]


def bodies(ledger: Ledger, **asked: Any) -> list[Any]:
    return [event.body for event in ledger.read(1, **asked)]


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


@pytest.mark.parametrize(("atomic", "stored"), [(False, 4), (True, 0)])
def test_an_iterable_that_raises_says_how_many_are_stored(ledger: Ledger, atomic: bool, stored: int) -> None:
    """Its exception is the app's own, so it bears a note instead of `appended`."""

    def events() -> Iterator[dict[str, Any]]:
        for n in range(5):
            yield {"kind": "a.b", "body": n}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        ledger.append_many(events(), chunk=2, atomic=atomic)
    assert caught.value.__notes__ == [
        f"append_many had stored {stored} events before; those stay in the ledger"
    ]
    assert ledger.head().seq == 1 + stored
