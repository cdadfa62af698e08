"""Pipelines: steps run in order by one kernel, up to the first that fails (contract K7).

    result = CAEL(kernel).run([(READ, read, {"path": path}), (SUM, total, {"column": "cents"})])
    result.success, result.final_output, [trace.output for trace in result.traces]

With a ledger every run ends in a `pipeline.completed` that names its executions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from tallystick.ledger.errors import RecordingFailed
from tallystick.ledger.event import NewEvent

from ..errors import InvalidCall
from ..recording import NOT_STORED, Stored, record, record_async, settle
from .events import pipeline_event
from .frozen import freeze
from .kernel import Kernel, Outcome, check_metadata
from .psi import PsiDefinition
from .trace import ExecutionTrace

T = TypeVar("T")
Step = tuple[PsiDefinition, Callable[..., Any], Mapping[str, Any]]

INVALID_STEP: Final = "INVALID_STEP"
#: The work of a step was done, and its record lost; the pipeline stopped there.
RECORDING_FAILED: Final = "RECORDING_FAILED"
#: Something that is no Exception ended the run between its steps.
INTERRUPTED: Final = "INTERRUPTED"


@dataclass(frozen=True)
class CaelResult(Generic[T]):
    """What became of a pipeline.

    traces: of the steps that were executed, in order. final_output: of the last successful step; None
    if the first one failed. failure_code: None on success; else the failing step's, `INVALID_STEP`, or
    `RECORDING_FAILED`. failure_message: why, in words; None on success.
    """

    traces: list[ExecutionTrace[Any]]
    final_output: T | None
    success: bool
    failure_code: str | None = None
    failure_message: str | None = None


@dataclass
class _Progress:
    """How far a run has come."""

    given: int
    metadata: Mapping[Any, Any]
    failure: tuple[str | None, str | None]
    traces: list[ExecutionTrace[Any]] = field(default_factory=list)
    seqs: list[int | None] = field(default_factory=list)
    final_output: Any = None
    interrupt: BaseException | None = None
    lost: RecordingFailed | None = None

    def add(self, outcome: Outcome) -> bool:
        """Take note of a step's outcome; true if the next step may run."""
        trace = outcome.trace
        self.traces.append(trace)
        self.seqs.append(outcome.seq)
        self.lost = outcome.lost
        if trace.success:
            self.final_output = trace.output
        else:
            self.failure = (trace.failure_code.value, trace.error)
        if outcome.interrupt is not None:
            self.stop(outcome.interrupt)
        elif outcome.lost is not None and trace.success:
            self.failure = (RECORDING_FAILED, str(outcome.lost.cause))
        return self.failure[0] is None

    def stop(self, interrupt: BaseException) -> None:
        """Take note of what is to be raised again, which ends the run."""
        self.interrupt = interrupt
        if self.failure[0] is None:
            self.failure = (INTERRUPTED, type(interrupt).__name__)

    def result(self) -> CaelResult[Any]:
        """The run's result as of now."""
        code, message = self.failure
        return CaelResult(self.traces, self.final_output, code is None, code, message)

    def end(self, result: CaelResult[Any], stored: Stored) -> CaelResult[Any]:
        """The result, if nothing has to be raised."""
        lost = stored.lost or self.lost
        if self.lost is not None:
            lost = RecordingFailed(self.lost.cause, [*self._others(self.lost), result])
            lost.__cause__ = self.lost
        settle(self.interrupt or stored.cancelled, lost)
        return result

    def _others(self, lost: RecordingFailed) -> list[Any]:
        """Results of other calls whose records waited in the same batch and were lost with it."""
        return [other for other in lost.results if all(other is not trace for trace in self.traces)]


class CAEL:
    """Runs pipelines of steps with one kernel. Raises InvalidCall if it is given something else."""

    def __init__(self, kernel: Kernel) -> None:
        if not isinstance(kernel, Kernel):
            raise InvalidCall("CAEL", "kernel", "a Kernel", type(kernel).__name__)
        self._kernel = kernel

    def run(self, steps: Iterable[Step], metadata: Mapping[Any, Any] | None = None) -> CaelResult[Any]:
        """Execute the steps, tuples (psi, task, kwargs), in order, up to the first that fails.

        All are checked before any runs: a bad one gives `INVALID_STEP` and no traces. metadata goes to every
        execution. Raises RecordingFailed, whose `result` is the CaelResult up to there (the run
        stops at a step whose record was lost), and, once recorded, what is no Exception.
        """
        valid, progress = self._begin(steps, metadata)
        try:
            for psi, task, kwargs in valid:
                if not progress.add(self._kernel.run(psi, task, progress.metadata, dict(kwargs))):
                    break
        except BaseException as error:
            progress.stop(error)
        result = progress.result()
        ledger = self._kernel.ledger
        stored = NOT_STORED if ledger is None else record(ledger, lambda: self._event(progress), result)
        return progress.end(result, stored)

    async def run_async(
        self, steps: Iterable[Step], metadata: Mapping[Any, Any] | None = None
    ) -> CaelResult[Any]:
        """As `run`, with every task awaited that can be, and without blocking the event loop to record."""
        valid, progress = self._begin(steps, metadata)
        try:
            for psi, task, kwargs in valid:
                outcome = await self._kernel.run_async(psi, task, progress.metadata, dict(kwargs))
                if not progress.add(outcome):
                    break
        except BaseException as error:
            progress.stop(error)
        result = progress.result()
        stored = await record_async(self._kernel.ledger, lambda: self._event(progress), result)
        return progress.end(result, stored)

    def _begin(
        self, steps: Iterable[Step], metadata: Mapping[Any, Any] | None
    ) -> tuple[list[Step], _Progress]:
        """The steps, none if one is bad, and a record of the run to come."""
        check_metadata("run", metadata)
        try:
            given = list(steps)
        except TypeError:
            return [], _Progress(0, freeze(metadata), (INVALID_STEP, "steps must be a sequence"))
        for number, step in enumerate(given):
            problem = _problem(step)
            if problem:
                failure = (INVALID_STEP, f"step {number}: {problem}")
                return [], _Progress(len(given), freeze(metadata), failure)
        return given, _Progress(len(given), freeze(metadata), (None, None))

    def _event(self, progress: _Progress) -> NewEvent:
        kernel = self._kernel
        seqs = [seq for seq in progress.seqs if seq is not None]
        named = seqs if len(seqs) == len(progress.traces) else None
        return pipeline_event(
            progress.traces,
            named,
            progress.given,
            progress.failure,
            progress.metadata,
            kernel.capture,
            kernel.stream,
        )


def _problem(step: object) -> str | None:
    """What is wrong with a step, or None."""
    if not isinstance(step, tuple) or len(step) != 3:
        return "must be a tuple (psi, task, kwargs)"
    psi, task, kwargs = step
    if not isinstance(psi, PsiDefinition):
        return f"psi must be a PsiDefinition, got {type(psi).__name__}"
    if not callable(task):
        return f"task must be callable, got {type(task).__name__}"
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        return "kwargs must be a mapping whose keys are strings"
    return None
