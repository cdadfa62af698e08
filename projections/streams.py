"""The projection `streams`: every stream, how long it is, and when it was last written to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tallystick.ledger.event import Event

from .projection import Projection, Table
from .tables import Tables


class Streams(Projection):
    """One row a stream. Times are microseconds since 1970 UTC, as the events have them."""

    name = "streams"
    version = 1
    kinds: ClassVar[Mapping[str, Any]] = {"*": None}
    tables: ClassVar[Mapping[str, Table]] = {
        "streams": Table(
            columns={
                "stream": str,
                "events": int,
                "first_seq": int,
                "last_seq": int,
                "first_at": int,
                "last_at": int,
                "last_kind": str,
            },
            pk="stream",
            indexes=("last_seq",),
        )
    }

    def apply(self, event: Event, tables: Tables) -> None:
        """Count the event."""
        row = tables["streams"].change(event.stream)
        if row is None:
            first = {"stream": event.stream, "events": 1, "first_seq": event.seq, "first_at": event.at}
            last = {"last_seq": event.seq, "last_at": event.at, "last_kind": event.kind}
            tables["streams"].put({**first, **last})
        else:
            row["events"] += 1
            row["last_seq"], row["last_at"], row["last_kind"] = event.seq, event.at, event.kind
