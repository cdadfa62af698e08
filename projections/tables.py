"""The tables that `apply` writes to: rows wait in memory and go to SQLite a chunk at a time.

A row that is read, changed and put back many times between two commits costs one statement. What was read
is kept, so that the next chunk need not read it again; the engine empties that memory when another
process has written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Annotated, Any, Final

import msgspec

from .errors import BadRow
from .projection import Table

#: Rows read that are kept, of each table: twice as many, at most.
KEPT_ROWS: Final = 4000
#: Rows that wait, at most, before they are written in the middle of a chunk.
WAITING_ROWS: Final = 50_000
#: Values in one statement that looks rows up.
_LOOK_UP: Final = 500
_ABSENT: Final[Any] = object()

_INT64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
#: Column type to the type that is stored.
_STORED: Final[Mapping[Any, Any]] = {
    int: _INT64,
    bool: _INT64,
    float: float,
    str: str,
    bytes: bytes,
    dict: str,
    list: str,
}
_encode_json = msgspec.json.Encoder(order="sorted").encode

Row = dict[str, Any]


class Rows:
    """One table, as `apply` sees it. A key is the value of the primary key, or a tuple of its values."""

    def __init__(self, con: sqlite3.Connection, name: str, table: Table) -> None:
        self._con = con
        self._name = name
        self._table = table
        self._columns = tuple(table.columns)
        self._width = len(self._columns)
        self._empty: Row = dict.fromkeys(self._columns)
        self._key_of: Callable[[Row], Any] = itemgetter(*table.key)
        self._values_of = _values(self._columns)
        self._json = [column for column, kind in table.columns.items() if kind in (dict, list)]
        self._bools = [column for column, kind in table.columns.items() if kind is bool]
        self._special = bool(self._json or self._bools)
        self._single = len(table.key) == 1
        kinds = [
            _STORED[kind] if column in table.key else _STORED[kind] | None
            for column, kind in table.columns.items()
        ]
        self._checked_type: Any = list[tuple[tuple(kinds)]]  # type: ignore[misc]
        self._by_seq = table.by_integer
        self._sql = _Statements(name, table)
        self._waiting: dict[Any, Row | None] = {}
        self._kept: dict[Any, Row | None] = {}
        self._kept_before: dict[Any, Row | None] = {}
        self._reads = False
        self._top: int | None = None

    # -- for `apply` ---------------------------------------------------------------------

    def get(self, key: Any) -> Row | None:
        """A copy of the row, or None. Lists and dicts come back as such."""
        row = self._find(key)
        if row is None:
            return None
        return self._plain(row) if self._special else row.copy()

    def change(self, key: Any) -> Row | None:
        """The row itself, to be changed in place, or None: `get` and `put` without copies.

        Only for columns that the table has; lists, dicts and bools are as stored (JSON text, 0 and 1).
        """
        row = self._waiting.get(key)
        if row is None:
            row = self._find(key)
            if row is not None:
                self._waiting[key] = row
        return row

    def put(self, row: Row) -> None:
        """Insert the row, or replace the one with its key; columns not given are None."""
        merged = {**self._empty, **row}
        if len(merged) != self._width:
            raise BadRow(self._name, f"it has no column {_first_extra(row, self._empty)!r}")
        key = self._key_of(merged)
        if key is None or (not self._single and None in key):
            raise BadRow(self._name, f"a row needs its key ({', '.join(self._table.key)})")
        if self._special:
            self._store(merged)
        self._waiting[key] = merged
        if len(self._waiting) > WAITING_ROWS:
            self.flush()

    def update(self, key: Any, /, **changes: Any) -> None:
        """Change columns of a row that is there. Raises BadRow if it is not."""
        row = self._find(key)
        if row is None:
            raise BadRow(self._name, f"there is no row {key!r} to update")
        if self._special:
            self._store(changes)
        merged = {**row, **changes}
        if len(merged) != self._width:
            raise BadRow(self._name, f"it has no column {_first_extra(changes, self._empty)!r}")
        if self._key_of(merged) != key:
            raise BadRow(self._name, f"a key cannot be changed; delete {key!r} and put the row anew")
        self._waiting[key] = merged

    def add(self, key: Any, /, **amounts: int) -> None:
        """Add to columns of a row that is there; a column that is None counts as 0. Raises BadRow."""
        row = self._find(key)
        if row is None:
            raise BadRow(self._name, f"there is no row {key!r} to add to")
        self.update(key, **{column: (row.get(column) or 0) + amount for column, amount in amounts.items()})

    def delete(self, key: Any) -> None:
        """Delete the row, if it is there."""
        self._waiting[key] = None

    def find(self, **equal: Any) -> list[Row]:
        """The rows whose columns have these values, in order of their keys."""
        self.flush()
        rows = self._con.execute(self._sql.find(equal), self._bound(equal)).fetchall()
        return [self._plain(dict(zip(self._columns, row, strict=True))) for row in rows]

    def delete_where(self, **equal: Any) -> None:
        """Delete the rows whose columns have these values."""
        self.flush()
        keys = self._con.execute(self._sql.find_keys(equal), self._bound(equal)).fetchall()
        for key in keys:
            self._waiting[key[0] if self._single else key] = None

    # -- inside --------------------------------------------------------------------------

    def _find(self, key: Any) -> Row | None:
        """The row as it is stored, waiting or written."""
        row: Row | None = self._waiting.get(key, _ABSENT)
        if row is _ABSENT:
            self._reads = True
            row = self._kept.get(key, _ABSENT)
            if row is _ABSENT:
                row = self._kept_before.pop(key, _ABSENT)
                if row is _ABSENT:
                    row = self._read(key)
                self._keep(key, row)
        return row

    def _read(self, key: Any) -> Row | None:
        if self._by_seq and type(key) is int and key > self._highest():
            return None
        values = (key,) if self._single else tuple(key)
        row = self._con.execute(self._sql.select, values).fetchone()
        return None if row is None else dict(zip(self._columns, row, strict=True))

    def _keep(self, key: Any, row: Row | None) -> None:
        if len(self._kept) >= KEPT_ROWS:
            self._kept_before, self._kept = self._kept, {}
        self._kept[key] = row

    def _store(self, row: Row) -> None:
        """Lists, dicts and bools as they are stored, in place."""
        for column in self._json:
            value = row.get(column)
            if value is not None:
                if not isinstance(value, (dict, list, tuple)):
                    raise BadRow(self._name, f"{column} takes a list or a dict")
                row[column] = _encode_json(value).decode()
        for column in self._bools:
            value = row.get(column)
            if value is True or value is False:
                row[column] = int(value)

    def _plain(self, row: Row) -> Row:
        plain = row.copy()
        for column in self._json:
            if plain[column] is not None:
                plain[column] = msgspec.json.decode(plain[column])
        for column in self._bools:
            if plain[column] is not None:
                plain[column] = bool(plain[column])
        return plain

    def _bound(self, equal: Row) -> tuple[Any, ...]:
        for column in equal:
            if column not in self._empty:
                raise BadRow(self._name, f"it has no column {column!r}")
        return tuple(equal.values())

    # -- for the engine ------------------------------------------------------------------

    def flush(self) -> None:
        """Write what waits; the caller holds a transaction. Raises msgspec.ValidationError, sqlite3.Error."""
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        rows = [row for row in waiting.values() if row is not None]
        values = msgspec.convert(list(map(self._values_of, rows)), self._checked_type, builtin_types=(bytes,))
        gone = [key for key, row in waiting.items() if row is None]
        if self._sql.indexed:
            self._flush_searched(list(waiting), rows, values, gone)
        else:
            self._con.executemany(self._sql.upsert, values)
            if gone:
                self._con.executemany(self._sql.delete, self._as_values(gone))
        if self._by_seq and rows and self._top is not None:
            self._top = max(self._top, *map(self._key_of, rows))
        if self._reads:
            for key, row in waiting.items():
                self._kept_before.pop(key, None)
                self._keep(key, row)

    def _flush_searched(self, keys: list[Any], rows: list[Row], values: list[Any], gone: list[Any]) -> None:
        """As `flush`, with the full text index, which has to be told what it held."""
        execute = self._con.executemany
        before = dict(self._indexed(keys))
        execute(self._sql.upsert, values)
        search = itemgetter(*self._table.search) if len(self._table.search) > 1 else None
        only = self._table.search[0]
        out: list[Any] = []
        changed: list[Row] = []
        for row in rows:
            texts = search(row) if search is not None else (row[only],)
            key = self._key_of(row)
            old = before.get(key) if before else None
            if old is not None:
                if old[1:] == texts:
                    continue
                out.append(old)
            changed.append(row)
        out += [before[key] for key in gone if key in before]
        if out:
            execute(self._sql.unindex, out)
        if gone:
            execute(self._sql.delete, self._as_values(gone))
        if not changed:
            return
        if self._by_seq:
            columns = (self._table.key[0], *self._table.search)
            execute(self._sql.index, map(itemgetter(*columns), changed))
        else:
            # One by one, INSERT … SELECT would make FTS5 write its index out for each row.
            execute(self._sql.index, [row for _, row in self._indexed(map(self._key_of, changed))])

    def _indexed(self, keys: Iterable[Any]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        """Of these keys, those that are written: with their rowid and the texts that the index holds."""
        if self._by_seq:
            top = self._highest()
            keys = [key for key in keys if key <= top]
        for part in _parts(keys, _LOOK_UP):
            wanted = self._as_values(part)
            for row in self._con.execute(
                self._sql.indexed_rows(len(wanted)), [value for values in wanted for value in values]
            ):
                size = len(self._table.key)
                yield (row[0] if self._single else row[:size]), row[size:]

    def _as_values(self, keys: Iterable[Any]) -> list[tuple[Any, ...]]:
        return [(key,) for key in keys] if self._single else [tuple(key) for key in keys]

    def _highest(self) -> int:
        """The highest integer key that is written; no row beyond it has to be looked for."""
        if self._top is None:
            found = self._con.execute(self._sql.highest).fetchone()[0]
            self._top = -(1 << 63) if found is None else found
        return self._top

    def discard(self) -> None:
        """Forget what waits and what was read: the transaction was rolled back, or others have written."""
        self._waiting.clear()
        self._kept.clear()
        self._kept_before.clear()
        self._top = None


class Tables(dict[str, Rows]):
    """The tables of one projection, by name."""

    def flush(self) -> None:
        """Write what waits in each."""
        for rows in self.values():
            rows.flush()

    def discard(self) -> None:
        """See Rows.discard."""
        for rows in self.values():
            rows.discard()


class _Statements:
    """The SQL for one table. Names were checked when the projection was."""

    def __init__(self, name: str, table: Table) -> None:
        columns = [f'"{column}"' for column in table.columns]
        key = [f'"{column}"' for column in table.key]
        search = [f'"{column}"' for column in table.search]
        is_key = " AND ".join(f"{column} = ?" for column in key)
        others = [column for column in columns if column not in key]
        changes = ", ".join(f"{column} = excluded.{column}" for column in others)
        insert = f'INSERT INTO "{name}" ({", ".join(columns)}) VALUES ({", ".join("?" * len(columns))})'
        self._name, self._key, self._columns = name, ", ".join(key), ", ".join(columns)
        self._single = len(key) == 1
        self._texts = ", ".join(["rowid", *search])
        self.indexed = bool(search)
        self.upsert = f"{insert} ON CONFLICT ({self._key}) DO " + (
            f"UPDATE SET {changes}" if changes else "NOTHING"
        )
        self.select = f'SELECT {self._columns} FROM "{name}" WHERE {is_key}'
        self.delete = f'DELETE FROM "{name}" WHERE {is_key}'
        self.highest = f'SELECT max({key[0]}) FROM "{name}"'
        fts = f'"{name}_fts"'
        marks = ", ".join("?" * (len(search) + 1))
        self.index = f"INSERT INTO {fts} ({self._texts}) VALUES ({marks})"
        self.unindex = f"INSERT INTO {fts} ({fts}, {self._texts}) VALUES ('delete', {marks})"

    def indexed_rows(self, count: int) -> str:
        """Keys, rowid and searched texts of `count` rows by their keys."""
        marks = "?" if self._single else f"({', '.join('?' * (self._key.count(',') + 1))})"
        keys = self._key if self._single else f"({self._key})"
        wanted = f"VALUES {', '.join([marks] * count)}" if not self._single else ", ".join("?" * count)
        return f'SELECT {self._key}, {self._texts} FROM "{self._name}" WHERE {keys} IN ({wanted})'

    def find(self, equal: Iterable[str]) -> str:
        """Rows by the values of columns."""
        return f'SELECT {self._columns} FROM "{self._name}"{_where(equal)} ORDER BY {self._key}'

    def find_keys(self, equal: Iterable[str]) -> str:
        """Keys by the values of columns."""
        return f'SELECT {self._key} FROM "{self._name}"{_where(equal)} ORDER BY {self._key}'


def _where(equal: Iterable[str]) -> str:
    conditions = " AND ".join(f'"{column}" IS ?' for column in equal)
    return f" WHERE {conditions}" if conditions else ""


def _values(columns: Sequence[str]) -> Callable[[Row], tuple[Any, ...]]:
    if len(columns) == 1:
        only = columns[0]
        return lambda row: (row[only],)
    return itemgetter(*columns)


def _first_extra(given: Iterable[str], known: Row) -> str:
    return next(column for column in given if column not in known)


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    source = iter(items)
    while part := list(islice(source, size)):
        yield part
