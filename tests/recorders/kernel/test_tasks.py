"""Recorded functions and registered tasks (K8)."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from tallystick import (
    ExecutionTrace,
    InvalidCall,
    Kernel,
    Ledger,
    PsiDefinition,
    RecordingFailed,
    TaskTaken,
)


@pytest.fixture
def kernel(ledger: Ledger) -> Kernel:
    return Kernel(ledger=ledger)


def derived(ledger: Ledger) -> list[dict[str, Any]]:
    return [event.body["derived"] for event in ledger.read(kinds=["kernel.executed"])]


def test_a_recorded_function_returns_what_it_did(kernel: Kernel, ledger: Ledger) -> None:
    @kernel.task("orders", "total", metadata={"currency": "EUR"})
    def total(prices: list[int], discount: int = 0) -> int:
        """The sum."""
        return sum(prices) - discount

    assert total([1, 2], discount=1) == 2
    assert total([5]) == 5
    assert [(d["arguments"], d["output"]) for d in derived(ledger)] == [
        ({"prices": [1, 2], "discount": 1}, 2),
        ({"prices": [5]}, 5),
    ]
    assert total.psi == PsiDefinition("orders", "total", {"currency": "EUR"})
    assert derived(ledger)[0]["psi"] == total.psi.describe()
    assert (total.__name__, total.__doc__) == ("total", "The sum.")  # type: ignore[attr-defined]
    assert list(inspect.signature(total).parameters) == ["prices", "discount"]


def test_a_recorded_function_raises_what_it_did(kernel: Kernel, ledger: Ledger) -> None:
    error = KeyError("a")

    @kernel.task("orders", "find")
    def find(key: str) -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        find("a")
    assert caught.value is error
    assert derived(ledger)[0]["exception_type"] == "KeyError"

    @kernel.task("orders", "stop")
    def stop() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        stop()
    assert derived(ledger)[1]["exception_type"] == "SystemExit"


def test_execute_gives_the_trace(kernel: Kernel, ledger: Ledger) -> None:
    @kernel.task("orders", "halve")
    def halve(n: int) -> float:
        return 10 / n

    trace: ExecutionTrace[float] = halve.execute(n=4)
    assert (trace.success, trace.output) == (True, 2.5)
    assert halve.execute(0).exception_type == "ZeroDivisionError"
    assert [d["success"] for d in derived(ledger)] == [True, False]


def test_async_functions(kernel: Kernel, ledger: Ledger) -> None:
    @kernel.task("orders", "later")
    async def later(n: int) -> float:
        await asyncio.sleep(0)
        return 10 / n

    assert inspect.iscoroutinefunction(later)

    async def run() -> None:
        assert await later(4) == 2.5
        with pytest.raises(ZeroDivisionError):
            await later(0)
        assert (await later.execute(n=5)).output == 2

    asyncio.run(run())
    assert [d["output"] for d in derived(ledger)] == [2.5, None, 2.0]


def test_parameters_of_every_kind_are_recorded_by_name_and_can_be_given_again(
    kernel: Kernel, ledger: Ledger
) -> None:
    """Positional-only ones too; those of *rest as a list, those of **options as an object."""

    @kernel.task("t", "kinds", replayable=True)
    def kinds(a: int, /, b: int, *rest: int, c: int = 3, **options: int) -> list[Any]:
        return [a, b, list(rest), c, options]

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((1, 2), {}),
        ((1,), {"b": 2}),
        ((1, 2, 5, 6), {"c": 4, "d": 7, "a": 8}),
        ((1, 2), {"rest": 9, "options": 10}),
    ]
    outputs = [kinds(*args, **kwargs) for args, kwargs in calls]
    assert outputs[2] == [1, 2, [5, 6], 4, {"d": 7, "a": 8}]
    assert derived(ledger)[2]["arguments"] == {
        "a": 1,
        "b": 2,
        "rest": [5, 6],
        "c": 4,
        "options": {"d": 7, "a": 8},
    }
    registered = kernel.registered(kinds.psi)
    assert registered is not None
    for recorded, output in zip(derived(ledger), outputs, strict=True):
        again = Kernel().execute(psi=registered.psi, task=registered.task, **recorded["arguments"])
        assert again.output == output
        assert again.digest() == recorded["core_digest"]
    unknown = Kernel().execute(psi=registered.psi, task=registered.task, a=1, b=2, z=3)
    assert unknown.error == f"{kinds.__qualname__} has no parameter 'z'"  # type: ignore[attr-defined]


def test_a_call_that_does_not_fit_is_a_type_error_and_no_call(kernel: Kernel, ledger: Ledger) -> None:
    @kernel.task("t", "fits")
    def fits(a: int) -> int:
        return a

    for call in (fits, lambda: fits(1, 2), lambda: fits.execute(b=1)):  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            call()
    assert derived(ledger) == []


def test_methods_are_recorded_with_a_placeholder_for_self(kernel: Kernel, ledger: Ledger) -> None:
    class Desk:
        fee = 2

        @kernel.task("desk", "charge")
        def charge(self, cents: int) -> int:
            return cents + self.fee

    assert Desk().charge(5) == 7  # type: ignore[call-arg, arg-type]
    [recorded] = derived(ledger)
    assert recorded["arguments"]["cents"] == 5
    assert recorded["placeholders"] == ["/arguments/self"]
    assert recorded["arguments_digest"] is None


def test_the_result_survives_a_kernel_error(ledger: Ledger) -> None:
    def broken() -> str:
        raise RuntimeError("no ids left")

    kernel = Kernel(ledger=ledger, run_id_factory=broken)

    @kernel.task("t", "works")
    def works() -> str:
        return "done"

    assert works() == "done"
    assert derived(ledger)[0]["failure_code"] == "KERNEL_ERROR"


def test_a_lost_record_is_not_passed_over(kernel: Kernel, ledger: Ledger) -> None:
    @kernel.task("t", "works")
    def works() -> str:
        return "done"

    ledger.close()
    with pytest.raises(RecordingFailed) as caught:
        works()
    assert caught.value.result.output == "done"


# -- the registry --------------------------------------------------------------------------


def test_registered_tasks_are_found_by_psi(kernel: Kernel) -> None:
    def total(prices: list[int]) -> int:
        return sum(prices)

    psi = PsiDefinition("orders", "total")
    kernel.register(psi, total, replayable=True)
    found = kernel.registered(PsiDefinition("orders", "total", {"other": "metadata"}))
    assert found is not None
    assert (found.task, found.replayable, found.psi) == (total, True, psi)
    assert kernel.registry.find("orders", "total") == found
    assert kernel.registered(PsiDefinition("orders", "other")) is None
    assert list(kernel.registry) == [found]
    assert len(kernel.registry) == 1


def test_nothing_is_safe_to_run_again_unless_it_is_said(kernel: Kernel) -> None:
    kernel.register(PsiDefinition("a", "b"), print)

    @kernel.task("a", "c")
    def task() -> None: ...

    assert [registered.replayable for registered in kernel.registry] == [False, False]
    kernel.register(PsiDefinition("a", "b"), print, replayable=True)
    found = kernel.registry.find("a", "b")
    assert found is not None
    assert found.replayable


def test_two_tasks_of_one_name_are_refused(kernel: Kernel) -> None:
    kernel.register(PsiDefinition("a", "b"), print)
    with pytest.raises(TaskTaken, match="'a', 'b'"):
        kernel.register(PsiDefinition("a", "b"), len)
    with pytest.raises(TaskTaken):

        @kernel.task("a", "b")
        def task() -> None: ...

    assert [registered.task for registered in kernel.registry] == [print]


def test_what_cannot_be_registered_is_refused(kernel: Kernel) -> None:
    with pytest.raises(InvalidCall, match="psi must be a PsiDefinition"):
        kernel.register("a", print)  # type: ignore[arg-type]
    with pytest.raises(InvalidCall, match="task must be callable"):
        kernel.register(PsiDefinition("a", "b"), 5)  # type: ignore[arg-type]
    with pytest.raises(InvalidCall, match="a function with a signature"):
        kernel.task("a", "b")(5)  # type: ignore[arg-type]
