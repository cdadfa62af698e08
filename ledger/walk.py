"""One pass over the rows of a log: every hash derived again from the stored bytes.

The fast path accepts a row when every hash agrees; any other row goes to `diagnose`, which says
exactly what is wrong with it. `docs/format.md` defines the checks and their order.
"""

from __future__ import annotations

import enum
import itertools
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol

import msgspec
from blake3 import blake3

from . import chain, kinds, records
from .erasures import Erasures
from .errors import Corrupt, InvalidEvent, NewerFormat
from .event import Head, Row

#: How far from its place a row is searched for when its hash fits another seq.
REORDER_SEARCH: Final = 100_000
PROGRESS_EVERY: Final = 10_000
_LOWER_HEX: Final = re.compile("[0-9a-f]*")


class Problem(enum.StrEnum):
    """What is wrong with the first bad event."""

    EDITED = "edited"
    ERASED = "erased without record"
    LINK_BROKEN = "link broken"
    GAP = "gap"
    REORDERED = "reordered"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"


class Finding(msgspec.Struct, frozen=True):
    """The first bad event: its seq, the word for what is wrong, and a sentence on it."""

    seq: int
    problem: Problem
    detail: str


class Reader(Protocol):
    """The part of a Store that verification needs."""

    def head(self) -> Head:
        """See Store.head."""

    def read(
        self, after: int = 0, *, stream: str | None = None, kinds: Sequence[str] | None = None
    ) -> Iterator[Row]:
        """See Store.read."""

    def read_raw(self, after: int | None = None, before: int | None = None) -> Iterator[Sequence[Any]]:
        """See Store.read_raw."""


class Walk:
    """One pass over consecutive rows; holds what later checks need, in constant memory.

    `before` is the (seq, hash) that the first row must follow, or None to begin at event 1.
    """

    def __init__(self, before: tuple[int, bytes] | None) -> None:
        self.first = 1 if before is None else before[0] + 1
        self.last, self.last_hash = (0, chain.NO_HASH) if before is None else before
        self.events = 0
        self.ledger_id: bytes | None = None
        self.erasures = Erasures()
        self.finding: Finding | None = None

    def run(self, rows: Iterable[Sequence[Any]], progress: Callable[[int], None] | None = None) -> None:
        """Check rows until the first bad one, which becomes `finding`."""
        source = iter(rows)
        if self.last == 0:
            try:
                first = next(source, None)
            except Corrupt as error:
                self.finding = Finding(1, Problem.MALFORMED, f"cannot be read: {error.problem}")
                return
            if first is None:
                return
            self.finding = self._begin(first)
            source = itertools.chain([first], source)
        if self.finding is None:
            self._run(source, progress)

    def _begin(self, first: Sequence[Any]) -> Finding | None:
        """Event 1 names the ledger, whose id the chain starts from."""
        if first[0] != 1 or type(first[0]) is not int:
            return diagnose(first, 1, chain.NO_HASH)
        shape = _shape_problem(first)
        if shape is not None:
            return Finding(1, Problem.MALFORMED, shape)
        self.ledger_id = ledger_id_of(first)
        if self.ledger_id is None:
            return Finding(1, Problem.MALFORMED, "event 1 is no readable ledger.created with a ledger id")
        self.last_hash = chain.genesis_hash(self.ledger_id)
        return None

    def _run(self, rows: Iterable[Sequence[Any]], progress: Callable[[int], None] | None) -> None:
        # One hasher, used again and again: making one costs as much as hashing a row.
        hasher = blake3()
        reset, update, digest_of_all = hasher.reset, hasher.update, hasher.digest
        place, tag, salt_bytes = chain.PLACE.pack, chain.EVENT_TAG, chain.SALT_BYTES
        prev, expected = self.last_hash, self.last + 1
        erasures = self.erasures
        try:
            for row in rows:
                seq, at, kind, stream, key, meta, salt, body, body_hash, prev_hash, digest = row
                try:
                    if body:
                        reset()
                        update(salt + body)
                        sound = digest_of_all() == body_hash and len(salt) == salt_bytes
                    else:
                        sound = (
                            body is None
                            and (salt is None or len(salt) == salt_bytes)
                            and len(body_hash) == chain.HASH_BYTES
                        )
                    if sound and prev_hash == prev and seq == expected:
                        reset()
                        label = (
                            _bare_label(kind, stream)
                            if key is None and meta is None
                            else _label(kind, stream, key, meta)
                        )
                        update(place(tag, prev_hash, seq, at, body_hash) + label)
                        sound = digest_of_all() == digest
                    else:
                        sound = False
                except (TypeError, ValueError, AttributeError, struct.error):
                    sound = False
                if not sound:
                    self.finding = diagnose(row, expected, prev)
                    assert self.finding is not None, f"row {row!r} is neither sound nor unsound"
                    return
                if body is None:
                    erasures.add_erased(seq, body_hash, salt is not None, kind.startswith("ledger."))
                elif kind == records.BODY_ERASED:
                    self.finding = self.note_record(row)
                    if self.finding is not None:
                        return
                prev, expected = digest, expected + 1
                if progress is not None and expected % PROGRESS_EVERY == 0:
                    progress(expected - self.first)
        except Corrupt as error:
            self.finding = Finding(expected, Problem.MALFORMED, f"cannot be read: {error.problem}")
        finally:
            self.last, self.last_hash = expected - 1, prev
            self.events = expected - self.first

    def note_record(self, row: Sequence[Any]) -> Finding | None:
        """Note a ledger.body_erased row; a finding if it cannot be one."""
        try:
            record = _own_body(row[7])
            named, named_hash = record.get("seq"), _unhex(record.get("body_hash"), chain.HASH_BYTES)
            if type(named) is not int:
                raise ValueError("seq is no integer")
        except ValueError:
            return Finding(row[0], Problem.MALFORMED, "its record of an erasure cannot be read")
        if not 0 < named < row[0]:
            return Finding(
                row[0], Problem.MALFORMED, f"it records the erasure of event {named}, not an earlier one"
            )
        self.erasures.add_record(named, named_hash)
        return None


def diagnose(row: Sequence[Any], expected: int, prev: bytes) -> Finding | None:
    """What is wrong with a row that should be event `expected` and follow hash `prev`; None if nothing."""
    shape = _shape_problem(row)
    if shape is not None:
        return Finding(expected, Problem.MALFORMED, shape)
    event = Row._make(row)
    if event.seq < expected:
        return Finding(expected, Problem.MALFORMED, f"seq {event.seq} stands where event {expected} belongs")
    if event.seq > expected:
        missing = (
            f"event {expected} is"
            if event.seq == expected + 1
            else f"events {expected} to {event.seq - 1} are"
        )
        return Finding(expected, Problem.GAP, f"{missing} missing")
    if (
        event.body is not None
        and event.salt is not None
        and chain.body_hash(event.salt, event.body) != event.body_hash
    ):
        return Finding(expected, Problem.EDITED, "its body or salt does not match its body hash")
    label = chain.label(event.kind, event.stream, event.key, event.meta)
    if chain.event_hash(event.prev_hash, event.seq, event.at, event.body_hash, label) == event.hash:
        if event.prev_hash == prev:
            return None
        before = "the ledger id" if expected == 1 else f"event {expected - 1}"
        return Finding(
            expected,
            Problem.LINK_BROKEN,
            f"it follows another event than {before}: one of the two was replaced",
        )
    if chain.event_hash(prev, event.seq, event.at, event.body_hash, label) == event.hash:
        return Finding(expected, Problem.LINK_BROKEN, "its prev_hash was altered")
    for seq in _nearest_first(expected, REORDER_SEARCH):
        if chain.event_hash(event.prev_hash, seq, event.at, event.body_hash, label) == event.hash:
            return Finding(expected, Problem.REORDERED, f"event {seq} stands in its place")
    return Finding(expected, Problem.EDITED, "its columns do not match its hash")


class OwnHashes:
    """Holds rows against their own hashes, one by one; what a row follows, a walk alone can tell.

    For one thread: it has a hasher that is used again and again.
    """

    def __init__(self) -> None:
        self._hasher = chain.Hasher()

    def problem(self, row: Row) -> str | None:
        """What in a row contradicts its own hashes; None if nothing."""
        seq, at, kind, stream, key, meta, salt, body, body_hash, prev_hash, digest = row
        try:
            if body is not None and (salt is None or self._hasher.body(salt, body) != body_hash):
                return _shape_problem(row) or "its body or salt does not match its body hash"
            if len(prev_hash) == len(body_hash) == chain.HASH_BYTES and meta != b"":
                label = chain.label(kind, stream, key, meta)
                if self._hasher.event(prev_hash, seq, at, body_hash, label) == digest:
                    return None
        except (AttributeError, TypeError, ValueError, struct.error):
            pass  # a column of another type or size
        return _shape_problem(row) or "its columns do not match its hash"


def ledger_id_of(row: Sequence[Any]) -> bytes | None:
    """The ledger id that event 1 names; None if the row is no ledger.created that can be read.

    Raises NewerFormat if it names another format than this version reads.
    """
    kind, body = row[2], row[7]
    if kind != records.CREATED or not isinstance(body, bytes):
        return None
    try:
        created = _own_body(body)
        ledger_id = _unhex(created.get("ledger_id"), chain.LEDGER_ID_BYTES)
    except ValueError:
        return None
    version = created.get("format")
    if type(version) is not int or not -(1 << 63) <= version < 1 << 63:
        return None
    if version != records.FORMAT_VERSION:
        raise NewerFormat("event 1", version, records.FORMAT_VERSION)
    return ledger_id


def _own_body(data: object) -> dict[str, Any]:
    """The members of one of the ledger's own bodies; ValueError if it is no JSON object, or ambiguous."""
    if not isinstance(data, bytes):
        raise ValueError("no bytes")
    try:  # int() refuses the NaN and Infinity that Python's reader would let through
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=int)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name comes twice")
    return members


def _unhex(value: object, size: int) -> bytes:
    """Bytes from lower-case hex of exactly `size` bytes; else ValueError."""
    if not isinstance(value, str) or len(value) != 2 * size or not _LOWER_HEX.fullmatch(value):
        raise ValueError("not lower-case hex of the right length")
    return bytes.fromhex(value)


def _shape_problem(row: Sequence[Any]) -> str | None:
    """What is wrong with the types and sizes of a row's columns; None if nothing."""
    seq, at, kind, stream, key, meta, salt, body, body_hash, prev_hash, digest = row
    for name, value in (("seq", seq), ("at", at)):
        if type(value) is not int:
            return f"{name} is no integer"
    if seq < 1:
        return f"seq {seq} is below 1"
    try:
        kinds.check_kind(kind)
        kinds.check_name(stream, "stream")
        if key is not None:
            kinds.check_name(key, "key")
    except InvalidEvent as error:
        return str(error)
    for name, value, size in (
        ("body_hash", body_hash, chain.HASH_BYTES),
        ("prev_hash", prev_hash, chain.HASH_BYTES),
        ("hash", digest, chain.HASH_BYTES),
        ("salt", salt, chain.SALT_BYTES),
        ("body", body, None),
        ("meta", meta, None),
    ):
        if value is None and size != chain.HASH_BYTES:
            continue
        if not isinstance(value, bytes):
            return f"{name} is no bytes"
        if len(value) != size and (size is not None or not value):
            return f"{name} has {len(value)} bytes" + ("" if size is None else f", not {size}")
    if body is not None and salt is None:
        return "its body has no salt"
    return None


def _nearest_first(centre: int, reach: int) -> Iterator[int]:
    for distance in range(1, reach + 1):
        if centre > distance:
            yield centre - distance
        yield centre + distance


@lru_cache(maxsize=4096)
def _bare_label(kind: str, stream: str) -> bytes:
    """As `_label`, of a row without key and meta."""
    return chain.label(kinds.check_kind(kind), kinds.check_name(stream, "stream"), None, None)


def _label(kind: str, stream: str, key: str | None, meta: bytes | None) -> bytes:
    """The label of a row as stored; a ValueError or TypeError if it may not stand in a ledger."""
    _bare_label(kind, stream)  # checks both; most rows repeat an earlier pair, while keys never repeat
    if key is not None:
        kinds.check_name(key, "key")
    if meta is not None and not meta:
        raise ValueError("an empty meta would have the same hash as none")
    return chain.label(kind, stream, key, meta)
