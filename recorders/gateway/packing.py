"""Collecting a decision pack from a ledger: the decision, and every event that its verdict rests on (D11)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger import records
from tallystick.ledger.errors import MalformedEvent
from tallystick.ledger.event import Event, Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.projections.memory import FAILURE, memory_of

from .decision import question_of, recall
from .errors import DecisionErased, EventMissing, NoSuchDecision
from .pack import Pack
from .policy import parse_cached
from .record import log_of, reading, record_of


def collect(ledger: Ledger, decision_id: str, head: Head | None = None) -> Pack:
    """The pack of a decision, as of a head (default the ledger's own).

    It holds `ledger.created`, the policy's `policy.registered`, the `memory.added` of every match and of the
    failure most like it, the `decision.recorded`, and what was said of it since. Erased ones are among them,
    without their bodies, and each `ledger.body_erased` that records it.
    Raises NoSuchDecision, DecisionErased, EventMissing, MalformedEvent.
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
    log = log_of(map(Event.from_row, rows))
    with reading(recorded.seq):
        record = record_of(body, log)
    registration = registration_of(ledger, body.derived.policy.policy_hash)
    text = policy_text(registration)
    created = next(ledger.rows(before=2), None)
    if created is None:
        raise EventMissing(1, "ledger.created", decision_id)
    proof = {row.seq: row for row in (created, *rows)}
    if registration is not None:
        proof[registration.seq] = registration
    for memory_id in _remembered(ledger, body.derived, record.request.tenant_id, text):
        seq = events.memory_seq(memory_id)
        if seq is None:
            raise MalformedEvent(recorded.seq, f"there is no memory item {memory_id[:40]!r}, which it names")
        item = memory_item(ledger, memory_id)
        if item is None:
            raise EventMissing(seq, events.MEMORY_ADDED, decision_id)
        proof[item.seq] = item
    erased = {row.seq for row in proof.values() if row.body is None}
    proof.update((row.seq, row) for row in erasures_of(ledger, erased, head))
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
) -> set[str]:
    """The memory ids of the items that counted."""
    similarity, snapshot = decision.risk_signals.failure_similarity, decision.determinism.memory_snapshot
    ids = {match.memory_id for match in similarity.top_k}
    among = any(match.label == FAILURE for match in similarity.top_k)
    if similarity.numerator and not among and snapshot is not None and text is not None:
        # The failure that counted is less like it than the five best of other labels.
        policy = parse_cached(text, "policy")
        head = Head(snapshot.seq, bytes.fromhex(snapshot.hash))
        found = recall(policy, question_of(policy, decision.request), tenant_id, memory_of(ledger), head)
        failure = found.failure
        if failure is not None:
            ids.add(failure.memory_id)
        if failure is None or (failure.numerator, failure.denominator) != (
            similarity.numerator,
            similarity.denominator,
        ):  # it was erased: one of those that were
            stream = events.memory_stream(tenant_id, decision.request["action"]["type"])
            rows = ledger.rows(before=head.seq + 1, stream=stream, kinds=[events.MEMORY_ADDED])
            ids.update(events.memory_id(row.seq) for row in rows if row.body is None)
    return ids


def erasures_of(ledger: Ledger, erased: set[int], head: Head) -> Iterator[Row]:
    """The records of the erasures of these events, up to a head."""
    kinds = [records.BODY_ERASED]
    rows = ledger.rows(before=head.seq + 1, stream=records.STREAM, kinds=kinds) if erased else ()
    for row in rows:
        with suppress(msgspec.MsgspecError, ValueError):
            if msgspec.json.decode(row.body or b"", type=records.BodyErased).seq in erased:
                yield row


def memory_item(ledger: Ledger, memory_id: str) -> Row | None:
    """The `memory.added` with this memory id, or None: no other event gets into a pack by its number."""
    seq = events.memory_seq(memory_id)
    row = None if seq is None else next(ledger.rows(seq - 1, before=seq + 1), None)
    return row if row is not None and row.kind == events.MEMORY_ADDED else None
