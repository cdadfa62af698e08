"""JSON lines as input: a file or stdin opened, unzipped, cut into lines, appended as they arrive."""

from __future__ import annotations

import datetime as dt
import gzip
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import click
import msgspec

from tallystick.ledger import canonical
from tallystick.ledger.errors import BadLine, KeyConflict, TallyError, Unavailable

from .app import microseconds
from .outfile import SQLITE_MAGIC
from .output import counted, print_json, progress, say
from .remarks import remedied

if TYPE_CHECKING:
    from tallystick.ledger.event import Receipt
    from tallystick.ledger.ledger import Ledger

#: An argument that names a file with lines.
SOURCE: Final = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
#: A line with a conversation, or with the first of an array; in a string of an export the quotes are escaped.
_CONVERSATION: Final = re.compile(rb'\s*\[?\s*\{.*"messages"\s*:\s*\[')
GZIP_MAGIC: Final = b"\x1f\x8b"
BOM: Final = b"\xef\xbb\xbf"
CHUNK_LINES: Final = 1000
READ_BYTES: Final = 1 << 20
#: Room for the largest event, however its JSON is escaped and spaced.
EVENT_LINE_BYTES_MAX: Final = 16 << 20
#: A ledger may hold larger bodies than the command appends.
EXPORT_LINE_BYTES_MAX: Final = 256 << 20


def source_name(source: Path) -> str:
    """A source as messages call it."""
    return "standard input" if str(source) == "-" else str(source)


def open_source(source: Path, stack: ExitStack) -> BinaryIO:
    """A file or stdin (-), unzipped if it is gzipped."""
    file: Any = sys.stdin.buffer if str(source) == "-" else stack.enter_context(source.open("rb"))
    if file.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] == GZIP_MAGIC:
        return cast(BinaryIO, stack.enter_context(gzip.open(file)))
    return cast(BinaryIO, file)


def export_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of an export. Raises BadLine; Unavailable for what is none, or a line beyond bounds."""
    number = 1
    while True:
        with readable(name, number):
            line = file.readline(EXPORT_LINE_BYTES_MAX)
        if number == 1 and line:
            _check_start(line, name, zipped=isinstance(cast(object, file), gzip.GzipFile))
        if not line:
            return
        if len(line) == EXPORT_LINE_BYTES_MAX:
            problem = f"line {number} is longer than {EXPORT_LINE_BYTES_MAX >> 20} MiB"
            raise Unavailable(name, problem, "see whether it is an export of `tally export`")
        yield line
        number += 1


def _check_start(line: bytes, name: str, *, zipped: bool) -> None:
    """Refuse a file that nobody could take for an export, as no finding about one. Raises Unavailable."""
    if _CONVERSATION.match(line):
        raise Unavailable(name, "holds conversations and is no export", "import it with `tally import chat`")
    if zipped:
        return
    if line.startswith(SQLITE_MAGIC[:15]):
        raise Unavailable(name, "is a ledger and no export", "copy it with `tally backup`")
    if not line.startswith(b"{"):
        raise Unavailable(name, "is no export", "name a file that `tally export` wrote")


def why_not_json(error: Exception) -> str:
    """What the JSON decoder said, without the names of its own for places."""
    message, _, where = str(error).partition(" - at `$")
    where = where.rstrip("`")
    message = message.replace("Number out of range", "number out of range")
    return f"{message} at {where}" if where and "..." not in where else message


@contextmanager
def readable(name: str, number: int) -> Iterator[None]:
    """Reading up to line `number` may show that compressed data is damaged."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadLine(name, number, f"the gzipped data is damaged here ({error})") from None


# -- appending -----------------------------------------------------------------------------


class _Tally:
    """How many lines became events, and how many were there already by their keys."""

    def __init__(self, last_seq: int) -> None:
        self.appended = 0
        self.known = 0
        self._last_seq = last_seq

    def count(self, receipts: list[Receipt]) -> None:
        for receipt in receipts:
            if receipt.seq > self._last_seq:
                self.appended += 1
                self._last_seq = receipt.seq
            else:
                self.known += 1

    def __str__(self) -> str:
        known = f"; {self.known:,} were there already" if self.known else ""
        return (
            f"appended {counted(self.appended, 'event')}" if self.appended else "nothing was appended"
        ) + known


def append_lines(ledger: Ledger, file: BinaryIO, name: str, atomic: bool, as_json: bool) -> None:
    """Append the event on each line, and say how many; with `atomic` all of them or none."""
    tally = _Tally(ledger.head().seq)
    arriving = _arriving(file, name)
    try:
        with progress("appending", None) as report_progress:
            for batch in [list(chain.from_iterable(arriving))] if atomic else arriving:
                _append_batch(ledger, batch, name, atomic, tally)
                if report_progress is not None:
                    report_progress(tally.appended + tally.known)
    except (TallyError, OSError) as error:
        before = (
            ", from the lines before the bad one" if isinstance(error, BadLine) and tally.appended else ""
        )
        say(f"{tally}{before}")
        raise
    except KeyboardInterrupt:
        say(str(tally))
        raise
    if as_json:
        print_json({"appended": tally.appended, "known": tally.known, "head": str(ledger.head())})
    else:
        say(str(tally))
        print(ledger.head())


def _arriving(file: BinaryIO, name: str) -> Iterator[list[tuple[int, bytes]]]:
    """Numbered lines in batches: those that are there already, so that a slow pipe need not fill one."""
    rest, number = b"", 1
    while True:
        with readable(name, number):
            block = file.read1(READ_BYTES)  # type: ignore[attr-defined]
        *lines, rest = (rest + block).split(b"\n")
        if not block and rest:
            lines, rest = [rest], b""
        for start in range(0, len(lines), CHUNK_LINES):
            batch = lines[start : start + CHUNK_LINES]
            yield list(enumerate(batch, start=number))
            number += len(batch)
        if not block:
            return
        if len(rest) > EVENT_LINE_BYTES_MAX:
            raise BadLine(name, number, f"longer than {EVENT_LINE_BYTES_MAX >> 20} MiB; one event a line")


def _append_batch(
    ledger: Ledger, lines: Sequence[tuple[int, bytes]], name: str, atomic: bool, tally: _Tally
) -> None:
    """Append the events on lines; when one is bad, those before it (none if `atomic`), and raise BadLine."""
    numbers: list[int] = []
    events: list[dict[str, Any]] = []
    bad: BadLine | None = None
    for number, line in lines:
        try:
            event = _event(line.removeprefix(BOM) if number == 1 else line, name, number)
        except BadLine as error:
            if atomic:
                raise
            bad = error
            break
        if event is not None:
            numbers.append(number)
            events.append(event)
    try:
        tally.count(ledger.append_many(events, atomic=True))
    except TallyError as error:
        if error.index is None:
            raise
        if not atomic and error.index:
            tally.count(ledger.append_many(events[: error.index], atomic=True))
        problem = remedied(error).removeprefix(f"events[{error.index}].")
        if isinstance(error, KeyConflict):
            problem = problem.partition("; nothing was appended")[0]  # others may have been, as is said above
        raise BadLine(name, numbers[error.index], problem) from error
    if bad is not None:
        raise bad


def _event(line: bytes, name: str, number: int) -> dict[str, Any] | None:
    """The event on a line; None for a blank one. Raises BadLine."""
    if not line.strip():
        return None
    try:
        fields = canonical.parse(line)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadLine(name, number, f"not JSON ({why_not_json(error)})") from None
    if not isinstance(fields, dict):
        raise BadLine(name, number, f"expected an object with kind and body, got {type(fields).__name__}")
    if isinstance(fields.get("at"), str):
        try:
            moment = dt.datetime.fromisoformat(fields["at"])
            at = microseconds(moment)
        except (ValueError, OverflowError):
            raise BadLine(name, number, f"at: {fields['at']!r} is no ISO 8601 time") from None
        if moment.tzinfo is None:  # whose local time it is, nobody could tell from the record
            remedy = "add Z for UTC, or +01:00"
            raise BadLine(name, number, f"at: {fields['at']!r} names no time zone; {remedy}")
        fields["at"] = at
    return fields
