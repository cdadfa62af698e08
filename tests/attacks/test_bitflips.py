"""One flipped bit anywhere in a ledger's files: never VERIFIED with another content, never a crash."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

from tallystick import Durability, Head, Ledger, Report, SQLiteStore, TallyError, Verdict
from tallystick.ledger.headfile import head_path, read_head_file
from tallystick.ledger.verify import verify

COLUMNS = "seq, at, kind, stream, key, meta, salt, body, body_hash, prev_hash, hash"
QUICK_FLIPS = 600
SLOW_FLIPS = 5000

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Original:
    """A ledger's files as they lay at one moment, its rows and its head."""

    folder: Path
    rows: Rows
    head: Head

    @property
    def path(self) -> Path:
        return self.folder / "agents.tally"


@pytest.fixture(autouse=True)
def _nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for misplaced rows in a smaller reach than usual: it makes `edited` quick to find."""
    monkeypatch.setattr("tallystick.ledger.walk.REORDER_SEARCH", 100)


def reference_rows(path: Path) -> Rows:
    """Every column of every row, read past Tallystick. Errors of SQLite and of decoding come through."""
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as con:
        return con.execute(f"SELECT {COLUMNS} FROM events NOT INDEXED ORDER BY seq").fetchall()


def write(ledger: Ledger, first: int, last: int) -> None:
    for n in range(first, last + 1):
        key = f"key-{n}" if n % 2 else None
        meta = {"actor": "bot"} if n % 3 else None
        ledger.append("order.placed", {"n": n, "note": "x" * 40}, stream=f"order:{n % 3}", key=key, meta=meta)


def make(folder: Path, events: int) -> Original:
    folder.mkdir()
    path = folder / "agents.tally"
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        write(ledger, 2, events - 1)
        ledger.erase(4, "request of the data subject")
        head = ledger.head()
    return Original(folder, reference_rows(path), head)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """A closed ledger of 20 events, some 40 KiB."""
    return make(tmp_path_factory.mktemp("closed") / "ledger", 20)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """File, log and head file of a ledger that a writer held open: half its events are in the log."""
    folder = tmp_path_factory.mktemp("live")
    source = make(folder / "source", 12)
    copied = folder / "ledger"
    copied.mkdir()
    with Ledger.open(source.path, durability=Durability.PROCESS) as ledger:
        write(ledger, 13, 24)
        head = ledger.head()
        ledger.verify()  # which brings the head file up to date
        for end in ("", "-wal", ".head"):
            shutil.copy(f"{source.path}{end}", f"{copied / 'agents.tally'}{end}")
    assert (copied / "agents.tally-wal").stat().st_size > 0
    reading = folder / "reading"
    shutil.copytree(copied, reading)
    rows = reference_rows(reading / "agents.tally")
    assert rows[-1][0] == head.seq == 24
    return Original(copied, rows, head)


def look(path: Path, expect: Head | None) -> Report | TallyError:
    """Verify a file as an app does or, if its event 1 is unreadable, past the ledger."""
    try:
        with Ledger.open(path, read_only=True) as ledger:
            return ledger.verify(expect)
    except TallyError:
        pass
    try:
        with closing(SQLiteStore(path, read_only=True)) as store:
            return verify(store, expect=expect, kept=read_head_file(path))
    except TallyError as error:
        return error


def flips(size: int, count: int | None, seed: int) -> Iterator[tuple[int, int]]:
    """(position, mask): so many positions of a file, or all, each with one random bit."""
    chosen = random.Random(seed)
    positions = range(size) if count is None or count >= size else chosen.sample(range(size), count)
    for position in positions:
        yield position, 1 << chosen.randrange(8)


def check_flips(
    original: Original, folder: Path, end: str, count: int | None, *, head_file: bool, seed: int
) -> None:
    """Flip bits of one of the ledger's files, one at a time, and look each time."""
    folder.mkdir()
    path = folder / "agents.tally"
    ends = ("", "-wal", ".head") if head_file else ("", "-wal")
    files = {each: Path(f"{original.path}{each}") for each in ends}
    genuine = {each: file.read_bytes() for each, file in files.items() if file.exists()}
    flipped = bytearray(genuine[end])
    seen = {"verified": 0, "broken": 0, "error": 0, "unanchored": 0}
    for position, mask in flips(len(flipped), count, seed):
        for leftover in folder.iterdir():
            leftover.unlink()
        flipped[position] ^= mask
        for each, data in genuine.items():
            Path(f"{path}{each}").write_bytes(flipped if each == end else data)
        flipped[position] ^= mask
        where = f"bit {mask:#x} of byte {position} of {end or 'the file'}"
        answer = look(path, original.head)
        seen[answer.verdict.lower() if isinstance(answer, Report) else "error"] += 1
        if isinstance(answer, Report) and answer.verdict is Verdict.VERIFIED:
            found = reference_rows(path)
            assert found == original.rows, where
            with Ledger.open(path, read_only=True) as ledger:
                assert [event.seq for event in ledger.read()] == [row[0] for row in original.rows], where
        elif isinstance(answer, Report):
            assert answer.verdict is Verdict.BROKEN or answer.last < original.head.seq, where
    assert seen["broken"] + seen["error"] > 0, seen


@pytest.mark.parametrize("head_file", [False, True], ids=["bare", "with-head-file"])
def test_closed_ledger(closed: Original, tmp_path: Path, head_file: bool) -> None:
    """Invariant: no flipped bit of a closed ledger passes as VERIFIED with another content."""
    check_flips(closed, tmp_path / "flipped", "", QUICK_FLIPS // 2, head_file=head_file, seed=1 + head_file)


@pytest.mark.parametrize("head_file", [False, True], ids=["bare", "with-head-file"])
@pytest.mark.parametrize("end", ["", "-wal"], ids=["file", "wal"])
def test_live_ledger(live: Original, tmp_path: Path, end: str, head_file: bool) -> None:
    """Invariant: the same for a copy of a ledger in use, flipped in its file or in its log."""
    check_flips(live, tmp_path / "flipped", end, QUICK_FLIPS // 4, head_file=head_file, seed=3 + head_file)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("end", ["", "-wal"], ids=["file", "wal"])
@pytest.mark.parametrize("head_file", [False, True], ids=["bare", "with-head-file"])
def test_every_byte(closed: Original, live: Original, tmp_path: Path, end: str, head_file: bool) -> None:
    """Every byte of the small ledger, and many of the log of the one in use, which is far larger."""
    original, count = (live, SLOW_FLIPS * 3) if end else (closed, None)
    check_flips(original, tmp_path / "flipped", end, count, head_file=head_file, seed=5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_larger_ledger(tmp_path: Path) -> None:
    """A ledger of many pages, with inner nodes and overflow."""
    original = make(tmp_path / "ledger", 1200)
    check_flips(original, tmp_path / "flipped", "", SLOW_FLIPS, head_file=False, seed=7)


def test_head_file(closed: Original, tmp_path: Path) -> None:
    """Invariant: the head file never makes a ledger VERIFIED, whatever stands in it."""
    folder = tmp_path / "flipped"
    shutil.copytree(closed.folder, folder)
    path = folder / "agents.tally"
    genuine = head_path(path).read_bytes()
    for position in range(len(genuine)):
        for bit in (position % 8, (position + 3) % 8, 5):  # 5 turns a letter into its other case
            data = bytearray(genuine)
            data[position] ^= 1 << bit
            head_path(path).write_bytes(data)
            answer = look(path, None)
            assert not isinstance(answer, Report) or answer.verdict is not Verdict.VERIFIED
            anchored = look(path, closed.head)
            if isinstance(anchored, Report) and anchored.verdict is Verdict.VERIFIED:
                # Only where the line still says the same: white space around it.
                assert read_head_file(path) == closed.head or read_head_file(path) is None
            if bit == position % 8:
                try:
                    Ledger.open(path, durability=Durability.PROCESS).close()
                except TallyError:
                    assert head_path(path).read_bytes() == data, "what it vouches for is not overwritten"


@pytest.mark.parametrize(
    "text", ["", "\n", "tally1", "0:" + "0" * 64, "9223372036854775808:" + "0" * 64,
             "9" * 19 + ":" + "0" * 64,
             "99999999999999999999:" + "0" * 64, "-1:" + "0" * 64, "\x00" * 100, "1:" + "0" * 10_000_000]
)  # fmt: skip
def test_head_file_of_another_kind(closed: Original, tmp_path: Path, text: str) -> None:
    """Any text at all in the head file ends in a Report or a TallyError."""
    folder = tmp_path / "hostile"
    shutil.copytree(closed.folder, folder)
    path = folder / "agents.tally"
    head_path(path).write_text(text)
    for expect in (None, closed.head):
        answer = look(path, expect)
        assert not isinstance(answer, Report) or answer.verdict is Verdict.BROKEN
    with pytest.raises(TallyError):
        Ledger.open(path).close()
