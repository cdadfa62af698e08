"""The kernel without a ledger: psi, traces, failure codes, times, the core (K1 to K6)."""

from __future__ import annotations

import asyncio
import collections
import copy
import dataclasses
import datetime as dt
import hashlib
import itertools
import json
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kernel_tasks import PSI, after, execute, raising

from tallystick import (
    ExecutionTrace,
    FailureCode,
    FrozenMetadata,
    InvalidCall,
    InvalidEvent,
    InvalidPsi,
    Kernel,
    PsiDefinition,
    TallyError,
)
from tallystick.recorders.errors import KernelError

NOON = dt.datetime(2026, 3, 12, 12, tzinfo=dt.UTC)


# -- K1 ------------------------------------------------------------------------------------


def test_k1_a_psi_describes_itself_with_metadata_keys_sorted_as_strings() -> None:
    psi = PsiDefinition("a", "b", {"b": [1, {"x": 2}], 10: "ten", "a": (1,)})
    assert psi.describe() == {
        "psi_type": "a",
        "name": "b",
        "metadata": {"10": "ten", "a": (1,), "b": [1, {"x": 2}]},
    }
    assert list(psi.describe()["metadata"]) == ["10", "a", "b"]
    assert PsiDefinition("a", "b").describe()["metadata"] == {}
    assert PsiDefinition("a", "b", None) == PsiDefinition("a", "b", {})


def test_k1_a_psi_is_frozen_and_keeps_a_copy() -> None:
    metadata: dict[str, Any] = {"limits": {"max": [1]}}
    psi = PsiDefinition("a", "b", metadata)
    metadata["limits"]["max"].append(2)
    assert psi.metadata == {"limits": {"max": [1]}}
    with pytest.raises(dataclasses.FrozenInstanceError):
        psi.name = "c"  # type: ignore[misc]
    with pytest.raises(TypeError):
        psi.metadata["limits"]["max"].append(2)
    psi.describe()["metadata"]["limits"]["max"].append(2)  # the caller's own
    assert psi.metadata == {"limits": {"max": [1]}}
    assert hash(psi) == hash(PsiDefinition("a", "b", {"limits": {"max": [1]}}))
    assert pickle.loads(pickle.dumps(psi)) == psi == copy.deepcopy(psi)
    assert dataclasses.replace(psi, name="c").metadata == psi.metadata


@pytest.mark.parametrize("arguments", [(1, "n"), ("t", None), ("t", "n", [1]), ("t", "n", "text")])
def test_k1_a_psi_of_other_types_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidPsi, match="PsiDefinition"):
        PsiDefinition(*arguments)


# -- K2, K3 --------------------------------------------------------------------------------


def test_k2_the_task_is_called_exactly_once_with_its_arguments() -> None:
    calls: list[dict[str, Any]] = []

    def task(**kwargs: Any) -> int:
        calls.append(kwargs)
        return 7

    trace = execute(task, a=1, self=2, b=[3])
    assert calls == [{"a": 1, "self": 2, "b": [3]}]
    assert (trace.success, trace.failure_code, trace.output) == (True, FailureCode.OK, 7)
    assert (trace.error, trace.exception_type, trace.exception_repr) == (None, None, None)


def test_k2_a_failing_task_is_called_once_and_its_exception_is_in_the_trace() -> None:
    calls = itertools.count()

    def task() -> None:
        next(calls)
        raise KeyError("no such order")

    trace = execute(task)
    assert next(calls) == 1
    assert (trace.success, trace.failure_code, trace.output) == (False, FailureCode.TASK_EXCEPTION, None)
    assert (trace.error, trace.exception_type) == ("'no such order'", "KeyError")
    assert trace.exception_repr == "KeyError('no such order')"


def test_k2_arguments_that_do_not_fit_are_the_task_s_exception() -> None:
    assert execute(lambda x: x, y=1).exception_type == "TypeError"


def test_k3_the_output_is_the_very_object_and_a_coroutine_is_handed_over() -> None:
    output = object()
    assert execute(lambda: output).output is output

    async def task(x: int) -> int:
        return x + 1

    trace = execute(task, x=1)
    assert trace.success
    assert trace.output is not None
    assert asyncio.run(trace.output) == 2


def test_k3_kernel_meta_says_what_the_fields_say() -> None:
    trace = execute(lambda: 1)
    names = ("run_id", "started_at", "finished_at", "runtime_ms", "success")
    assert trace.kernel_meta == {name: getattr(trace, name) for name in names} | {"failure_code": "OK"}
    assert trace.started_at.tzinfo is dt.UTC
    assert trace.run_id != execute(lambda: 1).run_id


def test_k3_metadata_is_a_copy_frozen_at_every_depth() -> None:
    metadata: dict[str, Any] = {
        "case": {"tags": ["a", {"b": 1}], "pair": ([1], 2)},
        "set": {1},
        "bytes": bytearray(b"x"),
        "deque": collections.deque([1]),
        "proxy": types.MappingProxyType({"a": [1]}),
        1: "one",
    }

    def task() -> None:
        metadata["case"]["tags"].append("later")
        metadata["added"] = 1

    trace = execute(task, metadata=metadata)
    frozen: Any = trace.metadata
    assert frozen == {
        "case": {"tags": ["a", {"b": 1}], "pair": ([1], 2)},
        "set": {1},
        "bytes": b"x",
        "deque": [1],
        "proxy": {"a": [1]},
        1: "one",
    }
    writes: list[Callable[[], Any]] = [
        lambda: frozen.update(x=1),
        lambda: frozen.pop("case"),
        frozen.popitem,
        frozen.clear,
        lambda: frozen.setdefault("x", 1),
        lambda: frozen["case"].__setitem__("x", 1),
        lambda: frozen["case"].__delitem__("tags"),
        lambda: frozen["case"].__ior__({}),
        lambda: frozen["case"]["tags"].append(1),
        lambda: frozen["case"]["tags"].__setitem__(0, 1),
        lambda: frozen["case"]["tags"].__iadd__([1]),
        lambda: frozen["case"]["tags"].__imul__(2),
        frozen["case"]["tags"].sort,
        frozen["case"]["tags"].reverse,
        lambda: frozen["case"]["tags"][1].__setitem__("b", 2),
        lambda: frozen["case"]["pair"][0].append(2),
        lambda: frozen["proxy"]["a"].extend([1]),
        lambda: trace.kernel_meta.__setitem__("run_id", "x"),  # type: ignore[attr-defined]
    ]
    for write in writes:
        with pytest.raises(TypeError):
            write()
    with pytest.raises(FrozenMetadata, match="copy it with dict"):
        frozen["x"] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        trace.output = 1  # type: ignore[misc]


def test_k3_a_trace_made_by_hand_freezes_its_metadata() -> None:
    fields = {name: getattr(execute(lambda: 1), name) for name in ExecutionTrace.__dataclass_fields__}
    trace: ExecutionTrace[Any] = ExecutionTrace(**{**fields, "metadata": {"a": [1]}, "kernel_meta": {}})
    with pytest.raises(TypeError):
        trace.metadata["a"].append(1)
    assert dataclasses.replace(trace, output=2).metadata == {"a": [1]}


def test_k3_traces_can_be_copied_and_pickled() -> None:
    trace = execute(lambda: [1], metadata={"a": [1, {"b": 2}]})
    for twin in (pickle.loads(pickle.dumps(trace)), copy.deepcopy(trace), copy.copy(trace)):
        assert twin == trace
        with pytest.raises(TypeError):
            twin.metadata["a"][1]["b"] = 3
    assert dataclasses.asdict(trace)["metadata"] == {"a": [1, {"b": 2}]}


def test_k3_metadata_that_holds_itself_is_deep_or_cannot_be_read() -> None:
    loop: dict[str, Any] = {"a": 1}
    loop["loop"] = [loop]
    deep: Any = 1
    for _ in range(5000):
        deep = {"d": deep}

    class Unreadable(dict[str, Any]):
        def keys(self) -> Any:
            raise RuntimeError("no")

        __iter__ = items = keys

    class Liar(collections.UserDict[str, Any]):
        def __iter__(self) -> Any:
            raise RuntimeError("no")

    trace = execute(lambda: 1, metadata={"loop": loop, "deep": deep, "u": Unreadable(a=1), "liar": Liar(a=1)})
    assert trace.metadata["loop"]["loop"] == [{"$omitted": "holds itself", "type": "dict"}]
    assert trace.metadata["u"] == {"a": 1}
    assert trace.metadata["liar"]["$omitted"] == "unreadable"
    json.loads(trace.to_json())


def test_k3_metadata_written_to_by_another_thread_meanwhile() -> None:
    metadata: dict[int, Any] = {n: [n] for n in range(200)}
    stop = threading.Event()

    def write() -> None:
        for n in itertools.count():
            metadata[n % 400] = [n]
            metadata.pop((n + 200) % 400, None)
            if stop.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            trace = execute(lambda: 1, metadata={"shared": metadata})
            assert "$omitted" not in trace.metadata["shared"]
            json.loads(trace.to_json())
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("metadata", [[1], "text", 5])
def test_metadata_that_is_no_mapping_is_refused_before_the_call(metadata: Any) -> None:
    with pytest.raises(InvalidCall, match="metadata must be a mapping"):
        execute(lambda: pytest.fail("was called"), metadata=metadata)


# -- K4 ------------------------------------------------------------------------------------


def test_k4_the_codes_are_text() -> None:
    assert [code.value for code in FailureCode] == ["OK", "TASK_EXCEPTION", "INVALID_INPUT", "KERNEL_ERROR"]
    assert all(isinstance(code, str) and code == code.value for code in FailureCode)


@pytest.mark.parametrize(
    ("psi", "task", "said"),
    [
        ("psi", lambda: pytest.fail("was called"), "psi: must be a PsiDefinition, got str"),
        (PSI, 5, "task: must be callable, got int"),
        (None, None, "task: must be callable, got NoneType"),
    ],
)
def test_k4_invalid_input_is_not_called(psi: Any, task: Any, said: str) -> None:
    trace = Kernel().execute(psi=psi, task=task, metadata={"a": 1})
    assert (trace.success, trace.failure_code, trace.output) == (False, FailureCode.INVALID_INPUT, None)
    assert (trace.exception_type, trace.error) == ("KernelError", said)
    assert trace.psi == (PSI if psi is PSI else PsiDefinition("invalid", "invalid"))
    assert trace.metadata == {"a": 1}


@pytest.mark.parametrize(
    ("provider", "calls", "value"),
    [
        ("run_id_factory", 0, "r"),
        ("now_provider", 0, NOON),
        ("now_provider", 1, NOON),
        ("perf_counter_provider", 0, 1.0),
        ("perf_counter_provider", 1, 1.0),
    ],
)
@pytest.mark.parametrize("fails", [True, False])
def test_k4_a_provider_that_raises(provider: str, calls: int, value: Any, fails: bool) -> None:
    """The task is called all the same, once; the trace is a failure that names the provider."""
    ran: list[int] = []

    def task() -> str:
        ran.append(1)
        if fails:
            raise ValueError("boom")
        return "output"

    options: dict[str, Any] = {provider: after(calls, value, RuntimeError("broken clock"))}
    trace = Kernel(**options).execute(psi=PSI, task=task)
    assert ran == [1]
    assert (trace.success, trace.failure_code, trace.output) == (False, FailureCode.KERNEL_ERROR, None)
    assert trace.exception_type == "KernelError"
    assert trace.error is not None and trace.error.startswith(
        f"{provider}: raised RuntimeError: broken clock"
    )
    assert trace.error.endswith("the task raised ValueError: boom") == fails
    assert trace.kernel_meta["failure_code"] == "KERNEL_ERROR"
    json.loads(trace.to_json())


def test_k4_providers_that_give_no_time_are_kernel_errors() -> None:
    options: list[dict[str, Any]] = [
        {"now_provider": lambda: "noon"},
        {"perf_counter_provider": lambda: "a while"},
    ]
    for broken in options:
        trace = Kernel(**broken).execute(psi=PSI, task=lambda: 1)
        assert trace.failure_code is FailureCode.KERNEL_ERROR


def test_k4_invalid_input_wins_over_a_broken_provider() -> None:
    kernel = Kernel(now_provider=after(0, None, RuntimeError()))
    assert kernel.execute(psi=None, task=print).failure_code is FailureCode.INVALID_INPUT  # type: ignore[arg-type]


def test_a_kernel_error_is_a_tally_error_that_survives_copy_and_pickle() -> None:
    error = KernelError("now_provider", "raised RuntimeError: broken")
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert isinstance(twin, TallyError)
        assert (str(twin), twin.part, twin.problem) == (str(error), error.part, error.problem)


# -- K5 ------------------------------------------------------------------------------------


def test_k5_deterministic_mode() -> None:
    def once() -> ExecutionTrace[int]:
        return Kernel(deterministic_mode=True).execute(psi=PSI, task=lambda: 1)

    trace = once()
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert (trace.run_id, trace.runtime_ms, trace.started_at, trace.finished_at) == (
        "deterministic",
        0.0,
        epoch,
        epoch,
    )
    assert trace == once()
    assert trace.to_json() == once().to_json()


def test_k5_providers_say_otherwise_in_deterministic_mode_too() -> None:
    kernel = Kernel(
        deterministic_mode=True,
        run_id_factory=lambda: "r1",
        now_provider=iter([NOON, NOON + dt.timedelta(seconds=2)]).__next__,
        perf_counter_provider=iter([1.0, 3.0]).__next__,
    )
    trace = kernel.execute(psi=PSI, task=lambda: 1)
    assert (trace.run_id, trace.runtime_ms) == ("r1", 2000.0)
    assert (trace.started_at, trace.finished_at) == (NOON, NOON + dt.timedelta(seconds=2))


def test_k5_times_are_in_utc_whatever_the_provider_s_zone() -> None:
    east = NOON.astimezone(dt.timezone(dt.timedelta(hours=5)))
    for moment in (NOON, east, NOON.replace(tzinfo=None)):
        trace = Kernel(now_provider=lambda moment=moment: moment).execute(psi=PSI, task=lambda: 1)  # type: ignore[misc]
        assert trace.started_at == NOON
        assert trace.started_at.tzinfo is dt.UTC
        assert trace.to_dict()["started_at"] == "2026-03-12T12:00:00Z"


@pytest.mark.parametrize(
    "readings", [[5.0, 1.0], [float("inf")] * 2, [0.0, float("inf")], [0.0, float("nan")]]
)
def test_k5_the_runtime_is_never_negative(readings: list[float]) -> None:
    kernel = Kernel(perf_counter_provider=iter(readings).__next__)
    assert kernel.execute(psi=PSI, task=lambda: 1).runtime_ms == 0.0


def test_k5_the_clocks_are_real_by_default() -> None:
    before = dt.datetime.now(dt.UTC)
    trace = execute(lambda: sum(range(1000)))
    assert before <= trace.started_at <= trace.finished_at <= dt.datetime.now(dt.UTC)
    assert trace.runtime_ms > 0


# -- K6 ------------------------------------------------------------------------------------


def test_k6_the_core_alone_makes_the_digest() -> None:
    trace = execute(lambda: 1, metadata={"m": 1})
    core = (
        '{"exception_type":null,"failure_code":"OK","psi":{"metadata":{"currency":"EUR"},'
        '"name":"total","psi_type":"orders"},"success":true}'
    )
    assert trace.to_json(include_observational=False) == core
    assert trace.to_dict(include_observational=False) == json.loads(core)
    assert trace.digest() == hashlib.sha256(core.encode()).hexdigest()
    assert trace.digest() == execute(lambda: 2).digest()
    assert trace.digest() != execute(raising(ValueError())).digest()
    assert execute(raising(ValueError("a"))).digest() == execute(raising(ValueError("b"))).digest()


def test_k6_to_dict_and_to_json() -> None:
    kernel = Kernel(deterministic_mode=True)
    trace = kernel.execute(psi=PSI, task=lambda: {"é": (1, NOON)}, metadata={"m": {1}})
    told = trace.to_dict()
    assert set(told) == set(ExecutionTrace.__dataclass_fields__)
    assert told["output"] == {"é": [1, "2026-03-12T12:00:00Z"]}
    assert told["metadata"] == {"m": {"$omitted": "not JSON", "type": "frozenset"}}
    assert told["psi"] == PSI.describe()
    text = trace.to_json()
    assert text == json.dumps(told, sort_keys=True, separators=(",", ":"))
    assert text.isascii()


def test_k6_what_json_cannot_hold_is_named_by_its_type() -> None:
    loop: list[Any] = []
    loop.append(loop)
    metadata = {"set": {1}, 5: {1: 1, "1": 2}, "huge": 10**5000, "loop": loop}
    trace = Kernel().execute(psi=PsiDefinition("a", "b", metadata), task=lambda: iter([]))
    told = trace.to_dict()
    assert told["output"] == {"$omitted": "not JSON", "type": "list_iterator"}
    assert told["psi"]["metadata"]["set"]["$omitted"] == "not JSON"
    assert told["psi"]["metadata"]["huge"]["$omitted"] == "too large"
    assert trace.digest() == trace.digest()


# -- settings ------------------------------------------------------------------------------


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InvalidCall, match="ledger must be a Ledger"):
        Kernel(ledger="agents.tally")  # type: ignore[arg-type]
    with pytest.raises(InvalidCall, match="capture must be content or digest"):
        Kernel(capture="all")  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent, match="stream"):
        Kernel(stream="a\nb")


def test_many_threads_share_a_kernel() -> None:
    kernel = Kernel()
    outputs: list[Any] = []

    def work(number: int) -> None:
        for n in range(100):
            trace = kernel.execute(psi=PSI, task=lambda x: x, metadata={"n": number}, x=(number, n))
            outputs.append((trace.output, trace.metadata["n"]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs) == [((number, n), number) for number in range(8) for n in range(100)]


def test_generators_are_outputs_like_others() -> None:
    def task() -> Iterator[int]:
        yield 1

    trace = execute(task)
    assert trace.output is not None
    assert list(trace.output) == [1]


FORK = """
import os
from tallystick import Kernel, PsiDefinition
kernel, psi = Kernel(), PsiDefinition("t", "n")
run_id = lambda: kernel.execute(psi=psi, task=lambda: None).run_id
run_id()
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, run_id().encode())
    os._exit(0)
os.wait()
theirs = os.read(reader, 100).decode()
assert theirs and theirs not in {run_id() for _ in range(200)}
"""


def test_k3_run_ids_of_a_forked_process_are_its_own() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)
