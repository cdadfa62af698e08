"""What a kernel is asked to execute in tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from tallystick import ExecutionTrace, Kernel, PsiDefinition

PSI = PsiDefinition("orders", "total", {"currency": "EUR"})


def raising(error: BaseException) -> Callable[..., Any]:
    """A task that raises this."""

    def task(**_: Any) -> Any:
        raise error

    return task


def execute(task: Callable[..., Any], **options: Any) -> ExecutionTrace[Any]:
    """The task's trace by a new kernel that records nowhere."""
    return Kernel().execute(psi=PSI, task=task, **options)


def after(calls: int, value: Any, error: BaseException) -> Callable[[], Any]:
    """A provider that raises from a certain call on."""
    counter = itertools.count()

    def provider() -> Any:
        if next(counter) >= calls:
            raise error
        return value

    return provider
