"""One execution, step by step: the clocks are asked, the task is called, the trace is made (K2 to K5).

Nothing here knows of a ledger. `Run` is made before the call and finished after it, so that the
synchronous and the asynchronous kernel share everything but the call itself.
"""

from __future__ import annotations

import datetime as dt
import inspect
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from ..capture import text_of
from ..errors import KernelError
from .frozen import FrozenDict, freeze, utc
from .psi import INVALID, PsiDefinition
from .trace import ExecutionTrace, FailureCode

EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
#: The run id of a trace for which there was none to be had.
NO_RUN_ID: Final = "invalid"
#: For a text of an exception of which the methods raise.
UNKNOWN: Final = "<cannot be told: asking for it raised>"
DETERMINISTIC: Final = "deterministic"
_RUN_ID_BYTES: Final = 16
_RUN_IDS_AHEAD: Final = 64


class Providers(NamedTuple):
    """Where a kernel gets its run ids and its times from. `perf_counter` counts seconds."""

    run_id: Callable[[], str]
    now: Callable[[], dt.datetime]
    perf_counter: Callable[[], float]

    @classmethod
    def chosen(
        cls,
        run_id: Callable[[], Any] | None,
        now: Callable[[], dt.datetime] | None,
        perf_counter: Callable[[], float] | None,
        deterministic: bool,
    ) -> Providers:
        """Those given; for the others the clocks, or in deterministic mode constants (contract K5)."""
        constant = cls(lambda: DETERMINISTIC, lambda: EPOCH, lambda: 0.0)
        otherwise = constant if deterministic else cls(RandomIds(), _now, time.perf_counter)
        return cls(
            otherwise.run_id if run_id is None else lambda: str(run_id()),
            otherwise.now if now is None else lambda: utc(now()),
            otherwise.perf_counter if perf_counter is None else perf_counter,
        )


class RandomIds:
    """Random run ids, their bytes drawn ahead of need: each draw is a system call."""

    def __init__(self) -> None:
        self._ready: list[str] = []
        self._pid = os.getpid()

    def __call__(self) -> str:
        """A run id that was given to no other run, in no other process either."""
        if self._pid != os.getpid():  # a fork copied what was drawn
            self._ready, self._pid = [], os.getpid()
        try:
            return self._ready.pop()
        except IndexError:
            size = 2 * _RUN_ID_BYTES
            drawn = os.urandom(_RUN_ID_BYTES * _RUN_IDS_AHEAD).hex()
            first, *rest = (drawn[i : i + size] for i in range(0, len(drawn), size))
            self._ready += rest
            return first


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Called(msgspec.Struct, frozen=True):
    """What came of calling a task: what it returned, or what it raised."""

    output: Any
    error: BaseException | None


NOT_CALLED: Final = Called(None, None)


def call(task: Callable[..., Any], kwargs: Mapping[str, Any]) -> Called:
    """Call the task once. The caller holds the exception alone, so its traceback makes no cycle."""
    try:
        return Called(task(**kwargs), None)
    except BaseException as error:
        return Called(None, error)


async def call_async(task: Callable[..., Any], kwargs: Mapping[str, Any]) -> Called:
    """Call the task once, and await what it returns if that can be awaited."""
    try:
        output = task(**kwargs)
        return Called(await output if inspect.isawaitable(output) else output, None)
    except BaseException as error:
        return Called(None, error)


class Run:
    """One execution under way: begun when it is made, ended by `finish`."""

    __slots__ = (
        "_began_s",
        "_faults",
        "_interrupts",
        "_invalid",
        "_metadata",
        "_providers",
        "_psi",
        "_run_id",
        "_started_at",
    )

    def __init__(
        self,
        providers: Providers,
        psi: object,
        task: object,
        metadata: Mapping[Any, Any] | None,
    ) -> None:
        self._providers = providers
        self._invalid = _invalid_input(psi, task)
        self._psi = psi if isinstance(psi, PsiDefinition) else INVALID
        self._metadata = freeze(metadata)
        self._faults: list[tuple[str, BaseException]] = []
        self._interrupts: list[BaseException] = []
        self._run_id: str | None = self._ask("run_id_factory", providers.run_id)
        self._started_at: dt.datetime | None = self._ask("now_provider", providers.now)
        self._began_s = self._ask("perf_counter_provider", providers.perf_counter)
        if self.interrupt is not None:  # nothing was called yet, so there is nothing to tell of
            raise self.interrupt

    @property
    def callable(self) -> bool:
        """Whether the task is to be called."""
        return self._invalid is None

    @property
    def interrupt(self) -> BaseException | None:
        """What to raise again: a KeyboardInterrupt that came while a provider was asked, say."""
        return self._interrupts[0] if self._interrupts else None

    def finish(self, called: Called) -> Finished:
        """The trace of the execution, now that the task has returned, raised or not been called."""
        runtime_ms = self._ask("perf_counter_provider", self._elapsed_ms)
        finished_at: dt.datetime | None = self._ask("now_provider", self._providers.now)
        code, error = FailureCode.OK, called.error
        described: tuple[str, str, str] | tuple[None, None, None] = (None, None, None)
        if self._invalid is not None:
            code, described = FailureCode.INVALID_INPUT, self._described(self._invalid)
        elif self._faults:
            code, described = FailureCode.KERNEL_ERROR, self._described(self._kernel_error(error))
        elif error is not None:
            code, described = FailureCode.TASK_EXCEPTION, self._described(error)
        exception_type, text, representation = described
        run_id = NO_RUN_ID if self._run_id is None else self._run_id
        started, finished = self._started_at or EPOCH, finished_at or EPOCH
        success = code is FailureCode.OK
        kernel_meta = FrozenDict(
            run_id=run_id,
            started_at=started,
            finished_at=finished,
            runtime_ms=runtime_ms or 0.0,
            failure_code=code.value,
            success=success,
        )
        fields = {
            "psi": self._psi,
            "output": called.output if success else None,
            "error": text,
            "exception_type": exception_type,
            "exception_repr": representation,
            "metadata": self._metadata,
            "kernel_meta": kernel_meta,
        }
        trace = ExecutionTrace.of({**kernel_meta, **fields, "failure_code": code})
        return Finished(trace, self._started_at, finished_at, runtime_ms)

    def _ask(self, provider: str, ask: Callable[[], Any]) -> Any:
        """What a provider says; None if it raises, which is noted."""
        try:
            return ask()
        except BaseException as error:
            self._faults.append((provider, error))
            if not isinstance(error, Exception):
                self._interrupts.append(error)
            return None

    def _elapsed_ms(self) -> float | None:
        """Milliseconds since the run began: never negative (contract K5); None if the start is unknown."""
        ended_s = self._providers.perf_counter()
        if self._began_s is None:
            return None
        elapsed_ms = float(ended_s - self._began_s) * 1000.0
        return elapsed_ms if 0.0 <= elapsed_ms < float("inf") else 0.0

    def _kernel_error(self, raised: BaseException | None) -> KernelError:
        provider, fault = self._faults[0]
        problem = f"raised {self._type_name(fault)}: {self._text(lambda: str(fault))}"
        if raised is not None:
            problem += f"; the task raised {self._type_name(raised)}: {self._text(lambda: str(raised))}"
        return KernelError(provider, problem)

    def _described(self, error: BaseException) -> tuple[str, str, str]:
        """The exception's type, text and repr, whatever its own methods do."""
        return self._type_name(error), self._text(lambda: str(error)), self._text(lambda: repr(error))

    def _type_name(self, error: BaseException) -> str:
        return self._text(lambda: type(error).__name__)

    def _text(self, describe: Callable[[], str]) -> str:
        try:
            return str.__str__(describe())
        except KeyboardInterrupt as interrupt:
            self._interrupts.append(interrupt)
            return UNKNOWN
        except BaseException:
            return UNKNOWN


class Finished(msgspec.Struct, frozen=True):
    """A trace, and the readings behind it: None where a provider raised and the trace has a stand-in."""

    trace: ExecutionTrace[Any]
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    runtime_ms: float | None


def _invalid_input(psi: object, task: object) -> KernelError | None:
    """Why nothing can be called (contract K4), or None."""
    if not callable(task):
        part, found, expected = "task", type(task), "callable"
    elif not isinstance(psi, PsiDefinition):
        part, found, expected = "psi", type(psi), "a PsiDefinition"
    else:
        return None
    return KernelError(part, f"must be {expected}, got {text_of(lambda: found.__name__, UNKNOWN)}")
