"""The similar cases that a decision was made with, and what became of each since; for `tally explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from tallystick.events import gateway as events

from .remarks import Altered

if TYPE_CHECKING:
    from tallystick.ledger.event import Row
    from tallystick.ledger.ledger import Ledger

KEPT: Final = "kept"
ERASED: Final = "erased"
ALTERED: Final = "altered"
MISSING: Final = "missing"
#: What is said of a case of which no decision can be told, by what became of what was learned from it.
TOLD: Final = {
    ERASED: "What was learned from it was erased since",
    ALTERED: "What was learned from it was altered since, so it cannot be told",
    MISSING: "What was learned from it is missing from the ledger",
}
TOLD_OF_DECISION: Final = {
    ERASED: "Its decision was erased since",
    ALTERED: "Its decision was altered since, so it cannot be told",
    MISSING: "Its decision is missing from the ledger",
}
_NONE: Final = dict.fromkeys(("decision_id", "verdict", "at", "intent", "label_now"))


def similar_cases(ledger: Ledger, matches: list[events.Match], altered: Altered) -> list[dict[str, Any]]:
    """The matches, each with the decision that it was learned from; `altered` is told what is not as it was.

    `learned` and `decided` say what became of the memory item and of that decision: `kept`, `erased`,
    `altered`, `missing`; without the item it is not known which decision it was, and `decided` is null.
    """
    return [_case(ledger, match, altered) for match in matches]


def _case(ledger: Ledger, match: events.Match, altered: Altered) -> dict[str, Any]:
    from tallystick.projections.views import views_of

    seq = events.memory_seq(match.memory_id) or 0
    learned, row = _state(ledger, seq, events.MEMORY_ADDED, altered)
    case = {**msgspec.to_builtins(match), **_NONE, "learned": learned, "decided": None}
    if learned != KEPT or row is None or row.body is None:
        return case
    item = msgspec.json.decode(row.body, type=events.MemoryAdded)
    case["decision_id"] = item.decision_id
    case["decided"], _ = _state(ledger, item.decision_seq, events.RECORDED, altered)
    sql = "SELECT verdict, at, intent, label AS label_now FROM decisions WHERE decision_id = ?"
    found = views_of(ledger).rows(sql, (item.decision_id,)) if case["decided"] == KEPT else []
    return {**case, **(found[0] if found else {})}


def _state(ledger: Ledger, seq: int, kind: str, altered: Altered) -> tuple[str, Row | None]:
    """What became of an event of this kind, and the event; tells `altered` of what nobody may do."""
    from tallystick.recorders.gateway.packing import erasures_of

    row = next(ledger.rows(seq - 1, before=seq + 1), None) if seq else None
    if row is None or row.kind != kind:
        altered.remark(f"event {seq}, a {kind}, is not in the ledger, and was: run `tally verify`")
        return MISSING, None
    before = altered.count
    altered.look_at(row)
    if altered.count == before and row.body is None:
        if any(erasures_of(ledger, {seq}, ledger.head())):
            return ERASED, row
        altered.remark(f"event {seq}: its body is gone, and no event records that: run `tally verify`")
    return (ALTERED, row) if altered.count > before else (KEPT, row)
