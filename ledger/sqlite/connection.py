"""Opening a ledger file: what is refused, which settings are in force, how errors are named."""

from __future__ import annotations

import os
import random
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote

import apsw

from ..errors import (
    Conflict,
    Corrupt,
    LedgerNotFound,
    Locked,
    NewerFormat,
    NotALedger,
    OutcomeUnknown,
    StoreError,
    TailLost,
    Unavailable,
)
from ..headfile import beside, head_path, read_head_file
from ..records import FORMAT_VERSION

APPLICATION_ID: Final = 0x54414C59  # "TALY", at offset 68 of the file header
PAGE_SIZE: Final = 8192
WAL_AUTOCHECKPOINT_PAGES: Final = 2000
WRITER_CACHE_KIB: Final = 16_384
READER_CACHE_KIB: Final = 4_096
#: What a ledger of one event needs on the disk while it is open, with its log and that log's index.
NEW_LEDGER_BYTES: Final = 192 << 10
#: What SQLite makes its shared memory larger by.
_SHM_STEP_BYTES: Final = 32 << 10
#: SQLite's locks and shared memory do not work reliably across these.
NETWORK_FILESYSTEMS: Final = frozenset(
    "nfs nfs4 cifs smb3 smbfs afs coda 9p ceph lustre gfs2 davfs fuse.sshfs fuse.s3fs fuse.gcsfuse".split()
)


class _JitteredWait:
    """A busy handler that waits a random while, so that no writer starves.

    SQLite's own handler sleeps in lockstep: whoever has waited longest sleeps longest.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadline = 0.0

    def __call__(self, earlier_calls: int) -> bool:
        now = time.monotonic()
        if earlier_calls == 0:
            self._deadline = now + self._timeout_s
        elif now >= self._deadline:
            return False
        time.sleep(random.uniform(0.0002, 0.004))
        return True


class named_errors:
    """A `with` block in which SQLite's errors become StoreErrors that name the file and the remedy."""

    __slots__ = ("_path", "_timeout_s")

    def __init__(self, path: str | os.PathLike[str], timeout_s: float = 0.0) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, apsw.Error):
            raise _named(error, str(self._path), self._timeout_s) from error


def _named(error: apsw.Error, where: str, timeout_s: float) -> StoreError:
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return Locked(where, timeout_s)
        case apsw.NotADBError():
            return NotALedger(where, "not a SQLite database", "name a ledger file")
        case apsw.CorruptError() | apsw.FormatError():
            return Corrupt(where, str(error))
        case apsw.ReadOnlyError() if getattr(error, "extendedresult", 0) == apsw.SQLITE_READONLY_ROLLBACK:
            remedy = "open it for writing once to finish its work"
            return Unavailable(where, "a crash left a journal beside the file", remedy)
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            remedy = "check its permissions and its directory's"
            return Unavailable(where, "the file is read-only", remedy)
        case apsw.FullError():
            remedy = "free some space and try again"
            return Unavailable(where, "the disk is full; nothing was stored", remedy)
        case apsw.CantOpenError():
            remedy = "check that its directory exists and may be written"
            return Unavailable(where, "cannot open the file", remedy)
        case apsw.IOError() if _is_full(where):  # which SQLite does not say of the files beside a ledger
            remedy = "free some space and try again"
            return Unavailable(where, "the disk is full; nothing was stored", remedy)
        case apsw.IOError():
            return Unavailable(where, f"input/output error ({error})", "check the disk and `tally doctor`")
        case apsw.ConstraintError():
            return Conflict(f"{where}: {error}; nothing was stored")
        case _:
            return Unavailable(where, f"SQLite says: {error}", "run `tally doctor`")


class committing:
    """A `with` block of one statement that commits: a COMMIT, or one outside any transaction.

    Under `synchronous=FULL` the rows are on disk when the block is left: a crash before the commit
    leaves none of them, a crash after it leaves all. When the commit itself fails, a crash that
    follows may bring back what was written of it: that is OutcomeUnknown.
    """

    __slots__ = ("_con",)

    def __init__(self, con: apsw.Connection) -> None:
        self._con = con

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (apsw.IOError, apsw.FullError)):
            remedy = "; free some space" if isinstance(error, apsw.FullError) else ""
            raise OutcomeUnknown(f"{self._con.filename}: the commit failed ({error}){remedy}") from error


class immediate:
    """A `with` block that is a write transaction: takes the lock first, rolls back on any exception."""

    __slots__ = ("_con",)

    def __init__(self, con: apsw.Connection) -> None:
        self._con = con

    def __enter__(self) -> None:
        self._con.execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with committing(self._con):
                    self._con.execute("COMMIT")
        finally:
            if self._con.in_transaction:
                self._con.execute("ROLLBACK")


def check_place(path: Path) -> None:
    """Refuse what cannot be a ledger's place: a directory, a device, a network file system."""
    try:
        found = path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Unavailable(str(path), f"cannot look at it ({error.strerror})", "check the path") from None
    else:
        if stat.S_ISDIR(found.st_mode):
            raise NotALedger(str(path), "is a directory", "name a file inside it")
        if not stat.S_ISREG(found.st_mode):
            raise NotALedger(str(path), "is no regular file", "name a ledger file")
        if found.st_size == 1:  # which SQLite takes for empty, and would write over
            raise NotALedger(str(path), "not a SQLite database", "name a ledger file")
    filesystem = filesystem_type(path)
    if filesystem in NETWORK_FILESYSTEMS:
        raise Unavailable(
            str(path),
            f"is on a network file system ({filesystem}), where SQLite's locks cannot be trusted",
            "keep the ledger on a local disk and copy backups to the network",
        )


def _check_room(path: Path) -> None:
    """Refuse to begin a ledger for which there is no room, rather than leave an empty file behind."""
    with suppress(OSError):
        if shutil.disk_usage(path.parent).free < NEW_LEDGER_BYTES:
            remedy = "free some space and try again"
            raise Unavailable(str(path), "the disk is full; nothing was stored", remedy)


def _is_full(where: str) -> bool:
    """Whether the disk has less room than SQLite's smallest step."""
    with suppress(OSError):
        return shutil.disk_usage(Path(where).parent).free < _SHM_STEP_BYTES
    return False


def filesystem_type(path: Path) -> str | None:
    """The type of the file system that holds the path, where /proc tells; else None."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    target = os.path.realpath(path)
    best, found = "", None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, fields[2]
    return found


def refuse_foreign(path: Path) -> None:
    """Refuse another program's database before it is opened in earnest.

    Opening alone would replay its journal into it, or leave files beside it. An immutable
    connection looks at the file as it lies; a plain `open` would drop SQLite's locks on it.
    """
    try:
        if not path.stat().st_size:
            return
        uri = f"file:{quote(os.path.abspath(path))}?immutable=1"
        con = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    except (OSError, apsw.CantOpenError):
        return
    try:
        foreign = _is_foreign(con)
        if not foreign and _is_empty(con) and beside(path, "-wal").exists():
            # Its mark, or another's, may stand in the write-ahead log still. A connection that
            # cannot write reads the log and leaves it as it is.
            con.close()
            con = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            foreign = _is_foreign(con)
    except apsw.NotADBError:
        raise
    except apsw.Error:
        foreign = False  # torn by a write in progress, or damaged: the true connection will tell
    finally:
        con.close()
    if foreign:
        raise NotALedger(str(path), "is a SQLite database but no Tallystick ledger", "name a ledger file")


def in_place_of_a_ledger(path: Path, trouble: Unavailable, still: Callable[[], bool]) -> Unavailable:
    """What is wrong with a path that holds no ledger: TailLost where a head file says that one was here.

    still: whether there is none still, asked once more: another process may have made it meanwhile,
    with a head file, which is written last.
    """
    kept = read_head_file(path)
    if kept is None or not still():
        return trouble
    return TailLost(str(path), 0, kept.seq, str(head_path(path)))


def connect_writer(path: Path, *, create: bool, synchronous: str, timeout_s: float) -> apsw.Connection:
    """A connection that may write; makes the schema in an empty or missing file if `create`.

    Nothing is changed in a file that is not a ledger.
    """
    check_place(path)
    if not path.exists():
        if not create:
            raise in_place_of_a_ledger(path, LedgerNotFound(str(path)), lambda: not path.exists())
        _check_room(path)
    elif not os.access(path, os.W_OK):
        raise Unavailable(str(path), "the file is read-only", "check its permissions, or open it read-only")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return _connect_writer(path, create, synchronous, timeout_s)
        except Locked:
            # Where several make the same new file, SQLite calls no busy handler: one has to yield.
            if time.monotonic() >= deadline:
                raise
            time.sleep(random.uniform(0.0002, 0.004))


def _connect_writer(path: Path, create: bool, synchronous: str, timeout_s: float) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    with named_errors(path, timeout_s):
        refuse_foreign(path)
        con = apsw.Connection(str(path), flags=flags)
        try:
            con.set_busy_handler(_JitteredWait(timeout_s))
            fresh = _is_empty(con)
            if not fresh:
                check_identity(con, path)
            elif not create:
                empty = NotALedger(str(path), "is empty", "create a ledger with `tally init`")
                raise in_place_of_a_ledger(path, empty, lambda: _is_empty(con))
            else:
                con.execute(f"PRAGMA page_size={PAGE_SIZE}")
            con.execute("PRAGMA journal_mode=WAL")
            _settle(con, WRITER_CACHE_KIB)
            con.execute(f"PRAGMA synchronous={synchronous}")
            con.execute(f"PRAGMA wal_autocheckpoint={WAL_AUTOCHECKPOINT_PAGES}")
            con.execute("PRAGMA secure_delete=ON")
            if fresh:
                _create_schema(con)
        except BaseException:
            con.close()
            raise
    return con


def connect_reader(path: Path, *, timeout_s: float, immutable: bool = False) -> apsw.Connection:
    """A connection that cannot write the ledger.

    immutable: read the file as it lies, whatever others do, without its log and without a trace.
    """
    check_place(path)
    if not path.exists():
        raise in_place_of_a_ledger(path, LedgerNotFound(str(path)), lambda: not path.exists())
    uri = f"file:{quote(os.path.abspath(path))}?immutable=1"
    uri_flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    with named_errors(path, timeout_s):
        refuse_foreign(path)
        try:
            name, flags = (uri, uri_flags) if immutable else (str(path), apsw.SQLITE_OPEN_READONLY)
            con = _reader(name, flags, timeout_s)
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            # A WAL database wants its -shm file, and the directory may not be written. Without
            # a log beside it the file is complete, and can be read as it lies.
            wal = beside(path, "-wal")
            if os.access(path.parent, os.W_OK) or not os.access(path, os.R_OK):
                raise
            if wal.exists() and wal.stat().st_size:
                raise Unavailable(
                    str(path),
                    "its directory is read-only and its write-ahead log is not empty",
                    "copy the file and its -wal to a writable directory, and read the copy",
                ) from None
            con = _reader(uri, uri_flags, timeout_s)
        try:
            if _is_empty(con):
                empty = NotALedger(str(path), "is empty", "create a ledger with `tally init`")
                raise in_place_of_a_ledger(path, empty, lambda: _is_empty(con))
            check_identity(con, path)
        except BaseException:
            con.close()
            raise
    return con


def _reader(name: str, flags: int, timeout_s: float) -> apsw.Connection:
    con = apsw.Connection(name, flags=flags)
    try:
        con.set_busy_handler(_JitteredWait(timeout_s))
        con.execute("SELECT 1 FROM sqlite_schema").fetchall()
        _settle(con, READER_CACHE_KIB)
    except BaseException:
        con.close()
        raise
    return con


def _settle(con: apsw.Connection, cache_kib: int) -> None:
    """Settings of every connection: trust nothing in the file, spill nothing beside it."""
    con.execute("PRAGMA trusted_schema=OFF")
    con.execute("PRAGMA temp_store=MEMORY")
    con.execute(f"PRAGMA cache_size=-{cache_kib}")
    con.execute("PRAGMA cell_size_check=ON")


def _is_foreign(con: apsw.Connection) -> bool:
    """Whether it holds something and lacks the mark, asked in the order in which a ledger gets both."""
    return not _is_empty(con) and con.pragma("application_id") != APPLICATION_ID


def _is_empty(con: apsw.Connection) -> bool:
    return bool(con.execute("SELECT count(*) = 0 FROM sqlite_schema").get)


def check_identity(con: apsw.Connection, path: str | os.PathLike[str]) -> None:
    """Refuse a database that is no ledger, or one of a newer format."""
    application_id, version = con.pragma("application_id"), con.pragma("user_version")
    if application_id != APPLICATION_ID:
        raise NotALedger(str(path), "is a SQLite database but no Tallystick ledger", "name a ledger file")
    if version > FORMAT_VERSION:
        raise NewerFormat(str(path), version, FORMAT_VERSION)
    seq = con.execute("SELECT type, pk FROM pragma_table_info('events') WHERE name = 'seq'").fetchall()
    table = con.execute("SELECT type FROM sqlite_schema WHERE name = 'events'").get
    # Without an index of its own the primary key is the rowid: each seq is an integer and there once.
    indexed = con.execute("SELECT count(*) FROM pragma_index_list('events') WHERE origin = 'pk'").get
    if version < 1 or table != "table" or seq != [("INTEGER", 1)] or indexed:
        raise NotALedger(
            str(path), "bears a ledger's mark but its events table is not a ledger's", "restore a backup"
        )


def _create_schema(con: apsw.Connection) -> None:
    with immediate(con):
        if not _is_empty(con):  # another process was first
            return
        con.execute(files(__package__).joinpath("schema.sql").read_text(encoding="utf-8"))
        con.execute(f"PRAGMA application_id={APPLICATION_ID}")
        con.execute(f"PRAGMA user_version={FORMAT_VERSION}")
