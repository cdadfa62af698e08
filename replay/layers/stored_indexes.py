"""The full text indexes of a views file: whether each says what its table says.

An altered index hides rows from a search, or finds them where they are not. SQLite can hold an FTS5 index
against its table (https://www.sqlite.org/fts5.html, section 6.6), by a statement that is an INSERT and wants
a file that may be written. It is given a copy of the file, which is gone afterwards.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tallystick.projections.file import ViewsFile
from tallystick.projections.projection import Table


class Indexes:
    """Holds the indexes of a stored file against its tables. The copy is made when it is first needed."""

    def __init__(self, con: sqlite3.Connection, ledger_id: bytes) -> None:
        self._con = con
        self._ledger_id = ledger_id
        self._stack = ExitStack()
        self._copied: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let go of the copy."""
        self._stack.close()

    def problem(self, name: str, table: Table) -> str | None:
        """What is wrong with the index of a table, in words; None if nothing is, or it has none."""
        if not table.search:
            return None
        sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?"
        try:
            found = self._con.execute(sql, (f"{name}_fts",)).fetchone()
            if found is None:
                return "its full text index is missing"
            if found != self._defined(name, table, sql):
                return "its full text index is defined otherwise"
            check = f'INSERT INTO "{name}_fts" ("{name}_fts", rank) VALUES (\'integrity-check\', 1)'
            self._copy().execute(check)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise
            return "its full text index does not say what its rows say"
        return None

    def _defined(self, name: str, table: Table, sql: str) -> object:
        """How the index of a table is defined when it is made."""
        file = ViewsFile(None, self._ledger_id)
        try:
            file.query_only(False)
            file.create(name, table)
            return file.con.execute(sql, (f"{name}_fts",)).fetchone()
        finally:
            file.close()

    def _copy(self) -> sqlite3.Connection:
        if self._copied is None:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tally-replay-"))
            copy = sqlite3.connect(Path(folder) / "views", isolation_level=None)
            self._stack.callback(copy.close)
            self._con.backup(copy, pages=1000)
            copy.execute("PRAGMA trusted_schema=OFF")
            self._copied = copy
        return self._copied
