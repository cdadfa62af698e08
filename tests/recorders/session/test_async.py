"""Contracts S1 to S3 in asyncio: the same sessions, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tallystick import AsyncLedger, AsyncSession, Durability, Session, SessionEnded
from tallystick.projections.errors import AmbiguousPrefix, NoSuchId
from tallystick.recorders.session.core import Clocks

Use = Callable[[AsyncLedger], Coroutine[Any, Any, None]]


@pytest.fixture
def with_ledger(tmp_path: Path) -> Callable[[Use], None]:
    def run(use: Use) -> None:
        async def main() -> None:
            async with AsyncLedger.open(tmp_path / "a.tally", durability=Durability.PROCESS) as ledger:
                await use(ledger)
                assert (await ledger.verify()).finding is None

        asyncio.run(main())

    return run


def test_a_session_records_the_same_events_as_in_threads(with_ledger: Callable[[Use], None]) -> None:
    async def use(ledger: AsyncLedger) -> None:
        def clocks() -> Clocks:
            ticks = iter(range(10**15, 2 * 10**15, 10**6))
            names = Clocks().entropy
            return Clocks(lambda: next(ticks), lambda: 7, lambda size: names(size) if size == 8 else b"name")

        arguments: dict[str, Any] = {"kernel": "K", "action": "go", "retention_hours": 1}
        action: dict[str, Any] = {
            "evidence": {"x": object()},
            "before_state": {"a": 1},
            "after_state": {"a": 2},
        }
        async with await AsyncSession.start(ledger, "x", clocks=clocks(), **arguments) as one:
            ours = await one.record_action("a", "failed", **action)
            said = await one.message("user", "hello", tool_calls=[{"id": "1", "name": "f", "arguments": {}}])
            assert await one.actions() == [ours]
        with Session.start(ledger.ledger, "x", clocks=clocks(), **arguments) as two:
            two.record_action("a", "failed", **action)
            two.message("user", "hello", tool_calls=[{"id": "1", "name": "f", "arguments": {}}])

        def bodies(session: Session | AsyncSession) -> list[Any]:
            text = [(event.kind, repr(event.body)) for event in ledger.ledger.read(stream=session.stream)]
            return [(kind, body.replace(session.session_id, "ID")) for kind, body in text]

        assert bodies(one) == bodies(two)
        assert (ours.seq, said.index, one.outcome) == (1, 0, "failed")
        with pytest.raises(SessionEnded):
            await one.record_action("a", "verified")

    with_ledger(use)


def test_tasks_sharing_a_session_record_in_order(with_ledger: Callable[[Use], None]) -> None:
    async def use(ledger: AsyncLedger) -> None:
        async with await AsyncSession.start(ledger, "x") as session:
            done = await asyncio.gather(
                *(session.record_action("a", "verified", evidence=n) for n in range(50))
            )
        assert [action.seq for action in done] == list(range(1, 51))
        assert await session.actions() == done

    with_ledger(use)


def test_many_sessions_at_once(with_ledger: Callable[[Use], None]) -> None:
    async def use(ledger: AsyncLedger) -> None:
        async def work(number: int) -> AsyncSession:
            async with await AsyncSession.start(ledger, f"{number}") as session:
                for n in range(10):
                    assert (await session.record_action("a", "verified", evidence=n)).seq == n + 1
            return session

        for session in await asyncio.gather(*map(work, range(20))):
            assert [action.evidence for action in await session.actions()] == list(range(10))

    with_ledger(use)


def test_resume_by_prefix_and_taking_turns(with_ledger: Callable[[Use], None]) -> None:
    async def use(ledger: AsyncLedger) -> None:
        one = await AsyncSession.start(ledger, "x", clocks=Clocks(entropy=lambda size: b"\1" * size))
        other = await AsyncSession.start(ledger, "y")
        two = await AsyncSession.resume(ledger, one.session_id[:6])
        assert two.session_id == one.session_id != other.session_id
        seqs = [(await handle.record_action("a", "verified")).seq for handle in (one, two, one, two)]
        assert seqs == [1, 2, 3, 4]
        with pytest.raises(NoSuchId):
            await AsyncSession.resume(ledger, "nothing")
        with pytest.raises(AmbiguousPrefix):
            await AsyncSession.resume(ledger, "")

    with_ledger(use)


def test_a_recording_that_was_cancelled_leaves_no_gap(with_ledger: Callable[[Use], None]) -> None:
    async def use(ledger: AsyncLedger) -> None:
        session = await AsyncSession.start(ledger, "x")
        for number in range(20):
            task = asyncio.create_task(session.record_action("cancelled", "verified"))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await session.record_action("kept", "verified")
        actions = await session.actions()
        assert [action.seq for action in actions] == list(range(1, len(actions) + 1))
        assert sum(action.action_type == "kept" for action in actions) == 20
        assert (await session.close()).action_count == len(actions)

    with_ledger(use)


def test_an_exception_closes_as_failed(with_ledger: Callable[[Use], None]) -> None:
    async def use(ledger: AsyncLedger) -> None:
        with pytest.raises(ValueError, match="no"):
            async with await AsyncSession.start(ledger, "x") as session:
                raise ValueError("no")
        [closed] = [event async for event in ledger.read(stream=session.stream, kinds=["session.closed"])]
        assert (closed.body["derived"]["outcome"], closed.body["observed"]["error"]) == ("failed", "no")

    with_ledger(use)
