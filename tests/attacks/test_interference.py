"""What was acknowledged is stored: foreign triggers, and a file that is taken from under its writer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from tallystick import (
    AsyncLedger,
    Durability,
    Head,
    Interfered,
    Ledger,
    LedgerMoved,
    LogRemoved,
    Unavailable,
    Verdict,
)
from tallystick.ledger.headfile import head_path
from tallystick.ledger.sqlite import store as store_module

Make = Callable[[Path, int], Head]

# -- foreign triggers -----------------------------------------------------------------------------

DROP_GUARDS = "DROP TRIGGER events_follow; DROP TRIGGER events_no_delete; DROP TRIGGER events_no_update;"


def trigger(when: str, does: str, name: str = "foreign_one") -> str:
    """A trigger that meddles with one kind of event."""
    return f"CREATE TRIGGER {name} {when} INSERT ON events WHEN NEW.kind = 'note.bad' BEGIN {does}; END;"


SWALLOW = trigger("BEFORE", "SELECT RAISE(IGNORE)")
DELETE = DROP_GUARDS + trigger("AFTER", "DELETE FROM events WHERE seq = NEW.seq")
ALTER = DROP_GUARDS + trigger("AFTER", "UPDATE events SET at = 0 WHERE seq = NEW.seq")
OWN_NAME = "DROP TRIGGER events_follow;" + trigger("BEFORE", "SELECT RAISE(IGNORE)", "events_follow")
#: The triggers that another program may leave, and whether an event is stored all the same, altered.
TRIGGERS = {"swallowed": (SWALLOW, False), "deleted": (DELETE, False), "altered": (ALTER, True),
            "by a guard's name": (OWN_NAME, False)}  # fmt: skip


def run(path: Path, script: str) -> None:
    """By the library that the ledger uses: a second one in this process would drop the locks of the first."""
    with closing(apsw.Connection(str(path))) as db:
        db.execute(script)


@pytest.mark.parametrize("practised", [False, True], ids=["first append", "where nobody else writes"])
@pytest.mark.parametrize("batch", [1, 3, 300])
@pytest.mark.parametrize("what", TRIGGERS)
def test_what_the_file_does_not_keep_gets_no_receipt(
    what: str, batch: int, practised: bool, ledger_path: Path, make_ledger: Make
) -> None:
    """Invariant: an event that a trigger drops or alters is not acknowledged; a batch is whole or absent."""
    make_ledger(ledger_path, 5)
    script, altered = TRIGGERS[what]
    bad = [{"kind": "note.kept"}] * (batch - 1) + [{"kind": "note.bad"}]
    with Ledger.open(ledger_path, durability=Durability.PROCESS) as ledger:
        for _ in range(3 if practised else 0):
            ledger.append("note.kept")
        run(ledger_path, script)
        last = ledger.head().seq
        with pytest.raises(Interfered, match="run `tally doctor`") as caught:
            ledger.append_many(bad)
        kept = altered and batch == 1 and practised  # committed by the statement that inserted it
        assert (caught.value.events, caught.value.kept) == (batch, kept)
        assert caught.value.triggers == (() if what == "by a guard's name" else ("foreign_one",))
        assert caught.value.where == str(ledger_path) and caught.value.appended == 0
        assert ledger.head().seq == last + kept
        if not kept:
            assert ledger.append("note.kept").seq == last + 1, "other events are stored as ever"
            assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_a_trigger_that_writes_elsewhere_is_none_of_ours(ledger_path: Path, make_ledger: Make) -> None:
    """What is stored as sent is acknowledged, whatever else another program's trigger does."""
    make_ledger(ledger_path, 5)
    run(
        ledger_path,
        "CREATE TABLE audit (seq INTEGER);"
        "CREATE TRIGGER audit AFTER INSERT ON events BEGIN INSERT INTO audit VALUES (NEW.seq); END;",
    )
    with Ledger.open(ledger_path) as ledger:
        assert [ledger.append("note.kept").seq for _ in range(4)] == [6, 7, 8, 9]
        assert len(ledger.append_many([{"kind": "note.kept"}] * 300)) == 300
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_creating_in_a_file_that_keeps_nothing(ledger_path: Path, make_ledger: Make) -> None:
    """Event 1 is no exception."""
    make_ledger(ledger_path, 1)
    head_path(ledger_path).unlink()
    run(ledger_path, DROP_GUARDS + "DELETE FROM events;" + SWALLOW.replace("note.bad", "ledger.created"))
    with pytest.raises(Interfered):
        Ledger.open(ledger_path)


def test_an_erasure_that_a_trigger_undoes(ledger_path: Path, make_ledger: Make) -> None:
    """Invariant: no erasure is on record whose body stayed."""
    make_ledger(ledger_path, 5)
    run(
        ledger_path,
        "CREATE TRIGGER keep BEFORE UPDATE ON events WHEN OLD.seq = 3 BEGIN SELECT RAISE(IGNORE); END;",
    )
    with Ledger.open(ledger_path) as ledger:
        with pytest.raises(Interfered, match="nothing was stored") as caught:
            ledger.erase_many([2, 3, 4], "asked to")
        assert (caught.value.kept, caught.value.triggers) == (False, ("keep",))
        assert ledger.head().seq == 5 and not any(event.erased for event in ledger.read())
        assert ledger.erase(2, "asked to").seq == 6
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


# -- the file taken from under its writer ---------------------------------------------------------


def move(path: Path) -> None:
    path.rename(path.with_name("moved.tally"))


def replace(path: Path) -> None:
    shutil.copy(path.with_name("spare.tally"), path.with_name("new.tally"))
    path.with_name("new.tally").replace(path)


TAKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "moved": (move, "no file"),
    "removed": (Path.unlink, "no file"),
    "replaced": (replace, "another file"),
}


@pytest.fixture
def always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for the file at every append."""
    monkeypatch.setattr(store_module, "LOOK_EVERY_S", 0.0)


@pytest.mark.usefixtures("always_look")
@pytest.mark.parametrize("how", TAKEN)
def test_a_writer_notices_that_its_file_is_gone(how: str, ledger_path: Path, make_ledger: Make) -> None:
    """Invariant: nothing more is acknowledged once the file is seen not to be at its path."""
    make_ledger(ledger_path.with_name("spare.tally"), 3)
    make_ledger(ledger_path, 5)
    take, found = TAKEN[how]
    ledger = Ledger.open(ledger_path)
    ledger.append("note.kept")
    before = head_path(ledger_path).read_bytes()
    take(ledger_path)
    for use in (lambda: ledger.append("note.kept"), lambda: ledger.append_many([{"kind": "note.kept"}] * 300),
                lambda: ledger.erase(2, "asked to")):  # fmt: skip
        with pytest.raises(LedgerMoved) as caught:
            use()
        error = caught.value
        assert (error.found, error.last, error.where) == (found, 6, str(ledger_path))
        assert isinstance(error, Unavailable)
    with pytest.raises(LedgerMoved, match=f"there is {found}"):
        ledger.close()
    ledger.close()
    assert head_path(ledger_path).read_bytes() == before, "no head is kept beside a file that is another"
    if how == "moved":  # whole, and without its log: closing folded it in
        moved = ledger_path.with_name("moved.tally")
        with Ledger.open(moved, read_only=True) as whole:
            assert whole.head().seq == 6 and whole.verify(whole.head()).verdict is Verdict.VERIFIED
    elif how == "replaced":
        with Ledger.open(ledger_path, read_only=True) as other:
            assert other.head().seq == 3


@pytest.mark.parametrize("how", TAKEN)
def test_closing_tells_what_appending_had_no_time_to_notice(
    how: str, ledger_path: Path, make_ledger: Make
) -> None:
    """Within a second nothing looks; the events since are named at the end at the latest."""
    make_ledger(ledger_path.with_name("spare.tally"), 3)
    make_ledger(ledger_path, 5)
    ledger = Ledger.open(ledger_path)
    ledger.append("note.kept")
    TAKEN[how][0](ledger_path)
    assert [ledger.append("note.kept").seq for _ in range(3)] == [7, 8, 9]
    with pytest.raises(
        LedgerMoved, match="events 6 to 9 were appended to the file that was opened"
    ) as caught:
        ledger.close()
    assert (caught.value.seen, caught.value.last) == (5, 9)


def test_a_log_removed_under_its_writer(ledger_path: Path, make_ledger: Make, always_look: None) -> None:
    """Whoever deletes `-wal` beside a live ledger: the writer stops, closing saves what was acknowledged."""
    make_ledger(ledger_path, 5)
    ledger = Ledger.open(ledger_path)
    receipt = ledger.append("note.kept")
    log = Path(f"{ledger_path}-wal")
    log.unlink()
    with pytest.raises(LogRemoved, match="there is no file where its write-ahead log was opened") as caught:
        ledger.append("note.kept")
    assert (caught.value.seen, caught.value.last, caught.value.where) == (5, 6, str(ledger_path))
    ledger.close()
    with Ledger.open(ledger_path) as again:
        assert again.verify(expect=Head(6, receipt.hash)).verdict is Verdict.VERIFIED
        assert again.append("note.kept").seq == 7


APPEND_AND = """
import sys
from tallystick import Ledger
with Ledger.open(sys.argv[1]) as ledger:
    print(ledger.append("note.kept").seq, flush=True)
    if sys.argv[2] == "stay":
        sys.stdin.read()
    else:
        ledger.erase(2, "asked to")  # folds the log into the file
"""


@pytest.mark.parametrize(("then", "found"), [("stay", "another file"), ("leave", "no file")])
def test_a_log_removed_under_its_writer_while_another_process_writes(
    then: str, found: str, ledger_path: Path, make_ledger: Make
) -> None:
    """What the other one wrote stays whole: no log is folded over it. What is lost is named."""
    make_ledger(ledger_path, 5)
    ours = Ledger.open(ledger_path)
    ours.append("note.kept")
    for end in ("-wal", "-shm", ".head"):
        Path(f"{ledger_path}{end}").unlink()
    other = subprocess.Popen(
        [sys.executable, "-c", APPEND_AND, str(ledger_path), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "6\n", "the log that was removed held our event 6"
    if then == "leave":
        other.communicate()
        Path(f"{ledger_path}-wal").unlink()
    with pytest.raises(LogRemoved, match=f"there is {found}") as caught:
        ours.close()
    assert (caught.value.seen, caught.value.last) == (5, 6)
    other.communicate()
    assert other.returncode == 0
    with Ledger.open(ledger_path) as whole:
        assert whole.head().seq == (6 if then == "stay" else 7)
        assert whole.verify(expect=whole.head()).verdict is Verdict.VERIFIED
    with closing(apsw.Connection(str(ledger_path))) as db:
        assert db.execute("PRAGMA integrity_check").get == "ok"


def test_a_file_that_came_back_is_written_again(
    ledger_path: Path, make_ledger: Make, always_look: None
) -> None:
    """The handle is of use again once its file is back."""
    make_ledger(ledger_path, 5)
    with Ledger.open(ledger_path) as ledger:
        ledger.append("note.kept")
        move(ledger_path)
        with pytest.raises(LedgerMoved):
            ledger.append("note.kept")
        ledger_path.with_name("moved.tally").rename(ledger_path)
        assert ledger.append("note.kept").seq == 7
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_a_handle_that_appended_nothing_closes_in_peace(ledger_path: Path, make_ledger: Make) -> None:
    """Nothing was lost by it."""
    make_ledger(ledger_path, 5)
    with Ledger.open(ledger_path) as ledger:
        ledger_path.unlink()
    assert ledger.path == ledger_path


def test_the_error_of_the_block_comes_first(ledger_path: Path, make_ledger: Make) -> None:
    """An app's own error in the block is not hidden by what closing has to say, which is noted on it."""
    make_ledger(ledger_path, 5)
    with pytest.raises(ZeroDivisionError) as caught, Ledger.open(ledger_path) as ledger:
        ledger.append("note.kept")
        ledger_path.unlink()
        raise ZeroDivisionError
    assert "there is no file where the ledger was opened" in caught.value.__notes__[0]
    with pytest.raises(LedgerMoved), Ledger.open(ledger_path.with_name("b.tally")) as ledger:
        ledger.append("note.kept")
        ledger_path.with_name("b.tally").unlink()


async def _append_and_take(path: Path) -> None:
    async with AsyncLedger.open(path) as ledger:
        await ledger.append("note.kept")
        path.unlink()


async def _append_and_fail(path: Path) -> None:
    async with AsyncLedger.open(path) as ledger:
        await ledger.append("note.kept")
        path.unlink()
        raise ZeroDivisionError


def test_the_same_for_asyncio(ledger_path: Path) -> None:
    """`async with` tells it, too, and lets an app's own error through."""
    import asyncio

    with pytest.raises(LedgerMoved):
        asyncio.run(_append_and_take(ledger_path))
    head_path(ledger_path).unlink(missing_ok=True)
    with pytest.raises(ZeroDivisionError) as caught:
        asyncio.run(_append_and_fail(ledger_path))
    assert "there is no file" in caught.value.__notes__[0]


def test_the_log_of_a_ledger_put_in_its_place_survives(ledger_path: Path, make_ledger: Make) -> None:
    """Closing removes SQLite's log by its name, which by then may hold another ledger's newest events."""
    make_ledger(ledger_path.with_name("spare.tally"), 3)
    make_ledger(ledger_path, 5)
    old = Ledger.open(ledger_path, durability=Durability.PROCESS)
    old.append("note.kept")
    for end in ("", "-wal", "-shm", ".head"):
        os.replace(f"{ledger_path}{end}", f"{ledger_path.with_name('moved.tally')}{end}")
    ledger_path.with_name("spare.tally").rename(ledger_path)
    with Ledger.open(ledger_path, durability=Durability.PROCESS) as new:
        assert new.append("note.kept").seq == 4
        with pytest.raises(LedgerMoved):
            old.close()
        assert Path(f"{ledger_path}-wal").stat().st_size > 0
        assert new.append("note.kept").seq == 5
    with Ledger.open(ledger_path) as new:
        assert new.verify(new.head()).verdict is Verdict.VERIFIED and new.head().seq == 5
    with Ledger.open(ledger_path.with_name("moved.tally")) as moved:
        assert moved.head().seq == 6


def test_a_change_of_directory_moves_no_file(
    ledger_path: Path, make_ledger: Make, monkeypatch: pytest.MonkeyPatch, always_look: None
) -> None:
    """A relative path means what it meant when the ledger was opened."""
    make_ledger(ledger_path, 3)
    monkeypatch.chdir(ledger_path.parent)
    with Ledger.open(ledger_path.name) as ledger:
        assert ledger.append("note.kept").seq == 4
        monkeypatch.chdir("/")
        assert ledger.append("note.kept").seq == 5
        monkeypatch.undo()
        monkeypatch.chdir(ledger_path.parent)


def test_a_place_that_cannot_be_looked_at(
    ledger_path: Path, make_ledger: Make, monkeypatch: pytest.MonkeyPatch, always_look: None
) -> None:
    """That is no sign that the file was moved: what was open stays of use."""
    make_ledger(ledger_path, 3)
    with Ledger.open(ledger_path) as ledger:
        ledger.append("note.kept")

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(store_module.os, "stat", refuse)
            assert ledger.append("note.kept").seq == 5
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_a_link_that_leads_elsewhere(tmp_path: Path, make_ledger: Make, always_look: None) -> None:
    """What counts is the file that the path leads to."""
    for name in ("one.tally", "two.tally"):
        make_ledger(tmp_path / name, 3)
    link = tmp_path / "link.tally"
    link.symlink_to(tmp_path / "one.tally")
    ledger = Ledger.open(link)
    assert ledger.append("note.kept").seq == 4
    link.unlink()
    link.symlink_to(tmp_path / "two.tally")
    with pytest.raises(LedgerMoved, match="another file"):
        ledger.append("note.kept")
    with pytest.raises(LedgerMoved):
        ledger.close()
    with Ledger.open(tmp_path / "one.tally") as one:
        assert one.head().seq == 4
