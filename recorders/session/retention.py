"""Retention: the bodies of sessions that were closed long enough ago are erased, on request (contract S7).

Nothing here runs by itself. What remains of an expired session is that it was: its events with their
kinds, times and places in the chain, and a `session.expired` that says so.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from tallystick.events import session as bodies
from tallystick.ledger.drafting import wall_clock
from tallystick.ledger.errors import Conflict, InvalidEvent, TallyError
from tallystick.ledger.event import NewEvent
from tallystick.ledger.ledger import Ledger
from tallystick.projections.errors import NoSuchId
from tallystick.projections.views import views_of

from ..errors import SessionNotExpirable
from . import records
from .progress import Progress
from .records import SessionSummary
from .sessions import summary_of_row

REASON: Final = "the session's retention has passed"
#: So many seqs of 19 digits fit into a body.
_NAMED_MAX: Final = 50_000
_HOUR_US: Final = 3_600_000_000
_ATTEMPTS_MAX: Final = 5
_EPOCH: Final = records.moment(0)


def expired_sessions(ledger: Ledger, now: dt.datetime | None = None) -> list[SessionSummary]:
    """The sessions whose retention has passed and whose bodies are still there, oldest first.

    A session is kept for `retention_hours` from the time of its `session.closed` in the ledger. now: an aware
    datetime; default the clock.
    """
    now_us = _microseconds(now)
    rows = views_of(ledger).rows(
        "SELECT * FROM sessions WHERE closed_seq IS NOT NULL AND NOT expired AND retention_hours IS NOT NULL "
        "ORDER BY first_seq"
    )
    return [
        summary_of_row(row)
        for row in rows
        if _due_us(ledger.get(row["closed_seq"]).at, row["retention_hours"]) < now_us
    ]


def expire(ledger: Ledger, session: SessionSummary | str, now: dt.datetime | None = None) -> list[int]:
    """Erase the bodies of a session whose retention has passed; the seqs of what was erased.

    session: a summary, or a whole id. Bodies and the `session.expired` that says so go in one transaction: a
    crash leaves all of it or nothing. Again, or while another process does the same: nothing is left to
    erase, and the list is empty. Raises NoSuchId; SessionNotExpirable if it is in progress, or it
    is too early; NotErasable, TracesRemain.
    """
    session_id = session if isinstance(session, str) else session.session_id
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        progress, seqs = _read(ledger, session_id)
        if progress.expired is not None and not seqs:
            return []
        hours = _check_due(session_id, progress, _microseconds(now))
        try:
            ledger.erase_many(seqs, REASON, record=_expired(session_id, hours, progress.closed_seq, seqs))
        except Conflict:  # another process has just expired it, so the keys are taken; look again
            if attempt == _ATTEMPTS_MAX:
                raise
            continue
        with suppress(TallyError):  # what the views hold of it goes now, or else before they are read again
            views_of(ledger).catch_up()
        return seqs
    raise AssertionError("the last attempt returns or raises")


def _read(ledger: Ledger, session_id: str) -> tuple[Progress, list[int]]:
    """How the session stands, and its events that have bodies, the records of expiry aside."""
    progress = Progress()
    seqs: list[int] = []
    for event in ledger.read(stream=bodies.STREAM_PREFIX + session_id):
        progress = progress.after(event)
        if not event.erased and event.kind != bodies.EXPIRED:
            seqs.append(event.seq)
    if not progress.first_seq:
        raise NoSuchId("sessions", session_id)
    return progress, seqs


def _check_due(session_id: str, progress: Progress, now_us: int) -> int:
    """The session's retention in hours, if it has passed; else SessionNotExpirable."""
    if not progress.ended:
        raise SessionNotExpirable(
            session_id, "it is in progress", "close it first: Session.resume(ledger, id).close()"
        )
    if progress.expired is not None:
        return progress.expired.retention_hours
    if progress.about is None:
        raise SessionNotExpirable(
            session_id,
            "the body of its start was erased, and with it how long it is to be kept",
            "erase its other events one by one with `tally erase`",
        )
    hours = progress.about.retention_hours
    due_us = _due_us(progress.closed_at, hours)
    if now_us <= due_us:
        until = records.moment(due_us).strftime("%Y-%m-%d %H:%M")
        raise SessionNotExpirable(
            session_id, f"it is kept for {hours} hours from its end, until {until} UTC", "try again then"
        )
    return hours


def _expired(session_id: str, hours: int, closed_seq: int, seqs: Sequence[int]) -> list[NewEvent]:
    """The events that say so. Their keys keep a second process from saying it again."""
    stream = bodies.STREAM_PREFIX + session_id
    return [
        NewEvent(
            kind=bodies.EXPIRED,
            stream=stream,
            key=f"{stream}:expired:{seqs[start]}",
            body=bodies.SessionExpired(
                session_id=session_id,
                retention_hours=hours,
                closed_seq=closed_seq,
                erased=list(seqs[start : start + _NAMED_MAX]),
            ),
        )
        for start in range(0, len(seqs), _NAMED_MAX)
    ]


def _due_us(closed_at: int, hours: int) -> int:
    return closed_at + hours * _HOUR_US


def _microseconds(now: dt.datetime | None) -> int:
    if now is None:
        return wall_clock()
    if now.tzinfo is None:
        raise InvalidEvent("now", "has no time zone", "give an aware datetime, such as datetime.now(UTC)")
    return (now - _EPOCH) // dt.timedelta(microseconds=1)
