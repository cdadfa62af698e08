"""Two decisions held against each other, and what made the difference, found by trying (contract D12)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from forging import Forger
from hypothesis import given
from hypothesis import strategies as st
from requests_to_decide import refund

from tallystick import (
    AmbiguousPrefix,
    BadSelection,
    DecisionDiff,
    DecisionErased,
    Durability,
    Gateway,
    Ledger,
    MalformedDecision,
    MemoryStore,
    NoSuchId,
    diff_decisions,
)
from tallystick.recorders.gateway.pack import read_pack
from tallystick.recorders.gateway.packing import collect
from tallystick.recorders.gateway.policy import STARTER_POLICY
from tallystick.replay.diff.decisions import diff_packs

TEXT = STARTER_POLICY.read_text("utf-8")
STRICTER = TEXT.replace("refund_alone_max_usd: 50", "refund_alone_max_usd: 10")


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    with Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS) as ledger:
        yield Desk(ledger)


class Desk:
    """A gateway whose policy can be another for a decision."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def decide(self, request: dict[str, Any] | None = None, policy: str = TEXT) -> str:
        return Gateway(self.ledger, policy).decide(request or refund()).decision_id

    def label(self, decision_id: str, label: str = "failure") -> None:
        Gateway(self.ledger, TEXT).label(decision_id, label, "sent twice")

    def diff(self, first: str, second: str) -> DecisionDiff:
        return diff_decisions(self.ledger, first, second)


def first_line(diff: DecisionDiff) -> str:
    return str(diff).partition("\n")[0]


def test_memory_made_the_difference(desk: Desk) -> None:
    first = desk.decide()
    desk.label(first)
    diff = desk.diff(first, desk.decide())
    assert (diff.causes, diff.same_inputs, diff.same_policy, diff.same_verdict) == (
        (("memory",),),
        True,
        True,
        False,
    )
    assert first_line(diff) == (
        "TRUST and ESCALATE: same request; same policy; memory found something else. The memory made the "
        f"difference: {first} was labelled failure in between."
    )
    [item] = diff.memory
    assert (item.decision_id, item.first, item.second, item.between) == (first, None, 1.0, True)
    assert (diff.added, diff.inputs, diff.both) == (1, (), ("refund-small",))
    [rule] = diff.rules
    assert (rule.rule_id, rule.fired_in) == ("like-a-failure", "second")
    [pair] = rule.looks
    assert (pair.first.value, pair.second.value, pair.second.expected) == (0.0, 1.0, 0.75)  # type: ignore[union-attr]
    assert "risk.failure_similarity: 0.0 → 1.0; is at least 0.75 (like_a_failure_from) holds in" in str(diff)


def test_what_both_had_read_was_not_added_in_between(desk: Desk) -> None:
    """The second reads its memory at the very event that added the item."""
    desk.label(desk.decide())
    diff = desk.diff(desk.decide(), desk.decide())
    [item] = diff.memory
    assert (item.first, item.second, item.between, diff.added) == (1.0, 1.0, False, 0)


def test_packs_of_two_ledgers_each_ask_their_own_memory(tmp_path: Path) -> None:
    """The failure of the one ledger stands before what the decision of the other had read."""
    packs = []
    for name, failed in (("a", False), ("b", True)):
        with Ledger.open(tmp_path / name, durability=Durability.PROCESS) as ledger:
            desk = Desk(ledger)
            if failed:
                desk.label(desk.decide())
            else:
                ledger.append_many([{"kind": "app.noted", "body": {}}] * 9)
            packs.append(collect(ledger, desk.decide()))
    diff = diff_packs(*packs)
    assert (diff.untold, diff.causes) == (None, (("memory",),))


def test_the_request_made_the_difference(desk: Desk) -> None:
    other = {**refund(300), "request_id": "r-2", "subject": {"type": "agent", "id": "another-bot"}}
    diff = desk.diff(desk.decide(), desk.decide(other))
    assert (diff.causes, diff.same_inputs) == ((("request",),), False)
    assert [(each.path, each.first, each.second, each.evaluated) for each in diff.inputs] == [
        ("/action/amount/value", 30, 300, True),
        ("/request_id", {"$absent": True}, "r-2", False),
        ("/subject/id", "refund-bot", "another-bot", False),
    ]
    assert first_line(diff).endswith("The request made the difference: /action/amount/value is 300, not 30.")
    assert {rule.rule_id: rule.fired_in for rule in diff.rules} == {
        "refund-small": "first",
        "refund-large": "second",
    }


def test_the_policy_made_the_difference(desk: Desk) -> None:
    diff = desk.diff(desk.decide(), desk.decide(policy=STRICTER))
    assert (diff.causes, diff.same_policy) == ((("policy",),), False)
    [change] = diff.policy_changes
    assert (change.name, change.old, change.new) == ("refund_alone_max_usd", 50, 10)
    assert first_line(diff).endswith("The policy made the difference: threshold refund_alone_max_usd.")


def test_what_of_the_policies_concerns_neither_is_counted(desk: Desk) -> None:
    other = STRICTER.replace("quite_unsure_from: 0.5", "quite_unsure_from: 0.6")
    diff = desk.diff(desk.decide(), desk.decide(policy=other))
    assert ([change.name for change in diff.policy_changes], diff.other_policy_changes) == (
        ["refund_alone_max_usd"],
        1,
    )


def test_either_alone_would_have(desk: Desk) -> None:
    first = desk.decide()
    desk.label(first)
    diff = desk.diff(first, desk.decide(refund(300)))
    assert diff.causes == (("request",), ("memory",))
    assert "The request alone, or the memory alone, would have made the difference" in first_line(diff)


def test_only_both_together(desk: Desk) -> None:
    """The other policy trusts a payment risk that the other request alone has."""
    text = TEXT.replace("evidence.payment_risk_in: [none, low]", "evidence.payment_risk_in: [none, low, odd]")
    request = refund()
    odd = refund(evidence={**request["evidence"], "payment_risk": "odd"})
    diff = desk.diff(desk.decide(refund(300)), desk.decide(odd, policy=text))
    assert diff.causes == (("request", "policy"),)
    assert "The request and the policy together made the difference" in first_line(diff)


def test_the_same_twice(desk: Desk) -> None:
    """Ids and traces make no other request."""
    diff = desk.diff(
        desk.decide(), desk.decide({**refund(), "request_id": "again", "trace": {"correlation_id": "c"}})
    )
    assert (diff.same_verdict, diff.same_inputs, diff.causes, diff.untold) == (True, True, (), None)
    assert first_line(diff) == "Both came out TRUST for the same reasons; the requests are the same."


def test_other_reasons_for_the_same_verdict(desk: Desk) -> None:
    first = desk.decide(refund(300))
    diff = desk.diff(
        first, desk.decide(refund(30, action={**refund(30)["action"], "tags": ["needs_review"]}))
    )
    assert (diff.causes, diff.same_verdict) == ((("request",),), False)
    assert first_line(diff).startswith("Both came out ESCALATE, for other reasons: the requests differ in 2")


def test_only_whether_it_is_enforced(desk: Desk) -> None:
    diff = desk.diff(desk.decide(), desk.decide(policy=TEXT.replace("mode: enforce", "mode: advisory", 1)))
    assert not diff.same_verdict
    assert first_line(diff).startswith("TRUST and TRUST (not enforced): same request; the policies differ")
    assert first_line(diff).endswith("They differ only in whether the verdict is enforced.")


def test_another_action_and_tenant(desk: Desk) -> None:
    credit = refund(tenant={"tenant_id": "bolt"})
    credit["action"] = {**credit["action"], "type": "support.issue_credit"}
    first = desk.decide()
    diff = desk.diff(first, desk.decide(credit))
    assert diff.causes == (("request",),)
    [small] = [rule for rule in diff.rules if rule.rule_id == "refund-small"]
    assert (small.known, small.about) == (True, False)
    assert "it is not about the action of the second" in str(diff)


def test_what_was_said_since(desk: Desk) -> None:
    first, second = desk.decide(), desk.decide()
    desk.label(second, "success")
    diff = desk.diff(first, second)
    assert ([entry.type for entry in diff.second.log], diff.first.log) == (["label"], [])
    assert "second, " in str(diff) and '"label":"success"' in str(diff)


# -- what cannot be told -------------------------------------------------------------------------


def test_what_the_gateway_could_not_decide(desk: Desk, tmp_path: Path) -> None:
    first = desk.decide()
    second = Gateway(desk.ledger, tmp_path / "none.yml").decide(refund()).decision_id
    diff = desk.diff(first, second)
    assert (diff.causes, diff.untold) == ((), "the gateway could not decide the second, and abstained")
    assert "cannot be told: the gateway could not decide the second" in first_line(diff)
    assert diff.second.error is not None


def test_an_erased_decision(desk: Desk) -> None:
    first, second = desk.decide(), desk.decide()
    seq = next(desk.ledger.read(stream=f"decision:{second}")).seq
    desk.ledger.erase(seq, "asked for")
    with pytest.raises(DecisionErased):
        desk.diff(first, second)


def test_an_erased_policy(desk: Desk) -> None:
    first, second = desk.decide(), desk.decide(policy=STRICTER)
    desk.ledger.erase(next(desk.ledger.read(kinds=["policy.registered"])).seq, "asked for")
    assert "policy of the first was erased" in str(desk.diff(first, second).untold)


def test_ids(desk: Desk) -> None:
    first, second = desk.decide(), desk.decide()
    common = next(n for n, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])
    diff = desk.diff(first[: common + 1], second)
    assert diff.first.decision_id == first
    with pytest.raises(AmbiguousPrefix):
        desk.diff(first[:common], second)
    with pytest.raises(NoSuchId):
        desk.diff("dec_nobody", second)
    with pytest.raises(BadSelection, match="both name"):
        desk.diff(first, first)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["derived"].update(verdict="MAYBE"),
        lambda body: body["derived"].update(request={}),
        lambda body: body["derived"]["request"]["action"].update(amount=[]),
        lambda body: 7,
    ],
)
def test_a_malformed_body_is_an_error_with_a_name(desk: Desk, change: Callable[[Any], Any]) -> None:
    first, second = desk.decide(), desk.decide()
    path = desk.ledger.path
    assert path is not None
    desk.ledger.close()
    with Forger(path) as forger:
        forger.change(forger.seq_of("decision.recorded", 1), change)
    with Ledger.open(path, read_only=True) as ledger, pytest.raises(MalformedDecision):
        diff_decisions(ledger, first, second)


def test_a_flipped_verdict_is_not_explained_away(desk: Desk) -> None:
    """The second does not follow from what is recorded of it, so nothing of that made the difference."""
    first, second = desk.decide(), desk.decide(refund(300))
    path = desk.ledger.path
    assert path is not None
    desk.ledger.close()
    with Forger(path) as forger:
        forger.put(forger.seq_of("decision.recorded", 1), "ABSTAIN", "derived", "verdict")
    with Ledger.open(path, read_only=True) as ledger:
        diff = diff_decisions(ledger, first, second)
    assert (diff.causes, diff.untold) == (
        (),
        "the second does not come out again as recorded; see `tally replay`",
    )
    assert not diff.second.altered  # every hash was made anew


# -- packs, and any two --------------------------------------------------------------------------


def test_packs_are_compared_without_the_ledger(desk: Desk) -> None:
    first = desk.decide()
    desk.label(first)
    second = desk.decide()
    packs = [read_pack(collect(desk.ledger, each).to_bytes()) for each in (first, second)]
    diff = diff_packs(*packs)
    # The item that counted is in the second's pack; the first's holds none.
    assert (diff.same_inputs, diff.same_policy, diff.same_verdict) == (True, True, False)
    assert diff.causes == (("memory",),)
    assert diff.memory[0].decision_id == first


def test_packs_of_one_ledger_share_what_they_hold_of_memory(desk: Desk) -> None:
    """What counted for the second would have counted for the first, had it asked the same."""
    for amount in (30, 31, 32, 33, 34):
        desk.label(desk.decide(refund(amount)), "success")
    large = refund(240)
    desk.label(desk.decide(large))
    first, second = desk.decide(refund(30)), desk.decide(large)
    packs = [read_pack(collect(desk.ledger, each).to_bytes()) for each in (first, second)]
    assert desk.diff(first, second).causes == diff_packs(*packs).causes == (("request",),)


AMOUNTS = st.sampled_from([10, 30, 60, 300, 3000])
MADE = st.tuples(AMOUNTS, st.sampled_from([TEXT, STRICTER]), st.sampled_from([None, "failure", "success"]))


@given(st.lists(MADE, min_size=2, max_size=5), st.data())
def test_causes_are_smallest_and_enough(made: list[Any], data: st.DataObject) -> None:
    """D12: with what is named the first comes out as the second, and with any less of it, it does not."""
    with Ledger.over(MemoryStore()) as ledger:
        desk = Desk(ledger)
        ids = []
        for amount, policy, label in made:
            ids.append(desk.decide(refund(amount), policy))
            if label is not None:
                desk.label(ids[-1], label)
        first, second = data.draw(st.permutations(ids))[:2]
        diff = desk.diff(first, second)
        again = desk.diff(first, second)
    assert diff.to_json() == again.to_json()
    assert msgspec.json.decode(diff.to_json())["same_verdict"] is diff.same_verdict
    tried = {what.swapped: (what.verdict, what.reason_codes) for what in diff.what_if}
    assert tried[()] == (diff.first.verdict, diff.first.reason_codes)
    assert tried[("request", "policy", "memory")] == (diff.second.verdict, diff.second.reason_codes)
    whole = diff.first.verdict == diff.second.verdict
    wanted = (diff.second.verdict, diff.second.reason_codes)
    enough = {
        swapped for swapped, found in tried.items() if (found == wanted if whole else found[0] == wanted[0])
    }
    if () in enough:
        assert diff.causes == ()
    else:
        assert diff.causes
        assert set(diff.causes) == {s for s in enough if not any(set(t) < set(s) for t in enough)}
    assert str(diff)
