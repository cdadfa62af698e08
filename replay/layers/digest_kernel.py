"""The layer `digest` for executions and pipelines (contracts K3, K4, K6 to K8)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

from tallystick.events import kernel as events
from tallystick.events import session
from tallystick.ledger.event import Row
from tallystick.recorders.capture import digest_of
from tallystick.recorders.kernel.cael import INTERRUPTED, INVALID_STEP, RECORDING_FAILED
from tallystick.recorders.kernel.events import TYPE_NAME_MAX_CHARS
from tallystick.recorders.kernel.psi import NAME_MAX_CHARS
from tallystick.recorders.kernel.trace import FailureCode, recorded_core_digest

from .checks import (
    ERASED,
    Body,
    Checks,
    Past,
    Unreadable,
    canonical_bytes,
    check_placeholders,
    inside,
    read_body,
)

ONLY_DIGEST: Final = "its content was not captured (capture='digest')"
NAMED_ERASED: Final = "the body of an execution that it names was erased"
ANSWER_ERASED: Final = "the body of the message that answers it was erased, or cannot be read"
NAMED_UNREADABLE: Final = "the body of an execution that it names cannot be read"
PLACEHOLDER: Final = "part of the value is a placeholder"
_MENDED: Final = ("/psi/psi_type", "/psi/name", "/exception_type")


def check_execution(checks: Checks, row: Row, body: Body, past: Past) -> None:
    """The digests of a `kernel.executed`, and whether its core agrees with itself."""
    past.keep(row)
    derived: events.Execution = body.struct.derived
    plain = body.plain["derived"]
    again = recorded_core_digest(plain)
    if again is None:
        checks.cannot("core_digest", "a name in the core was cut or mended, or its metadata left out")
        _check_mended(checks, derived)
    else:
        checks.equal("core_digest", again, derived.core_digest)
    _check_core(checks, derived)
    _check_value(checks, derived, "arguments", held=True)
    _check_value(checks, derived, "output", held=derived.success)
    check_placeholders(checks, plain, derived.placeholders, _MENDED)
    _check_answer(checks, row, body.struct, past)


def _check_answer(checks: Checks, row: Row, struct: events.KernelExecuted, past: Past) -> None:
    """The output of an imported tool call, from the message that answers it, which stands before it."""
    metadata, session_id = struct.observed.metadata, row.stream.removeprefix(session.STREAM_PREFIX)
    imported = struct.observed.run_id.startswith(f"{session_id}/") and session_id != row.stream
    if not imported or not isinstance(metadata, dict) or "answered_in" not in metadata:
        return
    before = past.row(row.seq - 1)
    if before is None or (before.kind, before.stream) != (session.MESSAGE_RECORDED, row.stream):
        checks.wrong("output", "what stands before it is not the message that answers it")
    elif isinstance(answer := read_body(before), Unreadable):
        checks.cannot("output", ANSWER_ERASED)
    else:
        message = answer.struct.derived
        checks.equal("answered_in", message.index, metadata["answered_in"], f"event {before.seq}")
        if not inside(struct.derived.placeholders, "/output") and not inside(
            message.placeholders, "/content"
        ):
            checks.equal("output", message.content, struct.derived.output, f"answered by event {before.seq}")


def _check_mended(checks: Checks, derived: events.Execution) -> None:
    """A name that is pointed at looks cut or mended; else the pointer is there to hide an alteration."""
    psi = derived.psi
    names = (psi.psi_type if psi else None, psi.name if psi else None, derived.exception_type)
    limits = (NAME_MAX_CHARS, NAME_MAX_CHARS, TYPE_NAME_MAX_CHARS)
    for pointer, name, limit in zip(_MENDED, names, limits, strict=True):
        if pointer in derived.placeholders and (name is None or (len(name) < limit and "?" not in name)):
            checks.wrong("placeholders", f"{pointer!r} points at a name that is whole")


def _check_core(checks: Checks, derived: events.Execution) -> None:
    """Success, failure code and exception type say the same."""
    code = derived.failure_code
    if code not in list(FailureCode):
        checks.wrong("failure_code", f"{code!r} is no failure code")
    else:
        checks.equal("success", code == FailureCode.OK, derived.success, f"the failure code is {code}")
    raised = derived.exception_type is not None
    checks.true(
        "exception_type", raised is not derived.success, None, derived.exception_type, "null on success alone"
    )


def _check_value(checks: Checks, derived: events.Execution, name: str, *, held: bool) -> None:
    """The digest of the arguments or of the output. held: whether there was one."""
    value = getattr(derived, name)
    digest: str | None = getattr(derived, f"{name}_digest")
    what = f"{name}_digest"
    if not held:
        checks.equal(what, [None, None], [value, digest], f"there is no {name} on failure")
    elif derived.capture != "content":
        if value is None:
            checks.cannot(what, ONLY_DIGEST)
        else:
            checks.wrong("capture", f"it is {derived.capture!r}, and yet there is an {name}")
    elif inside(derived.placeholders, f"/{name}"):
        checks.cannot(what, PLACEHOLDER)
        if digest is not None and f"/{name}" not in derived.placeholders:
            checks.wrong(what, "there is one, and yet part of the value was no JSON")
    else:
        checks.equal(what, digest_of(canonical_bytes(value)), digest)


def check_pipeline(checks: Checks, row: Row, body: Body, past: Past) -> None:
    """A `pipeline.completed` against the executions that it names."""
    struct: events.PipelineCompleted = body.struct
    derived, named = struct.derived, struct.executions
    checks.equal("success", derived.failure_code is None, derived.success, "as the failure code says")
    if derived.core_digests:
        checks.equal("executed", len(derived.core_digests), derived.executed, "as many as there are digests")
    if derived.success:
        checks.equal("executed", derived.steps, derived.executed, "all steps, since it succeeded")
    elif derived.failure_code == INVALID_STEP:
        checks.equal("executed", 0, derived.executed, "none, since a step was bad")
    else:
        checks.true("executed", derived.executed <= derived.steps, derived.steps, derived.executed)
    if named is None:
        checks.cannot("executions", "it does not name its executions: they were recorded in a batch, or lost")
        return
    checks.equal("executed", len(named), derived.executed, "as many as it names")
    ordered = all(one < other for one, other in pairwise(named))
    checks.true("executions", ordered and all(0 < seq < row.seq for seq in named), "earlier seqs", named[:20])
    if not ordered:
        return
    for place, seq in enumerate(named):
        if past.name_once(seq):
            _check_named(checks, row, struct, place, seq, past)
        else:
            checks.wrong(f"executions/{place}", f"another pipeline names event {seq}, too")


def _check_named(
    checks: Checks, row: Row, struct: events.PipelineCompleted, place: int, seq: int, past: Past
) -> None:
    """One execution that a pipeline names."""
    what = f"executions/{place}"
    found = past.row(seq)
    if found is None or found.kind != events.EXECUTED:
        kind = None if found is None else found.kind
        checks.true(what, False, events.EXECUTED, kind, f"event {seq} is no execution")
        return
    past.keep(found)
    body = read_body(found)
    if isinstance(body, Unreadable):
        checks.cannot(what, NAMED_ERASED if body.reason == ERASED else NAMED_UNREADABLE)
        return
    execution: events.Execution = body.struct.derived
    derived, run_ids = struct.derived, struct.observed.run_ids
    last = place == derived.executed - 1
    expected: dict[str, Any] = {"stream": row.stream, "success": execution.success}
    actual: dict[str, Any] = {
        "stream": found.stream,
        "success": derived.success or not last or _ended_otherwise(derived),
    }
    if last and not derived.success and not execution.success:
        expected |= {"success": False, "failure_code": execution.failure_code}
        actual |= {"success": False, "failure_code": derived.failure_code}
    if place < len(derived.core_digests):
        expected["core_digest"] = execution.core_digest
        actual["core_digest"] = derived.core_digests[place]
    if place < len(run_ids):
        expected["run_id"] = body.struct.observed.run_id
        actual["run_id"] = run_ids[place]
    checks.equal(what, expected, actual, f"event {seq}")


def _ended_otherwise(derived: events.Pipeline) -> bool:
    """Whether the run failed though its last step did not."""
    return derived.failure_code in (RECORDING_FAILED, INTERRUPTED)
