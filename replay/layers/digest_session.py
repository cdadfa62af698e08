"""The layer `digest` for sessions: numbers, counts, outcomes, summaries of states (contracts S1 to S3, S7).

What a session has come to is a fold over its stream (`folds`). A session that the selection begins in the
middle of is read from its start.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

from tallystick.events import session as events
from tallystick.ledger.event import Row
from tallystick.recorders.chat import conversation
from tallystick.recorders.errors import InvalidUrn
from tallystick.recorders.session import records
from tallystick.recorders.session.core import derived_outcome
from tallystick.recorders.session.diff import diff_summary
from tallystick.recorders.session.urn import build_action_urn, kernel_name

from .checks import Body, Checks, Past, Unreadable, check_placeholders, inside, read_body
from .folds import NAME_CHARACTERS_MAX, SESSIONS_MAX, Fold, Folds

PLACEHOLDER: Final = "a state has a placeholder for what was no JSON or too large"
GIVEN: Final = "the caller gave the outcome"
UNKNOWN: Final = "the body of an earlier event of the session was erased, or cannot be read"
_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PREFIX: Final = "blake3:"
_ID_BYTES: Final = 10
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS: Final = dt.timedelta(milliseconds=1)


class Sessions:
    """Checks the events of sessions, and keeps the folds of the sessions that they belong to."""

    def __init__(self, past: Past, sessions_max: int = SESSIONS_MAX) -> None:
        self._past = past
        self._folds = Folds(sessions_max)

    def check(self, checks: Checks, row: Row, body: Body | Unreadable) -> None:
        """Check one event, and take it into its session's fold."""
        fold = self._fold(row)
        if isinstance(body, Body):
            if row.kind != events.EXPIRED:
                session_id = body.struct.derived.session_id
            else:
                session_id = body.struct.session_id
            checks.equal("session_id", row.stream, events.STREAM_PREFIX + session_id, "the stream's")
            self._check_key(checks, fold, row, body)
            if row.kind == events.STARTED:
                self._check_start(checks, fold, row, body)
            elif row.kind == events.ACTION_RECORDED:
                self._check_action(checks, fold, body)
            elif row.kind == events.MESSAGE_RECORDED:
                self._past.keep(row)
                self._check_message(checks, fold, body)
            elif row.kind == events.CLOSED:
                self._check_close(checks, fold, body.struct)
            else:
                self._check_expired(checks, fold, row, body.struct)
        if row.kind not in (events.STARTED, events.EXPIRED):
            checks.true("place", bool(fold.started), "behind the start of its session", "before it")
            checks.true("place", not fold.ended, "before the end of its session", "behind it")
        self._take(fold, row, body)

    # -- one kind each ---------------------------------------------------------------------

    def _check_key(self, checks: Checks, fold: Fold, row: Row, body: Body) -> None:
        """The key that keeps two handles apart: the stream and the number of the event in it."""
        if row.kind == events.STARTED:
            expected = None
        elif row.kind == events.EXPIRED:
            expected = f"{row.stream}:expired:{min(body.struct.erased, default=0)}"
        elif row.key is None and (fold.imported or not fold.known):
            return
        else:
            expected = f"{row.stream}:{fold.own + 1}"
        checks.equal("key", expected, row.key, "the next in its session")

    def _check_start(self, checks: Checks, fold: Fold, row: Row, body: Body) -> None:
        derived: events.Start = body.struct.derived
        first = fold.first or row.seq
        checks.true("place", first == row.seq, "the first event of its session", "another", f"event {first}")
        _check_urn(checks, "kernel", derived.kernel)
        checks.equal("urn", records.session_urn(derived.session_id), body.struct.observed.urn)
        if derived.retention_hours < 0:
            checks.wrong("retention_hours", f"{derived.retention_hours} is no number of hours")
        source = derived.source
        if source is None:
            return
        placeholders = source.get("placeholders")
        if isinstance(placeholders, list) and all(isinstance(one, str) for one in placeholders):
            check_placeholders(checks, body.plain["derived"], placeholders, ())
        again = imported_id(source)
        if again is None:
            checks.cannot("session_id", "its source is of another importer")
        else:
            checks.equal("session_id", again, derived.session_id, "from the digest of its source")

    def _check_action(self, checks: Checks, fold: Fold, body: Body) -> None:
        derived: events.Action = body.struct.derived
        checks.equal("seq", fold.actions + 1, derived.seq, "the next number in its session")
        for what, value, allowed in (
            ("outcome", derived.outcome, records.ACTION_OUTCOMES),
            ("via_edge", derived.via_edge, (None, *records.EDGES)),
        ):
            if value not in allowed:
                checks.wrong(what, f"{value!r} is none of those that there are")
        _check_urn(checks, "kernel", derived.kernel)
        self._check_action_urn(checks, derived, body.struct.observed)
        if derived.attempt < 1:
            checks.wrong("attempt", f"{derived.attempt} is no attempt")
        pointers = derived.placeholders
        check_placeholders(checks, body.plain["derived"], pointers, ())
        if inside(pointers, "/before_state") or inside(pointers, "/after_state"):
            checks.cannot("diff_summary", PLACEHOLDER)
            return
        before, after = derived.before_state, derived.after_state
        again = diff_summary(before, after)
        if before is None or after is None:
            # A state that is null as JSON may have been given as something else than None.
            again = derived.diff_summary if derived.diff_summary == again else ""
        checks.equal("diff_summary", again, derived.diff_summary)

    def _check_action_urn(
        self, checks: Checks, derived: events.Action, observed: events.ActionObserved
    ) -> None:
        """An action's URN, made of its kernel, its name and the time when it was recorded."""
        at = records.time_of(observed.recorded_at)
        if len(derived.kernel) > NAME_CHARACTERS_MAX or len(derived.action_type) > NAME_CHARACTERS_MAX:
            checks.wrong("urn", "its kernel or action_type is longer than any")
            return
        try:
            at_ms = None if at is None else (at - _EPOCH) // _MS
            again = build_action_urn(derived.kernel, derived.action_type, at_ms)
        except InvalidUrn:
            again = ""
        checks.equal("urn", again, observed.urn, "from kernel, action_type and recorded_at")

    def _check_message(self, checks: Checks, fold: Fold, body: Body) -> None:
        derived: events.Message = body.struct.derived
        checks.equal("index", fold.messages, derived.index, "the next place in its conversation")
        check_placeholders(checks, body.plain["derived"], derived.placeholders, ())

    def _check_close(self, checks: Checks, fold: Fold, body: events.SessionClosed) -> None:
        derived = body.derived
        if body.observed.error_type is not None:
            checks.equal("outcome", records.SESSION_FAILED, derived.outcome, "an exception ended it")
            checks.true("given", derived.given, True, derived.given, "an exception ended it")
        if derived.outcome not in records.CLOSING_OUTCOMES:
            checks.wrong("outcome", f"{derived.outcome!r} is no outcome of a session")
        if not fold.known:
            for what in ("actions", "kernels", *(() if derived.given else ("outcome",))):
                checks.cannot(what, UNKNOWN)
        else:
            checks.equal("actions", fold.outcomes(), derived.actions, "counted again")
            checks.equal("kernels", sorted(fold.kernels), derived.kernels)
            if not derived.given:
                checks.equal("outcome", derived_outcome(fold.outcomes()), derived.outcome, "from the actions")
        if derived.given:
            checks.cannot("outcome", GIVEN)

    def _check_expired(self, checks: Checks, fold: Fold, row: Row, body: events.SessionExpired) -> None:
        closed = self._past.row(body.closed_seq)
        sound = closed is not None and (closed.kind, closed.stream) == (events.CLOSED, row.stream)
        checks.true(
            "closed_seq", sound and body.closed_seq < row.seq, "the end of this session", body.closed_seq
        )
        ordered = all(one < other for one, other in pairwise(body.erased))
        checks.true("erased", ordered, "seqs in order", body.erased[:20])
        first, last = min(body.erased, default=row.seq), min(max(body.erased, default=0), row.seq - 1)
        if first <= fold.expired:
            checks.wrong("erased", f"event {first} stands before what an earlier record names")
            return
        fold.expired = last
        left = set(body.erased)
        kept: list[int] = []
        for other in self._past.ledger.rows(first - 1, before=last + 1, stream=row.stream):
            if other.seq in left:
                left.discard(other.seq)
                if other.body is not None:
                    kept.append(other.seq)
        checks.true("erased", not left, "events of this session", sorted(left)[:20])
        checks.true("erased", not kept, "events whose bodies were erased", kept[:20])

    # -- the fold --------------------------------------------------------------------------

    def _fold(self, row: Row) -> Fold:
        """The fold of the session's events before this one."""
        fold = self._folds.get(row.stream)
        if fold is not None:
            return fold
        fold = self._folds.new(row.stream)
        first = next(self._past.ledger.rows(before=row.seq, stream=row.stream, limit=1), None)
        if first is not None:
            fold.first = first.seq
            self._fold_earlier(fold, row)
        return fold

    def _fold_earlier(self, fold: Fold, row: Row) -> None:
        kinds = [events.STARTED, events.ACTION_RECORDED, events.MESSAGE_RECORDED, events.CLOSED]
        for earlier in self._past.ledger.rows(before=row.seq, stream=row.stream, kinds=kinds):
            self._take(fold, earlier, read_body(earlier))

    def _take(self, fold: Fold, row: Row, body: Body | Unreadable) -> None:
        kind = row.kind
        fold.first = fold.first or row.seq
        if kind not in (events.STARTED, events.EXPIRED):
            stream, _, number = (row.key or "").rpartition(":")
            ours = stream == row.stream and number.isascii() and number.isdecimal() and len(number) < 10
            fold.own = max(fold.own + 1, int(number) if ours else 0)
        if isinstance(body, Unreadable):
            fold.known = fold.known and kind not in (events.STARTED, events.ACTION_RECORDED)
        if kind == events.STARTED:
            fold.started = fold.started or row.seq
            if isinstance(body, Body):
                self._folds.add_kernel(fold, body.struct.derived.kernel)
                fold.imported = body.struct.derived.source is not None
        elif kind == events.ACTION_RECORDED:
            fold.actions += 1
            if isinstance(body, Body):
                fold.actions = body.struct.derived.seq
                fold.count(body.struct.derived.outcome)
                self._folds.add_kernel(fold, body.struct.derived.kernel)
        elif kind == events.MESSAGE_RECORDED:
            fold.messages += 1
            if isinstance(body, Body):
                fold.messages = body.struct.derived.index + 1
        elif kind == events.CLOSED:
            fold.ended = fold.ended or row.seq


def _is_kernel(urn: str) -> bool:
    if len(urn) > NAME_CHARACTERS_MAX:
        return False
    try:
        kernel_name(urn)
    except InvalidUrn:
        return False
    return True


def _check_urn(checks: Checks, what: str, urn: str) -> None:
    if not _is_kernel(urn):
        checks.wrong(what, f"{urn[:80]!r} is no kernel's URN")


def imported_id(source: Mapping[str, Any]) -> str | None:
    """The session id that follows from the digest of an imported conversation; None for other importers."""
    digest = source.get("digest")
    if source.get("format") != conversation.FORMAT or not isinstance(digest, str):
        return None
    try:
        number = int.from_bytes(bytes.fromhex(digest.removeprefix(_PREFIX))[:_ID_BYTES])
    except ValueError:
        return ""
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(_ID_BYTES * 8 - 5, -1, -5))
