"""Group commit: who is committed with whom, who leads, and what becomes of each request."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tallystick import (
    Closed,
    Conflict,
    Head,
    KeyConflict,
    Ledger,
    Locked,
    MemoryStore,
    NoSuchEvent,
    OutcomeUnknown,
    PositionConflict,
    Unavailable,
    Verdict,
)
from tallystick.ledger import committer
from tallystick.ledger.committer import Committer


class Callers:
    """Appends in threads that queue behind a held commit, in the order of the calls here."""

    def __init__(self, store: Any, wait_until: Callable[[Callable[[], object]], None]) -> None:
        self.store = store
        self.ledger = Ledger.over(store)
        self.outcomes: dict[str, Any] = {}
        self._wait_until = wait_until
        self._threads: list[threading.Thread] = []
        store.commits.clear()
        store.leaders.clear()

    def start(self, name: str, call: Callable[[], Any]) -> threading.Thread:
        def work() -> None:
            try:
                self.outcomes[name] = call()
            except BaseException as error:
                self.outcomes[name] = error

        thread = threading.Thread(target=work, name=name)
        self._threads.append(thread)
        thread.start()
        return thread

    def lead(self, **event: Any) -> None:
        """Start the caller that leads, and hold it in its commit."""
        self.store.hold()
        self.start("leader", lambda: self.ledger.append(**{"kind": "a.b", "body": "leader", **event}))
        assert self.store.entered.wait(30)

    def queue(self, name: str, call: Callable[[], Any] | None = None, **event: Any) -> None:
        """Start a caller, and wait until its request is queued."""
        waiting = len(self.ledger.committer._queue)
        event = {"kind": "a.b", "body": name, **event}
        self.start(name, call or (lambda: self.ledger.append(**event)))
        self._wait_until(lambda: len(self.ledger.committer._queue) > waiting)

    def go(self) -> None:
        self.store.gate.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), f"{thread.name} sleeps for ever"
        assert self.ledger.verify(self.ledger.head()).verdict is Verdict.VERIFIED


@pytest.fixture
def callers(gated: Any, wait_until: Any) -> Callers:
    return Callers(gated, wait_until)


def body_of(callers: Callers, name: str) -> Any:
    return callers.ledger.get(callers.outcomes[name].seq).body


def test_what_queues_during_a_commit_is_the_next_commit(callers: Callers) -> None:
    callers.lead()
    for name in "abc":
        callers.queue(name)
    callers.go()
    assert callers.store.commits == [[b'"leader"'], [b'"a"', b'"b"', b'"c"']]
    assert [callers.outcomes[name].seq for name in ("leader", "a", "b", "c")] == [2, 3, 4, 5]
    assert [body_of(callers, name) for name in ("leader", "a", "b", "c")] == ["leader", "a", "b", "c"]


def test_the_lead_goes_to_the_next_in_the_queue(callers: Callers) -> None:
    callers.lead()
    callers.queue("a")
    callers.queue("b")
    callers.go()
    assert callers.store.leaders == ["leader", "a"]


def test_a_lone_caller_leads_and_leaves_no_lead_behind(gated: Any) -> None:
    ledger = Ledger.over(gated)
    for _ in range(3):
        ledger.append("a.b")
    assert gated.leaders == [threading.current_thread().name] * 4
    assert [len(commit) for commit in gated.commits] == [1] * 4


def test_a_batch_is_not_split_and_not_mixed(callers: Callers) -> None:
    def batch(name: str) -> Callable[[], Any]:
        return lambda: callers.ledger.append_many({"kind": "a.b", "body": f"{name}{n}"} for n in range(3))

    callers.lead()
    callers.queue("a", batch("a"))
    callers.queue("b", batch("b"))
    callers.go()
    assert [receipt.seq for receipt in callers.outcomes["b"]] == [6, 7, 8]
    assert callers.store.commits[1] == [b'"a0"', b'"a1"', b'"a2"', b'"b0"', b'"b1"', b'"b2"']


def test_a_commit_has_a_largest_size(callers: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "GROUP_EVENTS_MAX", 3)
    callers.lead()
    for name in "abcd":
        callers.queue(name)
    callers.queue("large", lambda: callers.ledger.append_many([{"kind": "a.b", "body": 0}] * 5))
    callers.queue("e")
    callers.go()
    assert [len(commit) for commit in callers.store.commits] == [1, 3, 1, 5, 1]
    assert callers.store.leaders == ["leader", "a", "d", "large", "e"]


def test_one_requests_conflict_does_not_hurt_the_others(callers: Callers) -> None:
    callers.ledger.append("a.b", "first", key="used")
    callers.lead()
    callers.queue("a")
    callers.queue("conflict", key="used")
    callers.queue("position", stream="s", expect=99)
    callers.queue("bad batch", lambda: callers.ledger.append_many(BAD_BATCH))
    callers.queue("b", key="inner")
    callers.go()
    assert isinstance(callers.outcomes["conflict"], KeyConflict)
    assert isinstance(callers.outcomes["position"], PositionConflict)
    assert isinstance(callers.outcomes["bad batch"], KeyConflict)
    assert (callers.outcomes["bad batch"].appended, callers.outcomes["bad batch"].index) == (0, 1)
    assert callers.store.commits[-1] == [b'"a"', b'"b"']
    assert [callers.outcomes[name].seq for name in "ab"] == [4, 5]


BAD_BATCH = [{"kind": "a.b", "body": 1, "key": "inner"}, {"kind": "a.b", "body": 2, "key": "used"}]


def test_the_same_key_in_one_group_is_one_event(callers: Callers) -> None:
    callers.lead()
    callers.queue("a", body=1, key="k")
    callers.queue("b", body=1, key="k")
    callers.queue("c", body=2, key="k")
    callers.go()
    assert callers.outcomes["a"] == callers.outcomes["b"]
    assert isinstance(callers.outcomes["c"], KeyConflict)
    assert callers.outcomes["c"].seq == callers.outcomes["a"].seq
    assert callers.store.commits[1] == [b"1"]


def test_of_two_that_expect_the_same_position_one_wins(callers: Callers) -> None:
    callers.lead(stream="s")
    callers.queue("a", stream="s", expect=2)
    callers.queue("b", stream="s", expect=2)
    callers.queue("c", stream="s", expect=3)
    callers.go()
    assert callers.outcomes["a"].seq == 3
    assert isinstance(callers.outcomes["b"], PositionConflict)
    assert callers.outcomes["b"].actual == 3
    assert callers.outcomes["c"].seq == 4


def test_a_group_that_has_nothing_to_store(callers: Callers) -> None:
    first = callers.ledger.append("a.b", "a", key="k")
    callers.lead()
    callers.queue("a", key="k")
    callers.queue("b", stream="s", expect=5)
    callers.go()
    assert callers.outcomes["a"] == first
    assert isinstance(callers.outcomes["b"], PositionConflict)
    assert callers.store.commits[-1] == []


@pytest.mark.parametrize(
    "error", [Conflict("another was first"), Locked("a.tally", 3.0), Closed("it was closed", "open it")]
)
def test_a_store_that_refuses_a_group_refuses_each_request(callers: Callers, error: Any) -> None:
    callers.store.fail = [None, error]
    callers.lead()
    callers.queue("a")
    callers.queue("b", lambda: callers.ledger.append_many([{"kind": "a.b"}] * 2))
    callers.queue("c", lambda: callers.ledger.append_many([{"kind": "a.b"}] * 2))
    callers.go()
    failed = [callers.outcomes[name] for name in "abc"]
    assert [(type(found), str(found)) for found in failed] == [(type(error), str(error))] * 3
    assert len({id(found) for found in failed}) == 3  # each has its own to add to
    assert [found.appended for found in failed] == [None, 0, 0]
    assert callers.ledger.append("a.b").seq == 3


def test_an_interrupted_leader_wakes_the_others(callers: Callers) -> None:
    callers.store.fail = [None, KeyboardInterrupt()]
    callers.lead()
    callers.queue("a")
    callers.queue("b")
    callers.go()
    assert isinstance(callers.outcomes["a"], KeyboardInterrupt)
    assert isinstance(callers.outcomes["b"], OutcomeUnknown)
    assert "ask the ledger before trying again" in str(callers.outcomes["b"])
    assert callers.ledger.append("a.b").seq == 3


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_interrupted_waiter_leaves_the_queue(
    callers: Callers, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    real = committer._ThreadRequest.sleep

    def sleep(self: Any) -> None:
        name = threading.current_thread().name
        if name != "at once":
            real(self)
        if name == "at once" or (name == "interrupted" and not self.done):
            raise KeyboardInterrupt

    monkeypatch.setattr(committer._ThreadRequest, "sleep", sleep)
    names = ["a", "b"]
    names.insert(place, "interrupted")
    callers.lead()
    thread = callers.start("at once", lambda: callers.ledger.append("a.b"))
    thread.join(30)
    assert isinstance(callers.outcomes["at once"], KeyboardInterrupt)
    for name in names:
        callers.queue(name)
    callers.go()
    stored = ["leader", "a", "b"] if place == 0 else ["leader", *names]
    assert [event.body for event in callers.ledger.read(1)] == stored
    if place == 0:  # it was woken to lead, and was interrupted before it did
        assert isinstance(callers.outcomes["interrupted"], KeyboardInterrupt)
    assert callers.ledger.append("a.b").seq == len(stored) + 2


# ---- stores that leave it open whether they have the rows ----


class Uncertain(MemoryStore):
    """Says OutcomeUnknown once, with the rows stored or not, and may refuse to be asked for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.next: str | None = None
        self.deaf = 0

    def append(self, build: Any) -> Head:
        what, self.next = self.next, None
        if what == "stored":
            super().append(build)
        elif what == "built":
            build(self.head())
        if what is not None:
            raise OutcomeUnknown("the connection was lost")
        return super().append(build)

    def read(self, *arguments: Any, **options: Any) -> Any:
        if self.deaf:
            self.deaf -= 1
            raise Unavailable("the store", "does not answer")
        return super().read(*arguments, **options)


@pytest.fixture
def uncertain(monkeypatch: pytest.MonkeyPatch) -> tuple[Uncertain, Ledger]:
    monkeypatch.setattr(committer.time, "sleep", lambda _: None)
    store = Uncertain()
    return store, Ledger.over(store)


@pytest.mark.parametrize("deaf", [0, 3])
def test_an_outcome_that_turns_out_well(uncertain: tuple[Uncertain, Ledger], deaf: int) -> None:
    store, ledger = uncertain
    store.next, store.deaf = "stored", deaf
    receipts = ledger.append_many([{"kind": "a.b"}] * 2)
    assert [receipt.seq for receipt in receipts] == [2, 3]
    assert ledger.head().seq == 3
    assert ledger.append("a.b").seq == 4


@pytest.mark.parametrize("deaf", [0, 3])
def test_an_outcome_that_turns_out_badly(uncertain: tuple[Uncertain, Ledger], deaf: int) -> None:
    store, ledger = uncertain
    store.next, store.deaf = "built", deaf
    with pytest.raises(Unavailable, match=r"did not take the events \(the connection was lost\); try again"):
        ledger.append("a.b")
    assert ledger.append("a.b").seq == 2


def test_an_outcome_unknown_before_anything_was_built(uncertain: tuple[Uncertain, Ledger]) -> None:
    store, ledger = uncertain
    store.next = "lost"
    with pytest.raises(Unavailable, match="did not take the events"):
        ledger.append("a.b")
    assert ledger.append("a.b").seq == 2


def test_an_outcome_unknown_with_nothing_to_store(uncertain: tuple[Uncertain, Ledger]) -> None:
    store, ledger = uncertain
    first = ledger.append("a.b", 1, key="k")
    store.next = "built"
    assert ledger.append("a.b", 1, key="k") == first


def test_another_event_in_the_place_is_not_mistaken_for_ours(uncertain: tuple[Uncertain, Ledger]) -> None:
    store, ledger = uncertain
    real = store.append

    def append(build: Any) -> Head:
        build(store.head())
        store.append = real  # type: ignore[method-assign]
        Ledger.over(store).append("a.b", "another's")
        raise OutcomeUnknown("the connection was lost")

    store.append = append  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="did not take"):
        ledger.append("a.b", "ours")
    assert [event.body for event in ledger.read(1)] == ["another's"]


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Uncertain()
    ledger = Ledger.over(store)
    clock = itertools.count(0, 10)
    monkeypatch.setattr(committer.time, "sleep", lambda _: None)
    monkeypatch.setattr(committer.time, "monotonic", lambda: float(next(clock)))
    ledger.committer = Committer(store, lambda _: None, patience_s=25.0)
    store.next, store.deaf = "stored", 1000
    with pytest.raises(OutcomeUnknown, match=r"within 25 s .*does not answer.*append with a key"):
        ledger.append("a.b")
    assert store.deaf == 1000 - 3


# ---- stores that compare and swap ----


class Swapping(MemoryStore):
    """Calls `build` again after a conflict, as a store that compares and swaps does."""

    before: Callable[[], Any] | None = None

    def append(self, build: Any) -> Head:
        before, self.before = self.before, None
        if before is not None:
            build(self.head())
            before()
        return super().append(build)


def test_a_second_build_starts_from_the_new_head() -> None:
    store = Swapping()
    ledger = Ledger.over(store)
    store.before = lambda: Ledger.over(store).append("a.b", "quicker")
    receipts = ledger.append_many([{"kind": "a.b", "body": n, "key": f"{n}"} for n in range(2)])
    assert [receipt.seq for receipt in receipts] == [3, 4]
    assert [event.hash for event in ledger.read(2)] == [receipt.hash for receipt in receipts]
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_a_second_build_looks_at_keys_and_positions_again() -> None:
    store = Swapping()
    ledger, other = Ledger.over(store), Ledger.over(store)
    store.before = lambda: other.append("a.b", 1, key="k")
    assert ledger.append("a.b", 1, key="k").seq == 2
    store.before = lambda: other.append("a.b", stream="s")
    with pytest.raises(PositionConflict):
        ledger.append("a.b", stream="s", expect=0)
    assert ledger.head().seq == 3


# ---- many threads, as it comes ----


def test_sixteen_threads_each_get_their_own_receipts(ledger: Ledger) -> None:
    found: dict[int, list[Any]] = {}

    def work(number: int) -> None:
        with ledger.context(actor=str(number)):
            mine = [(ledger.append("a.b", [number, n], stream=f"s{number}"), [number, n]) for n in range(20)]
            batch = [{"kind": "a.b", "body": [number, n], "stream": f"s{number}"} for n in range(20, 25)]
            mine += zip(ledger.append_many(batch), ([number, n] for n in range(20, 25)), strict=True)
        found[number] = mine

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, mine in found.items():
        assert [receipt.seq for receipt, _ in mine] == sorted(receipt.seq for receipt, _ in mine)
        for receipt, body in mine:
            event = ledger.get(receipt.seq)
            assert (event.body, event.hash, event.at) == (body, receipt.hash, receipt.at)
            assert event.meta == {"actor": str(number)}
        assert [event.body[1] for event in ledger.read(stream=f"s{number}")] == list(range(25))
    assert ledger.head().seq == 16 * 25 + 1
    with pytest.raises(NoSuchEvent):
        ledger.get(16 * 25 + 2)
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_threads_with_the_same_key_append_once(ledger: Ledger) -> None:
    start = threading.Barrier(8)
    receipts: list[Any] = []

    def work() -> None:
        start.wait(30)
        receipts.append(ledger.append("a.b", "once", key="k"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receipts) == 8
    assert len(set(map(str, receipts))) == 1
    assert ledger.head().seq == 2
