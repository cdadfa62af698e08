"""The manipulations of a ledger file that `test_tampering.py` does, and what is said to each.

`Plain` is the attacker: someone who knows the format, has the file and nothing but the standard
`sqlite3`, and drops the guards first. `TABLE` says what is done and what verification answers.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from tallystick import NewerFormat, NotALedger, Problem, TallyError, Unavailable
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


class Plain:
    """A ledger file in the hands of someone with the standard `sqlite3`, its guards dropped."""

    def __init__(self, path: Path, other: Path) -> None:
        self.path = path
        self.other = other
        self.db = sqlite3.connect(path, isolation_level=None)
        for (name,) in self.db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            self.db.execute(f"DROP TRIGGER {name}")
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


# -- the table ----------------------------------------------------------------------------------


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


TABLE = [
    Group(
        "A column of one row was changed",
        "Somebody changed a value and at most the hashes of that row. Later rows were left as they are.",
        [
            Manipulation(
                "at",
                "the time moved by a microsecond",
                "The row's hash covers its time.",
                lambda plain, k: plain.set(k, at=plain.row(k)["at"] + 1),
                here(EDITED),
            ),
            Manipulation(
                "kind",
                "the kind replaced",
                "The row's hash covers its kind.",
                setting(kind="order.cancelled"),
                here(EDITED),
            ),
            Manipulation(
                "stream",
                "the stream replaced",
                "The row's hash covers its stream.",
                setting(stream="order:99"),
                here(EDITED),
            ),
            Manipulation(
                "key",
                "the key replaced",
                "The row's hash covers its key.",
                setting(key="another"),
                here(EDITED),
            ),
            Manipulation(
                "no_key", "the key removed", "The row's hash covers its key.", setting(key=None), here(EDITED)
            ),
            Manipulation(
                "meta",
                "the meta replaced (another actor, say)",
                "The row's hash covers its meta.",
                setting(meta=b'{"actor":"nobody"}'),
                here(EDITED),
            ),
            Manipulation(
                "no_meta",
                "the meta removed",
                "The row's hash covers its meta.",
                setting(meta=None),
                here(EDITED),
            ),
            Manipulation(
                "body",
                "the body replaced",
                "The body hash covers salt and body.",
                setting(body=SHADOW),
                here(EDITED),
            ),
            Manipulation(
                "salt",
                "the salt replaced",
                "The body hash covers salt and body.",
                setting(salt=bytes(16)),
                here(EDITED),
            ),
            Manipulation(
                "body_hash",
                "the body hash replaced",
                "It no longer fits the body.",
                setting(body_hash=bytes(32)),
                here(EDITED),
            ),
            Manipulation(
                "body_and_body_hash",
                "the body replaced, and its body hash made to fit",
                "The row's hash covers the body hash.",
                lambda plain, k: plain.set(k, body=SHADOW, body_hash=body_hash(plain.row(k)["salt"], SHADOW)),
                here(EDITED),
            ),
            Manipulation(
                "hash",
                "the row's own hash replaced",
                "It no longer fits the columns.",
                setting(hash=bytes(32)),
                here(EDITED),
            ),
            Manipulation(
                "prev_hash",
                "the link to the event before replaced",
                "With the right link the row's hash fits: only the link was altered.",
                setting(prev_hash=bytes(32)),
                here(LINK),
            ),
            Manipulation(
                "row_rehashed",
                "the body replaced, and every hash of this row made to fit",
                "The row is whole again, but the next one still links to what stood here. "
                "One of the two was replaced: look at both.",
                steps(setting(body=SHADOW), rehash_row),
                after(LINK),
            ),
            Manipulation(
                "last_rehashed",
                "the body of the *last* event replaced, and its hashes made to fit",
                "No event follows that could contradict it. Only a head kept from before can.",
                lambda plain, k: (plain.set(plain.last, body=SHADOW), plain.rehash(plain.last))[0],
                NOTHING,
                end(EDITED),
                end(EDITED),
            ),
            Manipulation(
                "ledger_id",
                "another ledger id written into event 1",
                "The body hash covers it.",
                change_ledger_id,
                at(EDITED, 1),
            ),
            Manipulation(
                "ledger_id_rehashed",
                "another ledger id written into event 1, and its hash made to fit",
                "The chain starts from the ledger id, and event 1 still links to the old one.",
                lambda plain, k: (
                    change_ledger_id(plain, k),
                    plain.set(1, body_hash=body_hash(plain.row(1)["salt"], plain.row(1)["body"])),
                    plain.set(1, hash=event_hash(plain.row(1))),
                )[0],
                at(LINK, 1),
            ),
            Manipulation(
                "first_kind",
                "event 1 given another kind",
                "Event 1 has to name the ledger.",
                lambda plain, k: plain.set(1, kind="order.placed"),
                at(MALFORMED, 1),
            ),
        ],
    ),
    Group(
        "Rows were removed, added or moved",
        "The rows themselves are genuine, or made to look so, but do not stand where they belong.",
        [
            Manipulation(
                "deleted",
                "the row deleted",
                "Its number is missing and later ones are there.",
                lambda plain, k: plain.delete(k),
                here(GAP),
            ),
            Manipulation(
                "deleted_renumbered",
                "the row deleted, and the later ones numbered down",
                "The hash of the row that now stands there fits its old number.",
                close_gap,
                here(REORDERED),
            ),
            Manipulation(
                "deleted_first",
                "event 1 deleted",
                "A ledger begins with event 1.",
                lambda plain, k: plain.delete(1),
                at(GAP, 1),
            ),
            Manipulation(
                "deleted_last",
                "the last event deleted",
                "A shorter chain is a chain in order. Only a head kept from before tells.",
                lambda plain, k: plain.delete(plain.last),
                NOTHING,
                end(TRUNCATED),
                end(TRUNCATED),
            ),
            Manipulation(
                "deleted_tail",
                "the last three events deleted",
                "The same. The finding is at the first event that is missing.",
                lambda plain, k: plain.delete(plain.last, plain.last - 1, plain.last - 2),
                NOTHING,
                end(TRUNCATED, -2),
                end(TRUNCATED, -2),
            ),
            Manipulation(
                "deleted_tail_head_forged",
                "the last three deleted, and the head file rewritten to match",
                "Whoever can write the ledger can write the head file beside it. It shows accidents only.",
                lambda plain, k: (
                    plain.delete(plain.last, plain.last - 1, plain.last - 2),
                    plain.forge_head_file(),
                )[0],
                NOTHING,
                NOTHING,
                end(TRUNCATED, -2),
            ),
            Manipulation(
                "deleted_all",
                "every event deleted",
                "A ledger begins with event 1.",
                lambda plain, k: plain.delete(*range(1, plain.last + 1)),
                at(MALFORMED, 1),
            ),
            Manipulation(
                "swapped",
                "two neighbours swapped",
                "The hash of the first fits the other's number.",
                swap,
                here(REORDERED),
            ),
            Manipulation(
                "copied",
                "the next event overwritten with a copy of this one",
                "The copy's hash fits its old number.",
                copy_over_next,
                after(REORDERED),
            ),
            Manipulation(
                "renumbered",
                "the row given a number after the last",
                "Its own number is missing.",
                lambda plain, k: plain.set(k, seq=plain.last + 1),
                here(GAP),
            ),
            Manipulation(
                "inserted",
                "an event slipped in before it, properly linked; the later ones numbered up",
                "The new row follows the one before, but the one after it is this event with another number.",
                insert_here,
                after(REORDERED),
            ),
            Manipulation(
                "appended",
                "an event appended after the last, properly linked",
                "That is what appending does. The chain has no secret: an anchor vouches for what was "
                "there when it was taken, and events after it are as good as those who could write.",
                lambda plain, k: plain.put(plain.event(plain.last + 1)),
                NOTHING,
            ),
            Manipulation(
                "appended_unlinked",
                "an event appended after the last with a made-up link",
                "It is whole in itself and follows nothing.",
                lambda plain, k: plain.put(plain.event(plain.last + 1, prev_hash=bytes(32))),
                end(LINK, 1),
            ),
            Manipulation(
                "seq_0",
                "a row numbered 0 added",
                "A ledger begins with event 1.",
                lambda plain, k: plain.put(plain.event(1, seq=0)),
                at(MALFORMED, 1),
            ),
            Manipulation(
                "seq_negative",
                "a row numbered −5 added",
                "A ledger begins with event 1.",
                lambda plain, k: plain.put(plain.row(k) | {"seq": -5, "key": None}),
                at(MALFORMED, 1),
            ),
            Manipulation(
                "seq_lowest",
                "a row with the lowest number of all, −2^63, added",
                "Verification begins at the lowest number that is stored.",
                lambda plain, k: plain.put(plain.row(k) | {"seq": -(1 << 63), "key": None}),
                at(MALFORMED, 1),
            ),
            Manipulation(
                "seq_highest",
                "a row with the highest number of all, 2^63 − 1, added",
                "Every number between the last event and it is missing.",
                lambda plain, k: plain.put(plain.row(k) | {"seq": (1 << 63) - 1, "key": None}),
                end(GAP, 1),
            ),
            Manipulation(
                "spliced",
                "the row replaced by the same-numbered one of another ledger",
                "It is whole in itself and follows an event of the other ledger.",
                splice,
                here(LINK),
            ),
            Manipulation(
                "spliced_rest",
                "this row and all later ones replaced by another ledger's",
                "The first of them follows an event of the other ledger.",
                lambda plain, k: splice(plain, k, whole=True),
                here(LINK),
            ),
            Manipulation(
                "spliced_relinked",
                "this row and all later ones replaced by another ledger's, the first link corrected",
                "The row's hash covers its link.",
                lambda plain, k: splice(plain, k, whole=True, relink=True),
                here(EDITED),
            ),
            Manipulation(
                "replaced",
                "the whole file replaced by another ledger's",
                "The other ledger is in order. Only a head names the ledger that should be here.",
                replace_file,
                NOTHING,
                at(EDITED, 1),
                at(EDITED, 1),
            ),
        ],
    ),
    Group(
        "The hashes were computed anew",
        "Somebody who knows the format changed the record and made every later hash follow. The chain "
        "holds no secret, so the file alone cannot show it; a head kept elsewhere can. The finding is at "
        "the event that the head names, and the change is there *or before*: compare with a backup to "
        "find the place.",
        [
            Manipulation(
                "rewritten",
                "the body replaced, and every hash from there on computed anew",
                "Every hash follows, but leads to another head.",
                steps(setting(body=SHADOW), rehash_rest),
                NOTHING,
                end(EDITED),
                end(EDITED),
            ),
            Manipulation(
                "rewritten_head_forged",
                "the body replaced, all computed anew, and the head file rewritten to match",
                "The head file lies beside the ledger and can be altered like it.",
                lambda plain, k: (plain.set(k, body=SHADOW), plain.rehash(k), plain.forge_head_file())[0],
                NOTHING,
                NOTHING,
                end(EDITED),
            ),
            Manipulation(
                "rewritten_and_grown",
                "the body replaced, all computed anew, and two more events appended",
                "The event that the head names has another hash now.",
                lambda plain, k: (
                    plain.set(k, body=SHADOW),
                    plain.rehash(k),
                    plain.put(plain.event(plain.last + 1)),
                    plain.put(plain.event(plain.last + 1)),
                )[0],
                NOTHING,
                end(EDITED),
                end(EDITED),
            ),
            Manipulation(
                "removed_rewritten",
                "the row deleted, the later ones numbered down, all computed anew",
                "The log ends one event before the head.",
                steps(close_gap, rehash_rest),
                NOTHING,
                end(TRUNCATED),
                end(TRUNCATED),
            ),
            Manipulation(
                "inserted_rewritten",
                "an event slipped in, the later ones numbered up, all computed anew",
                "The event that the head names has another hash now.",
                steps(insert_here, rehash_rest),
                NOTHING,
                end(EDITED),
                end(EDITED),
            ),
            Manipulation(
                "id_rewritten",
                "the ledger id changed, and every hash computed anew",
                "A head names its ledger.",
                lambda plain, k: (change_ledger_id(plain, k), plain.rehash(1))[0],
                NOTHING,
                at(EDITED, 1),
                at(EDITED, 1),
            ),
        ],
    ),
    Group(
        "A body was erased, or brought back",
        f"An erasure empties body and salt and leaves a record, here event {RECORD} for event {ERASED}. "
        "Row and record have to agree.",
        [
            Manipulation(
                "nulled",
                "body and salt emptied",
                "No later event records an erasure.",
                setting(body=None, salt=None),
                here(ERASED_WITHOUT),
            ),
            Manipulation(
                "body_nulled",
                "the body emptied, the salt left",
                "No later event records an erasure.",
                setting(body=None),
                here(ERASED_WITHOUT),
            ),
            Manipulation(
                "salt_nulled",
                "the salt emptied, the body left",
                "A body without its salt cannot be checked, and no erasure leaves one.",
                setting(salt=None),
                here(MALFORMED),
            ),
            Manipulation(
                "restored",
                "the body put back that had been erased on record",
                "The body is genuine, but the record says that it is gone. Somebody kept a copy.",
                lambda plain, k: plain.set(ERASED, salt=known_body()[0], body=known_body()[1]),
                at(MALFORMED, ERASED),
            ),
            Manipulation(
                "salt_restored",
                "the salt alone put back",
                "An erasure takes the salt with it, or a short body could be guessed.",
                lambda plain, k: plain.set(ERASED, salt=known_body()[0]),
                at(MALFORMED, ERASED),
            ),
            Manipulation(
                "foisted",
                "another body put where one had been erased",
                "The body hash, which stays, is that of the old body.",
                lambda plain, k: plain.set(ERASED, salt=bytes(16), body=SHADOW),
                at(EDITED, ERASED),
            ),
            Manipulation(
                "record_deleted",
                "the record of an erasure deleted",
                "Its number is missing.",
                lambda plain, k: plain.delete(RECORD),
                at(GAP, RECORD),
            ),
            Manipulation(
                "record_nulled",
                "the record's own body emptied",
                f"Nothing accounts for event {ERASED} now.",
                lambda plain, k: plain.set(RECORD, body=None, salt=None),
                at(ERASED_WITHOUT, ERASED),
            ),
            Manipulation(
                "record_misdirected",
                "the record made to name another event, all hashes computed anew",
                f"Nothing accounts for event {ERASED} now.",
                misdirect_record,
                at(ERASED_WITHOUT, ERASED),
            ),
            Manipulation(
                "record_erased",
                "the record itself erased, on record, after a second record was appended",
                "The ledger's own events are never erased.",
                erase_record,
                at(MALFORMED, RECORD),
            ),
            Manipulation(
                "record_of_itself",
                "a record appended that names itself",
                "A record names an earlier event.",
                lambda plain, k: plain.put(plain.record(plain.last + 1, ERASED, seq=plain.last + 1)),
                end(MALFORMED, 1),
            ),
            Manipulation(
                "record_ambiguous",
                "a record appended that names two events in one",
                "Two readers could take it for two different things.",
                ambiguous_record,
                end(MALFORMED, 1),
            ),
            Manipulation(
                "record_bottomless",
                "a record appended that is nested 200,000 deep",
                "Made to crash a reader.",
                bottomless_record,
                end(MALFORMED, 1),
            ),
            Manipulation(
                "record_uneven",
                "a record appended whose body hash is no hash",
                "It cannot be held against any event.",
                uneven_record,
                end(MALFORMED, 1),
            ),
            Manipulation(
                "erased_properly",
                "body and salt emptied, and a proper record appended",
                "That is what erasing does. It is on record, not approved: the record says which event, "
                "and the reason that was given.",
                lambda plain, k: (
                    plain.put(plain.record(plain.last + 1, k)),
                    plain.set(k, body=None, salt=None),
                )[0],
                NOTHING,
            ),
        ],
    ),
    Group(
        "Values or tables of another kind",
        "The table was made anew without its types and checks. Some of these values have the same hash as "
        "the genuine one, so the types are checked as well.",
        [
            Manipulation(
                "kind_integer",
                "an integer as the kind",
                "A kind is text.",
                loosened("kind", lambda kind: 7),
                here(MALFORMED),
            ),
            Manipulation(
                "at_real",
                "a fraction in the time",
                "A time is an integer.",
                loosened("at", lambda at: at + 0.5),
                here(MALFORMED),
            ),
            Manipulation(
                "stream_blob",
                "the stream's bytes as a blob",
                "A stream is text.",
                loosened("stream", str.encode),
                here(MALFORMED),
            ),
            Manipulation(
                "body_text",
                "the body's bytes as text",
                "A body is a blob.",
                loosened("body", bytes.decode),
                here(MALFORMED),
            ),
            Manipulation(
                "hash_text",
                "the hash in hexadecimal",
                "A hash is 32 bytes.",
                loosened("hash", bytes.hex),
                here(MALFORMED),
            ),
            Manipulation(
                "hash_as_text",
                "the hash's own bytes as text",
                "A hash is a blob; a reader would fail on such text.",
                steps(
                    lambda plain, k: plain.loosen(),
                    lambda plain, k: plain.sql(
                        "UPDATE events SET hash = CAST(hash AS TEXT) WHERE seq = ?", k
                    ),
                ),
                here(MALFORMED),
            ),
            Manipulation(
                "kind_blob_beside_bad_text",
                "the kind's bytes as a blob, and bytes that are no UTF-8 in the next event's stream",
                "A kind is text.",
                steps(
                    loosened("kind", str.encode),
                    lambda plain, k: plain.sql(
                        "UPDATE events SET stream = CAST(x'ff' AS TEXT) WHERE seq = ?", k + 1
                    ),
                ),
                here(MALFORMED),
            ),
            Manipulation(
                "hash_short",
                "the hash cut to 31 bytes",
                "A hash is 32 bytes.",
                loosened("hash", lambda digest: digest[:31]),
                here(MALFORMED),
            ),
            Manipulation(
                "prev_hash_null",
                "no link at all",
                "A link is 32 bytes.",
                loosened("prev_hash", lambda digest: None),
                here(MALFORMED),
            ),
            Manipulation(
                "stream_not_utf8",
                "bytes that are no UTF-8 in the stream",
                "Text is UTF-8.",
                lambda plain, k: (
                    plain.db.execute("UPDATE events SET stream = CAST(x'ff' AS TEXT) WHERE seq = ?", (k,))
                    and None
                ),
                here(MALFORMED),
            ),
            Manipulation(
                "stream_control",
                "a line break in the stream, all hashes computed anew",
                "Names have no control characters, which could forge lines of a listing.",
                steps(setting(stream="order:1\nevent 8"), rehash_rest),
                here(MALFORMED),
            ),
            Manipulation(
                "key_empty",
                "an empty key where there was none",
                "It has the same hash as no key, so no hash shows it.",
                lambda plain, k: plain.set(keyless(k), key=""),
                Says(MALFORMED, lambda k, last: keyless(k)),
            ),
            Manipulation(
                "meta_empty",
                "an empty meta where there was none",
                "It has the same hash as no meta, so no hash shows it.",
                lambda plain, k: plain.set(keyless(k), meta=b""),
                Says(MALFORMED, lambda k, last: keyless(k)),
            ),
            Manipulation(
                "body_empty",
                "an empty body, all hashes computed anew",
                "A body is JSON.",
                steps(setting(body=b""), rehash_rest),
                here(MALFORMED),
            ),
            Manipulation(
                "view",
                "the table replaced by a view of another",
                "A view can show anything.",
                make_view,
                fails(NotALedger),
            ),
            Manipulation(
                "doubled",
                "a second row with the same number, behind another primary key",
                "A number could then name two rows, one for verification and one for readers.",
                double,
                fails(NotALedger),
            ),
            Manipulation(
                "column_missing",
                "the body's column renamed",
                "There is nothing to verify.",
                lambda plain, k: plain.db.execute("ALTER TABLE events RENAME COLUMN body TO body2") and None,
                fails(Unavailable),
            ),
            Manipulation(
                "unmarked",
                "the file's mark (`application_id`) removed",
                "The file no longer says that it is a ledger.",
                lambda plain, k: plain.db.execute("PRAGMA application_id = 0") and None,
                fails(NotALedger),
            ),
            Manipulation(
                "user_version",
                "a newer format claimed in the file's header",
                "This version does not know what a newer one means.",
                lambda plain, k: plain.db.execute("PRAGMA user_version = 2") and None,
                fails(NewerFormat),
            ),
            Manipulation(
                "format",
                "a newer format claimed in event 1, all hashes computed anew",
                "This version does not know what a newer one means.",
                change_format,
                fails(NewerFormat),
            ),
        ],
    ),
]
SALTS: dict[int, bytes] = {}
