"""Commands that read: log, show, tail, export.

An event that does not match its own hashes is named on stderr, and the exit status is 1. It does not end a
listing: what can be decoded is shown, the rest left out. `export` writes rows as they are stored, which takes
little more than reading them; hashing them, too, would take half as long again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click
import msgspec

from tallystick.ledger.errors import MalformedEvent, NoSuchEvent, Unavailable

from . import INTERRUPTED
from .app import (
    KindType,
    SeqType,
    SpanType,
    TimeType,
    end_interrupted_line,
    exit_status,
    ledger_option,
    long_ledger_option,
    named_ledger,
    open_to_read,
    within,
)
from .outfile import check_output, force_option, replacing
from .output import (
    LISTED_MAX,
    Table,
    body_text,
    counted,
    event_object,
    json_option,
    json_text,
    nl_option,
    print_json,
    print_json_array,
    print_json_line,
    print_pairs,
    progress,
    reader_left,
    say,
    short_time_text,
    time_text,
)
from .remarks import Altered, remark_on_end

if TYPE_CHECKING:
    from tallystick.ledger.event import Event, Row
    from tallystick.ledger.ledger import Ledger

EVENT_COLUMNS: Final = ("seq", "time (UTC)", "kind", "stream", "body")
EXPORT_PROGRESS_EVERY: Final = 1000

_LISTED: Final = exit_status("listed", "an event was altered")


@click.command("log", epilog=_LISTED)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=KindType(),
    metavar="GLOB",
    help="Only these kinds, e.g. 'message.*'; repeatable.",
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
    help=f"At most so many; 0: all (default {LISTED_MAX} on a terminal, else all).",
)
@click.option("--oldest-first", is_flag=True, help="Oldest first instead of newest first.")
@ledger_option
@json_option
@nl_option
@click.pass_context
def log_command(
    ctx: click.Context,
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

    On a terminal a table; in a pipe the same columns separated by tabs. Times are UTC; those
    given are local unless they name a zone, 2026-03-12T14:30Z.
    """
    if as_json and as_lines:
        raise click.UsageError("--json and --nl exclude each other")
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since is not before --until")
    as_table = not (as_json or as_lines)
    if limit is None:
        limit = LISTED_MAX if as_table and sys.stdout.isatty() else 0
    first, last = span or (1, None)
    with open_to_read(path) as ledger:
        remark_on_end(path)
        found = Decoded(
            ledger.rows(
                first - 1,
                before=None if last is None else last + 1,
                stream=stream,
                kinds=list(kinds) or None,
                reverse=not oldest_first,
            )
        )
        events = filter(_filter(since, until, text), found)
        _print_events(islice(events, limit) if limit else events, as_json, as_lines)
        if limit and as_table and next(events, None) is not None:
            say(f"… and more; -n 0 lists all, -n N the first N (now {limit})")
    found.altered.remark_on_rest()
    if found.altered.count:
        ctx.exit(1)


class Decoded:
    """The events of rows; those altered are named on stderr, and left out if they cannot be decoded."""

    def __init__(self, rows: Iterator[Row]) -> None:
        from tallystick.ledger.event import Event

        self.altered = Altered()
        self._rows = rows
        self._decode = Event.from_row

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while True:
            row = next(self._rows)
            try:
                event = self._decode(row)
            except MalformedEvent as error:
                self.altered.remark(str(error))
            else:
                self.altered.look_at(row)
                return event


def _filter(since: int | None, until: int | None, text: str | None) -> Callable[[Event], bool]:
    needle = None if text is None else text.casefold()

    def wanted(event: Event) -> bool:
        if since is not None and event.at < since:
            return False
        if until is not None and event.at >= until:
            return False
        if needle is None:
            return True
        return any(needle in _plain_json(value) for value in (event.body, event.meta) if value is not None)

    return wanted


def _plain_json(value: Any) -> str:
    return msgspec.json.encode(value).decode().casefold()


def _print_events(events: Iterator[Event], as_json: bool, as_lines: bool) -> None:
    if as_json:
        print_json_array(map(event_object, events))
    elif as_lines:
        for event in events:
            print_json_line(event_object(event))
    else:
        Table(EVENT_COLUMNS, right=["seq"], whole=["time (UTC)"]).print(map(_columns, events))


def _columns(event: Event) -> tuple[Any, ...]:
    time = short_time_text(event.at) if sys.stdout.isatty() else time_text(event.at)
    return event.seq, time, event.kind, event.stream, body_text(event)


@click.command("show", epilog=exit_status("shown", "the event was altered"))
@click.argument("shown", metavar="SEQ|ID")
@click.option("--request", "request_alone", is_flag=True, help="Of a decision: print its request alone.")
@ledger_option
@json_option
@click.pass_context
def show_command(ctx: click.Context, shown: str, request_alone: bool, path: Path, as_json: bool) -> None:
    """Show an event or a decision whole.

    SEQ|ID is an event's number, or the id of a decision, or what it begins with (dec_01K…). Of an event that
    was altered and cannot be decoded, the columns are shown as they are stored. The request of a decision can
    be decided anew: `tally show ID --request | tally decide --in -`.
    """
    from .decisions import is_decision, show_decision

    if is_decision(shown) or request_alone:
        with open_to_read(path) as ledger:
            whole = show_decision(ledger, shown, as_json, request_alone)
        if not whole:
            ctx.exit(1)
        return
    seq = SeqType().convert(shown, None, ctx)
    with open_to_read(path) as ledger:
        row = next(ledger.rows(seq - 1, before=seq + 1), None)
        if row is None:
            raise NoSuchEvent(seq, ledger.head().seq)
    altered = _show_row(row, as_json)
    if altered:
        ctx.exit(1)


def _show_row(row: Row, as_json: bool) -> bool:
    """Print an event, or its columns as they are stored if it cannot be decoded; whether it was altered."""
    from tallystick.ledger.event import Event
    from tallystick.ledger.portable import export_line

    altered = Altered()
    try:
        event = Event.from_row(row)
    except MalformedEvent as error:
        stored = msgspec.json.decode(export_line(row))
        if as_json:
            print_json(stored)
        else:
            print_pairs([(name, str(value)) for name, value in stored.items() if value is not None])
        altered.remark(str(error))
        return True
    if as_json:
        print_json(event_object(event))
    else:
        _print_event(event)
    altered.look_at(row)
    return altered.count > 0


def _print_event(event: Event) -> None:
    meta = event.meta or {}
    named = meta.items() if isinstance(meta, dict) else [("", meta)]  # altered, if no object
    pairs = [
        ("event", str(event.seq)),
        ("time", time_text(event.at)),
        ("kind", event.kind),
        ("stream", event.stream),
        ("key", event.key),
        *((f"meta.{name}" if name else "meta", _plain(value)) for name, value in named),
        ("hash", event.hash.hex()),
        ("prev hash", event.prev_hash.hex()),
        ("body hash", event.body_hash.hex()),
    ]
    print_pairs([(name, value) for name, value in pairs if value is not None])
    print()
    if event.erased:
        print("(the body was erased)")
    else:
        print_json(event.body)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)


@click.command("tail", epilog=_LISTED)
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
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=KindType(),
    metavar="GLOB",
    help="Only these kinds; repeatable.",
)
@click.option("--stream", help="Only this stream.")
@long_ledger_option
@nl_option
@click.pass_context
def tail_command(
    ctx: click.Context,
    ledger_file: Path | None,
    follow: bool,
    limit: int,
    kinds: tuple[str, ...],
    stream: str | None,
    path: Path,
    as_lines: bool,
) -> None:
    """Show the last events of FILE, oldest first; with -f go on as events arrive.

    As with the tail of the shell, -f follows: the ledger is FILE, or the one of --file or `tally -f
    FILE`.
    """
    wanted = list(kinds) or None
    if ledger_file is not None:
        path = named_ledger(ctx, str(ledger_file))
    table = Table(EVENT_COLUMNS, right=["seq"], whole=["time (UTC)"], heading=False)
    with open_to_read(path) as ledger:
        remark_on_end(path)
        end = ledger.head().seq
        # Twice, so that any number of events takes constant memory: back to the first, then forth.
        following = _Follow(ledger, path, end, stream, wanted)
        backwards = ledger.rows(before=end + 1, stream=stream, kinds=wanted, limit=limit, reverse=True)
        first = min((row.seq for row in backwards), default=end + 1)
        last = Decoded(ledger.rows(first - 1, before=end + 1, stream=stream, kinds=wanted))
        _print_tail(last, table, as_lines)
        last.altered.remark_on_rest()
        if follow:
            try:
                for event in following:
                    _print_tail([event], table, as_lines)
            except KeyboardInterrupt:  # the way to end it, and nothing to remark on
                end_interrupted_line()
                ctx.exit(INTERRUPTED)
    if last.altered.count:
        ctx.exit(1)


class _Follow:
    """Events as they arrive; one that cannot be decoded is named on stderr and left out.

    Ends when nobody reads them any more. Raises Unavailable when the file is not the ledger any more.
    """

    def __init__(
        self, ledger: Ledger, path: Path, after: int, stream: str | None, kinds: list[str] | None
    ) -> None:
        self._path = path
        self._file = path.stat()
        self.altered = Altered()
        self._follow: Callable[[int], Iterator[Event]] = partial(
            ledger.follow, stream=stream, kinds=kinds, stop=self._is_over
        )
        self._events = self._follow(after)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while True:
            try:
                for event in self._events:
                    return event
                break
            except MalformedEvent as error:
                self.altered.remark(str(error))
                self._events = self._follow(error.seq)
        if reader_left():
            raise StopIteration
        raise Unavailable(str(self._path), "was removed or replaced meanwhile", "run `tally tail -f` again")

    def _is_over(self) -> bool:
        try:
            return reader_left() or not os.path.samestat(self._path.stat(), self._file)
        except FileNotFoundError:
            return True


def _print_tail(events: Iterable[Event], table: Table, as_lines: bool) -> None:
    if as_lines:
        for event in events:
            print_json_line(event_object(event))
    else:
        table.print(map(_columns, events))
    sys.stdout.flush()


@click.command(
    "export",
    epilog=exit_status(
        "exported", "an event is no text and cannot be exported, or one of the decision's was altered"
    ),
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write to FILE, whole or not at all; gzipped if it ends in .gz.",
)
@click.option("--range", "span", type=SpanType(), help="Only these seqs, both ends included.")
@click.option(
    "--pack",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE.zip",
    help="With ID: write the decision as a pack that can be checked elsewhere; - is stdout.",
)
@click.argument("decision", metavar="[ID]", required=False)
@force_option
@ledger_option
@click.pass_context
def export_command(
    ctx: click.Context,
    output: Path | None,
    span: tuple[int, int | None] | None,
    pack: Path | None,
    decision: str | None,
    force: bool,
    path: Path,
) -> None:
    """Write the log as JSON lines with every column, hashes in hex; or one decision.

    The whole log can be imported again, hash for hash, with `tally import`; docs/format.md
    defines the line, and docs/verify_ledger.py verifies it without Tallystick. Events are written as they are
    stored: whether one was altered, `tally verify` tells, and so does verifying the export.

    With the ID of a decision, or what it begins with, one JSON document holds its record, the request, the
    exact policy, and the events that prove it. --pack writes the same as a zip file with a README on how to
    check it; the same log makes the same bytes.
    """
    if decision is not None:
        if _export_decision(decision, output, span, pack, force, path):
            ctx.exit(1)
        return
    if pack is not None:
        raise click.UsageError("--pack goes with the id of a decision; `tally decisions` lists them")
    if output is not None and str(output) != "-":
        check_output(output, force=force)
    with open_to_read(path) as ledger:
        remark_on_end(path)
        first, last = within(span, ledger.head().seq)
        if output is None or str(output) == "-":
            _export(ledger, first, last, sys.stdout.buffer)
            return
        with replacing(output) as file:
            _export(ledger, first, last, file)
    say(f"{output}: {counted(last - first + 1, 'event')}")


def _export_decision(
    decision: str,
    output: Path | None,
    span: tuple[int, int | None] | None,
    pack: Path | None,
    force: bool,
    path: Path,
) -> bool:
    """Write one decision, as a pack or as one JSON document; whether an event of it was altered."""
    from tallystick.recorders.gateway.packing import collect

    from .decisions import decision_id

    if span is not None:
        raise click.UsageError("--range goes with the log, not with a decision")
    if pack is not None and output is not None:
        raise click.UsageError("--pack names the file; leave out --output")
    named = pack or output
    target = None if str(named) == "-" else named
    if target is None and pack is not None and sys.stdout.isatty():
        raise click.UsageError("a pack is no text for a terminal; name a file, or pipe it")
    if target is not None:
        check_output(target, force=force)
    with open_to_read(path) as ledger:
        collected = collect(ledger, decision_id(ledger, decision))
    if target is None and pack is not None:
        sys.stdout.buffer.write(collected.to_bytes())
    elif target is None:
        print_json(collected.document())
    else:
        document = None if pack else msgspec.json.encode(collected.document())
        data = collected.to_bytes() if document is None else msgspec.json.format(document)
        with replacing(target) as file:
            file.write(data)
        say(f"{target}: decision {collected.record.decision_id}, {counted(len(collected.rows), 'event')}")
    altered = Altered("it is exported as it is stored")
    for row in collected.rows:
        altered.look_at(row)
    altered.remark_on_rest()
    return altered.count > 0


def _export(ledger: Ledger, first: int, last: int, file: IO[bytes]) -> None:
    with progress("exporting", last - first + 1) as report_progress:
        for count, line in enumerate(ledger.export(first, last), start=1):
            file.write(line + b"\n")
            if report_progress is not None and count % EXPORT_PROGRESS_EVERY == 0:
                report_progress(count)
