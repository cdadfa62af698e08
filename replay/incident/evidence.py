"""The events of an incident, held against their hashes, and read from then on as a ledger's are.

One pass over events.jsonl, together with chain.jsonl if that is there. What was sound is kept in a temporary
index on disk, so that an incident may be as large as a ledger.
"""

from __future__ import annotations

import sqlite3
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from tallystick.ledger import chain, records
from tallystick.ledger.errors import BadLine, MalformedEvent, Unavailable
from tallystick.ledger.event import Event, Head, Row
from tallystick.ledger.portable import parse_line
from tallystick.ledger.walk import OwnHashes, Walk, ledger_id_of

from .files import CHAIN, EVENTS, chain_line
from .opening import Opened

#: No event's line is longer.
LINE_BYTES_MAX: Final = 1 << 28
_PAGE: Final = 500
_SEQ_MAX: Final = (1 << 62) - 1
_SCHEMA: Final = """
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, at INTEGER, kind TEXT, stream TEXT, key TEXT, meta BLOB, salt BLOB, body BLOB,
  body_hash BLOB, prev_hash BLOB, hash BLOB, withheld INTEGER
);
"""
_INDEXES: Final = """
CREATE INDEX by_stream ON events (stream, seq);
CREATE INDEX by_kind ON events (kind, seq);
CREATE INDEX by_key ON events (key) WHERE key IS NOT NULL;
"""
_COLUMNS: Final = ", ".join(Row._fields)


class _Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of chain.jsonl."""

    seq: int
    at: int
    kind: str
    stream: str
    key: str | None
    meta: str | None
    body_hash: str


class Unsound(Exception):
    """The first thing wrong with the events, in words."""


class Evidence:
    """The events of an incident as a reader of events; `last` and `last_hash` of those that were read.

    chained: whether chain.jsonl is there, and so every event from 1 to `last`. events: those of events.jsonl.
    """

    def __init__(self, db: sqlite3.Connection, head: Head, chained: bool) -> None:
        self.chained = chained
        self.events = 0
        self.last = 0
        self.last_hash = chain.NO_HASH
        self.ledger_id: bytes | None = None
        self._db = db
        self._head = head

    def head(self) -> Head:
        """The head that the incident names."""
        return self._head

    def rows(
        self,
        after: int = 0,
        *,
        before: int | None = None,
        stream: str | None = None,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Row]:
        """See Ledger.rows; an event of chain.jsonl has neither salt nor body."""
        wanted, values = ["seq > ?", "seq < ?"], [after, _SEQ_MAX if before is None else before]
        found: list[Any] = list(values)
        if stream is not None:
            wanted.append("stream = ?")
            found.append(stream)
        if kinds is not None:
            wanted.append(f"({' OR '.join(['kind GLOB ?'] * len(kinds)) or '0'})")
            found += kinds
        sql = f"SELECT {_COLUMNS} FROM events WHERE {' AND '.join(wanted)} ORDER BY seq LIMIT ?"
        return map(Row._make, self._db.execute(sql, (*found, -1 if limit is None else limit)))

    def find(self, key: str) -> Event | None:
        """See Ledger.find."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM events WHERE key = ?", (key,)).fetchone()
        return None if row is None else Event.from_row(Row._make(row))

    def given(self) -> Iterator[Row]:
        """The events of events.jsonl, in order."""
        sql = f"SELECT {_COLUMNS} FROM events WHERE NOT withheld ORDER BY seq"
        return map(Row._make, self._db.execute(sql))

    def row(self, seq: int) -> Row | None:
        """An event of events.jsonl; None for any other."""
        sql = f"SELECT {_COLUMNS} FROM events WHERE seq = ? AND NOT withheld"
        found = self._db.execute(sql, (seq,)).fetchone()
        return None if found is None else Row._make(found)

    def hash_of(self, seq: int) -> bytes | None:
        """The hash of an event of either file."""
        found = self._db.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).fetchone()
        return None if found is None else bytes(found[0])


@contextmanager
def evidence_of(source: Opened, head: Head) -> Iterator[Evidence]:
    """The events, all of them sound. Raises Unsound, BadIncident, NewerFormat, Unavailable."""
    with tempfile.TemporaryDirectory(prefix="tally-incident-") as folder:
        try:
            with closing(sqlite3.connect(Path(folder) / "events", isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode=OFF")
                db.execute("PRAGMA synchronous=OFF")
                db.executescript(_SCHEMA)
                db.execute("BEGIN")
                evidence = Evidence(db, head, CHAIN in source.names)
                _Reading(source, evidence, db).run()
                db.executescript(_INDEXES)
                yield evidence
        except sqlite3.Error as error:
            problem = f"cannot hold the index of events ({error})"
            raise Unavailable("the temporary directory", problem, "set TMPDIR to another") from None


class _Reading:
    """The pass over the lines."""

    def __init__(self, source: Opened, evidence: Evidence, db: sqlite3.Connection) -> None:
        self._source = source
        self._evidence = evidence
        self._db = db
        self._hashes = OwnHashes()
        self._walk = Walk(None)

    def run(self) -> None:
        evidence, page = self._evidence, []
        for row, withheld in self._merged():
            row = self._linked(row, withheld)
            page.append((*row, withheld))
            if len(page) >= _PAGE:
                self._insert(page)
                page = []
        self._insert(page)
        if not evidence.last:
            raise Unsound(f"{EVENTS} holds no events")
        self._check_erasures()

    def _insert(self, page: list[tuple[Any, ...]]) -> None:
        self._db.executemany(f"INSERT INTO events VALUES ({', '.join('?' * 12)})", page)

    def _merged(self) -> Iterator[tuple[Row, bool]]:
        """The rows of both files by seq, and whether only the chain has them."""
        with self._source.file(EVENTS) as events:
            whole = _parsed(events)
            if not self._evidence.chained:
                yield from ((row, False) for row in whole)
                return
            with self._source.file(CHAIN) as links:
                others = _links(links)
                one, other = next(whole, None), next(others, None)
                while one is not None or other is not None:
                    if other is None or (one is not None and one.seq <= other.seq):
                        assert one is not None
                        yield one, False
                        one = next(whole, None)
                    else:
                        yield other, True
                        other = next(others, None)

    def _linked(self, row: Row, withheld: bool) -> Row:
        """The row, if it is whole and follows the one before. Raises Unsound."""
        evidence, n = self._evidence, row.seq
        if not evidence.last < n <= _SEQ_MAX:
            raise Unsound(f"event {n} stands behind event {evidence.last}")
        follows = n == evidence.last + 1
        if evidence.chained and not follows:
            raise Unsound(f"event {evidence.last + 1} is in neither file: the next is event {n}")
        if n == 1:
            evidence.ledger_id = ledger_id_of(row)
            if evidence.ledger_id is None:
                raise Unsound("event 1 is no readable ledger.created with a ledger id")
            evidence.last_hash = chain.genesis_hash(evidence.ledger_id)
        elif not evidence.last:
            raise Unsound("event 1, which names the ledger, is missing")
        if withheld:
            try:
                label = chain.label(row.kind, row.stream, row.key, row.meta)
                digest = chain.event_hash(evidence.last_hash, n, row.at, row.body_hash, label)
            except (ValueError, struct.error) as error:
                raise Unsound(f"event {n}: its line in {CHAIN} is malformed ({error})") from None
            row = row._replace(prev_hash=evidence.last_hash, hash=digest)
        problem = None if withheld else self._hashes.problem(row)
        if problem is not None:
            raise Unsound(f"event {n}: {problem}")
        if follows and row.prev_hash != evidence.last_hash:
            raise Unsound(f"event {n}: it does not follow event {n - 1} as that stands here")
        if not withheld:
            evidence.events += 1
            self._note_erasure(row)
        evidence.last, evidence.last_hash = n, row.hash
        return row

    def _note_erasure(self, row: Row) -> None:
        if row.body is None:
            own = row.kind.startswith("ledger.")
            self._walk.erasures.add_erased(row.seq, row.body_hash, row.salt is not None, own)
        elif row.kind == records.BODY_ERASED:
            finding = self._walk.note_record(row)
            if finding is not None:
                raise Unsound(f"event {row.seq}: {finding.detail}")

    def _check_erasures(self) -> None:
        erasures = self._walk.erasures
        for seq in erasures.recorded_with_body():
            row = self._evidence.row(seq)
            if row is not None and row.body is not None:
                erasures.note_kept(seq)
        problem = erasures.first_problem()
        if problem is not None:
            raise Unsound(f"event {problem[0]}: {problem[1].value}")


def _lines(file: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise Unsound(f"{name}: line {number} has more than {LINE_BYTES_MAX:,} bytes")
        yield number, line.rstrip(b"\r\n")


def _parsed(file: IO[bytes]) -> Iterator[Row]:
    for number, line in _lines(file, EVENTS):
        try:
            yield parse_line(line, EVENTS, number)
        except BadLine as error:
            raise Unsound(f"{EVENTS}: line {number}: {error.problem}") from None


def _links(file: IO[bytes]) -> Iterator[Row]:
    for number, line in _lines(file, CHAIN):
        try:
            link = msgspec.json.decode(line, type=_Link)
            meta = None if link.meta is None else link.meta.encode()
            body_hash = bytes.fromhex(link.body_hash)
            if len(body_hash) != chain.HASH_BYTES:
                raise ValueError("body_hash is no hash")
            if link.key == "" or link.meta == "":
                raise ValueError("an empty key or meta would have the same hash as none")
            row = Row(
                *(link.seq, link.at, link.kind, link.stream, link.key, meta),
                *(None, None, body_hash, chain.NO_HASH, chain.NO_HASH),
            )
            if chain_line(row) != line:
                raise ValueError("it is not as an incident is written")
        except (msgspec.MsgspecError, MalformedEvent, ValueError, RecursionError) as error:
            raise Unsound(f"{CHAIN}: line {number}: {error}") from None
        yield row
