"""Requests that the starter policy decides, for tests of commands and packs."""

from __future__ import annotations

from typing import Any


def refund(value: float = 30, **changes: Any) -> dict[str, Any]:
    """A refund that the starter policy trusts; changes replace fields of the request, None removes one."""
    request: dict[str, Any] = {
        "schema_version": "decision_request.v0",
        "tenant": {"tenant_id": "acme", "environment": "prod"},
        "subject": {"type": "agent", "id": "refund-bot"},
        "action": {
            "type": "support.refund",
            "intent": "Refund a mug that arrived broken",
            "amount": {"value": value, "currency": "USD"},
        },
        "evidence": {
            "ticket_id": "T-1",
            "order": {"id": "O-1", "paid_at": "2026-02-01", "channel": "web"},
            "payment_risk": "low",
            "fraud_score": 0.1,
        },
        "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
        **changes,
    }
    return {name: item for name, item in request.items() if item is not None}
