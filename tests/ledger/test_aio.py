"""The ledger for asyncio: tasks are grouped, cancelled, closed on, and each has its context."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick import (
    AsyncLedger,
    Closed,
    Durability,
    InvalidEvent,
    KeyConflict,
    Ledger,
    LedgerNotFound,
    Locked,
    NoSuchEvent,
    PositionConflict,
    Receipt,
    Unavailable,
    Verdict,
)


def on_a_file(tmp_path: Path, **options: Any) -> AsyncLedger:
    return AsyncLedger.open(tmp_path / "a.tally", durability=Durability.PROCESS, **options)


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await asyncio.wait_for(work(), 60)

    return asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("waited in vain")


class Held:
    """An AsyncLedger whose first commit is held while tasks queue behind it."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.ledger = AsyncLedger(Ledger.over(store))
        store.commits.clear()
        store.leaders.clear()

    async def lead(self) -> asyncio.Task[Receipt]:
        self.store.hold()
        task = asyncio.create_task(self.ledger.append("a.b", "leader"))
        await until(self.store.entered.is_set)
        return task

    async def queue(self, *calls: Awaitable[Any]) -> list[asyncio.Task[Any]]:
        tasks = []
        for call in calls:
            waiting = len(self.ledger.ledger.committer._queue)
            tasks.append(asyncio.ensure_future(call))
            await until(lambda waiting=waiting: len(self.ledger.ledger.committer._queue) > waiting)
        return tasks  # type: ignore[return-value]


def test_the_same_calls_awaited(tmp_path: Path) -> None:
    async def work() -> None:
        async with on_a_file(tmp_path) as ledger:
            receipt = await ledger.append("a.b", {"x": 1}, stream="s", key="k", meta={"actor": "me"}, at=5)
            assert await ledger.append("a.b", {"x": 1}, stream="s", key="k") == receipt
            receipts = await ledger.append_many([{"kind": "a.b"}, {"kind": "a.b"}])
            assert [receipt.seq for receipt in receipts] == [3, 4]
            event = await ledger.get(2)
            assert (event.body, event.stream, event.at, event.hash) == ({"x": 1}, "s", 5, receipt.hash)
            erased = await ledger.erase(3, "why")
            assert erased.seq == 5
            assert (await ledger.get(3)).erased
            head = await ledger.head()
            assert (head.seq, head.hash) == (5, erased.hash)
            assert (await ledger.stats())["events"] == 5
            assert (await ledger.verify(head)).verdict is Verdict.VERIFIED
            assert (await ledger.verify(span=(2, 3))).events == 2
            assert await ledger.backup(tmp_path / "copy.tally") == head
            read = [event.seq async for event in ledger.read(1, kinds=["a.*"], reverse=True, limit=2)]
            assert read == [4, 3]
        with Ledger.open(tmp_path / "copy.tally") as copy:
            assert copy.verify(head).verdict is Verdict.VERIFIED

    run(work)


def test_a_long_read_comes_in_pages(tmp_path: Path) -> None:
    async def work() -> None:
        async with on_a_file(tmp_path) as ledger:
            await ledger.append_many({"kind": "a.b", "body": n} for n in range(1200))
            assert [event.body async for event in ledger.read(1)] == list(range(1200))

    run(work)


def test_tasks_are_committed_together(gated: Any) -> None:
    async def work() -> None:
        held = Held(gated)
        leader = await held.lead()
        tasks = await held.queue(*(held.ledger.append("a.b", n) for n in range(5)))
        gated.gate.set()
        assert (await leader).seq == 2
        assert [receipt.seq for receipt in await asyncio.gather(*tasks)] == [3, 4, 5, 6, 7]
        assert gated.commits == [[b'"leader"'], [b"0", b"1", b"2", b"3", b"4"]]
        assert all(name.startswith("tallystick-commit") for name in gated.leaders)
        await held.ledger.close()

    run(work)


def test_the_loop_runs_on_during_a_commit(gated: Any) -> None:
    async def work() -> None:
        held = Held(gated)
        leader = await held.lead()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not leader.done()
        gated.gate.set()
        await leader
        await held.ledger.close()

    run(work)


def test_tasks_and_threads_share_a_commit(gated: Any) -> None:
    async def work() -> None:
        held = Held(gated)
        leader = await held.lead()
        threads = await held.queue(asyncio.to_thread(held.ledger.ledger.append, "a.b", "thread"))
        tasks = await held.queue(held.ledger.append("a.b", "task"))
        gated.gate.set()
        receipts = [receipt.seq for receipt in await asyncio.gather(leader, *threads, *tasks)]
        assert receipts == [2, 3, 4]
        assert gated.commits[1] == [b'"thread"', b'"task"']
        await held.ledger.close()

    run(work)


def test_many_tasks_each_get_their_own_receipts(tmp_path: Path) -> None:
    async def work() -> None:
        async with on_a_file(tmp_path) as ledger:

            async def one(number: int) -> tuple[Receipt, int]:
                with ledger.context(actor=str(number)):
                    await asyncio.sleep(0)
                    return await ledger.append("a.b", number), number

            found = await asyncio.gather(*map(one, range(300)))
            for receipt, number in found:
                event = await ledger.get(receipt.seq)
                assert (event.body, event.hash, event.meta) == (number, receipt.hash, {"actor": str(number)})
            assert (await ledger.verify(await ledger.head())).verdict is Verdict.VERIFIED
            assert (await ledger.head()).seq == 301

    run(work)


# ---- errors ----


def test_each_task_gets_its_own_error(gated: Any) -> None:
    async def work() -> None:
        held = Held(gated)
        append = held.ledger.append
        await append("a.b", "first", key="k")
        leader = await held.lead()
        tasks = await held.queue(
            append("a.b", 1), append("a.b", 2, key="k"), append("a.b", 3, stream="s", expect=7)
        )
        gated.gate.set()
        await leader
        one, two, three = await asyncio.gather(*tasks, return_exceptions=True)
        assert one.seq == 4
        assert isinstance(two, KeyConflict)
        assert isinstance(three, PositionConflict)
        await held.ledger.close()

    run(work)


def test_a_store_that_refuses_refuses_every_task(gated: Any) -> None:
    async def work() -> None:
        held = Held(gated)
        gated.fail = [None, Locked("a.tally", 3.0)]
        leader = await held.lead()
        tasks = await held.queue(
            held.ledger.append("a.b"), held.ledger.append_many([{"kind": "a.b"}, {"kind": "a.b"}])
        )
        gated.gate.set()
        await leader
        one, many = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(one, Locked)
        assert isinstance(many, Locked)
        assert (one.appended, many.appended) == (None, 0)
        await held.ledger.close()

    run(work)


def test_bad_events_are_refused_with_their_place(tmp_path: Path) -> None:
    async def work() -> None:
        async with on_a_file(tmp_path) as ledger:
            with pytest.raises(InvalidEvent, match=r"^body\.x: nan is no JSON number"):
                await ledger.append("a.b", {"x": float("nan")})
            events: list[dict[str, Any]] = [{"kind": "a.b", "body": n} for n in range(5)]
            events[3]["kind"] = "ab"
            with pytest.raises(InvalidEvent, match=r"^events\[3\]\.kind: ") as caught:
                await ledger.append_many(events, chunk=2)
            assert (caught.value.appended, caught.value.index) == (2, 3)
            with pytest.raises(InvalidEvent) as caught:
                await ledger.append_many(events, chunk=2, atomic=True)
            assert caught.value.appended == 0
            for chunk in (0, -1):
                with pytest.raises(InvalidEvent, match="is no chunk size"):
                    await ledger.append_many([{"kind": "a.b"}], chunk=chunk)
            with pytest.raises(ZeroDivisionError) as failed:
                await ledger.append_many(({"kind": "a.b", "body": 1 // n} for n in (3, 2, 1, 0)), chunk=3)
            assert failed.value.__notes__ == [
                "append_many had stored 3 events before; those stay in the ledger"
            ]
            with pytest.raises(NoSuchEvent):
                await ledger.get(99)
            with pytest.raises(NoSuchEvent):
                await ledger.erase(99, "why")
            assert [event.body async for event in ledger.read(1)] == [0, 1, 0, 0, 1]

    run(work)


def test_registered_bodies(tmp_path: Path) -> None:
    class Order(msgspec.Struct):
        order: int

    async def work() -> None:
        async with on_a_file(tmp_path) as ledger:
            ledger.register("order.placed", Order)
            with pytest.raises(InvalidEvent, match=r"^body\.order"):
                await ledger.append("order.placed", {"order": "x"})
            assert (await ledger.append("order.placed", Order(1))).seq == 2

    run(work)


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LedgerNotFound):
        on_a_file(tmp_path, create=False)


def test_read_only(tmp_path: Path) -> None:
    async def work() -> None:
        async with on_a_file(tmp_path) as ledger:
            await ledger.append("a.b")
        async with on_a_file(tmp_path, read_only=True) as reader:
            with pytest.raises(Unavailable, match="read-only"):
                await reader.append("a.b")
            with pytest.raises(Unavailable, match="read-only"):
                await reader.append_many([{"kind": "a.b"}])
            assert (await reader.head()).seq == 2

    run(work)


# ---- cancelling ----


def test_a_cancelled_append_may_have_happened(gated: Any) -> None:
    async def work() -> None:
        held = Held(gated)
        leader = await held.lead()
        tasks = await held.queue(held.ledger.append("a.b", 1, key="k"), held.ledger.append("a.b", 2))
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        gated.gate.set()
        await leader
        assert (await tasks[1]).seq == 4
        assert (await held.ledger.append("a.b", 1, key="k")).seq == 3  # its key tells
        assert (await held.ledger.head()).seq == 4
        await held.ledger.close()

    run(work)


def test_a_cancelled_leader_is_no_loss(gated: Any) -> None:
    async def work() -> None:
        held = Held(gated)
        leader = await held.lead()
        tasks = await held.queue(held.ledger.append("a.b", 1))
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        gated.gate.set()
        assert (await tasks[0]).seq == 3
        await held.ledger.close()

    run(work)


# ---- closing ----


def test_closing_finishes_what_is_under_way(gated: Any) -> None:
    async def work() -> None:
        held = Held(gated)
        leader = await held.lead()
        tasks = await held.queue(held.ledger.append("a.b", 1), held.ledger.append("a.b", 2))
        closing = asyncio.create_task(held.ledger.close())
        await until(lambda: held.ledger._leader._shutdown)
        gated.gate.set()
        assert [r.seq for r in await asyncio.gather(leader, *tasks)] == [2, 3, 4]
        await closing

    run(work)


def test_a_closed_ledger(tmp_path: Path) -> None:
    async def work() -> None:
        ledger = on_a_file(tmp_path)
        await ledger.append("a.b")
        await ledger.close()
        await ledger.close()
        for _ in range(2):
            with pytest.raises(Closed):
                await ledger.append("a.b")
            with pytest.raises(Closed):
                await ledger.append_many([{"kind": "a.b"}])
            with pytest.raises(Closed):
                await ledger.head()
        assert not [t for t in threading.enumerate() if t.name.startswith("tallystick-commit")]

    run(work)


def test_the_ledger_inside_closed_first(tmp_path: Path) -> None:
    async def work() -> None:
        ledger = on_a_file(tmp_path)
        ledger.ledger.close()
        with pytest.raises(Closed):
            await ledger.append("a.b")
        with pytest.raises(Closed):
            await ledger.append_many([{"kind": "a.b"}])
        await ledger.close()

    run(work)


# ---- follow and context ----


def test_follow_sees_every_event_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with on_a_file(tmp_path) as ledger:

            async def follower(after: int | None, kinds: list[str], count: int) -> list[Any]:
                found: list[Any] = []
                events = ledger.follow(after, kinds=kinds, poll_s=0.001)
                async for event in events:
                    found.append(event.body)
                    if len(found) == count:
                        break
                await events.aclose()
                return found

            await ledger.append("a.b", "before")
            task = asyncio.create_task(follower(1, ["a.b", "c.*"], 61))
            for n in range(30):
                await ledger.append("a.b", n)
                await ledger.append("c.d", n)
            assert await task == ["before", *(n for n in range(30) for _ in range(2))]

            # From now on, by default: whenever that was, what comes from then on is without gaps.
            task = asyncio.create_task(follower(None, ["c.d"], 5))
            n = 30
            while not task.done():
                await ledger.append("c.d", n)
                n += 1
            found = await task
            assert found == list(range(found[0], found[0] + 5))
            assert found[0] >= 30

    run(work)


def test_follow_ends_when_its_task_is_cancelled(tmp_path: Path) -> None:
    async def work() -> None:
        async with on_a_file(tmp_path) as ledger:

            async def follower() -> None:
                async for _ in ledger.follow(poll_s=0.001):
                    pass

            task = asyncio.create_task(follower())
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(work)


def test_each_task_has_its_own_context(tmp_path: Path) -> None:
    async def work() -> None:
        async with on_a_file(tmp_path) as ledger:
            inside = asyncio.Event()

            async def first() -> None:
                with ledger.context(actor="first"):
                    inside.set()
                    await asyncio.sleep(0.01)
                    await ledger.append("a.b", "first")

            async def second() -> None:
                await inside.wait()
                await ledger.append("a.b", None)
                with ledger.context(actor="second"):
                    await ledger.append_many([{"kind": "a.b", "body": "second"}])

            await asyncio.gather(first(), second())
            found = {event.body: event.meta async for event in ledger.read(1)}
            assert found == {"first": {"actor": "first"}, "second": {"actor": "second"}, None: None}

    run(work)
