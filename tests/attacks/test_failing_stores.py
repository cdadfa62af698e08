"""Stores that lose answers, contend, fail on disk errors, and callers that are interrupted."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from wrapped_stores import Build, SlowStore, WrappedStore, check_promises

from tallystick import (
    Closed,
    Conflict,
    Durability,
    Head,
    Ledger,
    MemoryStore,
    OutcomeUnknown,
    Row,
    SQLiteStore,
    StoreError,
    TallyError,
    Unavailable,
    Verdict,
)

Make = Callable[[Path, int], Head]


# -- stores that fail ----------------------------------------------------------------------------------------


class Doubtful(WrappedStore):
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


class Contended(WrappedStore):
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


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("events", [1, 300])
def test_a_disk_error_where_nobody_else_writes(ledger_path: Path, stored: bool, events: int) -> None:
    """Invariant: the one statement that then inserts and commits is asked after like a COMMIT."""
    with Ledger.open(ledger_path) as ledger:
        store = ledger._store
        assert isinstance(store, SQLiteStore) and store._writer is not None
        for _ in range(3):
            ledger.append("note.kept")
        broken = BrokenAnswer(store._writer, stored, "INSERT" if events == 1 else "COMMIT")
        store._writer = broken  # type: ignore[assignment]
        batch = [{"kind": "note.kept", "body": n} for n in range(events)]
        if stored:
            assert [receipt.seq for receipt in ledger.append_many(batch)] == list(range(5, 5 + events))
        else:
            with pytest.raises(Unavailable, match="commit failed"):
                ledger.append_many(batch)
        assert broken.failed
        assert ledger.append("note.kept").seq == 5 + events * stored
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


class BrokenAnswer:
    """A connection that once ends a statement in an input/output error, after running it or instead."""

    def __init__(self, con: apsw.Connection, after: bool, statement: str) -> None:
        self._con, self._after, self._statement = con, after, statement
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)

    def execute(self, sql: str, *arguments: Any) -> Any:
        fails = sql.startswith(self._statement) and not self.failed
        if fails:
            self.failed = True
        result = self._con.execute(sql, *arguments) if self._after or not fails else None
        if fails:
            raise apsw.IOError("disk I/O error")
        return result


class Interrupted(WrappedStore):
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
    slow = SlowStore(any_store)
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
    store = SlowStore(MemoryStore())
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
