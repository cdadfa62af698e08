"""D5, D7, D8: verdicts, reasons, queries and obligations; and the numbers that rules see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.events import gateway as events
from tallystick.projections.memory import NOTHING, Remembered
from tallystick.recorders.gateway.conditions import Facts
from tallystick.recorders.gateway.decision import decide_purely, question_of
from tallystick.recorders.gateway.digests import digest
from tallystick.recorders.gateway.explanation import looks_of
from tallystick.recorders.gateway.features import amount_bucket, amount_usd, tokens_of
from tallystick.recorders.gateway.policy import STARTER_POLICY, Policy

MakePolicy = Callable[..., str]
MakeRequest = Callable[..., dict[str, Any]]


def decided(policy: str, request: dict[str, Any], remembered: Remembered = NOTHING) -> events.Decision:
    compiled = Policy.parse(policy)
    return decide_purely(compiled, question_of(compiled, request), remembered, None, redaction="default")


def failure_like(numerator: int, denominator: int) -> Remembered:
    match = events.Match(
        memory_id="mem_1",
        label="failure",
        score=numerator / denominator,
        numerator=numerator,
        denominator=denominator,
        summary="",
    )
    return Remembered([match], match)


def rule(name: str, verdict: str, stage: str = "ESCALATIONS", more: str = "") -> str:
    return (
        f"{{id: {name}, stage: {stage}, {more}then: {{verdict: {verdict}, reason_codes: [{name.upper()}]}}}}"
    )


@pytest.mark.parametrize(
    ("verdicts", "strongest"),
    [
        (["TRUST", "ESCALATE"], "ESCALATE"),
        (["ESCALATE", "QUERY"], "QUERY"),
        (["QUERY", "ABSTAIN", "TRUST"], "ABSTAIN"),
        (["TRUST", "TRUST"], "TRUST"),
    ],
)
def test_the_strongest_verdict_holds_and_every_rule_is_told(
    make_policy: MakePolicy, make_request: MakeRequest, verdicts: list[str], strongest: str
) -> None:
    rules = [rule(f"r{index}", verdict) for index, verdict in enumerate(verdicts)]
    for ordered in (rules, rules[::-1]):
        decision = decided(make_policy(*ordered), make_request())
        assert decision.verdict == strongest
        assert sorted(matched.effect for matched in decision.matched_rules) == sorted(verdicts)


def test_stages_are_asked_in_their_order_and_rules_in_theirs(
    make_policy: MakePolicy, make_request: MakeRequest
) -> None:
    policy = make_policy(
        rule("trust_b", "TRUST", "TRUST_PATHS"),
        rule("escalate", "ESCALATE", "ESCALATIONS"),
        rule("trust_a", "TRUST", "TRUST_PATHS"),
        rule("block", "ABSTAIN", "HARD_BLOCKS"),
        rule("ask", "QUERY", "REQUIREMENTS", "if: {tags_is: damaged}, "),
    )
    decision = decided(policy, make_request())
    order = ["ask", "block", "escalate", "trust_b", "trust_a"]
    assert [matched.rule_id for matched in decision.matched_rules] == order
    assert decision.reason_codes == [name.upper() for name in order]


def test_without_a_rule_the_default_holds(make_policy: MakePolicy, make_request: MakeRequest) -> None:
    decision = decided(make_policy(default="QUERY"), make_request())
    assert (decision.verdict, decision.reason_codes) == ("QUERY", ["NO_RULE"])
    assert [(matched.rule_id, matched.stage) for matched in decision.matched_rules] == [
        ("DEFAULT", "DEFAULT")
    ]
    assert decision.risk_signals.uncertainty_score == 0.4


def test_reasons_queries_and_obligations_are_told_once(
    make_policy: MakePolicy, make_request: MakeRequest
) -> None:
    then = (
        "then: {verdict: %s, reason_codes: [SAME, %s], queries: [{field: evidence.a, question: What}], "
        "obligations: [{log: it}]}"
    )
    rules = [
        f"{{id: {n}, stage: ESCALATIONS, {then % (v, n)}}}" for n, v in (("A", "QUERY"), ("B", "ESCALATE"))
    ]
    decision = decided(make_policy(*rules), make_request())
    assert decision.reason_codes == ["SAME", "A", "B"]
    assert decision.queries == [events.Query(field="evidence.a", question="What")]
    assert decision.obligations == [{"log": "it"}]
    blocked = decided(make_policy(*rules, rule("block", "ABSTAIN")), make_request())
    assert (blocked.queries, blocked.obligations) == ([], [{"log": "it"}])


def test_when_says_which_actions_a_rule_is_about(make_policy: MakePolicy, make_request: MakeRequest) -> None:
    policy = make_policy(
        rule("one", "TRUST", more="when: {action_type: support.refund}, "),
        rule("several", "TRUST", more="when: {action_type_in: [support.refund, support.other]}, "),
        rule("other", "ABSTAIN", more="when: {action_type: support.other}, "),
        rule("every", "TRUST"),
    )
    decision = decided(policy, make_request())
    assert [matched.rule_id for matched in decision.matched_rules] == ["one", "several", "every"]


@pytest.mark.parametrize(
    ("evidence", "fires"),
    [
        ({"a": "x", "b": {"c": 1}}, False),
        ({"a": "x", "b": {"c": 0}}, False),
        ({"a": "x", "b": {"c": False}}, False),
        ({"a": "x"}, True),
        ({"a": "", "b": {"c": 1}}, True),
        ({"a": None, "b": {"c": 1}}, True),
        ({"a": "   ", "b": {"c": 1}}, True),
        ({"a": "\u200b\ufeff\u3000", "b": {"c": 1}}, True),
        ({"a": " x ", "b": {"c": 1}}, False),
        ({"a": False, "b": {"c": 0}}, False),
        ({"a": [], "b": {"c": 1}}, True),
        ({"a": "x", "b": {}}, True),
        ({"a": "x", "b.c": 1}, True),
    ],
)
def test_a_requirement_fires_when_evidence_is_missing_or_empty(
    make_policy: MakePolicy, make_request: MakeRequest, evidence: Any, fires: bool
) -> None:
    policy = make_policy(
        rule("needs", "QUERY", "REQUIREMENTS"), more="required_evidence: {support.refund: [a, b.c], a.b: [z]}"
    )
    decision = decided(policy, {**make_request(), "evidence": evidence})
    assert (decision.matched_rules[0].rule_id == "needs") is fires


@pytest.mark.parametrize(
    ("amount", "evidence", "usd"),
    [
        ({"value": 10, "currency": "USD"}, {"fx_rate_to_usd": 5}, 10),
        ({"value": 10, "currency": "EUR"}, {"fx_rate_to_usd": 1.5}, 15.0),
        ({"value": 10, "currency": "EUR"}, {}, None),
        ({"value": 10, "currency": "EUR"}, {"fx_rate_to_usd": "1.5"}, None),
        ({"value": 10, "currency": "EUR"}, {"fx_rate_to_usd": True}, None),
        ({"value": 10, "currency": "usd"}, {}, None),
        ({"value": 10}, {}, None),
        ({"currency": "USD"}, {}, None),
        ({}, {}, None),
    ],
)
def test_the_amount_in_dollars(amount: Any, evidence: Any, usd: Any) -> None:
    request = {"action": {"type": "a.b", "amount": amount}, "evidence": evidence}
    assert amount_usd(request) == usd
    assert amount_usd({"action": {"type": "a.b"}}) is None


@pytest.mark.parametrize(
    ("usd", "bucket"),
    [(None, None), (-1, "small"), (49.99, "small"), (50, "medium"), (199.9, "medium"), (200, "large")],
)
def test_the_amount_bucket(usd: Any, bucket: Any) -> None:
    assert amount_bucket(usd) == bucket


@pytest.mark.parametrize(("tags", "given_"), [([], False), (["damaged"], True)])
def test_no_tags_at_all_are_told_as_not_given(make_policy: MakePolicy, tags: list[str], given_: bool) -> None:
    """D6, D11: no tags at all are an absent value, for who explains as for who decides."""
    policy = Policy.parse(make_policy())
    facts = Facts("a.b", None, None, None, {}, {}, tags, 0.0, 0.0)
    [[look]] = looks_of(policy, policy.document.rules[0], facts)
    assert (look.field, look.given, look.value, look.holds) == ("tags", given_, tags or None, False)


def test_tokens_are_typed(make_request: MakeRequest) -> None:
    def tokens(value: Any) -> list[str]:
        request = {"action": {"type": "a.b"}, "evidence": {"k": value}}
        return [token for token in tokens_of(request, None, ["k"]) if token.startswith("evidence")]

    assert tokens("1") == ['evidence.k="1"']
    assert tokens(1) == tokens(1.0) == ["evidence.k=1"]
    assert tokens(True) == ["evidence.k=true"]
    assert tokens(None) == []
    assert tokens(["b", "a", "b"]) == ['evidence.k[]="a"', 'evidence.k[]="b"']
    assert tokens({"a": 1}) == ['evidence.k={"a":1}']
    assert tokens("x" * 200) == [f"evidence.k=#{digest('x' * 200)}"]
    assert [len(tokens(list(range(count)))) for count in (63, 64, 65)] == [63, 64, 1]
    assert tokens_of(make_request(), 30, ["order.channel", "payment_risk"]) == [
        'action_type="support.refund"',
        'amount_bucket="small"',
        'amount_currency="USD"',
        'evidence.order.channel="web"',
        'evidence.payment_risk="low"',
        'tag="damaged"',
    ]


@pytest.mark.parametrize(
    ("verdict", "remembered", "uncertainty"),
    [
        ("TRUST", NOTHING, 0.2),
        ("QUERY", NOTHING, 0.4),
        ("TRUST", failure_like(7, 20), 0.5),
        ("TRUST", failure_like(349, 1000), 0.2),
        ("QUERY", failure_like(1, 1), 0.7),
    ],
)
def test_uncertainty(
    make_policy: MakePolicy,
    make_request: MakeRequest,
    verdict: str,
    remembered: Remembered,
    uncertainty: float,
) -> None:
    decision = decided(make_policy(rule("r", verdict)), make_request(), remembered)
    assert decision.risk_signals.uncertainty_score == uncertainty


def test_rules_about_uncertainty_see_the_verdict_of_all_others(
    make_policy: MakePolicy, make_request: MakeRequest
) -> None:
    unsure = rule("unsure", "ABSTAIN", "REQUIREMENTS", "if: {risk.uncertainty_gte: 0.4}, ")
    assert decided(make_policy(unsure, rule("fine", "TRUST")), make_request()).verdict == "TRUST"
    decision = decided(make_policy(unsure, rule("ask", "QUERY")), make_request())
    assert decision.verdict == "ABSTAIN"
    assert decision.reason_codes == ["UNSURE", "ASK"]
    assert decision.risk_signals.uncertainty_score == 0.4


def test_a_failure_remembered_changes_the_verdict(make_policy: MakePolicy, make_request: MakeRequest) -> None:
    policy = make_policy(
        rule("fine", "TRUST"), rule("like", "ESCALATE", more="if: {risk.failure_similarity_gte: 0.35}, ")
    )
    assert decided(policy, make_request()).verdict == "TRUST"
    decision = decided(policy, make_request(), failure_like(7, 20))
    assert decision.verdict == "ESCALATE"
    assert decision.risk_signals.failure_similarity.score == 0.35


def test_a_request_can_make_the_mode_stricter_and_never_laxer(
    make_policy: MakePolicy, make_request: MakeRequest
) -> None:
    enforcing = make_policy()
    advisory = enforcing.replace("mode: enforce", "mode: advisory")
    for changes in ({"policy": {"mode": "advisory"}}, {"hints": {"mode": "advisory"}}, {}):
        assert decided(enforcing, make_request(**changes)).policy.mode == "enforce"
        assert decided(advisory, make_request(**changes)).policy.mode == "advisory"
    for changes in ({"policy": {"mode": "enforce"}}, {"hints": {"mode": "enforce"}}):
        assert decided(advisory, make_request(**changes)).policy.mode == "enforce"


@settings(max_examples=20)
@given(st.data())
def test_the_same_inputs_give_the_same_decision(data: st.DataObject) -> None:
    value = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["low", "blocked", "web", ""])
    evidence = data.draw(
        st.dictionaries(st.sampled_from(["ticket_id", "payment_risk", "fraud_score", "order"]), value)
    )
    policy = Policy.load(STARTER_POLICY)
    amount = data.draw(st.integers(0, 3000))
    request: dict[str, Any] = {
        "schema_version": "decision_request.v0",
        "subject": {"type": "agent", "id": "a"},
        "action": {"type": "support.refund", "intent": "x", "amount": {"value": amount}},
        "evidence": evidence,
        "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
    }
    first, second = (
        decide_purely(p, question_of(p, request), NOTHING, None, redaction="default")
        for p in (policy, Policy.parse(policy.text))
    )
    assert first == second
    assert first.reason_codes


def test_the_inputs_digest_is_of_the_request_and_what_was_derived(
    make_policy: MakePolicy, make_request: MakeRequest
) -> None:
    request = make_request()
    derived = {
        "action_type": "support.refund",
        "amount_value": 30,
        "amount_currency": "USD",
        "amount_usd": 30,
        "tokens": [
            'action_type="support.refund"',
            'amount_bucket="small"',
            'amount_currency="USD"',
            'tag="damaged"',
        ],
        "failure_similarity": {"numerator": 1, "denominator": 3},
    }
    decision = decided(make_policy(), request, failure_like(1, 3))
    assert decision.determinism.inputs_digest == digest({"request": request, "derived": derived})
