"""A decision from what it depends on: policy, request, and what memory found. No clock, no store, no chance.

The gateway calls this to decide, and replay to decide again: the same arguments give the same `Decision`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger.event import Head
from tallystick.projections.memory import NOTHING, Memory, Remembered

from .conditions import Facts
from .digests import digest_of, inputs_digest, jcs
from .evaluate import evaluate
from .features import amount_usd, tokens_of
from .policy import Policy
from .redaction import redact
from .request import DecisionRequest
from .risk import failure_similarity, risk_signals, uncertainty
from .stages import ENFORCE, EVALUATION_ORDER, DecisionVerdict

#: Raised when the same inputs may come out otherwise than before.
ENGINE_VERSION: Final = "gateway.v0"


class Question(NamedTuple):
    """A checked request (plain JSON), with its amount in dollars and the tokens that memory is asked with."""

    request: dict[str, Any]
    amount_usd: int | float | None
    tokens: list[str]


def question_of(policy: Policy, request: dict[str, Any]) -> Question:
    """What a policy and memory are asked about a checked request."""
    usd = amount_usd(request)
    return Question(request, usd, tokens_of(request, usd, policy.feature_keys))


def recall(policy: Policy, question: Question, tenant_id: str | None, memory: Memory, at: Head) -> Remembered:
    """What memory finds, as of a head. Raises as `Memory.recall` does."""
    action_type: str = question.request["action"]["type"]
    return memory.recall(
        tenant_id, action_type, question.tokens, at, weigh=policy.weigh, weights=policy.weights_key
    )


def asked_otherwise(request: DecisionRequest, policy: Policy) -> str | None:
    """The field of `request.policy` that asks for another policy than this; None if none does."""
    asked = request.policy
    if asked is msgspec.UNSET:
        return None
    names = ("policy_id", "policy_version")
    return next((n for n in names if getattr(asked, n) not in (msgspec.UNSET, getattr(policy, n))), None)


def mode_of(policy: Policy, request: dict[str, Any]) -> str:
    """The mode in force: the policy's, which a request can make stricter and never laxer."""
    if ENFORCE in (request.get("policy", {}).get("mode"), request.get("hints", {}).get("mode")):
        return ENFORCE
    return policy.defaults.mode


def decide_purely(
    policy: Policy,
    question: Question,
    remembered: Remembered,
    snapshot: events.Snapshot | None,
    *,
    redaction: str,
    form: bytes | None = None,
) -> events.Decision:
    """The decision on a request, under a policy, with what memory found at `snapshot`.

    redaction: the profile in force. form: the request's RFC 8785 form, if it is known already. In replay the
    request is the redacted one: with `redacted` pointers its two digests come out otherwise, nothing else.
    """
    request, usd, tokens = question
    form = jcs(request) if form is None else form
    failure = failure_similarity(remembered)
    amount = request["action"].get("amount", {})
    features = events.Features(
        action_type=request["action"]["type"],
        amount_value=amount.get("value"),
        amount_currency=amount.get("currency"),
        amount_usd=usd,
        tokens=tokens,
        failure_similarity=failure,
    )
    facts = Facts(
        action_type=features.action_type,
        amount_value=features.amount_value,
        amount_currency=features.amount_currency,
        amount_usd=usd,
        evidence=request.get("evidence", {}),
        subject=request["subject"],
        tags=request["action"].get("tags", []),
        failure_similarity=failure.numerator / failure.denominator,
        uncertainty=0.0,
    )
    outcome = evaluate(policy, facts, lambda query: uncertainty(failure, query=query))
    kept, removed = redact(request, redaction)
    return events.Decision(
        request=kept,
        request_digest=digest_of(form),
        redacted=removed,
        features=features,
        policy=events.PolicyRef(
            policy_id=policy.policy_id,
            policy_version=policy.policy_version,
            policy_hash=policy.policy_hash,
            mode=mode_of(policy, request),
        ),
        verdict=outcome.verdict.value,
        reason_codes=outcome.reason_codes,
        matched_rules=outcome.matched_rules,
        risk_signals=risk_signals(remembered, outcome.uncertainty),
        queries=outcome.queries,
        obligations=outcome.obligations,
        determinism=events.Determinism(
            engine_version=ENGINE_VERSION,
            evaluation_order=list(EVALUATION_ORDER),
            inputs_digest=inputs_digest(form, msgspec.to_builtins(features)),
            memory_snapshot=snapshot,
        ),
    )


def abstention(
    request: dict[str, Any],
    form: bytes,
    reason: str,
    *,
    redaction: str,
    policy: Policy | None = None,
    snapshot: events.Snapshot | None = None,
) -> events.Decision:
    """The decision when the gateway cannot decide: ABSTAIN, always enforced, for one reason of its own."""
    kept, removed = redact(request, redaction)
    failure = failure_similarity(NOTHING)
    return events.Decision(
        request=kept,
        request_digest=digest_of(form),
        redacted=removed,
        features=None,
        policy=events.PolicyRef(
            policy_id=policy.policy_id if policy else None,
            policy_version=policy.policy_version if policy else None,
            policy_hash=policy.policy_hash if policy else None,
            mode=ENFORCE,
        ),
        verdict=DecisionVerdict.ABSTAIN.value,
        reason_codes=[reason],
        matched_rules=[],
        risk_signals=risk_signals(NOTHING, uncertainty(failure, query=False)),
        queries=[],
        obligations=[],
        determinism=events.Determinism(
            engine_version=ENGINE_VERSION,
            evaluation_order=list(EVALUATION_ORDER),
            inputs_digest=None,
            memory_snapshot=snapshot,
        ),
    )
