"""Decisions whose events were altered: told with exit status 1, never taken for what was decided."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attacker import tamper
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


@pytest.mark.parametrize("seq", [DECISION, LABEL])
def test_a_time_that_no_calendar_has(
    tally: Tally, decision: str, alter: Callable[..., None], seq: int
) -> None:
    """D10: of a decision its record says when it was; of what was said of it, nothing else does."""
    other = json.dumps(refund(40)).encode()
    second = tally("decide", "--in", "-", "--json", stdin=other).json["decision_id"]
    alter(LEDGER, seq, at=9 * 10**18)
    for command in (["show"], ["explain"], ["export"], ["diff", second]):
        result = tally(command[0], decision, *command[1:])
        assert result.status == 1
        assert f"event {seq}" in result.err or command[0] == "diff"
        assert "internal error" not in result.err


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("mem_000000000002", "event 2, the memory.added that decision"),
        ("mem_000000000999", "event 999, the memory.added that decision"),
        *((odd, f"there is no memory item {odd!r}, which it names") for odd in ("mem_", "2", "mem_٢")),
    ],
)
def test_a_pack_takes_in_no_event_for_being_named_as_memory(
    tally: Tally, alter: Callable[..., None], named: str, said: str
) -> None:
    """D11: the second decision found the first one's memory item; event 2 is a policy."""
    again = json.dumps(refund()).encode()
    second = tally("decide", "--in", "-", "--json", stdin=again).json["decision_id"]
    assert '"mem_000000000005"' in body(6)
    alter(LEDGER, 6, body=body(6).replace('"mem_000000000005"', json.dumps(named)).encode())
    result = tally("export", second)
    assert (result.status, result.out) == (1, "")
    assert said in result.err


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
    assert (
        "was altered: its body or salt does not match its body hash; nothing is answered from it"
        in result.err
    )
    with Ledger.open(LEDGER) as ledger:
        head = ledger.head()
        gateway = Gateway(ledger, STARTER_POLICY)
        with pytest.raises(DecisionAltered):
            gateway.add_event(decision, "note", {})
        again = gateway.decide(refund(request_id="r-1"))
        assert (again.verdict, again.reason_codes) == ("ABSTAIN", ["STORAGE_UNAVAILABLE"])
        assert (again.recorded, isinstance(again.cause, DecisionAltered)) == (False, True)
        assert ledger.head() == head


def test_a_label_whose_memory_says_otherwise_is_said_again(
    tally: Tally, decision: str, alter: Callable[..., None]
) -> None:
    """D8: the entry that is there is given again only if it is what memory learned."""
    assert tally("label", decision, "--label", "failure").out.startswith(f"{LABEL}:")
    alter(LEDGER, MEMORY, body=body(MEMORY).replace('"failure"', '"success"').encode())
    assert tally("label", decision, "--label", "failure").out.startswith(f"{MEMORY + 1}:")


def test_an_altered_memory_is_not_judged_by(tally: Tally, alter: Callable[..., None]) -> None:
    alter(LEDGER, MEMORY, body=body(MEMORY).replace('"failure"', '"success"').encode())
    result = tally("decide", "--in", "-", "--json", stdin=json.dumps(refund()).encode())
    assert (result.status, result.json["reason_codes"]) == (1, ["MEMORY_UNAVAILABLE"])
    assert "memory.added, event 5: its body was altered; run `tally verify`" in result.err


def test_a_flipped_verdict_is_answered_to_nobody(
    tally: Tally, decision: str, alter: Callable[..., None]
) -> None:
    """D10: `Gateway.record` refuses what the commands show with a warning."""
    alter(LEDGER, DECISION, body=body(DECISION).replace('"verdict":"TRUST"', '"verdict":"ABSTAIN"').encode())
    with Ledger.open(LEDGER) as ledger:
        gateway = Gateway(ledger, STARTER_POLICY)
        with pytest.raises(DecisionAltered) as caught:
            gateway.record(decision)
        assert caught.value.seq == DECISION
        assert gateway.record(decision, as_stored=True).verdict == "ABSTAIN"


def test_what_was_said_of_it_is_not_answered_altered_either(
    tally: Tally, decision: str, alter: Callable[..., None]
) -> None:
    alter(LEDGER, LABEL, body=body(LABEL).replace('"failure"', '"success"').encode())
    with Ledger.open(LEDGER) as ledger, pytest.raises(DecisionAltered) as caught:
        Gateway(ledger, STARTER_POLICY).record(decision)
    assert caught.value.seq == LABEL


@pytest.mark.parametrize("seq", [DECISION, LABEL])
@pytest.mark.parametrize("options", [[], ["--nl"], ["--json"]])
def test_the_listing_says_which_of_its_rows_were_altered(
    tally: Tally, decision: str, alter: Callable[..., None], seq: int, options: list[str]
) -> None:
    assert tally("decisions", *options).err == ""
    alter(LEDGER, seq, body=body(seq).replace('"v":1', '"v":1 ').encode())
    result = tally("decisions", *options)
    assert (result.status, decision in result.out) == (1, True)
    assert f"tally: event {seq}: its body or salt does not match its body hash; what is listed" in result.err
    assert tally("decisions", "--verdict", "ABSTAIN").status == 0, "it is not listed"


def test_a_decision_that_is_gone_is_remarked_on_in_the_listing(tally: Tally, decision: str) -> None:
    assert tally("decisions").status == 0
    tamper(LEDGER, (f"DELETE FROM events WHERE seq = {DECISION}", ()))
    result = tally("decisions")
    assert result.status == 1
    assert f"event {DECISION} is not in the ledger, and was" in result.err


def test_the_way_out_of_an_altered_memory(tally: Tally, decision: str, alter: Callable[..., None]) -> None:
    """As docs/gateway.md has it: a ledger of the events before the label of the altered item."""
    alter(LEDGER, MEMORY, body=body(MEMORY).replace('"failure"', '"success"').encode())
    stdin = json.dumps(refund()).encode()
    broken = tally("decide", "--in", "-", "--json", stdin=stdin)
    assert broken.json["reason_codes"] == ["MEMORY_UNAVAILABLE"]
    assert "restore a backup, or make a ledger of the events before its label" in broken.err
    assert "which erasing it would hide" in tally("erase", str(MEMORY), "--reason", "x", "--yes").err
    assert tally("export", "--range", f"1:{MEMORY - 2}", "-o", "sound.jsonl").status == 0
    assert tally("import", "sound.jsonl", "restored.tally").status == 0
    assert tally("label", decision, "--label", "failure", "-f", "restored.tally").status == 0
    again = tally("decide", "--in", "-", "--json", "-f", "restored.tally", stdin=stdin)
    assert again.json["reason_codes"] == ["LIKE_AN_EARLIER_FAILURE", "REFUND_SMALL"]
    assert tally("verify", "-f", "restored.tally").status == 0
    assert tally("replay", "-f", "restored.tally").status == 0


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_what_deciding_does_not_notice_verify_and_replay_find(tally: Tally, how: str) -> None:
    """D8: an item that is not in its stream is not there to be looked at."""
    sql = {
        "deleted": f"DELETE FROM events WHERE seq = {MEMORY}",
        "moved": f"UPDATE events SET stream = 'memory:other' WHERE seq = {MEMORY}",
    }
    stdin = json.dumps(refund()).encode()
    assert tally("append", "order.placed", '{"n": 1}').status == 0, "a lost end would be noticed"
    tamper(LEDGER, (sql[how], ()))
    assert tally("decide", "--in", "-", "--json", stdin=stdin).json["verdict"] == "TRUST"
    assert tally("verify").status == 1
    assert tally("replay").status == 1
