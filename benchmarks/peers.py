"""The peers, each used as its own documentation says, and the same rows for all of them."""

from __future__ import annotations

import json
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tallystick import Ledger, NewEvent, Verdict
from tallystick.ledger.sqlite.connection import PAGE_SIZE, WAL_AUTOCHECKPOINT_PAGES

from .bodies import Plain
from .harness import Skipped, check, chunks_of

if TYPE_CHECKING:
    from eventsourcing.persistence import StoredEvent

#: As many columns, of the same types and sizes, as a ledger's; no index, no guard, no CHECK.
TEXTBOOK_SCHEMA: Final = """
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, at INTEGER, kind TEXT, stream TEXT, key TEXT, meta BLOB,
  salt BLOB, body BLOB, body_hash BLOB, prev_hash BLOB, hash BLOB
)"""
TEXTBOOK_INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SALT: Final = bytes(range(16))
_HASH: Final = bytes(range(32))

TextbookRow = tuple[Any, ...]
#: The bytes that a ledger stores for a body.
canonical: Final = msgspec.json.Encoder(order="sorted").encode


def textbook_json(body: dict[str, Any]) -> bytes:
    """The bytes that a program with nothing but the standard library would store."""
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def textbook(path: Path, **options: Any) -> sqlite3.Connection:
    """A `sqlite3` connection with the ledger's page size, journal mode and durability."""
    con: sqlite3.Connection = sqlite3.connect(path, **options)
    con.execute(f"PRAGMA page_size={PAGE_SIZE}")
    con.execute("PRAGMA journal_mode=WAL")
    con.execute("PRAGMA synchronous=FULL")
    con.execute(f"PRAGMA wal_autocheckpoint={WAL_AUTOCHECKPOINT_PAGES}")
    con.execute(TEXTBOOK_SCHEMA.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
    con.commit()
    return con


def textbook_row(seq: int | None, kind: str, stream: str, body: bytes) -> TextbookRow:
    """A row of the same columns; salt and hashes are constants of the right size."""
    return (seq, time.time_ns() // 1000, kind, stream, None, None, _SALT, body, _HASH, _HASH, _HASH)


def ready_rows(events: Sequence[Plain], numbered: bool = True) -> list[TextbookRow]:
    """Rows with everything done beforehand, bodies encoded to the ledger's own bytes."""
    return [
        textbook_row(seq if numbered else None, kind, stream, canonical(body))
        for seq, (kind, stream, body) in enumerate(events, 1)
    ]


def check_textbook(path: Path, count: int) -> None:
    """The rows are there."""
    con = sqlite3.connect(path)
    try:
        check(
            con.execute("SELECT count(*) FROM events").fetchone() == (count,), f"{path} has not {count} rows"
        )
    finally:
        con.close()


def check_ledger(path: Path, count: int) -> None:
    """The events are there, after the `ledger.created`, and the chain is sound."""
    with Ledger.open(path, read_only=True) as ledger:
        report = ledger.verify()
    check(report.verdict is not Verdict.BROKEN, str(report))
    check(report.events == count + 1, f"{path} has {report.events} events, not {count + 1}")


def build_ledger(path: Path, events: Sequence[Plain]) -> None:
    """A ledger of these events, closed."""
    with Ledger.open(path) as ledger:
        for part in chunks_of(10_000, events):
            ledger.append_many(NewEvent(kind=kind, stream=stream, body=body) for kind, stream, body in part)


# -- eventsourcing -----------------------------------------------------------------------


def recorder_events(
    events: Iterable[Plain], encode: Callable[[dict[str, Any]], bytes]
) -> Iterator[StoredEvent]:
    """The events as `eventsourcing`'s stored events, their bodies encoded with `encode`."""
    stored_event = need("eventsourcing.persistence").StoredEvent
    versions: dict[str, int] = {}
    for kind, stream, body in events:
        versions[stream] = versions.get(stream, 0) + 1
        yield stored_event(
            originator_id=stream, originator_version=versions[stream], topic=kind, state=encode(body)
        )


def recorder(path: Path) -> tuple[Any, Any]:
    """`eventsourcing`'s SQLite application recorder on a new file, and its datastore."""
    sqlite = need("eventsourcing.sqlite")
    datastore = sqlite.SQLiteDatastore(str(path), originator_id_type="text")
    new = sqlite.SQLiteApplicationRecorder(datastore)
    new.create_table()
    with datastore.transaction(commit=False) as cursor:
        cursor.execute("PRAGMA synchronous")
        check(cursor.fetchone()[0] == 2, "eventsourcing does not run with synchronous=FULL")
    return new, datastore


def need(module: str) -> Any:
    """A peer's module; Skipped if it is not installed."""
    package = module.partition(".")[0].replace("_", "-")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise Skipped(f"{package} is not installed ({error}); pip install 'tallystick[bench]'") from None
