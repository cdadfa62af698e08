"""Files that are no ledger, odd places, missing permissions, full disks: one clear error, nothing touched."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from wrapped_stores import check_promises

from tallystick import (
    Durability,
    Head,
    Ledger,
    LedgerNotFound,
    NewerFormat,
    NotALedger,
    TallyError,
    TracesRemain,
    Unavailable,
    Verdict,
)
from tallystick.ledger.headfile import head_path

NOBODY = 65534
Make = Callable[[Path, int], Head]


def listing(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def open_every_way(path: Path) -> list[TallyError]:
    """The errors of opening a path for writing (with and without creating) and for reading."""
    errors = []
    for options in ({}, {"create": False}, {"read_only": True}):
        with pytest.raises(TallyError) as caught:
            Ledger.open(path, **options).close()  # type: ignore[arg-type]
        errors.append(caught.value)
    return errors


# -- files that are no ledger ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"Dear diary,\n" * 1000,
        b"SQLite format 3\x00",
        b"SQLite format 3\x00" + bytes(84),
        b"SQLite format 2\x00" + b"x" * 8000,
        b"\x00" * 8192,
        b"\xff" * 100_000,
    ],
    ids=["short", "text", "magic", "header of zeros", "another magic", "zeros", "ones"],
)
def test_no_database(data: bytes, ledger_path: Path) -> None:
    """Invariant: a file that is something else is refused and not changed in any byte."""
    ledger_path.write_bytes(data)
    for error in open_every_way(ledger_path):
        assert isinstance(error, Unavailable), error
        assert str(ledger_path) in str(error)
    assert listing(ledger_path.parent) == {ledger_path.name: data}


@pytest.mark.parametrize("size", [1, 16, 50, 99, 100, 101, 4096, 8191])
def test_a_ledger_cut_short(size: int, ledger_path: Path, make_ledger: Make) -> None:
    """Invariant: what is left of a ledger's file after its start is refused, not taken for a new one."""
    make_ledger(ledger_path, 5)
    head_path(ledger_path).unlink()
    data = ledger_path.read_bytes()[:size]
    ledger_path.write_bytes(data)
    for error in open_every_way(ledger_path):
        assert isinstance(error, Unavailable), error
    assert ledger_path.read_bytes() == data


def test_an_empty_file_becomes_a_ledger_only_if_asked(ledger_path: Path) -> None:
    """An empty file, which `touch` and `mktemp` make, is as good as none."""
    ledger_path.touch()
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(NotALedger, match="empty"):
            Ledger.open(ledger_path, **options)  # type: ignore[arg-type]
        assert listing(ledger_path.parent) == {ledger_path.name: b""}
    with Ledger.open(ledger_path) as ledger:
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


OTHER_APP = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
db.execute("CREATE TABLE books (title TEXT)")
db.execute("INSERT INTO books VALUES (zeroblob(200000))")
if sys.argv[3] == "checkpointed":
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("INSERT INTO books VALUES ('later')")
if sys.argv[2] == "DELETE" and sys.argv[3] == "crashed":
    db.execute("PRAGMA cache_size = 1")
    db.execute("BEGIN")
    db.execute("UPDATE books SET title = randomblob(200000)")
    db.execute("INSERT INTO books VALUES (zeroblob(500000))")
if sys.argv[3] == "closed":
    db.close()
os._exit(0)
"""


@pytest.mark.parametrize("state", ["closed", "crashed", "checkpointed"])
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_another_apps_database(journal: str, state: str, tmp_path: Path) -> None:
    """Invariant: another app's database is refused and not changed in any byte.

    Also one that crashed, whose journal SQLite would replay on opening, and leaves nothing beside it
    but, at most, SQLite's index of a log that lies there.
    """
    path = tmp_path / "books.db"
    subprocess.run([sys.executable, "-c", OTHER_APP, str(path), journal, state], check=True)
    before = listing(tmp_path)
    if state == "crashed":
        assert len(before) > 1, "there should be a journal"
    for error in open_every_way(path):
        assert isinstance(error, NotALedger) and "no Tallystick ledger" in str(error)
    after = listing(tmp_path)
    if f"{path.name}-wal" in before:
        before.pop(f"{path.name}-shm", None)
        after.pop(f"{path.name}-shm", None)
    assert after == before


def test_a_database_that_bears_the_mark_only(ledger_path: Path) -> None:
    """A table called events is not enough, nor the mark."""
    with closing(sqlite3.connect(ledger_path)) as db:
        db.execute("CREATE TABLE events (seq TEXT)")
        db.execute(f"PRAGMA application_id = {0x54414C59}")
        db.execute("PRAGMA user_version = 1")
    data = ledger_path.read_bytes()
    for error in open_every_way(ledger_path):
        assert isinstance(error, NotALedger)
    assert listing(ledger_path.parent) == {ledger_path.name: data}


def test_a_newer_format(ledger_path: Path, make_ledger: Make) -> None:
    """Invariant: a ledger of a newer version is neither read nor written, and the error says what to do."""
    make_ledger(ledger_path, 5)
    with closing(sqlite3.connect(ledger_path)) as db:
        db.execute("PRAGMA user_version = 2")
    data = ledger_path.read_bytes()
    for error in open_every_way(ledger_path):
        assert isinstance(error, NewerFormat) and (error.found, error.known) == (2, 1)
        assert "upgrade" in str(error)
    assert ledger_path.read_bytes() == data


# -- places -------------------------------------------------------------------------------------------


def test_a_directory_and_a_pipe(tmp_path: Path) -> None:
    """Refused at once: opening a FIFO would wait for a writer for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/null")):
        for error in open_every_way(path):
            assert isinstance(error, NotALedger)


def test_a_missing_directory(tmp_path: Path) -> None:
    """The error names the path, and no directory is made."""
    path = tmp_path / "missing" / "agents.tally"
    errors = open_every_way(path)
    assert all(isinstance(error, Unavailable) and str(path) in str(error) for error in errors)
    assert isinstance(errors[1], LedgerNotFound) and isinstance(errors[2], LedgerNotFound)
    assert not path.parent.exists()


def test_a_file_for_a_directory(tmp_path: Path) -> None:
    """A path below a file is no place."""
    (tmp_path / "file").touch()
    assert all(isinstance(error, Unavailable) for error in open_every_way(tmp_path / "file" / "agents.tally"))


def test_a_dangling_symlink(tmp_path: Path) -> None:
    """Without creating it is no ledger; nothing is made at either end by looking."""
    link, target = tmp_path / "link.tally", tmp_path / "target.tally"
    link.symlink_to(target)
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(LedgerNotFound):
            Ledger.open(link, **options)  # type: ignore[arg-type]
    assert not target.exists()
    with Ledger.open(link) as ledger:
        ledger.append("note.kept")
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
    assert target.exists() and link.is_symlink()
    with Ledger.open(target, read_only=True) as ledger:
        assert ledger.head().seq == 2


def test_a_symlink_in_a_circle(tmp_path: Path) -> None:
    """The operating system's error is named."""
    link = tmp_path / "link.tally"
    link.symlink_to(link)
    assert all(isinstance(error, Unavailable) for error in open_every_way(link))


def test_a_network_file_system(ledger_path: Path, make_ledger: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant: where SQLite's locks cannot be trusted, a ledger is not opened."""
    make_ledger(ledger_path, 3)
    data = ledger_path.read_bytes()
    monkeypatch.setattr("tallystick.ledger.sqlite.connection.filesystem_type", lambda path: "nfs4")
    for error in open_every_way(ledger_path):
        assert isinstance(error, Unavailable) and "network" in str(error)
    assert ledger_path.read_bytes() == data


@pytest.mark.parametrize("what", ["path with ? and #", "path with %41", "line\nbreak", "-dash", "ünï"])
def test_odd_names(what: str, tmp_path: Path) -> None:
    """Names that are special in URIs and commands are names like any other."""
    path = tmp_path / f"{what}.tally"
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        ledger.append_many({"kind": "load.made", "body": {"n": n}} for n in range(2500))
        head = ledger.head()
        assert ledger.verify(head, jobs=2).verdict is Verdict.VERIFIED
        ledger.backup(tmp_path / f"{what}.copy")
    with Ledger.open(tmp_path / f"{what}.copy", read_only=True) as copy:
        assert copy.verify(head).verdict is Verdict.VERIFIED
    names = {file.name.removeprefix(what) for file in tmp_path.iterdir()}
    assert names >= {".tally", ".tally.head", ".copy", ".copy.head"}


# -- permissions -----------------------------------------------------------------------------------------

AS_NOBODY = """
import encodings.ascii, os, sys
from tallystick import Head, Ledger, TallyError, Verdict
if os.getuid() == 0:  # the modules are loaded by now; nobody may be unable to read them
    os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
path = sys.argv[1]
def attempt(name, work):
    try:
        print(name, work())
    except TallyError as error:
        print(name, type(error).__name__, path in str(error))
def verify():
    with Ledger.open(path, read_only=True) as ledger:
        return ledger.verify(Head.parse(sys.argv[2])).verdict
attempt("verify", verify)
attempt("open", lambda: Ledger.open(path).close())
"""


def as_nobody(path: Path, head: Head) -> list[str]:
    """What a user without rights gets: the lines of AS_NOBODY."""
    script = AS_NOBODY.format(nobody=NOBODY)
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(head)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own are not."""
    folder = Path("/tmp") / f"tallystick-attacks-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_file_and_directory(open_folder: Path, make_ledger: Make) -> None:
    """Invariant: what may be read can be verified without a trace; what may not be written is said so."""
    path = open_folder / "agents.tally"
    head = make_ledger(path, 5)
    before = listing(open_folder)
    path.chmod(0o444)
    open_folder.chmod(0o555)
    assert as_nobody(path, head) == ["verify VERIFIED", "open Unavailable True"]
    assert listing(open_folder) == before


def test_a_read_only_directory_with_a_log(open_folder: Path, make_ledger: Make) -> None:
    """Invariant: a log that cannot be read in is not left out in silence."""
    path = open_folder / "agents.tally"
    make_ledger(path, 5)
    with Ledger.open(path) as ledger:
        ledger.append("note.kept")
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", f"{open_folder / 'copy.tally'}{end}")
        head = ledger.head()
    copy = open_folder / "copy.tally"
    open_folder.chmod(0o555)
    verified, opened = as_nobody(copy, head)
    assert verified == "verify Unavailable True"
    assert opened.startswith("open Unavailable")


def test_an_unreadable_file(open_folder: Path, make_ledger: Make) -> None:
    """Could not look is an error, never a pass."""
    path = open_folder / "agents.tally"
    head = make_ledger(path, 5)
    path.chmod(0o000)
    assert as_nobody(path, head) == ["verify Unavailable True", "open Unavailable True"]


def test_an_unreadable_head_file(open_folder: Path, make_ledger: Make) -> None:
    """Nobody knows what an unreadable head file would have said."""
    path = open_folder / "agents.tally"
    head = make_ledger(path, 5)
    open_folder.chmod(0o777)
    path.chmod(0o666)
    head_path(path).chmod(0o000)
    assert as_nobody(path, head) == ["verify Unavailable True", "open Unavailable True"]


# -- full disks -------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no small file system: mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, durability: Durability) -> None:
    """Invariant: a full disk is Unavailable, loses and half-writes nothing, and passes with the space."""
    path = small_disk / "agents.tally"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 600_000)
    promised: list[tuple[int, bytes]] = []
    with Ledger.open(path, durability=durability) as ledger:
        failures = 0
        for n in range(2000):
            try:
                if n % 2:
                    receipts = ledger.append_many(
                        [{"kind": "load.made", "body": {"n": n, "of": 5, "x": "y" * 500}} for _ in range(5)]
                    )
                else:
                    receipts = [ledger.append("load.made", {"n": n, "of": 1, "x": "y" * 2000})]
                promised += [(receipt.seq, receipt.hash) for receipt in receipts]
            except TallyError as error:
                assert isinstance(error, Unavailable), error
                failures += 1
                if failures == 5:
                    break
        assert failures == 5, "the disk never filled up"
        check_promises(ledger, promised)
        with pytest.raises(TallyError):
            ledger.backup(small_disk / "copy.tally")
        assert not (small_disk / "copy.tally").exists()
        ballast.unlink()
        for n in range(20):
            receipt = ledger.append("load.made", {"n": n, "of": 1})
            promised.append((receipt.seq, receipt.hash))
        check_promises(ledger, promised)
    with Ledger.open(path, durability=durability) as ledger:
        check_promises(ledger, promised)


def test_an_erasure_on_a_full_disk(small_disk: Path) -> None:
    """Invariant: what is recorded is not denied: traces remain until there is room to scrub them."""
    path = small_disk / "agents.tally"
    ballast = small_disk / "ballast"
    secret = os.urandom(20_000).hex()
    with Ledger.open(path) as ledger:
        seq = ledger.append("note.kept", secret).seq
        ledger.append_many({"kind": "load.made", "body": "x" * 1000} for _ in range(300))
        wal = Path(f"{path}-wal").stat().st_size
        free = shutil.disk_usage(small_disk).free
        ballast.write_bytes(b"x" * (free - 150_000))  # room for the erasure, not for all of the log
        assert wal > 300_000
        with pytest.raises(TracesRemain, match="the disk is full") as caught:
            ledger.erase(seq, "asked to")
        assert caught.value.seqs == (seq,)
        assert ledger.get(seq).erased
        assert secret[:64].encode() in Path(f"{path}-wal").read_bytes()
        ballast.unlink()
        ledger.erase(seq, "asked to")
        assert not any(secret[:64].encode() in data for data in listing(small_disk).values())
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_no_ledger_is_begun_on_a_full_disk(small_disk: Path) -> None:
    """Nothing is left behind that looks like a ledger, and the head files leave nothing, either."""
    (small_disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 8192))
    before = sorted(os.listdir(small_disk))
    with pytest.raises(Unavailable, match="the disk is full; nothing was stored; free some space"):
        Ledger.open(small_disk / "agents.tally")
    assert sorted(os.listdir(small_disk)) == before


def test_no_room_for_the_head_file(
    ledger_path: Path, make_ledger: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: trouble with the head file alone never looks like a failed append, verify or close."""
    make_ledger(ledger_path, 3)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with Ledger.open(ledger_path) as ledger:
        monkeypatch.setattr("tallystick.ledger.headfile.os.replace", full)
        assert ledger.append("note.kept").seq == 4
        assert ledger.verify().verdict is Verdict.UNANCHORED
    monkeypatch.undo()
    with Ledger.open(ledger_path) as ledger:
        assert ledger.head().seq == 4
