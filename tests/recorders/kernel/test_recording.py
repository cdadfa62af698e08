"""What a kernel records, and what it does when it cannot (K8)."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_tasks import PSI, raising
from wrapped_stores import FullStore

from tallystick import (
    FailureCode,
    Head,
    Kernel,
    Ledger,
    MemoryStore,
    PsiDefinition,
    RecordingFailed,
    Verdict,
)
from tallystick.events.kernel import KernelExecuted
from tallystick.ledger import canonical
from tallystick.recorders.kernel.trace import recorded_core_digest

WORKER = Path(__file__).parent / "workers" / "kill.py"


def bodies(ledger: Ledger) -> list[dict[str, Any]]:
    return [event.body for event in ledger.read(kinds=["kernel.executed"])]


class Strict(KernelExecuted, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The struct, when it takes no field that is not its own."""


def check_body(body: dict[str, Any]) -> None:
    """It is what docs/events.md says, and its digests follow from it."""

    msgspec.convert(body, Strict)
    assert msgspec.to_builtins(msgspec.convert(body, KernelExecuted)) == body
    assert len(canonical.encode(body, max_bytes=1 << 40)) < canonical.MAX_BYTES
    derived = body["derived"]
    expected = recorded_core_digest(derived)
    assert expected is None or derived["core_digest"] == expected


# -- what is recorded ----------------------------------------------------------------------


def test_k8_an_execution_is_one_event_with_everything(ledger: Ledger) -> None:
    kernel = Kernel(ledger=ledger)
    trace = kernel.execute(
        psi=PSI, task=lambda a, b: {"sum": sum(a) + b}, metadata={"case": ["c-1"]}, a=[1, 2], b=3
    )
    [event] = ledger.read(1)
    assert (event.kind, event.stream) == ("kernel.executed", "kernel")
    check_body(event.body)
    derived, observed = event.body["derived"], event.body["observed"]
    assert derived == {
        "psi": PSI.describe(),
        "arguments": {"a": [1, 2], "b": 3},
        "arguments_digest": derived["arguments_digest"],
        "success": True,
        "failure_code": "OK",
        "exception_type": None,
        "output": {"sum": 6},
        "output_digest": derived["output_digest"],
        "core_digest": trace.digest(),
        "placeholders": [],
        "capture": "content",
    }
    assert derived["arguments_digest"].startswith("blake3:")
    assert derived["output_digest"] not in (None, derived["arguments_digest"])
    assert observed == {
        "run_id": trace.run_id,
        "started_at": trace.to_dict()["started_at"],
        "finished_at": trace.to_dict()["finished_at"],
        "runtime_ms": trace.runtime_ms,
        "error": None,
        "exception_repr": None,
        "metadata": {"case": ["c-1"]},
        "call_id": None,
    }


def test_k8_a_failure_is_recorded(ledger: Ledger) -> None:
    trace = Kernel(ledger=ledger, stream="desk").execute(psi=PSI, task=raising(ValueError("no")), a=1)
    [body] = bodies(ledger)
    check_body(body)
    assert ledger.get(2).stream == "desk"
    assert body["derived"]["failure_code"] == "TASK_EXCEPTION"
    assert body["derived"]["exception_type"] == "ValueError"
    assert (body["derived"]["output"], body["derived"]["output_digest"]) == (None, None)
    assert (body["observed"]["error"], body["observed"]["exception_repr"]) == ("no", "ValueError('no')")
    assert body["derived"]["core_digest"] == trace.digest()


def test_k8_invalid_input_is_recorded(ledger: Ledger) -> None:
    Kernel(ledger=ledger).execute(psi="orders", task=print, a=1)  # type: ignore[arg-type]
    [body] = bodies(ledger)
    check_body(body)
    assert body["derived"]["psi"] is None
    assert body["derived"]["failure_code"] == "INVALID_INPUT"
    assert body["derived"]["arguments"] == {"a": 1}


def broken() -> Any:
    raise RuntimeError("broken clock")


def test_k8_a_kernel_error_is_recorded_without_the_times_that_could_not_be_read(ledger: Ledger) -> None:
    kernel = Kernel(ledger=ledger, now_provider=broken, perf_counter_provider=broken, run_id_factory=broken)
    trace = kernel.execute(psi=PSI, task=lambda: "output")
    [body] = bodies(ledger)
    check_body(body)
    assert body["derived"]["failure_code"] == "KERNEL_ERROR"
    assert (body["derived"]["output"], body["derived"]["output_digest"]) == (None, None)
    observed = body["observed"]
    assert (observed["started_at"], observed["finished_at"], observed["runtime_ms"]) == (None, None, None)
    assert observed["run_id"] == trace.run_id == "invalid"


def test_k8_arguments_are_recorded_as_they_were_before_the_task(ledger: Ledger) -> None:
    def task(items: list[int]) -> list[int]:
        items.append(3)
        return items

    items = [1, 2]
    trace = Kernel(ledger=ledger).execute(psi=PSI, task=task, items=items)
    assert trace.output is items
    items.append(4)
    [body] = bodies(ledger)
    assert (body["derived"]["arguments"], body["derived"]["output"]) == ({"items": [1, 2]}, [1, 2, 3])


def test_k8_what_is_no_json_is_a_placeholder_without_digest(ledger: Ledger) -> None:
    async def coroutine() -> int:
        return 1

    loop: list[Any] = []
    loop.append(loop)
    outputs: list[Any] = [(n for n in "ab"), coroutine(), object(), {1: 2}, loop, float("nan"), b"x", {1, 2}]
    for output in outputs:
        Kernel(ledger=ledger).execute(psi=PSI, task=lambda output=output, **_: output, given=[1, print])
    for body in bodies(ledger):
        check_body(body)
        assert body["derived"]["arguments"] == {
            "given": [1, {"$omitted": "not JSON", "type": "builtin_function_or_method"}]
        }
        assert (body["derived"]["arguments_digest"], body["derived"]["output_digest"]) == (None, None)
        pointers = body["derived"]["placeholders"]
        assert pointers[0] == "/arguments/given/1"
        assert pointers[1].startswith("/output")
    outputs[1].close()


@pytest.mark.parametrize("size", [300_000, 3_000_000])
def test_k8_huge_values_are_left_out_and_keep_their_digest(ledger: Ledger, size: int) -> None:
    kernel = Kernel(ledger=ledger)
    for output in ("x" * size, ["é"] * size, {str(n): n for n in range(size // 10)}):
        kernel.execute(psi=PSI, task=lambda text: text, text=output)
    for body in bodies(ledger):
        check_body(body)
        assert body["derived"]["output"]["$omitted"] == "too large"
        assert body["derived"]["output_digest"] is not None
        assert body["derived"]["placeholders"] == ["/arguments", "/output"]


def test_k8_a_body_stays_below_the_limit_whatever_is_given(ledger: Ledger) -> None:
    """Everything at its largest at once."""
    long = "é\x00" * 100_000
    psi = PsiDefinition(long, long, {long: long})
    kernel = Kernel(ledger=ledger, run_id_factory=lambda: long)
    nested: Any = print
    for _ in range(40):
        nested = {"k" * 2000: [nested, print]}
    almost = "y" * 250_000
    error = type("E" * 50_000, (Exception,), {"__module__": long})
    kernel.execute(psi=psi, task=raising(error(long)), metadata={"a": almost}, a=nested)
    kernel.execute(psi=psi, task=lambda **_: almost, metadata={"a": "z" * 60_000}, a=almost)
    kernel.execute(psi=psi, task=lambda **_: [print] * 100_000, a=[error()] * 5000)
    many = [[print, "\x00" * 10]] * 3000
    kernel.execute(psi=psi, task=lambda **_: many, a=many)
    assert len(bodies(ledger)) == 4
    for body in bodies(ledger):
        check_body(body)
        assert "/psi/name" in body["derived"]["placeholders"]


def test_k8_a_value_that_would_never_end_is_left_out(ledger: Ledger) -> None:
    """Sixty lists, each twice in the next, stand for more items than there are atoms in a hand."""
    value: Any = [1]
    for _ in range(60):
        value = [value, value]
    wide: Any = "x"
    for _ in range(9):
        wide = [wide] * 1000
    Kernel(ledger=ledger).execute(psi=PSI, task=lambda v: wide, v=value)
    [body] = bodies(ledger)
    check_body(body)
    assert body["derived"]["output"] == {"$omitted": "too large", "type": "list"}
    assert body["derived"]["output_digest"] is None


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.mark.parametrize("error", [Odd(), ValueError("\ud800"), KeyError("x" * 100_000)])
def test_k8_odd_exceptions_are_recorded(ledger: Ledger, error: Exception) -> None:
    Kernel(ledger=ledger).execute(psi=PSI, task=raising(error))
    [body] = bodies(ledger)
    check_body(body)
    assert len(body["observed"]["error"]) <= 4096


def test_k8_names_that_json_cannot_hold_are_mended_and_pointed_at(ledger: Ledger) -> None:
    psi = PsiDefinition("a\ud800", "b", {"set": {1}, "nan": float("nan"), "n": {1: 2}})
    Kernel(ledger=ledger, run_id_factory=lambda: "r\ud800").execute(psi=psi, task=lambda: 1)
    [body] = bodies(ledger)
    check_body(body)
    derived = body["derived"]
    assert derived["psi"]["psi_type"] == "a?"
    assert derived["psi"]["metadata"]["n"] == {"1": 2}
    assert derived["placeholders"] == ["/psi/metadata/nan", "/psi/psi_type"]
    assert recorded_core_digest(derived) is None
    assert body["observed"]["run_id"] == "r?"


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)


@given(TEXT, TEXT, st.dictionaries(TEXT | st.integers(), JSON), st.booleans())
def test_k8_the_core_digest_follows_from_the_event(
    psi_type: str, name: str, metadata: dict[Any, Any], fails: bool
) -> None:
    with Ledger.over(MemoryStore()) as ledger:
        psi = PsiDefinition(psi_type, name, metadata)
        trace = Kernel(ledger=ledger).execute(psi=psi, task=raising(ValueError()) if fails else lambda: 1)
        [body] = bodies(ledger)
        check_body(body)
        assert recorded_core_digest(body["derived"]) == trace.digest()


@given(
    st.dictionaries(st.text(max_size=5), st.none() | st.floats() | st.text(max_size=5), max_size=4),
    st.one_of(st.none(), st.floats(), st.text(), st.lists(st.integers()), st.builds(object)),
    st.sampled_from(["content", "digest"]),
)
def test_k8_the_body_is_put_together_as_the_canonical_encoder_writes_it(
    metadata: dict[str, Any], output: Any, capture: Any
) -> None:
    ledger = Ledger.over(MemoryStore())
    kernel = Kernel(ledger=ledger, capture=capture)
    kernel.execute(
        psi=PsiDefinition("t", "n", metadata), task=lambda **_: output, metadata=metadata, a=output
    )
    kernel.execute(psi=PsiDefinition("t", "n", metadata), task=lambda **_: 1 / 0, a=output)
    for row in ledger.rows(1):
        assert row.body is not None
        body = canonical.decode(row.body)
        assert canonical.encode(body) == row.body
        msgspec.convert(body, KernelExecuted)


def test_k8_capture_digest_keeps_digests_alone(ledger: Ledger) -> None:
    secret = {"card": "4111 1111"}
    open_kernel, closed = Kernel(ledger=ledger), Kernel(ledger=ledger, capture="digest")
    for kernel in (open_kernel, closed):
        kernel.execute(psi=PSI, task=lambda given: given, given=secret)
    closed.execute(psi=PSI, task=raising(ValueError("4111 1111")), given=secret, also={"4111 1111": print})
    content, digest, failed = bodies(ledger)
    for body in (content, digest, failed):
        check_body(body)
    for field in ("arguments_digest", "output_digest", "core_digest"):
        assert digest["derived"][field] == content["derived"][field] is not None
    assert digest["derived"]["capture"] == "digest"
    assert "4111" not in str(digest)
    assert "4111" not in str(failed)
    assert failed["derived"]["exception_type"] == "ValueError"


def test_k8_metadata_that_the_task_changes(ledger: Ledger) -> None:
    metadata = {"a": [1]}
    Kernel(ledger=ledger).execute(psi=PSI, task=lambda: metadata["a"].append(2), metadata=metadata)
    assert bodies(ledger)[0]["observed"]["metadata"] == {"a": [1]}


def test_a_ledger_may_be_given_later(ledger: Ledger) -> None:
    kernel = Kernel()
    kernel.execute(psi=PSI, task=lambda: 1)
    kernel.ledger = ledger
    with ledger.context(actor="bot"):
        kernel.execute(psi=PSI, task=lambda: 2)
    kernel.ledger = None
    kernel.execute(psi=PSI, task=lambda: 3)
    [event] = ledger.read(1)
    assert event.body["derived"]["output"] == 2
    assert event.meta == {"actor": "bot"}


def test_an_execution_is_recorded_where_it_began(ledger: Ledger) -> None:
    kernel = Kernel(ledger=ledger)

    def task() -> str:
        kernel.ledger = None
        return "done"

    kernel.execute(psi=PSI, task=task)
    assert bodies(ledger)[0]["derived"]["output"] == "done"


def test_many_threads_record_through_one_kernel(ledger: Ledger) -> None:
    kernel = Kernel(ledger=ledger)

    def work(number: int) -> None:
        for n in range(25):
            kernel.execute(psi=PSI, task=lambda x: x, x=[number, n])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outputs = [body["derived"]["output"] for body in bodies(ledger)]
    assert sorted(outputs) == [[number, n] for number in range(8) for n in range(25)]
    assert ledger.verify().finding is None


def test_a_batch_records_at_its_end(ledger: Ledger) -> None:
    kernel = Kernel(ledger=ledger)
    with ledger.batch():
        for n in range(10):
            kernel.execute(psi=PSI, task=lambda n: n, n=n)
        assert ledger.head().seq == 1
    assert [body["derived"]["output"] for body in bodies(ledger)] == list(range(10))


# -- when recording fails ------------------------------------------------------------------


@pytest.fixture
def store() -> FullStore:
    return FullStore()


@pytest.mark.parametrize("task", [lambda: 7, raising(ValueError("no"))])
def test_recording_failed_carries_the_trace(store: FullStore, task: Any) -> None:
    kernel = Kernel(ledger=Ledger.over(store))
    store.full = True
    with pytest.raises(RecordingFailed, match="is full") as caught:
        kernel.execute(psi=PSI, task=task)
    trace = caught.value.result
    assert trace.psi == PSI
    assert trace.output == (7 if trace.success else None)
    store.full = False
    assert kernel.execute(psi=PSI, task=task) is not None


def test_a_closed_ledger_and_faults_of_any_kind_hand_the_trace_back(
    store: FullStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.over(store)
    kernel = Kernel(ledger=ledger)

    def fault(build: Any) -> Head:
        raise MemoryError("no room for a row")

    with monkeypatch.context() as patch:
        patch.setattr(store, "append", fault)
        with pytest.raises(RecordingFailed, match="MemoryError: no room") as caught:
            kernel.execute(psi=PSI, task=lambda: 7)
        assert caught.value.result.output == 7
    ledger.close()
    with pytest.raises(RecordingFailed, match="closed") as caught:
        kernel.execute(psi=PSI, task=lambda: 8)
    assert caught.value.result.output == 8


def test_a_lost_batch_hands_every_trace_back(store: FullStore) -> None:
    ledger = Ledger.over(store)
    kernel = Kernel(ledger=ledger)
    with pytest.raises(RecordingFailed, match="3 calls") as caught, ledger.batch():
        store.full = True
        for n in range(3):
            kernel.execute(psi=PSI, task=lambda n: n, n=n)
    assert [trace.output for trace in caught.value.results] == [0, 1, 2]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), asyncio.CancelledError()]
)
def test_what_is_no_exception_is_recorded_and_raised_again(ledger: Ledger, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        Kernel(ledger=ledger).execute(psi=PSI, task=raising(error))
    assert caught.value is error
    [body] = bodies(ledger)
    assert body["derived"]["failure_code"] == "TASK_EXCEPTION"
    assert body["derived"]["exception_type"] == type(error).__name__


def test_an_interrupt_wins_over_a_lost_record_and_brings_it_along(store: FullStore) -> None:
    kernel = Kernel(ledger=Ledger.over(store))
    store.full = True
    cause = ValueError("why")
    error = KeyboardInterrupt()
    error.__cause__ = cause
    with pytest.raises(KeyboardInterrupt) as caught:
        kernel.execute(psi=PSI, task=raising(error))
    assert caught.value is error
    assert error.__cause__ is cause
    lost = error.__context__
    assert isinstance(lost, RecordingFailed)
    assert lost.result.exception_type == "KeyboardInterrupt"
    assert "is full" in error.__notes__[0]


def test_an_interrupt_while_a_provider_is_asked_after_the_task_is_recorded(ledger: Ledger) -> None:
    readings = iter([1.0])

    def interrupted() -> float:
        for reading in readings:
            return reading
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Kernel(ledger=ledger, perf_counter_provider=interrupted).execute(psi=PSI, task=lambda: 1)
    assert bodies(ledger)[0]["derived"]["failure_code"] == FailureCode.KERNEL_ERROR


def test_a_recorded_failure_keeps_nothing_alive(ledger: Ledger) -> None:
    class Large:
        pass

    held: list[weakref.ref[Large]] = []

    def task() -> None:
        large = Large()
        held.append(weakref.ref(large))
        raise ValueError(large)

    gc.disable()
    try:
        Kernel(ledger=ledger).execute(psi=PSI, task=task)
        assert held[0]() is None
    finally:
        gc.enable()


def test_killed_between_the_work_and_its_record(tmp_path: Path) -> None:
    """`kill -9` while a task runs: all executions before are recorded, and the ledger verifies."""
    path = tmp_path / "a.tally"
    process = subprocess.Popen([sys.executable, str(WORKER), str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.split())
        if lines[-1][0] == "working":
            break
    process.kill()
    process.communicate()
    assert lines[-1] == ["working", "20"]
    with Ledger.open(path) as ledger:
        assert ledger.verify().verdict is Verdict.UNANCHORED
        assert [body["derived"]["output"] for body in bodies(ledger)] == [n * n for n in range(20)]
        Kernel(ledger=ledger).execute(psi=PSI, task=lambda: "goes on")
        assert ledger.verify().finding is None
