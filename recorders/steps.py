"""Procedures written once for threads and for asyncio: a generator says what is to be done, a driver does it.

A procedure yields requests, gets their answers or errors where it yielded, and returns its result. The
drivers differ only in awaiting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

R = TypeVar("R")
Steps = Generator[Any, Any, R]


def run(steps: Steps[R], perform: Callable[[Any], Any]) -> R:
    """Carry a procedure through; `perform` answers its requests or raises."""
    try:
        request = next(steps)
        while True:
            try:
                answer = perform(request)
            except BaseException as error:
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


async def run_async(steps: Steps[R], perform: Callable[[Any], Awaitable[Any]]) -> R:
    """`run`, awaiting each answer; a cancellation is raised where the procedure waits."""
    try:
        request = next(steps)
        while True:
            try:
                answer = await perform(request)
            except BaseException as error:
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result
