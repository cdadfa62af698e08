"""The health of a ledger file and of the place it lies in (surroundings.py), for `tally doctor`.

`examine` looks and tells; it prints nothing and changes nothing in the ledger. What the events
say is left to verification: this is about the file, the engine, the disk and other processes.
SQLite alone opens the ledger file, here too: closing any other descriptor of it would drop the
locks that this process holds.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeAlias

import apsw

from ..errors import Corrupt, LedgerNotFound, Locked, NotALedger, TailLost, Unavailable
from ..event import COLUMNS, Head
from ..headfile import beside, read_head_file
from ..walk import ledger_id_of
from . import surroundings
from .check import Check, age, in_bytes, size_of
from .connection import (
    NETWORK_FILESYSTEMS,
    PAGE_SIZE,
    WAL_AUTOCHECKPOINT_PAGES,
    check_place,
    connect_reader,
    filesystem_type,
    in_place_of_a_ledger,
    named_errors,
)
from .holders import Holders, holders, named
from .store import Durability
from .tail import held_against

#: Log pages not yet in the file: from here on something keeps checkpoints from finishing.
WAL_PAGES_WARN: Final = 10 * WAL_AUTOCHECKPOINT_PAGES
LOCK_WAIT_S: Final = 1.0
CLOCK_AHEAD_WARN_S: Final = 300
#: A larger file is not read through when only a quick look is wanted.
QUICK_BYTES_MAX: Final = 1 << 30
PROBLEMS_MAX: Final = 100
#: How many steps of SQLite's machine lie between two calls for progress (and for Ctrl-C).
PROGRESS_STEPS: Final = 50_000

#: What `PRAGMA synchronous` says afterwards (sqlite.org/pragma.html#pragma_synchronous).
_SYNCHRONOUS: Final = {Durability.POWER: 2, Durability.PROCESS: 1}
_INDEX_PROBLEM: Final = re.compile(
    r"missing from index|wrong # of entries in index|non-unique entry in index|values differ from index"
)
_REWRITE: Final = "make a sound file of it: `tally export` and `tally import` into a new one"

_Reported: TypeAlias = Callable[[int], None] | None


def examine(path: str | os.PathLike[str], *, quick: bool = False, progress: _Reported = None) -> list[Check]:
    """Look at the ledger file and everything around it.

    quick: compare no index with its table, and do not read a large file through. progress: is
    given the pages read so far. Raises LedgerNotFound, NotALedger, NewerFormat and other
    Unavailable where there is nothing that can be looked at.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise in_place_of_a_ledger(path, LedgerNotFound(str(path)), lambda: not path.exists())
    checks = [surroundings.engine(), surroundings.python_sqlite(), surroundings.versions()]
    found = filesystem_type(path)
    checks.append(surroundings.file_system(found))
    if found in NETWORK_FILESYSTEMS:
        return checks  # not even opened there
    check_place(path)
    if not path.exists():
        raise in_place_of_a_ledger(path, LedgerNotFound(str(path)), lambda: not path.exists())
    checks.append(surroundings.file(path))
    checks += _opened(path, quick, progress)
    checks += [surroundings.disk(path), surroundings.fsync(path), surroundings.leftovers(path)]
    return checks


def _opened(path: Path, quick: bool, progress: _Reported) -> Iterator[Check]:
    """What can be said once SQLite has the file open."""
    others, log_bytes = holders(path), size_of(beside(path, "-wal"))
    try:
        # A head read before the log is never ahead of a sound one.
        kept = read_head_file(path)
        head_trouble = None
    except Unavailable as error:
        kept, head_trouble = None, error
    try:
        con = connect_reader(path, timeout_s=LOCK_WAIT_S)
    except Locked:
        yield _locked_out(path)
        return
    except (Corrupt, UnicodeDecodeError) as error:
        yield _damaged(path, str(error) if isinstance(error, UnicodeDecodeError) else error)
        return
    except (NotALedger, TailLost) as error:
        if kept is None:
            raise
        problem = "is empty" if isinstance(error, TailLost) else error.problem
        finding = f"{problem}, yet the head file beside it says that it was a ledger"
        yield Check("structure", "fail", finding, "restore a backup")
        return
    with closing(con):
        yield _checked("ledger", path, lambda: _ledger(con, kept))
        yield _checked("settings", path, lambda: _settings(con))
        yield _checked("guards", path, lambda: _guards(con))
        yield _checked("structure", path, lambda: _structure(con, quick, progress))
        if head_trouble is not None:
            yield Check(
                "head file", "fail", f"{head_trouble.problem}; appends are refused", head_trouble.remedy
            )
        else:
            yield _checked("head file", path, lambda: _head_file(con, path, kept))
        yield _checked("log", path, lambda: _log(con, path, others, log_bytes))
        yield _checked("clock", path, lambda: _clock(con))
    yield _checked("locks", path, lambda: _locks(path, others, keep_log=log_bytes > 0))


def _checked(name: str, path: Path, look: Callable[[], Check]) -> Check:
    """The check, or the trouble that kept it from being made."""
    try:
        with named_errors(path, LOCK_WAIT_S):
            try:
                return look()
            except apsw.SQLError as error:
                return Check(name, "fail", f"SQLite says: {error}", "run `tally verify`, restore a backup")
    except Unavailable as error:
        return Check(name, "fail", error.problem, error.remedy)
    except UnicodeDecodeError as error:
        return Check(name, "fail", f"text that is not UTF-8 ({error.reason})", "restore a backup")


def _damaged(path: Path, error: Corrupt | str) -> Check:
    named = error if isinstance(error, Corrupt) else Corrupt(str(path), error)
    return Check("structure", "fail", named.problem, named.remedy)


# -- inside the file -----------------------------------------------------------------------


def _ledger(con: apsw.Connection, kept: Head | None) -> Check:
    row: Any = con.execute(f"SELECT {', '.join(COLUMNS)} FROM events WHERE seq = 1").fetchone()
    last = con.execute("SELECT max(seq) FROM events").get
    if last is None:
        finding, remedy = "holds no events: its creation was cut short", "finish it: `tally init`"
        if kept is not None:
            finding, remedy = "holds no events, yet the head file beside it names one", "restore a backup"
        return Check("ledger", "fail", finding, remedy)
    ledger_id = None if row is None else ledger_id_of(row)
    if ledger_id is None:
        return Check(
            "ledger", "fail", "its event 1 is no ledger.created", "run `tally verify`, restore a backup"
        )
    return Check("ledger", "ok", f"{ledger_id.hex()}, format {con.pragma('user_version')}, {last:,} events")


def _settings(con: apsw.Connection) -> Check:
    """Those that the file keeps, and whether the engine takes those that each connection sets.

    application_id and user_version had to fit for the file to be opened at all.
    """
    mode, page_size = con.pragma("journal_mode"), con.pragma("page_size")
    if con.open_flags & apsw.SQLITE_OPEN_URI:
        mode = "not told in a read-only directory"
    auto_vacuum = con.pragma("auto_vacuum")
    finding = f"in the file: journal_mode {mode}, page_size {page_size}, auto_vacuum {auto_vacuum}"
    finding += (
        f", application_id {con.pragma('application_id'):#x}, user_version {con.pragma('user_version')}"
    )
    if mode == "delete":  # what every connection says of a file that is not in WAL mode
        finding = finding.replace(
            "journal_mode delete", "journal_mode delete, as a backup has it until the first append sets wal"
        )
    for durability, taken in _SYNCHRONOUS.items():
        con.execute(f"PRAGMA synchronous={durability.value}")
        found = con.pragma("synchronous")
        if found != taken:
            finding = f"synchronous={durability.value} is not taken by this engine (it says {found})"
            return Check("settings", "fail", finding, "pip install --upgrade apsw")
    if page_size != PAGE_SIZE or auto_vacuum:
        finding += f"; expected page_size {PAGE_SIZE} and auto_vacuum 0: sound, but slower"
        return Check("settings", "warn", finding, _REWRITE)
    finding += "; per connection: synchronous FULL (power) or NORMAL (process)"
    return Check("settings", "ok", f"{finding}, wal_autocheckpoint {WAL_AUTOCHECKPOINT_PAGES}")


def _guards(con: apsw.Connection) -> Check:
    """Table, indexes and triggers against those that a new ledger gets."""
    with closing(apsw.Connection(":memory:")) as new:
        new.execute(files(__package__).joinpath("schema.sql").read_text(encoding="utf-8"))
        expected = _schema(new)
    actual = _schema(con)
    wrong = [f"{name} is missing" for name in expected if name not in actual]
    wrong += [f"{name} is another" for name in expected if name in actual and actual[name] != expected[name]]
    foreign = [name for name in actual if name not in expected]
    wrong += [f"{name} does not belong here" for name in foreign if name.startswith("trigger ")]
    if wrong:
        finding = f"{'; '.join(wrong[:6])}: another program changed the file"
        return Check(
            "guards", "fail", finding, f"run `tally verify --expect` with a head kept elsewhere; {_REWRITE}"
        )
    if foreign:
        finding = f"beside the ledger's own: {', '.join(foreign[:6])}"
        return Check("guards", "warn", finding, "keep other tables in another file")
    counts = [sum(name.startswith(kind) for name in expected) for kind in ("trigger ", "index ")]
    return Check("guards", "ok", f"all {counts[0]} triggers and {counts[1]} indexes, as in a new ledger")


def _schema(con: apsw.Connection) -> dict[str, tuple[bytes, bytes]]:
    """`type name` -> table and SQL. Text as bytes, for it may not be UTF-8; SQLite's own left out."""
    rows: Any = con.execute(
        "SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB)"
        " FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ).fetchall()
    return {
        f"{(kind or b'').decode(errors='replace')} {(name or b'').decode(errors='replace')}": (table, sql)
        for kind, name, table, sql in rows
    }


def _structure(con: apsw.Connection, quick: bool, progress: _Reported) -> Check:
    size = con.pragma("page_count") * con.pragma("page_size")
    if quick and size > QUICK_BYTES_MAX:
        finding = f"not looked at: {in_bytes(size)} are too many for a quick look"
        return Check("structure", "ok", finding, "run it without --quick")

    def step() -> bool:
        if progress is not None:
            progress(con.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0])
        return False

    pragma = "quick_check" if quick else "integrity_check"
    con.set_progress_handler(step, PROGRESS_STEPS)
    said: Any = con.execute(f"PRAGMA {pragma}({PROBLEMS_MAX})").fetchall()
    con.set_progress_handler(None)
    problems = [line for (text,) in said for line in str(text).splitlines() if not line.startswith("***")]
    if problems == ["ok"]:
        compared = (
            "indexes counted, but not compared with the table" if quick else "indexes agree with the table"
        )
        return Check("structure", "ok", f"{pragma} of {in_bytes(size)} found nothing; {compared}")
    finding = "; ".join(problems[:3])
    if len(problems) > 3:
        finding += f" and {len(problems) - 3}{' or more' if len(problems) >= PROBLEMS_MAX else ''} others"
    if all(_INDEX_PROBLEM.search(problem) for problem in problems):
        return Check("structure", "fail", f"an index is not its table's: {finding}", _REWRITE)
    return Check("structure", "fail", finding, "run `tally verify`, then restore a backup")


def _head_file(con: apsw.Connection, path: Path, kept: Head | None) -> Check:
    name = "head file"
    last = con.execute("SELECT max(seq) FROM events").get or 0
    if kept is None:
        finding = "missing: nothing would notice a log that lost its end"
        return Check(
            name, "warn", finding, f"the next append writes it; before, see that {last:,} events are all"
        )
    lost = held_against(con, path, kept)
    if lost is None:
        return Check(name, "ok", f"vouches for event {kept.seq:,} of {last:,}")
    return Check(name, "fail", f"{lost.problem}; appends are refused", lost.remedy)


def _log(con: apsw.Connection, path: Path, others: Holders | None, bytes_before: int) -> Check:
    """The write-ahead log. `others` and `bytes_before` as they were before this process opened it."""
    # This kind of checkpoint moves nothing and tells how far the last one came.
    pages, folded = con.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    waiting = max(pages, 0) - max(folded, 0)
    finding = f"{in_bytes(size_of(beside(path, '-wal')))}, {waiting:,} pages not yet in the file"
    if waiting > WAL_PAGES_WARN:
        readers = named(others, "reading")
        finding += f"; a checkpoint should come every {WAL_AUTOCHECKPOINT_PAGES:,}"
        finding += f". Readers that pin it: {readers}" if readers else ""
        return Check(
            "log", "warn", finding, "end the reader that never finishes; the next append then folds it in"
        )
    if bytes_before and waiting and others == {}:
        finding += ", left by a process that was killed (or closed it while another was reading)"
        remedy = (
            "nothing is lost, and the next append folds it in; never delete or leave behind the -wal file"
        )
        return Check("log", "warn", finding, remedy)
    return Check("log", "ok", finding)


def _clock(con: apsw.Connection) -> Check:
    at = con.execute("SELECT at FROM events ORDER BY seq DESC LIMIT 1").get
    if not isinstance(at, int):
        return Check("clock", "ok", "nothing to compare it with")
    ahead_s = at / 1e6 - time.time()
    if ahead_s <= CLOCK_AHEAD_WARN_S:
        return Check("clock", "ok", f"the last event is {age(-ahead_s)} old" if ahead_s < 0 else "agrees")
    finding = (
        f"the last event lies {age(ahead_s)} in the future: this clock is slow, or its writer's was fast"
    )
    return Check(
        "clock", "warn", finding, "set the clocks (NTP); the order of events does not depend on them"
    )


# -- other processes -----------------------------------------------------------------------


def _locked_out(path: Path) -> Check:
    who = named(holders(path), "open") or "another process"
    finding = f"{who} keeps the whole file locked: nobody else can read or write it"
    return Check(
        "locks", "fail", finding, "let that program finish or end it, and open ledgers with Tallystick alone"
    )


def _locks(path: Path, others: Holders | None, *, keep_log: bool) -> Check:
    """Take the write lock and give it back; who has it, if it cannot be had."""
    known = "no other process has it open" if others == {} else f"open in {named(others, 'open')}"
    known = "" if others is None else f"{known}; "
    if not os.access(path, os.W_OK):
        return Check("locks", "ok", f"{known}the write lock was not tried: this user may only read the file")
    try:
        con = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.CantOpenError:
        return Check(
            "locks", "ok", f"{known}the write lock was not tried: the file cannot be opened for writing"
        )
    with closing(con):
        # The last to close would fold a log into the file, which is not the doctor's to do. An
        # empty one is cleared away with it, as it was before.
        con.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(keep_log))
        con.execute("PRAGMA wal_autocheckpoint=0")
        con.set_busy_timeout(int(LOCK_WAIT_S * 1000))
        start = time.perf_counter()
        try:
            con.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            who = named(holders(path), "writing")
            finding = f"another process has held the write lock for > {LOCK_WAIT_S:g} s"
            remedy = (
                "let it finish if it is an import or a large batch; else end it: nothing acknowledged is lost"
            )
            return Check("locks", "warn", finding + (f": {who}" if who else ""), remedy)
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            return Check("locks", "ok", f"{known}the write lock was not tried: the directory is read-only")
        con.execute("ROLLBACK")
        waited_ms = (time.perf_counter() - start) * 1000
    return Check("locks", "ok", f"{known}the write lock was free within {waited_ms:.1f} ms")
