"""The layer `digest` for sessions: numbers, counts, outcomes, summaries of states (contracts S1 to S3, S7).

What a session has come to is a fold over its stream. The fold of each session that was met lately is kept;
one that was not, or that the selection begins in the middle of, is read from its start.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

from tallystick.events import session as events
from tallystick.ledger.event import Row
from tallystick.recorders.chat import conversation
from tallystick.recorders.session import records
from tallystick.recorders.session.core import derived_outcome
from tallystick.recorders.session.diff import diff_summary

from .checks import Body, Checks, Past, Unreadable, check_placeholders, inside, read_body

#: Sessions whose folds are kept at once; a few hundred bytes each.
SESSIONS_MAX: Final = 20_000
PLACEHOLDER: Final = "a state has a placeholder for what was no JSON or too large"
GIVEN: Final = "the caller gave the outcome"
UNKNOWN: Final = "the body of an earlier event of the session was erased, or cannot be read"
_OUTCOMES: Final = {name: place for place, name in enumerate(records.ACTION_OUTCOMES)}
_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PREFIX: Final = "blake3:"
_ID_BYTES: Final = 10


class _Fold:
    """How far a session has come. kernels: shared between sessions with the same ones."""

    __slots__ = ("actions", "counts", "ended", "kernels", "known", "messages", "others", "started")

    def __init__(self) -> None:
        self.started = 0
        self.ended = 0
        self.actions = 0
        self.messages = 0
        self.counts = (0, 0, 0, 0)
        self.others: dict[str, int] | None = None
        self.kernels: frozenset[str] = frozenset()
        self.known = True

    def outcomes(self) -> dict[str, int]:
        """How many actions had each outcome."""
        known = {name: count for name, count in zip(_OUTCOMES, self.counts, strict=True) if count}
        return known | (self.others or {})

    def count(self, outcome: str) -> None:
        """Count an action."""
        place = _OUTCOMES.get(outcome)
        if place is None:
            self.others = {**(self.others or {}), outcome: (self.others or {}).get(outcome, 0) + 1}
        else:
            self.counts = tuple(n + (i == place) for i, n in enumerate(self.counts))  # type: ignore[assignment]


class Sessions:
    """Checks the events of sessions, and keeps the folds of the sessions that they belong to."""

    def __init__(self, past: Past, sessions_max: int = SESSIONS_MAX) -> None:
        self._past = past
        self._max = sessions_max
        self._folds: OrderedDict[str, _Fold] = OrderedDict()
        self._shared: dict[frozenset[str], frozenset[str]] = {}

    def check(self, checks: Checks, row: Row, body: Body | Unreadable) -> None:
        """Check one event, and take it into its session's fold."""
        fold = self._fold(row)
        if isinstance(body, Body):
            if row.kind != events.EXPIRED:
                session_id = body.struct.derived.session_id
            else:
                session_id = body.struct.session_id
            checks.equal(
                "session_id", row.stream.removeprefix(events.STREAM_PREFIX), session_id, "the stream's"
            )
            if row.kind == events.STARTED:
                self._check_start(checks, fold, body)
            elif row.kind == events.ACTION_RECORDED:
                self._check_action(checks, fold, body)
            elif row.kind == events.MESSAGE_RECORDED:
                self._check_message(checks, fold, body)
            elif row.kind == events.CLOSED:
                self._check_close(checks, fold, body.struct.derived)
            else:
                self._check_expired(checks, row, body.struct)
        if row.kind not in (events.STARTED, events.EXPIRED):
            checks.true("place", bool(fold.started), "behind the start of its session", "before it")
            checks.true("place", not fold.ended, "before the end of its session", "behind it")
        self._take(fold, row, body)

    # -- one kind each ---------------------------------------------------------------------

    def _check_start(self, checks: Checks, fold: _Fold, body: Body) -> None:
        derived: events.Start = body.struct.derived
        checks.true("place", not fold.started, "the first event of its session", "another")
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

    def _check_action(self, checks: Checks, fold: _Fold, body: Body) -> None:
        derived: events.Action = body.struct.derived
        checks.equal("seq", fold.actions + 1, derived.seq, "the next number in its session")
        for what, value, allowed in (
            ("outcome", derived.outcome, records.ACTION_OUTCOMES),
            ("via_edge", derived.via_edge, (None, *records.EDGES)),
        ):
            if value not in allowed:
                checks.wrong(what, f"{value!r} is none of those that there are")
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

    def _check_message(self, checks: Checks, fold: _Fold, body: Body) -> None:
        derived: events.Message = body.struct.derived
        checks.equal("index", fold.messages, derived.index, "the next place in its conversation")
        check_placeholders(checks, body.plain["derived"], derived.placeholders, ())

    def _check_close(self, checks: Checks, fold: _Fold, derived: events.Close) -> None:
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

    def _check_expired(self, checks: Checks, row: Row, body: events.SessionExpired) -> None:
        closed = self._past.row(body.closed_seq)
        sound = closed is not None and (closed.kind, closed.stream) == (events.CLOSED, row.stream)
        checks.true(
            "closed_seq", sound and body.closed_seq < row.seq, "the end of this session", body.closed_seq
        )
        ordered = all(one < other for one, other in pairwise(body.erased))
        checks.true("erased", ordered, "seqs in order", body.erased[:20])
        left = set(body.erased)
        kept: list[int] = []
        first = min(body.erased, default=row.seq)
        for other in self._past.ledger.rows(first - 1, before=row.seq, stream=row.stream):
            if other.seq in left:
                left.discard(other.seq)
                if other.body is not None:
                    kept.append(other.seq)
        checks.true("erased", not left, "events of this session", sorted(left)[:20])
        checks.true("erased", not kept, "events whose bodies were erased", kept[:20])

    # -- the fold --------------------------------------------------------------------------

    def _fold(self, row: Row) -> _Fold:
        """The fold of the session's events before this one."""
        fold = self._folds.get(row.stream)
        if fold is not None:
            self._folds.move_to_end(row.stream)
            return fold
        fold = self._folds[row.stream] = _Fold()
        if len(self._folds) > self._max:
            self._folds.popitem(last=False)
        self._fold_earlier(fold, row)
        return fold

    def _fold_earlier(self, fold: _Fold, row: Row) -> None:
        kinds = [events.STARTED, events.ACTION_RECORDED, events.MESSAGE_RECORDED, events.CLOSED]
        for earlier in self._past.ledger.rows(before=row.seq, stream=row.stream, kinds=kinds):
            self._take(fold, earlier, read_body(earlier))

    def _take(self, fold: _Fold, row: Row, body: Body | Unreadable) -> None:
        kind = row.kind
        if isinstance(body, Unreadable):
            fold.known = fold.known and kind not in (events.STARTED, events.ACTION_RECORDED)
        if kind == events.STARTED:
            fold.started = fold.started or row.seq
            if isinstance(body, Body):
                self._add_kernel(fold, body.struct.derived.kernel)
        elif kind == events.ACTION_RECORDED:
            fold.actions += 1
            if isinstance(body, Body):
                fold.actions = body.struct.derived.seq
                fold.count(body.struct.derived.outcome)
                self._add_kernel(fold, body.struct.derived.kernel)
        elif kind == events.MESSAGE_RECORDED:
            fold.messages += 1
            if isinstance(body, Body):
                fold.messages = body.struct.derived.index + 1
        elif kind == events.CLOSED:
            fold.ended = fold.ended or row.seq

    def _add_kernel(self, fold: _Fold, kernel: str) -> None:
        if kernel in fold.kernels:
            return
        kernels = fold.kernels | {kernel}
        if len(self._shared) > SESSIONS_MAX:
            self._shared.clear()
        fold.kernels = self._shared.setdefault(kernels, kernels)


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
