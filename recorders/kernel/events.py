"""From traces to the events that record them (contract K8).

Arguments are captured before the task runs, since it may change them; everything else afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from tallystick.events.kernel import (
    EXECUTED,
    PIPELINE_COMPLETED,
    Pipeline,
    PipelineCompleted,
    PipelineObserved,
)
from tallystick.ledger import canonical
from tallystick.ledger.event import NewEvent

from ..capture import Snapshot, snapshot, text_of
from .execution import Finished
from .frozen import thaw
from .psi import INVALID, METADATA_MAX_BYTES
from .trace import ExecutionTrace

#: What is kept of arguments and outputs: themselves, or their digests alone.
Capture = Literal["content", "digest"]
CAPTURES: Final[tuple[Capture, ...]] = ("content", "digest")

_NOTHING: Final = Snapshot(b"null", None, [])
_NO_METADATA: Final = msgspec.Raw(b"{}")
#: Writes canonical JSON of what it is given here: strings, numbers that are finite, and canonical bytes.
_encode: Final = msgspec.json.Encoder(order="sorted").encode
TYPE_NAME_MAX_CHARS: Final = 1024
#: So that the body of a pipeline of any length stays below the ledger's limit.
_LISTED_MAX: Final = 4000
_SEQS_MAX: Final = 50_000
_RUN_IDS_MAX_CHARS: Final = 160 * 1024


def execution_event(finished: Finished, arguments: Snapshot, mode: Capture, stream: str) -> NewEvent:
    """The `kernel.executed` of an execution, whose arguments were captured before it.

    The body is put together from bytes that are canonical already, since encoding all of it once more
    would cost as much as everything else.
    """
    trace = finished.trace
    output = snapshot(trace.output, "/output") if trace.success else _NOTHING
    psi = _NOTHING if trace.psi is INVALID else trace.psi.recorded
    exception_type = _cut(trace.exception_type, TYPE_NAME_MAX_CHARS)
    placeholders = list(psi.placeholders)
    if exception_type != trace.exception_type:
        placeholders.append("/exception_type")
    content = mode == "content"
    if content:
        placeholders += arguments.placeholders + output.placeholders
    derived = {
        "psi": msgspec.Raw(psi.data),
        "arguments": msgspec.Raw(arguments.data) if content else None,
        "arguments_digest": arguments.digest,
        "success": trace.success,
        "failure_code": trace.failure_code,
        "exception_type": exception_type,
        "output": msgspec.Raw(output.data) if content else None,
        "output_digest": output.digest,
        "core_digest": trace.digest(),
        "placeholders": placeholders,
        "capture": mode,
    }
    observed = {
        "run_id": _cut(trace.run_id),
        "started_at": finished.started_at,
        "finished_at": finished.finished_at,
        "runtime_ms": finished.runtime_ms,
        "error": _cut(trace.error) if content else None,
        "exception_repr": _cut(trace.exception_repr) if content else None,
        "metadata": recorded_metadata(trace.metadata),
        "call_id": None,
    }
    body = _encode({"v": 1, "derived": derived, "observed": observed})
    return NewEvent(kind=EXECUTED, body=canonical.Encoded(body), stream=stream)


def pipeline_event(
    traces: Sequence[ExecutionTrace[Any]],
    seqs: list[int] | None,
    steps: int,
    failure: tuple[str | None, str | None],
    metadata: Mapping[Any, Any],
    mode: Capture,
    stream: str,
) -> NewEvent:
    """The `pipeline.completed` of a CAEL run; `failure` is its code and message, None on success."""
    code, message = failure
    listed = traces if len(traces) <= _LISTED_MAX else []
    run_ids = [_cut(trace.run_id) or "" for trace in listed]
    if sum(map(len, run_ids)) > _RUN_IDS_MAX_CHARS:
        run_ids = []
    body = PipelineCompleted(
        executions=seqs if len(traces) <= _SEQS_MAX else None,
        derived=Pipeline(
            success=code is None,
            failure_code=code,
            steps=steps,
            executed=len(traces),
            core_digests=[trace.digest() for trace in listed],
        ),
        observed=PipelineObserved(
            run_ids=run_ids,
            failure_message=_cut(message) if mode == "content" else None,
            metadata=canonical.decode(recorded_metadata(metadata)),
        ),
    )
    return NewEvent(kind=PIPELINE_COMPLETED, body=body, stream=stream)


def recorded_metadata(metadata: Mapping[Any, Any]) -> msgspec.Raw:
    """Frozen metadata as it stands in events."""
    return (
        msgspec.Raw(snapshot(thaw(metadata), max_bytes=METADATA_MAX_BYTES).data) if metadata else _NO_METADATA
    )


def _cut(text: str | None, max_chars: int = 4096) -> str | None:
    """A text as JSON can hold it, of bounded length."""
    if text is None or (len(text) <= max_chars and text.isascii()):
        return text
    return text_of(lambda: text, "?", max_chars)
