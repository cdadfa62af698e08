"""Printing: data on stdout, everything else on stderr.

On a terminal a table; in a pipe the same columns separated by tabs; `--json` one JSON document,
`--nl` one JSON object a line. `NO_COLOR` is honoured.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from tallystick.ledger.event import Event

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """`--json`; the command gets `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def nl_option(command: F) -> F:
    """`--nl`; the command gets `as_lines`."""
    return click.option("--nl", "as_lines", is_flag=True, help="Print one JSON object a line.")(command)


def print_json(value: Any) -> None:
    """One JSON document, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_json_line(value: Any) -> None:
    """One JSON value on one line."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def print_json_array(values: Iterable[Any]) -> None:
    """A JSON array of any length, an element a line, in constant memory."""
    separator = "["
    for value in values:
        sys.stdout.write(f"{separator}\n  {msgspec.json.encode(value).decode()}")
        separator = ","
    sys.stdout.write("[]\n" if separator == "[" else "\n]\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Rows as a table on a terminal, as tab-separated lines without a heading in a pipe.

    Text from the ledger is shown as it is, control characters escaped; on a terminal the last
    column is cut to fit.
    """
    if not sys.stdout.isatty():
        for row in rows:
            sys.stdout.write("\t".join(printable(str(cell)) for cell in row) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        last = name == columns[-1]
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=True,
            overflow="ellipsis" if last else "fold",
            ratio=1 if last else None,
        )
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    Console(soft_wrap=False).print(table)


def say(message: str) -> None:
    """A remark for the person at the terminal."""
    print(message, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text with control characters escaped, so that it can neither move the cursor nor break a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def time_text(at: int) -> str:
    """A time in UTC to the millisecond: 2026-03-12 14:30:00.123Z."""
    try:
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at)
    except OverflowError:
        return f"{at} µs"
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"


def bytes_text(size: float) -> str:
    """A size in bytes for reading: 512 B, 1.4 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def event_object(event: Event) -> dict[str, Any]:
    """An event as the JSON object that `log`, `show` and `tail` print; hashes in hex."""
    return {
        "seq": event.seq,
        "time": time_text(event.at).replace(" ", "T"),
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
    return "(erased)" if event.erased else msgspec.json.encode(event.body).decode()


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on stderr, if that is a terminal; gives the function to call with the count so far."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.update(task, completed=count)
