"""Opening a ledger, its head file, closing it: every argument and error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick import (
    BodyTooLarge,
    Closed,
    Durability,
    Head,
    HistoryReplaced,
    InvalidEvent,
    KeyConflict,
    Ledger,
    LedgerNotFound,
    MemoryStore,
    NoSuchEvent,
    NotALedger,
    PositionConflict,
    SQLiteStore,
    TailLost,
    TallyError,
    Unavailable,
    Verdict,
    WrongHeadFile,
    __version__,
)
from tallystick.ledger.chain import genesis_hash
from tallystick.ledger.headfile import head_path

Open = Callable[..., Ledger]


def bodies(ledger: Ledger, **asked: Any) -> list[Any]:
    return [event.body for event in ledger.read(1, **asked)]


# ---- opening ----


def test_a_new_ledger_holds_its_creation(ledger: Ledger) -> None:
    (first,) = ledger.read()
    assert (first.seq, first.kind, first.stream, first.key, first.meta) == (
        1,
        "ledger.created",
        "ledger",
        None,
        None,
    )
    assert (first.body["v"], first.body["format"]) == (1, 1)
    assert first.body["program"] == f"tallystick {__version__}"
    assert first.body["engine"]["name"] == "sqlite"
    assert first.body["engine"]["pragmas"]["journal_mode"] == "wal"
    ledger_id = bytes.fromhex(first.body["ledger_id"])
    assert first.prev_hash == genesis_hash(ledger_id)
    assert ledger.head() == Head(1, first.hash, ledger_id)


def test_two_ledgers_are_different_ones(open_ledger: Open) -> None:
    assert open_ledger("a.tally").head().ledger_id != open_ledger("b.tally").head().ledger_id


def test_opening_again_goes_on_where_it_was(open_ledger: Open) -> None:
    with open_ledger() as first:
        receipt = first.append("a.b", 1)
        head = first.head()
    again = open_ledger()
    assert again.head() == head
    assert again.get(receipt.seq).hash == receipt.hash
    assert again.append("a.b", 2).seq == 3
    assert again.verify(again.head()).verdict is Verdict.VERIFIED


def test_create_false_makes_nothing(open_ledger: Open, tmp_path: Path) -> None:
    with pytest.raises(LedgerNotFound, match="no such ledger"):
        open_ledger(create=False)
    assert list(tmp_path.iterdir()) == []
    open_ledger().close()
    assert open_ledger(create=False).head().seq == 1


def test_a_ledger_opened_read_only_can_be_read_and_no_more(open_ledger: Open) -> None:
    ledger = open_ledger()
    ledger.append("a.b", 1)
    reader = open_ledger(read_only=True)
    assert bodies(reader) == [1]
    ledger.append("a.b", 2)
    assert bodies(reader) == [1, 2]
    assert reader.verify(ledger.head()).verdict is Verdict.VERIFIED
    writes: list[Callable[[], object]] = [
        lambda: reader.append("a.b"),
        lambda: reader.append_many([{"kind": "a.b"}]),
        lambda: reader.append_many([]),
        lambda: reader.erase(2, "why"),
    ]
    for write in writes:
        with pytest.raises(Unavailable, match="was opened read-only; open it without read_only to append"):
            write()
    assert ledger.head().seq == 3


def test_read_only_creates_nothing(open_ledger: Open, tmp_path: Path) -> None:
    with pytest.raises(LedgerNotFound):
        open_ledger(read_only=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read_only", [True, False])
def test_another_file_is_refused_and_left_as_it_is(
    open_ledger: Open, tmp_path: Path, read_only: bool
) -> None:
    (tmp_path / "a.tally").write_bytes(b"something else" * 1000)
    with pytest.raises(NotALedger):
        open_ledger(read_only=read_only)
    assert (tmp_path / "a.tally").read_bytes() == b"something else" * 1000


def test_a_directory_is_no_ledger(open_ledger: Open, tmp_path: Path) -> None:
    (tmp_path / "a.tally").mkdir()
    with pytest.raises(NotALedger, match="is a directory"):
        open_ledger()


@pytest.mark.parametrize("durability", Durability)
def test_durability_is_part_of_event_1(open_ledger: Open, durability: Durability) -> None:
    ledger = open_ledger(durability=durability)
    synchronous = ledger.get(1).body["engine"]["pragmas"]["synchronous"]
    assert synchronous == {Durability.POWER: 2, Durability.PROCESS: 1}[durability]


def test_a_ledger_over_a_store() -> None:
    store = MemoryStore()
    first = Ledger.over(store)
    first.append("a.b", 1)
    again = Ledger.over(store)  # its event 1 is there already
    assert again.head() == first.head()
    assert bodies(again) == [1]
    assert again.verify(first.head()).verdict is Verdict.VERIFIED
    assert again.get(1).body["engine"] == store.engine()


def test_a_store_whose_event_1_is_another(chained: Any) -> None:
    store = MemoryStore()
    store.append(chained.build({"kind": "order.placed"}))
    with pytest.raises(NotALedger, match=r"its event 1 is no ledger\.created"):
        Ledger.over(store)


def test_the_same_clock_and_entropy_make_the_same_bytes(
    open_ledger: Open, tmp_path: Path, reproducible: Callable[[], dict[str, Any]]
) -> None:
    files = []
    for name in ("a.tally", "b.tally"):
        with open_ledger(name, **reproducible()) as ledger:
            with ledger.context(actor="me"):
                ledger.append("a.b", {"x": [1, 2.5, None]}, key="k")
            ledger.append_many({"kind": "a.b", "body": n} for n in range(50))
            ledger.erase(3, "why")
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert head_path(tmp_path / "a.tally").read_bytes() == head_path(tmp_path / "b.tally").read_bytes()


def test_without_them_no_two_ledgers_are_alike(open_ledger: Open) -> None:
    hashes = {open_ledger(name).append("a.b", at=0).hash for name in ("a.tally", "b.tally")}
    assert len(hashes) == 2


def test_the_clock_gives_the_time_and_at_overrides_it(open_ledger: Open) -> None:
    ledger = open_ledger(clock=lambda: 42)
    assert ledger.append("a.b").at == ledger.get(2).at == 42
    assert ledger.append("a.b", at=-7).at == ledger.get(3).at == -7
    assert [receipt.at for receipt in ledger.append_many([{"kind": "a.b", "at": 1}, {"kind": "a.b"}])] == [
        1,
        42,
    ]


def test_the_size_limit_is_the_ledgers(open_ledger: Open) -> None:
    ledger = open_ledger(max_body_bytes=10)
    assert ledger.append("a.b", "x" * 8).seq == 2
    with pytest.raises(BodyTooLarge, match=r"^body: 11 bytes of JSON, more than the 10 allowed"):
        ledger.append("a.b", "x" * 9)
    with pytest.raises(BodyTooLarge, match=r"^meta: "):
        ledger.append("a.b", meta={"x": "x" * 9})
    assert ledger.erase(2, "the limit is not for the ledger's own events").seq == 3
    assert ledger.head().seq == 3
    large = open_ledger("large.tally", max_body_bytes=3 << 20)
    large.append("a.b", "x" * (2 << 20))
    assert large.get(2).body == "x" * (2 << 20)


# ---- the head file ----


def test_close_keeps_the_head(open_ledger: Open, tmp_path: Path) -> None:
    with open_ledger() as ledger:
        ledger.append("a.b")
        head = ledger.head()
    assert head_path(tmp_path / "a.tally").read_text() == f"{head}\n"


def test_a_reader_leaves_the_head_file_alone(open_ledger: Open, tmp_path: Path) -> None:
    open_ledger().close()
    head_path(tmp_path / "a.tally").unlink()
    with open_ledger(read_only=True) as reader:
        reader.verify()
    assert not head_path(tmp_path / "a.tally").exists()


def test_a_ledger_that_ends_before_its_kept_head_opens_for_reading_only(
    open_ledger: Open, tmp_path: Path
) -> None:
    with open_ledger() as ledger:
        ledger.append("a.b")
        head = ledger.head()
    later = Head(head.seq + 5, head.hash, head.ledger_id)
    head_path(tmp_path / "a.tally").write_text(f"{later}\n")
    with pytest.raises(TailLost, match=r"the log ends at event 2, but .+ vouches for event 7") as caught:
        open_ledger()
    assert (caught.value.last, caught.value.expected) == (2, 7)
    assert open_ledger(read_only=True).verify().verdict is Verdict.BROKEN


def test_a_kept_head_of_another_history(open_ledger: Open, tmp_path: Path) -> None:
    with open_ledger() as ledger:
        head = ledger.head()
    other = msgspec.structs.replace(head, hash=b"x" * 32)
    head_path(tmp_path / "a.tally").write_text(f"{other}\n")
    with pytest.raises(HistoryReplaced, match=r"event 1, for which .+ vouches, is another") as caught:
        open_ledger()
    assert (caught.value.expected, caught.value.last, caught.value.found) == (1, 1, head.hash)


@pytest.mark.parametrize("named", [b"x" * 16, None], ids=["another", "none"])
def test_a_kept_head_of_another_ledger(open_ledger: Open, tmp_path: Path, named: bytes | None) -> None:
    with open_ledger() as ledger:
        ledger.append("a.b")
        head = ledger.head()
    head_path(tmp_path / "a.tally").write_text(f"{Head(1, b'y' * 32, named)}\n")
    with pytest.raises(WrongHeadFile, match=r"names (another ledger|no ledger)") as caught:
        open_ledger()
    error = caught.value
    assert isinstance(error, TailLost)
    assert (error.ledger_id, error.named, error.last, error.expected) == (head.ledger_id, named, 2, 1)
    assert "its end was lost" not in str(error)


def test_trouble_with_the_head_file_is_no_trouble_with_the_append(
    open_ledger: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tallystick.ledger.headfile.HeadFile.write", full)
        patch.setattr("tallystick.ledger.headfile.HeadFile.due", lambda _: True)
        assert ledger.append("a.b").seq == 2
    assert ledger.head().seq == 2


# ---- closing ----


def test_a_closed_ledger(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger()
    ledger.append("a.b")
    ledger.close()
    ledger.close()
    assert sorted(os.listdir(tmp_path)) == ["a.tally", "a.tally.head"]  # the log is folded into the file
    uses: list[Callable[[], object]] = [
        lambda: ledger.append("a.b"),
        lambda: ledger.append_many([{"kind": "a.b"}]),
        lambda: ledger.erase(2, "why"),
        lambda: ledger.get(2),
        lambda: list(ledger.read()),
        ledger.head,
        ledger.stats,
        ledger.verify,
        lambda: ledger.backup(tmp_path / "copy.tally"),
    ]
    for use in uses:
        for _ in range(2):
            with pytest.raises(Closed):
                use()
    assert sorted(os.listdir(tmp_path)) == ["a.tally", "a.tally.head"]


def test_a_closed_ledger_in_memory() -> None:
    with Ledger.over(MemoryStore()) as ledger:
        ledger.append("a.b")
    with pytest.raises(Closed):
        ledger.append("a.b")


def test_the_block_closes_on_an_error_too(open_ledger: Open) -> None:
    with pytest.raises(ZeroDivisionError), open_ledger() as ledger:
        raise ZeroDivisionError
    with pytest.raises(Closed):
        ledger.head()


def test_a_failed_open_closes_the_store(open_ledger: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[SQLiteStore] = []
    real = SQLiteStore.close
    monkeypatch.setattr(SQLiteStore, "close", lambda self: (closed.append(self), real(self))[1])
    with pytest.raises(ZeroDivisionError):
        open_ledger(entropy=lambda size: bytes(1 // 0))
    assert len(closed) == 1
    assert open_ledger().head().seq == 1


FORK = """
import os, sys, threading
from tallystick import Closed, Durability, Ledger, SQLiteStore

ledger = Ledger.open(sys.argv[1], durability=Durability.PROCESS)
ledger.append("a.b", "parent")
# Fork while a thread is inside a commit: the child's copy of the queue is led by nobody.
inside, go_on = threading.Event(), threading.Event()
real = SQLiteStore.append
def append(self, build):
    inside.set()
    go_on.wait(30)
    return real(self, build)
SQLiteStore.append = append
thread = threading.Thread(target=ledger.append, args=("a.b", "thread"))
thread.start()
inside.wait(30)
child = os.fork()
if not child:
    said = []
    for use in (lambda: ledger.append("a.b", "child"), lambda: ledger.append_many([{"kind": "a.b"}]),
                lambda: ledger.erase(2, "why"), ledger.head, lambda: list(ledger.read())):
        try:
            use()
        except Closed as error:
            said.append("before a fork" in str(error))
    ledger.close()
    os._exit(0 if said == [True] * 5 else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
go_on.set()
thread.join()
ledger.append("a.b", "after")
print(status, [event.body for event in ledger.read(1)], ledger.verify(ledger.head()).verdict)
ledger.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_handle_carried_across_a_fork_refuses(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORK, str(tmp_path / "a.tally")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "0 ['parent', 'thread', 'after'] VERIFIED\n", done.stderr


def test_every_error_of_the_library_has_one_root() -> None:
    for error in (InvalidEvent, KeyConflict, PositionConflict, NoSuchEvent, Unavailable, Closed):
        assert issubclass(error, TallyError)
