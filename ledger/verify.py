"""Verification of the chain: VERIFIED, BROKEN or UNANCHORED.

Needs nothing but a reader of rows. `walk.py` derives the hashes of consecutive rows again; here a
walk is begun, held against the records of erasures and against anchors, and put into words.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path

import msgspec

from . import records
from .erasures import Flaw
from .errors import BadHead, InvalidEvent, NoSuchEvent
from .event import Head
from .walk import Finding, Problem, Reader, Walk


class Verdict(enum.StrEnum):
    """What a verification ends in."""

    VERIFIED = "VERIFIED"
    BROKEN = "BROKEN"
    UNANCHORED = "UNANCHORED"


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
    number of events checked so far. Constant memory. Raises Unavailable if it could not look,
    InvalidEvent or BadHead for arguments that make no sense.
    """
    if expect is not None and (stream is not None or span is not None):
        raise InvalidEvent("expect", "speaks of the whole log", "leave out span and stream")
    if expect is not None and expect.seq < 1:
        raise BadHead(str(expect))
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
    if finding is None and not events:
        raise InvalidEvent("stream", f"the ledger has no events in {stream!r}", "name another")
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
