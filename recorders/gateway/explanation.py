"""Why a decision came out as it did: each rule that fired, what it looked at, what kept it from TRUST (D11).

Pure: from a record and the text of its policy to values. The command puts them into words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from tallystick.events.gateway import Match, Query

from .conditions import ABSENT, OPS, Facts, compile_condition, find, getter
from .features import amount_usd
from .policy import Policy, RuleDocument, is_empty
from .record import DecisionRecord
from .stages import DecisionVerdict

#: Rules that would have trusted, had they fired.
_ALMOST_MAX: Final = 5


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """A condition and what it found.

    field: what it asks about. op: how. expected: with what, thresholds resolved. threshold: its name, or
    empty. given: whether there was a value. value: the value, or null. holds: whether the condition does.
    """

    field: str
    op: str
    expected: Any
    threshold: str
    given: bool
    value: Any
    holds: bool


class RuleExplained(msgspec.Struct, frozen=True, kw_only=True):
    """A rule and why it fired, or did not.

    effect: the verdict that it asks for. reasons: reason code to its meaning, or to an empty text. looks: the
    conditions that tell: of a rule that fired those that held, of another those that did not. missing: the
    required evidence that was not given.
    """

    rule_id: str
    stage: str
    effect: str
    reasons: dict[str, str]
    looks: list[Look]
    missing: list[str]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A decision explained.

    decided: the rules that asked for the verdict, the first one first; none if the gateway could not decide.
    also_fired: those that asked for less. almost: those that would have trusted, if none did. missing: what
    was asked for and not given. similar: remembered decisions like it.
    """

    decided: list[RuleExplained]
    also_fired: list[RuleExplained]
    almost: list[RuleExplained]
    missing: list[Query]
    similar: list[Match]


def explain(record: DecisionRecord, policy: Policy | None) -> Explanation:
    """Why a decision came out as it did; without its policy, as far as the record tells."""
    known = {} if policy is None else {rule.id: rule for rule in policy.document.rules}
    facts = facts_of(record)
    fired = [
        _explained(
            policy, known.get(rule.rule_id), facts, rule.rule_id, rule.stage, rule.effect, rule.reason_codes
        )
        for rule in record.matched_rules
    ]
    return Explanation(
        decided=[rule for rule in fired if rule.effect == record.verdict],
        also_fired=[rule for rule in fired if rule.effect != record.verdict],
        almost=[] if policy is None else _almost(policy, record, facts),
        missing=list(_missing(record, fired, facts)),
        similar=list(record.risk_signals.failure_similarity.top_k),
    )


def facts_of(record: DecisionRecord) -> Facts:
    """What the rules could ask about."""
    request = msgspec.to_builtins(record.request)
    amount = request["action"].get("amount", {})
    return Facts(
        action_type=request["action"]["type"],
        amount_value=amount.get("value"),
        amount_currency=amount.get("currency"),
        amount_usd=amount_usd(request),
        evidence=request.get("evidence", {}),
        subject=request["subject"],
        tags=request["action"].get("tags", []),
        failure_similarity=record.risk_signals.failure_similarity.score,
        uncertainty=record.risk_signals.uncertainty_score,
    )


def _explained(
    policy: Policy | None,
    rule: RuleDocument | None,
    facts: Facts,
    rule_id: str,
    stage: str,
    effect: str,
    codes: list[str],
) -> RuleExplained:
    """A rule that fired."""
    groups = [] if policy is None or rule is None else looks_of(policy, rule, facts)
    # Of alternatives those are shown that hold whole.
    held = [group for group in groups if all(look.holds for look in group)]
    missing: list[str] = []
    if policy is not None and rule is not None and not groups and stage == "REQUIREMENTS":
        missing = _required_missing(policy, facts)
    return RuleExplained(
        rule_id=rule_id,
        stage=stage,
        effect=effect,
        reasons=_meanings(policy, codes),
        looks=[look for group in held for look in group],
        missing=missing,
    )


def _almost(policy: Policy, record: DecisionRecord, facts: Facts) -> list[RuleExplained]:
    """The rules about this action that would have trusted it, and what kept each from it."""
    if not record.matched_rules or any(rule.effect == DecisionVerdict.TRUST for rule in record.matched_rules):
        return []  # it was not decided, or one trusts it: a stronger verdict is all that speaks against it
    fired = {rule.rule_id for rule in record.matched_rules}
    asked = {rule.rule_id for rule in policy.rules_for(facts.action_type)}
    trusting = [
        rule
        for rule in policy.document.rules
        if rule.then.verdict == DecisionVerdict.TRUST and rule.id in asked and rule.id not in fired
    ]
    return [
        RuleExplained(
            rule_id=rule.id,
            stage=rule.stage,
            effect=rule.then.verdict,
            reasons=_meanings(policy, rule.then.reason_codes),
            looks=[look for group in _nearest(policy, rule, facts) for look in group if not look.holds],
            missing=[],
        )
        for rule in trusting[:_ALMOST_MAX]
    ]


def _nearest(policy: Policy, rule: RuleDocument, facts: Facts) -> list[list[Look]]:
    """The conditions of a rule that did not fire; of alternatives the one of which the least is lacking."""
    groups = looks_of(policy, rule, facts)
    if rule.if_any is UNSET:
        return groups
    return [min(groups, key=lambda group: sum(not look.holds for look in group))]


def looks_of(policy: Policy, rule: RuleDocument, facts: Facts) -> list[list[Look]]:
    """The conditions of a rule, looked at; a list for each object of them."""
    given = next((value for value in (rule.if_all, rule.if_any) if value is not UNSET), [])
    groups = [rule.if_] if rule.if_ is not UNSET else given
    assert isinstance(groups, list)
    thresholds = policy.document.thresholds
    named: Mapping[str, Any] = {} if thresholds is UNSET else thresholds
    return [[_look(key, value, named, facts) for key, value in group.items()] for group in groups]


def _look(key: str, expected: Any, thresholds: Mapping[str, Any], facts: Facts) -> Look:
    compiled = compile_condition(key, expected, thresholds)
    assert not isinstance(compiled, str), compiled  # the policy is valid
    get = getter(compiled.field)
    assert get is not None
    value = get(facts)
    given = value is not ABSENT and value != []
    names = [name for name in _names(expected) if name in thresholds]
    return Look(
        field=compiled.field,
        op=next(op for op in OPS if key.endswith(op))[1:],
        expected=_resolved(expected, thresholds),
        threshold=", ".join(names),
        given=given,
        value=value if given else None,
        holds=compiled.holds(facts),
    )


def _names(expected: Any) -> Iterator[str]:
    for item in expected if isinstance(expected, list) else [expected]:
        if isinstance(item, str) and item.startswith("$"):
            yield item[1:]


def _resolved(expected: Any, thresholds: Mapping[str, Any]) -> Any:
    if isinstance(expected, list):
        return [_resolved(item, thresholds) for item in expected]
    if not isinstance(expected, str) or not expected.startswith("$"):
        return expected
    return expected[1:] if expected.startswith("$$") else thresholds[expected[1:]]


def _meanings(policy: Policy | None, codes: list[str]) -> dict[str, str]:
    declared: Any = UNSET if policy is None else policy.document.reason_codes
    return {code: "" if declared is UNSET else declared.get(code, "") for code in codes}


def _required_missing(policy: Policy, facts: Facts) -> list[str]:
    required = policy.document.required_evidence
    keys = [] if required is UNSET else required.get(facts.action_type, [])
    return [f"evidence.{key}" for key in keys if _is_missing(facts, f"evidence.{key}")]


def _is_missing(facts: Facts, field: str) -> bool:
    """Whether a field of the evidence is not given, or empty; no other field is ever looked for."""
    root, _, rest = field.partition(".")
    if root != "evidence":
        return True
    return is_empty(find(facts.evidence, rest.split(".")))


def _missing(record: DecisionRecord, fired: list[RuleExplained], facts: Facts) -> Iterator[Query]:
    """What was asked for and is not in the request: with its question, if a rule asks one."""
    asked = {query.field for query in record.queries}
    for query in record.queries:
        if _is_missing(facts, query.field):
            yield query
    for field in dict.fromkeys(field for rule in fired for field in rule.missing):
        if field not in asked:
            yield Query(field=field, question="")
