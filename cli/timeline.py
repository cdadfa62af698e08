"""A session's events for reading: a line each, in order, whatever their bodies hold.

A ledger may come from a stranger, so nothing is taken from a body without a look at its type, and all
text is escaped where it is printed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from tallystick.events import kernel, session
from tallystick.replay.parts import (
    call_text,
    content_text,
    erased_text,
    kernel_text,
    part,
    sign_of,
    text_part,
    tool_calls,
)

from .output import body_text, coloured, json_text, printable

if TYPE_CHECKING:
    from tallystick.ledger.event import Event

#: What a line holds in a pipe; on a terminal it is cut at the edge.
FOLDED_CHARACTERS: Final = 120
_TITLE_WIDTH: Final = 10
TITLE_WIDTH_MAX: Final = 24
_ROOM_MIN: Final = 20
_BECAME: Final = " → "

_COLOURS: Final = {"+": "green", "x": "red", "~": "yellow"}


class Entry(NamedTuple):
    """An event as a line: sign, title, text, what came of it, and by name what else there is to say."""

    sign: str
    title: str
    text: str
    result: str = ""
    details: Sequence[tuple[str, Any]] = ()
    time: str = ""


def coloured_sign(text: str, sign: str) -> str:
    """The text in the colour of a sign."""
    return coloured(text, fg=_COLOURS[sign]) if sign in _COLOURS else text


def entry_of(event: Event) -> Entry:
    """The line of an event."""
    if event.erased:
        return Entry("", _SHORT.get(event.kind, event.kind), "(the body was erased)")
    describe = _DESCRIBED.get(event.kind)
    if describe is None:
        return Entry("", event.kind, body_text(event))
    return describe(event.body)


# -- kinds -------------------------------------------------------------------------------------


def _started(body: Any) -> Entry:
    begun_by = text_part(body, "derived", "action")
    return Entry("", "start", begun_by or text_part(body, "derived", "label"), time=_time(body, "started_at"))


def _message(body: Any) -> Entry:
    turn = part(body, "derived")
    text = content_text(part(turn, "content"))
    if name := text_part(turn, "name"):
        text = f"{name}: {text}"
    calls = [f"→ {call}" for call in tool_calls(turn)]
    if not text and calls:
        text = calls.pop(0)
    extra = part(turn, "extra")
    return Entry(
        "",
        text_part(turn, "role") or "message",
        text,
        details=[*(("", call) for call in calls), *([("extra", extra)] if extra else [])],
        time=_time(body, "recorded_at"),
    )


def _executed(body: Any) -> Entry:
    done = part(body, "derived")
    succeeded = part(done, "success") is True
    called = call_text(text_part(done, "psi", "name"), part(done, "arguments"))
    if succeeded:
        result = content_text(part(done, "output"))
    else:
        result = f"{text_part(done, 'failure_code')}: {text_part(body, 'observed', 'error')}"
    return Entry("+" if succeeded else "x", "call", called, result, time=_time(body, "started_at"))


def _pipeline(body: Any) -> Entry:
    done = part(body, "derived")
    succeeded = part(done, "success") is True
    text = f"{text_part(done, 'steps')} steps"
    if not succeeded:
        text += f"; {text_part(done, 'failure_code')}: {text_part(body, 'observed', 'failure_message')}"
    return Entry("+" if succeeded else "x", "pipeline", text)


def _action(body: Any) -> Entry:
    done = part(body, "derived")
    outcome = text_part(done, "outcome")
    attempt = part(done, "attempt")
    words = [
        text_part(done, "action_type"),
        f"({outcome})",
        f"attempt {attempt}" if isinstance(attempt, int) and attempt > 1 else "",
        f"by {kernel_text(text_part(done, 'kernel'))}",
        f"via {text_part(done, 'via_edge')}" if part(done, "via_edge") else "",
    ]
    named = ("diff_summary", "note", "intent", "before_state", "after_state", "evidence")
    shown = {"diff_summary": "change", "before_state": "before", "after_state": "after"}
    details = [
        (shown.get(name, name), part(done, name)) for name in named if part(done, name) not in (None, "")
    ]
    text = " ".join(word for word in words if word)
    return Entry(sign_of(outcome), "action", text, details=details, time=_time(body, "recorded_at"))


def _closed(body: Any) -> Entry:
    outcome = text_part(body, "derived", "outcome")
    error = text_part(body, "observed", "error")
    kind = text_part(body, "observed", "error_type")
    details = [("error", f"{kind}: {error}" if kind else error)] if error or kind else []
    return Entry(sign_of(outcome), "end", outcome, details=details, time=_time(body, "ended_at"))


def _expired(body: Any) -> Entry:
    text = f"{erased_text(part(body, 'erased'))}, {text_part(body, 'retention_hours')} hours after its end"
    return Entry("-", "expired", text)


_DESCRIBED: Final[Mapping[str, Callable[[Any], Entry]]] = {
    session.STARTED: _started,
    session.CLOSED: _closed,
    session.EXPIRED: _expired,
    session.ACTION_RECORDED: _action,
    session.MESSAGE_RECORDED: _message,
    kernel.EXECUTED: _executed,
    kernel.PIPELINE_COMPLETED: _pipeline,
}
_SHORT: Final[Mapping[str, str]] = {
    session.STARTED: "start",
    session.CLOSED: "end",
    session.ACTION_RECORDED: "action",
    session.MESSAGE_RECORDED: "message",
    kernel.EXECUTED: "call",
    kernel.PIPELINE_COMPLETED: "pipeline",
}


def _time(body: Any, name: str) -> str:
    """The time of day in an observed clock reading."""
    text = text_part(body, "observed", name)
    return text[11:19] if len(text) >= 19 and text[10] == "T" else ""


# -- printing ----------------------------------------------------------------------------------


class Timeline:
    """Prints entries; folded to a line each, unless `full`."""

    def __init__(self, last_seq: int, full: bool) -> None:
        self._full = full
        self._seq_width = len(str(last_seq))
        self._width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        #: Whether there is a column for times: not if the first event has none, as in most transcripts.
        self._timed: bool | None = None

    def print(self, events: Iterable[Event]) -> None:
        """Print the lines of events."""
        for event in events:
            entry = entry_of(event)
            if self._timed is None:
                self._timed = bool(entry.time)
            self._print(event.seq, entry)

    def _print(self, seq: int, entry: Entry) -> None:
        lead = f"{seq:>{self._seq_width}}  " + (f"{entry.time:8}  " if self._timed else "")
        sign = coloured_sign(f"{entry.sign:1}", entry.sign)
        title = f"{fold(entry.title, TITLE_WIDTH_MAX):<{_TITLE_WIDTH}}"
        indent = " " * (len(lead) + len("x "))
        self._write(f"{lead}{sign} {coloured(title, bold=True)} ", len(indent) + len(title) + 1, entry)
        for name, value in entry.details:
            label = f"{name:<{_TITLE_WIDTH}}"
            text = value if isinstance(value, str) else _indented(value) if self._full else json_text(value)
            self._write(
                f"{indent}{coloured(label, dim=True)} ", len(indent) + len(label) + 1, Entry("", "", text)
            )

    def _write(self, head: str, taken: int, entry: Entry) -> None:
        """One line, or with `full` as many as there are; `taken` is the width of the head."""
        if not self._full:
            room = max(_ROOM_MIN, self._width - taken) if self._width else FOLDED_CHARACTERS
            sys.stdout.write(f"{head}{_folded(entry, room)}".rstrip() + "\n")
            return
        text = f"{entry.text}\n→ {entry.result}" if entry.result else entry.text
        for number, line in enumerate(text.split("\n")):
            sys.stdout.write(f"{' ' * taken if number else head}{printable(line)}".rstrip() + "\n")


def _folded(entry: Entry, columns: int) -> str:
    """Text and result on one line; of both something is shown."""
    from rich.cells import cell_len

    if not entry.result:
        return fold(entry.text, columns)
    result = fold(entry.result, columns // 2)
    text = fold(entry.text, columns - cell_len(result) - len(_BECAME))
    return f"{text}{_BECAME}{fold(entry.result, columns - cell_len(text) - len(_BECAME))}"


def fold(text: str, columns: int) -> str:
    """The text on one line of at most so many columns, escaped; of a longer one, how much more there is."""
    from rich.cells import cell_len, set_cell_size

    # What lies far beyond the edge is cut before it is looked at.
    words = printable(" ".join(text[: 8 * columns].split()))
    if len(text) <= 8 * columns and cell_len(words) <= columns:
        return words
    room = columns
    while True:  # the longer the number, the fewer characters are left
        kept = set_cell_size(words, max(1, room)).rstrip()
        more = f"… (+{max(1, len(text) - len(kept)):,})"
        if cell_len(kept) + len(more) <= columns or room <= 1:
            return kept + more
        room -= max(1, cell_len(kept) + len(more) - columns)


def _indented(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
