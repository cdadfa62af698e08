"""Printing: data on stdout, everything else on stderr.

On a terminal a table; in a pipe the same columns separated by tabs; `--json` one JSON document,
`--nl` one JSON object a line. Text from a ledger never reaches the terminal as it is: whatever could
move the cursor, change colours or reorder the line is escaped. `NO_COLOR` is honoured.
"""

from __future__ import annotations

import datetime as dt
import os
import select
import shutil
import sys
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from rich.progress import Progress

    from tallystick.ledger.event import Event

#: Rows whose columns are aligned with one another; later ones may be wider.
BATCH_ROWS: Final = 500
#: No progress is shown for what takes less.
PROGRESS_AFTER_S: Final = 0.5
#: No time is estimated before there is this much to go by.
ESTIMATE_AFTER_S: Final = 2.0
#: An estimate goes by how the work went in this time.
_LOOK_BACK_S: Final = 15.0
_SAMPLE_EVERY_S: Final = 0.25
_REFRESH_HZ: Final = 4
#: Rows that a listing shows on a terminal, unless it is told otherwise.
LISTED_MAX: Final = 30
#: A terminal with fewer has no room for the year beside every event.
NARROW_COLUMNS: Final = 76

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """`--json`; the command gets `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def nl_option(command: F) -> F:
    """`--nl`; the command gets `as_lines`."""
    return click.option("--nl", "as_lines", is_flag=True, help="Print one JSON object a line.")(command)


# -- JSON ----------------------------------------------------------------------------------


def print_json(value: Any) -> None:
    """One JSON document, indented."""
    lines = msgspec.json.format(msgspec.json.encode(value), indent=2).decode().split("\n")
    sys.stdout.write("".join(f"{_safe(line, _json_escape)}\n" for line in lines))


def print_json_line(value: Any) -> None:
    """One JSON value on one line."""
    sys.stdout.write(json_text(value) + "\n")


def print_json_array(values: Iterable[Any]) -> None:
    """A JSON array of any length, an element a line, in constant memory."""
    separator = "["
    for value in values:
        sys.stdout.write(f"{separator}\n  {json_text(value)}")
        separator = ","
    sys.stdout.write("[]\n" if separator == "[" else "\n]\n")


def json_text(value: Any) -> str:
    """A value as JSON on one line."""
    return _safe(msgspec.json.encode(value).decode(), _json_escape)


# -- text ----------------------------------------------------------------------------------


def say(message: str) -> None:
    """A remark for the person at the terminal; may have several lines."""
    print("\n".join(map(printable, message.split("\n"))), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text with control characters escaped, so that it can neither move the cursor nor break a line."""
    return _safe(text, lambda character: character.encode("unicode_escape").decode())


def _safe(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    # Spaces other than U+0020 are not "printable", but harmless.
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else escape(c) for c in text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def reader_left() -> bool:
    """Whether stdout is a pipe that nobody reads any more; writing to it would say so, too."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # no such call here, or no such file
        return False
    return any(events & select.POLLERR for _, events in poll.poll(0))


def coloured(text: str, **style: Any) -> str:
    """The text in a style of `click.style`, where colours are wanted."""
    wanted = _is_terminal(sys.stdout) and "NO_COLOR" not in os.environ
    return click.style(text, **style) if wanted else text


def _is_terminal(stream: IO[str]) -> bool:
    """Whether the stream is a terminal that understands more than lines of text."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def time_text(at: int) -> str:
    """A time in UTC to the millisecond: 2026-03-12 14:30:00.123Z."""
    return _iso(at, " ") or f"{at} µs"


def short_time_text(at: int) -> str:
    """The time for a column on a terminal: to the second, and on a narrow one without the year.

    Enough to find an event by; `tally show` has the rest.
    """
    text = time_text(at).partition(".")[0]
    narrow = shutil.get_terminal_size().columns < NARROW_COLUMNS
    return text.partition("-")[2] or text if narrow else text


def _iso(at: int, separator: str) -> str | None:
    try:
        moment = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=at)
    except OverflowError:
        return None
    return f"{moment.isoformat(separator, 'milliseconds')}Z"


def bytes_text(size: float) -> str:
    """A size in bytes for reading: 512 B, 1.4 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def counted(count: int, noun: str) -> str:
    """A number of things: 1 event, 1,200 events."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def path_text(path: str | os.PathLike[str]) -> str:
    """A path as text for JSON; bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode(errors="replace")


# -- events --------------------------------------------------------------------------------


def event_object(event: Event) -> dict[str, Any]:
    """An event as the JSON object that `log`, `show` and `tail` print; hashes in hex.

    `time` is null where no calendar has it.
    """
    return {
        "seq": event.seq,
        "time": _iso(event.at, "T"),
        "at": event.at,
        "kind": event.kind,
        "stream": event.stream,
        "key": event.key,
        "meta": event.meta,
        "body": event.body,
        "erased": event.erased,
        "body_hash": event.body_hash.hex(),
        "prev_hash": event.prev_hash.hex(),
        "hash": event.hash.hex(),
    }


def body_text(event: Event) -> str:
    """A body on one line."""
    return "(erased)" if event.erased else json_text(event.body)


# -- tables --------------------------------------------------------------------------------


class Table:
    """Rows that are printed as they come, in constant memory.

    On a terminal one line a row: columns are aligned, the last is cut at the edge, and those before it
    have at most a quarter of the width each, but for those named in `whole`. In a pipe the cells are
    separated by tabs, whole, with no heading.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        right: Sequence[str] = (),
        whole: Sequence[str] = (),
        heading: bool = True,
    ) -> None:
        self._columns = columns
        self._right = [name in right for name in columns]
        self._whole = [name in whole for name in columns]
        self._terminal = sys.stdout.isatty()
        self._width = shutil.get_terminal_size().columns
        self._widths = [0] * len(columns)
        if self._terminal and heading:
            self._widths = [len(name) for name in columns]
        self._heading_due = self._terminal and heading

    def print(self, rows: Iterable[Sequence[Any]]) -> None:
        """Print rows, aligned with those before where they fit."""
        source = iter(rows)
        while batch := list(islice(source, BATCH_ROWS)):
            if self._terminal:
                self._print_aligned(batch)
            else:
                for row in batch:
                    sys.stdout.write("\t".join(printable(str(cell)) for cell in row) + "\n")
        if self._heading_due:
            self._print_heading()

    def _print_heading(self) -> None:
        self._heading_due = False
        sys.stdout.write(coloured(self._line(self._columns), bold=True) + "\n")

    def _print_aligned(self, batch: Sequence[Sequence[Any]]) -> None:
        from rich.cells import cell_len

        # What lies far beyond the edge is cut before it is looked at: bodies may be large.
        lines = [[printable(str(cell)[: 4 * self._width]) for cell in row] for row in batch]
        limit = max(10, self._width // 4)
        for line in lines:
            for column, cell in enumerate(line[:-1]):
                if (width := cell_len(cell)) > self._widths[column]:
                    self._widths[column] = width if self._whole[column] else min(limit, width)
        if self._heading_due:
            self._print_heading()
        for line in lines:
            sys.stdout.write(self._line(line) + "\n")

    def _line(self, cells: Sequence[str]) -> str:
        from rich.cells import cell_len

        *firsts, last = cells
        line = ""
        for column, cell in enumerate(firsts):
            cell = _cut(cell, self._widths[column])
            padding = " " * (self._widths[column] - cell_len(cell))
            line += (padding + cell if self._right[column] else cell + padding) + "  "
        return _cut(line + last, self._width).rstrip()


def _cut(text: str, width: int) -> str:
    """The text, or its beginning and an ellipsis if it takes more columns."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Rows as a table; see `Table`."""
    Table(columns, right=right).print(rows)


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and values, a pair a line: aligned on a terminal, separated by a tab in a pipe."""
    names = [printable(name) for name, _ in pairs]
    width = max(map(len, names))
    for name, (_, value) in zip(names, pairs, strict=True):
        label = coloured(f"{name:<{width}}", dim=True) + "  " if sys.stdout.isatty() else f"{name}\t"
        sys.stdout.write(f"{label}{printable(value)}\n")


# -- progress ------------------------------------------------------------------------------


@contextmanager
def progress(
    what: str, total: int | None, costs: Sequence[float] = (1,)
) -> Iterator[Callable[[int], None] | None]:
    """A line on stderr, if that is a terminal; gives the function to call with the count so far.

    It says how far the work has come and, if that is known, about how long it will still take. It appears
    once the work has taken a moment, and goes when it is done. costs: where the total is made of equal
    parts, such as passes over the same events, what one of each part costs, in proportion.
    """
    if not _is_terminal(sys.stderr):
        yield None
        return
    began_s = time.monotonic()
    left = TimeLeft(total, costs, began_s) if total is not None else None
    with ExitStack() as stack:
        shown = False
        so_far = 0

        def report(count: int) -> None:
            nonlocal shown, so_far
            now_s, so_far = time.monotonic(), count
            if left is not None:
                left.note(count, now_s)
            if not shown and now_s >= began_s + PROGRESS_AFTER_S:
                shown = True
                stack.enter_context(_line(lambda: progress_text(what, so_far, left, time.monotonic())))

        yield report


class TimeLeft:
    """How long work will still take, by how it went lately. Times are of the monotonic clock, in seconds."""

    def __init__(self, total: int, costs: Sequence[float], began_s: float) -> None:
        self.total = total
        self._costs = costs
        self._began_s = began_s
        self._seen: deque[tuple[float, float]] = deque([(began_s, 0.0)])

    def note(self, count: int, now_s: float) -> None:
        """The work has come so far."""
        if now_s - self._seen[-1][0] >= _SAMPLE_EVERY_S:
            self._seen.append((now_s, self._work(count)))
            while len(self._seen) > 2 and now_s - self._seen[1][0] >= _LOOK_BACK_S:
                self._seen.popleft()

    def seconds(self, count: int, now_s: float) -> float | None:
        """An estimate, never negative; None while there is too little to go by."""
        since_s, before = self._seen[0]
        done, passed_s = self._work(count), now_s - since_s
        if now_s - self._began_s < ESTIMATE_AFTER_S or passed_s <= 0 or done <= before:
            return None
        return max(0.0, self._work(self.total) - done) * passed_s / (done - before)

    def _work(self, count: int) -> float:
        """What so many have cost, in proportion to the whole."""
        part = self.total / len(self._costs)
        return sum(
            [cost * min(max(count - place * part, 0.0), part) for place, cost in enumerate(self._costs)]
        )


def progress_text(what: str, count: int, left: TimeLeft | None, now_s: float) -> str:
    """What a line of progress says: replaying 1,240,000 of 3,000,000 (41 %), about 25 s left."""
    if left is None or left.total <= 0:
        return f"{what} {count:,}"
    count = min(count, left.total)
    text = f"{what} {count:,} of {left.total:,} ({100 * count // left.total} %)"
    seconds = left.seconds(count, now_s)
    return text if seconds is None else f"{text}, {_left_text(seconds)}"


def _left_text(seconds: float) -> str:
    """About how long, no finer than it can be known."""
    if seconds < 1:
        return "less than 1 s left"
    if seconds < 60:
        rough = seconds if seconds < 10 else 5 * round(seconds / 5)
        return f"about {rough:.0f} s left"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {minutes % 60:02} min left"


def _line(text: Callable[[], str]) -> Progress:
    """One line at the bottom of the terminal that says what `text` gives, several times a second."""
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task
    from rich.text import Text

    class Line(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(text(), no_wrap=True, overflow="ellipsis")

    line = Progress(Line(), console=Console(stderr=True), transient=True, refresh_per_second=_REFRESH_HZ)
    line.add_task("", total=None)
    return line


def print_listed(
    found: list[dict[str, Any]],
    limit: int,
    as_object: Callable[[dict[str, Any]], Any],
    print_rows: Callable[[list[dict[str, Any]]], object],
    *,
    as_json: bool,
    as_lines: bool,
) -> None:
    """The rows of a listing, at most `limit` (0: all), in the form asked for; says if there are more."""
    listed = found[:limit] if limit else found
    if as_json:
        print_json_array(map(as_object, listed))
    elif as_lines:
        for row in listed:
            print_json_line(as_object(row))
    else:
        print_rows(listed)
        if len(found) > len(listed):
            say(f"… and more; -n 0 lists all, -n N the first N (now {limit})")
