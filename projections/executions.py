"""The projection `executions`: kernel executions and the pipelines that they were steps of (contract K8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from tallystick.events import kernel as events
from tallystick.ledger.event import Event

from .projection import Projection, Table
from .tables import Tables
from .texts import NULL, Int64, session_of, text_of


class _Psi(msgspec.Struct, frozen=True):
    psi_type: str
    name: str


class _Execution(msgspec.Struct, frozen=True):
    success: bool
    psi: _Psi | None = None
    failure_code: str | None = None
    exception_type: str | None = None
    output: msgspec.Raw = NULL
    core_digest: str | None = None


class _Observed(msgspec.Struct, frozen=True):
    run_id: str | None = None
    runtime_ms: float | None = None
    error: str | None = None
    call_id: str | None = None


class _Executed(msgspec.Struct, frozen=True):
    derived: _Execution
    observed: _Observed


class _Pipeline(msgspec.Struct, frozen=True):
    success: bool
    failure_code: str | None = None
    steps: Int64 = 0


class _PipelineObserved(msgspec.Struct, frozen=True):
    failure_message: str | None = None


class _PipelineCompleted(msgspec.Struct, frozen=True):
    derived: _Pipeline
    observed: _PipelineObserved
    executions: list[Int64] | None = None


class Executions(Projection):
    """Two tables; `seq` is that of the event, `at` microseconds since 1970 UTC.

    Of an event whose body was erased, only its place and time are left.
    """

    name = "executions"
    version = 1
    kinds: ClassVar[Mapping[str, Any]] = {
        events.EXECUTED: _Executed,
        events.PIPELINE_COMPLETED: _PipelineCompleted,
    }
    apply_erased = True
    tables: ClassVar[Mapping[str, Table]] = {
        "executions": Table(
            columns={
                "seq": int,
                "stream": str,
                "session_id": str,
                "psi_type": str,
                "name": str,
                "success": bool,
                "failure_code": str,
                "exception_type": str,
                "error": str,
                "output": str,
                "run_id": str,
                "call_id": str,
                "runtime_ms": float,
                "core_digest": str,
                "at": int,
            },
            pk="seq",
            indexes=("stream",),
            search=("name", "error", "output"),
        ),
        "pipelines": Table(
            columns={
                "seq": int,
                "stream": str,
                "session_id": str,
                "success": bool,
                "failure_code": str,
                "failure_message": str,
                "steps": int,
                "executions": list,
                "at": int,
            },
            pk="seq",
            indexes=("stream",),
        ),
    }

    def apply(self, event: Event, tables: Tables) -> None:
        """Put the execution, or the pipeline, into its table."""
        place = {
            "seq": event.seq,
            "stream": event.stream,
            "session_id": session_of(event.stream),
            "at": event.at,
        }
        executed = event.kind == events.EXECUTED
        said: dict[str, Any] = {}
        if event.body is not None:
            said = _execution(event.body) if executed else _pipeline(event.body)
        tables["executions" if executed else "pipelines"].put({**place, **said})

    def forget(self, stream: str, tables: Tables) -> None:
        """Delete what was executed in the stream."""
        tables["executions"].delete_where(stream=stream)
        tables["pipelines"].delete_where(stream=stream)


def _execution(body: _Executed) -> dict[str, Any]:
    done, seen = body.derived, body.observed
    return {
        "psi_type": done.psi.psi_type if done.psi is not None else None,
        "name": done.psi.name if done.psi is not None else None,
        "success": done.success,
        "failure_code": done.failure_code,
        "exception_type": done.exception_type,
        "error": seen.error,
        "output": text_of(done.output),
        "run_id": seen.run_id,
        "call_id": seen.call_id,
        "runtime_ms": seen.runtime_ms,
        "core_digest": done.core_digest,
    }


def _pipeline(body: _PipelineCompleted) -> dict[str, Any]:
    done = body.derived
    return {
        "success": done.success,
        "failure_code": done.failure_code,
        "failure_message": body.observed.failure_message,
        "steps": done.steps,
        "executions": body.executions,
    }
