"""The live tail: every event once and in order, whoever appends it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tallystick import Event, Ledger
from tallystick.ledger import ledger as ledger_module

Open = Callable[..., Ledger]


@pytest.mark.parametrize("same", [True, False], ids=["the same handle", "another handle"])
def test_nothing_is_missed_and_nothing_comes_twice(open_ledger: Open, same: bool) -> None:
    ledger = open_ledger()
    writer = ledger if same else open_ledger()

    def write() -> None:
        for n in range(60):
            if n % 3:
                writer.append("a.b", n)
            else:
                writer.append_many([{"kind": "a.b", "body": n}, {"kind": "c.d", "body": n}])

    thread = threading.Thread(target=write)
    thread.start()
    seen: list[Event] = []
    for event in ledger.follow(0, poll_s=0.001):
        seen.append(event)
        if event.seq == 81:
            break
    thread.join()
    assert [event.seq for event in seen] == list(range(1, 82))
    assert seen == list(ledger.read())


def test_by_default_it_starts_from_now(ledger: Ledger) -> None:
    ledger.append("a.b", "before")
    events = ledger.follow(poll_s=0.001)
    ledger.append("a.b", "after")  # since the call, though nobody has asked for an event yet
    assert next(events).body == "after"


def test_filters(ledger: Ledger) -> None:
    for n in range(12):
        ledger.append("a.b" if n % 2 else "c.d", n, stream=f"s{n % 3}")

    def found(**asked: Any) -> list[Any]:
        done = iter([False, True])
        return [event.body for event in ledger.follow(1, poll_s=0, stop=lambda: next(done), **asked)]

    assert found() == list(range(12))
    assert found(stream="s1") == [1, 4, 7, 10]
    assert found(kinds=["a.*"]) == [1, 3, 5, 7, 9, 11]
    assert found(kinds=["c.d"], stream="s0") == [0, 6]
    assert found(stream="none") == []


def test_events_that_are_filtered_out_are_not_read_again(ledger: Ledger) -> None:
    """The place moves on with the head, not with the last event shown."""
    reads: list[int] = []
    real = ledger.read

    def read(after: int = 0, **asked: Any) -> Any:
        reads.append(after)
        return real(after, **asked)

    ledger.read = read  # type: ignore[method-assign]
    ledger.append("a.b")
    turns = iter(range(3))

    def stop() -> bool:
        turn = next(turns, None)
        if turn is not None:
            ledger.append("a.b")
        return turn is None

    assert list(ledger.follow(0, kinds=["c.d"], poll_s=0, stop=stop)) == []
    assert reads == [0, 3, 4]


def test_events_appended_while_others_are_shown_wait_their_turn(ledger: Ledger) -> None:
    ledger.append("a.b", 0)
    seen = []
    for event in ledger.follow(1, poll_s=0.001):
        seen.append(event.body)
        if len(seen) == 30:
            break
        ledger.append("a.b", len(seen))
    assert seen == list(range(30))


def test_stop_ends_it(ledger: Ledger) -> None:
    assert list(ledger.follow(0, stop=lambda: True)) == []
    polls = itertools.count()
    assert [event.seq for event in ledger.follow(0, poll_s=0, stop=lambda: next(polls) > 3)] == [1]
    assert next(polls) == 5


def test_it_sleeps_between_events(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            ledger.append("a.b", "at last")

    monkeypatch.setattr(ledger_module.time, "sleep", sleep)
    assert next(ledger.follow(poll_s=0.25)).body == "at last"
    assert slept == [0.25] * 3


def test_a_place_beyond_the_end_waits_for_it(ledger: Ledger) -> None:
    events = ledger.follow(3, poll_s=0.001)
    ledger.append_many([{"kind": "a.b", "body": n} for n in range(3)])
    assert next(events).body == 2
