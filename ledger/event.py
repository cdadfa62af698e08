"""What moves between an app, the chain and a store: drafts, rows, events, receipts, heads.

An app's event becomes a `Draft` (checked and encoded, place in the chain still open), then a
`Row` (placed, hashed, as stored), and is read back as an `Event` (decoded).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from . import canonical
from .chain import Hasher, event_hash
from .errors import BadHead, MalformedEvent

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_HEAD_LINE: Final = re.compile(r"(?:tally1:([0-9a-f]{32}):)?(0|[1-9][0-9]{0,18}):([0-9a-f]{64})")
_SEQ_MAX: Final = (1 << 63) - 1
_new_tuple: Final = tuple.__new__  # a named tuple's own __new__ is a function in Python around it


class Head(msgspec.Struct, frozen=True, order=True):
    """The end of a log: the last event's seq and hash.

    `ledger_id` (16 bytes) is filled in where the head stands alone, outside its ledger.
    """

    seq: int
    hash: bytes
    ledger_id: bytes | None = None

    def __str__(self) -> str:
        """The head line: `tally1:<ledger id>:<seq>:<hash>`, or `<seq>:<hash>` without an id."""
        bare = f"{self.seq}:{self.hash.hex()}"
        return bare if self.ledger_id is None else f"tally1:{self.ledger_id.hex()}:{bare}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read a head line; the inverse of `str`. Raises BadHead."""
        match = _HEAD_LINE.fullmatch(text.strip())
        if match is None or int(match[2]) > _SEQ_MAX:
            raise BadHead(text.strip())
        ledger_id, seq, digest = match.groups()
        return cls(int(seq), bytes.fromhex(digest), bytes.fromhex(ledger_id) if ledger_id else None)


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Proof of an append: the event's seq, its hash, and its time in microseconds since 1970 UTC."""

    seq: int
    hash: bytes
    at: int


class Row(NamedTuple):
    """One row of the table `events`, as stored. `docs/format.md` says what each column holds."""

    seq: int
    at: int
    kind: str
    stream: str
    key: str | None
    meta: bytes | None
    salt: bytes | None
    body: bytes | None
    body_hash: bytes
    prev_hash: bytes
    hash: bytes


COLUMNS: Final = Row._fields


class Draft(NamedTuple):
    """An event that was checked and encoded, ready to take its place in the chain."""

    at: int
    kind: str
    stream: str
    key: str | None
    meta: bytes | None
    salt: bytes
    body: bytes
    body_hash: bytes
    label: bytes

    def place(self, seq: int, prev_hash: bytes, hasher: Hasher | None = None) -> Row:
        """The row of this draft at a place in the chain. Who places many brings one hasher for all."""
        hash_of = event_hash if hasher is None else hasher.event
        at, kind, stream, key, meta, salt, body, body_hash, label = self
        digest = hash_of(prev_hash, seq, at, body_hash, label)
        return _new_tuple(Row, (seq, at, kind, stream, key, meta, salt, body, body_hash, prev_hash, digest))


class NewEvent(msgspec.Struct, kw_only=True):
    """An event to append. `at` (microseconds since 1970 UTC) defaults to the ledger's clock."""

    kind: str
    body: Any = msgspec.field(default_factory=dict)
    stream: str = "main"
    key: str | None = None
    meta: Mapping[str, Any] | None = None
    at: int | None = None


class Event(msgspec.Struct, frozen=True):
    """An event as read back. `body` is None and `erased` true once the body was erased."""

    seq: int
    at: int
    kind: str
    stream: str
    key: str | None
    meta: dict[str, Any] | None
    body: Any
    erased: bool
    body_hash: bytes
    prev_hash: bytes
    hash: bytes

    @property
    def time(self) -> dt.datetime:
        """`at` as an aware datetime in UTC."""
        return _EPOCH + dt.timedelta(microseconds=self.at)

    @classmethod
    def from_row(cls, row: Row) -> Event:
        """Decode a stored row. Raises MalformedEvent."""
        try:
            meta = None if row.meta is None else canonical.decode(row.meta)
            body = None if row.body is None else canonical.decode(row.body)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise MalformedEvent(row.seq, str(error)) from None
        return cls(
            seq=row.seq,
            at=row.at,
            kind=row.kind,
            stream=row.stream,
            key=row.key,
            meta=meta,
            body=body,
            erased=row.body is None,
            body_hash=row.body_hash,
            prev_hash=row.prev_hash,
            hash=row.hash,
        )
