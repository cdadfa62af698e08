"""Collecting a decision pack from a ledger: the decision, and every event that its verdict rests on (D11)."""

from __future__ import annotations

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger.event import Event, Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.projections.memory import memory_of

from .decision import question_of, recall
from .errors import DecisionErased, NoSuchDecision
from .gateway import log_entry
from .pack import Pack
from .policy import parse_cached
from .record import reading, record_of


def collect(ledger: Ledger, decision_id: str, head: Head | None = None) -> Pack:
    """The pack of a decision, as of a head (default the ledger's own). Raises NoSuchDecision, DecisionErased.

    It holds `ledger.created`, the policy's `policy.registered`, the `memory.added` of every match and of the
    failure most like it, the `decision.recorded`, and what was said of it since. Erased ones are among them,
    without their bodies.
    """
    stream = events.decision_stream(decision_id)
    head = ledger.head() if head is None else head
    rows = list(ledger.rows(before=head.seq + 1, stream=stream))
    recorded = next((row for row in rows if row.kind == events.RECORDED), None)
    if recorded is None:
        raise NoSuchDecision(decision_id)
    if recorded.body is None:
        raise DecisionErased(decision_id, recorded.seq)
    with reading(recorded.seq):
        body = msgspec.json.decode(recorded.body, type=events.DecisionRecorded)
    log = [log_entry(Event.from_row(row)) for row in rows if row.body is not None]
    with reading(recorded.seq):
        record = record_of(body, [entry for entry in log if entry is not None])
    registration = registration_of(ledger, body.derived.policy.policy_hash)
    text = policy_text(registration)
    proof = {row.seq: row for row in (next(ledger.rows(limit=1)), *rows)}
    if registration is not None:
        proof[registration.seq] = registration
    for seq in _remembered(ledger, body.derived, record.request.tenant_id, text):
        proof[seq] = next(ledger.rows(seq - 1, before=seq + 1))
    return Pack(
        record=record,
        request=body.derived.request,
        policy_text=text,
        rows=[proof[seq] for seq in sorted(proof)],
        head=head,
    )


def policy_text(registration: Row | None) -> str | None:
    """The text that a `policy.registered` holds; None without one, or without its body.

    Raises MalformedEvent.
    """
    if registration is None or registration.body is None:
        return None
    with reading(registration.seq):
        return msgspec.json.decode(registration.body, type=events.PolicyRegistered).text


def registered_text(ledger: Ledger, policy_hash: str | None) -> str | None:
    """The text of a policy that was used in a ledger; None if it is not there, or was erased."""
    return policy_text(registration_of(ledger, policy_hash))


def registration_of(ledger: Ledger, policy_hash: str | None) -> Row | None:
    """The `policy.registered` of a policy; None if it was never used in the ledger."""
    if policy_hash is None:
        return None
    stream = events.policy_stream(policy_hash)
    return next(ledger.rows(stream=stream, kinds=[events.POLICY_REGISTERED], limit=1), None)


def _remembered(
    ledger: Ledger, decision: events.Decision, tenant_id: str | None, text: str | None
) -> set[int]:
    """The seqs of the memory items that counted."""
    similarity, snapshot = decision.risk_signals.failure_similarity, decision.determinism.memory_snapshot
    seqs = {int(match.memory_id.removeprefix("mem_")) for match in similarity.top_k}
    among = any(match.label == "failure" for match in similarity.top_k)
    if similarity.numerator and not among and snapshot is not None and text is not None:
        # The failure that counted is less like it than the five best of other labels.
        policy = parse_cached(text, "policy")
        head = Head(snapshot.seq, bytes.fromhex(snapshot.hash))
        found = recall(policy, question_of(policy, decision.request), tenant_id, memory_of(ledger), head)
        if found.failure is not None:
            seqs.add(int(found.failure.memory_id.removeprefix("mem_")))
    return seqs
