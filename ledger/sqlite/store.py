"""Rows in one SQLite file.

One connection writes, guarded by a lock; reads borrow connections from a pool and read in
pages, so that a slow consumer never holds a transaction open and the write-ahead log can
always be checkpointed.
"""

from __future__ import annotations

import enum
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import apsw

from ..chain import NO_HASH
from ..errors import (
    Closed,
    Corrupt,
    Interfered,
    LedgerMoved,
    LogRemoved,
    TallyError,
    TracesRemain,
    Unavailable,
)
from ..event import COLUMNS, Head, Row
from ..headfile import beside, read_head_file
from ..store import Build
from .connection import committing, connect_reader, connect_writer, immediate, named_errors
from .place import NO_FILE, Place
from .tail import held_against

_SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM events"
_INSERT: Final = f"INSERT INTO events ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
#: Rows or keys in one statement, at most. SQLite takes 32,766 values; apsw keeps 100 statements
#: prepared, of up to 16 KiB of text each.
_STATEMENT_ROWS_MAX: Final = 128
_FOUND: Final = "SELECT seq AS found FROM events WHERE seq > ? AND seq < ? AND stream = ?"
_HEAD: Final = "SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1"
_TEXT_COLUMNS: Final = ("kind", "stream", "key")
#: Text as bytes, and a value of no use for what has the other type.
_TEXT_AS_BYTES: Final = ", ".join(
    f"CASE typeof({c}) WHEN 'text' THEN CAST({c} AS BLOB) WHEN 'blob' THEN 0 ELSE {c} END"
    if c in _TEXT_COLUMNS
    else f"CASE typeof({c}) WHEN 'text' THEN 'text' ELSE {c} END"
    for c in COLUMNS
)
PAGE_ROWS: Final = 1000
_INT64_MAX: Final = (1 << 63) - 1
PAGE_BYTES: Final = 4 << 20
#: How often, at most, appending looks whether the file is still at its path.
LOOK_EVERY_S: Final = 1.0
_OWN_TRIGGERS: Final = ("events_follow", "events_no_delete", "events_no_update")


def _insert(con: apsw.Connection, rows: Sequence[Row]) -> None:
    """Insert the rows, in order, in few statements. Raises Interfered if the file does not hold them then.

    Every step of a statement lets other threads run and then waits for its turn again: fewer
    steps, fewer waits beside a busy thread.
    """
    changes_before = con.total_changes()
    for start in range(0, len(rows), _STATEMENT_ROWS_MAX):
        part = rows[start : start + _STATEMENT_ROWS_MAX]
        con.execute(_insert_of(len(part)), tuple(chain.from_iterable(part)))
    if con.total_changes() - changes_before != len(rows):
        _check_kept(con, rows)


def _check_kept(con: apsw.Connection, rows: Sequence[Row]) -> None:
    """Raise Interfered unless the rows just inserted are in the file as they were sent.

    Only asked where more or less was changed than that: a trigger of another program dropped a row,
    altered it, or wrote something of its own elsewhere, which is no harm.
    """
    query = f"{_SELECT} NOT INDEXED WHERE seq BETWEEN ? AND ? ORDER BY seq"
    found: list[Any] = con.execute(query, (rows[0].seq, rows[-1].seq)).fetchall()
    if found != list(map(tuple, rows)):
        stored = bool(found) and not con.in_transaction  # which the caller rolls back
        raise Interfered(con.filename, len(rows), stored, _foreign_triggers(con))


def _empty(con: apsw.Connection, seqs: Sequence[int]) -> None:
    """Null body and salt of the rows. Raises Interfered if one of them is there still."""
    changes_before = con.total_changes()
    con.executemany("UPDATE events SET body = NULL, salt = NULL WHERE seq = ?", [(s,) for s in seqs])
    if con.total_changes() - changes_before == len(seqs):
        return
    query = "SELECT count(*) FROM events NOT INDEXED WHERE seq = ? AND (body IS NULL) AND (salt IS NULL)"
    if not all(con.execute(query, (seq,)).get for seq in seqs):
        raise Interfered(con.filename, len(seqs), False, _foreign_triggers(con))


def _foreign_triggers(con: apsw.Connection) -> tuple[str, ...]:
    names: list[Any] = con.execute(
        "SELECT CAST(name AS BLOB) FROM sqlite_schema WHERE type = 'trigger'"
    ).fetchall()
    texts = (name.decode(errors="replace") for (name,) in names)
    return tuple(text for text in texts if text not in _OWN_TRIGGERS)


def _commit(con: apsw.Connection, rows: Sequence[Row]) -> None:
    """Insert the rows in a transaction of their own, which for one row is its statement alone."""
    if len(rows) == 1:
        with committing(con):
            _insert(con, rows)
    else:
        with immediate(con):
            _insert(con, rows)


@lru_cache(maxsize=_STATEMENT_ROWS_MAX)
def _insert_of(count: int) -> str:
    return _INSERT + f", ({', '.join('?' * len(COLUMNS))})" * (count - 1)


@lru_cache(maxsize=_STATEMENT_ROWS_MAX)
def _find_of(count: int) -> str:
    return f"SELECT key FROM events WHERE key IN ({', '.join('?' * count)})"


def _head_of(rows: Sequence[Row]) -> Head:
    return Head(rows[-1].seq, rows[-1].hash)


class Durability(enum.Enum):
    """What an acknowledged append survives."""

    #: A power cut (`synchronous=FULL`): every commit is on disk before it is acknowledged.
    POWER = "FULL"
    #: A crash of the process (`synchronous=NORMAL`); a power cut can roll back the last commits.
    PROCESS = "NORMAL"


class SQLiteStore:
    """The store on one local SQLite file. Safe to share between threads, not across a fork."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        read_only: bool = False,
        durability: Durability = Durability.POWER,
        timeout_s: float = 30.0,
    ) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self.durability = durability
        self._timeout_s = timeout_s
        self._named_errors = named_errors(self.path, timeout_s)
        self._pid = os.getpid()
        self._closed = False
        self._write_lock = threading.Lock()
        #: The head that the last append left; None after an error.
        self._left: Head | None = None
        #: Whether the append before found the head where the one before that had left it.
        self._undisturbed = False
        self._building_thread: int | None = None
        #: The last event that was there when the file was last seen in its place, when that was, and
        #: the last event appended since.
        self._seen_seq = 0
        self._seen_s = time.monotonic()
        self._last_seq = 0
        self._idle_readers: list[apsw.Connection] = []
        self._writer: apsw.Connection | None = None
        if read_only:
            self._idle_readers.append(connect_reader(self.path, timeout_s=timeout_s))
        else:
            self._writer = connect_writer(
                self.path, create=create, synchronous=durability.value, timeout_s=timeout_s
            )
            self._place = Place(self.path)

    # -- writing -----------------------------------------------------------------------

    def append(self, build: Build) -> Head:
        """See Store.append. `build` runs once under the write lock, perhaps after a try without."""
        con = self._writing_connection()
        with self._write_lock, self._named_errors:
            if time.monotonic() - self._seen_s >= LOOK_EVERY_S:
                self._look_for_the_file()
            left, self._left = self._left, None
            head = self._append_behind(left, con, build) if left is not None and self._undisturbed else None
            if head is None:
                with immediate(con):
                    head = self._head(con)
                    self._seen_seq = self._seen_seq or head.seq
                    self._undisturbed = head == left
                    rows = self._built(build, head)
                    if rows:
                        _insert(con, rows)
                        head = _head_of(rows)
            self._left = head
            self._last_seq = head.seq
        # Durable from here on (Durability.POWER): the commit's frames are synced to the log.
        return head

    def _append_behind(self, left: Head, con: apsw.Connection, build: Build) -> Head | None:
        """Append without a look at the head, where nobody else seems to write; None if nothing was stored.

        If another process has appended after all, the seq is in use and the file refuses the rows.
        What `build` read was as of this head then, or the rows would not have been taken.
        """
        rows = self._built(build, left)
        if not rows:
            return None
        try:
            _commit(con, rows)
        except apsw.ConstraintError:
            return None
        return _head_of(rows)

    def erase(self, seqs: Sequence[int], build: Build) -> Head:
        """See Store.erase. With no rows built, only the scrubbing is done again."""
        con = self._writing_connection()
        with self._write_lock, self._named_errors:
            self._look_for_the_file()
            with immediate(con):
                head = self._head(con)
                self._seen_seq = self._seen_seq or head.seq
                rows = self._built(build, head)
                if rows:
                    _insert(con, rows)
                    _empty(con, seqs)
                    head = _head_of(rows)
            self._last_seq = head.seq
        self._scrub(seqs)
        return head

    def _scrub(self, seqs: Sequence[int]) -> None:
        """Leave no old page behind: fold the log into the file, then cut it to nothing.

        secure_delete has overwritten the freed bytes in the new pages; the old ones are in
        the log only, or are replaced in the file by the checkpoint.
        """
        assert self._writer is not None
        where, traces = str(self.path), tuple(seqs)
        with self._write_lock:
            try:
                busy, _, _ = next(self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
            except (apsw.BusyError, apsw.LockedError):
                busy = 1
            except apsw.FullError:
                raise TracesRemain(where, traces, "the disk is full", "free some space") from None
            except apsw.Error as error:
                raise TracesRemain(where, traces, str(error), "see `tally doctor`") from error
        if busy:
            raise TracesRemain(where, traces)

    def is_in_place(self) -> bool:
        """Whether what was opened for writing, file and log, is still at its path, as far as can be told."""
        return self._writer is None or self._place.missing() is None

    def _look_for_the_file(self) -> None:
        """Raise LedgerMoved if the file at the path, or the log beside it, is another than the one opened.

        No reader would ever find what is appended here. The write lock is held.
        """
        missing = self._place.missing()
        last = max(self._last_seq, self._seen_seq)
        if missing is None:
            self._seen_s, self._seen_seq = time.monotonic(), last
        elif missing.log:
            raise LogRemoved(str(self.path), missing.found, last, self._seen_seq)
        else:
            raise LedgerMoved(str(self.path), missing.found, last, self._seen_seq)

    def _folded_in(self, moved: LedgerMoved) -> bool:
        """Fold the log that is open into its file, if that can do no harm; whether all is at the path then.

        Where the log was removed, somebody else may have written meanwhile, and the pages of two logs in
        one file would be the end of it: so the file, as it lies without any log, has to end with an event
        of ours.
        """
        assert self._writer is not None
        try:
            if not isinstance(moved, LogRemoved):
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                return False
            if moved.found != NO_FILE or not self._is_ours(self._end_as_it_lies()):
                return False
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return self._end_as_it_lies() == self._head(self._writer)
        except (apsw.Error, TallyError):
            return False

    def _end_as_it_lies(self) -> Head:
        with closing(connect_reader(self.path, timeout_s=self._timeout_s, immutable=True)) as con:
            return self._head(con)

    def _is_ours(self, head: Head) -> bool:
        assert self._writer is not None
        found = self._writer.execute("SELECT hash FROM events WHERE seq = ?", (head.seq,)).get
        return bool(found == head.hash)

    def _writing_connection(self) -> apsw.Connection:
        self._check_usable()
        if self._writer is None:
            raise Unavailable(str(self.path), "was opened read-only", "open it without read_only to append")
        return self._writer

    def _built(self, build: Build, head: Head) -> Sequence[Row]:
        self._building_thread = threading.get_ident()
        try:
            return build(head)
        finally:
            self._building_thread = None

    # -- reading -----------------------------------------------------------------------

    def head(self) -> Head:
        """See Store.head."""
        with self._reading() as con:
            return self._head(con)

    @staticmethod
    def _head(con: apsw.Connection) -> Head:
        row = con.execute(_HEAD).fetchone()
        return Head(0, NO_HASH) if row is None else Head(*row)

    def find_key(self, key: str) -> Row | None:
        """See Store.find_key."""
        with self._reading() as con:
            seq = con.execute("SELECT seq FROM events WHERE key = ? ORDER BY seq LIMIT 1", (key,)).get
            row = con.execute(f"{_SELECT} NOT INDEXED WHERE seq = ? AND key = ?", (seq, key)).fetchone()
        return None if row is None else Row._make(row)

    def find_keys(self, keys: Sequence[str]) -> dict[str, Row]:
        """See Store.find_keys. As a rule none is found, so what is found is read one by one."""
        found: list[Any] = []
        with self._reading() as con:
            for start in range(0, len(keys), _STATEMENT_ROWS_MAX):
                part = tuple(keys[start : start + _STATEMENT_ROWS_MAX])
                found += con.execute(_find_of(len(part)), part)
        rows = ((key, self.find_key(key)) for (key,) in found)
        return {key: row for key, row in rows if row is not None}

    def stream_head(self, stream: str) -> int:
        """See Store.stream_head."""
        with self._reading() as con:
            return con.execute("SELECT max(seq) FROM events WHERE stream = ?", (stream,)).get or 0

    def read(
        self,
        after: int = 0,
        *,
        before: int | None = None,
        stream: str | None = None,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Row]:
        """See Store.read."""
        # Columns come from the table, which verification covers; an index only says where to look.
        source, where, fixed, by = "events NOT INDEXED", ["seq > ? AND seq < ?"], [], "seq"
        if stream is not None:
            source, by = f"({_FOUND}) CROSS JOIN events NOT INDEXED", "found"
            where = ["seq = found AND stream = ?3"]
            fixed.append(stream)
        if kinds is not None:
            where.append("(" + " OR ".join(["kind GLOB ?"] * len(kinds)) + ")" if kinds else "0")
            fixed.extend(kinds)
        order = "DESC" if reverse else "ASC"
        columns = ", ".join(COLUMNS)
        sql = f"SELECT {columns} FROM {source} WHERE {' AND '.join(where)} ORDER BY {by} {order} LIMIT ?"
        low, high = _int64(after), _INT64_MAX if before is None else _int64(before)
        left = -1 if limit is None else max(limit, 0)
        while left != 0:
            try:
                page, complete = self._page(sql, (low, high, *fixed, left))
            except UnicodeDecodeError as error:
                raise Corrupt(str(self.path), f"text that is not UTF-8: {error.reason}") from None
            for row in page:
                yield Row._make(row)
            if complete:
                return
            left -= len(page) if left > 0 else 0
            if reverse:
                high = page[-1][0]
            else:
                low = page[-1][0]

    def read_raw(self, after: int | None = None, before: int | None = None) -> Iterator[Sequence[Any]]:
        """See Store.read_raw. Text that is not UTF-8 comes as bytes. Raises Corrupt."""
        # Both ends included, so that a row at either end of the integers is no hiding place.
        low = -_INT64_MAX - 1 if after is None else _int64(after + 1)
        high = _INT64_MAX if before is None else _int64(before - 1)
        sql = f"{_SELECT} NOT INDEXED WHERE seq BETWEEN ? AND ? ORDER BY seq"
        while low <= high:
            try:
                page, complete = self._page(sql, (low, high))
            except UnicodeDecodeError:
                # Rare enough to read this page a row at a time, text as bytes.
                page, complete = self._page_of_bytes(low, high)
            yield from page
            if complete:
                return
            low = page[-1][0] + 1

    def _page(self, sql: str, bindings: tuple[Any, ...]) -> tuple[list[tuple[Any, ...]], bool]:
        """Up to a page of rows, and whether the statement had no more."""
        page: list[tuple[Any, ...]] = []
        size = 0
        with self._reading() as con:
            cursor = con.cursor()
            try:
                for row in cursor.execute(sql, bindings):
                    page.append(row)
                    body = row[7]
                    size += len(body) if isinstance(body, (bytes, str)) else 0
                    if len(page) == PAGE_ROWS or size > PAGE_BYTES:
                        return page, False
            except apsw.CorruptError:
                if not page:
                    raise
                return page, False  # the next page starts at the damage and raises
            finally:
                cursor.close(True)
        return page, True

    def _page_of_bytes(self, low: int, high: int) -> tuple[list[tuple[Any, ...]], bool]:
        sql = f"SELECT {_TEXT_AS_BYTES} FROM events NOT INDEXED WHERE seq BETWEEN ? AND ? ORDER BY seq"
        page, complete = self._page(sql, (low, high))
        return [tuple(map(_as_text, COLUMNS, row)) for row in page], complete

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        """A connection to read with: the writer's inside `build`, else one from the pool."""
        self._check_usable()
        if self._building_thread == threading.get_ident():
            assert self._writer is not None
            yield self._writer
            return
        try:
            con = self._idle_readers.pop()
        except IndexError:
            con = connect_reader(self.path, timeout_s=self._timeout_s)
        try:
            with self._named_errors:
                yield con
        except BaseException:
            con.close()  # it may have cached a damaged page
            raise
        else:
            self._give_back(con)

    def _give_back(self, con: apsw.Connection) -> None:
        if self._closed:
            con.close()
        else:
            self._idle_readers.append(con)

    # -- the file ----------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """See Store.summary."""
        with self._reading() as con:
            kinds: list[Any] = con.execute(
                "SELECT kind, count(*) FROM events GROUP BY kind ORDER BY 2 DESC, 1"
            ).fetchall()
            streams = con.execute("SELECT count(DISTINCT stream) FROM events").get
            sizes: list[Any] = con.execute(
                "SELECT count(*), count(body), coalesce(sum(length(body)), 0),"
                " coalesce(max(length(body)), 0), min(at), max(at) FROM events"
            ).fetchall()
        events, bodies, body_bytes, largest, first_at, last_at = sizes[0]
        return {
            "events": events,
            "streams": streams,
            "erased": events - bodies,
            "body_bytes": body_bytes,
            "largest_body_bytes": largest,
            "first_at": first_at,
            "last_at": last_at,
            "kinds": dict(kinds),
            "file_bytes": _size(self.path),
            "wal_bytes": _size(beside(self.path, "-wal")),
        }

    def copy_to(self, path: Path) -> None:
        """Write a consistent, compact copy of the file as of now; writers go on meanwhile.

        The path must not exist. The copy is durable when this returns.
        """
        with self._reading() as con:
            con.execute("VACUUM INTO ?", (str(path),))
        with path.open("rb+") as file:
            os.fsync(file.fileno())

    def check_tail(self) -> None:
        """Raise TailLost if the log does not hold the head kept beside it, as `Ledger.open` does."""
        kept = read_head_file(self.path)
        if kept is None:
            return
        with self._reading() as con:
            lost = held_against(con, self.path, kept)
        if lost is not None:
            raise lost

    def sync(self) -> None:
        """Make everything acknowledged so far durable against a power cut."""
        if self.durability is Durability.POWER or self.read_only:
            return
        try:
            fd = os.open(beside(self.path, "-wal"), os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def engine(self) -> dict[str, Any]:
        """See Store.engine."""
        with self._reading() as con:
            pragmas = {name: con.pragma(name) for name in ("journal_mode", "page_size")}
        if self._writer is not None:
            pragmas |= {
                name: self._writer.pragma(name)
                for name in ("synchronous", "secure_delete", "wal_autocheckpoint")
            }
        return {"name": "sqlite", "version": apsw.sqlite_lib_version(), "pragmas": pragmas}

    def close(self) -> None:
        """See Store.close. The last connection to close folds the log into the file.

        Raises LedgerMoved, with everything released, if something was appended since the file was last
        seen in its place and it is there no more.
        """
        if self._closed:
            return
        self._closed = True
        if os.getpid() != self._pid:
            return  # the parent's connections: closing them here could drop what it relies on
        with self._write_lock:
            while self._idle_readers:
                self._idle_readers.pop().close()
            if self._writer is None:
                return
            lost = None
            try:
                self._look_for_the_file()
            except LedgerMoved as moved:
                lost = None if self._folded_in(moved) else moved
                # Closing would delete the log by its name, which may be another's by now.
                self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._writer.close()
        if lost is not None and lost.last > lost.seen:
            raise lost

    def _check_usable(self) -> None:
        if self._closed:
            raise Closed(f"{self.path} was closed", "open it again")
        if os.getpid() != self._pid:
            raise Closed(
                f"{self.path} was opened before a fork", "open the ledger again in the child process"
            )


def _int64(seq: int) -> int:
    """A bound that SQLite can hold; no row lies beyond it."""
    return min(max(seq, -_INT64_MAX - 1), _INT64_MAX)


def _as_text(column: str, value: Any) -> Any:
    if column in _TEXT_COLUMNS and isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
