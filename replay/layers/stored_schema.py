"""What is defined in a views file: whether it is what the projections define, and nothing that changes it.

An index that is defined otherwise, or whose pages were altered, hides rows from the queries that go by it; a
trigger changes what is written next; a view can stand where a table should. All of that leaves every row
of every table as it was.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

from tallystick.projections.file import State, ViewsFile
from tallystick.projections.projection import Projection

from .checks import Checks

FOREIGN: Final = "it is in the views file, and another program's"
NO_STATE: Final = "its tables are in the views file, and nothing says up to which event they were built"
NOT_BUILT: Final = "it is not in the views file"
TRIGGER: Final = "a trigger, of which a views file has none"
_MISSING: Final = "it is missing"
_OTHERWISE: Final = "it is defined otherwise"
_IN_PLACE: Final = "a view stands in the place of a table"
#: What the engine keeps beside the tables of projections.
ENGINE_TABLES: Final = ("tally_views", "tally_projections", "tally_skipped")
#: The tables that FTS5 makes for one of its own (https://www.sqlite.org/fts5.html, section 9).
_FTS_PARTS: Final = ("", "_data", "_idx", "_content", "_docsize", "_config")
_PROBLEM_SHOWN: Final = 200

#: How a table or an index was made, by its type and name; without what a writer of SQL is free in.
_Defined = dict[tuple[str, str], str]


def check_schema(
    con: sqlite3.Connection,
    ledger_id: bytes,
    checks: Checks,
    known: Mapping[str, Projection],
    states: Mapping[str, State],
    current: Iterable[str],
) -> None:
    """Hold everything that is defined against the definitions. Raises sqlite3.Error.

    current: the projections whose tables are of the version that is known here.
    """
    stored = _defined_in(con)
    expected = _expected(ledger_id, [known[name] for name in current])
    for (kind, name), sql in sorted(expected.items()):
        found = stored.get((kind, name))
        problem = _MISSING if found is None else _OTHERWISE
        checks.true(name, found == sql, f"the {kind} that the projection defines", found, problem)
    tables = {table: one for projection in known.values() for table, one in projection.tables.items()}
    ours = {*ENGINE_TABLES, *tables, *(table for state in states.values() for table in state.tables)}
    ours |= {f"{table}_fts{part}" for table, one in tables.items() if one.search for part in _FTS_PARTS}
    for state in states.values():
        if state.name not in known:
            ours |= {f"{table}_fts{part}" for table in state.tables for part in _FTS_PARTS}
    for kind, name in sorted(stored.keys() - expected.keys()):
        if kind == "trigger":
            checks.wrong(name, TRIGGER)
        elif kind == "view" and name.casefold() in {one.casefold() for one in ours}:
            checks.wrong(name, _IN_PLACE)
        elif kind == "view" or (kind == "table" and name not in ours):
            checks.cannot(name, FOREIGN)
    for name in ENGINE_TABLES:
        check_indexes(con, checks, name)


def check_indexes(con: sqlite3.Connection, checks: Checks, table: str) -> None:
    """Whether every index of a table, with its key's, says what its rows say. Raises sqlite3.Error."""
    quoted = table.replace('"', '""')
    rows = con.execute(f'PRAGMA integrity_check("{quoted}")').fetchall()
    found = [line for [text] in rows for line in str(text).split("\n")]
    told = next((line for line in found if not line.startswith("***")), found[0])
    problem = f"an index does not say what its rows say: {told}"[:_PROBLEM_SHOWN]
    checks.true(table, found == ["ok"], "as the rows", "otherwise", problem)


def has_tables(con: sqlite3.Connection, projection: Projection) -> bool:
    """Whether the file has any table with the name of one of the projection's. Raises sqlite3.Error."""
    names = {name for kind, name in _defined_in(con) if kind == "table"}
    return not names.isdisjoint(projection.tables)


def _expected(ledger_id: bytes, projections: Iterable[Projection]) -> _Defined:
    """What is defined in a file that was just made; full text indexes are looked at by themselves."""
    file = ViewsFile(None, ledger_id)
    try:
        file.query_only(False)
        made = [(name, table) for one in projections for name, table in one.tables.items()]
        for name, table in made:
            file.create(name, table)
        wanted = {name for name, _ in made} | {*ENGINE_TABLES}
        sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
        rows = file.con.execute(sql).fetchall()
        return {(kind, name): _plain(made_by) for kind, name, of, made_by in rows if of in wanted}
    finally:
        file.close()


def _defined_in(con: sqlite3.Connection) -> _Defined:
    """Everything that a file defines, but what SQLite makes for itself."""
    sql = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    return {(str(kind), str(name)): _plain(str(made_by)) for kind, name, made_by in con.execute(sql)}


def _plain(sql: str) -> str:
    """A definition without white space and the quotes of names, in which versions of its writer differ."""
    return re.sub(r'[\s"`\[\]]', "", sql).casefold()
