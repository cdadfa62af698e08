"""Decisions whose events were altered: told with exit status 1, never taken for what was decided."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from requests_to_decide import refund

from tallystick import DecisionAltered, Gateway, Ledger
from tallystick.recorders.gateway.policy import STARTER_POLICY

Tally = Callable[..., Any]
LEDGER = Path("agents.tally")
#: The events of the ledger: created, policy, decision, label, memory.
POLICY, DECISION, LABEL, MEMORY = 2, 3, 4, 5


@pytest.fixture(autouse=True)
def decision(tally: Tally) -> str:
    tally("init")
    stdin = json.dumps(refund(request_id="r-1")).encode()
    decision_id = tally("decide", "--in", "-", "--json", stdin=stdin).json["decision_id"]
    assert tally("label", decision_id, "--label", "failure").status == 0
    return str(decision_id)


def body(seq: int) -> str:
    with closing(sqlite3.connect(LEDGER)) as con:
        return str(con.execute("SELECT body FROM events WHERE seq = ?", (seq,)).fetchone()[0].decode())


ODD = ["no JSON", "[]", '"x"', "null", "{}", '{"v":1}', "[" * 2000 + "]" * 2000]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:8])
@pytest.mark.parametrize("seq", [POLICY, DECISION, LABEL])
def test_bodies_beyond_reading_are_named(
    tally: Tally, decision: str, alter: Callable[..., None], seq: int, odd: str
) -> None:
    alter(LEDGER, seq, body=odd.encode())
    for command in (
        ["show", decision],
        ["show", decision, "--json"],
        ["explain", decision],
        ["export", decision],
    ):
        result = tally(*command)
        assert result.status == 1
        assert f"event {seq}" in result.err
        assert result.err.endswith("run `tally verify`\n")
    labelled = tally("label", str(DECISION), "--label", "success")
    assert labelled.status == (0 if seq == POLICY else 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"verdict":"TRUST"', '"verdict":"MAYBE"'),
        ('"subject":', '"who":'),
        ('"type":"support.refund"', '"type":"No Type"'),
        ('"score":0.0', '"score":"x"'),
    ],
)
def test_records_that_are_none_are_named(
    tally: Tally, decision: str, alter: Callable[..., None], old: str, new: str
) -> None:
    assert old in body(DECISION)
    alter(LEDGER, DECISION, body=body(DECISION).replace(old, new).encode())
    for command in (["show", "--json"], ["explain"], ["export"], ["label", "--label", "success"]):
        result = tally(command[0], decision, *command[1:])
        assert (result.status, result.out) == (1, "")
        assert "run `tally verify`" in result.err


def test_a_policy_that_became_another_is_not_explained_from(
    tally: Tally, decision: str, alter: Callable[..., None]
) -> None:
    registered = json.loads(body(POLICY))
    alter(LEDGER, POLICY, body=json.dumps({**registered, "text": "rules: 5"}).encode())
    result = tally("explain", decision)
    assert result.status == 1
    assert "event 2: its body or salt does not match its body hash" in result.err
    assert "the recorded policy cannot be read: policy: " in result.err
    assert "what the rules looked at cannot be told" in " ".join(result.out.split())


def test_nothing_is_learned_or_answered_from_an_altered_decision(
    tally: Tally, decision: str, alter: Callable[..., None]
) -> None:
    """D1, D2, D8: neither memory nor a repeated request takes the altered verdict or tenant for real."""
    alter(LEDGER, DECISION, body=body(DECISION).replace('"acme"', '"bolt"').encode())
    result = tally("label", decision, "--label", "failure", "--summary", "poison")
    assert (result.status, result.out) == (1, "")
    assert "was altered: its body or salt does not match its body hash; nothing was recorded" in result.err
    with Ledger.open(LEDGER) as ledger:
        head = ledger.head()
        gateway = Gateway(ledger, STARTER_POLICY)
        with pytest.raises(DecisionAltered):
            gateway.add_event(decision, "note", {})
        again = gateway.decide(refund(request_id="r-1"))
        assert (again.verdict, again.reason_codes) == ("ABSTAIN", ["STORAGE_UNAVAILABLE"])
        assert (again.recorded, isinstance(again.cause, DecisionAltered)) == (False, True)
        assert ledger.head() == head


def test_an_altered_memory_is_not_judged_by(tally: Tally, alter: Callable[..., None]) -> None:
    alter(LEDGER, MEMORY, body=body(MEMORY).replace('"failure"', '"success"').encode())
    result = tally("decide", "--in", "-", "--json", stdin=json.dumps(refund()).encode())
    assert (result.status, result.json["reason_codes"]) == (1, ["MEMORY_UNAVAILABLE"])
    assert "memory.added, event 5: its body was altered; run `tally verify`" in result.err
