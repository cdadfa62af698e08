"""D5, D6: a policy is compiled, or refused with everything that is wrong with it."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick.recorders.gateway.digests import digest
from tallystick.recorders.gateway.errors import InvalidPolicy, PolicyNotFound
from tallystick.recorders.gateway.policy import Policy
from tallystick.recorders.gateway.yaml_text import read_yaml

Make = Callable[..., str]
THEN = "then: {verdict: TRUST, reason_codes: [OK]}"


def problems(text: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidPolicy) as caught:
        Policy.parse(text)
    return [(problem.rule_id, problem.path) for problem in caught.value.problems]


def test_the_hash_is_of_the_parsed_policy(make_policy: Make) -> None:
    text = make_policy()
    policy = Policy.parse(text)
    assert policy.policy_hash == digest(read_yaml(text))
    assert Policy.parse("# a comment\n" + text) == policy
    assert Policy.parse(text.replace("small", "other")) != policy


def test_all_errors_at_once_each_with_its_rule(make_policy: Make) -> None:
    """D6: an unknown key, op, stage or reason code is a policy error with its rule id, all errors at once."""
    text = make_policy(
        f"{{id: key, stage: TRUST_PATHS, if: {{amount_gbp_gt: 1}}, {THEN}}}",
        f"{{id: op, stage: TRUST_PATHS, if: {{amount_usd_like: 1}}, {THEN}}}",
        f"{{id: stage, stage: LAST, {THEN}}}",
        "{id: code, stage: TRUST_PATHS, then: {verdict: TRUST, reason_codes: [UNHEARD_OF]}}",
        "{id: form, stage: TRUST_PATHS, then: {verdict: TRUST, reason_codes: [no good]}}",
        "{id: gateway, stage: TRUST_PATHS, then: {verdict: TRUST, reason_codes: [STORAGE_UNAVAILABLE]}}",
        f"{{id: twice, stage: TRUST_PATHS, {THEN}}}",
        f"{{id: twice, stage: TRUST_PATHS, {THEN}}}",
        f"{{id: threshold, stage: TRUST_PATHS, if_any: [{{tags_is: a}}, {{amount_usd_lt: $none}}], {THEN}}}",
        f"{{id: type, stage: TRUST_PATHS, if_all: [{{amount_usd_lt: ten, evidence.a_in: b}}], {THEN}}}",
        f"{{id: surprise, stage: TRUST_PATHS, otherwise: 1, {THEN}}}",
        "{id: bare, stage: TRUST_PATHS}",
        f"{{stage: TRUST_PATHS, {THEN}}}",
        more="reason_codes: {OK: fine, NO_RULE: none}",
    )
    assert problems(text) == [
        ("key", "if.amount_gbp_gt"),
        ("op", "if.amount_usd_like"),
        ("stage", "stage"),
        ("code", "then.reason_codes[0]"),
        ("form", "then.reason_codes[0]"),
        ("gateway", "then.reason_codes[0]"),
        ("twice", "id"),
        ("threshold", "if_any[1].amount_usd_lt"),
        ("type", "if_all[0].amount_usd_lt"),
        ("type", "if_all[0].evidence.a_in"),
        ("surprise", "otherwise"),
        ("bare", "then"),
        ("#13", "id"),
    ]


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        (f"{{id: a, stage: DEFAULT, {THEN}}}", "stage"),
        (f"{{id: DEFAULT, stage: TRUST_PATHS, {THEN}}}", "id"),
        (f"{{id: a, stage: TRUST_PATHS, when: {{}}, {THEN}}}", "when"),
        (f"{{id: a, stage: TRUST_PATHS, when: {{action: x.y}}, {THEN}}}", "when.action"),
        (f"{{id: a, stage: TRUST_PATHS, when: {{action_type: Refund}}, {THEN}}}", "when.action_type"),
        (f"{{id: a, stage: TRUST_PATHS, when: {{action_type_in: []}}, {THEN}}}", "when.action_type_in"),
        (f"{{id: a, stage: TRUST_PATHS, when: {{action_type: a.b, action_type_in: [a.b]}}, {THEN}}}", "when"),
        (f"{{id: a, stage: TRUST_PATHS, if: {{}}, {THEN}}}", "if"),
        (f"{{id: a, stage: TRUST_PATHS, if: [], {THEN}}}", "if"),
        (f"{{id: a, stage: TRUST_PATHS, if_any: [], {THEN}}}", "if_any"),
        (f"{{id: a, stage: TRUST_PATHS, if_all: [{{}}], {THEN}}}", "if_all[0]"),
        (f"{{id: a, stage: TRUST_PATHS, if: {{tags_is: a}}, if_any: [{{tags_is: a}}], {THEN}}}", "if_any"),
        (
            f"{{id: a, stage: TRUST_PATHS, if: {{subject.shoe_size_is: 9}}, {THEN}}}",
            "if.subject.shoe_size_is",
        ),
        (f"{{id: a, stage: TRUST_PATHS, if: {{evidence._is: 9}}, {THEN}}}", "if.evidence._is"),
        (f"{{id: a, stage: TRUST_PATHS, if: {{evidence.a..b_is: 9}}, {THEN}}}", "if.evidence.a..b_is"),
        (f"{{id: a, stage: TRUST_PATHS, if: {{evidence.a_is: null}}, {THEN}}}", "if.evidence.a_is"),
        (f"{{id: a, stage: TRUST_PATHS, if: {{evidence.a_present: 1}}, {THEN}}}", "if.evidence.a_present"),
        (f"{{id: a, stage: TRUST_PATHS, if: {{evidence.a_gt: true}}, {THEN}}}", "if.evidence.a_gt"),
        (f"{{id: a, stage: TRUST_PATHS, if: {{evidence.a_not_in: []}}, {THEN}}}", "if.evidence.a_not_in"),
        (f"{{id: a, stage: TRUST_PATHS, if: {{amount_currency_is: 5}}, {THEN}}}", "if.amount_currency_is"),
        (f"{{id: a, stage: TRUST_PATHS, if: {{risk.uncertainty_is: a}}, {THEN}}}", "if.risk.uncertainty_is"),
        ("{id: a, stage: TRUST_PATHS, then: {verdict: MAYBE, reason_codes: [A]}}", "then.verdict"),
        ("{id: a, stage: TRUST_PATHS, then: {verdict: TRUST, reason_codes: []}}", "then.reason_codes"),
        ("{id: a, stage: TRUST_PATHS, then: {verdict: TRUST, reason_codes: A}}", "then.reason_codes"),
        (
            "{id: a, stage: TRUST_PATHS, then: {verdict: TRUST, reason_codes: [A], queries: [a]}}",
            "then.queries[0]",
        ),
        (
            "{id: a, stage: TRUST_PATHS, then: {verdict: TRUST, reason_codes: [A], queries: [{field: a}]}}",
            "then.queries[0].question",
        ),
        (
            "{id: a, stage: TRUST_PATHS, then: {verdict: TRUST, reason_codes: [A], obligations: [{}]}}",
            "then.obligations[0]",
        ),
        ("{id: 7, stage: TRUST_PATHS, then: {verdict: TRUST, reason_codes: [A]}}", "id"),
    ],
)
def test_what_is_wrong_with_a_rule(make_policy: Make, rule: str, path: str) -> None:
    assert [found for _, found in problems(make_policy(rule))] == [path]


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ("surprise: 1", "surprise"),
        ("thresholds: {a: [1]}", "thresholds.a"),
        ("thresholds: {'1a': 1}", "thresholds.1a"),
        ("thresholds: [a]", "thresholds"),
        ("required_evidence: {refund: [a]}", "required_evidence"),
        ("required_evidence: {a.b: [c..d]}", "required_evidence.a.b[0]"),
        ("required_evidence: {a.b: c}", "required_evidence.a.b"),
        ("features: {evidence: ['a=b']}", "features.evidence[0]"),
        ("features: {weights: {tags: 2}}", "features.weights.tags"),
        ("features: {weights: {tag: 0}}", "features.weights.tag"),
        ("features: {weights: {tag: true}}", "features.weights.tag"),
        ("features: {colours: 1}", "features.colours"),
        ("extensions: 1", "extensions"),
    ],
)
def test_what_is_wrong_outside_the_rules(make_policy: Make, more: str, path: str) -> None:
    assert problems(make_policy(more=more)) == [("", path)]


@pytest.mark.parametrize("text", ["", "a", "[]", "{}"])
def test_what_is_no_policy(text: str) -> None:
    assert problems(text)


@pytest.mark.parametrize("version", ["1", "1.0", "true"])
def test_a_version_is_text(make_policy: Make, version: str) -> None:
    assert problems(make_policy().replace('policy_version: "1"', f"policy_version: {version}")) == [
        ("", "policy_version")
    ]


def test_unreadable_yaml_is_an_invalid_policy_with_its_lines(make_policy: Make) -> None:
    text = make_policy(more="thresholds: {a: &x 1, b: *x, c: NO}")
    line = text.splitlines().index("thresholds: {a: &x 1, b: *x, c: NO}") + 1
    assert problems(text) == [("", f"line {line}")] * 3


def test_files(tmp_path: Path, make_policy: Make) -> None:
    path = tmp_path / "p.yaml"
    with pytest.raises(PolicyNotFound, match=r"p\.yaml: cannot be read"):
        Policy.load(path)
    with pytest.raises(PolicyNotFound):
        Policy.load(tmp_path)
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidPolicy, match="UTF-8"):
        Policy.load(path)
    path.write_bytes(b"#" * 300_000)
    with pytest.raises(InvalidPolicy, match="more than"):
        Policy.load(path)
    path.write_text(make_policy())
    assert Policy.load(path) == Policy.parse(make_policy())


def test_errors_survive_copying(make_policy: Make) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        Policy.parse(make_policy(more="surprise: 1\nother: 2"), "p.yaml")
    for error in (copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert str(error).startswith("p.yaml: 2 errors: surprise: unknown key")
        assert error.problems == caught.value.problems
        assert len(error.errors) == 2


def test_the_starter_policy_uses_every_stage_op_and_kind_of_field(starter: Path) -> None:
    policy = Policy.load(starter)
    keys: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            keys.update(value)
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                collect(item)

    raw = read_yaml(starter.read_text("utf-8"))
    collect([rule.get(name) for rule in raw["rules"] for name in ("if", "if_all", "if_any")])
    assert {rule.stage for rule in policy.rules} == {
        "REQUIREMENTS",
        "HARD_BLOCKS",
        "ESCALATIONS",
        "TRUST_PATHS",
    }
    for op in ("is", "ne", "in", "not_in", "gt", "gte", "lt", "lte", "present"):
        assert any(key.endswith(f"_{op}") for key in keys), op
    for field in (
        "amount_value",
        "amount_usd",
        "amount_currency",
        "evidence.",
        "subject.",
        "tags",
        "risk.failure",
    ):
        assert any(key.startswith(field) for key in keys), field
    used = {code for rule in raw["rules"] for code in rule["then"]["reason_codes"]} | {"NO_RULE_APPLIES"}
    assert used == set(raw["reason_codes"])


def test_a_lexical_error_hides_no_other(starter: Path) -> None:
    text = starter.read_text("utf-8").replace("refund_alone_max_usd: 50", "refund_alone_max_usd: 1e999")
    text = text.replace("reason_codes: [MARKED_FOR_REVIEW]", "reason_codes: [MARKED]")
    with pytest.raises(InvalidPolicy) as caught:
        Policy.parse(text)
    first, second = caught.value.problems
    assert first.path.startswith("line ") and "1e999" in first.problem
    assert (second.rule_id, second.path) == ("marked", "then.reason_codes[0]")


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "policy.yml")
    with pytest.raises(PolicyNotFound, match="is a pipe that nothing was written to"):
        Policy.load(tmp_path / "policy.yml")


def test_a_policy_can_come_through_a_pipe(starter: Path) -> None:
    reader, writer = os.pipe()
    with open(writer, "wb") as file:
        file.write(starter.read_bytes())
    with open(reader, "rb"):
        assert Policy.load(f"/dev/fd/{reader}") == Policy.load(starter)
