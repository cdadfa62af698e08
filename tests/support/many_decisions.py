"""Decisions by the thousand, as a gateway would have recorded them, without a commit for each."""

from __future__ import annotations

import random
from pathlib import Path

from tallystick import Durability, Ledger, NewEvent, Policy
from tallystick.events import gateway as events
from tallystick.ledger.drafting import wall_clock
from tallystick.projections.memory import memory_of
from tallystick.recorders.gateway.decision import decide_purely, question_of, recall
from tallystick.recorders.gateway.gateway import policy_key
from tallystick.recorders.gateway.request import check_request
from tallystick.recorders.gateway.ulid import ulid
from tallystick.recorders.session.records import iso_text, moment

POLICY = """
schema_version: policy.v0
policy_id: many
policy_version: "1"
defaults: {mode: enforce, default_verdict: ESCALATE, default_reason_code: NO_RULE}
features: {evidence: [channel, customer]}
rules:
  - id: fraud
    stage: HARD_BLOCKS
    if: {evidence.fraud_gte: 0.95}
    then: {verdict: ABSTAIN, reason_codes: [FRAUD]}
  - id: alike
    stage: ESCALATIONS
    if: {risk.failure_similarity_gte: 0.99}
    then: {verdict: ESCALATE, reason_codes: [ALIKE]}
  - id: small
    stage: TRUST_PATHS
    if: {amount_usd_lte: 100}
    then: {verdict: TRUST, reason_codes: [SMALL]}
"""
CHUNK = 1000


def fill(path: Path, decisions: int, *, label_every: int = 5, tenants: int = 20) -> None:
    """Record so many decisions, every fifth of them labelled."""
    chance = random.Random(7)
    policy = Policy.parse(POLICY)
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        register(ledger, policy)
        for start in range(0, decisions, CHUNK):
            numbers = range(start, min(start + CHUNK, decisions))
            record_decisions(ledger, policy, numbers, chance, tenants=tenants)
            label_some(ledger, max(0, ledger.head().seq - CHUNK), chance, every=label_every)


def register(ledger: Ledger, policy: Policy) -> None:
    """Record the text of a policy."""
    registered = events.PolicyRegistered(
        policy_id=policy.policy_id,
        policy_version=policy.policy_version,
        policy_hash=policy.policy_hash,
        text=policy.text,
    )
    stream = events.policy_stream(policy.policy_hash)
    key = policy_key(policy.policy_hash)
    ledger.record([NewEvent(kind=events.POLICY_REGISTERED, body=registered, stream=stream, key=key)])


def record_decisions(
    ledger: Ledger, policy: Policy, numbers: range, chance: random.Random, *, tenants: int
) -> None:
    """Decide on a request for each number, with the memory as of now, and record it."""
    head = ledger.head()
    snapshot = events.Snapshot(seq=head.seq, hash=head.hash.hex())
    with ledger.batch():
        for number in numbers:
            request = {
                "schema_version": "decision_request.v0",
                "tenant": {"tenant_id": f"tenant-{number % tenants}"},
                "subject": {"type": "agent", "id": "bot"},
                "action": {
                    "type": "support.refund",
                    "intent": f"Refund number {number}",
                    "amount": {"value": chance.randint(1, 300), "currency": "USD"},
                },
                "evidence": {
                    "channel": chance.choice(["web", "app", "phone"]),
                    "customer": chance.randint(1, 500),
                    "fraud": chance.random(),
                },
                "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
            }
            checked = check_request(request)
            question = question_of(policy, checked.plain)
            found = recall(policy, question, checked.request.tenant_id, memory_of(ledger), head)
            decision = decide_purely(policy, question, found, snapshot, redaction="default", form=checked.jcs)
            at = wall_clock()
            decision_id = f"dec_{ulid(at, number.to_bytes(10, 'big'))}"
            observed = events.DecisionObserved(decision_id=decision_id, created_at=iso_text(moment(at)))
            body = events.DecisionRecorded(derived=decision, observed=observed)
            stream = events.decision_stream(decision_id)
            ledger.record([NewEvent(kind=events.RECORDED, body=body, stream=stream, at=at)])


def label_some(ledger: Ledger, after: int, chance: random.Random, *, every: int) -> None:
    """Label one in `every` of the decisions behind an event."""
    with ledger.batch():
        for event in list(ledger.read(after, kinds=[events.RECORDED]))[::every]:
            derived = event.body["derived"]
            decision_id = event.body["observed"]["decision_id"]
            label = chance.choice(["failure", "success", "success", "near_miss"])
            said = events.DecisionLabeled(
                decision_id=decision_id, decision_seq=event.seq, label=label, summary=""
            )
            tenant_id = derived["request"]["tenant"]["tenant_id"]
            learned = events.MemoryAdded(
                decision_id=decision_id,
                decision_seq=event.seq,
                tenant_id=tenant_id,
                action_type="support.refund",
                label=label,
                summary="",
                tokens=derived["features"]["tokens"],
            )
            memory = events.memory_stream(tenant_id, "support.refund")
            ledger.record(
                [
                    NewEvent(kind=events.LABELED, body=said, stream=event.stream),
                    NewEvent(kind=events.MEMORY_ADDED, body=learned, stream=memory),
                ]
            )
