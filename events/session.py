"""The areas `session`, `action` and `message` (contracts S1 to S8).

A session is a stream, `session:<id>`: it starts, actions and messages follow, it is closed. All
clock readings are in `observed`, as are URNs made from them.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

STARTED: Final = "session.started"
CLOSED: Final = "session.closed"
EXPIRED: Final = "session.expired"
ACTION_RECORDED: Final = "action.recorded"
MESSAGE_RECORDED: Final = "message.recorded"
#: What a session's stream is called: this and its id.
STREAM_PREFIX: Final = "session:"


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is about.

    session_id: unique in the ledger.
    label: the caller's words.
    kernel: URN of the kernel that it is associated with.
    action: the action that began it; may be empty.
    retention_hours: how long after its end its bodies are kept.
    source: for an imported session, where it came from, by the importer; else null.
    """

    session_id: str
    label: str
    kernel: str
    action: str
    retention_hours: int
    source: dict[str, Any] | None = None


class StartObserved(msgspec.Struct, frozen=True, kw_only=True):
    """The circumstances.

    started_at: wall clock, ISO 8601 in UTC; null if the source does not say.
    urn: the session's URN.
    """

    started_at: str | None
    urn: str


class SessionStarted(msgspec.Struct, frozen=True, kw_only=True):
    """`session.started`: the first event of a session's stream.

    derived: what the session is about.
    observed: the circumstances.
    """

    v: int = 1
    derived: Start
    observed: StartObserved


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, or tried, and what came of it.

    session_id: the session that it belongs to.
    seq: its number in the session, from 1.
    action_type: the caller's name for what was done.
    outcome: `verified`, `failed`, `retry` or `skipped`.
    kernel: URN of the kernel that acted.
    via_edge: `COMPOSES`, `EXTENDS`, `REQUIRES`, or null.
    intent: what was meant to happen; any JSON, or null.
    evidence: what shows that it did; any JSON, or null.
    before_state: captured before; any JSON, or null.
    after_state: captured after; any JSON, or null.
    diff_summary: from one state to the other, in a line; empty without both.
    attempt: from 1.
    note: the caller's words.
    placeholders: where a value that is no JSON, or too large, was replaced by
        `{"$omitted": reason, "type": name}`: JSON pointers into this object (RFC 6901).
    """

    session_id: str
    seq: int
    action_type: str
    outcome: str
    kernel: str
    via_edge: str | None
    intent: Any
    evidence: Any
    before_state: Any
    after_state: Any
    diff_summary: str
    attempt: int
    note: str
    placeholders: list[str]


class ActionObserved(msgspec.Struct, frozen=True, kw_only=True):
    """The circumstances.

    recorded_at: wall clock, ISO 8601 in UTC.
    urn: the action's URN, which holds a clock reading.
    handle: a random name of the object that recorded it; another one has resumed the session. Or null.
    """

    recorded_at: str
    urn: str
    handle: str | None = None


class ActionRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """`action.recorded`: one attempt at an action of a session.

    derived: what was done and what came of it.
    observed: the circumstances.
    """

    v: int = 1
    derived: Action
    observed: ActionObserved


class Close(msgspec.Struct, frozen=True, kw_only=True):
    """How a session ended.

    session_id: the session.
    outcome: `complete`, `partial` or `failed`.
    given: whether the caller gave the outcome; else it follows from the actions.
    actions: how many actions had each outcome.
    kernels: URNs of the kernels involved, sorted.
    """

    session_id: str
    outcome: str
    given: bool
    actions: dict[str, int]
    kernels: list[str]


class CloseObserved(msgspec.Struct, frozen=True, kw_only=True):
    """The circumstances.

    ended_at: wall clock, ISO 8601 in UTC; null if the source does not say.
    duration_ms: monotonic clock, milliseconds; wall clock if the session was resumed by another process;
        null if the source does not say.
    error: text of the exception that ended it, or null.
    error_type: name of the exception's type, or null.
    """

    ended_at: str | None
    duration_ms: float | None
    error: str | None = None
    error_type: str | None = None


class SessionClosed(msgspec.Struct, frozen=True, kw_only=True):
    """`session.closed`: the end of a session.

    derived: how it ended.
    observed: the circumstances.
    """

    v: int = 1
    derived: Close
    observed: CloseObserved


class SessionExpired(msgspec.Struct, frozen=True, kw_only=True):
    """`session.expired`: a closed session's retention had passed and its bodies were erased.

    session_id: the session.
    retention_hours: what it was started with.
    closed_seq: the seq of its `session.closed`.
    erased: the seqs whose bodies were erased in the same transaction, in order; where they are over 50,000,
        further events name the rest.
    """

    v: int = 1
    session_id: str
    retention_hours: int
    closed_seq: int
    erased: list[int]


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call that a message asks for.

    id: the id by which the tool's answer names it; null if it has none.
    name: the tool; null if it has none.
    arguments: as the model wrote them: the text, or the value if it was no text.
    """

    id: str | None
    name: str | None
    arguments: Any


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation.

    session_id: the session that it belongs to.
    index: its place in the conversation, from 0.
    role: `system`, `user`, `assistant`, `tool`, or what the source says.
    content: text, or the parts as the source has them, or null.
    name: the speaker's or tool's name, or null.
    tool_calls: the calls that it asks for, in order.
    tool_call_id: the call that it answers, or null.
    extra: other fields of the source, or null.
    placeholders: where a value that is no JSON, or too large, was replaced by
        `{"$omitted": reason, "type": name}`: JSON pointers into this object (RFC 6901).
    """

    session_id: str
    index: int
    role: str
    content: Any
    name: str | None = None
    tool_calls: list[ToolCall] = msgspec.field(default_factory=list)
    tool_call_id: str | None = None
    extra: dict[str, Any] | None = None
    placeholders: list[str] = msgspec.field(default_factory=list)


class MessageObserved(msgspec.Struct, frozen=True, kw_only=True):
    """The circumstances.

    recorded_at: wall clock, ISO 8601 in UTC; null if the source does not say.
    handle: as in an action's.
    """

    recorded_at: str | None
    handle: str | None = None


class MessageRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """`message.recorded`: one turn of a conversation, in its session's stream.

    derived: the turn.
    observed: the circumstances.
    """

    v: int = 1
    derived: Message
    observed: MessageObserved
