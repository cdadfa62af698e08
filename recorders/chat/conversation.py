"""Conversations in the OpenAI chat format as sessions: a conversation in, its events out, no I/O.

A conversation is an object with `messages`. Its id, and so its stream, comes from its content: the same
conversation is the same session, however its JSON is written. Each message is a `message.recorded`, in
order; behind the message that answers a tool call stands the `kernel.executed` of that call. What the
format does not foresee (a call that nobody answered, an answer to no call, arguments that are
no JSON) is recorded as what it is and counted.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from blake3 import blake3

from tallystick.events import kernel, session
from tallystick.ledger import canonical
from tallystick.ledger.event import NewEvent

from ..capture import MAX_BYTES, OMITTED, Captured, capture
from ..errors import BadConversation
from ..kernel.trace import FailureCode, recorded_core_digest
from ..session.core import DEFAULT_RETENTION_HOURS
from ..session.records import COMPLETE, SESSION_FAILED, iso_text
from ..session.urn import build_urn

FORMAT: Final = "openai-chat"
DEFAULT_KERNEL: Final = "ckp://Kernel#Chat:v1.0"
#: The psi type of an imported tool call.
PSI_TYPE: Final = "tool"
#: A conversation is committed whole, so its events are all in memory at once.
MAX_MESSAGES: Final = 20_000
#: Tool calls that one message asks for.
MAX_CALLS: Final = 10_000
#: Ten thousand years.
RETENTION_HOURS_MAX: Final = 24 * 366 * 10_000
#: Longer names, roles and ids are cut and end in a digest of the whole.
NAME_CHARACTERS_MAX: Final = 256
LABEL_CHARACTERS_MAX: Final = 80

#: How much of each value a body keeps: the first that makes a body small enough holds for all in it.
_KEPT_BYTES: Final = (MAX_BYTES, MAX_BYTES // 8, MAX_BYTES // 128, 0)
_ID_DOMAIN: Final = b"tally.chat.v1\0"
_ID_BYTES: Final = 10
_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EPOCH_S_MAX: Final = 1e11  # seconds beyond the year 5138 are milliseconds, or no time at all
_COMPLETE: Final = frozenset(
    "complete completed correct done ok pass passed resolved succeeded success true yes".split()
)
_FAILED: Final = frozenset("error fail failed failure false incomplete incorrect no unresolved".split())
_MISSING: Final = object()

_encode_sorted = msgspec.json.Encoder(order="sorted").encode
B = TypeVar("B", bound=msgspec.Struct)


class ChatCounts(msgspec.Struct, kw_only=True):
    """What conversations held. Every call is accounted for: `calls == executed + unanswered + malformed`.

    messages: turns. calls: tool calls that messages ask for. executed: answered calls, each a
    `kernel.executed`. unanswered: calls without an answer. malformed: calls without a function name; they
    stand in their message alone. bad_arguments: of those executed, the ones whose arguments are no JSON
    object. reused_ids: calls whose id an earlier call of the same conversation had. stray_answers: answers
    to a call that nobody made, or that was answered before. left_out: values too large, or no
    JSON, with a placeholder in their place.
    """

    messages: int = 0
    calls: int = 0
    executed: int = 0
    unanswered: int = 0
    malformed: int = 0
    bad_arguments: int = 0
    reused_ids: int = 0
    stray_answers: int = 0
    left_out: int = 0

    def add(self, other: ChatCounts) -> None:
        """Add the counts of another conversation."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class ChatSession(NamedTuple):
    """A conversation as a session. digest: covers its content. outcome: None if it is left in progress."""

    session_id: str
    digest: str
    events: list[NewEvent]
    outcome: str | None
    counts: ChatCounts


class ChatOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How conversations become sessions.

    outcome: the field that says how a conversation ended, nested by dots; see `outcome_of`. Where it does
    not say, the session is left in progress. None: a session without actions is complete (contract S3).
    label: the field that holds the session's label; None: the first words of the first user.
    kernel: URN of the kernel that the sessions are associated with.
    """

    outcome: str | None = None
    label: str | None = None
    kernel: str = DEFAULT_KERNEL
    retention_hours: int = DEFAULT_RETENTION_HOURS


def identify(conversation: Any) -> tuple[str, str]:
    """Session id and digest of a conversation's content, as JSON. Raises BadConversation."""
    try:
        # What canonical JSON refuses of JSON, such as large integers, has an id as well.
        data = _encode_sorted(conversation)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise BadConversation("", f"no JSON ({error})") from None
    digest = blake3(_ID_DOMAIN + data).digest()
    number = int.from_bytes(digest[:_ID_BYTES])
    session_id = "".join(_CROCKFORD[number >> shift & 31] for shift in range(_ID_BYTES * 8 - 5, -1, -5))
    return session_id, f"blake3:{digest.hex()}"


def session_of(
    conversation: Any, options: ChatOptions, identity: tuple[str, str] | None = None
) -> ChatSession:
    """The events of a conversation, in order; `identity` saves deriving it again. Raises BadConversation."""
    check_conversation(conversation)
    session_id, digest = identify(conversation) if identity is None else identity
    transcript = _Transcript(session_id, options.kernel)
    transcript.start(conversation, digest, options)
    for index, message in enumerate(conversation["messages"]):
        transcript.message(index, message)
    outcome: str | None = COMPLETE
    if options.outcome is not None:
        outcome = outcome_of(_field(conversation, options.outcome))
    if outcome is not None:
        transcript.close(outcome, given=options.outcome is not None)
    return ChatSession(session_id, digest, transcript.events, outcome, transcript.final_counts())


def outcome_of(value: Any) -> str | None:
    """`complete` or `failed`, as a field of a conversation says; None if it does not say.

    A number is complete from 1 on, true is complete; words such as success, pass, failed and error, in
    any case, and numbers written as text are understood.
    """
    if isinstance(value, str):
        word = value.strip().casefold()
        if word in _COMPLETE or word in _FAILED:
            return COMPLETE if word in _COMPLETE else SESSION_FAILED
        try:
            value = float(word)
        except ValueError:
            return None
    if not isinstance(value, (int, float)) or math.isnan(value):
        return None
    return COMPLETE if value >= 1 else SESSION_FAILED


def check_conversation(conversation: Any) -> None:
    """Refuse what has not the shape of a conversation. Raises BadConversation."""
    if not isinstance(conversation, dict):
        raise BadConversation("", f"expected an object with `messages`, got {_kind(conversation)}")
    messages = conversation.get("messages")
    if not isinstance(messages, list):
        found = _kind(messages) if "messages" in conversation else "none"
        raise BadConversation("messages", f"expected an array of messages, found {found}")
    if len(messages) > MAX_MESSAGES:
        raise BadConversation(
            "messages", f"{len(messages):,} messages, more than the {MAX_MESSAGES:,} of a session"
        )
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadConversation(
                f"messages[{index}]", f"expected an object with `role`, got {_kind(message)}"
            )
        if not isinstance(message.get("role"), str):
            raise BadConversation(
                f"messages[{index}].role", f"expected a string, found {_kind(message.get('role'))}"
            )
        calls = message.get("tool_calls")
        if isinstance(calls, list) and len(calls) > MAX_CALLS:
            raise BadConversation(
                f"messages[{index}].tool_calls",
                f"{len(calls):,} calls, more than the {MAX_CALLS:,} of a message",
            )


# -- a conversation, message by message ------------------------------------------------------


class _Call(NamedTuple):
    """A tool call that waits for its answer; `name` is None if it is malformed."""

    message: int
    number: int
    id: str | None
    name: str | None
    arguments: Any
    asked_at: str | None


class _Transcript:
    """The events of one session, and the calls that wait for an answer."""

    def __init__(self, session_id: str, kernel_urn: str) -> None:
        self.events: list[NewEvent] = []
        self._counts = ChatCounts()
        self._session_id = session_id
        self._stream = session.STREAM_PREFIX + session_id
        self._kernel = kernel_urn
        #: By what an answer names them: a call's id, or the function's name where there are no ids.
        self._waiting: dict[tuple[str, str | None], deque[_Call]] = {}
        self._times: list[str] = []

    def start(self, conversation: dict[str, Any], digest: str, options: ChatOptions) -> None:
        fields = {name: value for name, value in conversation.items() if name != "messages"}
        times = [time for message in conversation["messages"] if (time := _time(message)) is not None]
        self._times = [times[0], times[-1]] if times else []

        def started(kept: int) -> session.SessionStarted:
            captured = capture(fields, "/source/fields", max_bytes=kept)
            source = {
                "format": FORMAT,
                "digest": digest,
                "fields": captured.value,
                "placeholders": captured.placeholders,
            }
            return session.SessionStarted(
                derived=session.Start(
                    session_id=self._session_id,
                    label=_label(conversation, options.label),
                    kernel=options.kernel,
                    action="",
                    retention_hours=options.retention_hours,
                    source=source,
                ),
                observed=session.StartObserved(
                    started_at=self._times[0] if times else None, urn=build_urn("Session", self._session_id)
                ),
            )

        body = _fitting(started, "the fields beside `messages`")
        assert body.derived.source is not None
        self._counts.left_out += len(body.derived.source["placeholders"])
        self._add(session.STARTED, body)

    def message(self, index: int, message: dict[str, Any]) -> None:
        """Record a message, and the call that it answers."""
        asked, extra = _calls_of(index, message)
        answers = _answered(message)
        role, name, answered_id = (_name(message.get(field)) for field in _NAMES)
        assert role is not None, "checked before"

        def recorded(kept: int) -> session.MessageRecorded:
            placeholders: list[str] = []
            content = _captured(message.get("content"), "/content", kept, placeholders)
            calls = [
                session.ToolCall(
                    id=call.id,
                    name=call.name,
                    arguments=_captured(
                        call.arguments, f"/tool_calls/{call.number}/arguments", kept, placeholders
                    ),
                )
                for call in asked
            ]
            return session.MessageRecorded(
                derived=session.Message(
                    session_id=self._session_id,
                    index=index,
                    role=role,
                    content=content,
                    name=name,
                    tool_calls=calls,
                    tool_call_id=answered_id,
                    extra=_captured(extra or None, "/extra", kept, placeholders),
                    placeholders=placeholders,
                ),
                observed=session.MessageObserved(recorded_at=_time(message)),
            )

        body = _fitting(recorded, f"messages[{index}]")
        self._counts.messages += 1
        self._counts.left_out += len(body.derived.placeholders)
        self._add(session.MESSAGE_RECORDED, body)
        for call in asked:
            self._ask(call)
        if answers is not None:
            self._answer(answers, index, message)

    def _ask(self, call: _Call) -> None:
        self._counts.calls += 1
        self._counts.malformed += call.name is None
        if call.id is not None:
            self._counts.reused_ids += ("id", call.id) in self._waiting
            self._waiting.setdefault(("id", call.id), deque()).append(call)
        else:
            self._waiting.setdefault(("name", call.name), deque()).append(call)

    def _answer(self, answers: tuple[str, str | None], index: int, message: dict[str, Any]) -> None:
        """Match an answer to the earliest call that it can be meant for."""
        waiting = self._waiting.get(answers)
        if not waiting:
            self._counts.stray_answers += 1
            return
        call = waiting.popleft()
        if call.name is not None:
            self._execute(call, index, message)

    def _execute(self, call: _Call, index: int, message: dict[str, Any]) -> None:
        name = call.name
        assert name is not None
        arguments = _arguments(call.arguments)

        def executed(kept: int) -> kernel.KernelExecuted:
            if arguments is None:
                given = _no_object(call.arguments, kept)
            else:
                given = capture(arguments, "/arguments", max_bytes=kept)
            output = capture(message.get("content"), "/output", max_bytes=kept)
            return kernel.KernelExecuted(
                derived=kernel.Execution(
                    psi=kernel.Psi(psi_type=PSI_TYPE, name=name, metadata={}),
                    arguments=given.value,
                    arguments_digest=given.digest,
                    success=True,  # as far as a transcript says: the tool answered
                    failure_code=FailureCode.OK,
                    exception_type=None,
                    output=output.value,
                    output_digest=output.digest,
                    core_digest=core_digest(name),
                    placeholders=[*given.placeholders, *output.placeholders],
                    capture="content",
                ),
                observed=kernel.ExecutionObserved(
                    run_id=f"{self._session_id}/{call.message}.{call.number}",
                    started_at=call.asked_at,
                    finished_at=_time(message),
                    runtime_ms=None,
                    error=None,
                    exception_repr=None,
                    metadata={"asked_in": call.message, "answered_in": index},
                    call_id=call.id,
                ),
            )

        body = _fitting(executed, f"the tool call answered in messages[{index}]")
        self._counts.executed += 1
        self._counts.bad_arguments += arguments is None
        self._counts.left_out += len(body.derived.placeholders) - (arguments is None)
        self._add(kernel.EXECUTED, body)

    def close(self, outcome: str, *, given: bool) -> None:
        body = session.SessionClosed(
            derived=session.Close(
                session_id=self._session_id, outcome=outcome, given=given, actions={}, kernels=[self._kernel]
            ),
            observed=session.CloseObserved(
                ended_at=self._times[-1] if self._times else None, duration_ms=None
            ),
        )
        self._add(session.CLOSED, body)

    def final_counts(self) -> ChatCounts:
        """The counts, once every message was recorded."""
        waiting = [call for calls in self._waiting.values() for call in calls]
        self._counts.unanswered = sum(call.name is not None for call in waiting)
        return self._counts

    def _add(self, kind: str, body: msgspec.Struct) -> None:
        self.events.append(NewEvent(kind=kind, body=body, stream=self._stream))


# -- the parts of a message --------------------------------------------------------------------

_NAMES: Final = ("role", "name", "tool_call_id")
_OWN_FIELDS: Final = frozenset({"content", "tool_calls", "function_call", *_NAMES})


def _calls_of(index: int, message: dict[str, Any]) -> tuple[list[_Call], dict[str, Any]]:
    """The calls that a message asks for, and its other fields.

    Among these is what cannot stand in its own field as it is: a name that is cut or is no text; and, as
    `tool_calls`, by the call's number, what a call has besides its id, function name and arguments.
    """
    extra = {name: value for name, value in message.items() if name not in _OWN_FIELDS}
    extra |= {name: message[name] for name in _NAMES if name in message and not _is_kept(message[name])}
    listed = message.get("tool_calls")
    if isinstance(listed, list):
        items = list(listed)
    else:
        items = [] if listed is None else [listed]
    if message.get("function_call") is not None:  # the format's first form: one call, without an id
        items.append({"type": "function_call", "function": message["function_call"]})
    at = _time(message)
    calls = []
    rest = {}
    for number, item in enumerate(items):
        call_id, name, arguments, other = _parts(item)
        calls.append(_Call(index, number, call_id, name, arguments, at))
        if other:
            rest[str(number)] = other
    if rest:
        extra["tool_calls"] = rest
    return calls, extra


def _parts(item: Any) -> tuple[str | None, str | None, Any, dict[str, Any]]:
    """Id, function name, arguments and other fields of a call.

    Of a malformed one the name is None, and it stands whole in place of its arguments.
    """
    if not isinstance(item, dict):
        return None, None, item, {}
    call_id = _name(item.get("id"))
    kind = item.get("type", "function")
    # A custom tool takes text as it is, which stands in `input`.
    inside, text = ("custom", "input") if kind == "custom" else ("function", "arguments")
    function = item.get(inside)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return call_id, None, item, {}
    other = {name: value for name, value in item.items() if name not in {"id", inside}}
    if kind == "function":
        other.pop("type", None)
    if not _is_kept(item.get("id")):
        other["id"] = item["id"]
    more = {name: value for name, value in function.items() if name not in {"name", text}}
    if not _is_kept(function["name"]):
        more["name"] = function["name"]
    if more:
        other[inside] = more
    arguments = function.get(text)
    if kind == "custom":
        arguments = {"input": arguments}
    return call_id, _cut(function["name"]), arguments, other


def _answered(message: dict[str, Any]) -> tuple[str, str | None] | None:
    """How a message names the call that it answers; None if it is no answer."""
    if message["role"] not in {"tool", "function"}:
        return None
    call_id = _name(message.get("tool_call_id"))
    return ("id", call_id) if call_id is not None else ("name", _name(message.get("name")))


def _arguments(arguments: Any) -> dict[str, Any] | None:
    """A call's arguments, which the format writes as JSON text; None if they are no object."""
    if isinstance(arguments, str):
        try:
            arguments = canonical.parse(arguments.encode())
        except (msgspec.MsgspecError, ValueError):
            return None
    return arguments if isinstance(arguments, dict) else None


def _no_object(arguments: Any, kept: int) -> Captured:
    """What stands for arguments that are no JSON object; the text itself is kept beside the reason."""
    raw = capture(arguments, "", max_bytes=kept).value
    shown = {"text": raw} if isinstance(raw, str) else {"value": raw}
    return Captured({OMITTED: "no JSON object", "type": _kind(arguments), **shown}, None, ["/arguments"])


@lru_cache(maxsize=1024)
def core_digest(name: str) -> str:
    """The core digest of a tool call that was answered."""
    psi = {"psi_type": PSI_TYPE, "name": name, "metadata": {}}
    core = {"psi": psi, "success": True, "failure_code": FailureCode.OK, "exception_type": None}
    digest = recorded_core_digest({**core, "placeholders": []})
    assert digest is not None, "nothing of it is a placeholder"
    return digest


def _captured(value: Any, pointer: str, kept: int, placeholders: list[str]) -> Any:
    """The value as a body can hold it; where something was left out goes into `placeholders`."""
    if value is None:
        return None
    captured = capture(value, pointer, max_bytes=kept)
    placeholders += captured.placeholders
    return captured.value


def _fitting(build: Callable[[int], B], what: str) -> B:
    """The body that keeps as much as an event can hold; `build` gets how many bytes to keep of a value."""
    for kept in _KEPT_BYTES:
        body = build(kept)
        if len(_encode_sorted(body)) <= canonical.MAX_BYTES:
            return body
    raise BadConversation("", f"{what}: too large for an event even without content")


def _label(conversation: dict[str, Any], field: str | None) -> str:
    """The label of a session: a field as text, or the first words of the first user."""
    if field is not None:
        value = _field(conversation, field)
        if value is _MISSING or value is None:
            return ""
        text = value if isinstance(value, str) else _encode_sorted(value).decode()
    else:
        text = next(_texts_of_user(conversation["messages"]), "")
    words = " ".join(_text(text[: 16 * LABEL_CHARACTERS_MAX]).split())
    return words if len(words) <= LABEL_CHARACTERS_MAX else words[: LABEL_CHARACTERS_MAX - 1].rstrip() + "…"


def _texts_of_user(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        if message["role"] == "user":
            content = message.get("content")
            for part in content if isinstance(content, list) else [{"text": content}]:
                text = part.get("text") if isinstance(part, dict) else None
                if isinstance(text, str) and not text.isspace() and text:
                    yield text


def _field(conversation: dict[str, Any], path: str) -> Any:
    """The field of that name, or nested by dots; `_MISSING` if there is none."""
    if path in conversation:
        return conversation[path]
    value: Any = conversation
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return _MISSING
        value = value[name]
    return value


def _time(message: dict[str, Any]) -> str | None:
    """When a message was written, ISO 8601 in UTC, if it says so: with a zone, or in seconds since 1970."""
    for name in ("timestamp", "created_at"):
        value = message.get(name)
        try:
            if isinstance(value, str) and (moment := dt.datetime.fromisoformat(value)).tzinfo is not None:
                return iso_text(moment)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _EPOCH_S_MAX:
                return iso_text(_EPOCH + dt.timedelta(seconds=value))
        except (ValueError, OverflowError):
            continue
    return None


def _name(value: Any) -> str | None:
    """A name or id as text, cut if it is long; None if it is neither text nor an integer."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if value.bit_length() < 64 else None
    return _cut(value) if isinstance(value, str) else None


def _is_kept(value: Any) -> bool:
    """Whether a name can stand in its field as it is."""
    return value is None or (isinstance(value, str) and _cut(value) == value)


def _cut(text: str) -> str:
    """A name that fits into an event: of a long one the beginning, and a digest of the whole."""
    text = _text(text)
    if len(text) <= NAME_CHARACTERS_MAX:
        return text
    digest = blake3(text.encode()).hexdigest()[:32]
    return f"{text[: NAME_CHARACTERS_MAX - len(digest) - 1]}…{digest}"


def _text(text: str) -> str:
    """Text as JSON can hold it: without half surrogate pairs."""
    return text.encode("utf-8", "replace").decode()


def _kind(value: Any) -> str:
    """What a value is in the words of JSON."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
