"""A read model of one's own: where every parcel is, kept up with the ledger.

    python examples/projection_shipments.py [LEDGER]

Makes a few events in a temporary ledger (or in LEDGER) and asks the views about them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tallystick import BUILT_IN, Event, Ledger, Projection, Table, Tables, Views

# -- docs: projection
COLUMNS = {"id": str, "status": str, "last": str, "at": int}
TABLES = {"shipments": Table(COLUMNS, pk="id", search=("last",))}


class Shipments(Projection):
    name = "shipments"
    version = 1  # raise it when `apply` changes: the table is then built anew
    kinds = ("shipment.*",)
    tables = TABLES

    def apply(self, event: Event, tables: Tables) -> None:
        status = event.kind.removeprefix("shipment.")
        note = event.body.get("note", "")
        tables["shipments"].put({"id": event.stream, "status": status, "last": note, "at": event.at})


# -- docs: end


def main(path: Path) -> None:
    """Append, then read."""
    with Ledger.open(path) as ledger, Views(ledger, projections=[*BUILT_IN, Shipments()]) as views:
        ledger.append("shipment.packed", stream="parcel:81")
        ledger.append("shipment.packed", stream="parcel:82")
        ledger.append("shipment.sent", {"note": "handed to the carrier"}, stream="parcel:81")
        for row in views.rows("SELECT id, status FROM shipments ORDER BY id"):
            print(f"{row['id']}: {row['status']}")
        ledger.append("shipment.returned", {"note": "nobody at home"}, stream="parcel:81")
        for hit in views.search("home"):
            print(f"{hit.key}: {hit.snippet}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder, "parcels.tally"))
