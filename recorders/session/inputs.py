"""What callers hand to a session, checked and cut to what a body has room for. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tallystick.events import session as bodies
from tallystick.ledger.errors import InvalidEvent

from ..capture import OMITTED, Captured, capture
from . import records
from .diff import diff_of
from .records import ActionRecord, MessageRecord

NOTE_CHARACTERS_MAX: Final = 16_384
_NAME_CHARACTERS_MAX: Final = 1024
#: Of a body's 1 MiB: four values or fewer, and room for texts and pointers.
_VALUE_BYTES_MAX: Final = 150 * 1024
_POINTER_CHARACTERS_MAX: Final = 8 * 1024
_NOTHING: Final = capture(None)


def prepared_action(
    session_id: str,
    action_type: str,
    outcome: str,
    kernel_urn: str,
    via_edge: str | None,
    intent: Any,
    evidence: Any,
    before_state: Any,
    after_state: Any,
    attempt: int,
    note: str,
) -> ActionRecord:
    """An action that has no number and no time yet. Raises InvalidEvent."""
    one_of(outcome, records.ACTION_OUTCOMES, "outcome")
    if type(attempt) is not int or not 0 < attempt < 1 << 53:
        raise InvalidEvent("attempt", f"{attempt!r} is no attempt", "count from 1")
    meant, shown = captured(intent, "/intent"), captured(evidence, "/evidence")
    before, after = captured(before_state, "/before_state"), captured(after_state, "/after_state")
    both = before_state is not None and after_state is not None
    return ActionRecord(
        session_id=session_id,
        seq=0,
        action_type=action_type,
        outcome=outcome,
        urn="",
        kernel=kernel_urn,
        recorded_at=records.moment(0),
        via_edge=via_edge,
        intent=meant.value,
        evidence=shown.value,
        before_state=before.value,
        after_state=after.value,
        diff_summary=diff_of(before_state, after_state, before, after) if both else "",
        attempt=attempt,
        note=text(note, "note", NOTE_CHARACTERS_MAX, empty=True, cut=True),
        placeholders=tuple(
            meant.placeholders + shown.placeholders + before.placeholders + after.placeholders
        ),
    )


def prepared_message(
    session_id: str,
    role: str,
    content: Any,
    name: str | None,
    tool_calls: Iterable[bodies.ToolCall | Mapping[str, Any]],
    tool_call_id: str | None,
    extra: Mapping[str, Any] | None,
) -> MessageRecord:
    """A turn that has no place and no time yet. Raises InvalidEvent."""
    if extra is not None and not isinstance(extra, Mapping):
        raise InvalidEvent("extra", f"expected an object, got {type(extra).__name__}")
    said, more = captured(content, "/content"), captured(None if extra is None else dict(extra), "/extra")
    calls, placeholders = _tool_calls(tool_calls)
    return MessageRecord(
        session_id=session_id,
        index=0,
        role=text(role, "role"),
        content=said.value,
        recorded_at=None,
        name=None if name is None else text(name, "name", empty=True),
        tool_calls=calls,
        tool_call_id=None if tool_call_id is None else text(tool_call_id, "tool_call_id", empty=True),
        extra=more.value,
        placeholders=tuple(said.placeholders + placeholders + more.placeholders),
    )


def text(
    value: Any,
    field: str,
    characters_max: int = _NAME_CHARACTERS_MAX,
    *,
    empty: bool = False,
    cut: bool = False,
) -> str:
    """The text as JSON can hold it. Raises InvalidEvent."""
    if not isinstance(value, str):
        raise InvalidEvent(field, f"expected a string, got {type(value).__name__}")
    if not value and not empty:
        raise InvalidEvent(field, "must not be empty")
    if len(value) > characters_max:
        if not cut:
            raise InvalidEvent(field, f"{len(value):,} characters, more than the {characters_max:,} allowed")
        value = value[: characters_max - 1] + "…"
    return str.__str__(value).encode("utf-8", "replace").decode()


def one_of(value: Any, names: tuple[str, ...], field: str) -> None:
    """Refuse a word that is none of those known, with InvalidEvent."""
    if not isinstance(value, str) or value not in names:
        raise InvalidEvent(field, f"{value!r} is none", f"use {', '.join(names)}")


def captured(value: Any, pointer: str) -> Captured:
    """As much of a value as a body has room for."""
    if value is None:
        return _NOTHING
    kept = capture(value, pointer, max_bytes=_VALUE_BYTES_MAX)
    if sum(map(len, kept.placeholders)) > _POINTER_CHARACTERS_MAX:
        return Captured({OMITTED: "too many placeholders", "type": type(value).__name__}, None, [pointer])
    return kept


def _tool_calls(
    calls: Iterable[bodies.ToolCall | Mapping[str, Any]],
) -> tuple[tuple[bodies.ToolCall, ...], list[str]]:
    """Tool calls as recorded, and the placeholders in their arguments."""
    given = [_tool_call(call) for call in calls]
    arguments = captured([call.arguments for call in given], "/tool_calls")
    if arguments.placeholders == ["/tool_calls"]:  # too large together
        omitted = [bodies.ToolCall(id=call.id, name=call.name, arguments=arguments.value) for call in given]
        return tuple(omitted), [f"/tool_calls/{index}/arguments" for index in range(len(given))]
    kept = zip(given, arguments.value, strict=True)
    # The pointers say /tool_calls/<index>/<in the arguments>; a call has its arguments a level deeper.
    pointers = [pointer.split("/", 3) for pointer in arguments.placeholders]
    return (
        tuple(bodies.ToolCall(id=call.id, name=call.name, arguments=value) for call, value in kept),
        ["/".join([*pointer[:3], "arguments", *pointer[3:]]) for pointer in pointers],
    )


def _tool_call(call: Any) -> bodies.ToolCall:
    """A tool call given as such, or as an object with id, name and arguments, nested as OpenAI's or not."""
    if isinstance(call, bodies.ToolCall):
        return call
    if not isinstance(call, Mapping):
        raise InvalidEvent("tool_calls", f"a {type(call).__name__} is no tool call", "give objects")
    inner = call.get("function")
    inner = inner if isinstance(inner, Mapping) else call
    named = {"id": call.get("id"), "name": inner.get("name")}
    for field, word in named.items():
        if word is not None:
            named[field] = text(word, f"tool_calls.{field}", empty=True)
    return bodies.ToolCall(**named, arguments=inner.get("arguments"))
