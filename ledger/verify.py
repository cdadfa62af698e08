"""Verification of the chain: every hash derived again from the stored bytes.

Needs nothing but a reader of rows. The fast path accepts a row when every hash agrees; any
other row goes to `diagnose`, which says exactly what is wrong with it. `docs/format.md` defines
the checks and their order.
"""

from __future__ import annotations

import enum
import itertools
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from blake3 import blake3

from . import chain, kinds, records
from .erasures import Erasures, Flaw
from .errors import Corrupt, InvalidEvent, NewerFormat, NoSuchEvent
from .event import Head, Row

#: How far from its place a row is searched for when its hash fits another seq.
REORDER_SEARCH: Final = 100_000
PROGRESS_EVERY: Final = 10_000
_LOWER_HEX: Final = re.compile("[0-9a-f]*")


class Verdict(enum.StrEnum):
    """What a verification ends in."""

    VERIFIED = "VERIFIED"
    BROKEN = "BROKEN"
    UNANCHORED = "UNANCHORED"


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


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a verification.

    events: how many were checked. first, last: the seqs they span. head: the log's head as
    derived, when its end was reached. anchored_to: the last seq that an anchor from outside
    vouches for. erased: erased bodies among the events checked.
    """

    verdict: Verdict
    events: int
    first: int
    last: int
    head: Head | None
    anchored_to: int | None
    erased: int
    finding: Finding | None
    scope: str

    def __str__(self) -> str:
        """One line, as `tally verify` prints it."""
        if self.finding is not None:
            return f"BROKEN at event {self.finding.seq}: {self.finding.problem}: {self.finding.detail}"
        count = f"{self.events:,} event" + ("" if self.events == 1 else "s")
        if self.verdict is Verdict.VERIFIED:
            return f"VERIFIED {count}: every hash derived again, and the end of the log is the one expected"
        if self.scope != "chain":
            why = f"the check covers {self.scope} only"
        elif self.anchored_to is not None:
            why = f"the anchor vouches for events 1 to {self.anchored_to} only"
        else:
            why = "nothing outside the file says that its end is not missing"
        return f"UNANCHORED {count}: every hash derived again, but {why}"


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


def verify(
    reader: Reader,
    *,
    expect: Head | None = None,
    kept: Head | None = None,
    span: tuple[int, int] | None = None,
    stream: str | None = None,
    jobs: int = 1,
    path: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Derive every hash of a log again and say VERIFIED, BROKEN or UNANCHORED.

    expect: a head kept outside; only an anchor at the log's end makes it VERIFIED. kept: the
    head file's. span: check only the seqs from the first to the second, linked to the stored
    hash of the one before. stream: check only that stream's events, each linked to its
    neighbour's stored hash. jobs: processes, for a ledger at `path`. progress: called with the
    number of events checked so far. Constant memory. Raises Unavailable if it could not look.
    """
    if stream is not None:
        return _verify_stream(reader, stream)
    if span is not None:
        return _verify_span(reader, span, progress)
    if jobs > 1 and path is not None:
        from .verify_jobs import walk_in_processes

        walk = walk_in_processes(path, reader, jobs, progress)
    else:
        walk = Walk(None)
        walk.run(reader.read_raw(), progress)
    return conclude(reader, walk, expect=expect, kept=kept)


def conclude(reader: Reader, walk: Walk, *, expect: Head | None = None, kept: Head | None = None) -> Report:
    """The report of a walk over the whole log: its erasures and anchors held against it."""
    finding = walk.finding
    if finding is None and walk.events == 0:
        finding = Finding(1, Problem.MALFORMED, "the log is empty: event 1, ledger.created, is missing")
    finding = finding or _unrecorded(reader, walk)
    for anchor, name in ((expect, "the expected head"), (kept, "the head file")):
        if anchor is not None and finding is None:
            finding = _against_anchor(reader, walk, anchor, name)
    anchored_to = expect.seq if expect is not None and finding is None else None
    verdict = Verdict.UNANCHORED
    if finding is not None:
        verdict = Verdict.BROKEN
    elif anchored_to == walk.last:
        verdict = Verdict.VERIFIED
    return Report(
        verdict=verdict,
        events=walk.events,
        first=1,
        last=walk.last,
        head=Head(walk.last, walk.last_hash, walk.ledger_id) if finding is None else None,
        anchored_to=anchored_to,
        erased=walk.erasures.erased,
        finding=finding,
        scope="chain",
    )


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
        # One hasher each, used again and again: making one costs as much as hashing a row.
        body_hasher, event_hasher = blake3(), blake3()
        prev, expected = self.last_hash, self.last + 1
        erasures = self.erasures
        try:
            for row in rows:
                seq, at, kind, stream, key, meta, salt, body, body_hash, prev_hash, digest = row
                try:
                    if body is not None:
                        body_hasher.reset()
                        body_hasher.update(salt).update(body)
                        sound = (
                            len(salt) == chain.SALT_BYTES
                            and len(body) > 0
                            and body_hasher.digest() == body_hash
                        )
                    else:
                        sound = (salt is None or len(salt) == chain.SALT_BYTES) and len(
                            body_hash
                        ) == chain.HASH_BYTES
                    event_hasher.reset()
                    event_hasher.update(
                        b"".join(
                            (_event_start(prev_hash, seq, at), body_hash, _label(kind, stream, key, meta))
                        )
                    )
                    sound = (
                        sound and event_hasher.digest() == digest and prev_hash == prev and seq == expected
                    )
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


def _verify_span(reader: Reader, span: tuple[int, int], progress: Callable[[int], None] | None) -> Report:
    first, last = span
    if first < 1 or last < first:
        raise InvalidEvent(
            "span", f"{first} to {last} is no span", "give a first seq of at least 1 and a last not before it"
        )
    before = None
    if first > 1:
        row = next(reader.read_raw(first - 2, first), None)
        if row is None or not isinstance(row[10], bytes):
            raise NoSuchEvent(first - 1, reader.head().seq)
        before = (first - 1, row[10])
    walk = Walk(before)
    walk.run(reader.read_raw(None if before is None else first - 1, last + 1), progress)
    finding = walk.finding or _unrecorded(reader, walk)
    if finding is None and walk.last < last:
        raise NoSuchEvent(last, walk.last)
    return _partial_report(
        walk.events, first, walk.last, walk.erasures.erased, finding, f"events {first} to {last}"
    )


def _verify_stream(reader: Reader, stream: str) -> Report:
    events = first = last = erased = 0
    finding = None
    for row in reader.read(stream=stream):
        before = next(reader.read_raw(row.seq - 2, row.seq), None) if row.seq > 1 else None
        prev = row.prev_hash if before is None else before[10]
        walk = Walk((row.seq - 1, prev))
        walk.run([row])
        finding = walk.finding or _unrecorded(reader, walk)
        if finding is None:
            after = next(reader.read_raw(row.seq, row.seq + 2), None)
            if after is not None and after[9] != row.hash:
                finding = Finding(
                    row.seq + 1, Problem.LINK_BROKEN, f"it does not follow event {row.seq} as stored"
                )
        if finding is not None:
            break
        events, first, last = events + 1, first or row.seq, row.seq
        erased += row.body is None
    return _partial_report(events, first, last, erased, finding, f"stream {stream!r}")


def _partial_report(
    events: int, first: int, last: int, erased: int, finding: Finding | None, scope: str
) -> Report:
    return Report(
        verdict=Verdict.UNANCHORED if finding is None else Verdict.BROKEN,
        events=events,
        first=first,
        last=last,
        head=None,
        anchored_to=None,
        erased=erased,
        finding=finding,
        scope=scope,
    )


def _unrecorded(reader: Reader, walk: Walk) -> Finding | None:
    """Hold the erased rows of a walk against the records, those after its end included."""
    if walk.erasures.open:
        for row in reader.read(walk.last, kinds=[records.BODY_ERASED]):
            if row.body is not None and (finding := walk.note_record(row)) is not None:
                return finding
    for seq in walk.erasures.recorded_with_body():
        # Rows are read in pages: this one may have been erased after it was checked.
        again = next(reader.read_raw(seq - 1, seq + 1), None) if seq >= walk.first else None
        if again is not None and again[7] is not None:
            walk.erasures.note_kept(seq)
    problem = walk.erasures.first_problem()
    if problem is None:
        return None
    seq, what = problem
    return Finding(seq, Problem.ERASED if what is Flaw.UNRECORDED else Problem.MALFORMED, what.value)


def _against_anchor(reader: Reader, walk: Walk, anchor: Head, name: str) -> Finding | None:
    """Hold a sound chain against a head from outside it."""
    if anchor.ledger_id is not None and anchor.ledger_id != walk.ledger_id:
        return Finding(1, Problem.EDITED, f"this is another ledger than the one that {name} belongs to")
    if anchor.seq > walk.last:
        return Finding(
            walk.last + 1,
            Problem.TRUNCATED,
            f"the log ends at event {walk.last}, but {name} names event {anchor.seq}",
        )
    row = next(reader.read_raw(anchor.seq - 1, anchor.seq + 1), None) if anchor.seq > 0 else None
    if row is None or row[10] != anchor.hash:
        return Finding(
            anchor.seq,
            Problem.EDITED,
            f"every hash follows, but {name} names another event: the log was rewritten here or before",
        )
    return None


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


_seq_at = struct.Struct(">Qq").pack


def _event_start(prev_hash: bytes, seq: int, at: int) -> bytes:
    return chain.EVENT_TAG + prev_hash + _seq_at(seq, at)


@lru_cache(maxsize=4096)
def _label(kind: str, stream: str, key: str | None, meta: bytes | None) -> bytes:
    """The label of a row as stored; a ValueError or TypeError if it may not stand in a ledger."""
    _check_kind(kind)
    _check_stream(stream)
    if key is not None:
        kinds.check_name(key, "key")
    if meta is not None and not meta:
        raise ValueError("an empty meta would have the same hash as none")
    return chain.label(kind, stream, key, meta)


_check_kind = lru_cache(maxsize=1024)(kinds.check_kind)


@lru_cache(maxsize=4096)
def _check_stream(stream: str) -> None:
    kinds.check_name(stream, "stream")
