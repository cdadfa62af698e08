"""Pipelines, and what is recorded of them (K7, K8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from tallystick import (
    CAEL,
    AsyncLedger,
    CaelResult,
    Head,
    InvalidCall,
    Kernel,
    Ledger,
    MemoryStore,
    PsiDefinition,
    RecordingFailed,
    Row,
    Unavailable,
)
from tallystick.events.kernel import PipelineCompleted
from tallystick.ledger import canonical

PSI = PsiDefinition("steps", "any")


class FullStore(MemoryStore):
    """A store that takes so many commits and no more."""

    room = 10**9

    def append(self, build: Callable[[Head], list[Row]]) -> Head:  # type: ignore[override]
        if self.room == 0:
            raise Unavailable("the store", "is full", "make room")
        self.room -= 1
        return super().append(build)


@pytest.fixture
def store() -> FullStore:
    return FullStore()


@pytest.fixture
def ledger(store: FullStore) -> Iterator[Ledger]:
    with Ledger.over(store) as ledger:
        yield ledger


def add(x: int, y: int = 0) -> int:
    return x + y


def fail(error: BaseException | None = None) -> Any:
    raise error or ValueError("boom")


def pipelines(ledger: Ledger) -> list[dict[str, Any]]:
    found = [event.body for event in ledger.read(kinds=["pipeline.completed"])]
    for body in found:

        class Strict(PipelineCompleted, forbid_unknown_fields=True, kw_only=True, frozen=True):
            pass

        msgspec.convert(body, Strict)
    return found


# -- K7 ------------------------------------------------------------------------------------


def test_k7_steps_run_in_order_each_with_its_own_arguments() -> None:
    seen: list[str] = []

    def step(name: str) -> str:
        seen.append(name)
        return name.upper()

    steps = [(PSI, step, {"name": name}) for name in "abc"]
    result = CAEL(Kernel()).run(steps, metadata={"case": [1]})
    assert seen == ["a", "b", "c"]
    assert (result.success, result.final_output) == (True, "C")
    assert (result.failure_code, result.failure_message) == (None, None)
    assert [trace.output for trace in result.traces] == ["A", "B", "C"]
    assert {trace.metadata["case"][0] for trace in result.traces} == {1}


def test_k7_it_stops_at_the_first_failure() -> None:
    steps: Any = [(PSI, add, {"x": 1}), (PSI, add, {"x": 5}), (PSI, fail, {}), (PSI, pytest.fail, {})]
    result = CAEL(Kernel()).run(steps)
    assert len(result.traces) == 3
    assert (result.success, result.failure_code, result.failure_message) == (False, "TASK_EXCEPTION", "boom")
    assert result.final_output == 5  # of the last successful step


def test_k7_no_output_if_the_first_step_fails_or_there_is_none() -> None:
    failed = CAEL(Kernel()).run([(PSI, fail, {}), (PSI, add, {"x": 1})])
    assert (failed.final_output, len(failed.traces)) == (None, 1)
    assert CAEL(Kernel()).run([]) == CaelResult([], None, True)


BAD_STEPS: list[Any] = [
    5,
    (PSI, add),
    [PSI, add, {}],
    (PSI, add, {}, 1),
    ("psi", add, {}),
    (PSI, 5, {}),
    (PSI, add, None),
    (PSI, add, [("x", 1)]),
    (PSI, add, {1: 2}),
]


@pytest.mark.parametrize("bad", BAD_STEPS)
def test_k7_steps_are_checked_before_any_runs(bad: Any) -> None:
    ran: list[int] = []
    result = CAEL(Kernel()).run([(PSI, lambda: ran.append(1), {}), bad])
    assert (result.success, result.failure_code, result.traces) == (False, "INVALID_STEP", [])
    assert result.final_output is None
    assert result.failure_message is not None
    assert result.failure_message.startswith("step 1: ")
    assert ran == []


def test_k7_steps_that_are_none() -> None:
    result = CAEL(Kernel()).run(None)  # type: ignore[arg-type]
    assert (result.failure_code, result.failure_message) == ("INVALID_STEP", "steps must be a sequence")


def test_k7_any_iterable_of_steps_and_any_names_of_arguments() -> None:
    def names(**kwargs: Any) -> list[str]:
        return sorted(kwargs)

    kwargs = MappingProxyType({"psi": 1, "task": 2, "metadata": 3, "self": 4})
    result = CAEL(Kernel()).run(step for step in [(PSI, names, kwargs)])
    assert result.final_output == ["metadata", "psi", "self", "task"]


def test_a_cael_needs_a_kernel_and_metadata_a_mapping() -> None:
    with pytest.raises(InvalidCall, match="kernel must be a Kernel"):
        CAEL(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidCall, match="metadata must be a mapping"):
        CAEL(Kernel()).run([(PSI, pytest.fail, {})], metadata=[1])  # type: ignore[arg-type]


# -- K8 ------------------------------------------------------------------------------------


def test_k8_a_run_ends_in_an_event_that_names_its_executions(ledger: Ledger) -> None:
    ledger.append("app.noted")
    kernel = Kernel(ledger=ledger, stream="nightly")
    steps: Any = [(PSI, add, {"x": 1}), (PSI, fail, {}), (PSI, add, {"x": 2})]
    result = CAEL(kernel).run(steps, metadata={"case": 7})
    [body] = pipelines(ledger)
    assert body["executions"] == [3, 4]
    assert [ledger.get(seq).kind for seq in (3, 4, 5)] == ["kernel.executed"] * 2 + ["pipeline.completed"]
    assert ledger.get(5).stream == "nightly"
    assert body["derived"] == {
        "success": False,
        "failure_code": "TASK_EXCEPTION",
        "steps": 3,
        "executed": 2,
        "core_digests": [trace.digest() for trace in result.traces],
    }
    assert body["observed"] == {
        "run_ids": [trace.run_id for trace in result.traces],
        "failure_message": "boom",
        "metadata": {"case": 7},
    }


def test_k8_runs_of_no_steps_good_ones_and_invalid_ones_are_recorded(ledger: Ledger) -> None:
    cael = CAEL(Kernel(ledger=ledger))
    cael.run([])
    cael.run([(PSI, add, {"x": 1})])
    cael.run([(PSI, add, {"x": 1}), (PSI, 5, {})])  # type: ignore[list-item]
    empty, good, invalid = pipelines(ledger)
    assert (empty["executions"], empty["derived"]["success"]) == ([], True)
    assert (good["executions"], good["derived"]["success"]) == ([3], True)
    assert (invalid["executions"], invalid["derived"]["failure_code"]) == ([], "INVALID_STEP")
    assert (invalid["derived"]["steps"], invalid["derived"]["executed"]) == (2, 0)


def test_k8_in_a_batch_executions_have_no_seq_yet(ledger: Ledger) -> None:
    with ledger.batch():
        CAEL(Kernel(ledger=ledger)).run([(PSI, add, {"x": 1}), (PSI, add, {"x": 2})])
    [body] = pipelines(ledger)
    assert body["executions"] is None
    assert len(body["derived"]["core_digests"]) == len(body["observed"]["run_ids"]) == 2
    assert ledger.head().seq == 4


def test_k8_digests_alone(ledger: Ledger) -> None:
    CAEL(Kernel(ledger=ledger, capture="digest")).run([(PSI, fail, {"error": ValueError("4111")})])
    assert "4111" not in str([event.body for event in ledger.read()])


@pytest.mark.parametrize("steps", [4001, pytest.param(50_001, marks=pytest.mark.slow)])
def test_k8_a_pipeline_of_any_length_has_a_body_that_fits(ledger: Ledger, steps: int) -> None:
    with ledger.batch():
        CAEL(Kernel(ledger=ledger, deterministic_mode=True)).run([(PSI, int, {})] * steps)
    [body] = pipelines(ledger)
    assert (body["derived"]["executed"], body["derived"]["core_digests"]) == (steps, [])
    assert len(canonical.encode(body)) < canonical.MAX_BYTES


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), asyncio.CancelledError()])
def test_what_is_no_exception_ends_the_run_recorded(ledger: Ledger, error: BaseException) -> None:
    steps: Any = [(PSI, add, {"x": 1}), (PSI, fail, {"error": error}), (PSI, pytest.fail, {})]
    with pytest.raises(type(error)) as caught:
        CAEL(Kernel(ledger=ledger)).run(steps)
    assert caught.value is error
    [body] = pipelines(ledger)
    assert body["executions"] == [2, 3]
    assert body["derived"]["failure_code"] == "TASK_EXCEPTION"


def test_an_interrupt_between_steps_ends_the_run_recorded(ledger: Ledger) -> None:
    ids = iter(["r1"])

    def run_id() -> str:
        for name in ids:
            return name
        raise KeyboardInterrupt

    steps: Any = [(PSI, add, {"x": 1}), (PSI, pytest.fail, {})]
    with pytest.raises(KeyboardInterrupt):
        CAEL(Kernel(ledger=ledger, run_id_factory=run_id)).run(steps)
    [body] = pipelines(ledger)
    assert (body["executions"], body["derived"]["failure_code"]) == ([2], "INTERRUPTED")


# -- when recording fails ------------------------------------------------------------------


def test_a_step_whose_record_is_lost_stops_the_run_and_hands_everything_back(
    store: FullStore, ledger: Ledger
) -> None:
    store.room = 1
    steps: Any = [(PSI, add, {"x": 1}), (PSI, add, {"x": 2}), (PSI, pytest.fail, {})]
    with pytest.raises(RecordingFailed, match="is full") as caught:
        CAEL(Kernel(ledger=ledger)).run(steps)
    result = caught.value.result
    assert [trace.output for trace in result.traces] == [1, 2]
    assert (result.success, result.final_output) == (False, 2)
    assert result.failure_code == "RECORDING_FAILED"
    assert "is full" in result.failure_message


def test_a_run_whose_own_record_is_lost_hands_its_result_back(store: FullStore, ledger: Ledger) -> None:
    store.room = 1
    with pytest.raises(RecordingFailed) as caught:
        CAEL(Kernel(ledger=ledger)).run([(PSI, add, {"x": 1})])
    assert (caught.value.result.success, caught.value.result.final_output) == (True, 1)


def test_a_run_whose_step_is_lost_is_recorded_if_the_store_recovers(
    store: FullStore, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([False, True, False])
    append = store.append

    def sometimes(build: Any) -> Head:
        if next(calls):
            raise Unavailable("the store", "is full", "make room")
        return append(build)

    monkeypatch.setattr(store, "append", sometimes)
    with pytest.raises(RecordingFailed) as caught:
        CAEL(Kernel(ledger=ledger)).run([(PSI, add, {"x": n}) for n in range(3)])
    assert [trace.output for trace in caught.value.result.traces] == [0, 1]
    [body] = pipelines(ledger)
    assert (body["executions"], body["derived"]["failure_code"]) == (None, "RECORDING_FAILED")


def test_results_of_other_calls_lost_in_the_same_batch_come_along(store: FullStore, ledger: Ledger) -> None:
    kernel = Kernel(ledger=ledger)
    with ledger.batch(chunk=2):
        other = kernel.execute(psi=PSI, task=add, x=10)
        store.room = 0
        with pytest.raises(RecordingFailed) as caught:
            CAEL(kernel).run([(PSI, add, {"x": 1}), (PSI, add, {"x": 2})])
        store.room = 1
    lost = caught.value.results
    assert lost[0] is other
    assert [trace.output for trace in lost[-1].traces] == [1]


def test_an_interrupt_wins_over_lost_records(store: FullStore, ledger: Ledger) -> None:
    store.room = 0
    with pytest.raises(KeyboardInterrupt) as caught:
        CAEL(Kernel(ledger=ledger)).run([(PSI, fail, {"error": KeyboardInterrupt()})])
    lost = caught.value.__context__
    assert isinstance(lost, RecordingFailed)
    assert lost.result.traces[0].exception_type == "KeyboardInterrupt"


# -- async ---------------------------------------------------------------------------------


async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x


@pytest.mark.parametrize("asynchronous", [True, False])
def test_run_async(ledger: Ledger, asynchronous: bool) -> None:
    async def run() -> None:
        kernel = Kernel(ledger=AsyncLedger(ledger) if asynchronous else ledger)
        result = await CAEL(kernel).run_async([(PSI, later, {"x": 1}), (PSI, add, {"x": 2})], {"m": 1})
        assert (result.success, result.final_output) == (True, 2)
        failed = await CAEL(kernel).run_async([(PSI, later, {"x": 1}), (PSI, fail, {})])
        assert (failed.failure_code, failed.final_output) == ("TASK_EXCEPTION", 1)
        assert (await CAEL(kernel).run_async([5])).failure_code == "INVALID_STEP"  # type: ignore[list-item]

    asyncio.run(run())
    assert [body["executions"] for body in pipelines(ledger)] == [[2, 3], [5, 6], []]


def test_run_async_cancelled(ledger: Ledger) -> None:
    async def run() -> None:
        steps: Any = [(PSI, later, {"x": 1}), (PSI, asyncio.sleep, {"delay": 3600}), (PSI, pytest.fail, {})]
        running = asyncio.create_task(CAEL(Kernel(ledger=ledger)).run_async(steps))
        while ledger.head().seq < 2:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(run())
    [body] = pipelines(ledger)
    assert (body["executions"], body["derived"]["executed"]) == ([2, 3], 2)
    assert ledger.get(3).body["derived"]["exception_type"] == "CancelledError"


def test_run_async_with_a_lost_record(store: FullStore, ledger: Ledger) -> None:
    store.room = 1
    with pytest.raises(RecordingFailed) as caught:
        asyncio.run(CAEL(Kernel(ledger=ledger)).run_async([(PSI, later, {"x": n}) for n in range(3)]))
    assert [trace.output for trace in caught.value.result.traces] == [0, 1]
