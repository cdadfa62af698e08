"""Export and import: a log as JSON lines, one object an event with every column.

`docs/format.md` defines the line. Bodies and meta travel as text inside a JSON string, so that
their bytes survive any JSON tool and every hash can be derived again from the line alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec

from . import verify
from .errors import BadLine, MalformedEvent, Unavailable
from .event import Head, Row
from .headfile import HeadFile, head_path, sync_directory
from .sqlite import SQLiteStore
from .walk import Walk

CHUNK_EVENTS: Final = 1000
CHUNK_BYTES: Final = 4 << 20


#: What moves a cursor, breaks a line or reorders text, beyond what JSON escapes anyway.
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


_Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """An event as a line; hashes and salt in lower-case hex."""

    seq: _Int64
    at: _Int64
    kind: str
    stream: str
    key: str | None
    meta: str | None
    salt: str | None
    body: str | None
    body_hash: str
    prev_hash: str
    hash: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


def export_line(row: Row) -> bytes:
    """The line of a row, without its newline. Raises MalformedEvent for a body that is no text."""
    try:
        line = _encode(
            _Line(
                row.seq,
                row.at,
                row.kind,
                row.stream,
                row.key,
                None if row.meta is None else row.meta.decode(),
                None if row.salt is None else row.salt.hex(),
                None if row.body is None else row.body.decode(),
                row.body_hash.hex(),
                row.prev_hash.hex(),
                row.hash.hex(),
            )
        )
    except (UnicodeDecodeError, AttributeError) as error:
        raise MalformedEvent(row.seq, str(error)) from None
    if line.isascii() and b"\x7f" not in line:
        return line
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line.decode()).encode()


def parse_line(line: bytes, source: str = "export", number: int = 1) -> Row:
    """The row of a line; the inverse of `export_line`. Raises BadLine."""
    try:
        event = _decode(line)
        row = Row(
            event.seq,
            event.at,
            event.kind,
            event.stream,
            event.key,
            None if event.meta is None else event.meta.encode(),
            None if event.salt is None else bytes.fromhex(event.salt),
            None if event.body is None else event.body.encode(),
            bytes.fromhex(event.body_hash),
            bytes.fromhex(event.prev_hash),
            bytes.fromhex(event.hash),
        )
        if line.rstrip(b"\r\n") != export_line(row):  # written by another program
            _check_form(line, event, row)
        return row
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadLine(source, number, f"no exported event ({error})") from None


def _check_form(line: bytes, event: _Line, row: Row) -> None:
    """ValueError if a line says something in two ways or in another form (docs/format.md, section 8)."""
    names = json.loads(line, object_pairs_hook=lambda pairs: [name for name, _ in pairs])
    if len(names) != len(set(names)):
        raise ValueError("a name stands in it twice")
    for name in ("salt", "body_hash", "prev_hash", "hash"):
        text, value = getattr(event, name), getattr(row, name)
        if text is not None and text != value.hex():
            raise ValueError(f"{name} is not lower-case hex")


def import_lines(
    lines: Iterable[bytes],
    target: str | os.PathLike[str],
    *,
    source: str = "export",
    expect: Head | None = None,
    progress: Callable[[int], None] | None = None,
) -> verify.Report:
    """Make a ledger at `target` from exported lines, hash for hash, verified while it goes.

    Whole or not at all: when the report is BROKEN, or on any error, there is no ledger at
    `target`. Raises BadLine, Unavailable (also when `target` exists).
    """
    path = Path(target)
    if path.exists() or head_path(path).exists():
        raise Unavailable(str(path), "exists already", "name a new file")
    if not path.parent.is_dir():
        raise Unavailable(str(path), "its directory does not exist", "make the directory first")
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        store = SQLiteStore(temporary)
        try:
            walk = Walk(None)
            walk.run(_stored_once_checked(lines, source, store), progress)
            report = verify.conclude(store, walk, expect=expect)
        finally:
            store.close()
        if report.head is not None:
            os.link(temporary, path)  # unlike a rename, never replaces a file made meanwhile
            sync_directory(path)
            HeadFile(path).write(report.head)
        return report
    except FileExistsError:
        raise Unavailable(str(path), "exists already", "name a new file") from None
    finally:
        for leftover in (temporary, Path(f"{temporary}-wal"), Path(f"{temporary}-shm")):
            leftover.unlink(missing_ok=True)


def _stored_once_checked(lines: Iterable[bytes], source: str, store: SQLiteStore) -> Iterator[Row]:
    """Each row, for the walk to check; when it asks for the next one, the last was sound.

    Or sound but for what the walk's end judges, an erased row that kept its salt, which the table
    would not take: nothing is stored from there on, since there will be no ledger.
    """
    sound: list[Row] = []
    size = 0
    storable = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise BadLine(source, number, "is empty; an export has an event on every line")
        row = parse_line(line, source, number)
        yield row
        storable = storable and (row.body is None) == (row.salt is None)
        if not storable:
            continue
        sound.append(row)
        size += len(line)
        if len(sound) == CHUNK_EVENTS or size > CHUNK_BYTES:
            _store(sound, store)
            sound, size = [], 0
    if sound:
        _store(sound, store)


def _store(rows: list[Row], store: SQLiteStore) -> None:
    store.append(lambda _: rows)
