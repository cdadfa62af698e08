"""Commands that write: init, append, import, erase."""

from __future__ import annotations

import datetime as dt
import gzip
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

import click
import msgspec

from tallystick.ledger.errors import BadLine, InvalidEvent, TallyError

from .app import HeadType, ledger_option, microseconds, open_to_write
from .output import body_text, json_option, print_json, printable, progress, say

if TYPE_CHECKING:
    from tallystick.ledger.event import Head, Receipt
    from tallystick.ledger.ledger import Ledger

#: A line's number, from 1, and the event on it.
_Numbered: TypeAlias = tuple[int, dict[str, Any]]

CHUNK_LINES: Final = 1000
GZIP_MAGIC: Final = b"\x1f\x8b"


@click.command("init")
@ledger_option
@json_option
def init_command(path: Path, as_json: bool) -> None:
    """Create an empty ledger."""
    if path.exists() and path.stat().st_size:
        with open_to_write(path) as ledger:  # says so if it is something else
            head = ledger.head()
        say(f"{path} is a ledger already; nothing was changed")
    else:
        with open_to_write(path, create=True) as ledger:
            head = ledger.head()
        say(f"created {path}")
    if as_json:
        print_json({"path": str(path), "head": str(head)})
    else:
        print(head)


@click.command("append")
@click.argument("kind", required=False)
@click.argument("body", required=False)
@click.option(
    "--nl", "lines", type=click.File("rb"), metavar="FILE", help="Append JSON lines from FILE; - is stdin."
)
@click.option("--atomic", is_flag=True, help="With --nl: append all lines or none.")
@click.option("--stream", help="What the event belongs to (default main).")
@click.option("--key", help="Idempotency key: the same event again appends nothing.")
@click.option("--meta", help="A JSON object of meta.")
@click.option("--actor", help="Who or what did it; goes into meta.")
@click.option("--correlation", help="The case it belongs to; goes into meta.")
@click.option(
    "--expect", type=click.IntRange(0), help="Only if the stream's last event is this seq (0: none yet)."
)
@ledger_option
@json_option
def append_command(
    kind: str | None,
    body: str | None,
    lines: IO[bytes] | None,
    atomic: bool,
    stream: str | None,
    key: str | None,
    meta: str | None,
    actor: str | None,
    correlation: str | None,
    expect: int | None,
    path: Path,
    as_json: bool,
) -> None:
    """Append one event, or many as JSON lines; the ledger is created if missing.

    \b
    tally append order.shipped '{"order": 81}' --stream order:81
    tally append --nl events.jsonl

    KIND is dotted lower-case words; BODY is JSON (default {}), - reads it from stdin. A line for
    --nl is an object with kind, body, and if wanted stream, key, meta and at (ISO 8601 or
    microseconds since 1970). When a line is bad, the lines before it are appended and its
    number is said; with --atomic nothing is appended.
    """
    single = {"--stream": stream, "--key": key, "--meta": meta, "--expect": expect}
    context = {name: value for name, value in (("actor", actor), ("correlation", correlation)) if value}
    if lines is not None:
        given = [name for name, value in single.items() if value is not None] + ([kind] if kind else [])
        if given:
            raise click.UsageError(f"--nl takes events from lines; leave out {given[0]}")
        with ExitStack() as stack:
            ledger = stack.enter_context(open_to_write(path, create=True))
            stack.enter_context(ledger.context(**context))
            _append_lines(ledger, lines, atomic, as_json)
        return
    if kind is None:
        raise click.UsageError("give a KIND, or --nl FILE; see `tally append --help`")
    if atomic:
        raise click.UsageError("--atomic goes with --nl")
    value = {} if body is None else _json(body, "body")
    described = None if meta is None else _json(meta, "meta")
    with ExitStack() as stack:
        ledger = stack.enter_context(open_to_write(path, create=True))
        stack.enter_context(ledger.context(**context))
        before = ledger.head().seq if key else 0
        receipt = ledger.append(kind, value, stream=stream or "main", key=key, meta=described, expect=expect)
    if key and receipt.seq <= before:
        say(f"key {key!r} was used for this very event before; nothing was appended")
    if as_json:
        print_json({"seq": receipt.seq, "hash": receipt.hash.hex(), "at": receipt.at})
    else:
        print(f"{receipt.seq}:{receipt.hash.hex()}")


def _json(text: str, path: str) -> Any:
    data = sys.stdin.buffer.read() if text == "-" else text.encode(errors="surrogateescape")
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvent(
            path, f"not JSON ({error})", "quote it for the shell, e.g. '{\"order\": 81}'"
        ) from None


# -- many lines ----------------------------------------------------------------------------


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
        return f"appended {self.appended:,} event{'' if self.appended == 1 else 's'}{known}"


def _append_lines(ledger: Ledger, source: IO[bytes], atomic: bool, as_json: bool) -> None:
    name = "standard input" if source is sys.stdin.buffer else getattr(source, "name", "input")
    tally = _Tally(ledger.head().seq)
    try:
        with progress("appending", None) as report_progress:
            for batch, bad_line in _batches(_numbered_events(source, name), None if atomic else CHUNK_LINES):
                if bad_line is not None and atomic:
                    raise bad_line
                _append_batch(ledger, batch, name, atomic, tally)
                if bad_line is not None:
                    raise bad_line
                if report_progress is not None:
                    report_progress(tally.appended + tally.known)
    except BadLine:
        say("nothing was appended" if atomic else f"{tally}, from the lines before the bad one")
        raise
    except KeyboardInterrupt:
        say(f"interrupted: {tally}")
        raise click.Abort from None
    if as_json:
        print_json({"appended": tally.appended, "known": tally.known, "head": str(ledger.head())})
    else:
        say(str(tally))
        print(ledger.head())


def _append_batch(ledger: Ledger, batch: list[_Numbered], name: str, atomic: bool, tally: _Tally) -> None:
    """Append a batch whole; or, when an event in it is refused, those before it."""
    try:
        tally.count(ledger.append_many([event for _, event in batch], atomic=True))
    except TallyError as error:
        if error.index is None:
            raise
        if not atomic and error.index:
            tally.count(ledger.append_many([event for _, event in batch[: error.index]], atomic=True))
        problem = str(error).removeprefix(f"events[{error.index}].")
        raise BadLine(name, batch[error.index][0], problem) from error


def _batches(
    events: Iterator[_Numbered], size: int | None
) -> Iterator[tuple[list[_Numbered], BadLine | None]]:
    """Events in batches (one batch for size None), each with the bad line that ended it, if any."""
    while True:
        batch: list[_Numbered] = []
        try:
            for event in islice(events, size):
                batch.append(event)
        except BadLine as error:
            yield batch, error
            return
        if not batch:
            return
        yield batch, None


def _numbered_events(source: IO[bytes], name: str) -> Iterator[_Numbered]:
    for number, line in enumerate(source, start=1):
        if not line.strip():
            continue
        try:
            fields = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadLine(name, number, f"not JSON ({error})") from None
        if not isinstance(fields, dict):
            raise BadLine(name, number, f"expected an object with kind and body, got {type(fields).__name__}")
        if isinstance(fields.get("at"), str):
            try:
                fields["at"] = microseconds(dt.datetime.fromisoformat(fields["at"]))
            except (ValueError, OverflowError):
                raise BadLine(name, number, f"at: {fields['at']!r} is no ISO 8601 time") from None
        yield number, fields


# -- import and erase ------------------------------------------------------------------------


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("target", type=click.Path(path_type=Path), required=False)
@click.option("--expect", type=HeadType(), help="The head that the imported log must end with.")
@ledger_option
@json_option
@click.pass_context
def import_command(
    ctx: click.Context, source: Path, target: Path | None, expect: Head | None, path: Path, as_json: bool
) -> None:
    """Make a new ledger TARGET from the export SOURCE (JSON lines, also gzipped; - is stdin).

    Every event comes over hash for hash and is verified while it goes; on the first event that
    does not fit nothing is left behind and the exit status is 1. TARGET defaults to -f FILE.
    """
    from tallystick.ledger.portable import import_lines

    target = target or path
    with ExitStack() as stack:
        lines = _open_lines(source, stack)
        report_progress = stack.enter_context(progress("importing", None))
        report = import_lines(lines, target, source=str(source), expect=expect, progress=report_progress)
    if as_json:
        print_json(
            {"target": str(target), "verdict": report.verdict, "events": report.events, "report": str(report)}
        )
    elif report.finding is None:
        say(f"{target}: imported {report.events:,} events")
        print(report.head)
    if report.finding is not None:
        say(f"tally: {source}: {report}; nothing was imported")
        ctx.exit(1)


def _open_lines(source: Path, stack: ExitStack) -> Iterable[bytes]:
    """The lines of a file or of stdin (-), unzipped if they are gzipped."""
    name: str | int = sys.stdin.fileno() if str(source) == "-" else str(source)
    file = stack.enter_context(open(name, "rb", closefd=isinstance(name, str)))  # noqa: SIM115
    if file.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] == GZIP_MAGIC:
        return stack.enter_context(gzip.open(file))
    return file


@click.command("erase")
@click.argument("seq", type=click.IntRange(1))
@click.option("--reason", required=True, help="Why; recorded in the ledger.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@ledger_option
@json_option
def erase_command(seq: int, reason: str, yes: bool, path: Path, as_json: bool) -> None:
    """Erase the body of event SEQ for good; the chain still verifies.

    A ledger.body_erased event records it. Backups, exports and copies made earlier keep the body.
    """
    with open_to_write(path) as ledger:
        event = ledger.get(seq)
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError("this cannot be undone: pass --yes to erase without being asked")
            say(f"{seq}  {event.kind}  {event.stream}  {printable(body_text(event))[:200]}")
            click.confirm("Erase this body? This cannot be undone.", abort=True, err=True)
        receipt = ledger.erase(seq, reason)
    if as_json:
        print_json({"erased": seq, "seq": receipt.seq, "hash": receipt.hash.hex(), "at": receipt.at})
    else:
        say(f"erased the body of event {seq}; event {receipt.seq} records it")
        print(f"{receipt.seq}:{receipt.hash.hex()}")
