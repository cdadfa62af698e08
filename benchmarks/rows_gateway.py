"""What a decision costs with much to remember: recorded durably, and the verdict alone."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from tallystick import Gateway, Ledger, NewEvent
from tallystick.events import gateway as events
from tallystick.projections.memory import memory_of
from tallystick.recorders.gateway.decision import decide_purely, question_of, recall
from tallystick.recorders.gateway.policy import STARTER_POLICY
from tallystick.recorders.gateway.request import check_request

from .harness import Bench, Figure, check, stopwatch

SEED: Final = 20260312
TENANT: Final = "acme"
ACTION: Final = "support.refund"
_TAGS: Final = [f"reason_{number}" for number in range(40)]
_SEGMENTS: Final = [f"segment_{number}" for number in range(200)]


def decide(bench: Bench) -> list[Figure]:
    """One decision after another, each committed, beside memory items of the same tenant and action type.

    For comparison what the commit alone takes: an append of a body of that size to the same ledger.
    """
    count, items = bench.scale.decisions, bench.scale.memory_items
    rounds: list[_Round] = []
    for round_number in range(bench.rounds + 1):
        with bench.place() as place, _remembering(place, items) as ledger:
            chance = random.Random(SEED + round_number)
            took = _round(ledger, [_request(chance, number) for number in range(count)])
        if round_number:
            rounds.append(took)
        bench.say(f"decide: round {round_number}, 99th percentile {_percentile(took.decided, 99):.2f} ms")
    recorded = [took.decided for took in rounds]
    verdicts = [took.alone for took in rounds]
    appends = [took.appended for took in rounds]
    what = f"{items:,} memory items"
    return [
        _figure(f"recorded decision, 99th percentile, {what}", recorded, 99, must=5, aim=1),
        _figure(f"recorded decision, median, {what}", recorded, 50, note="information"),
        _figure(f"verdict alone, 99th percentile, {what}", verdicts, 99, note="information"),
        _figure(f"verdict alone, median, {what}", verdicts, 50, note="information"),
        _figure("append of the same body, 99th percentile", appends, 99, note="information"),
        _figure("append of the same body, median", appends, 50, note="information"),
    ]


class _Round(NamedTuple):
    """Milliseconds of each decision, of each verdict without its record, and of each plain append."""

    decided: list[float]
    alone: list[float]
    appended: list[float]


def _round(ledger: Ledger, requests: list[dict[str, Any]]) -> _Round:
    gateway = Gateway(ledger, STARTER_POLICY)
    first = gateway.decide(requests[0])  # reads the memory
    check(len(first.risk_signals.failure_similarity.top_k) == 5, "nothing is remembered")
    check(first.receipt is not None, "the first decision was not recorded")
    assert first.receipt is not None
    body = ledger.get(first.receipt.seq).body
    took = _Round(
        _each(gateway.decide, requests),
        _each(lambda request: _verdict(gateway, request), requests),
        _each(lambda _: ledger.append("app.decided", body), requests),
    )
    recorded = sum(1 for _ in ledger.read(kinds=[events.RECORDED]))
    check(recorded == len(requests) + 1, "not every decision was recorded")
    return took


def _each(work: Callable[[Any], Any], inputs: list[Any]) -> list[float]:
    """Milliseconds of each call."""
    clock = time.perf_counter
    took = []
    with stopwatch():
        for item in inputs:
            started = clock()
            work(item)
            took.append((clock() - started) * 1000)
    return took


def _percentile(took: list[float], percent: int) -> float:
    ordered = sorted(took)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _figure(name: str, rounds: list[list[float]], percent: int, **more: Any) -> Figure:
    values = [_percentile(took, percent) for took in rounds]
    middle = statistics.median(values)
    return Figure("decide", name, middle, min(values), max(values), unit="ms", lower_is_better=True, **more)


def _verdict(gateway: Gateway, request: dict[str, Any]) -> Any:
    """All of a decision but its record."""
    checked, policy, ledger = check_request(request), gateway.policy, gateway.ledger
    question = question_of(policy, checked.plain)
    remembered = recall(policy, question, checked.request.tenant_id, memory_of(ledger), ledger.head())
    return decide_purely(policy, question, remembered, None, redaction="default", form=checked.jcs)


def _remembering(place: Path, items: int) -> Ledger:
    """A ledger with that many memory items, of which every request can share some tokens."""
    chance = random.Random(SEED)
    ledger = Ledger.open(place / "ours.tally")
    policy = Gateway(ledger, STARTER_POLICY).policy
    stream = events.memory_stream(TENANT, ACTION)
    batch = []
    for number in range(items):
        learned = events.MemoryAdded(
            decision_id=f"dec_{number:026d}",
            decision_seq=1,
            tenant_id=TENANT,
            action_type=ACTION,
            label=chance.choice(("failure", "success", "success", "near_miss")),
            summary="what came of it, in a few words",
            tokens=question_of(policy, _request(chance, number)).tokens,
        )
        batch.append(NewEvent(kind=events.MEMORY_ADDED, body=learned, stream=stream))
        if len(batch) == 1000:
            ledger.record(batch)
            batch.clear()
    if batch:
        ledger.record(batch)
    return ledger


def _request(chance: random.Random, number: int) -> dict[str, Any]:
    return {
        "schema_version": "decision_request.v0",
        "tenant": {"tenant_id": TENANT, "environment": "prod"},
        "subject": {"type": "agent", "id": "refund-bot"},
        "action": {
            "type": ACTION,
            "intent": f"Refund order {number} that arrived broken",
            "target": {"system": "shop", "resource_type": "order", "resource_id": f"O-{number}"},
            "amount": {"value": chance.randrange(500), "currency": chance.choice(("USD", "USD", "EUR"))},
            "tags": chance.sample(_TAGS, 3),
        },
        "evidence": {
            "ticket_id": f"T-{number}",
            "order": {
                "id": f"O-{number}",
                "paid_at": "2026-02-01T10:00:00Z",
                "channel": chance.choice(("web", "app", "phone")),
            },
            "customer": {"id": f"C-{number}", "segment": chance.choice(_SEGMENTS), "age_days": 400},
            "payment_risk": chance.choice(("none", "low", "medium")),
            "fraud_score": round(chance.random(), 3),
            "fx_rate_to_usd": 1.1,
        },
        "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
    }
