"""Whether a file still holds the head kept beside it, asked before anything may be written.

Opening a file for writing could make a ledger where one was lost, or fold another ledger's
write-ahead log into it: so a look that can write nothing comes first.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw

from ..errors import Corrupt, HistoryReplaced, NotALedger, TailLost, Unavailable, WrongHeadFile
from ..event import COLUMNS, Head
from ..headfile import beside, head_path, read_head_file
from ..walk import ledger_id_of
from .connection import connect_reader, named_errors


def refuse_lost_tail(path: Path, *, timeout_s: float) -> None:
    """Refuse a ledger that does not hold the head kept beside it; nothing is written, nor left behind.

    Raises TailLost, NotALedger and other Unavailable.
    """
    kept = read_head_file(path)  # before the log, which only grows
    if kept is None:
        return
    state = _at_rest(path)
    if state is not None:
        try:
            _look(path, kept, timeout_s, immutable=True)
            return
        except Unavailable:
            if _at_rest(path) == state:
                raise
            # Somebody wrote meanwhile, who may have been seen half-way.
    _look(path, kept, timeout_s, immutable=False)


def _at_rest(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file is written; None if its newest part may be in a write-ahead log."""
    wal = beside(path, "-wal")
    try:
        if wal.exists() and wal.stat().st_size:
            return None
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _look(path: Path, kept: Head, timeout_s: float, *, immutable: bool) -> None:
    with (
        named_errors(path, timeout_s),
        closing(connect_reader(path, timeout_s=timeout_s, immutable=immutable)) as con,
    ):
        lost = held_against(con, path, kept)
    if lost is not None:
        raise lost


def held_against(con: apsw.Connection, path: Path, kept: Head) -> TailLost | None:
    """What is wrong with the log by its head file; None if it holds that head.

    Raises NotALedger where event 1 does not say which ledger it is.
    """
    where, head_file = str(path), str(head_path(path))
    try:
        first = con.execute(f"SELECT {', '.join(COLUMNS)} FROM events ORDER BY seq LIMIT 1").fetchone()
        last = con.execute("SELECT max(seq) FROM events").get
        found = con.execute("SELECT hash FROM events NOT INDEXED WHERE seq = ?", (kept.seq,)).get
    except UnicodeDecodeError as error:
        raise Corrupt(where, f"text that is not UTF-8: {error.reason}") from None
    if first is None:
        return TailLost(where, 0, kept.seq, head_file)
    ledger_id = ledger_id_of(first)
    if ledger_id is None:
        raise NotALedger(where, "its event 1 is no ledger.created", "run `tally verify`")
    if kept.ledger_id != ledger_id:
        return WrongHeadFile(where, last, kept.seq, head_file, ledger_id, kept.ledger_id)
    if kept.seq > last:
        return TailLost(where, last, kept.seq, head_file)
    if found != kept.hash:
        return HistoryReplaced(where, last, kept.seq, head_file, found)
    return None
