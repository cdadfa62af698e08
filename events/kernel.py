"""The area `kernel`: executions and pipelines of them (contracts K3, K7, K8).

`derived` holds what follows from the recorded inputs when the task is deterministic, `observed` what
another run may not repeat: clocks, run ids, texts of exceptions.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

EXECUTED: Final = "kernel.executed"
PIPELINE_COMPLETED: Final = "pipeline.completed"


class Psi(msgspec.Struct, frozen=True, kw_only=True):
    """What was to be executed, as its caller named it.

    psi_type: the caller's class of execution; opaque.
    name: the caller's name for it; opaque.
    metadata: the caller's own object, keys as strings.
    """

    psi_type: str
    name: str
    metadata: Any


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an execution that running the task again must give again.

    psi: what was to be executed; null if the caller gave no PsiDefinition (in the core, both its names
        are then `invalid`). A name that is too long or no text is cut or mended, and pointed at.
    arguments: the keyword arguments; null where only their digest was captured.
    arguments_digest: `blake3:` and the hex of the BLAKE3 of the arguments' canonical JSON; null if
        they hold a placeholder.
    success: whether the task raised nothing.
    failure_code: `OK`, `TASK_EXCEPTION`, `INVALID_INPUT` or `KERNEL_ERROR`.
    exception_type: name of the exception's type; null on success. Cut or mended as names are.
    output: what the task returned; null on failure, and where only its digest was captured.
    output_digest: digest of the output, as of the arguments; null on failure and for a placeholder.
    core_digest: SHA-256 hex of the trace's deterministic core.
    placeholders: where a value that is no JSON, or too large, was replaced by
        `{"$omitted": reason, "type": name}`: JSON pointers into this object (RFC 6901).
    capture: `content`, or `digest` if arguments and output were left out on purpose.
    """

    psi: Psi | None
    arguments: Any
    arguments_digest: str | None
    success: bool
    failure_code: str
    exception_type: str | None
    output: Any
    output_digest: str | None
    core_digest: str
    placeholders: list[str]
    capture: str


class ExecutionObserved(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one run.

    run_id: the kernel's name for the run.
    started_at: wall clock, ISO 8601 in UTC; null if it could not be read.
    finished_at: wall clock, ISO 8601 in UTC; null if it could not be read.
    runtime_ms: monotonic clock, milliseconds; null if it could not be read.
    error: text of the exception; null on success, and where only digests were captured.
    exception_repr: repr of the exception; null as `error` is.
    metadata: the metadata given to `execute`.
    call_id: the id that the caller's protocol gave the call, such as an OpenAI tool call's; or null.
    """

    run_id: str
    started_at: str | None
    finished_at: str | None
    runtime_ms: float | None
    error: str | None
    exception_repr: str | None
    metadata: Any
    call_id: str | None = None


class KernelExecuted(msgspec.Struct, frozen=True, kw_only=True):
    """`kernel.executed`: a task was called once, and returned or raised.

    derived: what running it again must give again.
    observed: what was seen of this run.
    """

    v: int = 1
    derived: Execution
    observed: ExecutionObserved


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a CAEL run.

    success: whether every step succeeded.
    failure_code: null on success; `INVALID_STEP`, `RECORDING_FAILED`, or the failing step's.
    steps: how many steps were given.
    executed: how many of them were executed.
    core_digests: the core digest of each execution, in order; empty where there are over 4000.
    """

    success: bool
    failure_code: str | None
    steps: int
    executed: int
    core_digests: list[str]


class PipelineObserved(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of the run.

    run_ids: the run id of each execution, in order; empty where they are over 4000 or very long.
    failure_message: why, in words; null on success, and where only digests were captured.
    metadata: the metadata given to `run`.
    """

    run_ids: list[str]
    failure_message: str | None
    metadata: Any


class PipelineCompleted(msgspec.Struct, frozen=True, kw_only=True):
    """`pipeline.completed`: the steps of a CAEL run were executed, or one failed, or none could start.

    executions: the seq of each `kernel.executed` of the run, in order; null where one has no seq yet,
        since it was recorded in a batch, or none at all, since its record was lost; and where there
        are over 50,000.
    derived: the outcome.
    observed: what was seen of the run.
    """

    v: int = 1
    executions: list[int] | None
    derived: Pipeline
    observed: PipelineObserved
