"""Recording the actions of a session, durable one by one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tallystick import Ledger, Session, get_session

from .harness import Bench, Figure, Run, Timing, check, stopwatch, times_as_fast
from .peers import check_ledger, need

KERNEL: Final = "ckp://Kernel#Bench.Recorder:v1.0"


def sessions(bench: Bench) -> list[Figure]:
    """One session of many actions, against `conceptkernel`, which writes its whole file anew for each."""
    count = bench.scale.session_actions
    peer = need("cklib.prov")
    actions = _actions(count)

    def theirs(place: Path) -> float:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
            chain = peer.ProvChain(str(place), "benchmark", KERNEL)
            with stopwatch() as elapsed:
                for action in actions:
                    chain.record_action(**action)
                chain.close()
        kept = json.loads(Path(chain.file_path).read_text("utf-8"))
        check(
            [action["seq"] for action in kept["actions"]] == list(range(1, count + 1)), "the peer lost some"
        )
        return elapsed[0]

    mine, batched, peers = bench.race(
        "sessions",
        [
            ("tallystick, a durable commit an action", _recorder(count)),
            ("tallystick, in a batch", _recorder(count, batched=True)),
            ("conceptkernel", theirs),
        ],
        count,
        "actions",
    )
    sizes = [count // 2, count, 2 * count, 4 * count]
    timings = _of_sizes(bench, sizes)
    return [
        times_as_fast("sessions", f"against conceptkernel, {count:,} actions", peers, mine, must=50),
        times_as_fast("sessions", "in a batch against conceptkernel", peers, batched, note="information"),
        *(_growth(timings[0], timing) for timing in timings[1:]),
    ]


def _of_sizes(bench: Bench, sizes: list[int]) -> list[Timing]:
    """Sessions of several sizes, which take turns."""
    contenders = [(f"tallystick, {size:,} actions", _recorder(size)) for size in sizes]
    raced = bench.race("sessions", contenders, 0, "actions")
    timings = [replace(timing, work=size) for timing, size in zip(raced, sizes, strict=True)]
    bench.timings["sessions"][-len(sizes) :] = timings
    return timings


def _growth(small: Timing, large: Timing) -> Figure:
    """How much longer an action takes in a longer session: 1 if the time is linear."""
    times = small.work / large.work
    pairs = [longer / shorter * times for longer, shorter in zip(large.seconds, small.seconds, strict=True)]
    return Figure(
        "sessions",
        f"time of an action, {large.name.removeprefix('tallystick, ')} against {small.name.split()[1]}",
        large.median_s / small.median_s * times,
        min(pairs),
        max(pairs),
        must=1.3,
        lower_is_better=True,
    )


def _recorder(count: int, batched: bool = False) -> Run:
    actions = _actions(count)

    def run(place: Path) -> float:
        path = place / "ours.tally"
        with Ledger.open(path) as ledger:
            session = Session.start(ledger, "benchmark", kernel=KERNEL)
            with stopwatch() as elapsed:
                _record(ledger, session, actions, batched)
            kept = get_session(ledger, session.session_id)
        check([action.seq for action in kept.actions] == list(range(1, count + 1)), "an action is missing")
        check_ledger(path, count + 2)
        return elapsed[0]

    return run


def _record(ledger: Ledger, session: Session, actions: list[dict[str, Any]], batched: bool) -> None:
    record: Callable[..., Any] = session.record_action
    with ledger.batch() if batched else contextlib.nullcontext():
        for action in actions:
            record(**action)
        session.close()


def _actions(count: int) -> list[dict[str, Any]]:
    """Actions as an agent's: intent, evidence and two small states."""
    return [
        {
            "action_type": "ticket.reply",
            "outcome": "verified" if number % 9 else "failed",
            "kernel": "Bench.Desk",
            "intent": {"ticket": f"T-{number:05d}", "language": "en"},
            "evidence": {"status": 200, "message_id": f"m-{number:08x}"},
            "before_state": {"status": "open", "replies": number % 5},
            "after_state": {"status": "waiting", "replies": number % 5 + 1},
        }
        for number in range(count)
    ]
