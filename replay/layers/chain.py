"""The layer `chain`: the hashes of the selected events, and their links to the events around them.

For everything this is verification itself, begun anew behind each break, so that several are told apart.
For other selections each event is held against its neighbours, by the same walk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tallystick.ledger import records
from tallystick.ledger.errors import NoSuchEvent, TallyError
from tallystick.ledger.event import Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.ledger.verify import Report
from tallystick.ledger.walk import Finding, Walk

from ..report import Layer, Notes
from ..selection import Selection

#: Breaks that are looked behind; a log with more is not looked at any further.
BREAKS_MAX: Final = 20
#: What an event's checks in this layer are about, all together.
WHAT: Final = "hash"
_BEHIND: Final = f"it stands behind {BREAKS_MAX} breaks of the chain"

Progress = Callable[[int], None]


def check_chain(
    ledger: Ledger,
    selection: Selection,
    head: Head,
    notes: Notes,
    progress: Progress | None,
    only: Callable[[], Iterator[Row]] | None = None,
) -> None:
    """Note what comes of deriving the hashes again. only: gives the rows in place of the selected ones."""
    if only is not None:
        _check_each(ledger, only(), head, notes, progress)
    elif selection.contiguous:
        _check_span(ledger, selection, head, notes, progress)
    else:
        _check_each(ledger, selection.rows(ledger, head), head, notes, progress)


def _check_span(
    ledger: Ledger, selection: Selection, head: Head, notes: Notes, progress: Progress | None
) -> None:
    first, last = selection.span(head)
    whole = selection == Selection()
    after = first - 1
    for _ in range(BREAKS_MAX):
        try:
            if whole and after == 0:
                report = ledger.verify(progress=progress)
            else:
                report = ledger.verify(span=(after + 1, last), progress=progress)
        except NoSuchEvent:  # nothing is stored behind the break
            return
        finding = report.finding
        if finding is None:
            notes.match(Layer.CHAIN, max(0, last - after))
            return
        sound = max(0, min(_sound_to(report, finding), last) - after)
        notes.match(Layer.CHAIN, sound)
        _note(notes, finding)
        behind = _first_behind(ledger, finding.seq, last)
        if behind is None or behind <= after or finding.seq <= after:
            return
        after = behind
        if after >= last:
            return
    notes.not_rederivable(Layer.CHAIN, after + 1, WHAT, _BEHIND, last - after)


def _sound_to(report: Report, finding: Finding) -> int:
    """The last event before the finding that was found sound."""
    return min(report.last, finding.seq - 1) if finding.seq <= report.last + 1 else report.last


def _first_behind(ledger: Ledger, seq: int, last: int) -> int | None:
    """The bad event, or the first behind a gap: where checking can begin again. None if it cannot be read."""
    try:
        row = next(ledger.rows(seq - 1, before=last + 1), None)
    except TallyError:
        return seq if seq < last else None
    return None if row is None else row.seq


def _check_each(
    ledger: Ledger, rows: Iterator[Row], head: Head, notes: Notes, progress: Progress | None
) -> None:
    """Hold each event against the one before and the one behind it."""
    before: Row | None = None
    last: Row | None = None
    erased = Walk((0, b""))  # keeps what has to be held against the records of erasures
    for count, row in enumerate(rows, 1):
        if before is None or before.seq != row.seq - 1:
            _check_next(ledger, before, head, notes)
            before = next(ledger.rows(row.seq - 2, before=row.seq), None) if row.seq > 1 else None
        walk = Walk(None if row.seq == 1 else (row.seq - 1, row.prev_hash if before is None else before.hash))
        walk.erasures = erased.erasures
        walk.run([row])
        if walk.finding is None:
            notes.match(Layer.CHAIN)
        else:
            _note(notes, walk.finding)
        before = last = row
        if progress is not None and count % 1000 == 0:
            progress(count)
    _check_next(ledger, before, head, notes)
    if last is not None and erased.erasures.open:
        _check_erasures(ledger, erased, last, notes)


def _check_next(ledger: Ledger, row: Row | None, head: Head, notes: Notes) -> None:
    """Whether the event behind it follows it."""
    if row is None or row.seq >= head.seq:
        return
    following = next(ledger.rows(row.seq, before=row.seq + 2), None)
    if following is None:
        notes.diverged(Layer.CHAIN, row.seq + 1, WHAT, (), "gap: the event behind it is missing")
    elif following.prev_hash != row.hash:
        reason = f"link broken: it does not follow event {row.seq} as stored"
        notes.diverged(Layer.CHAIN, following.seq, WHAT, (), reason)


def _check_erasures(ledger: Ledger, walk: Walk, last: Row, notes: Notes) -> None:
    """Hold erased events against the records of erasures, wherever these are."""
    for record in ledger.rows(kinds=[records.BODY_ERASED]):
        if record.body is not None and walk.note_record(record) is None and not walk.erasures.open:
            break
    problem = walk.erasures.first_problem()
    if problem is not None:
        notes.diverged(Layer.CHAIN, problem[0], WHAT, (), f"erased without record: {problem[1].value}")


def _note(notes: Notes, finding: Finding) -> None:
    notes.diverged(Layer.CHAIN, finding.seq, WHAT, (), f"{finding.problem}: {finding.detail}")
