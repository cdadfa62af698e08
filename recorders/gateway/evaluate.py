"""From a policy and the facts of a request to a verdict and its reasons, the same every time (D5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from tallystick.events.gateway import MatchedRule, Query

from .conditions import Facts
from .policy import Policy, Rule
from .stages import DEFAULT, STRENGTH, DecisionVerdict

_T = TypeVar("_T")


class Evaluation(NamedTuple):
    """A verdict and what it came from, in the order of evaluation."""

    verdict: DecisionVerdict
    reason_codes: list[str]
    matched_rules: list[MatchedRule]
    queries: list[Query]
    obligations: list[dict[str, Any]]
    uncertainty: float


def evaluate(policy: Policy, facts: Facts, uncertainty_on: Callable[[bool], float]) -> Evaluation:
    """Ask every rule about the action; the strongest verdict holds, or the default if none fires.

    uncertainty_on: the uncertainty if the verdict is QUERY (true) or not. It depends on the verdict, which
    rules on `risk.uncertainty` help to make; so those are asked last, about the uncertainty that the verdict
    of all other rules gives, and that is the one that is recorded.
    """
    rules = policy.rules_for(facts.action_type)
    fired = {rule.rule_id for rule in rules if not rule.asks_uncertainty and rule.fires(facts)}
    so_far = _verdict(policy, [rule for rule in rules if rule.rule_id in fired])
    uncertainty = uncertainty_on(so_far is DecisionVerdict.QUERY)
    if any(rule.asks_uncertainty for rule in rules):
        facts = facts._replace(uncertainty=uncertainty)
        fired |= {rule.rule_id for rule in rules if rule.asks_uncertainty and rule.fires(facts)}
    matched = [rule for rule in rules if rule.rule_id in fired]
    verdict = _verdict(policy, matched)
    asked = [query for rule in matched for query in rule.queries] if verdict is DecisionVerdict.QUERY else []
    return Evaluation(
        verdict=verdict,
        reason_codes=_unique(code for rule in matched for code in rule.reason_codes)
        or [policy.defaults.default_reason_code],
        matched_rules=[_matched(rule) for rule in matched] or [_default(policy)],
        queries=_unique(Query(field=query.field, question=query.question) for query in asked),
        obligations=_unique(obligation for rule in matched for obligation in rule.obligations),
        uncertainty=uncertainty,
    )


def _verdict(policy: Policy, matched: list[Rule]) -> DecisionVerdict:
    verdicts = [rule.verdict for rule in matched] or [policy.defaults.default_verdict]
    return DecisionVerdict(max(verdicts, key=STRENGTH.__getitem__))


def _matched(rule: Rule) -> MatchedRule:
    return MatchedRule(
        rule_id=rule.rule_id, stage=rule.stage, effect=rule.verdict, reason_codes=list(rule.reason_codes)
    )


def _default(policy: Policy) -> MatchedRule:
    return MatchedRule(
        rule_id=DEFAULT,
        stage=DEFAULT,
        effect=policy.defaults.default_verdict,
        reason_codes=[policy.defaults.default_reason_code],
    )


def _unique(items: Iterable[_T]) -> list[_T]:
    """The items without repetitions, in order; they need not be hashable."""
    kept: list[_T] = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return kept
