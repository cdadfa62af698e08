"""How far a session has come, as its events say: a fold over its stream, without I/O."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from tallystick.events import session as bodies
from tallystick.ledger.event import Event

from . import records
from .records import ActionRecord, MessageRecord, SessionRecord, SessionSummary


@dataclass(frozen=True, slots=True)
class About:
    """What a session was started with."""

    session_id: str
    urn: str
    label: str
    kernel: str
    action: str
    retention_hours: int
    started_at: dt.datetime | None
    source: Mapping[str, Any] | None


class Progress(msgspec.Struct, frozen=True):
    """How far a session has come, as its events say.

    position: seq of the last event read, 0 for none. own: events of its own behind its start. actions and
    messages: the last seq and how many turns. ended: whether it was closed; closed: the body of its end, None
    if it was erased. expired: the body that says that its bodies were erased.
    """

    about: About | None = None
    position: int = 0
    first_seq: int = 0
    first_at: int = 0
    last_kind: str = ""
    last_at: int = 0
    own: int = 0
    actions: int = 0
    messages: int = 0
    outcomes: Mapping[str, int] | None = None
    kernels: frozenset[str] = frozenset()
    ended: bool = False
    closed: bodies.SessionClosed | None = None
    closed_seq: int = 0
    closed_at: int = 0
    expired: bodies.SessionExpired | None = None

    @property
    def outcome(self) -> str:
        """As of a SessionSummary."""
        if self.expired is not None:
            return records.EXPIRED
        if not self.ended:
            return records.IN_PROGRESS
        return records.UNKNOWN if self.closed is None else self.closed.derived.outcome

    def after(self, event: Event) -> Progress:
        """The progress once this event of the stream was read."""
        return self._with(event).with_last(event.seq, event.at, event.kind)

    def _with(self, event: Event) -> Progress:
        if event.kind == bodies.STARTED and not event.erased:
            about = about_of(event)
            return replace(self, about=about, kernels=self.kernels | {about.kernel})
        if event.kind == bodies.ACTION_RECORDED:
            if event.erased:
                return replace(self, own=self._number(event), actions=self.actions + 1)
            return replace(self.with_action(records.action_of(event)), own=self._number(event))
        if event.kind == bodies.MESSAGE_RECORDED:
            return replace(self.with_message(), own=self._number(event))
        if event.kind == bodies.CLOSED:
            closed = None if event.erased else records.body_of(event, bodies.SessionClosed)
            ended = self.with_end(closed).with_place_of_end(event.seq, event.at)
            return replace(ended, own=self._number(event))
        if event.kind == bodies.EXPIRED and not event.erased:
            return replace(self, expired=records.body_of(event, bodies.SessionExpired))
        return self

    def _number(self, event: Event) -> int:
        """The number of an event of the session's own; one may be missing, if a batch lost its record."""
        stream, _, number = (event.key or "").rpartition(":")
        ours = stream == event.stream and number.isdecimal()
        return max(self.own + 1, int(number) if ours else 0)

    def with_action(self, action: ActionRecord) -> Progress:
        """The progress with one more action."""
        counts = dict(self.outcomes or {})
        counts[action.outcome] = counts.get(action.outcome, 0) + 1
        kernels = self.kernels if action.kernel in self.kernels else self.kernels | {action.kernel}
        return replace(self, own=self.own + 1, actions=action.seq, outcomes=counts, kernels=kernels)

    def with_message(self) -> Progress:
        """The progress with one more turn."""
        return replace(self, own=self.own + 1, messages=self.messages + 1)

    def with_end(self, closed: bodies.SessionClosed | None) -> Progress:
        """The progress at its end, whose place is not known yet."""
        return replace(self, own=self.own + 1, ended=True, closed=closed)

    def with_place_of_end(self, seq: int, at: int) -> Progress:
        """The progress at its end, now that it has a place."""
        return replace(self, closed_seq=seq, closed_at=at)

    def with_last(self, seq: int, at: int, kind: str) -> Progress:
        """The progress at the stream's event with this seq, time and kind."""
        first_seq, first_at = (self.first_seq, self.first_at) if self.first_seq else (seq, at)
        return replace(self, position=seq, first_seq=first_seq, first_at=first_at, last_kind=kind, last_at=at)


def about_of(event: Event) -> About:
    """What a `session.started` says."""
    body = records.body_of(event, bodies.SessionStarted)
    start = body.derived
    return About(
        start.session_id,
        body.observed.urn,
        start.label,
        start.kernel,
        start.action,
        start.retention_hours,
        records.time_of(body.observed.started_at),
        start.source,
    )


def summary_of(about: About, progress: Progress) -> SessionSummary:
    """A session as its events say."""
    return SessionSummary(**_fields(about, progress))


def record_of(
    session_id: str,
    progress: Progress,
    actions: Sequence[ActionRecord],
    messages: Sequence[MessageRecord] | None,
) -> SessionRecord:
    """A session, its actions and its messages as its events say, erased as they may be."""
    about = progress.about
    if about is None:
        about = About(session_id, records.session_urn(session_id), "", "", "", 0, None, None)
    fields = _fields(about, progress)
    if progress.about is None:
        fields["retention_hours"] = progress.expired.retention_hours if progress.expired else None
    return SessionRecord(
        **fields,
        error_type=None if progress.closed is None else progress.closed.observed.error_type,
        source=about.source,
        last_kind=progress.last_kind,
        actions=tuple(actions),
        messages=None if messages is None else tuple(messages),
    )


def _fields(about: About, progress: Progress) -> dict[str, Any]:
    end = None if progress.closed is None else progress.closed.observed
    ended_at = None if end is None else records.time_of(end.ended_at)
    if ended_at is None and progress.ended:
        ended_at = records.moment(progress.closed_at)
    return {
        "session_id": about.session_id,
        "urn": about.urn,
        "label": about.label,
        "kernel": about.kernel,
        "action": about.action,
        "retention_hours": about.retention_hours,
        "started_at": about.started_at or records.moment(progress.first_at),
        "ended_at": ended_at,
        "duration_ms": None if end is None else end.duration_ms,
        "outcome": progress.outcome,
        "kernels": tuple(sorted(progress.kernels)),
        "action_count": progress.actions,
        "action_outcomes": dict(sorted((progress.outcomes or {}).items())),
        "message_count": progress.messages,
        "error": None if end is None else end.error,
        "first_seq": progress.first_seq,
        "last_seq": progress.position,
        "last_at": records.moment(progress.last_at),
        "closed_seq": progress.closed_seq or None,
    }
