"""D6: what each op says of each kind of value, the absent ones above all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.recorders.gateway.conditions import Compiled, Facts, compile_condition, same

FACTS = Facts(
    action_type="support.refund",
    amount_value=30,
    amount_currency="EUR",
    amount_usd=33.0,
    evidence={},
    subject={"type": "agent", "id": "a", "roles": ["support", "night"]},
    tags=["damaged", "vip"],
    failure_similarity=0.5,
    uncertainty=0.2,
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(-5, 5)
    | st.sampled_from(["", "a", "b", "1", "true"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)


def holds(key: str, expected: Any, facts: Facts = FACTS, **thresholds: Any) -> bool:
    compiled = compile_condition(key, expected, thresholds)
    assert isinstance(compiled, Compiled), compiled
    answer = compiled.holds(facts)
    assert type(answer) is bool
    return answer


def with_evidence(**evidence: Any) -> Facts:
    return FACTS._replace(evidence=evidence)


@pytest.mark.parametrize(
    "facts",
    [
        with_evidence(),
        with_evidence(x=None),
        with_evidence(x={"z": 1}),
        with_evidence(x=[1]),
        with_evidence(x="y"),
    ],
)
def test_an_absent_value_satisfies_only_ne_not_in_and_present_false(facts: Facts) -> None:
    key = "evidence.x.y" if facts.evidence.get("x") is not None else "evidence.x"
    assert holds(f"{key}_ne", 1, facts)
    assert holds(f"{key}_not_in", [1, 2], facts)
    assert holds(f"{key}_present", False, facts)
    assert not holds(f"{key}_present", True, facts)
    assert not holds(f"{key}_is", 1, facts)
    assert not holds(f"{key}_in", [1, 2], facts)
    for op in ("gt", "gte", "lt", "lte"):
        assert not holds(f"{key}_{op}", 0, facts)


@pytest.mark.parametrize(
    "field", ["amount_value", "amount_usd", "amount_currency", "subject.ip", "tags", "subject.roles"]
)
def test_other_fields_can_be_absent_too(field: str) -> None:
    facts = FACTS._replace(amount_value=None, amount_usd=None, amount_currency=None, subject={}, tags=[])
    expected = 1 if field.startswith("amount_") and field != "amount_currency" else "x"
    assert holds(f"{field}_ne", expected, facts)
    assert holds(f"{field}_not_in", [expected], facts)
    assert holds(f"{field}_present", False, facts)
    assert not holds(f"{field}_is", expected, facts)
    assert not holds(f"{field}_in", [expected], facts)
    assert not holds(f"{field}_lte", 10**9, facts)


@pytest.mark.parametrize("value", ["5", True, False, [5], {"a": 5}, "", "NaN"])
@pytest.mark.parametrize("op", ["gt", "gte", "lt", "lte"])
def test_an_ordering_op_on_what_is_no_number_is_false(op: str, value: Any) -> None:
    assert not holds(f"evidence.x_{op}", 0.5, with_evidence(x=value))
    assert not holds(f"evidence.x_{op}", 10, with_evidence(x=value))


@pytest.mark.parametrize(
    ("op", "answers"),
    [
        ("gt", [False, False, True]),
        ("gte", [False, True, True]),
        ("lt", [True, False, False]),
        ("lte", [True, True, False]),
    ],
)
def test_ordering(op: str, answers: list[bool]) -> None:
    assert [holds(f"evidence.x_{op}", 2, with_evidence(x=x)) for x in (1.5, 2.0, 3)] == answers
    assert [holds(f"amount_usd_{op}", 33, FACTS._replace(amount_usd=x)) for x in (32, 33.0, 33.5)] == answers


@pytest.mark.parametrize(
    ("value", "expected"), [(1, True), (True, 1), ("1", 1), (0, False), ([], False), (1, "1")]
)
def test_equality_is_of_type_and_content(value: Any, expected: Any) -> None:
    assert not holds("evidence.x_is", expected, with_evidence(x=value))
    assert holds("evidence.x_ne", expected, with_evidence(x=value))
    assert not holds("evidence.x_in", [expected], with_evidence(x=value))
    assert holds("evidence.x_not_in", [expected], with_evidence(x=value))


def test_equality_of_numbers_lists_and_objects() -> None:
    assert holds("evidence.x_is", 1, with_evidence(x=1.0))
    assert holds("evidence.x_is", [1, {"a": True}], with_evidence(x=[1.0, {"a": True}]))
    assert not holds("evidence.x_is", [1, {"a": True}], with_evidence(x=[1.0, {"a": 1}]))


def test_nested_evidence() -> None:
    facts = with_evidence(customer={"age": {"days": 3}}, **{"customer.age.days": 500})
    assert holds("evidence.customer.age.days_lt", 14, facts)


def test_the_longest_op_wins() -> None:
    assert holds("evidence.x_not_in", [1], with_evidence(x=2, x_not=1))
    assert holds("evidence.opt_in_is", True, with_evidence(opt_in=True))
    assert isinstance(compile_condition("evidence_is", 1, {}), str)
    assert isinstance(compile_condition("_is", 1, {}), str)


def test_sets_of_words() -> None:
    assert holds("tags_is", "vip")
    assert not holds("tags_is", "new")
    assert holds("tags_is", ["vip", "damaged"])
    assert not holds("tags_is", ["vip"])
    assert holds("tags_ne", ["vip"])
    assert holds("tags_ne", "new")
    assert not holds("tags_ne", "vip")
    assert holds("tags_in", ["new", "vip"])
    assert not holds("tags_in", ["new"])
    assert holds("tags_not_in", ["new"])
    assert not holds("tags_not_in", ["new", "vip"])
    assert holds("tags_present", True)
    assert not holds("tags_gt", 0)
    assert holds("subject.roles_in", ["night"])


def test_subject_and_risk() -> None:
    assert holds("subject.type_is", "agent")
    assert holds("risk.failure_similarity_gte", 0.5)
    assert holds("risk.uncertainty_lt", 0.35)


def test_thresholds() -> None:
    assert holds("amount_usd_gt", "$limit", limit=20)
    assert holds("amount_currency_in", ["$ours", "GBP"], ours="EUR")
    assert holds("evidence.x_is", "$$limit", with_evidence(x="$limit"), limit=20)
    assert "no threshold is named '$limits'" in str(
        compile_condition("amount_usd_gt", "$limits", {"limit": 1})
    )
    assert isinstance(compile_condition("amount_usd_gt", "$ours", {"ours": "EUR"}), str)


@given(JSON, JSON)
def test_each_op_is_the_opposite_of_its_opposite(value: Any, expected: Any) -> None:
    facts = with_evidence(x=value)
    if expected is not None:
        assert holds("evidence.x_is", expected, facts) is not holds("evidence.x_ne", expected, facts)
        assert holds("evidence.x_in", [expected], facts) is holds("evidence.x_is", expected, facts)
        assert holds("evidence.x_in", [expected], facts) is not holds("evidence.x_not_in", [expected], facts)
        assert holds("evidence.x_is", expected, facts) is (value is not None and same(value, expected))
    assert holds("evidence.x_present", True, facts) is (value is not None)


@given(st.text(max_size=30), JSON)
def test_any_key_is_a_condition_or_a_problem(key: str, expected: Any) -> None:
    compiled = compile_condition(key, expected, {})
    assert isinstance(compiled, str) or type(compiled.holds(FACTS)) is bool
