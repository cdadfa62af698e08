"""Decisions and memory as tables: filtered, searched, and forgotten when a body is erased (D8, D10, D11)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tallystick import Ledger, MemoryStore, NewEvent
from tallystick.events import gateway as events
from tallystick.projections.views import Views, views_of
from tallystick.recorders.gateway.gateway import Gateway
from tallystick.recorders.gateway.policy import STARTER_POLICY, Policy

Request = dict[str, Any]


def request(tenant: str | None = "acme", value: int = 30, **more: Any) -> Request:
    return {
        "schema_version": "decision_request.v0",
        "trace": {"correlation_id": "case-1"},
        **({"tenant": {"tenant_id": tenant, "environment": "prod"}} if tenant else {}),
        "subject": {"type": "agent", "id": "refund-bot"},
        "action": {
            "type": "support.refund",
            "intent": "Refund a chipped mug",
            "amount": {"value": value, "currency": "USD"},
            "tags": ["damaged"],
            "target": {"system": "shop", "resource_type": "order", "resource_id": "O-81"},
        },
        "evidence": {
            "ticket_id": "T-1",
            "order": {"id": "O-81", "paid_at": "2026-02-01"},
            "payment_risk": "low",
            "fraud_score": 0.1,
        },
        "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
        **more,
    }


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Ledger.over(MemoryStore()) as ledger:
        yield Gateway(ledger, STARTER_POLICY)


@pytest.fixture
def views(gateway: Gateway) -> Views:
    return views_of(gateway.ledger)


def test_a_row_a_decision(gateway: Gateway, views: Views) -> None:
    record = gateway.decide(request(request_id="r-1"))
    gateway.decide(request("other", 300))
    rows = views.rows("SELECT * FROM decisions ORDER BY seq")
    assert [(row["verdict"], row["tenant_id"]) for row in rows] == [("TRUST", "acme"), ("ESCALATE", "other")]
    first = rows[0]
    assert record.receipt is not None
    assert (first["decision_id"], first["seq"], first["at"]) == (
        record.decision_id,
        record.receipt.seq,
        record.receipt.at,
    )
    assert (first["amount_value"], first["amount_usd"], first["request_id"]) == (30.0, 30.0, "r-1")
    assert (first["target_resource_id"], first["correlation_id"], first["environment"]) == (
        "O-81",
        "case-1",
        "prod",
    )
    assert (first["policy_hash"], first["error"], first["label"]) == (
        Policy.load(STARTER_POLICY).policy_hash,
        None,
        None,
    )
    assert views.find_by_prefix("decisions", "decision_id", record.decision_id)["seq"] == first["seq"]
    assert [row["text"] for row in views.rows("SELECT text FROM policies")] == [
        STARTER_POLICY.read_text("utf-8")
    ]


def test_what_was_said_is_counted_and_searched(gateway: Gateway, views: Views) -> None:
    record = gateway.decide(request())
    gateway.label(record.decision_id, "near_miss", "nearly paid twice")
    gateway.label(record.decision_id, "failure", "the parcel was found")
    gateway.add_event(record.decision_id, "note", {"by": {"name": "Sam"}, "n": 1})
    row = views.rows("SELECT label, labels, events FROM decisions")[0]
    assert row == {"label": "failure", "labels": 2, "events": 3}
    assert [r["type"] for r in views.rows("SELECT type FROM decision_events ORDER BY seq")] == [
        "label",
        "label",
        "note",
    ]
    assert {hit.table for hit in views.search("chipped")} == {"decisions"}
    assert {hit.table for hit in views.search("O-81")} == {"decisions"}
    assert {hit.table for hit in views.search("Sam")} == {"decision_events"}
    assert {hit.table for hit in views.search("parcel")} == {"decision_events", "memory_items"}


def test_memory_as_tables_says_what_the_gateway_remembers(gateway: Gateway, views: Views) -> None:
    record = gateway.decide(request())
    gateway.label(record.decision_id, "failure", "fraud")
    match = gateway.decide(request()).risk_signals.failure_similarity.top_k[0]
    item = views.rows("SELECT * FROM memory_items")[0]
    assert (item["memory_id"], item["label"], item["summary"]) == (
        match.memory_id,
        match.label,
        match.summary,
    )
    assert (item["tenant_id"], item["action_type"], item["decision_id"]) == (
        "acme",
        "support.refund",
        record.decision_id,
    )
    tokens = {row["token"] for row in views.rows("SELECT token FROM memory_tokens")}
    learned = next(gateway.ledger.read(kinds=[events.MEMORY_ADDED]))
    assert tokens == set(learned.body["tokens"])


def test_what_is_erased_is_gone_from_the_tables(gateway: Gateway, views: Views) -> None:
    first, second = gateway.decide(request()), gateway.decide(request("other"))
    for record in (first, second):
        gateway.label(record.decision_id, "failure", "x")
    views.catch_up()
    assert first.receipt is not None
    gateway.ledger.erase(first.receipt.seq, "asked to")
    learned = next(gateway.ledger.read(kinds=[events.MEMORY_ADDED]))
    gateway.ledger.erase(learned.seq, "asked to")
    gateway.add_event(second.decision_id, "note", {})
    assert [row["decision_id"] for row in views.rows("SELECT decision_id FROM decisions")] == [
        second.decision_id
    ]
    assert [row["tenant_id"] for row in views.rows("SELECT tenant_id FROM memory_items")] == ["other"]
    assert {row["memory_id"] for row in views.rows("SELECT memory_id FROM memory_tokens")} == {
        row["memory_id"] for row in views.rows("SELECT memory_id FROM memory_items")
    }
    assert len(views.rows("SELECT * FROM decision_events")) == 3


def test_an_abstention_has_a_row_with_its_error(gateway: Gateway, views: Views) -> None:
    Gateway(gateway.ledger, "no: policy\n").decide(request(None))
    row = views.rows("SELECT verdict, tenant_id, policy_id, error, amount_usd FROM decisions")[0]
    assert (row["verdict"], row["tenant_id"], row["policy_id"], row["amount_usd"]) == (
        "ABSTAIN",
        None,
        None,
        None,
    )
    assert row["error"].startswith("InvalidPolicy: ")


def test_a_body_that_is_not_as_expected_breaks_nothing(gateway: Gateway, views: Views) -> None:
    record = gateway.decide(request())
    body = gateway.ledger.get(record.receipt.seq).body if record.receipt else None
    body["derived"]["request"]["action"] = 5
    gateway.ledger.record([NewEvent(kind=events.RECORDED, body=body, stream="decision:x")])
    gateway.decide(request("other"))
    assert len(views.rows("SELECT * FROM decisions")) == 2
