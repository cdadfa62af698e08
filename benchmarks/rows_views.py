"""Catching the views up: against verification, after ten new events on a large ledger, and its memory."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from tallystick import Durability, Ledger, NewEvent, Views

from .bodies import SEED, support_events
from .harness import Bench, Figure, Run, Timing, check, stopwatch, times_as_fast
from .rows_scale import _peak_mib
from .rows_verify import verifying

PART: Final = 10_000
LIVE_SESSIONS: Final = 500
#: Of 100 events, those of an app; the others are a recorder's, in sessions of about 20 events.
APP_SHARE: Final = 50
NEW_EVENTS: Final = 10


def catch_up(bench: Bench) -> list[Figure]:
    """All built-in projections, full text search included, on two kinds of ledger."""
    count = bench.scale.verify_events
    figures = []
    with bench.place() as kept:
        for name, events in (("app events", app_events(count)), ("mixed events", mixed_events(count))):
            path = kept / f"{name.split()[0]}.tally"
            build(path, events)
            verified, caught_up = bench.race(
                "catch_up",
                [
                    (f"tallystick verify, {name}", verifying(path, count, jobs=1)),
                    (f"tallystick catch-up, {name}", catching_up(path, count)),
                ],
                count,
            )
            figures.append(
                times_as_fast("catch_up", f"{name}, against verify", verified, caught_up, must=0.2, aim=0.4)
            )
        figures += _large(bench, kept / "large.tally")
    return figures


def catching_up(path: Path, count: int) -> Run:
    """Build all views of the ledger at `path` from nothing."""

    def run(place: Path) -> float:
        with Ledger.open(path, read_only=True) as ledger, Views(ledger, path=place / "a.views") as views:
            with stopwatch() as elapsed:
                views.catch_up()
            [found] = views.rows("SELECT sum(events) AS n FROM streams")
            check(found["n"] == count + 1, f"{found} of {count} events were counted")
        return elapsed[0]

    return run


def _large(bench: Bench, path: Path) -> list[Figure]:
    """What a few new events cost on a large ledger, and the memory of building its views."""
    count = bench.scale.memory_events
    build(path, mixed_events(count))
    bench.say(f"catch_up: built {count:,} events")
    peak = _peak_mib(["tally", "views", "rebuild"], ledger=path)
    warm: list[float] = []
    fresh: list[float] = []
    new = mixed_events(10 * NEW_EVENTS * bench.rounds, seed=SEED + 1)
    with Ledger.open(path, durability=Durability.PROCESS) as ledger, Views(ledger) as views:
        views.catch_up()
        for _ in range(bench.rounds):
            ledger.record(list(islice(new, NEW_EVENTS)))
            with stopwatch() as elapsed:
                views.catch_up()
            warm.append(elapsed[0])
            ledger.record(list(islice(new, NEW_EVENTS)))
            with stopwatch() as elapsed, Views(ledger) as opened:
                opened.catch_up()
            fresh.append(elapsed[0])
        [found] = views.rows("SELECT sum(events) AS n FROM streams")
        check(found["n"] == ledger.head().seq, "not every event was counted")
    bench.timings.setdefault("catch_up", []).extend(
        [
            Timing(f"{NEW_EVENTS} new events at {count:,}, views open", NEW_EVENTS, "events", warm),
            Timing(f"{NEW_EVENTS} new events at {count:,}, views opened for it", NEW_EVENTS, "events", fresh),
        ]
    )
    return [
        _new_figure(count, "views open", warm),
        _new_figure(count, "views opened for it", fresh),
        Figure(
            "catch_up",
            f"memory of building the views, {count:,} events",
            peak,
            peak,
            peak,
            unit="MiB",
            must=150,
            aim=80,
            lower_is_better=True,
        ),
    ]


def _new_figure(count: int, how: str, seconds: list[float]) -> Figure:
    milliseconds = [second * 1000 for second in seconds]
    return Figure(
        "catch_up",
        f"after {NEW_EVENTS} new events at {count:,}, {how}",
        statistics.median(milliseconds),
        min(milliseconds),
        max(milliseconds),
        unit="ms",
        must=50,
        lower_is_better=True,
    )


def build(path: Path, events: Iterable[NewEvent]) -> None:
    """A ledger of these events."""
    source = iter(events)
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        while part := list(islice(source, PART)):
            ledger.record(part)


# -- the events ------------------------------------------------------------------------------


def app_events(count: int) -> Iterator[NewEvent]:
    """Events of an app alone, as in the other rows."""
    for start in range(0, count, PART):
        for kind, stream, body in support_events(min(PART, count - start), seed=SEED + start):
            yield NewEvent(kind=kind, stream=stream, body=body)


def mixed_events(count: int, seed: int = SEED) -> Iterator[NewEvent]:
    """Half of an app, half of recorders: messages, actions and executions in sessions, begun and ended.

    LIVE_SESSIONS sessions at a time, each of about 20 events; of those, per session, 8 messages, 5 actions, 5
    executions.
    """
    rng = random.Random(seed)
    live: list[str] = []
    opened = 0
    apps = chain.from_iterable(support_events(PART, seed + part) for part in itertools.count())
    for _ in range(count):
        if rng.randrange(100) < APP_SHARE:
            kind, stream, body = next(apps)
            yield NewEvent(kind=kind, stream=stream, body=body)
        elif len(live) < LIVE_SESSIONS:
            opened += 1
            live.append(f"{seed % 1000:03d}{opened:023d}")
            yield _event("session.started", live[-1], _started(live[-1], rng))
        else:
            at = rng.randrange(LIVE_SESSIONS)
            choice = rng.randrange(20)
            if choice < 9:
                yield _event("message.recorded", live[at], _message(live[at], rng))
            elif choice < 14:
                yield _event("action.recorded", live[at], _action(live[at], rng))
            elif choice < 19:
                yield _event("kernel.executed", live[at], _execution(rng))
            else:
                yield _event("session.closed", live[at], _closed(live.pop(at)))


def _event(kind: str, session_id: str, body: dict[str, Any]) -> NewEvent:
    return NewEvent(kind=kind, stream=f"session:{session_id}", body={"v": 1, **body})


_WORDS: Final = (
    "the blue mug arrived with a chip at its rim please send another one today order delayed parcel tracking "
    "refund agreed naïve Größe café thank you for waiting our carrier says tomorrow before noon would suit"
).split()
_NOON: Final = "2026-03-12T12:00:00.000000Z"
_DESK: Final = "ckp://Kernel#Desk:v1.0"


def _words(rng: random.Random, fewest: int, most: int) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(fewest, most)))


def _started(session_id: str, rng: random.Random) -> dict[str, Any]:
    return {
        "derived": {
            "session_id": session_id,
            "label": _words(rng, 3, 6),
            "kernel": _DESK,
            "action": "triage",
            "retention_hours": 48,
            "source": None,
        },
        "observed": {"started_at": _NOON, "urn": f"ckp://Session#{session_id}"},
    }


def _closed(session_id: str) -> dict[str, Any]:
    return {
        "derived": {
            "session_id": session_id,
            "outcome": "complete",
            "given": False,
            "actions": {"verified": 5},
            "kernels": [_DESK],
        },
        "observed": {"ended_at": _NOON, "duration_ms": 1234.5, "error": None, "error_type": None},
    }


def _message(session_id: str, rng: random.Random) -> dict[str, Any]:
    return {
        "derived": {
            "session_id": session_id,
            "index": rng.randrange(20),
            "role": rng.choice(("user", "assistant")),
            "content": _words(rng, 8, 30),
            "name": None,
            "tool_calls": [],
            "tool_call_id": None,
            "extra": None,
            "placeholders": [],
        },
        "observed": {"recorded_at": _NOON},
    }


def _action(session_id: str, rng: random.Random) -> dict[str, Any]:
    order = rng.randrange(100_000, 999_999)
    return {
        "derived": {
            "session_id": session_id,
            "seq": rng.randrange(1, 20),
            "action_type": rng.choice(("refund.issue", "order.replace", "customer.notify")),
            "outcome": rng.choice(("verified", "verified", "failed", "retry")),
            "kernel": rng.choice((_DESK, "ckp://Kernel#Payments:v1.0")),
            "via_edge": None,
            "intent": {"order": order},
            "evidence": {"order": order, "seen": _words(rng, 3, 8)},
            "before_state": {"status": "paid"},
            "after_state": {"status": "refunded"},
            "diff_summary": "status: paid -> refunded",
            "attempt": 1,
            "note": _words(rng, 2, 5),
            "placeholders": [],
        },
        "observed": {"recorded_at": _NOON, "urn": f"ckp://Action#refund/{order}"},
    }


def _execution(rng: random.Random) -> dict[str, Any]:
    order = rng.randrange(100_000, 999_999)
    return {
        "derived": {
            "psi": {"psi_type": "tool", "name": "lookup_order", "metadata": {}},
            "arguments": {"order": order},
            "arguments_digest": f"blake3:{order:064x}",
            "success": True,
            "failure_code": "OK",
            "exception_type": None,
            "output": {"order": order, "status": rng.choice(("paid", "sent")), "note": _words(rng, 1, 5)},
            "output_digest": f"blake3:{order:064x}",
            "core_digest": f"{order:064x}",
            "placeholders": [],
            "capture": "content",
        },
        "observed": {
            "run_id": f"{rng.getrandbits(128):032x}",
            "started_at": _NOON,
            "finished_at": _NOON,
            "runtime_ms": 1.5,
            "error": None,
            "exception_repr": None,
            "metadata": {},
            "call_id": None,
        },
    }
