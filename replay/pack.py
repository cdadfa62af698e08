"""A decision pack replayed: what is in the zip file is all that there is (contracts D11, D12).

The request is decided again under the policy in the pack, with the memory in the pack; hashes and digests of
its events are derived again. What the events refer to and the pack does not hold is not re-derivable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, cast

from tallystick.events import gateway as events
from tallystick.ledger import chain
from tallystick.ledger.event import Event, Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.recorders.gateway.pack import EVENTS, Pack, check_pack

from .layers.checks import Past
from .layers.decision import Decisions
from .layers.digest import Digests
from .report import ENTRIES_MAX, Layer, Notes, ReplayReport
from .run import Bodies
from .selection import Selection

_LAYERS: Final = (Layer.CHAIN, Layer.DIGEST, Layer.DECISION)


class Part:
    """The events of a pack, read as a ledger's are."""

    def __init__(self, rows: Iterable[Row], head: Head) -> None:
        self._rows = sorted(rows, key=lambda row: row.seq)
        self._head = head

    def head(self) -> Head:
        """The head of the ledger when the pack was made."""
        return self._head

    def rows(
        self,
        after: int = 0,
        *,
        before: int | None = None,
        stream: str | None = None,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Row]:
        """See Ledger.rows."""
        found = [
            row
            for row in self._rows
            if row.seq > after
            and (before is None or row.seq < before)
            and (stream is None or row.stream == stream)
            and (kinds is None or any(fnmatchcase(row.kind, kind) for kind in kinds))
        ]
        return iter(found if limit is None else found[:limit])

    def find(self, key: str) -> Event | None:
        """See Ledger.find."""
        return next((Event.from_row(row) for row in self._rows if row.key == key), None)


def replay_pack(pack: Pack, *, entries_max: int = ENTRIES_MAX) -> ReplayReport:
    """Derive again what a decision pack holds, and report what differs; see `replay_ledger`."""
    notes = Notes(_LAYERS, entries_max)
    part = Part(pack.rows, pack.head)
    recorded = next((row.seq for row in part.rows(kinds=[events.RECORDED])), 1)
    broken = {row.seq for row in pack.rows if not _is_sound(row)}
    for row in part.rows():
        if row.seq in broken:
            notes.diverged(Layer.CHAIN, row.seq, "hash", (), "its columns do not match its hashes")
        else:
            notes.match(Layer.CHAIN)
    for found in check_pack(pack):
        if found.member != EVENTS or not broken:
            notes.diverged(Layer.DIGEST, recorded, found.member, (), found.problem)
    past = Past(part, pack.head, whole=False)
    # Only rows are asked for; whether they come from a file makes no difference to memory.
    decisions = Decisions(past, cast("Ledger", part))
    kinds: frozenset[str] = frozenset(row.kind for row in pack.rows if not row.kind.startswith("ledger."))
    bodies = Bodies(
        notes,
        {
            Layer.DIGEST: (kinds, Digests(past)),
            Layer.DECISION: (frozenset({events.RECORDED}), decisions),
        },
    )
    bodies.run(part.rows(), _nothing)
    return ReplayReport(
        ledger_id=(pack.head.ledger_id or b"").hex(),
        selection=Selection(decision=pack.record.decision_id),
        head=(pack.head.seq, pack.head.hash.hex()),
        events=bodies.events,
        layers=notes.counts(),
        entries=notes.entries(),
        left_out=notes.left_out,
        reasons=notes.reasons(),
        observed=bodies.observed(),
    )


def _is_sound(row: Row) -> bool:
    """Whether a row's hashes follow from its columns; what it links to is not in the pack."""
    try:
        if row.body is not None and chain.body_hash(row.salt or b"", row.body) != row.body_hash:
            return False
        label = chain.label(row.kind, row.stream, row.key, row.meta)
        return chain.event_hash(row.prev_hash, row.seq, row.at, row.body_hash, label) == row.hash
    except Exception:
        return False


def _nothing(_: Any) -> None:
    """No progress: a pack is small."""
