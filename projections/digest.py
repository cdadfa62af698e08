"""The digest of a projection's tables: row by row in the order of their keys (docs/replay.md has the bytes).

The same events give the same tables and so the same digest, wherever and however they were built. Sealed in
the ledger, a digest shows that tables were altered, and not merely that they can be built anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from struct import Struct
from typing import Any, Final

import msgspec
from blake3 import blake3

from .projection import COLUMN_TYPES, Projection, Table

TAG: Final = b"tally.projection.v1\0"
PREFIX: Final = "blake3:"
_u32 = Struct(">I").pack
_u64 = Struct(">Q").pack
_i64 = Struct(">q").pack
_f64 = Struct(">d").pack
_ROW: Final = b"\x01"
_END: Final = b"\x00"
_NULL, _INTEGER, _REAL, _TEXT, _BLOB = b"\x00", b"\x01", b"\x02", b"\x03", b"\x04"
#: Bytes that are gathered before they are hashed.
_PIECE_BYTES: Final = 1 << 16


class ProjectionDigest(msgspec.Struct, frozen=True):
    """A projection's tables as of an event: `digest` is `blake3:` and hex. seq: the last event applied."""

    name: str
    version: int
    seq: int
    digest: str


def tables_digest(
    name: str, version: int, tables: Mapping[str, tuple[Table, Iterable[tuple[Any, ...]]]]
) -> str:
    """The digest of tables given with their rows, which are in the order of their keys (`select`)."""
    hasher = blake3()
    hasher.update(TAG + _lp(name.encode()) + _u64(version) + _u32(len(tables)))
    for table_name, (table, rows) in sorted(tables.items()):
        columns = [
            _lp(column.encode()) + _lp(COLUMN_TYPES[kind].encode()) for column, kind in table.columns.items()
        ]
        key = [_lp(column.encode()) for column in table.key]
        head = [_lp(table_name.encode()), _u32(len(columns)), *columns, _u32(len(key)), *key]
        hasher.update(b"".join(head))
        count = 0
        piece = bytearray()
        for row in rows:
            count += 1
            piece += _ROW
            for value in row:
                piece += _value(value)
            if len(piece) >= _PIECE_BYTES:
                hasher.update(bytes(piece))
                piece.clear()
        hasher.update(bytes(piece) + _END + _u64(count))
    return PREFIX + hasher.hexdigest()


def select(con: sqlite3.Connection, name: str, table: Table) -> Iterator[tuple[Any, ...]]:
    """The rows of a stored table, in the order of their keys. Raises sqlite3.Error for another table."""
    columns = ", ".join(f'"{column}"' for column in table.columns)
    order = ", ".join(f'"{column}" COLLATE BINARY' for column in table.key)
    return con.execute(f'SELECT {columns} FROM "{name}" ORDER BY {order}')


def digest_in(con: sqlite3.Connection, projection: Projection) -> str:
    """The digest of a projection's tables as they are stored; the caller holds a transaction."""
    rows = {name: (table, select(con, name, table)) for name, table in projection.tables.items()}
    return tables_digest(projection.name, projection.version, rows)


def _value(value: Any) -> bytes:
    """A stored value: its type in SQLite, and its bytes."""
    if value is None:
        return _NULL
    if type(value) is int:
        return _INTEGER + _i64(value)
    if type(value) is str:
        return _TEXT + _lp(value.encode("utf-8", "surrogatepass"))
    if type(value) is float:
        return _REAL + _f64(value)
    return _BLOB + _lp(value)


def _lp(data: bytes) -> bytes:
    return _u32(len(data)) + data
