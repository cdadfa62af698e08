"""Commands that read: log, show, tail, export."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from .app import SpanType, TimeType, ledger_option, open_to_read
from .output import (
    body_text,
    event_object,
    json_option,
    nl_option,
    print_json,
    print_json_array,
    print_json_line,
    print_table,
    printable,
    progress,
    say,
    time_text,
)

if TYPE_CHECKING:
    from tallystick.ledger.event import Event
    from tallystick.ledger.ledger import Ledger

LOG_LIMIT: Final = 30
EVENT_COLUMNS: Final = ("seq", "time", "kind", "stream", "body")


@click.command("log")
@click.option(
    "--kind", "kinds", multiple=True, metavar="GLOB", help="Only these kinds, e.g. 'message.*'; repeatable."
)
@click.option("--stream", help="Only this stream.")
@click.option("--since", type=TimeType(), help="Not before this time or age: 2026-03-12T14:30, 2h, 3d.")
@click.option("--until", type=TimeType(), help="Before this time or age.")
@click.option("--range", "span", type=SpanType(), help="Only these seqs, both ends included.")
@click.option("--text", help="Only events whose body or meta contains this text, in any case.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(0),
    help=f"At most so many; 0: all (default {LOG_LIMIT}, all with --json or --nl).",
)
@click.option("--oldest-first", is_flag=True, help="Oldest first instead of newest first.")
@ledger_option
@json_option
@nl_option
def log_command(
    kinds: tuple[str, ...],
    stream: str | None,
    since: int | None,
    until: int | None,
    span: tuple[int, int | None] | None,
    text: str | None,
    limit: int | None,
    oldest_first: bool,
    path: Path,
    as_json: bool,
    as_lines: bool,
) -> None:
    """List events, newest first.

    On a terminal a table; in a pipe the same columns separated by tabs.
    """
    if limit is None:
        limit = 0 if as_json or as_lines else LOG_LIMIT
    first, last = span or (1, None)
    wanted = _filter(since, until, text)
    with open_to_read(path) as ledger:
        found = ledger.read(
            first - 1,
            before=None if last is None else last + 1,
            stream=stream,
            kinds=list(kinds) or None,
            reverse=not oldest_first,
        )
        events = filter(wanted, found)
        _print_events(islice(events, limit) if limit else events, as_json, as_lines)
        if limit and not (as_json or as_lines) and next(events, None) is not None:
            say(f"… and more; -n 0 lists all, -n N the first N (now {limit})")


def _filter(since: int | None, until: int | None, text: str | None) -> Callable[[Event], bool]:
    needle = None if text is None else text.casefold()

    def wanted(event: Event) -> bool:
        if since is not None and event.at < since:
            return False
        if until is not None and event.at >= until:
            return False
        if needle is None:
            return True
        meta = "" if event.meta is None else msgspec.json.encode(event.meta).decode()
        return needle in body_text(event).casefold() or needle in meta.casefold()

    return wanted


def _print_events(events: Iterator[Event], as_json: bool, as_lines: bool) -> None:
    if as_json:
        print_json_array(map(event_object, events))
    elif as_lines:
        for event in events:
            print_json_line(event_object(event))
    else:
        print_table(EVENT_COLUMNS, map(_columns, events), right=["seq"])


def _columns(event: Event) -> tuple[Any, ...]:
    return event.seq, time_text(event.at), event.kind, event.stream, body_text(event)


@click.command("show")
@click.argument("seq", type=click.IntRange(1))
@ledger_option
@json_option
def show_command(seq: int, path: Path, as_json: bool) -> None:
    """Show event SEQ whole."""
    with open_to_read(path) as ledger:
        event = ledger.get(seq)
    if as_json:
        print_json(event_object(event))
        return
    labels = [
        ("event", str(event.seq)),
        ("time", time_text(event.at)),
        ("kind", event.kind),
        ("stream", event.stream),
        ("key", event.key),
        *((f"meta.{name}", _plain(value)) for name, value in (event.meta or {}).items()),
        ("hash", event.hash.hex()),
        ("prev hash", event.prev_hash.hex()),
        ("body hash", event.body_hash.hex()),
    ]
    for label, value in labels:
        if value is not None:
            click.echo(f"{click.style(f'{label:<10}', dim=True)} {printable(value)}", color=_colour())
    print()
    if event.erased:
        print("(the body was erased)")
    else:
        print_json(event.body)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _colour() -> bool | None:
    return False if "NO_COLOR" in os.environ else None


@click.command("tail")
@click.argument("ledger_file", metavar="[FILE]", type=click.Path(path_type=Path), required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as events arrive, until interrupted.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Begin with the last N events.",
)
@click.option("--kind", "kinds", multiple=True, metavar="GLOB", help="Only these kinds; repeatable.")
@click.option("--stream", help="Only this stream.")
@nl_option
@click.pass_obj
def tail_command(
    default_file: str,
    ledger_file: Path | None,
    follow: bool,
    limit: int,
    kinds: tuple[str, ...],
    stream: str | None,
    as_lines: bool,
) -> None:
    """Show the last events of FILE, oldest first; with -f go on as events arrive.

    As with the tail of the shell, -f follows; the ledger is FILE, or the one of `tally -f FILE`.
    """
    wanted = list(kinds) or None
    with open_to_read(ledger_file or Path(default_file)) as ledger:
        end = ledger.head().seq
        last = ledger.read(before=end + 1, stream=stream, kinds=wanted, limit=limit, reverse=True)
        for event in reversed(list(last)):
            _print_event(event, as_lines)
        if follow:
            for event in ledger.follow(end, stream=stream, kinds=wanted):
                _print_event(event, as_lines)
                sys.stdout.flush()


def _print_event(event: Event, as_lines: bool) -> None:
    if as_lines:
        print_json_line(event_object(event))
    else:
        sys.stdout.write("\t".join(printable(str(cell)) for cell in _columns(event)) + "\n")


@click.command("export")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write to this file (gzipped if it ends in .gz)."
)
@click.option("--range", "span", type=SpanType(), help="Only these seqs, both ends included.")
@ledger_option
def export_command(output: Path | None, span: tuple[int, int | None] | None, path: Path) -> None:
    """Write the log as JSON lines with every column, hashes in hex.

    The whole log can be imported again, hash for hash, with `tally import`; docs/format.md
    defines the line, and docs/verify_ledger.py verifies it without Tallystick.
    """
    with open_to_read(path) as ledger:
        if output is None:
            _export(ledger, span, sys.stdout.buffer.write)
            return
        temporary = output.with_name(f"{output.name}.{os.getpid()}.tmp")
        try:
            with gzip.open(temporary, "wb") if output.suffix == ".gz" else temporary.open("wb") as file:
                count = _export(ledger, span, file.write)
            temporary.replace(output)
        finally:
            temporary.unlink(missing_ok=True)
    say(f"{output}: {count:,} events")


def _export(ledger: Ledger, span: tuple[int, int | None] | None, write: Callable[[bytes], object]) -> int:
    first, last = span or (1, None)
    last = last or ledger.head().seq
    count = 0
    with progress("exporting", last - first + 1) as report_progress:
        for count, line in enumerate(ledger.export(first, last), start=1):
            write(line + b"\n")
            if report_progress is not None and count % 1000 == 0:
                report_progress(count)
    return count
