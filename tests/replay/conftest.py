"""What the tests of replay share: a ledger with something of everything, and its replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallystick import (
    CAEL,
    Durability,
    Gateway,
    Kernel,
    Ledger,
    PsiDefinition,
    Session,
    import_chat,
    seal_projections,
    views_of,
)
from tallystick.recorders.gateway.policy import STARTER_POLICY

TOTAL = PsiDefinition("orders", "total", {"currency": "EUR"})
FAIL = PsiDefinition("orders", "fail")
REQUEST: dict[str, Any] = {
    "schema_version": "decision_request.v0",
    "tenant": {"tenant_id": "acme", "environment": "prod"},
    "trace": {"correlation_id": "case-7"},
    "subject": {"type": "agent", "id": "refund-bot"},
    "action": {
        "type": "support.refund",
        "intent": "Refund a mug that arrived broken",
        "amount": {"value": 30, "currency": "USD"},
        "tags": ["damaged"],
    },
    "evidence": {
        "ticket_id": "T-1",
        "order": {"id": "O-1", "paid_at": "2026-02-01T10:00:00Z", "channel": "web"},
        "payment_risk": "low",
        "fraud_score": 0.1,
    },
    "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
}
CHAT: dict[str, Any] = {
    "id": "c-1",
    "messages": [
        {"role": "user", "content": "Where is my mug?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "t1", "function": {"name": "lookup", "arguments": '{"order": 81}'}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "in transit"},
    ],
}


def total(cents: list[int]) -> int:
    return sum(cents)


def fail() -> None:
    raise ValueError("no such order")


def fill(ledger: Ledger) -> None:
    """Something of everything: sessions, a pipeline, an import, decisions, app events, and views."""
    with ledger.context(correlation="case-7"), Session.start(ledger, "A chipped mug", "Desk") as session:
        session.record_action("look", "verified", before_state={"a": 1}, after_state={"a": 2, "b": True})
        session.record_action("refund", "failed", "Pay", via_edge="COMPOSES")
        session.message("user", "It is broken")
    kernel = Kernel(ledger=ledger, run_id_factory=iter(f"run-{n}" for n in range(99)).__next__)
    CAEL(kernel).run([(TOTAL, total, {"cents": [1, 2]}), (FAIL, fail, {})])
    CAEL(kernel).run([(TOTAL, total, {"cents": [3]}), (TOTAL, total, {"cents": []})])
    import_chat(ledger, [CHAT])
    gateway = Gateway(ledger, STARTER_POLICY)
    first = gateway.decide(REQUEST)
    gateway.label(first.decision_id, "failure", "sent twice")
    gateway.decide(REQUEST)
    gateway.add_event(first.decision_id, "note", {"by": "ops"})
    ledger.append("order.placed", {"order": 81}, stream="order:81")
    seal_projections(ledger)
    ledger.append("order.shipped", {"order": 81}, stream="order:81")
    views_of(ledger).catch_up()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "a.tally"
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        fill(ledger)
    return path


@pytest.fixture
def filled(template: Path, tmp_path: Path) -> Path:
    """A closed ledger with something of everything, its views caught up, and its head file."""
    path = tmp_path / "a.tally"
    for suffix in ("", ".views", ".head"):
        Path(f"{path}{suffix}").write_bytes(Path(f"{template}{suffix}").read_bytes())
    return path


@pytest.fixture(scope="session")
def tasks() -> Kernel:
    """A kernel with the tasks that the ledger's executions ran."""
    kernel = Kernel()
    kernel.register(TOTAL, total, replayable=True)
    kernel.register(FAIL, fail, replayable=True)
    return kernel
