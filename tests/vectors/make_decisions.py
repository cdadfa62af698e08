"""Make decisions.jsonl, or with --check compare it with what it should be.

    python make_decisions.py            write decisions.jsonl
    python make_decisions.py --check    write nothing; exit 1 if the file differs

A ledger of decisions with a clock, ids and salts of its own, so that every machine and every Python makes
the same bytes: policies, requests, records, labels and what memory took from them. README.md in this folder
says how to read it, and what to compare.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from tallystick.ledger import chain
from tallystick.ledger.event import Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.ledger.memory import MemoryStore
from tallystick.recorders.gateway.digests import digest
from tallystick.recorders.gateway.gateway import Gateway

FILE = Path(__file__).with_name("decisions.jsonl")
LEDGER_ID = bytes.fromhex("dec15104dec15104dec15104dec15104")
START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
NO_DIGEST = "sha256:" + "0" * 64

#: Every stage, op and kind of field; weights; thresholds; a rule about the uncertainty.
FIRST = """\
schema_version: policy.v0
policy_id: vectors
policy_version: "1"
defaults: {mode: enforce, default_verdict: ESCALATE, default_reason_code: NO_RULE}
thresholds: {alone_max: 50, never_over: 2000.5, alike_from: 0.6, tiny: 0.30000000000000004, euro: "EUR"}
required_evidence: {desk.refund: [ticket, order.id]}
features:
  evidence: [channel, order.parts, risk, size]
  weights: {action_type: 1, amount_bucket: 2, tag: 3, evidence.risk: 5}
rules:
  - id: needs
    stage: REQUIREMENTS
    when: {action_type: desk.refund}
    then:
      verdict: QUERY
      reason_codes: [EVIDENCE_MISSING]
      queries: [{field: evidence.ticket, question: "Which ticket? \\u2014 “number”"}]
  - id: far-too-much
    stage: HARD_BLOCKS
    when: {action_type_in: [desk.refund, desk.credit]}
    if: {amount_usd_gt: $never_over}
    then: {verdict: ABSTAIN, reason_codes: [FAR_TOO_MUCH], obligations: [{notify: [ops, 7, 0.1, null, true]}]}
  - id: blocked
    stage: HARD_BLOCKS
    if_any: [{tags_in: [blocked, "gesperrt ✋"]}, {subject.roles_is: [intern]}]
    then: {verdict: ABSTAIN, reason_codes: [BLOCKED]}
  - id: like-a-failure
    stage: ESCALATIONS
    if: {risk.failure_similarity_gte: $alike_from}
    then: {verdict: ESCALATE, reason_codes: [LIKE_A_FAILURE]}
  - id: unsure
    stage: ESCALATIONS
    if: {risk.uncertainty_gte: 0.7}
    then: {verdict: ABSTAIN, reason_codes: [TOO_UNSURE]}
  - id: exact
    stage: ESCALATIONS
    if_all: [{evidence.sum_is: $tiny}, {evidence.one_is: 1}, {evidence.risk_ne: low}]
    then: {verdict: ESCALATE, reason_codes: [EXACT]}
  - id: euros
    stage: TRUST_PATHS
    when: {action_type: desk.refund}
    if: {amount_currency_is: $euro, amount_usd_lte: $alone_max, amount_value_lt: 50,
         evidence.risk_not_in: [high]}
    then: {verdict: TRUST, reason_codes: [SMALL, EUROS]}
  - id: small
    stage: TRUST_PATHS
    when: {action_type: desk.refund}
    if: {amount_usd_lte: $alone_max, evidence.order.parts_present: true, evidence.hold_present: false}
    then: {verdict: TRUST, reason_codes: [SMALL], obligations: [{log: refunds}]}
"""
#: Another version, in advisory mode, that trusts by default.
SECOND = """\
schema_version: policy.v0
policy_id: vectors
policy_version: "2"
defaults: {mode: advisory, default_verdict: TRUST, default_reason_code: NO_RULE}
features: {evidence: [channel]}
rules:
  - id: like-a-failure
    stage: ESCALATIONS
    if: {risk.failure_similarity_gt: 0}
    then: {verdict: ESCALATE, reason_codes: [LIKE_A_FAILURE]}
"""
INLINE = {
    "user": {"E-Mail": "kept", "Email": "a@example.org"},
    "turns": [{"password": "x"}, 1e21, -0.0, 1e-7],
}


def request(amount: float | None = 30, currency: str = "USD", **changes: Any) -> dict[str, Any]:
    """A refund with everything that it needs, with changes; a change to None removes."""
    action: dict[str, Any] = {"type": "desk.refund", "intent": "Refund a mug", "tags": ["damaged"]}
    if amount is not None:
        action["amount"] = {"value": amount, "currency": currency}
    order = {"id": "O-1", "parts": ["mug", "lid", 2, 2.5]}
    whole = {
        "schema_version": "decision_request.v0",
        "tenant": {"tenant_id": "acme"},
        "subject": {"type": "agent", "id": "bot"},
        "action": action | changes.pop("action", {}),
        "evidence": {"ticket": "T-1", "order": order, "risk": "low"} | changes.pop("evidence", {}),
        "context": {"mode": "digest_only", "digest": NO_DIGEST},
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


def inline(**redaction: Any) -> dict[str, Any]:
    return {"mode": "inline", "inline": INLINE, "digest": digest(INLINE), **redaction}


def steps() -> Iterator[tuple[Any, ...]]:
    """What happens, in order: (policy, request), or (number of a decision, label, summary)."""
    yield FIRST, request()
    yield FIRST, request(evidence={"ticket": ""})
    yield FIRST, request(2000.5)
    yield FIRST, request(2000.51)
    yield FIRST, request(None, evidence={"size": "XL — “groß”", "risk": {"b": 1, "a": [True, None]}})
    yield FIRST, request(45.5, "EUR", evidence={"fx_rate_to_usd": 1.0989010989010988})
    yield FIRST, request(45.6, "EUR", evidence={"fx_rate_to_usd": 1.0989010989010988})
    yield FIRST, request(10, "EUR", evidence={"fx_rate_to_usd": "1.1"})
    yield FIRST, request(0.1 + 0.2, evidence={"sum": 0.1 + 0.2, "one": 1.0, "risk": "high"})
    yield FIRST, request(0.3, evidence={"sum": 0.3, "one": True, "risk": "high"})
    yield FIRST, request(action={"tags": ["gesperrt ✋", "é", "é", "z"]})
    yield FIRST, request(subject={"type": "user", "id": "u-1", "roles": ["intern"]})
    yield FIRST, request(action={"type": "desk.other"}, evidence={"big": 9007199254740991, "tiny": 5e-324})
    yield FIRST, request(context=inline())
    yield FIRST, request(context=inline(redaction={"profile": "strict"}))
    yield FIRST, request(context=inline(redaction={"profile": "off"}))
    yield FIRST, request(context={"mode": "reference", "digest": NO_DIGEST, "ref": {"kind": "s3", "id": "k"}})
    yield FIRST, request(request_id="r-1", trace={"correlation_id": "case-7", "span_id": "b7"})
    yield FIRST, request(policy={"policy_id": "another"})  # the gateway abstains
    yield 0, "failure", "sent twice — “Müll”"
    yield FIRST, request()
    yield FIRST, request(60, action={"tags": ["late", "damaged"]})
    yield FIRST, request(tenant={"tenant_id": "other"})
    yield FIRST, request(tenant={"tenant_id": "other", "environment": "prod"})
    yield FIRST, request(tenant=None)
    yield FIRST, request(evidence={"ticket": ""})
    yield 4, "near_miss", ""
    yield 2, "success", "as it should be"
    yield 5, "failure", "in euros"
    yield 8, "failure", "another"
    yield 9, "success", ""
    yield 10, "near_miss", "blocked"
    yield FIRST, request(300, action={"tags": ["damaged"]}, evidence={"channel": "web"})
    yield SECOND, request(evidence={"channel": "web"})
    yield SECOND, request(hints={"mode": "enforce"})
    yield 0, "success", "it was one parcel"  # takes the place of the failure
    yield 5, "near_miss", "in euros"
    yield FIRST, request()
    yield 5, "near_miss", "in euros"  # nothing new
    yield SECOND, request(45.5, "EUR", evidence={"fx_rate_to_usd": 1})


def rows() -> list[Row]:
    """The events of the ledger in which it happened."""
    store = MemoryStore()
    store.append(lambda _: [_created()])
    times = itertools.count(START_US + 1_000_000, 1_000_000)
    drawn = itertools.count()

    def entropy(size: int) -> bytes:
        return blake3(f"tallystick decision vector {next(drawn)}".encode()).digest(length=size)

    with Ledger.over(store, clock=times.__next__, entropy=entropy) as ledger:
        decided: list[str] = []
        for step in steps():
            if isinstance(step[0], int):
                Gateway(ledger, FIRST, clock=times.__next__).label(decided[step[0]], *step[1:])
            else:
                gateway = Gateway(ledger, step[0], clock=times.__next__, entropy=entropy)
                decided.append(gateway.decide(step[1]).decision_id)
        return list(ledger.rows())


def _created() -> Row:
    """Event 1, which names no program and no engine that could have another version."""
    body = json.dumps(
        {"engine": {}, "format": 1, "ledger_id": LEDGER_ID.hex(), "program": "vectors", "v": 1},
        separators=(",", ":"),
    ).encode()
    salt, previous = bytes(chain.SALT_BYTES), chain.genesis_hash(LEDGER_ID)
    body_hash = chain.body_hash(salt, body)
    label = chain.label("ledger.created", "ledger", None, None)
    own = chain.event_hash(previous, 1, START_US, body_hash, label)
    return Row(1, START_US, "ledger.created", "ledger", None, None, salt, body, body_hash, previous, own)


def load(data: bytes) -> Ledger:
    """A ledger in memory with the events of an export."""
    from tallystick.ledger.portable import parse_line

    store = MemoryStore()
    found = [parse_line(line, "decisions.jsonl", number) for number, line in enumerate(data.splitlines(), 1)]

    def build(_: Head) -> list[Row]:
        return found

    store.append(build)
    return Ledger.over(store)


def text() -> bytes:
    from tallystick.ledger.portable import export_line

    return b"".join(export_line(row) + b"\n" for row in rows())


def main() -> int:
    parser = argparse.ArgumentParser(description="Make decisions.jsonl.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if the file differs")
    check: bool = parser.parse_args().check
    data = text()
    if not check:
        FILE.write_bytes(data)
    elif not FILE.exists() or FILE.read_bytes() != data:
        print(f"{FILE.name} is not what make_decisions.py makes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
