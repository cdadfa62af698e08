"""Sessions, actions and messages as their callers see them, and the way from and to event bodies.

The record that a recorder hands back is the one that is read from the ledger later: `x_of(body)` is the
inverse of `x_body(record)`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from tallystick.events import session as bodies
from tallystick.ledger.errors import MalformedEvent
from tallystick.ledger.event import Event

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
S = TypeVar("S", bound=msgspec.Struct)

VERIFIED: Final = "verified"
FAILED: Final = "failed"
RETRY: Final = "retry"
SKIPPED: Final = "skipped"
ACTION_OUTCOMES: Final = (VERIFIED, FAILED, RETRY, SKIPPED)
EDGES: Final = ("COMPOSES", "EXTENDS", "REQUIRES")

IN_PROGRESS: Final = "in_progress"
COMPLETE: Final = "complete"
PARTIAL: Final = "partial"
SESSION_FAILED: Final = "failed"
CLOSING_OUTCOMES: Final = (COMPLETE, PARTIAL, SESSION_FAILED)
#: What is said of a session whose bodies were erased: its outcome went with them.
EXPIRED: Final = "expired"
#: The same, if the body of its end alone was erased.
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """One attempt at an action, as recorded. Intent, evidence and states are their JSON snapshots.

    seq: its number in the session, from 1. urn and kernel: URNs. diff_summary: empty without both states.
    placeholders: JSON pointers to what was no JSON or too large. handle: a random name of the object that
    recorded it. event_seq: its event's seq in the ledger; None if it is not known (in a batch) or was not
    stored; it does not count when records are compared.
    """

    session_id: str
    seq: int
    action_type: str
    outcome: str
    urn: str
    kernel: str
    recorded_at: dt.datetime
    via_edge: str | None = None
    intent: Any = None
    evidence: Any = None
    before_state: Any = None
    after_state: Any = None
    diff_summary: str = ""
    attempt: int = 1
    note: str = ""
    placeholders: tuple[str, ...] = ()
    handle: str | None = None
    event_seq: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """One turn of a conversation, as recorded. `index` counts from 0; `tool_calls` are objects with id,
    name and arguments; the rest as in ActionRecord."""

    session_id: str
    index: int
    role: str
    content: Any
    recorded_at: dt.datetime | None
    name: str | None = None
    tool_calls: tuple[bodies.ToolCall, ...] = ()
    tool_call_id: str | None = None
    extra: Any = None
    placeholders: tuple[str, ...] = ()
    handle: str | None = None
    event_seq: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SessionSummary:
    """A session without its actions.

    outcome: `in_progress`, `complete`, `partial`, `failed`; `expired` once its bodies were erased, and what
    only they held is then empty or None. started_at, ended_at and duration_ms are the recorder's clock
    readings; a time that is not known is that of the event. kernels: URNs of those involved, sorted.
    action_outcomes: how many actions had each outcome. error: text of the exception that ended it.
    first_seq, last_seq, last_at: its first and its last event in the ledger. closed_seq: its end, or None.
    """

    session_id: str
    urn: str
    label: str
    kernel: str
    action: str
    retention_hours: int | None
    started_at: dt.datetime
    ended_at: dt.datetime | None
    duration_ms: float | None
    outcome: str
    kernels: tuple[str, ...]
    action_count: int
    action_outcomes: Mapping[str, int]
    message_count: int
    error: str | None
    first_seq: int
    last_seq: int
    last_at: dt.datetime
    closed_seq: int | None

    @property
    def stream(self) -> str:
        """The stream of its events."""
        return bodies.STREAM_PREFIX + self.session_id


@dataclass(frozen=True, kw_only=True)
class SessionRecord(SessionSummary):
    """A session with its actions in order, without those that were erased.

    error_type: name of the type of the exception that ended it. source: where an imported session came
    from. last_kind: kind of its last event. messages: None unless they were asked for.
    """

    error_type: str | None
    source: Mapping[str, Any] | None
    last_kind: str
    actions: tuple[ActionRecord, ...]
    messages: tuple[MessageRecord, ...] | None


# -- actions -------------------------------------------------------------------------------


def action_body(action: ActionRecord) -> bodies.ActionRecorded:
    """The body of `action.recorded`."""
    return bodies.ActionRecorded(
        derived=bodies.Action(
            session_id=action.session_id,
            seq=action.seq,
            action_type=action.action_type,
            outcome=action.outcome,
            kernel=action.kernel,
            via_edge=action.via_edge,
            intent=action.intent,
            evidence=action.evidence,
            before_state=action.before_state,
            after_state=action.after_state,
            diff_summary=action.diff_summary,
            attempt=action.attempt,
            note=action.note,
            placeholders=list(action.placeholders),
        ),
        observed=bodies.ActionObserved(
            recorded_at=iso_text(action.recorded_at), urn=action.urn, handle=action.handle
        ),
    )


def action_of(event: Event) -> ActionRecord:
    """The action in an `action.recorded`; the inverse of `action_body`. Raises MalformedEvent."""
    body = body_of(event, bodies.ActionRecorded)
    done = body.derived
    return ActionRecord(
        session_id=done.session_id,
        seq=done.seq,
        action_type=done.action_type,
        outcome=done.outcome,
        urn=body.observed.urn,
        kernel=done.kernel,
        recorded_at=time_of(body.observed.recorded_at) or event.time,
        via_edge=done.via_edge,
        intent=done.intent,
        evidence=done.evidence,
        before_state=done.before_state,
        after_state=done.after_state,
        diff_summary=done.diff_summary,
        attempt=done.attempt,
        note=done.note,
        placeholders=tuple(done.placeholders),
        handle=body.observed.handle,
        event_seq=event.seq,
    )


# -- messages ------------------------------------------------------------------------------


def message_body(message: MessageRecord) -> bodies.MessageRecorded:
    """The body of `message.recorded`."""
    return bodies.MessageRecorded(
        derived=bodies.Message(
            session_id=message.session_id,
            index=message.index,
            role=message.role,
            content=message.content,
            name=message.name,
            tool_calls=list(message.tool_calls),
            tool_call_id=message.tool_call_id,
            extra=message.extra,
            placeholders=list(message.placeholders),
        ),
        observed=bodies.MessageObserved(
            recorded_at=None if message.recorded_at is None else iso_text(message.recorded_at),
            handle=message.handle,
        ),
    )


def message_of(event: Event) -> MessageRecord:
    """The turn in a `message.recorded`; the inverse of `message_body`. Raises MalformedEvent."""
    body = body_of(event, bodies.MessageRecorded)
    turn = body.derived
    return MessageRecord(
        session_id=turn.session_id,
        index=turn.index,
        role=turn.role,
        content=turn.content,
        recorded_at=time_of(body.observed.recorded_at),
        name=turn.name,
        tool_calls=tuple(turn.tool_calls),
        tool_call_id=turn.tool_call_id,
        extra=turn.extra,
        placeholders=tuple(turn.placeholders),
        handle=body.observed.handle,
        event_seq=event.seq,
    )


# -- bodies and times ----------------------------------------------------------------------


def session_urn(session_id: str) -> str:
    """The URN of a session."""
    return f"ckp://Session#{session_id}"


def body_of(event: Event, struct: type[S]) -> S:
    """The event's body as its struct. Raises MalformedEvent."""
    try:
        return msgspec.convert(event.body, struct)
    except msgspec.ValidationError as error:
        raise MalformedEvent(event.seq, f"its body is no {event.kind}: {error}") from None


def moment(at_us: int) -> dt.datetime:
    """Microseconds since 1970 UTC as an aware datetime."""
    return _EPOCH + dt.timedelta(microseconds=at_us)


def iso_text(time: dt.datetime) -> str:
    """ISO 8601 in UTC with microseconds and `Z`; `time_of` is the inverse."""
    return time.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def time_of(text: str | None) -> dt.datetime | None:
    """The time in ISO 8601, in UTC if it names no zone; None for none, or what is no time."""
    try:
        time = dt.datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return time.replace(tzinfo=dt.UTC) if time is not None and time.tzinfo is None else time
