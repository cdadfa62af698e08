"""A views file as it lies there, opened so that nothing of it or beside it is changed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from tallystick.projections.errors import NotViews
from tallystick.projections.file import APPLICATION_ID, State, check_ours

_TIMEOUT_S: Final = 10.0


class Changed(Exception):
    """Another process changed the file while it was read as one that nobody changes."""


@contextmanager
def stored(path: Path) -> Iterator[sqlite3.Connection]:
    """The views file, as of one moment. Raises NotViews, Unavailable, Changed at the end, sqlite3.Error.

    A file that some process has, or had, open is read as SQLite would, through the log beside it. One that
    lies alone is read as it is: SQLite would make files beside it. A log that was left behind is read in a
    copy.
    """
    log, index = Path(f"{path}-wal"), Path(f"{path}-shm")
    with ExitStack() as stack:
        before: tuple[object, ...] | None = None
        in_use = index.exists() and os.access(index, os.R_OK)
        if not in_use:
            # Not while it is in use: to close a file lets go of every lock that this process has on it.
            check_ours(path)
        if _is_empty(log):
            before = _state(path)
            con = _connect(path, "mode=ro&immutable=1")
        elif in_use:
            con = _connect(path, "mode=ro")
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tally-replay-"))
            before = _state(path)
            copy = Path(folder) / "views"
            shutil.copyfile(path, copy)
            shutil.copyfile(log, f"{copy}-wal")
            con = _connect(copy, "mode=rw")
        stack.callback(con.close)
        con.text_factory = lambda data: data.decode("utf-8", "backslashreplace")
        con.execute("PRAGMA query_only=ON")
        con.execute("PRAGMA trusted_schema=OFF")
        if con.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise NotViews(str(path), "is another program's database, and the views would go there")
        con.execute("BEGIN")
        try:
            yield con
        except (sqlite3.Error, Changed):
            if before is not None and before != _state(path):
                raise Changed from None
            raise
        if before is not None and before != _state(path):
            raise Changed


def has_any(path: Path) -> bool:
    """Whether there is more than an empty file."""
    try:
        return path.stat().st_size > 0 or not _is_empty(Path(f"{path}-wal"))
    except FileNotFoundError:
        return False


def engine_version(con: sqlite3.Connection) -> int:
    """The version of the engine that keeps the file."""
    found: int = con.execute("PRAGMA user_version").fetchone()[0]
    return found


def states_in(con: sqlite3.Connection) -> tuple[str, dict[str, State]]:
    """The ledger id that the views are of, and the state of every projection in them."""
    ledger_id = con.execute("SELECT ledger_id FROM tally_views").fetchone()
    columns = State.__struct_fields__
    found = {}
    for row in con.execute(f"SELECT {', '.join(columns)} FROM tally_projections ORDER BY name"):
        kept = dict(zip(columns, row, strict=True))
        kept |= {name: msgspec.json.decode(kept[name]) for name in ("tables", "bodies")}
        found[kept["name"]] = msgspec.convert(kept, State)
    return ("" if ledger_id is None else str(ledger_id[0])), found


def _connect(path: Path, how: str) -> sqlite3.Connection:
    quoted = str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(f"file:{quoted}?{how}", uri=True, timeout=_TIMEOUT_S, isolation_level=None)


def _is_empty(log: Path) -> bool:
    with suppress(FileNotFoundError):
        return log.stat().st_size == 0
    return True


def _state(path: Path) -> tuple[object, ...]:
    """What changes when anybody writes the file."""
    found = []
    for suffix in ("", "-wal"):
        try:
            stat = os.stat(f"{path}{suffix}")
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat.st_size else None)
        except OSError:
            found.append(None)
    return tuple(found)
