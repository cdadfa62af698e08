"""Ledgers that were emptied, cut or exchanged under their head file: refused, and nothing is written."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from attacker import tamper

from tallystick import (
    Head,
    HistoryReplaced,
    Ledger,
    LedgerNotFound,
    NotALedger,
    TailLost,
    Unavailable,
    Verdict,
    WrongHeadFile,
)
from tallystick.ledger.headfile import head_path

Make = Callable[[Path, int], Head]


def listing(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def move_log_of_another(path: Path, make: Make) -> None:
    """Put the write-ahead log of another ledger, in use, beside the file."""
    other = path.with_name("other.tally")
    make(other, 3)
    with Ledger.open(other) as ledger:
        ledger.append_many({"kind": "note.kept", "body": n} for n in range(20))
        shutil.copy(f"{other}-wal", f"{path}-wal")


def move_log_of_an_app(path: Path, make: Make) -> None:
    """The same with the log of a database that is no ledger."""
    other = path.with_name("books.db")
    with closing(sqlite3.connect(other, isolation_level=None)) as db:
        db.execute("PRAGMA page_size = 8192")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE books (title TEXT)")
        shutil.copy(f"{other}-wal", f"{path}-wal")


LOSSES: dict[str, tuple[Callable[[Path, Make], object], type[Unavailable]]] = {
    "deleted": (lambda path, make: path.unlink(), TailLost),
    "cut to nothing": (lambda path, make: path.write_bytes(b""), TailLost),
    "emptied": (lambda path, make: tamper(path, "DELETE FROM events"), TailLost),
    "dropped": (lambda path, make: tamper(path, "DROP TABLE events"), TailLost),
    "end cut off": (lambda path, make: tamper(path, "DELETE FROM events WHERE seq > 7"), TailLost),
    "another event": (
        lambda path, make: tamper(path, "UPDATE events SET hash = zeroblob(32) WHERE seq = 10"),
        HistoryReplaced,
    ),
    "event missing": (
        lambda path, make: tamper(path, "UPDATE events SET seq = 11 WHERE seq = 10"),
        HistoryReplaced,
    ),
    "another ledger": (lambda path, make: (path.unlink(), head_path(path).rename("head"), make(path, 12),
                                           Path("head").rename(head_path(path))), WrongHeadFile),
    "event 1 missing": (lambda path, make: tamper(path, "DELETE FROM events WHERE seq = 1"), NotALedger),
    "log of another ledger": (move_log_of_another, WrongHeadFile),
    "log of an app": (move_log_of_an_app, NotALedger),
    "unmarked": (lambda path, make: tamper(path, "PRAGMA application_id = 0"), NotALedger),
}  # fmt: skip


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_refused_opening_writes_nothing(
    loss: str, create: bool, ledger_path: Path, make_ledger: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: what the head file contradicts is refused before a byte is written.

    Opening for writing would make a new ledger in the place of the lost one, or fold a foreign
    write-ahead log into the file, and with it destroy both.
    """
    monkeypatch.chdir(ledger_path.parent)
    make_ledger(ledger_path, 10)
    lose, expected = LOSSES[loss]
    lose(ledger_path, make_ledger)
    before = listing(ledger_path.parent)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            Ledger.open(ledger_path, create=create)
        assert type(caught.value) is expected
        assert "tally init" not in str(caught.value)
    after = listing(ledger_path.parent)
    if loss.startswith("log of"):  # SQLite's index of a log, which a reader needs
        after.pop(f"{ledger_path.name}-shm", None)
    assert after == before


@pytest.mark.parametrize("loss", ["deleted", "cut to nothing", "dropped", "emptied"])
def test_a_reader_is_told_what_was_lost(loss: str, ledger_path: Path, make_ledger: Make) -> None:
    """Where a ledger was, nobody is advised to make a new one."""
    make_ledger(ledger_path, 10)
    LOSSES[loss][0](ledger_path, make_ledger)
    with pytest.raises(
        TailLost, match=r"there are no events, but .+ vouches for event 10: all was lost"
    ) as caught:
        Ledger.open(ledger_path, read_only=True)
    assert (caught.value.last, caught.value.expected) == (0, 10)
    assert caught.value.head_file == str(head_path(ledger_path))


def test_the_lost_log_of_a_young_ledger(ledger_path: Path) -> None:
    """All events of a ledger in use may be in its log alone; without it the file is an empty database."""
    copy = ledger_path.with_name("copy.tally")
    with Ledger.open(ledger_path) as ledger:
        ledger.append("note.kept")
        shutil.copy(ledger_path, copy)
        ledger.verify()  # keeps the head
        shutil.copy(head_path(ledger_path), head_path(copy))
    for read_only in (True, False):
        with pytest.raises(TailLost, match="there are no events"):
            Ledger.open(copy, read_only=read_only)


def test_a_ledger_that_is_being_made_was_not_lost(
    ledger_path: Path, make_ledger: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that comes too early is told so, although the head file is there when it looks for one."""
    from tallystick.ledger.sqlite import connection

    real = connection.read_head_file

    def made_meanwhile(path: Path) -> Head | None:
        monkeypatch.undo()
        make_ledger(ledger_path, 3)
        return real(path)

    for error in (LedgerNotFound, NotALedger):
        monkeypatch.setattr(connection, "read_head_file", made_meanwhile)
        with pytest.raises(error) as caught:
            Ledger.open(ledger_path, read_only=True)
        assert type(caught.value) is error
        for file in ledger_path.parent.iterdir():
            file.unlink()
        ledger_path.touch()


def test_a_look_does_not_keep_others_from_opening(ledger_path: Path, make_ledger: Make) -> None:
    """A ledger in use, its newest events in the log, opens a second time; so does one that was killed."""
    make_ledger(ledger_path, 10)
    with Ledger.open(ledger_path) as ledger:
        ledger.append("note.kept")
        ledger.verify()  # keeps the head of event 11, which is in the log alone
        for end in ("", "-wal", ".head"):
            shutil.copy(f"{ledger_path}{end}", f"{ledger_path.with_name('killed.tally')}{end}")
        with Ledger.open(ledger_path) as second:
            assert second.append("note.kept").seq == 12
    with Ledger.open(ledger_path.with_name("killed.tally")) as killed:
        assert killed.append("note.kept").seq == 12
        assert killed.verify(killed.head()).verdict is Verdict.VERIFIED


def test_a_look_finds_a_ledger_that_changes_meanwhile(
    ledger_path: Path, make_ledger: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen half-way in a file that somebody writes is looked at again, under SQLite's locks."""
    from tallystick.ledger.sqlite import tail

    head = make_ledger(ledger_path, 10)
    looks: list[bool] = []
    real = tail._look

    def half_way(path: Path, kept: Head, timeout_s: float, *, immutable: bool) -> None:
        looks.append(immutable)
        if immutable:
            os.utime(path)
            raise TailLost(str(path), 3, kept.seq, "seen half-way")
        real(path, kept, timeout_s, immutable=immutable)

    monkeypatch.setattr(tail, "_look", half_way)
    with Ledger.open(ledger_path) as ledger:
        assert ledger.head() == head
    assert looks == [True, False]


@pytest.mark.parametrize("read_only", [True, False])
def test_no_backup_of_a_ledger_that_lost_its_end(
    read_only: bool, ledger_path: Path, make_ledger: Make
) -> None:
    """Invariant: a copy does not get a head file that hides what the ledger lost."""
    make_ledger(ledger_path, 10)
    copy = ledger_path.with_name("copy.tally")
    if read_only:
        tamper(ledger_path, "DELETE FROM events WHERE seq > 7")
    with Ledger.open(ledger_path, read_only=read_only) as ledger:
        if not read_only:
            tamper(ledger_path, "DELETE FROM events WHERE seq > 7")
        with pytest.raises(TailLost) as caught:
            ledger.backup(copy)
        assert (caught.value.last, caught.value.expected, caught.value.where) == (7, 10, str(ledger_path))
    assert not copy.exists() and not head_path(copy).exists()
