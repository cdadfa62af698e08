"""The `eventsourcing` application that `rows_append` measures; imported only when the package is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate


class Ticket(Aggregate):
    """A support ticket: what happened to it is all that it is."""

    class Noted(Aggregate.Event):
        """Something happened."""

        kind: str
        body: dict[str, Any]

    def note(self, kind: str, body: dict[str, Any]) -> None:
        """Make an event that waits for the next save."""
        self.trigger_event(self.Noted, kind=kind, body=body)


def open_desk(path: Path) -> Application[Any]:
    """The application on a SQLite file, otherwise as it comes."""
    return Application(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)})
