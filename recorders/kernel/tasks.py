"""Functions that record each of their calls: `@kernel.task("type", "name")` (contract K8)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

from ..errors import InvalidCall
from .psi import PsiDefinition

if TYPE_CHECKING:
    from .kernel import Kernel, Outcome

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
Arguments = Mapping[str, Any]


class RecordedTask(Protocol[P, R_co]):
    """A function that returns and raises as it did before, and of which each call is recorded.

    Its arguments are recorded by the names of its parameters, as far as they are given: positional
    ones, too, those of `*args` as a list under its name, those of `**kwargs` as an object under its.
    A call that does not fit the parameters is a TypeError and no call. `execute` takes the same arguments
    and gives the trace instead (to be awaited for an `async` function). `psi` is what it is recorded as.
    """

    psi: PsiDefinition
    execute: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """As the function itself."""


class TaskDecorator:
    """What `Kernel.task` returns."""

    def __init__(self, kernel: Kernel, psi: PsiDefinition, replayable: bool) -> None:
        self._kernel = kernel
        self._psi = psi
        self._replayable = replayable

    def __call__(self, function: Callable[P, R_co]) -> RecordedTask[P, R_co]:
        """The recorded form of a function."""
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            raise InvalidCall(
                "task", "the decorated object", "a function with a signature", type(function).__name__
            ) from None
        self._kernel.register(self._psi, _by_name(function, signature), replayable=self._replayable)
        wrapped = self._asynchronous if inspect.iscoroutinefunction(function) else self._synchronous
        recorded = wrapped(function, signature)
        recorded.psi = self._psi
        return cast("RecordedTask[P, R_co]", recorded)

    def _synchronous(self, function: Callable[..., Any], signature: inspect.Signature) -> Any:
        kernel, psi = self._kernel, self._psi

        def run(args: tuple[Any, ...], kwargs: Arguments) -> Outcome:
            arguments = signature.bind(*args, **kwargs).arguments
            return kernel.run(psi, lambda **_: function(*args, **kwargs), None, arguments)

        def execute(*args: Any, **kwargs: Any) -> Any:
            """The trace of one recorded call."""
            outcome = run(args, kwargs)
            outcome.check()
            return outcome.trace

        @wraps(function)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            return _result(run(args, kwargs))

        cast("Any", recorded).execute = execute
        return recorded

    def _asynchronous(self, function: Callable[..., Any], signature: inspect.Signature) -> Any:
        kernel, psi = self._kernel, self._psi

        async def run(args: tuple[Any, ...], kwargs: Arguments) -> Outcome:
            arguments = signature.bind(*args, **kwargs).arguments
            return await kernel.run_async(psi, lambda **_: function(*args, **kwargs), None, arguments)

        async def execute(*args: Any, **kwargs: Any) -> Any:
            """The trace of one recorded call."""
            outcome = await run(args, kwargs)
            outcome.check()
            return outcome.trace

        @wraps(function)
        async def recorded(*args: Any, **kwargs: Any) -> Any:
            return _result(await run(args, kwargs))

        cast("Any", recorded).execute = execute
        return recorded


def _result(outcome: Outcome) -> Any:
    """What the function itself would have given."""
    try:
        outcome.check()
        if outcome.error is not None:
            raise outcome.error
        return outcome.output
    finally:
        del outcome


def _by_name(function: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """The function called with recorded arguments: everything by its parameter's name."""

    @wraps(function)
    def by_name(**arguments: Any) -> Any:
        unknown = arguments.keys() - signature.parameters.keys()
        if unknown:
            raise TypeError(f"{function.__qualname__} has no parameter {min(unknown)!r}")
        bound = inspect.BoundArguments(signature, arguments)
        return function(*bound.args, **bound.kwargs)

    return by_name
