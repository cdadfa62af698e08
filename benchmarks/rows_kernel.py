"""The kernel: what recording an execution costs over appending its body, and what executing costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tallystick import Kernel, Ledger, PsiDefinition

from .bodies import support_events
from .harness import Bench, Figure, Run, Timing, check, stopwatch, times_as_fast
from .peers import check_ledger, need

_METADATA = {"team": "desk", "limits": [2000, 5000]}


def assess(ticket: dict[str, Any], limit: int) -> dict[str, Any]:
    """The task: next to no work, so that nothing but the kernel is measured."""
    cents = ticket["order"]["cents"]
    return {"approved": cents < limit, "cents": cents}


def kernel(bench: Bench) -> list[Figure]:
    """`Kernel.execute` in a batch against `append_many` of the same bodies; alone against kl-kernel-logic."""
    peer = need("kl_kernel_logic")
    chunk = bench.scale.chunk_events
    count = bench.scale.chunks * chunk // 5
    tickets = [body for _, _, body in support_events(count)]
    psi = PsiDefinition("refund", "assess", _METADATA)
    with bench.place() as place:
        bodies = _bodies(place, tickets, psi)

    recorded, fresh, bare = bench.race(
        "kernel",
        [
            ("tallystick Kernel.execute in a batch", _recording(tickets, chunk, lambda: psi)),
            (
                "the same, its psi made anew for each",
                _recording(tickets, chunk, lambda: PsiDefinition("refund", "assess", _METADATA)),
            ),
            ("tallystick append_many of the same bodies", _appending(bodies, chunk)),
        ],
        count,
        "executions",
    )
    theirs_psi = peer.PsiDefinition("refund", "assess", _METADATA)
    ours, theirs = bench.race(
        "kernel",
        [
            ("tallystick Kernel.execute, no ledger", _executing(Kernel(), psi, tickets)),
            ("kl-kernel-logic Kernel.execute", _executing(peer.Kernel(), theirs_psi, tickets)),
        ],
        count,
        "executions",
    )
    return [
        _costs("recorded, over append_many of the same bodies", bare, recorded, must=2.0),
        _costs("recorded, a new psi each", bare, fresh, note="information"),
        times_as_fast(
            "kernel", "without a ledger, against kl-kernel-logic", theirs, ours, must=1.0, note="quoted"
        ),
    ]


def _costs(name: str, bare: Timing, recorded: Timing, **more: Any) -> Figure:
    """How many times the time of the bare append; the less the better."""
    pairs = [ours / theirs for theirs, ours in zip(bare.seconds, recorded.seconds, strict=True)]
    ratio = recorded.median_s / bare.median_s
    return Figure("kernel", name, ratio, min(pairs), max(pairs), lower_is_better=True, **more)


def _recording(tickets: list[dict[str, Any]], chunk: int, psi: Callable[[], PsiDefinition]) -> Run:
    def run(place: Path) -> float:
        path = place / "ours.tally"
        with Ledger.open(path) as ledger:
            execute = Kernel(ledger=ledger).execute
            with stopwatch() as elapsed, ledger.batch(chunk=chunk):  # the clock stops after its commit
                for ticket in tickets:
                    execute(psi=psi(), task=assess, ticket=ticket, limit=2000)
        check_ledger(path, len(tickets))
        return elapsed[0]

    return run


def _appending(bodies: list[dict[str, Any]], chunk: int) -> Run:
    def run(place: Path) -> float:
        path = place / "bare.tally"
        with Ledger.open(path) as ledger:
            with stopwatch() as elapsed:
                receipts = ledger.append_many(bodies, chunk=chunk)
            check(len(receipts) == len(bodies), "not every event has a receipt")
        check_ledger(path, len(bodies))
        return elapsed[0]

    return run


def _executing(kernel: Any, psi: Any, tickets: list[dict[str, Any]]) -> Run:
    def run(_: Path) -> float:
        execute = kernel.execute
        with stopwatch() as elapsed:
            for ticket in tickets:
                trace = execute(psi=psi, task=assess, ticket=ticket, limit=2000)
        check(trace.success, "the task failed")
        return elapsed[0]

    return run


def _bodies(place: Path, tickets: list[dict[str, Any]], psi: PsiDefinition) -> list[dict[str, Any]]:
    """What the executions record, as events of an app's own kind, ready to be appended."""
    _recording(tickets, 1000, lambda: psi)(place)
    with Ledger.open(place / "ours.tally", read_only=True) as ledger:
        return [
            {"kind": "task.executed", "stream": event.stream, "body": event.body} for event in ledger.read(1)
        ]
