"""What else apps call: register, context, read, get, head, stats."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick import (
    Event,
    Head,
    InvalidEvent,
    Ledger,
    NoSuchEvent,
    ReservedKind,
)

Open = Callable[..., Ledger]


def bodies(ledger: Ledger, **asked: Any) -> list[Any]:
    return [event.body for event in ledger.read(1, **asked)]


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


# ---- what is no seq ----


@pytest.mark.parametrize("wrong", ["1", 1.0, True, b"1", [1]], ids=repr)
def test_what_is_no_seq(ledger: Ledger, wrong: Any) -> None:
    """Refused as any other bad argument, with its name, before the store is asked."""
    ledger.append("a.b")
    uses: list[tuple[str, Callable[[], object]]] = [
        ("seq", lambda: ledger.get(wrong)),
        ("seq", lambda: ledger.erase(wrong, "why")),
        ("seq", lambda: ledger.erase_many([2, wrong], "why")),
        ("after", lambda: ledger.read(wrong)),
        ("before", lambda: ledger.read(before=wrong)),
        ("limit", lambda: ledger.read(limit=wrong)),
        ("after", lambda: ledger.follow(wrong)),
    ]
    for path, use in uses:
        with pytest.raises(InvalidEvent, match="is no seq; give an integer") as caught:
            use()
        assert caught.value.path == path
    assert ledger.head().seq == 2
