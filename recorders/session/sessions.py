"""Sessions read back from the ledger (contract S7)."""

from __future__ import annotations

from typing import Any

import msgspec

from tallystick.events import session as bodies
from tallystick.ledger.ledger import Ledger
from tallystick.projections.views import views_of

from . import records
from .progress import Progress, record_of
from .records import ActionRecord, MessageRecord, SessionRecord, SessionSummary

#: Columns of the view `sessions` that count actions, by outcome.
_COUNTED = {"failed": "failed", "retry": "retried", "skipped": "skipped", "verified": "verified"}


def list_sessions(
    ledger: Ledger, *, outcome: str | None = None, limit: int | None = None
) -> list[SessionSummary]:
    """The sessions in the ledger, newest first; those with this outcome only, and no more than `limit`."""
    rows = views_of(ledger).rows(
        "SELECT * FROM sessions WHERE :outcome IS NULL OR outcome = :outcome "
        "ORDER BY first_seq DESC LIMIT :limit",
        {"outcome": outcome, "limit": -1 if limit is None else limit},
    )
    return [summary_of_row(row) for row in rows]


def get_session(ledger: Ledger, prefix: str, *, messages: bool = False) -> SessionRecord:
    """The one session whose id begins so, with its actions, and its messages if asked for.

    Raises NoSuchId, AmbiguousPrefix, MalformedEvent.
    """
    session_id = find_session_id(ledger, prefix)
    progress = Progress()
    actions: list[ActionRecord] = []
    turns: list[MessageRecord] = []
    for event in ledger.read(stream=bodies.STREAM_PREFIX + session_id):
        progress = progress.after(event)
        if event.kind == bodies.ACTION_RECORDED and not event.erased:
            actions.append(records.action_of(event))
        elif event.kind == bodies.MESSAGE_RECORDED and not event.erased and messages:
            turns.append(records.message_of(event))
    return record_of(session_id, progress, actions, turns if messages else None)


def find_session_id(ledger: Ledger, prefix: str) -> str:
    """The one session id that begins so. Raises NoSuchId, AmbiguousPrefix."""
    found: str = views_of(ledger).find_by_prefix("sessions", "id", prefix)["id"]
    return found


def summary_of_row(row: dict[str, Any]) -> SessionSummary:
    """A row of the view `sessions`."""
    counts = {outcome: row[column] for outcome, column in _COUNTED.items() if row[column]}
    return SessionSummary(
        session_id=row["id"],
        urn=row["urn"] or records.session_urn(row["id"]),
        label=row["label"] or "",
        kernel=row["kernel"] or "",
        action=row["action"] or "",
        retention_hours=row["retention_hours"],
        started_at=records.moment(row["started_at"]),
        ended_at=None if row["ended_at"] is None else records.moment(row["ended_at"]),
        duration_ms=row["duration_ms"],
        outcome=row["outcome"],
        kernels=tuple(msgspec.json.decode(row["kernels"])),
        action_count=row["actions"],
        action_outcomes=counts,
        message_count=row["messages"],
        error=row["error"],
        first_seq=row["first_seq"],
        last_seq=row["last_seq"],
        last_at=records.moment(row["last_at"]),
        closed_seq=row["closed_seq"],
    )
