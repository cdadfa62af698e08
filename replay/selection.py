"""Which events a replay is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from tallystick.events import gateway as decisions
from tallystick.events import session as sessions
from tallystick.ledger.event import Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.projections.errors import AmbiguousPrefix, NoSuchId

from .errors import BadSelection
from .parts import part

_CANDIDATES_MAX: Final = 10
_SEQ_MAX: Final = (1 << 62) - 1
#: An event's number; no decision's id is one.
_SEQ: Final = re.compile("[1-9][0-9]{0,17}")


class Selection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which events; without anything, all. What is given must hold together.

    session, decision: an id, or a prefix that begins no other; of a decision also the seq of an event that
    records it or says something of it. stream: its name. correlation: the
    correlation id in an event's meta, or in a decision's request. first, last: seqs, both included. since,
    until: microseconds since 1970 UTC, the second not included. up_to: nothing behind this seq.
    """

    session: str | None = None
    decision: str | None = None
    stream: str | None = None
    correlation: str | None = None
    first: int | None = None
    last: int | None = None
    since: int | None = None
    until: int | None = None
    up_to: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is everything, perhaps up to a seq."""
        return self == Selection(up_to=self.up_to)

    @property
    def contiguous(self) -> bool:
        """Whether it is all events between two seqs."""
        return self == Selection(first=self.first, last=self.last, up_to=self.up_to)

    def resolved(self, ledger: Ledger, head: Head) -> Selection:
        """The selection with whole ids. Raises BadSelection, NoSuchId, AmbiguousPrefix."""
        if sum(name is not None for name in (self.session, self.decision, self.stream)) > 1:
            raise BadSelection("session, decision and stream", "exclude each other", "give one of them")
        for name in ("first", "last", "up_to"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= _SEQ_MAX):
                raise BadSelection(name, f"{value!r} is no seq", "give an event's number, from 1")
        if self.first is not None and self.last is not None and self.last < self.first:
            raise BadSelection("last", f"{self.last} is before {self.first}", "give the lower seq first")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise BadSelection("until", "is not after since", "give the earlier time first")
        for name in ("first", "last", "up_to"):
            value = getattr(self, name)
            if value is not None and value > head.seq:
                raise BadSelection(name, f"the log ends at event {head.seq}", f"give at most {head.seq}")
        found = self
        if self.session is not None:
            found = msgspec.structs.replace(
                found,
                session=_whole_id(ledger, "sessions", sessions.STREAM_PREFIX, sessions.STARTED, self.session),
            )
        if self.decision is not None:
            prefix = decisions.decision_stream("")
            named = _named_by_event(ledger, prefix, self.decision) or self.decision
            found = msgspec.structs.replace(
                found, decision=_whole_id(ledger, "decisions", prefix, decisions.RECORDED, named)
            )
        stream = found.one_stream
        if stream is not None and next(ledger.rows(stream=stream, limit=1), None) is None:
            raise BadSelection("stream", f"the ledger has no events in {stream!r}", "see `tally log`")
        return found

    @property
    def one_stream(self) -> str | None:
        """The stream that all selected events are in, if the selection names one."""
        if self.session is not None:
            return sessions.STREAM_PREFIX + self.session
        if self.decision is not None:
            return decisions.decision_stream(self.decision)
        return self.stream

    def span(self, head: Head) -> tuple[int, int]:
        """The first and the last seq that can be selected."""
        lasts = [seq for seq in (self.last, self.up_to) if seq is not None]
        return self.first or 1, min([head.seq, *lasts])

    def rows(self, ledger: Ledger, head: Head) -> Iterator[Row]:
        """The events, in order of seq, as stored."""
        first, last = self.span(head)
        rows = ledger.rows(first - 1, before=last + 1, stream=self.one_stream)
        if self.correlation is None and self.since is None and self.until is None:
            return rows
        return filter(self._wanted, rows)

    def _wanted(self, row: Row) -> bool:
        if self.since is not None and row.at < self.since:
            return False
        if self.until is not None and row.at >= self.until:
            return False
        return self.correlation is None or self._correlated(row)

    def _correlated(self, row: Row) -> bool:
        found = [_at(row.meta, "correlation")]
        if row.kind == decisions.RECORDED:
            found.append(_at(row.body, "derived", "request", "trace", "correlation_id"))
        return self.correlation in found


def _at(data: bytes | None, *path: str) -> object:
    """What stands at a path of names in JSON; None if nothing does."""
    try:
        return None if data is None else part(msgspec.json.decode(data), *path)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _named_by_event(ledger: Ledger, prefix: str, text: str) -> str | None:
    """The id whose stream the event with this number is in; None for what is no such number."""
    if not _SEQ.fullmatch(text):
        return None
    row = next(ledger.rows(int(text) - 1, before=int(text) + 1), None)
    return row.stream[len(prefix) :] if row is not None and row.stream.startswith(prefix) else None


def _whole_id(ledger: Ledger, what: str, prefix: str, kind: str, id_prefix: str) -> str:
    """The one id that is `id_prefix` or, if there is none, begins with it.

    Looked up in the events, since the views may be missing, altered, or in a place that cannot be written.
    """
    if next(ledger.rows(stream=prefix + id_prefix, limit=1), None) is not None:
        return id_prefix
    found: list[str] = []
    for row in ledger.rows(kinds=[kind]):
        if row.stream.startswith(prefix + id_prefix) and (name := row.stream[len(prefix) :]) not in found:
            found.append(name)
            if len(found) == _CANDIDATES_MAX:
                break
    if not found:
        raise NoSuchId(what, id_prefix)
    if len(found) > 1:
        raise AmbiguousPrefix(what, id_prefix, sorted(found))
    return found[0]
