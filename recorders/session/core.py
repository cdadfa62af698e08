"""What a session records, without I/O: which events follow from which calls.

`Session` and `AsyncSession` carry out the procedures of `SessionCore`, which ask for two things: to append
an event, and to read on in the session's stream. Several handles, of other processes too, may record in
one session. What keeps its actions in order is the key of each event of the session's own: the
session's id and the event's number among them. Whoever comes second with a number is refused by the
ledger, reads on, and takes the next one. The end takes a number, too, so that nothing of its own follows it.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from tallystick.events import session as bodies
from tallystick.ledger.drafting import wall_clock
from tallystick.ledger.errors import InvalidEvent, KeyConflict, PositionConflict, RecordingFailed
from tallystick.ledger.event import NewEvent
from tallystick.projections.errors import NoSuchId

from ..capture import text_of
from ..errors import SessionEnded
from ..steps import Steps
from . import inputs, records, urn
from .progress import About, Progress, summary_of
from .records import ActionRecord, MessageRecord, SessionSummary

DEFAULT_KERNEL: Final = "ckp://Kernel#Name:v1.0"
DEFAULT_RETENTION_HOURS: Final = 48
#: 50 random bits: with ten million sessions in a ledger, one new id in a hundred million is taken.
ID_CHARACTERS: Final = 10
_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_DRAWS_MAX: Final = 16

_RETENTION_HOURS_MAX: Final = 24 * 366 * 1000

R = TypeVar("R")


class Clocks(NamedTuple):
    """Where a session takes time and chance from; a test brings its own."""

    wall_us: Callable[[], int] = wall_clock
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    entropy: Callable[[int], bytes] = os.urandom


class Append(NamedTuple):
    """Asks to append an event; the answer is its receipts, or None in a batch."""

    event: NewEvent
    expect: tuple[str, int] | None
    result: Any


class ReadOn(NamedTuple):
    """Asks to read the stream behind `progress`; the answer is the progress at its end."""

    stream: str
    progress: Progress


def derived_outcome(outcomes: Mapping[str, int]) -> str:
    """A session's outcome by how many of its actions had each (contract S3)."""
    if not outcomes.get(records.FAILED):
        return records.COMPLETE
    return records.PARTIAL if outcomes.get(records.VERIFIED) else records.SESSION_FAILED


def new_id(entropy: Callable[[int], bytes]) -> str:
    """A random session id: lower-case Crockford base32, which has no letters that are mistaken for others."""
    number = int.from_bytes(entropy(8))
    return "".join(_CROCKFORD[number >> 5 * place & 31] for place in range(ID_CHARACTERS))


# -- what follows from calls ---------------------------------------------------------------


def started(clocks: Clocks, label: str, kernel: str, action: str, retention_hours: int) -> Steps[SessionCore]:
    """Start a session under an id that no other has. Raises InvalidEvent, InvalidUrn."""
    label = inputs.text(label, "label", empty=True)
    kernel = urn.kernel_urn(inputs.text(kernel, "kernel"))
    action = inputs.text(action, "action", empty=True)
    if type(retention_hours) is not int or not 0 <= retention_hours <= _RETENTION_HOURS_MAX:
        raise InvalidEvent("retention_hours", f"{retention_hours!r} is no number of hours", "give 0 or more")
    for draw in range(1, _DRAWS_MAX + 1):
        session_id = new_id(clocks.entropy)
        at = records.moment(clocks.wall_us())
        monotonic_ns = clocks.monotonic_ns()
        about = About(
            session_id, records.session_urn(session_id), label, kernel, action, retention_hours, at, None
        )
        event = NewEvent(
            kind=bodies.STARTED, stream=bodies.STREAM_PREFIX + session_id, body=_start_body(about, at)
        )
        try:
            # Durable from here on: a crash before leaves nothing, a crash after a session in progress.
            [receipt] = yield Append(event, (event.stream, 0), msgspec.UNSET)
        except PositionConflict:
            if draw == _DRAWS_MAX:
                raise
            continue
        progress = Progress(about, kernels=frozenset({kernel}))
        progress = progress.with_last(receipt.seq, receipt.at, bodies.STARTED)
        return SessionCore(clocks, about, progress, monotonic_ns)
    raise AssertionError("the last draw returns or raises")


def resumed(clocks: Clocks, session_id: str) -> Steps[SessionCore]:
    """Go on with a session in progress. Raises NoSuchId, SessionEnded, MalformedEvent."""
    progress: Progress = yield ReadOn(bodies.STREAM_PREFIX + session_id, Progress())
    if progress.outcome != records.IN_PROGRESS:
        raise SessionEnded(session_id, progress.outcome)
    if progress.about is None:
        raise NoSuchId("sessions", session_id)
    return SessionCore(clocks, progress.about, progress, None)


class SessionCore:
    """One handle on a session: what it has recorded, and the procedures that record more.

    A handle runs one procedure at a time; that is its owner's to see to.
    """

    def __init__(self, clocks: Clocks, about: About, progress: Progress, started_ns: int | None) -> None:
        self.about = about
        self.stream = bodies.STREAM_PREFIX + about.session_id
        #: With what waits in a batch; equal to `_stored` else.
        self.progress = progress
        self._stored = progress
        self._in_doubt = False
        self._clocks = clocks
        #: So that no other handle can record the very same, which the ledger would take for a repetition.
        self._name = clocks.entropy(4).hex()
        self._started_ns = started_ns
        self._summary: SessionSummary | None = None

    @property
    def summary(self) -> SessionSummary:
        """The session as of now."""
        return self._summary or summary_of(self.about, self.progress)

    def check_open(self) -> None:
        """Raise SessionEnded if the session is known to have ended."""
        if self.progress.outcome != records.IN_PROGRESS:
            raise SessionEnded(self.about.session_id, self.progress.outcome)

    # -- actions -------------------------------------------------------------------------

    def checked(self, action_type: str, kernel: str, via_edge: str | None) -> tuple[str, str]:
        """Action type and kernel's URN, if they and the edge may be recorded."""
        name = inputs.text(action_type, "action_type")
        kernel_urn = urn.kernel_urn(inputs.text(kernel, "kernel")) if kernel != "" else self.about.kernel
        if via_edge is not None:
            inputs.one_of(via_edge, records.EDGES, "via_edge")
        return name, kernel_urn

    def record_action(self, prepared: ActionRecord) -> Steps[ActionRecord]:
        """Record a prepared action as the next one. Raises SessionEnded, RecordingFailed."""
        at_us = self._clocks.wall_us()
        action_urn = urn.build_action_urn(prepared.kernel, prepared.action_type, at_us // 1000)

        def next_one() -> tuple[ActionRecord, NewEvent, Progress]:
            action = replace(
                prepared,
                seq=self.progress.actions + 1,
                urn=action_urn,
                recorded_at=records.moment(at_us),
                handle=self._name,
            )
            event = self._own_event(bodies.ACTION_RECORDED, records.action_body(action))
            return action, event, self.progress.with_action(action)

        recorded, event_seq = yield from self._record(next_one)
        return replace(recorded, event_seq=event_seq)

    # -- messages ------------------------------------------------------------------------

    def record_message(self, prepared: MessageRecord) -> Steps[MessageRecord]:
        """Record a prepared turn as the next one. Raises SessionEnded, RecordingFailed."""
        at = records.moment(self._clocks.wall_us())

        def next_one() -> tuple[MessageRecord, NewEvent, Progress]:
            message = replace(prepared, index=self.progress.messages, recorded_at=at, handle=self._name)
            event = self._own_event(bodies.MESSAGE_RECORDED, records.message_body(message))
            return message, event, self.progress.with_message()

        recorded, event_seq = yield from self._record(next_one)
        return replace(recorded, event_seq=event_seq)

    # -- the end -------------------------------------------------------------------------

    def close(self, outcome: str = "", error: BaseException | None = None) -> Steps[SessionSummary]:
        """Close the session; again with the same outcome, or none, gives the same summary.

        Raises InvalidEvent, SessionEnded, RecordingFailed.
        """
        if outcome != "":
            inputs.one_of(outcome, records.CLOSING_OUTCOMES, "outcome")
        if self._summary is not None and outcome in ("", self._summary.outcome):
            return self._summary
        ended_at = records.moment(self._clocks.wall_us())
        duration_ms = self._duration_ms(ended_at)

        def end() -> tuple[SessionSummary, NewEvent, Progress]:
            closed = bodies.SessionClosed(
                derived=bodies.Close(
                    session_id=self.about.session_id,
                    outcome=outcome or derived_outcome(self.progress.outcomes or {}),
                    given=bool(outcome),
                    actions=dict(self.progress.outcomes or {}),
                    kernels=sorted(self.progress.kernels),
                ),
                observed=bodies.CloseObserved(
                    ended_at=records.iso_text(ended_at),
                    duration_ms=duration_ms,
                    error=None if error is None else text_of(lambda: str(error), "?"),
                    error_type=None if error is None else type(error).__name__,
                ),
            )
            after = self.progress.with_end(closed)
            return summary_of(self.about, after), self._own_event(bodies.CLOSED, closed), after

        summary, event_seq = yield from self._record(end)
        if event_seq is not None:
            self.progress = self.progress.with_place_of_end(event_seq, self.progress.last_at)
            summary = summary_of(self.about, self.progress)
        self._summary = summary
        return summary

    def _duration_ms(self, ended_at: dt.datetime) -> float | None:
        if self._started_ns is not None:
            return (self._clocks.monotonic_ns() - self._started_ns) / 1e6
        if self.about.started_at is None:
            return None
        return max(0.0, (ended_at - self.about.started_at) / dt.timedelta(milliseconds=1))

    # -- recording -----------------------------------------------------------------------

    def _own_event(self, kind: str, body: Any) -> NewEvent:
        """The next event of the session's own; its key is what keeps two handles apart."""
        key = f"{self.stream}:{self.progress.own + 1}"
        return NewEvent(kind=kind, stream=self.stream, body=body, key=key)

    def _record(self, next_one: Callable[[], tuple[R, NewEvent, Progress]]) -> Steps[tuple[R, int | None]]:
        """Append what `next_one` makes of the progress, anew as often as another handle comes first.

        Its result, and the seq of its event, None in a batch.
        """
        refused: RecordingFailed | None = None
        while True:
            if self._in_doubt:
                own = self._stored.own
                self.progress = self._stored = yield ReadOn(self.stream, self._stored)
                self._in_doubt = False
                if refused is not None and self._stored.own == own:
                    raise refused  # the key is not another handle's but an app's
            if self.progress.outcome != records.IN_PROGRESS:
                result, _, _ = next_one()
                lost = result if isinstance(result, ActionRecord) else None
                raise SessionEnded(self.about.session_id, self.progress.outcome, lost)
            result, event, after = next_one()
            self._in_doubt = True  # until the ledger has said what became of it
            try:
                receipts = yield Append(event, None, result)
            except RecordingFailed as failed:
                if not _taken(failed, event):
                    raise
                refused = failed
                continue
            self._in_doubt = False
            if receipts is None:  # waits in a batch
                self.progress = after
                return result, None
            [receipt] = receipts
            self.progress = self._stored = after.with_last(receipt.seq, receipt.at, event.kind)
            return result, receipt.seq


def _taken(failed: RecordingFailed, event: NewEvent) -> bool:
    """Whether an event was refused alone, because another handle has recorded under its number."""
    cause = failed.cause
    return isinstance(cause, KeyConflict) and cause.key == event.key and len(failed.results) == 1


def _start_body(about: About, at: dt.datetime) -> bodies.SessionStarted:
    return bodies.SessionStarted(
        derived=bodies.Start(
            session_id=about.session_id,
            label=about.label,
            kernel=about.kernel,
            action=about.action,
            retention_hours=about.retention_hours,
        ),
        observed=bodies.StartObserved(started_at=records.iso_text(at), urn=about.urn),
    )
