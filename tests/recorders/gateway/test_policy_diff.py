"""What differs between two policies."""

from __future__ import annotations

from collections.abc import Callable

from tallystick.recorders.gateway.policy import STARTER_POLICY, Policy
from tallystick.recorders.gateway.policy_diff import diff_policies

A = "{id: a, stage: HARD_BLOCKS, if: {tags_is: a}, then: {verdict: ABSTAIN, reason_codes: [A]}}"
B = "{id: b, stage: HARD_BLOCKS, if: {tags_is: b}, then: {verdict: ABSTAIN, reason_codes: [B]}}"
C = "{id: c, stage: ESCALATIONS, if: {tags_is: c}, then: {verdict: ESCALATE, reason_codes: [C]}}"

MakePolicy = Callable[..., str]


def changes(old: str, new: str) -> list[tuple[object, ...]]:
    found = diff_policies(Policy.parse(old), Policy.parse(new))
    return [(one.what, one.part, one.name, one.path, one.old, one.new) for one in found]


def test_a_policy_does_not_differ_from_itself() -> None:
    starter = Policy.load(STARTER_POLICY)
    assert diff_policies(starter, starter) == []


def test_no_difference_if_and_only_if_the_hashes_are_the_same(make_policy: MakePolicy) -> None:
    one, two = Policy.parse(make_policy(A, B)), Policy.parse(make_policy(A, B) + "# more\n")
    assert one.policy_hash == two.policy_hash
    assert diff_policies(one, two) == []
    for text in (make_policy(A), make_policy(B, A), make_policy(A, B, default="ABSTAIN")):
        other = Policy.parse(text)
        assert other.policy_hash != one.policy_hash
        assert diff_policies(one, other)


def test_rules_that_came_went_changed(make_policy: MakePolicy) -> None:
    stricter = B.replace("tags_is: b", "tags_is: b, amount_usd_gt: 5")
    assert changes(make_policy(A, B), make_policy(stricter, C)) == [
        ("added", "rule", "b", "if.amount_usd_gt", None, 5),
        ("added", "rule", "c", "", None, {**_plain(C)}),
        ("removed", "rule", "a", "", {**_plain(A)}, None),
    ]


def test_order_counts_within_a_stage_alone(make_policy: MakePolicy) -> None:
    assert changes(make_policy(A, B, C), make_policy(C, A, B)) == []
    assert [one[:3] for one in changes(make_policy(A, B, C), make_policy(B, A, C))] == [
        ("moved", "rule", "b"),
        ("moved", "rule", "a"),
    ]


def test_true_is_not_one_and_one_is_one(make_policy: MakePolicy) -> None:
    def with_value(value: str) -> str:
        return make_policy(A.replace("tags_is: a", f"evidence.x_is: {value}"))

    assert changes(with_value("1"), with_value("1.0")) == []
    assert changes(with_value("1"), with_value("true")) == [
        ("changed", "rule", "a", "if.evidence.x_is", 1, True)
    ]


def test_the_rest_of_a_policy(make_policy: MakePolicy) -> None:
    old = make_policy(A, more="required_evidence: {support.refund: [x]}")
    new = make_policy(A, default="ABSTAIN", more="required_evidence: {support.refund: [x, y]}")
    assert changes(old, new) == [
        ("changed", "defaults", "", "default_verdict", "ESCALATE", "ABSTAIN"),
        ("changed", "required_evidence", "support.refund", "", ["x"], ["x", "y"]),
    ]


def _plain(rule: str) -> dict[str, object]:
    import yaml

    plain: dict[str, object] = yaml.safe_load(rule)
    return plain
