"""Do one thing with a ledger; print how much of the log it read and the process's peak memory.

work_done.py replay|incident|backtest|export PATH FOLDER: `events rows_read peak_kib`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tallystick import Ledger, Selection, replay_ledger, write_incident
from tallystick.ledger.event import Row

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from many_decisions import POLICY
from memory_peak import peak_kib


class Counting:
    """A store that counts the rows that are read from it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, *args: Any, **options: Any) -> Iterator[Row]:
        """See Store.read."""
        for row in self._store.read(*args, **options):
            self.rows += 1
            yield row

    def read_raw(self, *args: Any, **options: Any) -> Iterator[Any]:
        """See Store.read_raw."""
        for row in self._store.read_raw(*args, **options):
            self.rows += 1
            yield row


def main(what: str, path: Path, folder: Path) -> None:
    """Open the ledger, do it, and see that all came out as it should."""
    with Ledger.open(path, read_only=True) as ledger:
        counting = ledger._store = Counting(ledger._store)  # type: ignore[assignment]
        if what == "replay":
            report = replay_ledger(ledger)
            assert not report.diverged, report.first
            report.to_json()
        elif what == "incident":
            assert write_incident(ledger, Selection(since=0), folder / "incident").sound
        elif what == "backtest":
            from tallystick import backtest

            assert backtest(ledger, POLICY.replace("0.99", "0.5")).decisions
        else:
            with (folder / "export.jsonl").open("wb") as file:
                file.writelines(ledger.export())
        print(ledger.head().seq, counting.rows, peak_kib())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
