"""The head kept beside a ledger."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tallystick import Durability, Head, Ledger, Unavailable
from tallystick.ledger import headfile
from tallystick.ledger.headfile import HeadFile, head_path, read_head_file

ID = b"i" * 16


def head(seq: int, ledger_id: bytes = ID) -> Head:
    return Head(seq, bytes([seq]) * 32, ledger_id)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.tally"


def test_what_is_written_is_read(path: Path) -> None:
    assert read_head_file(path) is None
    HeadFile(path).write(head(3))
    assert read_head_file(path) == head(3)
    assert head_path(path) == Path(f"{path}.head")
    assert head_path(path).read_text() == f"{head(3)}\n"
    assert os.listdir(path.parent) == ["a.tally.head"]


def test_a_later_head_is_not_replaced_by_an_earlier_one(path: Path) -> None:
    ours, theirs = HeadFile(path), HeadFile(path)
    ours.write(head(3))
    theirs.write(head(5))
    ours.write(head(4))
    assert read_head_file(path) == head(5)
    ours.write(head(6))
    assert read_head_file(path) == head(6)


def test_another_ledgers_head_is_replaced(path: Path) -> None:
    HeadFile(path).write(head(9, b"j" * 16))
    HeadFile(path).write(head(2))
    assert read_head_file(path) == head(2)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a head line"),
        (b"tally1", "not a head line"),
        (b"\xff" * 20, "not a head line"),
        (b"5:" + b"0" * 63, "not a head line"),
    ],
)
def test_a_head_file_that_cannot_be_understood(path: Path, content: bytes, why: str) -> None:
    head_path(path).write_bytes(content)
    with pytest.raises(Unavailable, match=why) as caught:
        read_head_file(path)
    assert caught.value.where == f"{path}.head"
    HeadFile(path).write(head(1))  # the next one is whole again
    assert read_head_file(path) == head(1)


def test_a_head_file_that_cannot_be_read(path: Path) -> None:
    head_path(path).mkdir()
    with pytest.raises(Unavailable, match="Is a directory"):
        read_head_file(path)


def test_a_head_file_that_is_no_file(path: Path) -> None:
    """Reading it must neither wait for a writer nor go on for ever."""
    os.mkfifo(head_path(path))
    with pytest.raises(Unavailable, match="Not a regular file"):
        read_head_file(path)
    head_path(path).unlink()
    head_path(path).symlink_to("/dev/zero")
    with pytest.raises(Unavailable, match="Not a regular file"):
        read_head_file(path)


def test_a_head_file_of_any_size(path: Path) -> None:
    """No more than a line is read, however much there is."""
    with head_path(path).open("wb") as file:
        file.write(f"{head(3)}\n".encode())
        file.truncate(5 << 30)
    with pytest.raises(Unavailable, match="Far longer than a head line"):
        read_head_file(path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_no_temporary_file(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """They would pile up, one for each process and thread that ever tried."""
    HeadFile(path).write(head(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(headfile.os, step, full)
    with pytest.raises(OSError, match="No space left"):
        HeadFile(path).write(head(2))
    assert os.listdir(path.parent) == ["a.tally.head"]
    assert read_head_file(path) == head(1)


def test_it_is_due_once_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(headfile.time, "monotonic", lambda: now[0])
    file = HeadFile(path)
    assert file.due()
    file.write(head(1))
    assert not file.due()
    now[0] += headfile.WRITE_EVERY_S - 0.01
    assert not file.due()
    now[0] += 0.02
    assert file.due()


@pytest.mark.parametrize("same", [True, False], ids=["the same handle", "another handle"])
def test_two_threads_keeping_heads_do_not_get_in_each_others_way(
    path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """The second write happens whole while the first has its file open."""
    import threading

    file = HeadFile(path)
    other = file if same else HeadFile(path)
    real_fsync = os.fsync
    inner: list[BaseException | None] = []

    def write_other() -> None:
        try:
            other.write(head(8))
        except BaseException as error:
            inner.append(error)
        else:
            inner.append(None)

    def fsync(fd: int) -> None:
        monkeypatch.setattr(headfile.os, "fsync", real_fsync)
        thread = threading.Thread(target=write_other)
        thread.start()
        thread.join()
        real_fsync(fd)

    monkeypatch.setattr(headfile.os, "fsync", fsync)
    file.write(head(7))
    assert inner == [None]
    assert read_head_file(path) in (head(7), head(8))
    assert os.listdir(path.parent) == ["a.tally.head"]


def test_a_crash_leaves_the_old_file_or_the_new_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    HeadFile(path).write(head(1))

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(headfile.os, step, crash)
            with pytest.raises(Crash):
                HeadFile(path).write(head(2))
        assert read_head_file(path) == head(1)


def test_a_link_shares_the_real_files_head_and_log(tmp_path: Path) -> None:
    """SQLite keeps its log beside the real file; the head file lies there, too."""
    (tmp_path / "data").mkdir()
    link = tmp_path / "link.tally"
    link.symlink_to(tmp_path / "data" / "real.tally")
    with Ledger.open(tmp_path / "data" / "real.tally"):
        pass
    with Ledger.open(link, durability=Durability.PROCESS) as ledger:
        ledger.append("a.b")
        assert ledger.stats()["wal_bytes"] > 0
    assert read_head_file(link) == read_head_file(tmp_path / "data" / "real.tally")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "link.tally"}
