"""The areas `policy`, `decision` and `memory`: what the decision gateway writes (contracts D1 to D10).

A decision is a stream, `decision:<id>`: it is recorded, then labelled, noted, overridden, and its outcome
told. What was learned for one tenant and action type is a stream of its own,
`memory:<action type>[:<tenant>]`, so that it can be read without reading anything else. A policy is
registered once per hash.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

POLICY_REGISTERED: Final = "policy.registered"
RECORDED: Final = "decision.recorded"
LABELED: Final = "decision.labeled"
OUTCOME: Final = "decision.outcome"
NOTED: Final = "decision.noted"
OVERRIDDEN: Final = "decision.overridden"
MEMORY_ADDED: Final = "memory.added"
_MEMORY_PREFIX: Final = "mem_"
#: Digits of the largest seq that is looked for.
_DIGITS_MAX: Final = 18


def decision_stream(decision_id: str) -> str:
    """The stream of a decision."""
    return f"decision:{decision_id}"


def policy_stream(policy_hash: str) -> str:
    """The stream that holds the text of a policy."""
    return f"policy:{policy_hash}"


def memory_stream(tenant_id: str | None, action_type: str) -> str:
    """The stream of what was learned for a tenant (None: requests that name none) and an action type.

    An action type has no colon, and a tenant id is never empty: no two pairs share a stream.
    """
    return f"memory:{action_type}" if tenant_id is None else f"memory:{action_type}:{tenant_id}"


class PolicyRegistered(msgspec.Struct, frozen=True, kw_only=True):
    """`policy.registered`: a policy was used for the first time; once per hash.

    policy_id: as the policy says.
    policy_version: as the policy says.
    policy_hash: `sha256:` and the hex of the RFC 8785 JSON of the parsed policy.
    text: the policy's YAML, from which the hash and every verdict under it can be derived again.
    """

    v: int = 1
    policy_id: str
    policy_version: str
    policy_hash: str
    text: str


class PolicyRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The policy that a decision was made under; all but the mode are null if there was none to use.

    policy_id: as the policy says.
    policy_version: as the policy says.
    policy_hash: names the `policy.registered` with its text.
    mode: `enforce`, or `advisory`: the verdict is not enforced.
    """

    policy_id: str | None
    policy_version: str | None
    policy_hash: str | None
    mode: str


class MatchedRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule that fired.

    rule_id: as the policy says; `DEFAULT` if no rule fired.
    stage: `REQUIREMENTS`, `HARD_BLOCKS`, `ESCALATIONS`, `TRUST_PATHS` or `DEFAULT`.
    effect: the verdict that the rule asks for.
    reason_codes: the reasons that it gives.
    """

    rule_id: str
    stage: str
    effect: str
    reason_codes: list[str]


class Match(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A remembered decision like this one.

    memory_id: the memory item; items of a ledger sort by it in the order of their addition.
    label: `failure`, `success` or `near_miss`.
    score: numerator / denominator, from 0 to 1.
    numerator: weight of the tokens that both have.
    denominator: weight of the tokens that either has.
    summary: the words that came with the label.
    """

    memory_id: str
    label: str
    score: float
    numerator: int
    denominator: int
    summary: str


class FailureSimilarity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the request is like what went wrong before.

    score: of the best match labelled `failure`, among all that are remembered; 0 without one.
    numerator: weight of the tokens that it shares; 0 without one.
    denominator: weight of the tokens of either; 1 without one.
    top_k: the best five matches of any label; of equal ones the lower memory id first.
    """

    score: float
    numerator: int
    denominator: int
    top_k: list[Match]


class RiskSignals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What memory says of the request.

    uncertainty_score: 0.2, 0.2 more on `QUERY`, 0.3 more if the failure similarity is at least 0.35.
    failure_similarity: likeness to earlier failures.
    """

    uncertainty_score: float
    failure_similarity: FailureSimilarity


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question whose answer is needed before the action can be decided.

    field: where the answer goes, such as `evidence.order_id`.
    question: in words.
    """

    field: str
    question: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ledger's head when the memory was read.

    seq: the last event that counted.
    hash: its hash, hex.
    """

    seq: int
    hash: str


class Determinism(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What has to be the same for the same verdict.

    engine_version: the evaluation's; changes when its meaning does, not with every release.
    evaluation_order: the stages, in order.
    inputs_digest: of `{"request": request as evaluated, "derived": features}`; null if it was not evaluated.
    memory_snapshot: the head that the memory was read at; null if it was not read.
    """

    engine_version: str
    evaluation_order: list[str]
    inputs_digest: str | None
    memory_snapshot: Snapshot | None


class Similar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A similarity as an exact fraction.

    numerator: weight of what both have.
    denominator: weight of what either has.
    """

    numerator: int
    denominator: int


class Features(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the rules saw of the request besides the request itself.

    action_type: of the request.
    amount_value: of the request, or null.
    amount_currency: of the request, or null.
    amount_usd: the value if the currency is USD, else times `evidence.fx_rate_to_usd`; or null.
    tokens: `key=value` with the value as JSON, sorted: what similarity compares.
    failure_similarity: to the best match labelled `failure`.
    """

    action_type: str
    amount_value: int | float | None
    amount_currency: str | None
    amount_usd: int | float | None
    tokens: list[str]
    failure_similarity: Similar


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from the request, the policy and the memory.

    request: as redacted.
    request_digest: of the request as evaluated, before redaction.
    redacted: JSON pointers into the request to what redaction removed (RFC 6901); with any, the digests
        of the request cannot be derived again from what is kept, the verdict can.
    features: what the rules saw besides; null if it was not evaluated.
    policy: the policy, and whether its verdict is enforced.
    verdict: `TRUST`, `ABSTAIN`, `ESCALATE` or `QUERY`.
    reason_codes: in the order of evaluation, at least one.
    matched_rules: the rules that fired, in the order of evaluation.
    risk_signals: what memory says.
    queries: what to ask, on `QUERY`.
    obligations: what the matched rules oblige the caller to, as the policy has it.
    determinism: what has to be the same for the same verdict.
    """

    request: dict[str, Any]
    request_digest: str
    redacted: list[str]
    features: Features | None
    policy: PolicyRef
    verdict: str
    reason_codes: list[str]
    matched_rules: list[MatchedRule]
    risk_signals: RiskSignals
    queries: list[Query]
    obligations: list[dict[str, Any]]
    determinism: Determinism


class Failure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why the gateway could not decide and abstained.

    type: name of the error's type.
    message: its text.
    """

    type: str
    message: str


class DecisionObserved(msgspec.Struct, frozen=True, kw_only=True):
    """The circumstances.

    decision_id: `dec_` and a ULID.
    created_at: wall clock, ISO 8601 in UTC.
    error: why the gateway could not decide, or null.
    """

    decision_id: str
    created_at: str
    error: Failure | None = None


class DecisionRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """`decision.recorded`: a request was decided; the first event of the decision's stream.

    derived: the decision and what it follows from.
    observed: the circumstances.
    """

    v: int = 1
    derived: Decision
    observed: DecisionObserved


class DecisionLabeled(msgspec.Struct, frozen=True, kw_only=True):
    """`decision.labeled`: someone said how a decision turned out; a `memory.added` follows it.

    decision_id: the decision.
    decision_seq: the seq of its `decision.recorded`.
    label: `failure`, `success` or `near_miss`.
    summary: in words; may be empty.
    """

    v: int = 1
    decision_id: str
    decision_seq: int
    label: str
    summary: str


class DecisionOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """`decision.outcome`: what came of the action that was decided.

    decision_id: the decision.
    decision_seq: the seq of its `decision.recorded`.
    data: the caller's own object.
    """

    v: int = 1
    decision_id: str
    decision_seq: int
    data: dict[str, Any]


class DecisionNoted(msgspec.Struct, frozen=True, kw_only=True):
    """`decision.noted`: a note on a decision.

    decision_id: the decision.
    decision_seq: the seq of its `decision.recorded`.
    data: the caller's own object.
    """

    v: int = 1
    decision_id: str
    decision_seq: int
    data: dict[str, Any]


class DecisionOverridden(msgspec.Struct, frozen=True, kw_only=True):
    """`decision.overridden`: someone acted otherwise than decided; the decision itself stays.

    decision_id: the decision.
    decision_seq: the seq of its `decision.recorded`.
    data: the caller's own object.
    """

    v: int = 1
    decision_id: str
    decision_seq: int
    data: dict[str, Any]


class MemoryAdded(msgspec.Struct, frozen=True, kw_only=True):
    """`memory.added`: something to remember, in the stream of its tenant and action type.

    Its memory id is `mem_` and the seq of this event, twelve digits or more. Erasing the body forgets it, and
    what it had replaced counts again.

    decision_id: the decision that it was learned from.
    decision_seq: the seq of its `decision.recorded`.
    tenant_id: the tenant, or null.
    action_type: of the request.
    label: `failure`, `success` or `near_miss`.
    summary: in words; may be empty.
    tokens: the features of the request, as the decision recorded them.
    replaces_earlier: whether from this event on it stands for all that was remembered of the same decision
        before; an item that does not say so stands beside it.
    """

    v: int = 1
    decision_id: str
    decision_seq: int
    tenant_id: str | None
    action_type: str
    label: str
    summary: str
    tokens: list[str]
    replaces_earlier: bool = False


def memory_id(seq: int) -> str:
    """The memory id of the `memory.added` with this seq; ids sort as their seqs do (below 10**12)."""
    return f"{_MEMORY_PREFIX}{seq:012d}"


def memory_seq(memory_id: str) -> int | None:
    """The seq of the `memory.added` with this memory id; None for what is no memory id."""
    digits = memory_id.removeprefix(_MEMORY_PREFIX)
    is_id = digits != memory_id and digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS_MAX
    return (int(digits) or None) if is_id else None
