"""Back-testing what cannot be believed, or is not all there: each decision is counted with its reason."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from forging import Forger
from many_decisions import POLICY, fill
from requests_to_decide import refund

from tallystick import BacktestReport, Durability, Gateway, Ledger, Policy, backtest
from tallystick.recorders.gateway.digests import digest
from tallystick.recorders.gateway.policy import STARTER_POLICY
from tallystick.replay.backtest.backtest import ALTERED, LABEL_ALTERED, NOT_FIRST, REMOVED
from tallystick.replay.layers.decision import MEMORY_ERASED, NOT_EVALUATED

TEXT = STARTER_POLICY.read_text("utf-8")
STRICTER = TEXT.replace("refund_alone_max_usd: 50", "refund_alone_max_usd: 10")
assert STRICTER != TEXT
#: A policy that asks nothing of memory and nothing of the evidence.
PLAIN = """
schema_version: policy.v0
policy_id: plain
policy_version: "1"
defaults: {mode: enforce, default_verdict: ESCALATE, default_reason_code: NO_RULE}
rules:
  - {id: small, stage: TRUST_PATHS, if: {amount_usd_lte: 50}, then: {verdict: TRUST, reason_codes: [SMALL]}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed ledger: a decision that was trusted and failed, and one like it that was escalated."""
    path = tmp_path / "a.tally"
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        gateway = Gateway(ledger, Policy.load(STARTER_POLICY))
        first = gateway.decide(refund())
        gateway.label(first.decision_id, "failure", "sent twice")
        assert (first.verdict, gateway.decide(refund()).verdict) == ("TRUST", "ESCALATE")
    return path


def against(path: Path, policy: str = TEXT) -> BacktestReport:
    with Ledger.open(path, read_only=True) as ledger:
        return backtest(ledger, policy)


def reasons(report: BacktestReport) -> dict[str, int]:
    return {why.reason: why.count for why in report.not_compared}


def test_a_verdict_that_does_not_come_out_again(path: Path) -> None:
    """The engine is another, or the record was altered: said, and the recorded one is compared."""
    with Forger(path) as forger:
        forger.put(forger.seq_of("decision.recorded"), "ABSTAIN", "derived", "verdict")
    report = against(path)
    [divergence] = report.divergences
    assert (divergence.fields, divergence.recorded, divergence.again) == (["verdict"], "ABSTAIN", "TRUST")
    assert (report.diverged, report.changed) == (1, 1)
    assert [(c.old, c.new, c.label) for c in report.changes] == [("ABSTAIN", "TRUST", "failure")]
    assert "1 decision would not come out again as recorded" in str(report)


def test_a_patched_engine(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the order of strength turned round, what was recorded does not come out of its own policy."""
    monkeypatch.setattr(
        "tallystick.recorders.gateway.evaluate.STRENGTH",
        {"ABSTAIN": 0, "QUERY": 1, "ESCALATE": 2, "TRUST": 3},
    )
    report = against(path)
    assert (report.diverged, report.changed) == (1, 1)
    assert report.divergences[0].again == "TRUST"


def test_a_decision_by_another_engine_is_compared_unconfirmed(path: Path) -> None:
    with Forger(path) as forger:
        where = ("derived", "determinism", "engine_version")
        forger.put(forger.seq_of("decision.recorded"), "gateway.v9", *where)
    report = against(path)
    assert (report.compared, report.diverged, report.changed) == (2, 0, 0)
    [why] = report.unconfirmed
    assert "unknown engine 'gateway.v9'" in why.reason
    assert "1 compared as recorded, not decided again under the policy of then" in str(report)


def test_a_policy_that_is_gone(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.erase(next(ledger.read(kinds=["policy.registered"])).seq, "a secret in it")
    report = against(path, STRICTER)
    assert (report.compared, report.changed, report.unconfirmed[0].count) == (2, 1, 2)


def test_an_erased_decision_is_counted(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.erase(next(ledger.read(kinds=["decision.recorded"])).seq, "asked for")
    report = against(path, STRICTER)
    assert (report.decisions, report.compared, reasons(report)) == (2, 1, {"its body was erased": 1})
    assert "1 not compared: its body was erased" in str(report)


def test_memory_that_was_erased(path: Path) -> None:
    """What it had found is recorded, which serves a policy that compares alike, and no other."""
    with Ledger.open(path) as ledger:
        ledger.erase(next(ledger.read(kinds=["memory.added"])).seq, "learned by mistake")
    report = against(path)
    assert (report.compared, report.changed, report.diverged) == (2, 0, 0)
    assert [(why.reason, why.count) for why in report.unconfirmed] == [(MEMORY_ERASED, 1)]
    other = TEXT.replace("order.channel, payment_risk]", "order.channel, payment_risk, ticket_id]")
    report = against(path, other)
    assert (report.compared, reasons(report)) == (1, {MEMORY_ERASED: 1})
    assert against(path, PLAIN).compared == 2


def test_memory_that_was_erased_and_made_no_difference_then(path: Path) -> None:
    """Of six items alike five are named, and the sixth is not missed; by other weights it might have been."""
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        gateway = Gateway(ledger, TEXT)
        for _ in range(5):
            gateway.label(gateway.decide(refund()).decision_id, "failure")
        last = gateway.decide(refund()).receipt
        assert last is not None
        ledger.erase(list(ledger.read(kinds=["memory.added"]))[-1].seq, "asked to")
    assert (against(path).unconfirmed, against(path).compared) == ((), 8)
    other = TEXT.replace("weights: {action_type: 1,", "weights: {action_type: 7,")
    report = against(path, other)
    assert [(why.reason, why.first_seq) for why in report.not_compared] == [(MEMORY_ERASED, last.seq)]


def test_what_the_gateway_could_not_decide_is_kept_apart(path: Path) -> None:
    """No policy would have decided it; the abstention is no verdict of one."""
    with Ledger.open(path) as ledger:
        assert Gateway(ledger, "no-such-policy.yml").decide(refund()).verdict == "ABSTAIN"
    report = against(path, STRICTER)
    assert (report.compared, reasons(report)) == (2, {NOT_EVALUATED: 1})


@pytest.mark.parametrize("profile", ["default", "strict"])
def test_a_redacted_request_is_decided_by_what_is_left(path: Path, profile: str) -> None:
    """D9: only the inline context is ever removed, which no rule can ask about."""
    inline = {"prompt": "secret", "order": 1}
    context = {
        "mode": "inline",
        "inline": inline,
        "digest": digest(inline),
        "redaction": {"profile": profile},
    }
    with Ledger.open(path) as ledger:
        record = Gateway(ledger, TEXT).decide(refund(40, context=context))
        body = next(ledger.read(stream=f"decision:{record.decision_id}")).body
        assert body["derived"]["redacted"]
    report = against(path, STRICTER)
    assert (report.compared, report.not_compared, report.diverged, report.unconfirmed) == (3, (), 0, ())


@pytest.mark.parametrize(
    "gone", ["/evidence/fraud_score", "/evidence/fx_rate_to_usd", "/evidence", "", "/action/amount/value"]
)
def test_a_policy_that_asks_about_what_was_removed_gets_no_answer(path: Path, gone: str) -> None:
    """Nothing says so in silence: an absent value would satisfy some conditions and not others."""
    with Forger(path) as forger:
        forger.put(forger.seq_of("decision.recorded", 1), [gone], "derived", "redacted")
    assert reasons(against(path, TEXT)) == {REMOVED: 1}
    asks = gone != "/evidence/fraud_score"  # this one asks about dollars alone
    assert reasons(against(path, PLAIN)) == ({REMOVED: 1} if asks else {})


def test_an_event_that_does_not_match_its_hashes(path: Path) -> None:
    alter(path, "decision.recorded", '"verdict":"TRUST"', '"verdict":"QUERY"')
    assert reasons(against(path)) == {ALTERED: 1}


def test_a_label_that_does_not_match_its_hashes(path: Path) -> None:
    alter(path, "decision.labeled", "failure", "success")
    assert reasons(against(path)) == {LABEL_ALTERED: 1}


def alter(path: Path, kind: str, old: str, new: str) -> None:
    """Change the bodies of a kind with plain SQL, past the guards in the file."""
    with closing(sqlite3.connect(path)) as con:
        con.execute("DROP TRIGGER events_no_update")
        changed = con.execute(
            "UPDATE events SET body = CAST(replace(CAST(body AS TEXT), ?, ?) AS BLOB) WHERE kind = ?",
            (old, new, kind),
        )
        assert changed.rowcount
        con.commit()


def _set(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(body: Any) -> None:
        *way, last = path
        for step in way:
            body = body[step]
        body[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda body: 7,
        lambda body: {"v": 1},
        _set("derived", "verdict", value="MAYBE"),
        _set("derived", "policy", "mode", value="sometimes"),
        _set("derived", "request", value={}),
        _set("derived", "request", "action", "amount", value=[1]),
        _set("derived", "request", "action", "amount", "value", value=10**400),
        _set("derived", "request", "evidence", value={"fx_rate_to_usd": []}),
        _set("derived", "request", "tenant", value={"tenant_id": ""}),
        _set("derived", "features", "tokens", value=["x"] * 2000),
        _set("derived", "matched_rules", value=[{"rule_id": 1}]),
        _set("derived", "determinism", "memory_snapshot", "seq", value=-5),
        _set("derived", "determinism", "memory_snapshot", "seq", value=10**9),
        _set("derived", "determinism", "memory_snapshot", value=None),
        _set("derived", "risk_signals", "failure_similarity", "denominator", value=0),
        _set("derived", "policy", "policy_hash", value="\x00" * 3000),
        _set("derived", "redacted", value=["no pointer", "/a~9"]),
        _set("observed", "decision_id", value="x" * 100_000),
    ],
)
def test_a_malformed_body_is_counted_and_ends_nothing(path: Path, change: Callable[[Any], Any]) -> None:
    """Whatever the record says, both decisions are in the report."""
    with Forger(path) as forger:
        forger.change(forger.seq_of("decision.recorded"), change)
    for policy in (TEXT, STRICTER, PLAIN):
        report = against(path, policy)
        assert report.decisions == 2
        assert report.compared + sum(why.count for why in report.not_compared) == 2
        assert str(report)
        assert len(report.to_json()) < 20_000


def test_a_policy_in_the_ledger_that_is_a_bomb(path: Path) -> None:
    with Forger(path) as forger:
        bomb = "a: &a [x, x]\n" + "".join(f"{name}: &{name} [*a, *a]\n" for name in "bcdefg")
        forger.put(forger.seq_of("policy.registered"), bomb, "text")
    report = against(path, STRICTER)
    assert (report.compared, report.changed, report.unconfirmed[0].count) == (2, 1, 2)


def test_a_label_that_is_none_counts_for_nothing(path: Path) -> None:
    with Forger(path) as forger:
        forger.put(forger.seq_of("decision.labeled"), "catastrophe", "label")
    assert {cell.label for cell in against(path).cells} == {"none"}


def test_a_second_decision_in_the_same_stream(path: Path) -> None:
    """Whose label would it be?"""
    with Forger(path) as forger:
        first, second = (forger.seq_of("decision.recorded", number) for number in (0, 1))
        forger.replace(second, stream=forger.rows[first - 1].stream)
    assert reasons(against(path)) == {NOT_FIRST: 1}


def test_rules_that_a_ledger_makes_up_are_bounded(path: Path) -> None:
    """Names from outside are cut, and only so many are counted each by itself."""
    rule = {"stage": "ESCALATIONS", "effect": "TRUST", "reason_codes": ["R" * 5000]}
    rules = [{**rule, "rule_id": f"{number}{'x' * 5000}"} for number in range(100)]
    with Forger(path) as forger:
        forger.put(forger.seq_of("decision.recorded"), rules, "derived", "matched_rules")
    report = against(path, STRICTER)
    [change] = report.changes
    assert (len(change.old_rules), max(map(len, change.old_rules))) == (20, 200)
    assert len(report.to_json()) < 20_000


@pytest.mark.slow
def test_a_hundred_thousand_decisions_in_bounded_memory(
    tmp_path: Path, start_worker: Callable[..., Any]
) -> None:
    """Also with a fifth of them labelled, and so remembered."""
    path = tmp_path / "many.tally"
    fill(path, 100_000)
    policy = tmp_path / "new.yml"
    policy.write_text(POLICY.replace("amount_usd_lte: 100", "amount_usd_lte: 80"))
    output, _ = start_worker("peak.py", path, policy).communicate()
    decisions, changed, peak_kib = map(int, output.split())
    assert (decisions, changed > 1000) == (100_000, True)
    assert peak_kib < 100 << 10
