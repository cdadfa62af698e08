"""Copies of a ledger: consistent, whole or not there, and never in the place of something else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick import Ledger, MemoryStore, SQLiteStore, Unavailable, Verdict
from tallystick.ledger.headfile import head_path, read_head_file

Open = Callable[..., Ledger]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies" / "copy.tally"


def test_a_copy_is_the_ledger(ledger: Ledger, open_ledger: Open, target: Path) -> None:
    ledger.append_many([{"kind": "a.b", "body": n, "key": f"{n}", "stream": f"s{n % 3}"} for n in range(50)])
    ledger.erase(7, "why")
    head = ledger.backup(target)
    assert head == ledger.head()
    assert sorted(os.listdir(target.parent)) == ["copy.tally", "copy.tally.head"]
    assert read_head_file(target) == head
    copy = open_ledger(target)
    assert list(copy.read()) == list(ledger.read())
    assert copy.verify(head).verdict is Verdict.VERIFIED
    assert copy.append("a.b", 3, stream="s0", key="3").seq == 5  # a copy of the keys, too
    assert copy.append("a.b").seq == head.seq + 1
    assert ledger.head() == head


def test_the_copy_of_a_copy_is_the_same(ledger: Ledger, open_ledger: Open, target: Path) -> None:
    ledger.append_many([{"kind": "a.b", "body": n} for n in range(50)])
    ledger.backup(target)
    again = target.with_name("again.tally")
    assert open_ledger(target, read_only=True).backup(again) == ledger.head()
    assert list(open_ledger(again).read()) == list(ledger.read())


def test_a_reader_can_copy(ledger: Ledger, open_ledger: Open, target: Path) -> None:
    ledger.append("a.b")
    assert open_ledger(read_only=True).backup(target) == ledger.head()


def test_erased_bodies_are_not_in_the_copy(ledger: Ledger, target: Path) -> None:
    ledger.append("a.b", "0123456789abcdef" * 200)
    ledger.erase(2, "why")
    ledger.backup(target)
    assert b"0123456789abcdef" not in target.read_bytes()


def test_the_copy_is_consistent_while_writers_go_on(
    ledger: Ledger, open_ledger: Open, tmp_path: Path
) -> None:
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            ledger.append_many([{"kind": "a.b", "body": [n, part], "stream": "s"} for part in range(3)])
            n += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        heads = [ledger.backup(tmp_path / f"{n}.tally") for n in range(8)]
    finally:
        stop.set()
        thread.join()
    assert heads == sorted(heads)
    assert len({head.seq for head in heads}) > 1
    for n, head in enumerate(heads):
        copy = open_ledger(tmp_path / f"{n}.tally")
        assert copy.verify(head).verdict is Verdict.VERIFIED
        assert head.seq % 3 == 1  # whole batches
        assert ledger.verify(head).anchored_to == head.seq
        assert list(copy.read(max(0, head.seq - 5))) == list(ledger.read(head.seq - 5, before=head.seq + 1))


@pytest.mark.parametrize("existing", ["copy.tally", "copy.tally.head"])
def test_nothing_is_overwritten(ledger: Ledger, target: Path, existing: str) -> None:
    path = target.with_name(existing)
    path.write_bytes(b"precious")
    with pytest.raises(Unavailable, match="exists already; name a new file"):
        ledger.backup(target)
    assert path.read_bytes() == b"precious"
    assert os.listdir(target.parent) == [existing]


def test_nothing_is_overwritten_that_was_made_meanwhile(
    ledger: Ledger, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SQLiteStore.copy_to

    def copy_to(self: SQLiteStore, path: Path) -> None:
        real(self, path)
        target.write_bytes(b"precious")

    monkeypatch.setattr(SQLiteStore, "copy_to", copy_to)
    with pytest.raises(Unavailable, match="exists already; name a new file") as caught:
        ledger.backup(target)
    assert caught.value.where == str(target)
    assert target.read_bytes() == b"precious"
    assert os.listdir(target.parent) == ["copy.tally"]


def test_a_ledger_is_not_copied_onto_itself(ledger: Ledger, tmp_path: Path) -> None:
    ledger.append("a.b")
    with pytest.raises(Unavailable, match="exists already"):
        ledger.backup(tmp_path / "a.tally")
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_a_directory_that_is_not_there(ledger: Ledger, target: Path) -> None:
    missing = target.parent / "none" / "copy.tally"
    with pytest.raises(Unavailable, match="its directory does not exist; make the directory first") as caught:
        ledger.backup(missing)
    assert caught.value.where == str(missing)


def test_a_store_without_a_file() -> None:
    with pytest.raises(Unavailable, match="this store has no file to copy"):
        Ledger.over(MemoryStore()).backup("copy.tally")


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("place", ["before the copy", "after the copy", "before the name", "at the head"])
def test_an_interrupted_backup_leaves_the_whole_copy_or_none(
    ledger: Ledger, open_ledger: Open, target: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    ledger.append("a.b")
    real = SQLiteStore.copy_to

    def interrupt(*_: Any) -> None:
        raise Interrupt

    def copy_and_interrupt(self: SQLiteStore, path: Path) -> None:
        real(self, path)
        raise Interrupt

    with monkeypatch.context() as patch:
        if place == "before the copy":
            patch.setattr(SQLiteStore, "copy_to", interrupt)
        elif place == "after the copy":
            patch.setattr(SQLiteStore, "copy_to", copy_and_interrupt)
        elif place == "before the name":
            patch.setattr(os, "link", interrupt)
        else:
            patch.setattr("tallystick.ledger.headfile.HeadFile.write", interrupt)
        with pytest.raises(Interrupt):
            ledger.backup(target)
    if place == "at the head":
        assert os.listdir(target.parent) == ["copy.tally"]
        assert open_ledger(target).verify(ledger.head()).verdict is Verdict.VERIFIED
    else:
        assert os.listdir(target.parent) == []
        assert ledger.backup(target) == ledger.head()  # nothing is in the way


def test_the_head_file_is_of_the_copy_and_not_of_the_ledger(
    ledger: Ledger, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SQLiteStore.copy_to

    def copy_and_append(self: SQLiteStore, path: Path) -> None:
        real(self, path)
        ledger.append("a.b", "later")

    monkeypatch.setattr(SQLiteStore, "copy_to", copy_and_append)
    head = ledger.backup(target)
    assert (head.seq, ledger.head().seq) == (1, 2)
    assert head_path(target).read_text() == f"{head}\n"
