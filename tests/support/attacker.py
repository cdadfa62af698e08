"""Someone who knows the format, has a ledger file and the standard `sqlite3`, and drops the guards first.

Nothing of the package computes here: the arithmetic is written again from the format's page.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

from blake3 import blake3

from tallystick.ledger.headfile import head_path

#: The small ledger: 12 events; event 4 is erased, event 8 is the record of it; the target is event 7.
EVENTS, TARGET, ERASED, RECORD = 12, 7, 4, 8
COLUMNS = "seq at kind stream key meta salt body body_hash prev_hash hash".split()
COLUMN_LIST = ", ".join(COLUMNS)

Row = dict[str, Any]


# -- the arithmetic of the format, written again from its page ---------------------------------


def lp(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def event_hash(row: Row) -> bytes:
    label = b"".join(
        lp(row[name] if isinstance(row[name], bytes) else (row[name] or "").encode())
        for name in ("kind", "stream", "key", "meta")
    )
    place = struct.pack(">Qq", row["seq"], row["at"])
    digest: bytes = blake3(b"tally.event.v1\0" + row["prev_hash"] + place + row["body_hash"] + label).digest()
    return digest


def body_hash(salt: bytes, body: bytes) -> bytes:
    digest: bytes = blake3(salt + body).digest()
    return digest


def genesis(ledger_id: bytes) -> bytes:
    digest: bytes = blake3(b"tally.genesis.v1\0" + ledger_id).digest()
    return digest


# -- the attacker --------------------------------------------------------------------------------


def tamper(path: Path, *statements: str | tuple[str, tuple[Any, ...]]) -> None:
    """Change a ledger file by statements, or statements and their values, past the guards in it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        drop_guards(db)
        for statement in statements:
            db.execute(*([statement] if isinstance(statement, str) else statement))


def drop_guards(db: sqlite3.Connection) -> None:
    """Every trigger of the file."""
    for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        db.execute(f'DROP TRIGGER "{name}"')


class Plain:
    """A ledger file in the hands of someone with the standard `sqlite3`, its guards dropped."""

    def __init__(self, path: Path, other: Path) -> None:
        self.path = path
        self.other = other
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA synchronous = OFF")  # as fast as it goes: nobody cuts the power
        drop_guards(self.db)
        self.db.execute("PRAGMA ignore_check_constraints = ON")

    @property
    def last(self) -> int:
        last: int = self.db.execute("SELECT max(seq) FROM events").fetchone()[0]
        return last

    def row(self, seq: int) -> Row:
        found = self.db.execute(f"SELECT {COLUMN_LIST} FROM events WHERE seq = ?", (seq,)).fetchone()
        return dict(zip(COLUMNS, found, strict=True))

    def set(self, seq: int, /, **columns: Any) -> None:
        """Change columns of one row as they stand, whatever they were."""
        names = ", ".join(f"{name} = ?" for name in columns)
        self.db.execute(f"UPDATE events SET {names} WHERE seq = ?", (*columns.values(), seq))

    def sql(self, statement: str, *bindings: Any) -> None:
        self.db.execute(statement, bindings)

    def put(self, row: Row) -> None:
        places = ", ".join("?" * len(COLUMNS))
        values = [row[name] for name in COLUMNS]
        self.db.execute(f"INSERT INTO events ({COLUMN_LIST}) VALUES ({places})", values)

    def delete(self, *seqs: int) -> None:
        self.db.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq in seqs])

    def move(self, first: int, by: int) -> None:
        """Renumber every row from `first` on."""
        self.db.execute("UPDATE events SET seq = -(seq + ?) WHERE seq >= ?", (by, first))
        self.db.execute("UPDATE events SET seq = -seq WHERE seq < 0")

    def rehash(self, first: int, last: int | None = None) -> None:
        """Make links and hashes of these rows follow again, in the format's own way."""
        for seq in range(first, (last or self.last) + 1):
            row = self.row(seq)
            if seq > 1:
                row["prev_hash"] = self.row(seq - 1)["hash"]
            else:
                row["prev_hash"] = genesis(bytes.fromhex(json.loads(row["body"])["ledger_id"]))
            if row["body"] is not None:
                row["body_hash"] = body_hash(row["salt"], row["body"])
            row["hash"] = event_hash(row)
            self.set(seq, **{name: row[name] for name in ("prev_hash", "body_hash", "hash")})

    def event(self, seq: int, /, **columns: Any) -> Row:
        """A made-up event that follows the row before `seq`."""
        row: Row = {
            "seq": seq,
            "at": 1,
            "kind": "order.placed",
            "stream": "order:1",
            "key": None,
            "meta": None,
            "salt": bytes(16),
            "body": b'{"forged":true}',
            "prev_hash": self.row(seq - 1)["hash"] if seq > 1 else bytes(32),
        } | columns
        row["body_hash"] = body_hash(row["salt"], row["body"])
        row["hash"] = event_hash(row)
        return row

    def record(self, seq: int, of: int, /, **members: Any) -> Row:
        """A made-up record, at `seq`, that the body of `of` was erased."""
        named = {"body_hash": self.row(of)["body_hash"].hex(), "reason": "none", "seq": of, "v": 1} | members
        body = json.dumps(named, separators=(",", ":")).encode()
        return self.event(seq, kind="ledger.body_erased", stream="ledger", body=body)

    def loosen(self, seq_type: str = "INTEGER PRIMARY KEY") -> None:
        """Make the table anew without STRICT, so that a column takes any type."""
        loose = ", ".join(f"{name} {seq_type if name == 'seq' else ''}" for name in COLUMNS)
        self.db.execute(f"CREATE TABLE loose ({loose})")
        self.db.execute(f"INSERT INTO loose SELECT {COLUMN_LIST} FROM events")
        self.db.execute("DROP TABLE events")
        self.db.execute("ALTER TABLE loose RENAME TO events")

    def forge_head_file(self) -> None:
        """Make the head file, if there is one, name the last row."""
        if head_path(self.path).exists():
            ledger_id = json.loads(self.row(1)["body"])["ledger_id"]
            head_path(self.path).write_text(
                f"tally1:{ledger_id}:{self.last}:{self.row(self.last)['hash'].hex()}\n"
            )

    def close(self) -> None:
        self.db.close()
