"""What a kernel makes of odd exceptions and interrupts."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import json
import weakref
from typing import Any

import pytest
from kernel_tasks import PSI, after, execute, raising

from tallystick import (
    FailureCode,
    Kernel,
)

NOON = dt.datetime(2026, 3, 12, 12, tzinfo=dt.UTC)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class NoText(Exception):
    def __str__(self) -> Any:
        return 5  # noqa: PLE0307

    __repr__ = __str__


class Exits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no")


class OddlyNamed(Exception, metaclass=Nameless):
    pass


@pytest.mark.parametrize(
    "error", [Mute(), NoText(), Exits(), OddlyNamed("x"), ValueError("\ud800"), ValueError()]
)
def test_odd_exceptions_are_told_as_far_as_they_go(error: Exception) -> None:
    trace = execute(raising(error))
    assert trace.failure_code is FailureCode.TASK_EXCEPTION
    for text in (trace.error, trace.exception_type, trace.exception_repr):
        assert type(text) is str
    json.loads(trace.to_json())
    assert len(trace.digest()) == 64


def test_strange_names_of_exceptions_are_kept() -> None:
    strange = type("We ird\n", (Exception,), {})
    assert execute(raising(strange("x"))).exception_type == "We ird\n"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), asyncio.CancelledError()]
)
def test_what_is_no_exception_is_raised_again(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        execute(raising(error))
    assert caught.value is error


def test_an_interrupt_while_a_provider_is_asked_is_raised() -> None:
    ran: list[int] = []
    kernel = Kernel(run_id_factory=after(0, "", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        kernel.execute(psi=PSI, task=lambda: ran.append(1))
    assert ran == []
    kernel = Kernel(now_provider=after(1, NOON, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        kernel.execute(psi=PSI, task=lambda: ran.append(1))
    assert ran == [1]


def test_an_interrupt_while_an_exception_is_described_is_raised() -> None:
    class Slow(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(raising(Slow()))


def test_a_failed_execution_keeps_nothing_alive() -> None:
    """The exception's traceback holds the frames of the task; nothing may hold the exception."""

    class Large:
        pass

    held: list[weakref.ref[Large]] = []

    def task() -> None:
        large = Large()
        held.append(weakref.ref(large))
        raise ValueError(large)

    gc.disable()
    try:
        execute(task)
        assert held[0]() is None
    finally:
        gc.enable()
