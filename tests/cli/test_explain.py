"""`tally explain`: verdict, rule, evidence, what else fired, what is missing, similar cases, policy (D11)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacker import tamper
from requests_to_decide import refund

from tallystick import Ledger

Tally = Callable[..., Any]


@pytest.fixture
def explained(tally: Tally) -> Callable[..., str]:
    """Decide a request and explain the decision, as one line of text a paragraph."""
    tally("init")

    def run(request: dict[str, Any], *options: str, policy: str = "policy.yml") -> str:
        stdin = json.dumps(request).encode()
        record = tally("decide", "--in", "-", "--json", "--policy", policy, stdin=stdin).json
        result = tally("explain", record["decision_id"], *options)
        assert (result.status, result.err) == (0, "")
        return str(result.out)

    return run


def sections(text: str) -> dict[str, str]:
    """Heading to its text, wrapped lines joined."""
    first, *rest = text.split("\n\n")
    parts = {"": first} | dict(part.split("\n", 1) for part in rest)
    return {name: " ".join(part.split()) for name, part in parts.items()}


def test_trust(explained: Callable[..., str]) -> None:
    text = explained(refund())
    told = sections(text)
    assert text.startswith("TRUST: go on.\n")
    assert "agent refund-bot asked for support.refund of 30 USD for acme: “Refund a mug" in told[""]
    assert "refund-small (trust path) says TRUST: REFUND_SMALL, a small refund without" in told["Why"]
    assert "amount_usd is 30, at most 50 (refund_alone_max_usd)" in told["Why"]
    assert "evidence.payment_risk is low, one of none, low" in told["Why"]
    assert told["What the caller has to do"] == "log: refunds"
    assert "support-starter 1, sha256:" in told["Under which policy"]
    assert list(told) == ["", "Why", "What the caller has to do", "Under which policy"]
    assert max(map(len, text.splitlines())) <= 80


def test_query_says_what_is_missing_and_what_else_fired(explained: Callable[..., str]) -> None:
    evidence = {"order": {"id": "O-1", "paid_at": ""}, "payment_risk": "low", "fraud_score": 0.5}
    told = sections(explained(refund(300, evidence=evidence)))
    assert "refund-evidence (requirement) says QUERY" in told["Why"]
    assert "evidence.ticket_id is required, and not given" in told["Why"]
    missing = told["What is missing"]
    assert "evidence.ticket_id: Which ticket asks for this refund?" in missing
    assert "evidence.order.paid_at: When was the order paid?" in missing
    assert "evidence.order.id" not in missing, "it was given"
    assert "refund-large (escalation) says ESCALATE" in told["What else fired"]
    assert "fraud-human (escalation) says ESCALATE" in told["What else fired"]
    assert "evidence.fraud_score is 0.5, at least 0.4 (fraud_human_from)" in told["What else fired"]


def test_no_rule_fired_and_what_kept_it_from_trust(explained: Callable[..., str]) -> None:
    evidence = {**refund()["evidence"], "payment_risk": "high"}
    told = sections(explained(refund(80, evidence=evidence)))
    assert told["Why"].startswith("No rule fired, so the default holds: NO_RULE_APPLIES, no rule of this")
    kept = told["What kept it from TRUST"]
    assert "refund-small would have trusted it, but" in kept
    assert "amount_usd is 80, and would have to be at most 50 (refund_alone_max_usd)" in kept
    assert "evidence.payment_risk is high, and would have to be one of none, low" in kept
    assert "fraud_score" not in kept, "that condition held"
    assert "age_days" not in kept, "of two alternatives the nearer one is told"


def test_similar_cases_with_their_outcome(tally: Tally, explained: Callable[..., str]) -> None:
    explained(refund())
    first = tally("decisions", "--nl").lines[0]["decision_id"]
    tally("label", first, "--label", "failure", "--summary", "The mug was whole")
    told = sections(explained(refund(35)))
    assert "like-a-failure (escalation) says ESCALATE" in told["Why"]
    assert "It decided." in told["Why"]
    assert "risk.failure_similarity is 1, at least 0.75 (like_a_failure_from)" in told["Why"]
    assert "100% alike" in told["Similar past cases"]
    assert "failure, “The mug was whole”. TRUST on 20" in told["Similar past cases"]
    assert first in told["Similar past cases"]
    since = sections(tally("explain", first).out)["What was said of it since"]
    assert since.endswith("UTC, label: failure, “The mug was whole”")


def test_alternatives_that_hold_are_shown_and_no_others(explained: Callable[..., str]) -> None:
    action = {**refund()["action"], "tags": ["legal_hold", "damaged"]}
    told = sections(explained(refund(action=action)))
    assert told["Why"].endswith(
        'It decided. - tags is ["legal_hold","damaged"], one of chargeback, Chargeback, CHARGEBACK, '
        "legal_hold, Legal_Hold, LEGAL_HOLD, legal-hold"
    )


def test_an_amount_without_the_noise_of_binary_fractions(explained: Callable[..., str]) -> None:
    action = {**refund()["action"], "amount": {"value": 18.5, "currency": "EUR"}}
    told = sections(
        explained(refund(action=action, evidence={**refund()["evidence"], "fx_rate_to_usd": 1.09}))
    )
    assert "asked for support.refund of 18.50 EUR for acme" in told[""]
    assert "amount_usd is 20.165, at most 50" in told["Why"]


def test_a_trust_rule_that_was_outweighed_needs_no_excuse(explained: Callable[..., str]) -> None:
    told = sections(explained(refund(action={**refund()["action"], "tags": ["needs_review"]})))
    assert "refund-small (trust path) says TRUST" in told["What would have decided otherwise"]
    assert told["What the caller has to do"] == "log: refunds (of refund-small, which did not decide)"
    assert "What else fired" not in told
    assert "What kept it from TRUST" not in told


def test_advisory_is_said(explained: Callable[..., str]) -> None:
    Path("lax.yml").write_text(Path("policy.yml").read_text().replace("mode: enforce", "mode: advisory"))
    text = explained(refund(300), policy="lax.yml")
    assert text.startswith("ESCALATE: a human must approve it (advisory: not enforced).\n")


def test_a_decision_that_the_gateway_could_not_make(tally: Tally, explained: Callable[..., str]) -> None:
    told = sections(explained(refund(policy={"policy_id": "another"})))
    assert "The gateway could not decide, and so abstained: PolicyNotAsked" in told["Why"]


def test_an_erased_policy_is_said(tally: Tally, explained: Callable[..., str]) -> None:
    explained(refund())
    tally("erase", "2", "--reason", "x", "--yes")
    record = tally("decisions", "--nl").lines[0]
    told = sections(tally("explain", record["decision_id"]).out)
    assert "refund-small (trust path) says TRUST: REFUND_SMALL." in told["Why"]
    assert "The text of the policy was erased" in told["Why"]


def test_markdown_shows_text_as_it_is(explained: Callable[..., str]) -> None:
    intent = "Refund <script>alert(1)</script> [a](http://x) `b` *c* | d\n# e \x1b[31m"
    text = explained(refund(action={**refund()["action"], "intent": intent}), "--markdown")
    assert text.startswith("# TRUST: go on\n\n")
    assert "\n## Why\n\n- refund-small (trust path) says TRUST: REFUND\\_SMALL, " in text
    assert "\n  - amount\\_usd is 30, over 0\n" in text
    assert "\\<script\\>" in text
    assert "\\[a\\](http://x) \\`b\\` \\*c\\* \\| d" in text
    assert "\n# e" not in text
    assert "\x1b" not in text


def test_json(tally: Tally, explained: Callable[..., str]) -> None:
    shown = json.loads(explained(refund(300), "--json"))
    assert (shown["verdict"], shown["enforced"], shown["error"]) == ("ESCALATE", True, None)
    [rule] = shown["decided"]
    assert rule["rule_id"] == "refund-large"
    assert rule["looks"] == [
        {
            "field": "amount_usd",
            "op": "gt",
            "expected": 250,
            "threshold": "refund_human_over_usd",
            "given": True,
            "value": 300,
            "holds": True,
        }
    ]
    assert [each["rule_id"] for each in shown["almost"]] == ["refund-small"]
    decision = shown["decision_id"]
    assert tally("explain", decision, "--json", "--markdown").status == 2


def test_on_a_narrow_terminal(
    terminal: Callable[..., tuple[int, str]], explained: Callable[..., str]
) -> None:
    intent = "Refund \x1b[2J" + "word " * 60
    explained(refund(300, action={**refund(300)["action"], "intent": intent}))
    status, shown = terminal("explain", "dec_0", NO_COLOR="1", columns=50)
    assert status == 0
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 50


def test_an_altered_decision_is_not_told_with_a_straight_face(
    tally: Tally, explained: Callable[..., str], alter: Callable[..., None]
) -> None:
    explained(refund(300))
    decision = tally("decisions", "--nl").lines[0]["decision_id"]
    with Ledger.open("agents.tally", read_only=True) as ledger:
        rows = {row.kind: row for row in ledger.rows()}
    recorded, registered = rows["decision.recorded"], rows["policy.registered"]
    assert recorded.body is not None and registered.body is not None
    alter(Path("agents.tally"), recorded.seq, body=recorded.body.replace(b"ESCALATE", b"TRUST"))
    for command in (["explain", decision], ["explain", decision, "--json"], ["show", decision]):
        result = tally(*command)
        assert result.status == 1
        problem = f"event {recorded.seq}: its body or salt does not match its body hash"
        assert problem in result.err
    assert problem in tally("explain", decision, "--json").json["altered"][0]
    assert tally("explain", decision, "--markdown").out.startswith(f"> **Altered:** {problem}; ")
    alter(Path("agents.tally"), recorded.seq, body=recorded.body)
    assert tally("explain", decision).status == 0
    alter(Path("agents.tally"), registered.seq, body=registered.body.replace(b"_usd: 250", b"_usd: 299"))
    result = tally("explain", decision)
    assert result.status == 1
    assert f"event {registered.seq}: its body or salt does not match" in result.err


@pytest.fixture
def with_a_case(tally: Tally, explained: Callable[..., str]) -> tuple[str, int]:
    """The id of a decision that was made with one similar case, and the seq of the memory of that."""
    explained(refund())
    memory_seq = tally("label", "3", "--label", "failure", "--json").json["memory_seq"]
    explained(refund(35))
    return tally("decisions", "--nl").lines[0]["decision_id"], memory_seq


def test_a_case_whose_memory_was_erased_is_told_from_one_whose_decision_was(
    tally: Tally, with_a_case: tuple[str, int]
) -> None:
    decision, memory_seq = with_a_case
    assert tally("erase", "3", "--reason", "x", "--yes").status == 0
    result = tally("explain", decision)
    assert (result.status, result.err) == (0, "")
    assert sections(result.out)["Similar past cases"].endswith("Its decision was erased since.")
    assert tally("erase", str(memory_seq), "--reason", "x", "--yes").status == 0
    result = tally("explain", decision)
    assert (result.status, result.err) == (0, "")
    assert sections(result.out)["Similar past cases"].endswith("What was learned from it was erased since.")


@pytest.mark.parametrize("how", ["junk", "label", "emptied", "deleted"])
def test_a_case_whose_memory_is_not_what_it_was_is_remarked_on(
    tally: Tally, with_a_case: tuple[str, int], alter: Callable[..., None], how: str
) -> None:
    decision, seq = with_a_case
    ledger = Path("agents.tally")
    if how == "deleted":
        tamper(ledger, ("DELETE FROM events WHERE seq = ?", (seq,)))
    elif how == "emptied":
        tamper(ledger, ("UPDATE events SET body = NULL, salt = NULL WHERE seq = ?", (seq,)))
    elif how == "label":
        with Ledger.open(ledger, read_only=True) as opened:
            body = next(opened.rows(seq - 1)).body
        assert body is not None
        alter(ledger, seq, body=body.replace(b"failure", b"success"))
    else:
        alter(ledger, seq, body=b"junk")
    result = tally("explain", decision)
    assert result.status == 1
    assert f"tally: event {seq}" in result.err
    told = sections(result.out)["Similar past cases"]
    state = "missing" if how == "deleted" else "altered"
    assert f"What was learned from it {'is' if how == 'deleted' else 'was'} {state}" in told
    assert tally("explain", decision, "--json").json["similar"][0]["learned"] == state
