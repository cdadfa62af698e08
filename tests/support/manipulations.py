"""What can be done to a ledger file, and what verification says to it: what the tables are made of.

The tables are `manipulations_of_rows.py` and `manipulations_of_the_chain.py`; `test_tampering.py` does them.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from attacker import COLUMN_LIST, COLUMNS, ERASED, RECORD, Plain

from tallystick import Problem, TallyError

#: Salts by seq, as a copy made before the erasure would show them; filled by who makes the ledger.
SALTS: dict[int, bytes] = {}


@dataclass(frozen=True)
class Says:
    """What verification says: a word at a seq; an error; or, with neither, that nothing is wrong."""

    problem: Problem | None = None
    at: Callable[[int, int], int] = lambda k, last: k
    error: type[TallyError] | None = None


@dataclass(frozen=True)
class Manipulation:
    """One thing done to a ledger whose target is event k and whose last event is `last`.

    alone: what is said without a head file and without an expected head; kept: with the head
    file; expected: with the head that someone else kept. The latter two default to `alone`.
    """

    name: str
    done: str
    why: str
    do: Callable[[Plain, int], None]
    alone: Says
    kept: Says | None = None
    expected: Says | None = None


@dataclass
class Group:
    """Manipulations under one heading."""

    title: str
    intro: str
    manipulations: list[Manipulation] = field(default_factory=list)


def here(problem: Problem) -> Says:
    return Says(problem)


def after(problem: Problem) -> Says:
    return Says(problem, lambda k, last: k + 1)


def at(problem: Problem, seq: int) -> Says:
    return Says(problem, lambda k, last: seq)


def end(problem: Problem, offset: int = 0) -> Says:
    return Says(problem, lambda k, last: last + offset)


def fails(error: type[TallyError]) -> Says:
    return Says(error=error)


def keyless(k: int) -> int:
    """The last event up to k that has neither key nor meta; see `fill`."""
    return k - k % 5


NOTHING = Says()
EDITED, ERASED_WITHOUT, LINK, GAP = Problem.EDITED, Problem.ERASED, Problem.LINK_BROKEN, Problem.GAP
REORDERED, TRUNCATED, MALFORMED = Problem.REORDERED, Problem.TRUNCATED, Problem.MALFORMED
SHADOW = b'{"forged":true}'


def setting(**columns: Any) -> Callable[[Plain, int], None]:
    return lambda plain, k: plain.set(k, **columns)


def loosened(column: str, change: Callable[[Any], Any]) -> Callable[[Plain, int], None]:
    def do(plain: Plain, k: int) -> None:
        plain.loosen()
        plain.set(k, **{column: change(plain.row(k)[column])})

    return do


def steps(*parts: Callable[[Plain, int], None]) -> Callable[[Plain, int], None]:
    def do(plain: Plain, k: int) -> None:
        for part in parts:
            part(plain, k)

    return do


def rehash_row(plain: Plain, k: int) -> None:
    plain.rehash(k, k)


def rehash_rest(plain: Plain, k: int) -> None:
    plain.rehash(k)


def swap(plain: Plain, k: int) -> None:
    plain.set(k, seq=-1)
    plain.set(k + 1, seq=k)
    plain.set(-1, seq=k + 1)


def close_gap(plain: Plain, k: int) -> None:
    plain.delete(k)
    plain.move(k + 1, -1)


def insert_here(plain: Plain, k: int) -> None:
    plain.move(k, 1)
    plain.put(plain.event(k))


def copy_over_next(plain: Plain, k: int) -> None:
    plain.db.execute("DROP INDEX events_by_key")
    row = plain.row(k) | {"seq": k + 1}
    plain.delete(k + 1)
    plain.put(row)


def splice(plain: Plain, k: int, *, whole: bool = False, relink: bool = False) -> None:
    with closing(sqlite3.connect(plain.other)) as other:
        upto = plain.last if whole else k
        query = f"SELECT {COLUMN_LIST} FROM events WHERE seq BETWEEN ? AND ? ORDER BY seq"
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in other.execute(query, (k, upto))]
    plain.delete(*range(k, upto + 1))
    for row in rows:
        if relink and row["seq"] == k:
            row["prev_hash"] = plain.row(k - 1)["hash"]
        plain.put(row)


def replace_file(plain: Plain, k: int) -> None:
    plain.db.close()
    shutil.copy(plain.other, plain.path)
    plain.db = sqlite3.connect(plain.path, isolation_level=None)


def change_ledger_id(plain: Plain, k: int) -> None:
    created = json.loads(plain.row(1)["body"]) | {"ledger_id": "ab" * 16}
    plain.set(1, body=json.dumps(created, separators=(",", ":")).encode())


def change_format(plain: Plain, k: int) -> None:
    created = json.loads(plain.row(1)["body"]) | {"format": 2}
    plain.set(1, body=json.dumps(created, separators=(",", ":")).encode())
    plain.rehash(1)


def erase_record(plain: Plain, k: int) -> None:
    """Record the erasure of the erased event once more, then erase the first record on record."""
    plain.put(plain.record(plain.last + 1, ERASED))
    plain.put(plain.record(plain.last + 1, RECORD))
    plain.set(RECORD, body=None, salt=None)


def misdirect_record(plain: Plain, k: int) -> None:
    body = json.loads(plain.row(RECORD)["body"]) | {"seq": 5}
    plain.set(RECORD, body=json.dumps(body, separators=(",", ":")).encode())
    plain.rehash(RECORD)


def ambiguous_record(plain: Plain, k: int) -> None:
    row = plain.record(plain.last + 1, ERASED)
    row["body"] = row["body"][:-1] + b',"seq":2}'
    plain.put(row)
    plain.rehash(row["seq"])


def bottomless_record(plain: Plain, k: int) -> None:
    row = plain.record(plain.last + 1, ERASED)
    row["body"] = b'{"deep":' + b"[" * 200_000 + b"]" * 200_000 + b"," + row["body"][1:]
    plain.put(row)
    plain.rehash(row["seq"])


def uneven_record(plain: Plain, k: int) -> None:
    plain.put(plain.record(plain.last + 1, ERASED, body_hash="abcd"))


def known_body() -> tuple[bytes, bytes]:
    """Salt and body of the erased event, as a copy made before would show them."""
    return SALTS[ERASED], b'{"n":4}'


def make_view(plain: Plain, k: int) -> None:
    plain.db.execute("ALTER TABLE events RENAME TO kept")
    plain.db.execute(f"CREATE VIEW events AS SELECT {COLUMN_LIST} FROM kept")


def double(plain: Plain, k: int) -> None:
    """Make seq a column like any other, and put a second event k beside the first."""
    plain.loosen("INTEGER PRIMARY KEY DESC")
    rows = plain.db.execute(f"SELECT {COLUMN_LIST} FROM events").fetchall()
    plain.db.execute("DROP TABLE events")
    others = ", ".join(name for name in COLUMNS if name != "seq")
    plain.db.execute(f"CREATE TABLE events (seq INTEGER, {others}, PRIMARY KEY (seq, at))")
    plain.db.executemany(f"INSERT INTO events VALUES ({', '.join('?' * 11)})", rows)
    plain.put(plain.row(k) | {"at": 1, "body": SHADOW})
