"""A decision pack replayed: what is in the zip file is all that there is (contracts D11, D12).

The request is decided again under the policy in the pack, with the memory in the pack; hashes and digests of
its events are derived again. What the events refer to and the pack does not hold is not re-derivable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from tallystick.events import gateway as events
from tallystick.ledger.event import Event, Head, Row
from tallystick.ledger.walk import OwnHashes
from tallystick.recorders.gateway.pack import EVENTS, Pack, check_pack

from .layers.chain import WHAT
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
    hashes = OwnHashes()
    broken = False
    for row in part.rows():
        problem = hashes.problem(row)
        if problem is None:
            notes.match(Layer.CHAIN)
        else:
            broken = True
            notes.diverged(Layer.CHAIN, row.seq, WHAT, (), problem)
    for found in check_pack(pack):
        if found.member != EVENTS or not broken:  # else it is said of the event above
            notes.diverged(Layer.DIGEST, recorded, found.member, (), found.problem)
    past = Past(part, pack.head, whole=False)
    kinds: frozenset[str] = frozenset(row.kind for row in pack.rows if not row.kind.startswith("ledger."))
    bodies = Bodies(
        notes,
        {
            Layer.DIGEST: (kinds, Digests(past)),
            Layer.DECISION: (frozenset({events.RECORDED}), Decisions(past)),
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


def _nothing(_: Any) -> None:
    """No progress: a pack is small."""
