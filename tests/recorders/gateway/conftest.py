"""What the tests of the gateway share: a ledger, a request that the starter policy trusts, small policies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tallystick import Durability, Ledger
from tallystick.recorders.gateway.policy import STARTER_POLICY

_REQUEST: dict[str, Any] = {
    "schema_version": "decision_request.v0",
    "tenant": {"tenant_id": "acme", "environment": "prod"},
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
_POLICY = """
schema_version: policy.v0
policy_id: small
policy_version: "1"
defaults: {{mode: enforce, default_verdict: {default}, default_reason_code: NO_RULE}}
{more}
rules:
{rules}
"""


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with changes, object by object; a change to None removes."""
    result = copy.deepcopy(base)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], value)
        else:
            result[name] = copy.deepcopy(value)
    return result


@pytest.fixture(scope="session")
def make_request() -> Callable[..., dict[str, Any]]:
    """A request that the starter policy trusts, with changes."""
    return lambda **changes: merged(_REQUEST, changes)


@pytest.fixture(scope="session")
def make_policy() -> Callable[..., str]:
    """The text of a policy with these rules."""

    def make_policy(*rules: str, default: str = "ESCALATE", more: str = "") -> str:
        listed = rules or (
            "{id: never, stage: HARD_BLOCKS, if: {tags_is: never}, then: {verdict: ABSTAIN, "
            "reason_codes: [NEVER]}}",
        )
        return _POLICY.format(default=default, more=more, rules="\n".join(f"  - {rule}" for rule in listed))

    return make_policy


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS, timeout_s=0.2) as ledger:
        yield ledger


@pytest.fixture(scope="session")
def starter() -> Path:
    return STARTER_POLICY
