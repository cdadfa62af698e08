"""Back-testing against a plain model, and what it says of each cell (contract D12)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import (
    BacktestReport,
    BadSelection,
    Gateway,
    InvalidPolicy,
    Ledger,
    MemoryStore,
    PolicyNotFound,
    Where,
    backtest,
)
from tallystick.replay.backtest.report import Change

STRENGTH = ["TRUST", "ESCALATE", "QUERY", "ABSTAIN"]


class Rules(NamedTuple):
    """What a policy of these tests says."""

    fraud: float = 0.9
    alike: float | None = 0.9
    small: int = 100
    default: str = "ESCALATE"
    mode: str = "enforce"
    features: str = ""
    version: str = "1"

    def text(self) -> str:
        alike = "" if self.alike is None else f"{{risk.failure_similarity_gte: {self.alike}}}"
        return f"""
schema_version: policy.v0
policy_id: tested
policy_version: "{self.version}"
defaults: {{mode: {self.mode}, default_verdict: {self.default}, default_reason_code: NO_RULE}}
{self.features}
rules:
  - id: fraud
    stage: HARD_BLOCKS
    if: {{evidence.fraud_gte: {self.fraud}}}
    then: {{verdict: ABSTAIN, reason_codes: [FRAUD], obligations: [{{notify: ops}}]}}
  - id: alike
    stage: ESCALATIONS
    if: {alike or "{tags_is: no_such_tag}"}
    then: {{verdict: ESCALATE, reason_codes: [ALIKE]}}
  - id: small
    stage: TRUST_PATHS
    if: {{amount_usd_lte: {self.small}}}
    then: {{verdict: TRUST, reason_codes: [SMALL]}}
"""

    def verdict(self, asked: Asked, failures: list[set[str]]) -> str:
        """By hand: the strongest of the rules that fire."""
        fired = []
        if asked.fraud >= self.fraud:
            fired.append("ABSTAIN")
        mine = asked.tokens()
        similarity = max((len(mine & each) / len(mine | each) for each in failures), default=0.0)
        if self.alike is not None and similarity >= self.alike:
            fired.append("ESCALATE")
        if asked.amount <= self.small:
            fired.append("TRUST")
        return max(fired or [self.default], key=STRENGTH.index)


class Asked(NamedTuple):
    """A request, as far as the policies look at it."""

    amount: int = 30
    fraud: float = 0.1
    tag: str = "mug"
    action: str = "shop.refund"
    tenant: str = "acme"

    def request(self, **changes: Any) -> dict[str, Any]:
        return {
            "schema_version": "decision_request.v0",
            "tenant": {"tenant_id": self.tenant},
            "subject": {"type": "agent", "id": "bot"},
            "action": {
                "type": self.action,
                "intent": "Refund it",
                "amount": {"value": self.amount, "currency": "USD"},
                "tags": [self.tag],
            },
            "evidence": {"fraud": self.fraud},
            "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
            **changes,
        }

    def tokens(self) -> set[str]:
        bucket = "small" if self.amount < 50 else "medium" if self.amount < 200 else "large"
        return {self.action, "USD", bucket, self.tag}


class Model:
    """Decides and labels through a gateway, and keeps beside it what a plain model needs."""

    def __init__(self, ledger: Ledger, rules: Rules) -> None:
        self.rules = rules
        self.gateway = Gateway(ledger, rules.text())
        #: Of each decision: what was asked, the failures that were known then, its last label.
        self.asked: list[tuple[Asked, list[set[str]]]] = []
        self.labels: dict[int, str] = {}
        self.ids: list[str] = []

    def decide(self, asked: Asked, **changes: Any) -> str:
        failures = [
            self.asked[number][0].tokens()
            for number, label in self.labels.items()
            if label == "failure"
            and (self.asked[number][0].action, self.asked[number][0].tenant) == (asked.action, asked.tenant)
        ]
        record = self.gateway.decide(asked.request(**changes))
        self.asked.append((asked, failures))
        self.ids.append(record.decision_id)
        assert record.verdict == self.rules.verdict(asked, failures)
        return record.decision_id

    def label(self, number: int, label: str) -> None:
        self.gateway.label(self.ids[number], label)
        self.labels[number] = label

    def expected(self, new: Rules) -> list[tuple[str, str, str, str]]:
        """Of each decision: id, verdict then, verdict under the new policy, label."""
        return [
            (
                self.ids[number],
                self.rules.verdict(asked, failures),
                new.verdict(asked, failures),
                self.labels.get(number, "none"),
            )
            for number, (asked, failures) in enumerate(self.asked)
        ]


ASKED = st.builds(
    Asked,
    amount=st.sampled_from([10, 60, 120, 250]),
    fraud=st.sampled_from([0.1, 0.5, 0.95]),
    tag=st.sampled_from(["mug", "lamp"]),
    action=st.sampled_from(["shop.refund", "shop.credit"]),
    tenant=st.sampled_from(["acme", "bolt"]),
)
RULES = st.builds(
    Rules,
    fraud=st.sampled_from([0.4, 0.9]),
    alike=st.sampled_from([None, 0.5, 0.6, 1.0]),
    small=st.sampled_from([5, 50, 100, 200]),
    default=st.sampled_from(["ESCALATE", "QUERY", "TRUST"]),
    mode=st.just("enforce"),
    features=st.just(""),
    version=st.just("1"),
)
STEPS = st.lists(
    ASKED | st.tuples(st.integers(0, 7), st.sampled_from(["failure", "success", "near_miss"])), max_size=14
)


def run(ledger: Ledger, rules: Rules, steps: list[Any]) -> Model:
    model = Model(ledger, rules)
    for step in steps:
        if isinstance(step, Asked):
            model.decide(step)
        elif model.ids:
            model.label(step[0] % len(model.ids), step[1])
    return model


@given(RULES, RULES, STEPS)
def test_as_a_plain_model_says(old: Rules, new: Rules, steps: list[Any]) -> None:
    """D12: every cell, and the decisions behind it, for any decisions, labels and policies."""
    with Ledger.over(MemoryStore()) as ledger:
        model = run(ledger, old, steps)
        report = backtest(ledger, new.text())
        expected = model.expected(new)
    cells = Counter((then, now, label) for _, then, now, label in expected)
    assert {(c.old, c.new, c.label): c.count for c in report.cells} == cells
    changed = [each for each in expected if each[1] != each[2]]
    assert [(c.decision_id, c.old, c.new, c.label) for c in report.changes] == changed
    assert (report.changed, report.compared, report.decisions) == (len(changed), *[len(expected)] * 2)
    stopped = Counter(label for _, then, now, label in changed if then == "TRUST")
    freed = Counter(label for _, then, now, label in changed if now == "TRUST")
    assert (report.stopped, report.let_through) == (stopped, freed)
    assert (report.diverged, report.not_compared, report.unconfirmed) == (0, (), ())


@given(RULES, STEPS)
def test_under_the_same_policy_nothing_changes(rules: Rules, steps: list[Any]) -> None:
    """D12: neither a verdict nor anything else that a decision says."""
    with Ledger.over(MemoryStore()) as ledger:
        model = run(ledger, rules, steps)
        report = backtest(ledger, rules.text())
    assert (report.changed, report.diverged, report.same_verdict, report.changes) == (0, 0, {}, ())
    assert report.compared == len(model.ids)
    assert str(report).startswith(
        f"None of {len(model.ids)} decision" if model.ids else "There is no decision to compare."
    )


# -- what is said of a change --------------------------------------------------------------------


@pytest.fixture
def model() -> Model:
    """A failure and what came of it: 0 and 1 trusted, 0 then labelled; 2 is like it; 3 is large."""
    model = Model(Ledger.over(MemoryStore()), Rules())
    model.decide(Asked())
    model.decide(Asked(amount=60))
    model.label(0, "failure")
    model.label(1, "success")
    model.decide(Asked())
    model.decide(Asked(amount=500))
    return model


def against(model: Model, new: Rules, **options: Any) -> BacktestReport:
    return backtest(model.gateway.ledger, new.text(), **options)


def test_the_headline_is_what_would_be_caught_and_the_price_of_it(model: Model) -> None:
    report = against(model, Rules(small=20))
    assert (report.stopped, report.let_through) == ({"failure": 1, "success": 1}, {})
    lines = str(report).splitlines()
    assert lines[0] == (
        "2 of 4 decisions would change: 2 TRUST → ESCALATE, of them 1 labelled failure, 1 success."
    )
    assert lines[2] == (
        "2 went on and would be stopped: 1 labelled failure (caught), 1 success (the price), 0 near miss, "
        "0 unlabelled."
    )
    assert "  DEFAULT: 2 decisions, of them 1 labelled failure, 1 success" in lines
    assert "  small: 2 decisions, of them 1 labelled failure, 1 success" in lines
    assert f"  {model.ids[0]}  shop.refund 30 USD  “Refund it”  now: DEFAULT" in lines
    assert lines[-1].endswith("is not simulated.")


def test_a_change_says_what_was_asked_and_which_rules_decide(model: Model) -> None:
    [change] = against(model, Rules(alike=None)).changes
    assert change == Change(
        seq=change.seq,
        decision_id=model.ids[2],
        at=change.at,
        old="ESCALATE",
        old_mode="enforce",
        new="TRUST",
        new_mode="enforce",
        label="none",
        action_type="shop.refund",
        tenant_id="acme",
        amount_value=30,
        amount_currency="USD",
        intent="Refund it",
        old_rules=["alike"],
        new_rules=["small"],
        old_reasons=["ALIKE", "SMALL"],
        new_reasons=["SMALL"],
        failure_similarity=(1.0, None),
    )
    report = against(model, Rules(alike=None))
    assert report.behind("ESCALATE", "TRUST") == report.behind("ESCALATE", "TRUST", "none") == (change,)
    assert [(r.side, r.rule_id, r.decisions, r.labels) for r in report.rules] == [
        ("new", "small", 1, {"none": 1}),
        ("old", "alike", 1, {"none": 1}),
    ]


def test_memory_is_as_of_each_decision(model: Model) -> None:
    """D12: the first was made before anything was remembered, and nothing learned later counts for it."""
    report = against(model, Rules(alike=0.5, small=5, default="TRUST"))
    # With what was learned from it, the first would be like a failure: itself.
    assert (report.changed, report.same_verdict["matched_rules"]) == (0, 4)


def test_advisory_verdicts_are_not_enforced(model: Model) -> None:
    """D7: the same verdict is a change where it would no longer stop an action, and only there."""
    report = against(model, Rules(mode="advisory"))
    cells = {(c.old, c.old_mode, c.new, c.new_mode, c.label): c.changed for c in report.cells}
    assert cells == {
        ("ESCALATE", "enforce", "ESCALATE", "advisory", "none"): True,
        ("TRUST", "enforce", "TRUST", "advisory", "failure"): False,
        ("TRUST", "enforce", "TRUST", "advisory", "success"): False,
    }
    assert (report.changed, report.let_through) == (2, {"none": 2})
    assert "2 ESCALATE → ESCALATE*" in str(report)
    # A request that asks for it is bound by the verdict all the same.
    model.decide(Asked(amount=500), hints={"mode": "enforce"})
    assert against(model, Rules(mode="advisory")).changed == 2


def test_other_reasons_for_the_same_verdict_are_counted_apart(model: Model) -> None:
    report = against(model, Rules(alike=0.5, small=20, version="2"), where=Where(verdict=("ESCALATE",)))
    assert (report.changed, report.compared) == (0, 2)
    assert report.same_verdict == {"matched_rules": 2, "reason_codes": 2}


def test_requests_that_ask_for_another_policy(model: Model) -> None:
    """The gateway would abstain from them; they are compared, and that is said."""
    model.decide(Asked(), policy={"policy_version": "1"})
    model.decide(Asked(), policy={"policy_id": "tested"})
    assert against(model, Rules(version="2")).pinned == 1
    assert against(model, Rules()).pinned == 0
    assert "1 of the requests ask for another policy" in str(against(model, Rules(version="2")))


def test_a_policy_with_other_features_asks_memory_as_it_was_recorded(model: Model) -> None:
    """Items keep the tokens that they have: as it would be at first if the policy were put in force."""
    other = Rules(features="features: {evidence: [fraud]}", alike=0.81, version="2")
    [change] = against(model, other).changes
    assert change.decision_id == model.ids[2]
    assert change.failure_similarity == (1.0, 4 / 5)
    # 2 and 3 found something in memory; before, there was nothing to be compared with.
    assert against(model, other).other_features == 2
    assert "by other features than were recorded" in str(against(model, other))


def test_a_bounded_number_of_decisions_of_each_cell(model: Model) -> None:
    for _ in range(3):
        model.decide(Asked(amount=70))
    seen: list[Change] = []
    new = Rules(small=20)
    report = against(model, new, changes_max=1, on_change=seen.append)
    assert [change.decision_id for change in seen] == [*model.ids[:2], *model.ids[4:]]
    assert ([c.label for c in report.changes], report.left_out) == (["failure", "success", "none"], 2)
    assert "… and 2 more" in str(report)
    assert against(model, new, changes_max=0).changes == ()
    assert against(model, new, changes_max=None).left_out == 0
    with pytest.raises(BadSelection, match="changes_max"):
        against(model, new, changes_max=-1)


def test_the_report_is_the_same_every_time(model: Model) -> None:
    first, again = (against(model, Rules(small=20)) for _ in range(2))
    assert first.to_json() == again.to_json()
    assert msgspec.json.decode(first.to_json()) == msgspec.json.decode(msgspec.json.encode(first.to_dict()))
    assert str(first) == str(again)


def test_what_is_appended_meanwhile_is_not_seen(model: Model) -> None:
    """As of the head when it began, labels too."""

    def meddle(change: Change) -> None:
        model.label(0, "near_miss")
        model.decide(Asked())

    before = against(model, Rules(small=20)).to_json()
    assert against(model, Rules(small=20), on_change=meddle).to_json() == before
    assert against(model, Rules(small=20)).to_json() != before


def test_a_policy_that_is_none(tmp_path: Path, model: Model) -> None:
    ledger = model.gateway.ledger
    with pytest.raises(InvalidPolicy):
        backtest(ledger, "rules:\n  - 1\n")
    with pytest.raises(PolicyNotFound):
        backtest(ledger, tmp_path / "none.yml")
    path = tmp_path / "p.yml"
    path.write_text(Rules(small=20).text())
    assert backtest(ledger, path).changed == backtest(ledger, str(path)).changed == 2


# -- which decisions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        (Where(), {0, 1, 2, 3, 4}),
        (Where(verdict=("TRUST",)), {0, 1, 4}),
        (Where(verdict=("TRUST", "ESCALATE")), {0, 1, 2, 3, 4}),
        (Where(verdict=("ABSTAIN",)), set()),
        (Where(tenant=("bolt",)), {4}),
        (Where(action=("shop.*",)), {0, 1, 2, 3, 4}),
        (Where(action=("shop.c*", "x")), {4}),
        (Where(label=("failure", "success")), {0, 1}),
        (Where(label=("none",)), {2, 3, 4}),
        (Where(policy=("tested",)), {0, 1, 2, 3, 4}),
        (Where(policy=("sha256:00",)), set()),
        (Where(mode=("advisory",)), set()),
        (Where(text=("REFUND IT",)), {0, 1, 2, 3, 4}),
        (Where(text=("it went twice",)), {3}),
        (Where(text=("small",), verdict=("ESCALATE",)), {2}),
        (Where(tenant=("acme",), label=("none",), text=("ALIKE",)), {2}),
        (Where(since=1), {0, 1, 2, 3, 4}),
        (Where(until=1), set()),
    ],
)
def test_conditions_hold_together(model: Model, where: Where, numbers: set[int]) -> None:
    model.decide(Asked(action="shop.credit", tenant="bolt"))
    model.gateway.add_event(model.ids[3], "note", {"text": "It went TWICE"})
    seen: list[Change] = []
    new = Rules(default="QUERY", small=0, alike=None, fraud=1)
    report = against(model, new, where=where, on_change=seen.append)
    assert {change.decision_id for change in seen} == {model.ids[number] for number in numbers}
    assert report.decisions == report.compared == len(numbers)


@pytest.mark.parametrize(
    "where",
    [
        Where(verdict=("YES",)),
        Where(label=("bad",)),
        Where(mode=("strict",)),
        Where(tenant=("",)),
        Where(since=2, until=2),
    ],
)
def test_conditions_that_nothing_fits_are_refused(model: Model, where: Where) -> None:
    with pytest.raises(BadSelection):
        against(model, Rules(), where=where)
