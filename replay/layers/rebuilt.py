"""Projections built anew from the events, up to one event after another, in a place of their own."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection
from typing import Final

import msgspec

from tallystick.ledger.event import Row
from tallystick.ledger.ledger import Ledger
from tallystick.projections.errors import ProjectionFailed
from tallystick.projections.file import ViewsFile
from tallystick.projections.projection import Projection
from tallystick.projections.runner import Runner, Shared

#: From here on the tables are built in a temporary file instead of in memory.
IN_MEMORY_EVENTS: Final = 20_000
_CHUNK_EVENTS: Final = 2000
_CHUNK_BYTES: Final = 4 << 20


class Rebuilt:
    """Tables made of the events alone. No text is indexed: the rows say all that an index could."""

    def __init__(self, file: ViewsFile, ledger: Ledger, projections: Iterable[Projection]) -> None:
        self._file = file
        self._ledger = ledger
        self._at = 0
        bare = [_without_search(projection) for projection in projections]
        self._runners = {projection.name: Runner(projection, file) for projection in bare}
        self.failed: dict[str, ProjectionFailed] = {}
        file.query_only(False)
        with file.immediate():
            file.ensure_identity(anew=True)
            for projection in bare:
                for name, table in projection.tables.items():
                    file.create(name, table)

    @property
    def con(self) -> Connection:
        """The connection to the tables."""
        return self._file.con

    def run_to(self, seq: int, progress: Callable[[int], None]) -> None:
        """Apply the events up to this one."""
        while self._at < seq:
            rows = self._chunk(seq)
            if not rows:
                return
            shared = Shared(rows)
            with self._file.immediate():
                for name, runner in self._runners.items():
                    if name not in self.failed and (failure := runner.run(shared)) is not None:
                        self.failed[name] = failure
            self._at = rows[-1].seq
            progress(self._at)

    def _chunk(self, seq: int) -> list[Row]:
        rows: list[Row] = []
        size = 0
        for row in self._ledger.rows(self._at, before=seq + 1, limit=_CHUNK_EVENTS):
            rows.append(row)
            size += 0 if row.body is None else len(row.body)
            if size > _CHUNK_BYTES:
                break
        return rows


@contextmanager
def rebuilt(ledger: Ledger, projections: Iterable[Projection], last: int) -> Iterator[Rebuilt]:
    """A place to build projections in, up to event `last`, that is gone afterwards."""
    ledger_id = ledger.head().ledger_id
    assert ledger_id is not None, "a ledger's own head names it"
    with tempfile.TemporaryDirectory(prefix="tally-replay-") as folder:
        path = None if last <= IN_MEMORY_EVENTS else Path(folder) / "rebuilt"
        file = ViewsFile(path, ledger_id, 0o600)
        try:
            yield Rebuilt(file, ledger, projections)
        finally:
            file.close()


def _without_search(projection: Projection) -> Projection:
    bare = copy.copy(projection)
    tables = {name: msgspec.structs.replace(table, search=()) for name, table in projection.tables.items()}
    bare.tables = tables  # type: ignore[misc]  # of this object alone
    return bare
