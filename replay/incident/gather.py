"""Which events belong to an incident: a fixed point over what ties events together.

One pass over the ledger notes the ties of every event in a temporary index, the only thing that grows with
the ledger, on disk beyond a size. From there on events are looked up: each is followed once, each stream and
each shared name once. docs/incident.md says what is followed and where it ends.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tallystick.events import gateway, session
from tallystick.ledger import records
from tallystick.ledger.errors import Unavailable
from tallystick.ledger.event import Head, Row
from tallystick.ledger.ledger import Ledger

from ..selection import Selection
from .links import Name, What, grounds_of, is_of_one_thing, is_whole, learned_from, seqs_in, ties_of

#: A name met on the way that more events share than this is too general to tell anything: it is not followed.
SHARED_MAX: Final = 10_000
#: An app's stream with more events than this is not taken as being about one thing.
STREAM_MAX: Final = 1000
#: Up to so many events the index is kept in memory.
IN_MEMORY_EVENTS: Final = 20_000
_PAGE: Final = 500
_GAP_MAX: Final = 16
_RECENT_MAX: Final = 4096
_NOTED_MAX: Final = 100
_SHOWN: Final = 80

_SCHEMA: Final = """
CREATE TABLE ties (token BLOB NOT NULL, role INTEGER NOT NULL, seq INTEGER NOT NULL);
CREATE TABLE members (
  seq INTEGER PRIMARY KEY, ring INTEGER NOT NULL, todo INTEGER NOT NULL, why TEXT NOT NULL
);
CREATE TABLE streams (stream TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE tokens (token BLOB PRIMARY KEY) WITHOUT ROWID;
"""

Progress = Callable[[int], None]


class Ring(IntEnum):
    """How an event belongs."""

    #: It was asked for.
    SEED = 0
    #: It is tied to one that belongs.
    BELONGS = 1
    #: Something that belongs rests on it; nothing else follows from it.
    EVIDENCE = 2


class _Role(IntEnum):
    SHARED = 0
    NAMES = 1
    KNOWN = 2


class _Todo(IntEnum):
    NOTHING = 0
    #: What a decision rests on.
    GROUNDS = 1
    #: All that it is tied to.
    FOLLOW = 2


class Member(NamedTuple):
    """An event of the incident, and why it is one."""

    seq: int
    ring: Ring
    why: str


class Gathered:
    """The events of an incident, as of a head, in a temporary place; made by `gather`."""

    def __init__(self, ledger: Ledger, head: Head, selection: Selection, db: sqlite3.Connection) -> None:
        self.head = head
        self.selection = selection
        #: Ties that were not followed, in words.
        self.general: list[str] = []
        self._ledger = ledger
        self._db = db

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM members").fetchone()[0])

    def members(self) -> Iterator[Member]:
        """Every event, in order of seq."""
        last = 0
        sql = "SELECT seq, ring, why FROM members WHERE seq > ? ORDER BY seq LIMIT ?"
        while page := self._db.execute(sql, (last, _PAGE)).fetchall():
            for seq, ring, why in page:
                yield Member(seq, Ring(ring), why)
            last = page[-1][0]

    def rows(self) -> Iterator[Row]:
        """Their rows, as stored."""
        return rows_at(self._ledger, (member.seq for member in self.members()))

    def pairs(self) -> Iterator[tuple[Member, Row]]:
        """Members and their rows. One whose row is gone, since the ledger is damaged, is left out."""
        rows = self.rows()
        row = next(rows, None)
        for member in self.members():
            if row is not None and row.seq == member.seq:
                yield member, row
                row = next(rows, None)

    def why(self, seq: int) -> str | None:
        """Why an event is part of it; None if it is not."""
        found = self._db.execute("SELECT why FROM members WHERE seq = ?", (seq,)).fetchone()
        return None if found is None else str(found[0])

    def holds(self, seq: int) -> bool:
        """Whether an event is part of it."""
        return self._db.execute("SELECT 1 FROM members WHERE seq = ?", (seq,)).fetchone() is not None


@contextmanager
def gather(
    ledger: Ledger, selection: Selection, head: Head, progress: Progress | None = None
) -> Iterator[Gathered]:
    """The events that belong to what a resolved selection asks for, as of a head. Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="tally-incident-") as folder:
        path = ":memory:" if head.seq <= IN_MEMORY_EVENTS else str(Path(folder) / "index")
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode=OFF")
                db.execute("PRAGMA synchronous=OFF")
                db.execute("PRAGMA cache_size=-16000")
                db.executescript(_SCHEMA)
                db.execute("BEGIN")
                gathered = Gathered(ledger, head, selection, db)
                _Gathering(ledger, gathered, db).run(progress)
                yield gathered
        except sqlite3.Error as error:
            problem = f"cannot hold the index of events ({error})"
            raise Unavailable("the temporary directory", problem, "set TMPDIR to another") from None


class _Gathering:
    """The work of finding them."""

    def __init__(self, ledger: Ledger, gathered: Gathered, db: sqlite3.Connection) -> None:
        self._ledger = ledger
        self._gathered = gathered
        self._head = gathered.head
        self._selection = gathered.selection
        self._db = db
        #: Some of the streams that were met, so that not every event asks the index.
        self._recent: set[str] = set()
        #: Some of the policies (hashes) and memory items (seqs) that were taken in: decisions share them.
        self._rested_on: set[str | int] = set()
        #: Of a span of time: what its events refer to is taken along, and nothing from there.
        self._spans = self._selection.since is not None or self._selection.until is not None

    def run(self, progress: Progress | None) -> None:
        self._index(progress)
        self._seeds()
        while page := self._pending():
            waiting = {seq: (ring, todo) for seq, ring, todo in page}
            for row in rows_at(self._ledger, waiting):
                ring, todo = waiting[row.seq]
                if todo == _Todo.FOLLOW:
                    self._follow(row)
                if row.kind == gateway.RECORDED and ring != Ring.EVIDENCE:
                    self._grounds(row)
        if not len(self._gathered):
            return
        self._erasures()
        self._add(1, Ring.EVIDENCE, "names the ledger")

    def _pending(self) -> list[tuple[int, int, int]]:
        """Events that wait to be looked at, marked as seen."""
        sql = "SELECT seq, ring, todo FROM members WHERE todo > 0 ORDER BY seq LIMIT ?"
        page = self._db.execute(sql, (_PAGE,)).fetchall()
        self._db.executemany("UPDATE members SET todo = 0 WHERE seq = ?", ((one[0],) for one in page))
        return page

    # -- the index -------------------------------------------------------------------------

    def _index(self, progress: Progress | None) -> None:
        """Note the ties of every event; of a span of time, which events are in it."""
        sql = "INSERT INTO ties VALUES (?, ?, ?)"
        since, until = self._selection.since, self._selection.until
        rows = self._ledger.rows(before=self._head.seq + 1)
        while page := list(islice(rows, _PAGE)):
            found: list[tuple[bytes, int, int]] = []
            for row in page:
                if self._spans:
                    if (since is None or row.at >= since) and (until is None or row.at < until):
                        self._add(row.seq, Ring.SEED, "in the span of time", _Todo.FOLLOW)
                    if row.kind != "kernel.executed":
                        continue
                ties = ties_of(row)
                found += [(name.token(), _Role.SHARED, row.seq) for name in ties.shared]
                if row.kind != records.BODY_ERASED:  # looked up at the end, of everything that is in
                    found += [(name.token(), _Role.NAMES, row.seq) for name in ties.names]
                found += [
                    (name.token(), _Role.KNOWN, row.seq) for name in ties.known_as if name.what is What.RUN
                ]
            self._db.executemany(sql, found)
            if progress is not None:
                progress(page[-1].seq)
        self._db.execute("CREATE INDEX ties_by_token ON ties (token, role, seq)")
        self._db.execute("CREATE INDEX members_todo ON members (seq) WHERE todo > 0")

    def _tied(self, name: Name, role: _Role, most: int = -1) -> list[int]:
        """The seqs of the events that share, name or are known as a name; at most `most`, in order."""
        sql = "SELECT DISTINCT seq FROM ties WHERE token = ? AND role = ? ORDER BY seq LIMIT ?"
        return [seq for (seq,) in self._db.execute(sql, (name.token(), role, most))]

    # -- adding ----------------------------------------------------------------------------

    def _seeds(self) -> None:
        asked = self._selection
        if asked.correlation is not None:
            name = Name(What.CORRELATION, asked.correlation)
            self._once(name)
            self._add_tied(name, _Role.SHARED, Ring.SEED, _same(name))
        elif asked.session is not None:
            self._whole_stream(session.STREAM_PREFIX + asked.session, Ring.SEED, _Todo.FOLLOW)
        elif asked.decision is not None:
            self._whole_stream(gateway.decision_stream(asked.decision), Ring.SEED, _Todo.FOLLOW)

    def _add(self, seq: int, ring: Ring, why: str, todo: _Todo = _Todo.NOTHING) -> None:
        """Take an event in; one that is in already can only come closer."""
        if not 0 < seq <= self._head.seq:
            return
        known = self._db.execute("SELECT ring FROM members WHERE seq = ?", (seq,)).fetchone()
        if known is None:
            self._db.execute("INSERT INTO members VALUES (?, ?, ?, ?)", (seq, ring, todo, why))
        elif ring < known[0]:
            self._db.execute(
                "UPDATE members SET ring = ?, todo = ?, why = ? WHERE seq = ?", (ring, todo, why, seq)
            )

    def _add_tied(self, name: Name, role: _Role, ring: Ring, why: str) -> None:
        """Take in all events with a tie, a page at a time; reading and writing one table do not mix."""
        last = 0
        sql = "SELECT DISTINCT seq FROM ties WHERE token = ? AND role = ? AND seq > ? ORDER BY seq LIMIT ?"
        while page := self._db.execute(sql, (name.token(), role, last, _PAGE)).fetchall():
            for (seq,) in page:
                self._add(seq, ring, why, _Todo.FOLLOW)
            last = page[-1][0]

    def _once(self, name: Name) -> bool:
        """Whether a name is met for the first time."""
        return self._db.execute("INSERT OR IGNORE INTO tokens VALUES (?)", (name.token(),)).rowcount > 0

    def _whole_stream(self, stream: str, ring: Ring, todo: _Todo, most: int | None = None) -> None:
        """Take in a stream from its first event to its last, once; one with more than `most` not at all."""
        if stream in self._recent:
            return
        if len(self._recent) >= _RECENT_MAX:
            self._recent.clear()
        self._recent.add(stream)
        if self._db.execute("INSERT OR IGNORE INTO streams VALUES (?)", (stream,)).rowcount == 0:
            return
        limit = None if most is None else most + 1
        rows = self._ledger.rows(before=self._head.seq + 1, stream=stream, limit=limit)
        seqs: Iterable[int] = (row.seq for row in rows)
        if most is not None:
            seqs = list(seqs)
            if len(seqs) > most:
                self._general(f"stream {_shown(stream)} has more than {most:,} events")
                return
        why = f"in {_thing(stream)}"
        for seq in seqs:
            self._add(seq, ring, why, todo)

    def _general(self, what: str) -> None:
        if len(self._gathered.general) < _NOTED_MAX:
            self._gathered.general.append(what)

    # -- following -------------------------------------------------------------------------

    def _follow(self, row: Row) -> None:
        """Take in all that an event is tied to."""
        further = _Todo.GROUNDS if self._spans else _Todo.FOLLOW
        if is_whole(row.stream):
            self._whole_stream(row.stream, Ring.BELONGS, further)
        elif is_of_one_thing(row.stream):
            self._whole_stream(row.stream, Ring.EVIDENCE, _Todo.NOTHING, STREAM_MAX)
        ties = ties_of(row)
        for name in ties.names:
            self._named(name, row.seq, further)
        if self._spans:
            return
        for name in ties.shared:
            self._sharing(name)
        self._naming(Name(What.EVENT, str(row.seq)), f"names event {row.seq}")
        for name in ties.known_as:
            self._naming(name, f"names {name.what} {_shown(name.value)}, event {row.seq}")
        if is_whole(row.stream):
            self._naming(Name(What.STREAM, row.stream), f"names {_thing(row.stream)}")

    def _named(self, name: Name, by: int, further: _Todo) -> None:
        """Take in what an event names."""
        why = f"named by event {by}"
        if name.what is What.STREAM:
            self._whole_stream(name.value, Ring.BELONGS, further)
        elif name.what is What.EVENT:
            for seq in seqs_in([name]):
                self._add(seq, Ring.BELONGS, why, further)
        elif name.what is What.KEY:
            found = self._ledger.find(name.value)
            if found is not None:
                self._add(found.seq, Ring.BELONGS, why, further)
        elif name.what is What.RUN:
            runs = self._tied(name, _Role.KNOWN, 2)
            if len(runs) == 1:  # an id that several runs have tells nothing
                self._add(runs[0], Ring.BELONGS, why, further)

    def _sharing(self, name: Name) -> None:
        """Take in all events that share a name, unless it is too general."""
        if not self._once(name):
            return
        if len(self._tied(name, _Role.SHARED, SHARED_MAX + 1)) > SHARED_MAX:
            self._general(f"{name.what} {_shown(name.value)} is shared by more than {SHARED_MAX:,} events")
            return
        self._add_tied(name, _Role.SHARED, Ring.BELONGS, _same(name))

    def _naming(self, name: Name, why: str) -> None:
        """Take in the events that name what belongs."""
        if not self._tied(name, _Role.NAMES, 1):
            return
        if name.what is What.RUN and len(self._tied(name, _Role.KNOWN, 2)) != 1:
            return
        if not self._once(Name(name.what, f"\0{name.value}")):  # apart from names that are shared
            return
        if len(self._tied(name, _Role.NAMES, SHARED_MAX + 1)) > SHARED_MAX:
            self._general(f"{name.what} {_shown(name.value)} is named by more than {SHARED_MAX:,} events")
            return
        self._add_tied(name, _Role.NAMES, Ring.BELONGS, why)

    def _grounds(self, row: Row) -> None:
        """Take in what a decision rests on: its policy, and what memory told it."""
        grounds = grounds_of(row)
        name = _shown(row.stream.removeprefix(gateway.decision_stream("")))
        if len(self._rested_on) > _RECENT_MAX:
            self._rested_on.clear()
        if grounds.policy_hash is not None and grounds.policy_hash not in self._rested_on:
            self._rested_on.add(grounds.policy_hash)
            stream = gateway.policy_stream(grounds.policy_hash)
            for found in self._ledger.rows(before=self._head.seq + 1, stream=stream, limit=1):
                self._add(found.seq, Ring.EVIDENCE, f"policy of decision {name}")
        for seq in grounds.memories:
            if seq in self._rested_on:
                continue
            self._rested_on.add(seq)
            item = next(self._ledger.rows(seq - 1, before=seq + 1), None)
            if item is None or item.kind != gateway.MEMORY_ADDED:
                continue
            self._add(seq, Ring.EVIDENCE, f"memory that decision {name} looked at")
            learned = learned_from(item)
            if learned is not None and learned < seq:
                self._lesson(learned, seq)

    def _lesson(self, decision: int, memory: int) -> None:
        """Take in the decision that a memory item was learned from, and the label that came with it."""
        why = f"what memory item {gateway.memory_id(memory)} was learned from"
        for said in self._ledger.rows(decision - 1, before=decision + 1):
            self._add(decision, Ring.EVIDENCE, why)
            kinds = [gateway.LABELED]
            labels = self._ledger.rows(decision, before=memory, stream=said.stream, kinds=kinds)
            for label in deque((row.seq for row in labels), maxlen=1):
                self._add(label, Ring.EVIDENCE, why)

    def _erasures(self) -> None:
        """Take in the records of erasures of what is in."""
        kinds = [records.BODY_ERASED]
        for row in self._ledger.rows(before=self._head.seq + 1, stream=records.STREAM, kinds=kinds):
            for seq in erased_by(row):
                if self._gathered.holds(seq):
                    self._add(row.seq, Ring.EVIDENCE, f"records that the body of event {seq} was erased")


def erased_by(row: Row) -> Iterator[int]:
    """The seq that a record of an erasure names; nothing if it cannot be read."""
    try:
        yield msgspec.json.decode(row.body or b"", type=records.BodyErased).seq
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return


def rows_at(ledger: Ledger, seqs: Iterable[int]) -> Iterator[Row]:
    """The rows of seqs in rising order; neighbours are read together."""
    source = iter(seqs)
    while page := list(islice(source, _PAGE)):
        start = 0
        for at in range(1, len(page) + 1):
            if at == len(page) or page[at] - page[at - 1] > _GAP_MAX:
                wanted = set(page[start:at])
                rows = ledger.rows(page[start] - 1, before=page[at - 1] + 1)
                yield from (row for row in rows if row.seq in wanted)
                start = at


def _same(name: Name) -> str:
    return f"same {name.what} {_shown(name.value)}"


def _thing(stream: str) -> str:
    """A stream as people speak of it: session 7k2, decision dec_…, stream order:81."""
    what, _, name = stream.partition(":")
    return f"{what} {_shown(name)}" if is_whole(stream) else f"stream {_shown(stream)}"


def _shown(value: str) -> str:
    return value if len(value) <= _SHOWN else f"{value[: _SHOWN - 1]}…"
