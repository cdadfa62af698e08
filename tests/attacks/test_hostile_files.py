"""Files, places and moments that are against us: a clear error, nothing touched, nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from tallystick import (
    Closed,
    Conflict,
    Durability,
    Event,
    Head,
    Ledger,
    LedgerNotFound,
    Locked,
    MemoryStore,
    NewerFormat,
    NotALedger,
    OutcomeUnknown,
    Row,
    SQLiteStore,
    StoreError,
    TailLost,
    TallyError,
    Unavailable,
    Verdict,
)
from tallystick.ledger.headfile import head_path

NOBODY = 65534
Make = Callable[[Path, int], Head]
Build = Callable[[Head], Sequence[Row]]


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


def check_promises(ledger: Ledger, promised: list[tuple[int, bytes]]) -> None:
    """What was acknowledged is there, whole batches only, and the chain verifies up to its end."""
    events: dict[int, Event] = {event.seq: event for event in ledger.read()}
    assert all(events[seq].hash == digest for seq, digest in promised)
    assert len(events) == 1 + len(promised), "something that was refused is there"
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


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


# -- locks, forks, ends -------------------------------------------------------------------------------------

HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute(sys.argv[2])
print("held", flush=True)
sys.stdin.readline()
db.execute("COMMIT")
"""


@pytest.fixture
def hold(ledger_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Let another process begin a transaction on the ledger and keep it until told."""
    held: list[subprocess.Popen[str]] = []

    def start(begin: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(ledger_path), begin],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        held.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in held:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_locked_file(
    begin: str, ledger_path: Path, make_ledger: Make, hold: Callable[[str], subprocess.Popen[str]]
) -> None:
    """Invariant: another's lock is Locked after the time-out, stores nothing, and passes with the lock."""
    make_ledger(ledger_path, 3)
    with Ledger.open(ledger_path, timeout_s=0.05) as ledger:
        holder = hold(begin)
        with pytest.raises(Locked) as caught:
            ledger.append("note.kept", key="k")
        assert caught.value.waited_s == 0.05
        with pytest.raises(Locked):
            ledger.erase(2, "reason")
        assert ledger.verify().finding is None, "readers are not in the way"
        assert holder.stdin is not None
        holder.stdin.write("go\n")
        holder.stdin.close()
        holder.wait()
        assert ledger.append("note.kept", key="k").seq == 4
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_a_lock_that_passes_in_time_is_waited_for(
    ledger_path: Path, make_ledger: Make, hold: Callable[[str], subprocess.Popen[str]]
) -> None:
    """Within the time-out, a caller sees no lock at all."""
    make_ledger(ledger_path, 3)
    with Ledger.open(ledger_path) as ledger:
        holder = hold("BEGIN IMMEDIATE")
        assert holder.stdin is not None
        threading.Timer(0.1, holder.stdin.close).start()
        assert ledger.append("note.kept").seq == 4


def in_child(work: Callable[[], str]) -> str:
    """What `work` returns in a forked child, or the name of its error; the child is killed if it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)
            try:
                said = work()
            except BaseException as error:
                said = type(error).__name__
            os.write(writing, said.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said or "hung"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_handle_carried_across_a_fork(ledger_path: Path, make_ledger: Make) -> None:
    """Invariant: the child refuses to use it, its end does no harm, and the parent goes on."""
    make_ledger(ledger_path, 3)
    with Ledger.open(ledger_path, durability=Durability.PROCESS) as ledger:
        ledger.append("note.kept")
        uses: list[Callable[[], object]] = [
            lambda: ledger.append("note.kept"),
            lambda: ledger.append_many([{"kind": "note.kept"}]),
            lambda: ledger.erase(2, "reason"),
            lambda: list(ledger.read()),
            ledger.head,
            ledger.verify,
        ]
        for use in uses:
            assert in_child(lambda use=use: str(use())) == "Closed"  # type: ignore[misc]
        assert in_child(lambda: str(ledger.close())) == "None"

        def reopen() -> str:
            with Ledger.open(ledger_path, durability=Durability.PROCESS) as own:
                return str(own.append("note.kept", {"by": "child"}).seq)

        assert in_child(reopen) == "5"
        assert ledger.append("note.kept").seq == 6
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_anothers_commit() -> None:
    """Invariant: the child does not wait for a thread that it does not have."""
    store = Slow(MemoryStore())
    ledger = Ledger.over(store)
    store.hold()
    leader = threading.Thread(target=ledger.append, args=("note.kept",))
    leader.start()
    store.entered.wait()
    try:
        assert in_child(lambda: str(ledger.append("note.kept"))) == "Closed"
    finally:
        store.release()
        leader.join()
    assert ledger.append("note.kept").seq == 3


def test_use_after_close(ledger_path: Path, make_ledger: Make) -> None:
    """Every use of a closed ledger is Closed, and closing again is fine."""
    make_ledger(ledger_path, 3)
    ledger = Ledger.open(ledger_path)
    reading = ledger.read()
    ledger.close()
    ledger.close()
    for use in (
        lambda: ledger.append("note.kept"),
        lambda: ledger.append_many([{"kind": "note.kept"}]),
        lambda: ledger.erase(2, "reason"),
        lambda: next(reading),
        lambda: next(ledger.follow(0)),
        ledger.head,
        ledger.verify,
        ledger.stats,
        lambda: ledger.backup(ledger_path.with_name("copy.tally")),
    ):
        with pytest.raises(Closed):
            use()
    assert not ledger_path.with_name("copy.tally").exists()


def test_a_lost_tail_is_not_written_over(ledger_path: Path, make_ledger: Make) -> None:
    """Invariant: a log that ends before its head file opens for reading only, and the remedy works."""
    make_ledger(ledger_path, 3)
    early = ledger_path.read_bytes()
    with Ledger.open(ledger_path) as ledger:
        ledger.append("note.kept")
    ledger_path.write_bytes(early)
    with pytest.raises(TailLost) as caught:
        Ledger.open(ledger_path)
    assert (caught.value.last, caught.value.expected) == (3, 4)
    with Ledger.open(ledger_path, read_only=True) as ledger:
        assert ledger.verify().verdict is Verdict.BROKEN
    head_path(ledger_path).rename(ledger_path.with_name("kept.head"))
    with Ledger.open(ledger_path) as ledger:
        assert ledger.append("note.kept").seq == 4


# -- stores that fail ----------------------------------------------------------------------------------------


class Wrapped:
    """A store around another, to be made to fail."""

    def __init__(self, store: MemoryStore | SQLiteStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


class Slow(Wrapped):
    """A store whose next append waits until released."""

    def __init__(self, store: MemoryStore | SQLiteStore) -> None:
        super().__init__(store)
        self.entered = threading.Event()
        self._go = threading.Event()
        self._go.set()

    def hold(self) -> None:
        self.entered.clear()
        self._go.clear()

    def release(self) -> None:
        self._go.set()

    def append(self, build: Build) -> Head:
        self.entered.set()
        assert self._go.wait(60)
        return self.store.append(build)


class Doubtful(Wrapped):
    """A store that loses the answer of the next append, before or after storing."""

    doubt: str | None = None
    silent = 0

    def append(self, build: Build) -> Head:
        doubt, self.doubt = self.doubt, None
        if doubt is None:
            return self.store.append(build)
        if doubt == "after":
            self.store.append(build)
        elif doubt == "before":
            build(self.store.head())
        raise OutcomeUnknown("the connection was lost")

    def read(self, *args: Any, **options: Any) -> Iterator[Row]:
        if self.silent > 0:
            self.silent -= 1
            raise Unavailable("the store", "does not answer")
        return self.store.read(*args, **options)


@pytest.fixture(params=["memory", "sqlite"])
def any_store(request: pytest.FixtureRequest, ledger_path: Path) -> Iterator[MemoryStore | SQLiteStore]:
    """Each kind of store."""
    store = MemoryStore() if request.param == "memory" else SQLiteStore(ledger_path)
    yield store
    store.close()


def kinds(ledger: Ledger) -> list[str]:
    return [event.kind for event in ledger.read(1)]


@pytest.mark.parametrize("silent", [0, 2])
def test_an_answer_lost_after_storing(any_store: MemoryStore | SQLiteStore, silent: int) -> None:
    """Invariant: the ledger asks until it knows, and gives the receipt; nothing is appended twice."""
    store = Doubtful(any_store)
    ledger = Ledger.over(store)  # type: ignore[arg-type]
    store.doubt, store.silent = "after", silent
    receipts = ledger.append_many([{"kind": "note.one"}, {"kind": "note.two"}])
    assert [receipt.seq for receipt in receipts] == [2, 3]
    assert ledger.get(3).hash == receipts[1].hash == ledger.head().hash
    assert ledger.append("note.three").seq == 4
    assert kinds(ledger) == ["note.one", "note.two", "note.three"]
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


@pytest.mark.parametrize("doubt", ["before", "at once"])
def test_an_answer_lost_before_storing(any_store: MemoryStore | SQLiteStore, doubt: str) -> None:
    """Invariant: what turns out not to be stored is Unavailable, so that it can be tried again."""
    store = Doubtful(any_store)
    ledger = Ledger.over(store)  # type: ignore[arg-type]
    store.doubt = doubt
    with pytest.raises(Unavailable):
        ledger.append("note.one")
    assert ledger.append("note.one").seq == 2
    assert kinds(ledger) == ["note.one"]


def test_an_answer_lost_when_there_was_nothing_to_store(any_store: MemoryStore | SQLiteStore) -> None:
    """Invariant: a key that was used gives its first receipt, also when the store then stumbles."""
    store = Doubtful(any_store)
    ledger = Ledger.over(store)  # type: ignore[arg-type]
    first = ledger.append("note.one", key="k")
    store.doubt = "after"
    assert ledger.append("note.one", key="k") == first
    store.doubt = "after"
    assert ledger.append_many([]) == []
    store.doubt = None
    assert kinds(ledger) == ["note.one"]


def test_a_store_that_never_answers(any_store: MemoryStore | SQLiteStore) -> None:
    """Invariant: nobody is told that an event is stored, or not, when nobody knows."""
    store = Doubtful(any_store)
    ledger = Ledger.over(store)  # type: ignore[arg-type]
    ledger.committer._patience_s = 0.05
    store.doubt, store.silent = "after", 10_000
    with pytest.raises(OutcomeUnknown) as caught:
        ledger.append("note.one", key="k")
    assert "key" in str(caught.value)
    store.silent = 0
    assert ledger.append("note.one", key="k").seq == 2, "with the key, asking again is safe"
    assert kinds(ledger) == ["note.one"]


class Contended(Wrapped):
    """A store that compares and swaps: others come first, so it builds again."""

    def __init__(self, store: MemoryStore | SQLiteStore, others: list[Ledger]) -> None:
        super().__init__(store)
        self.others = others
        self.lost = 0

    def append(self, build: Build) -> Head:
        while self.lost > 0:
            self.lost -= 1
            build(self.store.head())  # made for a head that is about to be overtaken
            self.others[0].append("other.came", key="contested" if self.lost == 0 else None)
        return self.store.append(build)


def test_a_store_that_builds_again(any_store: MemoryStore | SQLiteStore) -> None:
    """Invariant: rows, keys and positions are judged anew behind each head; nothing is left of a try."""
    others: list[Ledger] = []
    store = Contended(any_store, others)
    ledger = Ledger.over(store)  # type: ignore[arg-type]
    others.append(Ledger.over(any_store))
    store.lost = 2
    assert [r.seq for r in ledger.append_many([{"kind": "note.one"}, {"kind": "note.two"}])] == [4, 5]
    store.lost = 2
    with pytest.raises(TallyError, match="contested"):
        ledger.append("note.three", key="contested")
    store.lost = 1
    with pytest.raises(TallyError, match="expected its last event"):
        ledger.append("note.four", stream="main", expect=7)
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
    assert kinds(ledger)[2:4] == ["note.one", "note.two"]


def test_a_store_that_gives_up(any_store: MemoryStore | SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conflict reaches the caller, and the next append works."""
    ledger = Ledger.over(any_store)

    def give_up(build: Build) -> Head:
        build(any_store.head())
        raise Conflict("another came first, again and again")

    monkeypatch.setattr(any_store, "append", give_up)
    with pytest.raises(Conflict):
        ledger.append("note.one")
    monkeypatch.undo()
    assert ledger.append("note.one").seq == 2


def test_a_disk_error(ledger_path: Path, make_ledger: Make) -> None:
    """Invariant: an input/output error in a commit is not taken for success, and nothing half is left."""
    make_ledger(ledger_path, 3)
    with Ledger.open(ledger_path) as ledger:
        store = ledger._store
        assert isinstance(store, SQLiteStore) and store._writer is not None
        broken = BrokenCommit(store._writer)
        store._writer = broken  # type: ignore[assignment]
        with pytest.raises(Unavailable):
            ledger.append("note.kept")
        broken.failing = False
        assert ledger.append("note.kept").seq == 4
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


class BrokenCommit:
    """A connection whose COMMIT ends in an input/output error."""

    failing = True

    def __init__(self, con: apsw.Connection) -> None:
        self._con = con

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)

    def execute(self, sql: str, *arguments: Any) -> Any:
        if sql == "COMMIT" and self.failing:
            raise apsw.IOError("disk I/O error")
        return self._con.execute(sql, *arguments)


# -- interrupts ---------------------------------------------------------------------------------------------


class Interrupted(Wrapped):
    """A store whose next append is interrupted, before or after storing."""

    when: str | None = None

    def append(self, build: Build) -> Head:
        when, self.when = self.when, None
        if when == "before":
            raise KeyboardInterrupt
        head = self.store.append(build)
        if when == "after":
            raise KeyboardInterrupt
        return head


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_in_mid_commit(any_store: MemoryStore | SQLiteStore, when: str) -> None:
    """Invariant: nobody sleeps for ever; who cannot know is told so, and the others are stored."""
    slow = Slow(any_store)
    interrupted = Interrupted(slow)  # type: ignore[arg-type]
    ledger = Ledger.over(interrupted)  # type: ignore[arg-type]
    slow.hold()
    outcomes: dict[int, object] = {}

    def append(number: int) -> None:
        try:
            outcomes[number] = ledger.append("note.kept", {"n": number}).seq
        except BaseException as error:
            outcomes[number] = type(error).__name__

    first = threading.Thread(target=append, args=(0,))
    first.start()
    slow.entered.wait()
    rest = [threading.Thread(target=append, args=(number,)) for number in range(1, 9)]
    for thread in rest:
        thread.start()
    while len(ledger.committer._queue) < 8:
        time.sleep(0.001)
    interrupted.when = when  # whoever leads the eight is interrupted
    slow.release()
    for thread in (first, *rest):
        thread.join(60)
        assert not thread.is_alive(), "somebody sleeps for ever"
    assert outcomes.pop(0) == 2
    assert sorted(map(str, outcomes.values())) == ["KeyboardInterrupt"] + ["OutcomeUnknown"] * 7
    assert len(list(ledger.read())) == (2 if when == "before" else 10)
    assert ledger.append("note.kept").seq == (3 if when == "before" else 11)
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_an_interrupt_while_waiting_for_another() -> None:
    """Invariant: a caller that gave up waiting does not take the lead with it.

    The main thread, which alone gets Ctrl-C, waits in the queue behind another's commit.
    """
    store = Slow(MemoryStore())
    ledger = Ledger.over(store)  # type: ignore[arg-type]
    store.hold()
    leader = threading.Thread(target=ledger.append, args=("note.kept", {"n": 0}))
    leader.start()
    store.entered.wait()
    behind = threading.Thread(target=ledger.append, args=("note.kept", {"n": 2}))

    def interrupt() -> None:
        while not ledger.committer._queue:
            time.sleep(0.001)
        behind.start()
        while len(ledger.committer._queue) < 2:
            time.sleep(0.001)
        time.sleep(0.05)  # for the main thread to be asleep
        signal.pthread_kill(main.ident or 0, signal.SIGINT)

    main = threading.current_thread()
    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        ledger.append("note.kept", {"n": 1})
    store.release()
    for thread in (helper, leader, behind):
        thread.join(30)
        assert not thread.is_alive(), "somebody sleeps for ever"
    after = threading.Thread(target=ledger.append, args=("note.kept", {"n": 3}), daemon=True)
    after.start()
    after.join(30)
    assert not after.is_alive(), "the lead was lost"
    assert [event.body["n"] for event in ledger.read(1)] == [0, 2, 3]


def test_closing_beside_appenders(ledger_path: Path) -> None:
    """Invariant: an append beside `close` is stored or says why not; nobody hangs, no promise is lost."""
    ledger = Ledger.open(ledger_path, durability=Durability.PROCESS)
    promised: list[tuple[int, bytes]] = []
    strange: list[BaseException] = []

    def append() -> None:
        try:
            while True:
                receipt = ledger.append("note.kept")
                promised.append((receipt.seq, receipt.hash))
        except (Closed, StoreError):
            pass
        except BaseException as error:
            strange.append(error)

    threads = [threading.Thread(target=append) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(promised) < 20:
        time.sleep(0.001)
    ledger.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not strange, strange
    with Ledger.open(ledger_path) as again:
        check_promises(again, promised)
