"""The views file: where it lies, whether it is ours and whole, and the connection to it.

It is an ordinary SQLite database that can be deleted at any time. It is opened with the standard `sqlite3`
through `sqlite-utils`; the ledger's own file never is. A file that is damaged is removed and made anew;
one that is someone else's is never touched.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from tallystick.ledger.errors import Locked, Unavailable
from tallystick.ledger.headfile import beside

from .errors import NotViews
from .projection import COLUMN_TYPES, Table

if TYPE_CHECKING:
    from sqlite_utils import Database

SUFFIX: Final = ".views"
#: "TALV", at offset 68 of the file header.
APPLICATION_ID: Final = 0x54414C56
#: Version of the tables below and of what the engine does with them, as `user_version`.
ENGINE_VERSION: Final = 1
TIMEOUT_S: Final = 30.0
#: How long an erasure waits for readers of the views, before it is left to the next catch-up.
SCRUB_TIMEOUT_S: Final = 5.0
CACHE_KIB: Final = 16_384
PAGE_BYTES: Final = 8192
CHECKPOINT_PAGES: Final = 2000
#: Smaller than any SQLite database (https://www.sqlite.org/fileformat2.html, section 1.3).
_DATABASE_BYTES_MIN: Final = 512
_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
#: Result codes (https://www.sqlite.org/rescode.html) of a file that is not what it should be.
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
#: Of a statement of the engine's that finds other tables than it made.
_ODD: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})
_SHORT_READ: Final = 522
_MOVED: Final = 1032
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_UNWRITABLE: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})

_SCHEMA: Final = (
    """CREATE TABLE tally_views (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        ledger_id TEXT NOT NULL,
        scrub_wanted INTEGER NOT NULL DEFAULT 0,
        scrubbed INTEGER NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE tally_projections (
        name TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        tables TEXT NOT NULL,
        bodies TEXT NOT NULL,
        seq INTEGER NOT NULL,
        hash TEXT NOT NULL,
        erased_to INTEGER NOT NULL,
        failed_seq INTEGER,
        failure TEXT
    )""",
    """CREATE TABLE tally_skipped (
        projection TEXT NOT NULL,
        seq INTEGER NOT NULL,
        why TEXT NOT NULL,
        PRIMARY KEY (projection, seq)
    ) WITHOUT ROWID""",
)


class Moved(sqlite3.OperationalError):
    """The file was deleted or replaced by another process."""


class State(msgspec.Struct, kw_only=True):
    """How far a projection's tables go, as kept in the file with them.

    seq, hash: the last event applied. erased_to: erasures recorded up to that event are accounted for.
    bodies: the kinds that it reads, and whether it reads their bodies.
    """

    name: str
    version: int
    fingerprint: str
    tables: list[str]
    bodies: dict[str, bool]
    seq: int = 0
    hash: str = ""
    erased_to: int = 0
    failed_seq: int | None = None
    failure: str | None = None


class Place(NamedTuple):
    """Where views are kept: `path` None is memory; `why` says why it is not beside the ledger."""

    path: Path | None
    why: str | None = None


def place_of(ledger: Path | None, ledger_id: bytes) -> Place:
    """Where the views of a ledger go: beside its real file, else in the cache, else in memory."""
    if ledger is None:
        return Place(None)
    path = beside(ledger, SUFFIX)
    if _can_write(path):
        return Place(path)
    return cache_place(path, ledger_id)


def cache_place(beside_ledger: Path, ledger_id: bytes) -> Place:
    """Where views go that cannot be kept beside their ledger: the user's cache, made anew, or memory."""
    path = cached_copy(ledger_id)
    cache = path.parent
    with suppress(OSError):
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _can_write(path):
        return Place(None, f"neither {beside_ledger.parent} nor {cache} can be written")
    return Place(path, f"{beside_ledger.parent} cannot be written")


def cached_copy(ledger_id: bytes) -> Path:
    """Where this user's cache keeps the views of a ledger in a read-only directory; it may not exist."""
    return _cache() / f"{ledger_id.hex()}{SUFFIX}"


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "tallystick"


def _can_write(path: Path) -> bool:
    return os.access(path.parent, os.W_OK | os.X_OK) and (
        not path.exists() or os.access(path, os.R_OK | os.W_OK)
    )


class ViewsFile:
    """An open views file, or views in memory. Not safe between threads: its owner holds a lock."""

    def __init__(self, path: Path | None, ledger_id: bytes, mode: int = 0o666) -> None:
        """Open the file, making it if it is missing. mode: the ledger's, for a file that is made.

        Raises NotViews, Unavailable, and sqlite3.DatabaseError for one that is damaged.
        """
        from sqlite_utils import Database

        self.path = path
        self._ledger_id = ledger_id.hex()
        self.inode: tuple[int, int] | None = None
        if path is None:
            self.con = _connect(":memory:")
        else:
            with _door(path, exclusive=False):
                check_ours(path)
                _make(path, mode)
                self.con = _connect(path)
                self.inode = _inode(path)
        try:
            self._settle()
            self.db: Database = Database(self.con)
            self.query_only(True)
        except BaseException:
            self.con.close()
            raise

    def _settle(self) -> None:
        execute = self.con.execute
        execute("PRAGMA trusted_schema=OFF")
        execute(f"PRAGMA page_size={PAGE_BYTES}")
        execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        execute("PRAGMA secure_delete=OFF")  # erasures rewrite the whole file
        # A crash of the machine may lose the last commits: they are made again.
        execute("PRAGMA synchronous=NORMAL")
        if execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            with self.immediate():
                self.ensure_identity()
        if self.path is None:
            return
        if execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            with suppress(sqlite3.OperationalError):  # in use: the next to open it will do it
                execute("PRAGMA journal_mode=WAL")
        self._check_length(self.path)

    def _check_length(self, path: Path) -> None:
        """Raise sqlite3.DatabaseError if the file is shorter than it says."""
        for _ in range(10):
            if not _is_short(path):
                return
            # Perhaps another process is just writing the log back into the file.
            busy = self.con.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0]
            if not busy and _is_short(path):
                break
        raise sqlite3.DatabaseError("the file is shorter than its header says")

    def close(self) -> None:
        """Close the connection."""
        self.con.close()

    def check_place(self) -> None:
        """Raise Moved if the file was deleted or replaced: what is written now would be nowhere."""
        if self.moved():
            raise Moved

    def moved(self) -> bool:
        """Whether the file was deleted or replaced since it was opened."""
        return self.path is not None and _inode(self.path) != self.inode

    def remove(self) -> None:
        """Delete the file, if it is the one that was opened, so that it can be made anew."""
        self.con.close()
        if self.path is not None:
            remove(self.path, self.inode)

    def query_only(self, on: bool) -> None:
        """Refuse, or allow, writing through this connection."""
        self.con.execute(f"PRAGMA query_only={'ON' if on else 'OFF'}")

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """A transaction that holds the write lock from its start; rolled back on any exception."""
        self.con.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.con.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if self.con.in_transaction:
                    self.con.execute("ROLLBACK")
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A transaction for reading: everything in it is as of one moment."""
        self.con.execute("BEGIN")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):
                self.con.execute("ROLLBACK")

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part of a transaction that can fail by itself."""
        self.con.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):
                self.con.execute("ROLLBACK TO part")
                self.con.execute("RELEASE part")
            raise
        self.con.execute("RELEASE part")

    # -- what the file says of itself; the caller holds a transaction to change it -------------

    def changes(self) -> int:
        """A number that changes when another connection has changed the file."""
        found: int = self.con.execute("PRAGMA data_version").fetchone()[0]
        return found

    def ensure_identity(self, anew: bool = False) -> None:
        """Empty the file if `anew`, and unless it holds views of this ledger by this engine."""
        execute = self.con.execute
        if not anew and self.identified():
            return
        had = execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        for virtual in ("CREATE VIRTUAL%", "%"):  # virtual tables take theirs with them
            for kind, name in execute(
                "SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'view') AND sql LIKE ?"
                " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
                (virtual,),
            ).fetchall():
                execute(f'DROP {kind} IF EXISTS "{name.replace(chr(34), chr(34) * 2)}"')
        for statement in _SCHEMA:
            execute(statement)
        execute(
            "INSERT INTO tally_views (only, ledger_id, scrub_wanted) VALUES (1, ?, ?)",
            (self._ledger_id, int(bool(had))),
        )
        execute(f"PRAGMA application_id={APPLICATION_ID}")
        execute(f"PRAGMA user_version={ENGINE_VERSION}")

    def identified(self) -> bool:
        """Whether the file holds views of this ledger, kept by this version of the engine."""
        if self.con.execute("PRAGMA user_version").fetchone()[0] != ENGINE_VERSION:
            return False
        found = self.con.execute("SELECT ledger_id FROM tally_views").fetchone()
        return found is not None and found[0] == self._ledger_id

    def states(self) -> dict[str, State]:
        """The state of every projection in the file, ours or not. Raises msgspec.MsgspecError."""
        columns = State.__struct_fields__
        sql = f"SELECT {', '.join(columns)} FROM tally_projections ORDER BY name"
        rows = self.con.execute(sql).fetchall()
        states = {}
        for row in rows:
            kept = dict(zip(columns, row, strict=True))
            kept |= {name: msgspec.json.decode(kept[name]) for name in ("tables", "bodies")}
            states[kept["name"]] = msgspec.convert(kept, State)
        return states

    def save(self, state: State) -> None:
        """Keep a projection's state."""
        kept = msgspec.structs.asdict(state)
        kept |= {name: msgspec.json.encode(kept[name]).decode() for name in ("tables", "bodies")}
        marks = ", ".join("?" * len(kept))
        sql = f"INSERT OR REPLACE INTO tally_projections ({', '.join(kept)}) VALUES ({marks})"
        self.con.execute(sql, tuple(kept.values()))

    def skip(self, projection: str, seq: int, why: str) -> None:
        """Note an event whose body did not fit."""
        self.con.execute("INSERT OR REPLACE INTO tally_skipped VALUES (?, ?, ?)", (projection, seq, why))

    def unskip(self, projection: str, seqs: list[int]) -> None:
        """Take notes of events back."""
        self.con.executemany(
            "DELETE FROM tally_skipped WHERE projection = ? AND seq = ?", [(projection, seq) for seq in seqs]
        )

    # -- tables --------------------------------------------------------------------------

    def create(self, name: str, table: Table) -> None:
        """Create a table with its indexes and full text index; whatever had its name goes."""
        self.drop(name)
        pk = table.key[0] if len(table.key) == 1 else table.key
        columns = {column: COLUMN_TYPES[kind] for column, kind in table.columns.items()}
        self.con.execute(self.db.create_table_sql(name, columns, pk=pk))
        for columns_of in table.indexed:
            names = ", ".join(columns_of)
            quoted = ", ".join(f'"{column}"' for column in columns_of)
            self.con.execute(f'CREATE INDEX "{name} by {names}" ON "{name}" ({quoted})')
        if table.search:
            # The shape that sqlite-utils and Datasette know: an index over the table's own content.
            search = ", ".join(f'"{column}"' for column in table.search)
            self.con.execute(
                f'CREATE VIRTUAL TABLE "{name}_fts" USING FTS5 ({search}, content="{name}",'
                f" content_rowid=\"{table.rowid}\", tokenize='unicode61 remove_diacritics 2')"
            )
            self.con.execute(f'INSERT INTO "{name}_fts" ("{name}_fts", rank) VALUES (\'automerge\', 16)')

    def drop(self, name: str) -> None:
        """Drop a table and its full text index."""
        self.con.execute(f'DROP TABLE IF EXISTS "{name}_fts"')
        self.con.execute(f'DROP TABLE IF EXISTS "{name}"')

    def has_tables(self, names: list[str]) -> bool:
        """Whether these tables exist."""
        found = self.con.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        return {(name,) for name in names} <= set(found)

    def count(self, tables: list[str]) -> dict[str, int]:
        """How many rows each of these tables has; those that do not exist are left out."""
        return {
            name: self.con.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
            for name in tables
            if self.has_tables([name])
        }

    def skipped(self, projection: str) -> int:
        """How many events a projection skipped."""
        sql = "SELECT count(*) FROM tally_skipped WHERE projection = ?"
        found: int = self.con.execute(sql, (projection,)).fetchone()[0]
        return found

    def forget(self, state: State) -> None:
        """Drop everything of a projection."""
        for name in state.tables:
            self.drop(name)
        self.con.execute("DELETE FROM tally_skipped WHERE projection = ?", (state.name,))
        self.con.execute("DELETE FROM tally_projections WHERE name = ?", (state.name,))

    # -- erasing -------------------------------------------------------------------------

    def want_scrub(self) -> None:
        """Note, with what removes erased text from the tables, that old pages hold it still."""
        self.con.execute("UPDATE tally_views SET scrub_wanted = scrub_wanted + 1")

    def scrub_due(self) -> bool:
        """Whether old pages may hold erased text."""
        wanted, done = self.con.execute("SELECT scrub_wanted, scrubbed FROM tally_views").fetchone()
        return bool(wanted != done)

    def scrub(self) -> bool:
        """Rewrite the file and empty its log, so that nothing that was deleted is left; whether it is done.

        False if readers were in the way: the note stays, and the next catch-up tries again.
        """
        execute = self.con.execute
        wanted = execute("SELECT scrub_wanted FROM tally_views").fetchone()[0]
        indexes = execute("SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL TABLE%'").fetchall()
        execute(f"PRAGMA busy_timeout={int(SCRUB_TIMEOUT_S * 1000)}")
        try:
            for (name,) in indexes:  # words of deleted rows stay in an index until it is merged into one
                execute(f'INSERT INTO "{name}" ("{name}") VALUES (\'optimize\')')
            execute("VACUUM")
            busy = execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError as error:
            if is_damage(error):
                raise
            return False
        finally:
            execute(f"PRAGMA busy_timeout={int(TIMEOUT_S * 1000)}")
        if not busy:
            execute("UPDATE tally_views SET scrubbed = ?", (wanted,))
        return not busy


def check_ours(path: Path) -> None:
    """Raise NotViews if there is a file that is no views file; nothing of it is changed."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise NotViews(str(path), "is a directory, and the views would go there") from None
    except OSError as error:
        raise Unavailable(str(path), f"cannot be read ({error.strerror})") from None
    if not header.startswith(_MAGIC[: max(1, min(len(header), len(_MAGIC)))]) and header:
        raise NotViews(str(path), "is no database, and the views would go there")
    if size < _DATABASE_BYTES_MIN:
        return  # nothing, or the beginning of a database that was cut off
    if int.from_bytes(header[68:72]) != APPLICATION_ID:
        raise NotViews(str(path), "is another program's database, and the views would go there")


def _connect(name: str | Path) -> sqlite3.Connection:
    """A connection that has opened what belongs to it: the file, its log and its index of the log."""
    con = sqlite3.connect(name, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        con.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except BaseException:
        con.close()
        raise
    return con


@contextmanager
def _door(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Held while the file is opened, by any number, and while it is removed, by one.

    SQLite finds the log by its name: nobody must open a file that goes with the log of one that comes.
    """
    if sys.platform == "win32":  # where a file that is open cannot be removed
        yield
        return
    import fcntl

    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(directory)


def _make(path: Path, mode: int) -> None:
    """An empty file with the ledger's permissions: the views say what the ledger says."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode & 0o666 | 0o600))


def remove(path: Path, inode: tuple[int, int] | None = None) -> None:
    """Delete a views file, if it is still the one meant, with what SQLite keeps beside it."""
    with _door(path, exclusive=True):
        check_ours(path)
        if inode is None or inode == _inode(path):
            for suffix in ("-wal", "-shm", "-journal", ""):
                Path(f"{path}{suffix}").unlink(missing_ok=True)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_short(path: Path) -> bool:
    """Whether a file is shorter than its header says (fileformat2.html, sections 1.3.2 and 1.3.8)."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return False  # which is noticed as well
    if not size:
        return False
    page_bytes = int.from_bytes(header[16:18])
    counted = header[24:28] == header[92:96]  # else the page count is out of date
    pages = int.from_bytes(header[28:32]) if counted else 1
    return size < (65536 if page_bytes == 1 else page_bytes) * pages


def is_damage(error: Exception, own: bool = False) -> bool:
    """Whether the file is not what it should be, so that it has to be made anew.

    own: the statement was the engine's, which fits every sound file.
    """
    if not isinstance(error, sqlite3.Error):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python's own, such as text that is not UTF-8; or that of a caller's mistake
        return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError
    return (code & 0xFF) in (_DAMAGED | _ODD if own else _DAMAGED) or code == _SHORT_READ


def is_unwritable(error: Exception) -> bool:
    """Whether the place cannot be written."""
    code = getattr(error, "sqlite_errorcode", 0)
    return (code & 0xFF) in _UNWRITABLE and code != _MOVED


def is_passing(error: Exception) -> bool:
    """Whether it may be gone at the next attempt: files that another process has just removed, say."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_IOERR and code != _SHORT_READ


def is_moved(error: Exception) -> bool:
    """Whether SQLite noticed that the file was deleted or replaced."""
    return isinstance(error, Moved) or getattr(error, "sqlite_errorcode", 0) == _MOVED


def named(error: Exception, where: str) -> Unavailable:
    """An error of SQLite or of the file system as one of ours."""
    if isinstance(error, OSError):
        return Unavailable(where, f"the views cannot be used ({error.strerror})", "see Views(path=…)")
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY:
        return Locked(where, TIMEOUT_S)
    return Unavailable(where, f"the views cannot be used ({error})", "the ledger itself is not concerned")
