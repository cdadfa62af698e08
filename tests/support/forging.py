"""Someone who has a closed ledger file and knows the format: changes bodies and makes the chain follow again.

The file is rewritten with the standard `sqlite3`, its guards dropped, and every hash from the change on is
made anew, the head file's included. Verification finds nothing; replay has to.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from attacker import drop_guards

from tallystick.ledger import chain
from tallystick.ledger.event import COLUMNS, Row
from tallystick.ledger.headfile import head_path

_encode = msgspec.json.Encoder(order="sorted").encode
_COLUMN_LIST = ", ".join(COLUMNS)


class Forger:
    """Changes rows of a closed ledger file; `close` makes the chain follow from the first change on."""

    def __init__(self, path: Path, *, clever: bool = True) -> None:
        """clever: what bodies say of hashes is made to follow, too."""
        self.path = path
        self.clever = clever
        self._db = sqlite3.connect(path, isolation_level=None)
        drop_guards(self._db)
        self._first = 0
        self.rows = [
            Row._make(row) for row in self._db.execute(f"SELECT {_COLUMN_LIST} FROM events ORDER BY seq")
        ]

        self._ledger_id: str = json.loads(self.rows[0].body or b"")["ledger_id"]

    def __enter__(self) -> Forger:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._write()
        self._db.close()

    def seq_of(self, kind: str, nth: int = 0) -> int:
        """The seq of the nth event of a kind; from the end if negative."""
        return [seq for seq, row in enumerate(self.rows, 1) if row.kind == kind][nth]

    def body(self, seq: int) -> Any:
        """The decoded body."""
        body = self.rows[seq - 1].body
        return None if body is None else json.loads(body)

    def change(self, seq: int, change: Callable[[Any], Any]) -> None:
        """Change a body in place, or by what `change` returns."""
        body = self.body(seq)
        changed = change(body)
        self.replace(seq, body=_encode(body if changed is None else changed))

    def put(self, seq: int, value: Any, *path: str | int) -> None:
        """Put a value at a path into a body."""

        def change(body: Any) -> None:
            *way, last = path
            for step in way:
                body = body[step]
            body[last] = value

        self.change(seq, change)

    def replace(self, seq: int, **columns: Any) -> None:
        """Change columns of a row."""
        self.rows[seq - 1] = self.rows[seq - 1]._replace(**columns)

    def delete(self, seq: int) -> None:
        """Take an event out; those behind it move up."""
        del self.rows[seq - 1]

    def insert(self, seq: int, kind: str, stream: str, body: Any) -> None:
        """Put a made-up event in; those from there on move down."""
        before = self.rows[seq - 2]
        made = before._replace(
            kind=kind, stream=stream, key=None, meta=None, body=_encode(body), salt=bytes(16)
        )
        self.rows.insert(seq - 1, made)

    def _write(self) -> None:
        """Write every row anew, in a chain that follows."""
        prev = chain.genesis_hash(bytes.fromhex(self._ledger_id))
        made = []
        for seq, row in enumerate(self.rows, 1):
            body_hash = row.body_hash
            row = self._with_snapshot(row, made)
            if row.body is not None:
                body_hash = chain.body_hash(row.salt or b"", row.body)
            label = chain.label(row.kind, row.stream, row.key, row.meta)
            digest = chain.event_hash(prev, seq, row.at, body_hash, label)
            made.append(row._replace(seq=seq, body_hash=body_hash, prev_hash=prev, hash=digest))
            prev = digest
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM events")
        places = ", ".join("?" * len(COLUMNS))
        self._db.executemany(f"INSERT INTO events ({_COLUMN_LIST}) VALUES ({places})", made)
        self._db.execute("COMMIT")
        if head_path(self.path).exists():
            head_path(self.path).write_text(f"tally1:{self._ledger_id}:{len(made)}:{prev.hex()}\n")

    def _with_snapshot(self, row: Row, made: list[Row]) -> Row:
        """A decision names the hash of an earlier event, which is another now."""
        if row.kind != "decision.recorded" or row.body is None or not self.clever:
            return row
        body = json.loads(row.body)
        try:
            snapshot = body["derived"]["determinism"]["memory_snapshot"]
            snapshot["hash"] = made[snapshot["seq"] - 1].hash.hex()
        except (KeyError, IndexError, TypeError):
            return row
        return row._replace(body=_encode(body))


def edit_views(path: Path, sql: str, *parameters: Any) -> int:
    """Change a views file with plain SQL; how many rows that touched."""
    with closing(sqlite3.connect(f"{path}.views", isolation_level=None)) as db:
        return db.execute(sql, parameters).rowcount
