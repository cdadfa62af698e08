"""Events told for people: each in one plain sentence, with its values and where each of them comes from.

Whatever a body holds is told; nothing is taken from it without a look at its type. Texts are raw and whole:
who prints them cuts and escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, Final

import msgspec

from tallystick.events import gateway, kernel, ledger, projection, session
from tallystick.events.catalogue import KINDS
from tallystick.ledger import canonical
from tallystick.ledger.drafting import META_FIELDS
from tallystick.ledger.errors import Corrupt
from tallystick.ledger.event import Row
from tallystick.ledger.ledger import Ledger

from ..layers.checks import Body, Unreadable, read_body
from ..parts import (
    call_text,
    content_text,
    erased_text,
    json_line,
    kernel_text,
    part,
    sign_of,
    text_part,
    tool_calls,
)
from ..report import ReplayReport, Result

#: Events that a report tells of, from the first one on; besides those around what diverged.
MOMENTS_FIRST: Final = 2000
#: How many events before and behind one that diverged are told of.
MOMENTS_AROUND: Final = 3
#: Events that diverged and are told of with their neighbours.
DIVERGED_TOLD_MAX: Final = 200
_HEADLINE_MAX: Final = 240
_WORDS_MAX: Final = 100


class Provenance(StrEnum):
    """Where a value comes from, and so what it is worth."""

    #: What the app, a person or an imported file passed in. There is nothing to derive it from.
    GIVEN = "given"
    #: What a task returned or raised. It is derived again by running the task.
    RETURNED = "returned"
    #: It follows from other recorded values. Replay derives it again and compares.
    DERIVED = "derived"
    #: Seen once: a clock, a duration, a name drawn at random, the text of an error. Never compared.
    OBSERVED = "observed"
    #: Left out when it was recorded: only a digest or a placeholder is there.
    LEFT_OUT = "left out"
    #: The body was erased; its hash stays in the chain.
    ERASED = "erased"
    #: It stands in a body that is not as its kind's bodies are.
    NOT_READABLE = "not readable"
    #: It stands in a place that this program knows nothing of.
    UNKNOWN = "unknown"


class Value(msgspec.Struct, frozen=True):
    """A value of an event: its name in the body, the JSON value, and where it comes from."""

    name: str
    value: Any
    provenance: Provenance


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it is told.

    at: microseconds since 1970 UTC. actor: who acted, as the event says. sign: `+` it went well, `x` it
    failed, `~` in part, `-` neither, or empty. headline: one plain sentence. values: what it holds; a body
    may be large, so that many moments are best taken one at a time. hash: hex. why: why it belongs to what
    is told, where somebody says so.
    """

    seq: int
    at: int
    kind: str
    stream: str
    actor: str | None
    sign: str
    headline: str
    values: tuple[Value, ...]
    hash: str
    why: str | None = None


def tell(rows: Iterable[Row]) -> Iterator[Moment]:
    """The events as they are told, one by one. Never raises for what a body or meta holds."""
    return map(_moment, rows)


def moments_of(ledger: Ledger, report: ReplayReport) -> Iterator[Moment]:
    """The events that a report tells of: the first of its selection, and those around what diverged.

    One at a time, and at most `MOMENTS_FIRST` and a few for each of `DIVERGED_TOLD_MAX`. Ends early where
    the log cannot be read any further, which the report says.
    """
    selection, head = report.selection, ledger.head()
    last = msgspec.structs.replace(head, seq=min(head.seq, report.head[0]))
    try:
        yield from tell(chosen_rows(selection.rows(ledger, last), report))
    except Corrupt:
        return


def chosen_rows(rows: Iterable[Row], report: ReplayReport) -> Iterator[Row]:
    """Of the selected events those that a report tells of; in order."""
    found = dict.fromkeys(entry.seq for entry in report.entries if entry.result is Result.DIVERGED)
    around = {
        seq + step
        for seq in list(found)[:DIVERGED_TOLD_MAX]
        for step in range(-MOMENTS_AROUND, MOMENTS_AROUND + 1)
    }
    last = max(around, default=0)
    for place, row in enumerate(rows):
        if place < MOMENTS_FIRST or row.seq in around:
            yield row
        elif row.seq > last:
            return


def _moment(row: Row) -> Moment:
    meta = _meta(row)
    body = read_body(row) if row.kind in KINDS else _app_body(row)
    if isinstance(body, Unreadable):
        sign, headline = ("x" if body.malformed else ""), body.reason
        values = _unread(row, body)
    elif row.kind in KINDS:
        sign, headline = _told(row, body.plain)
        values = list(_values(row.kind, body.plain))
    else:
        sign, headline = "", content_text(body.plain)
        values = list(_app_values(body.plain))
    values += [
        Value(name, meta[name], Provenance.GIVEN)
        for name in META_FIELDS
        if isinstance(meta, dict) and name in meta and name != "actor"
    ]
    return Moment(
        seq=row.seq,
        at=row.at,
        kind=row.kind,
        stream=row.stream,
        actor=_actor(row.kind, meta, body),
        sign=sign,
        headline=cut(headline, _HEADLINE_MAX),
        values=tuple(values),
        hash=row.hash.hex(),
    )


def cut(text: str, characters: int) -> str:
    """The text on one line; of a longer one its beginning, and how much more there is."""
    line = " ".join(text[: 4 * characters].split())
    if len(line) <= characters and len(text) <= 4 * characters:
        return line
    kept = line[:characters].rstrip()
    return f"{kept}… (+{max(1, len(text) - len(kept)):,} characters)"


# -- bodies ------------------------------------------------------------------------------------


def _app_body(row: Row) -> Body | Unreadable:
    """The body of an app's event: any JSON."""
    if row.body is None:
        return Unreadable("its body was erased", False)
    try:
        return Body(canonical.decode(row.body), None)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        return Unreadable(f"malformed body: {error}", True)


def _meta(row: Row) -> Any:
    try:
        return None if row.meta is None else canonical.decode(row.meta)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return None


def _actor(kind: str, meta: Any, body: Body | Unreadable) -> str | None:
    """Who acted: of the meta, or of a decision whoever asked for it."""
    if found := text_part(meta, "actor"):
        return found
    if kind == gateway.RECORDED and isinstance(body, Body):
        return text_part(body.plain, "derived", "request", "subject", "id") or None
    return None


def _unread(row: Row, why: Unreadable) -> list[Value]:
    """What there is of a body that cannot be read."""
    if row.body is None:
        return [Value("body", None, Provenance.ERASED)]
    text = row.body.decode("utf-8", "backslashreplace")
    return [Value("body", text, Provenance.NOT_READABLE if why.malformed else Provenance.UNKNOWN)]


def _app_values(body: Any) -> Iterator[Value]:
    if isinstance(body, dict):
        yield from (Value(name, value, Provenance.GIVEN) for name, value in body.items())
    else:
        yield Value("body", body, Provenance.GIVEN)


# -- provenance --------------------------------------------------------------------------------

#: Of the kinds whose bodies hold it, what was passed in: names in `derived`, or in a body without halves.
_GIVEN: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(names.split())
    for kind, names in {
        ledger.BODY_ERASED: "reason",
        kernel.EXECUTED: "psi arguments capture",
        kernel.PIPELINE_COMPLETED: "steps",
        session.STARTED: "label kernel action retention_hours source",
        session.ACTION_RECORDED: (
            "action_type outcome kernel via_edge intent evidence before_state after_state attempt note"
        ),
        session.MESSAGE_RECORDED: "role content name tool_calls tool_call_id extra",
        session.CLOSED: "given",
        gateway.POLICY_REGISTERED: "text",
        gateway.RECORDED: "request policy",
        gateway.LABELED: "label summary",
        gateway.OUTCOME: "data",
        gateway.NOTED: "data",
        gateway.OVERRIDDEN: "data",
        projection.SEALED: "name version seq",
    }.items()
}
#: What a task gave back.
_RETURNED: Final = frozenset({"success", "failure_code", "exception_type", "output"})
#: The first event says what was there when the ledger was made.
_OBSERVED_KINDS: Final = frozenset({ledger.CREATED})
_DERIVED, _SEEN = "derived", "observed"


def provenance_of(kind: str, name: str, half: str = _DERIVED) -> Provenance:
    """Where the value of this name comes from, in a body of a built-in kind (or in this half of one)."""
    if half == _SEEN or kind in _OBSERVED_KINDS:
        return Provenance.OBSERVED
    if name in _GIVEN.get(kind, ()):
        return Provenance.GIVEN
    if kind == kernel.EXECUTED and name in _RETURNED:
        return Provenance.RETURNED
    return Provenance.DERIVED


def _values(kind: str, body: dict[str, Any]) -> Iterator[Value]:
    """The values of a body that is as its kind's struct says, by name, the halves taken apart."""
    for name, value, field in _in_order(body, KINDS[kind]):
        if field is None:
            yield Value(name, value, Provenance.UNKNOWN)
        elif name in (_DERIVED, _SEEN) and isinstance(value, dict):
            for inner, one, known in _in_order(value, field.type):
                source = Provenance.UNKNOWN if known is None else provenance_of(kind, inner, name)
                yield Value(inner, one, _in_this_body(kind, inner, one, value, source))
        elif name != "v":
            yield Value(name, value, provenance_of(kind, name))


def _in_order(
    body: dict[str, Any], struct: Any
) -> Iterator[tuple[str, Any, msgspec.structs.FieldInfo | None]]:
    """Name, value and field of what an object holds: in the order of its struct, then what that has not."""
    known = _fields(struct)
    yield from ((name, body[name], field) for name, field in known.items() if name in body)
    yield from ((name, value, None) for name, value in body.items() if name not in known)


@cache
def _fields(struct: Any) -> dict[str, msgspec.structs.FieldInfo]:
    """The fields of a struct by their names in a body; msgspec works them out anew each time."""
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


def _in_this_body(kind: str, name: str, value: Any, half: dict[str, Any], source: Provenance) -> Provenance:
    """The provenance as this body has it: what was left out, and what it says that the caller gave."""
    if isinstance(value, dict) and "$omitted" in value:
        return Provenance.LEFT_OUT
    if kind == kernel.EXECUTED and name in ("arguments", "output") and half.get("capture") == "digest":
        return Provenance.LEFT_OUT
    if kind == session.CLOSED and name == "outcome" and half.get("given") is True:
        return Provenance.GIVEN
    return source


# -- headlines ---------------------------------------------------------------------------------

_Told = tuple[str, str]


def _told(row: Row, body: dict[str, Any]) -> _Told:
    """The sign and the headline of an event of a built-in kind."""
    describe = _TOLD.get(row.kind)
    return ("", json_line(body)) if describe is None else describe(body)


def _created(body: Any) -> _Told:
    return (
        "",
        f"The ledger was created by {text_part(body, 'program')}, with the id {text_part(body, 'ledger_id')}",
    )


def _body_erased(body: Any) -> _Told:
    return "-", f"The body of event {text_part(body, 'seq')} was erased: {text_part(body, 'reason')}"


def _executed(body: Any) -> _Told:
    done = part(body, "derived")
    psi_type = text_part(done, "psi", "psi_type")
    called = _words(call_text(text_part(done, "psi", "name"), part(done, "arguments")))
    called = f"{psi_type} {called}" if psi_type else called
    if part(done, "success") is True:
        return "+", f"{called} returned {_words(_returned(part(done, 'output')))}"
    error = text_part(done, "exception_type") or text_part(done, "failure_code")
    return "x", _because(f"{called} failed: {error}", text_part(body, "observed", "error"))


def _returned(output: Any) -> str:
    return output if isinstance(output, str) and output else json_line(output)


def _pipeline(body: Any) -> _Told:
    done = part(body, "derived")
    steps, executed = text_part(done, "steps"), text_part(done, "executed")
    if part(done, "success") is True:
        return "+", f"A pipeline of {steps} steps succeeded"
    failed = f"A pipeline failed after {executed} of {steps} steps: {text_part(done, 'failure_code')}"
    return "x", _because(failed, text_part(body, "observed", "failure_message"))


def _started(body: Any) -> _Told:
    done = part(body, "derived")
    by = kernel_text(text_part(done, "kernel"))
    return "", _because(
        f"Session “{_words(text_part(done, 'label'))}” began, by {by}", text_part(done, "action")
    )


def _closed(body: Any) -> _Told:
    outcome = text_part(body, "derived", "outcome")
    counts = part(body, "derived", "actions")
    listed = counts.items() if isinstance(counts, dict) else ()
    actions = ", ".join(f"{count} {name}" for name, count in listed if count)
    given = " (as its caller said)" if part(body, "derived", "given") is True else ""
    ended = f"The session ended: {outcome}{given}" + (f", of its actions {actions}" if actions else "")
    error = text_part(body, "observed", "error_type")
    return sign_of(outcome), _because(ended, _because(error, text_part(body, "observed", "error")))


def _expired(body: Any) -> _Told:
    hours = text_part(body, "retention_hours")
    return "-", f"The session expired, {hours} hours after its end: {erased_text(part(body, 'erased'))}"


def _action(body: Any) -> _Told:
    done = part(body, "derived")
    outcome, attempt = text_part(done, "outcome"), part(done, "attempt")
    again = f", attempt {attempt}" if isinstance(attempt, int) and attempt > 1 else ""
    what = f"{_words(text_part(done, 'action_type'))} by {kernel_text(text_part(done, 'kernel'))}"
    error = text_part(done, "evidence", "error")
    more = [each for each in (text_part(done, "diff_summary"), text_part(done, "note"), error) if each]
    return sign_of(outcome), _because(f"{what}: {outcome}{again}", "; ".join(map(_words, more)))


def _message(body: Any) -> _Told:
    turn = part(body, "derived")
    speaker = " ".join(each for each in (text_part(turn, "role"), text_part(turn, "name")) if each)
    text = content_text(part(turn, "content"))
    calls = [f"calls {_words(call)}" for call in tool_calls(turn)]
    return "", f"{speaker or 'message'}: {' '.join([text, *calls]).strip()}"


def _policy(body: Any) -> _Told:
    return "", f"Policy {text_part(body, 'policy_id')} {text_part(body, 'policy_version')} was registered"


def _decision(body: Any) -> _Told:
    done = part(body, "derived")
    verdict = text_part(done, "verdict")
    amount = part(done, "request", "action", "amount")
    value = text_part(amount, "value")
    asked = f" asked for {value} {text_part(amount, 'currency')}" if value else " was asked for"
    error = text_part(body, "observed", "error", "message")
    advisory = " (advisory: not enforced)" if part(done, "policy", "mode") == "advisory" else ""
    said = (
        f"{text_part(done, 'request', 'action', 'type')}{asked}: {verdict}{advisory}{_rules(done, verdict)}"
    )
    return {"TRUST": "+", "ABSTAIN": "x"}.get(verdict, "~"), _because(said, error)


def _rules(done: Any, verdict: str) -> str:
    """The rules that asked for the verdict, and the reasons."""
    rules = [rule for rule in _listed(done, "matched_rules") if part(rule, "effect") == verdict]
    names = ", ".join(text_part(rule, "rule_id") for rule in rules)
    codes = [code for rule in rules for code in _listed(rule, "reason_codes")] or _listed(
        done, "reason_codes"
    )
    reasons = ", ".join(code if isinstance(code, str) else json_line(code) for code in codes)
    word = "rules" if len(rules) > 1 else "rule"
    return (f", {word} {_words(names)}" if names else "") + (f" ({_words(reasons)})" if reasons else "")


def _labeled(body: Any) -> _Told:
    label = text_part(body, "label")
    said = f"Decision {text_part(body, 'decision_id')} was labelled {label}"
    return {"failure": "x", "success": "+"}.get(label, "~"), _because(said, text_part(body, "summary"))


def _later(word: str) -> Callable[[Any], _Told]:
    def describe(body: Any) -> _Told:
        data = json_line(part(body, "data"))
        return (
            "~" if word == "Override" else "",
            f"{word} of decision {text_part(body, 'decision_id')}: {data}",
        )

    return describe


def _memory(body: Any) -> _Told:
    about = text_part(body, "action_type")
    tenant = text_part(body, "tenant_id")
    said = f"Remembered of {about}{f' for {tenant}' if tenant else ''}: {text_part(body, 'label')}"
    return "", _because(said, text_part(body, "summary"))


def _sealed(body: Any) -> _Told:
    return "", f"The view {text_part(body, 'name')} was sealed as of event {text_part(body, 'seq')}"


def _because(said: str, more: str) -> str:
    return f"{said}: {more}" if said and more else said or more


def _words(text: str) -> str:
    return cut(text, _WORDS_MAX)


def _listed(value: Any, name: str) -> Sequence[Any]:
    found = part(value, name)
    return found if isinstance(found, list) else ()


_TOLD: Final[Mapping[str, Callable[[Any], _Told]]] = {
    ledger.CREATED: _created,
    ledger.BODY_ERASED: _body_erased,
    kernel.EXECUTED: _executed,
    kernel.PIPELINE_COMPLETED: _pipeline,
    session.STARTED: _started,
    session.CLOSED: _closed,
    session.EXPIRED: _expired,
    session.ACTION_RECORDED: _action,
    session.MESSAGE_RECORDED: _message,
    gateway.POLICY_REGISTERED: _policy,
    gateway.RECORDED: _decision,
    gateway.LABELED: _labeled,
    gateway.OUTCOME: _later("Outcome"),
    gateway.NOTED: _later("Note"),
    gateway.OVERRIDDEN: _later("Override"),
    gateway.MEMORY_ADDED: _memory,
    projection.SEALED: _sealed,
}
