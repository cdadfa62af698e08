"""`execute_async`: awaited tasks, recorded without blocking the event loop (K2, K8)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tallystick import (
    AsyncLedger,
    FailureCode,
    Head,
    Kernel,
    Ledger,
    MemoryStore,
    PsiDefinition,
    RecordingFailed,
    Row,
    Unavailable,
)

PSI = PsiDefinition("orders", "total")


class SlowStore(MemoryStore):
    """A store whose commits wait for a gate, and that may be full."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.full = False

    def append(self, build: Callable[[Head], list[Row]]) -> Head:  # type: ignore[override]
        self.waiting.set()
        assert self.gate.wait(30)
        if self.full:
            raise Unavailable("the store", "is full", "make room")
        return super().append(build)


async def doubled(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


def executed(ledger: Ledger) -> list[dict[str, Any]]:
    return [event.body["derived"] for event in ledger.read(kinds=["kernel.executed"])]


Use = Callable[[Kernel, SlowStore], Awaitable[None]]


def with_each_ledger(use: Use) -> list[Ledger]:
    """Run `use` with a kernel on a Ledger, and with one on an AsyncLedger; the ledgers."""
    ledgers = []
    for asynchronous in (False, True):

        async def run(asynchronous: bool = asynchronous) -> None:
            store = SlowStore()
            ledger = Ledger.over(store)
            ledgers.append(ledger)
            await use(Kernel(ledger=AsyncLedger(ledger) if asynchronous else ledger), store)

        asyncio.run(run())
    return ledgers


def test_the_task_is_awaited_and_recorded() -> None:
    async def use(kernel: Kernel, _: SlowStore) -> None:
        trace = await kernel.execute_async(psi=PSI, task=doubled, metadata={"m": 1}, x=3)
        assert (trace.output, trace.metadata) == (6, {"m": 1})

    for ledger in with_each_ledger(use):
        [derived] = executed(ledger)
        assert (derived["arguments"], derived["output"]) == ({"x": 3}, 6)


def test_plain_functions_and_what_can_be_awaited() -> None:
    async def use(kernel: Kernel, _: SlowStore) -> None:
        assert (await kernel.execute_async(psi=PSI, task=lambda x: x, x=1)).output == 1
        assert (await kernel.execute_async(psi=PSI, task=lambda y: doubled(y + 1), y=0)).output == 2
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        future.set_result("later")
        assert (await kernel.execute_async(psi=PSI, task=lambda: future)).output == "later"
        assert kernel.execute(psi=PSI, task=lambda: 4).output == 4  # in the loop's thread

    for ledger in with_each_ledger(use):
        assert [derived["output"] for derived in executed(ledger)] == [1, 2, "later", 4]


def test_without_a_ledger_and_with_bad_input() -> None:
    async def run() -> None:
        kernel = Kernel()
        assert (await kernel.execute_async(psi=PSI, task=doubled, x=1)).output == 2
        trace = await kernel.execute_async(psi=PSI, task=5)  # type: ignore[arg-type]
        assert trace.failure_code is FailureCode.INVALID_INPUT
        trace = await kernel.execute_async(psi=PSI, task=doubled, y=1)
        assert trace.exception_type == "TypeError"

    asyncio.run(run())


def test_an_exception_is_in_the_trace() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def use(kernel: Kernel, _: SlowStore) -> None:
        trace = await kernel.execute_async(psi=PSI, task=fails)
        assert (trace.failure_code, trace.error) == (FailureCode.TASK_EXCEPTION, "no")

    for ledger in with_each_ledger(use):
        assert executed(ledger)[0]["exception_type"] == "ValueError"


def test_the_event_loop_runs_while_a_record_is_stored() -> None:
    async def use(kernel: Kernel, store: SlowStore) -> None:
        store.gate.clear()
        store.waiting.clear()
        execution = asyncio.create_task(kernel.execute_async(psi=PSI, task=doubled, x=1))
        while not store.waiting.is_set():
            await asyncio.sleep(0.001)
        assert not execution.done()
        store.gate.set()
        assert (await execution).output == 2

    with_each_ledger(use)


def test_the_output_is_recorded_as_it_was_returned() -> None:
    """Other tasks may change it while its record is stored."""
    shared = [1]

    async def use(kernel: Kernel, store: SlowStore) -> None:
        shared[:] = [1]
        store.gate.clear()
        store.waiting.clear()
        execution = asyncio.create_task(kernel.execute_async(psi=PSI, task=lambda: shared))
        await asyncio.sleep(0)
        shared.append(2)
        store.gate.set()
        assert (await execution).output is shared

    for ledger in with_each_ledger(use):
        assert executed(ledger)[0]["output"] == [1]


def test_many_tasks_share_a_kernel() -> None:
    async def use(kernel: Kernel, _: SlowStore) -> None:
        traces = await asyncio.gather(
            *(kernel.execute_async(psi=PSI, task=doubled, metadata={"n": n}, x=n) for n in range(50))
        )
        assert [(trace.output, trace.metadata["n"]) for trace in traces] == [(2 * n, n) for n in range(50)]

    for ledger in with_each_ledger(use):
        assert sorted(derived["output"] for derived in executed(ledger)) == [2 * n for n in range(50)]
        assert ledger.verify().finding is None


def test_a_cancelled_task_is_recorded_as_failed() -> None:
    async def use(kernel: Kernel, _: SlowStore) -> None:
        execution = asyncio.create_task(kernel.execute_async(psi=PSI, task=lambda: asyncio.sleep(3600)))
        await asyncio.sleep(0.01)
        execution.cancel()
        with pytest.raises(asyncio.CancelledError):
            await execution

    for ledger in with_each_ledger(use):
        assert executed(ledger)[0]["exception_type"] == "CancelledError"


def test_a_cancellation_while_the_record_is_stored_waits_for_it() -> None:
    async def use(kernel: Kernel, store: SlowStore) -> None:
        store.gate.clear()
        store.waiting.clear()
        execution = asyncio.create_task(kernel.execute_async(psi=PSI, task=doubled, x=1))
        while not store.waiting.is_set():
            await asyncio.sleep(0.001)
        for _ in range(3):
            execution.cancel()
            await asyncio.sleep(0.001)
        assert not execution.done()
        store.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await execution

    for ledger in with_each_ledger(use):
        assert executed(ledger)[0]["output"] == 2


def test_recording_failed_carries_the_trace() -> None:
    async def use(kernel: Kernel, store: SlowStore) -> None:
        store.full = True
        with pytest.raises(RecordingFailed, match="is full") as caught:
            await kernel.execute_async(psi=PSI, task=doubled, x=1)
        assert caught.value.result.output == 2

    with_each_ledger(use)


def test_faults_of_any_kind_hand_the_trace_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: Any) -> Any:
        raise MemoryError("no room")

    async def use(kernel: Kernel, _: SlowStore) -> None:
        assert kernel.ledger is not None
        inner = kernel.ledger.ledger if isinstance(kernel.ledger, AsyncLedger) else kernel.ledger
        monkeypatch.setattr(inner, "prepare_records", fault)
        monkeypatch.setattr(inner, "record", lambda *_, **__: fault())
        with pytest.raises(RecordingFailed, match="no room") as caught:
            await kernel.execute_async(psi=PSI, task=doubled, x=1)
        assert caught.value.result.output == 2

    with_each_ledger(use)


def test_a_loop_that_ends_while_a_record_is_stored() -> None:
    """Then every task is cancelled, the one that stores included; the record may be there or not."""
    store = SlowStore()
    ledger = Ledger.over(store)

    async def run() -> None:
        store.gate.clear()
        store.waiting.clear()
        execution = asyncio.create_task(
            Kernel(ledger=AsyncLedger(ledger)).execute_async(psi=PSI, task=doubled, x=1)
        )
        while not store.waiting.is_set():
            await asyncio.sleep(0.001)
        assert not execution.done()
        threading.Timer(0.2, store.gate.set).start()

    asyncio.run(run())  # ends with the execution under way
    assert ledger.verify().finding is None


def test_batches_and_context_hold_for_tasks(tmp_path: Any) -> None:
    async def run(ledger: Ledger) -> None:
        kernel = Kernel(ledger=ledger)
        with ledger.batch(), ledger.context(actor="bot"):
            await asyncio.gather(*(kernel.execute_async(psi=PSI, task=doubled, x=n) for n in range(5)))
            assert ledger.head().seq == 1

    with Ledger.open(tmp_path / "a.tally") as ledger:
        asyncio.run(run(ledger))
        assert {event.meta["actor"] for event in ledger.read(1) if event.meta} == {"bot"}
        assert len(executed(ledger)) == 5
