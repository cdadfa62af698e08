"""The kernel: runs a task once, says what became of it, and records it (contracts K2 to K5, K8).

    kernel = Kernel(ledger=ledger)
    trace = kernel.execute(psi=PsiDefinition("orders", "total"), task=total, orders=[1, 2])
    trace.success, trace.output, trace.digest()

    @kernel.task("orders", "total", replayable=True)
    def total(orders): ...

A kernel needs no ledger. With one, every execution is one `kernel.executed`, stored before `execute`
returns; or later, inside `with ledger.batch():`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

import msgspec

from tallystick.ledger.aio import AsyncLedger
from tallystick.ledger.errors import RecordingFailed
from tallystick.ledger.kinds import check_name
from tallystick.ledger.ledger import Ledger

from ..capture import Snapshot, snapshot
from ..errors import InvalidCall
from ..recording import NOT_STORED, Stored, record, record_async, settle
from .events import CAPTURES, Capture, execution_event
from .execution import NOT_CALLED, Called, Providers, Run, call, call_async
from .psi import PsiDefinition
from .registry import Registered, Registry
from .tasks import TaskDecorator
from .trace import ExecutionTrace

T = TypeVar("T")

#: The stream of a kernel that was given none.
DEFAULT_STREAM: Final = "kernel"
_NO_ARGUMENTS: Final = Snapshot(b"null", None, [])


class Outcome(msgspec.Struct, frozen=True):
    """What became of one execution, its record included.

    output: what the task returned, even if a provider's fault keeps it out of the trace.
    error: what the task raised. interrupt: what is to be raised again, now that it is recorded.
    seq: of its event; None without a ledger, in a batch, and if `lost`.
    lost: why it could not be recorded.
    """

    trace: ExecutionTrace[Any]
    output: Any
    error: BaseException | None
    interrupt: BaseException | None
    seq: int | None
    lost: RecordingFailed | None

    def check(self) -> None:
        """Raise what must not be passed over."""
        settle(self.interrupt, self.lost)


class Kernel:
    """Executes tasks, each once, and never raises for what they do. Safe to share between threads and tasks.

    ledger: a Ledger or an AsyncLedger, or None to record nothing; it may be set later, for a kernel
    that is made when its module is loaded. stream: where the events go, `kernel` by default.
    capture: `digest` leaves arguments, outputs and texts of exceptions out of the ledger.
    run_id_factory, now_provider, perf_counter_provider: functions without arguments that give
    a run id, a datetime and a count of seconds. deterministic_mode: constants in their place.
    Raises InvalidCall and InvalidEvent for bad settings.
    """

    def __init__(
        self,
        *,
        ledger: Ledger | AsyncLedger | None = None,
        stream: str | None = None,
        run_id_factory: Callable[[], Any] | None = None,
        now_provider: Callable[[], dt.datetime] | None = None,
        perf_counter_provider: Callable[[], float] | None = None,
        deterministic_mode: bool = False,
        capture: Capture = "content",
    ) -> None:
        if capture not in CAPTURES:
            raise InvalidCall("Kernel", "capture", " or ".join(CAPTURES), repr(capture))
        self._ledger: Ledger | AsyncLedger | None = None
        self.ledger = ledger
        self.stream = DEFAULT_STREAM if stream is None else check_name(stream, "stream")
        self.capture: Capture = capture
        self.registry = Registry()
        self._providers = Providers.chosen(
            run_id_factory, now_provider, perf_counter_provider, deterministic_mode
        )

    # -- executing -------------------------------------------------------------------------

    def execute(
        self,
        /,
        *,
        psi: PsiDefinition,
        task: Callable[..., T],
        metadata: Mapping[Any, Any] | None = None,
        **kwargs: Any,
    ) -> ExecutionTrace[T]:
        """Call `task(**kwargs)` exactly once; the trace of it, which is recorded first.

        An exception of the task is in the trace. One that is no Exception, such as KeyboardInterrupt,
        is recorded and then raised again. A task that gives a coroutine is not awaited. Raises
        RecordingFailed, whose `result` is the trace, and InvalidCall if metadata is no mapping.
        """
        outcome = self.run(psi, task, metadata, kwargs)
        try:
            outcome.check()
            return cast("ExecutionTrace[T]", outcome.trace)
        finally:
            del outcome  # as in `run`

    async def execute_async(
        self,
        /,
        *,
        psi: PsiDefinition,
        task: Callable[..., Any],
        metadata: Mapping[Any, Any] | None = None,
        **kwargs: Any,
    ) -> ExecutionTrace[Any]:
        """As `execute`, and what the task gives is awaited if it can be; plain functions do as well.

        Recording does not block the event loop. A task that is cancelled is recorded as failed, and
        CancelledError raised again; a cancellation while the record is written waits for it.
        """
        outcome = await self.run_async(psi, task, metadata, kwargs)
        try:
            outcome.check()
            return outcome.trace
        finally:
            del outcome

    def run(
        self,
        psi: PsiDefinition,
        task: Callable[..., Any],
        metadata: Mapping[Any, Any] | None,
        kwargs: Mapping[str, Any],
    ) -> Outcome:
        """`execute` for other recorders: what it would raise is in the outcome."""
        ledger = self._ledger
        run, arguments = self._begin(ledger, psi, task, metadata, kwargs)
        called = call(task, kwargs) if run.callable else NOT_CALLED
        finished = run.finish(called)
        stored = NOT_STORED
        if ledger is not None:
            stored = record(
                ledger,
                lambda: execution_event(finished, arguments, self.capture, self.stream),
                finished.trace,
            )
        try:
            return _outcome(run, called, finished.trace, stored)
        finally:
            del called  # its exception's traceback leads to this frame: a cycle would keep both alive

    async def run_async(
        self,
        psi: PsiDefinition,
        task: Callable[..., Any],
        metadata: Mapping[Any, Any] | None,
        kwargs: Mapping[str, Any],
    ) -> Outcome:
        """`execute_async` for other recorders: what it would raise is in the outcome."""
        ledger = self._ledger
        run, arguments = self._begin(ledger, psi, task, metadata, kwargs)
        called = await call_async(task, kwargs) if run.callable else NOT_CALLED
        finished = run.finish(called)
        stored = await record_async(
            ledger,
            lambda: execution_event(finished, arguments, self.capture, self.stream),
            finished.trace,
        )
        try:
            return _outcome(run, called, finished.trace, stored)
        finally:
            del called

    def _begin(
        self,
        ledger: Ledger | AsyncLedger | None,
        psi: object,
        task: object,
        metadata: Mapping[Any, Any] | None,
        kwargs: Mapping[str, Any],
    ) -> tuple[Run, Snapshot]:
        """The run, and the arguments as they are before the task may change them."""
        check_metadata("execute", metadata)
        arguments = _NO_ARGUMENTS if ledger is None else snapshot(kwargs, "/arguments")
        return Run(self._providers, psi, task, metadata), arguments

    @property
    def ledger(self) -> Ledger | AsyncLedger | None:
        """Where executions are recorded. One that is under way is recorded where it began."""
        return self._ledger

    @ledger.setter
    def ledger(self, ledger: Ledger | AsyncLedger | None) -> None:
        if ledger is not None and not isinstance(ledger, (Ledger, AsyncLedger)):
            raise InvalidCall("Kernel", "ledger", "a Ledger, an AsyncLedger or None", type(ledger).__name__)
        self._ledger = ledger

    # -- tasks by name ---------------------------------------------------------------------

    def task(
        self,
        psi_type: str,
        name: str,
        *,
        metadata: Mapping[Any, Any] | None = None,
        replayable: bool = False,
    ) -> TaskDecorator:
        """Turn a function, `async` or not, into a recorded one, and register it; see `RecordedTask`.

            @kernel.task("orders", "total")
            def total(orders): ...

        metadata: the psi's. Raises InvalidPsi, TaskTaken.
        """
        return TaskDecorator(self, PsiDefinition(psi_type, name, metadata), replayable)

    def register(
        self, psi: PsiDefinition, task: Callable[..., Any], *, replayable: bool = False
    ) -> Registered:
        """Register a task under its psi's type and name; see `Registry.add`.

        replayable: running it again is safe, so that a replay may.
        """
        return self.registry.add(psi, task, replayable)

    def registered(self, psi: PsiDefinition) -> Registered | None:
        """What is registered under this psi's type and name, or None."""
        return self.registry.find(psi.psi_type, psi.name)


def check_metadata(call_name: str, metadata: object) -> None:
    """Refuse metadata that is no mapping. Raises InvalidCall."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidCall(call_name, "metadata", "a mapping or None", type(metadata).__name__)


def _outcome(run: Run, called: Called, trace: ExecutionTrace[Any], stored: Stored) -> Outcome:
    interrupt = called.error if not isinstance(called.error, Exception) else None
    return Outcome(
        trace,
        called.output,
        called.error,
        interrupt or run.interrupt or stored.cancelled,
        stored.receipts[0].seq if stored.receipts else None,
        stored.lost,
    )
