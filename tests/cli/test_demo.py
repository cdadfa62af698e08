"""The demonstration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tallystick import Head, Ledger, Verdict
from tallystick.cli.demo import demo_events


def test_the_demonstration_finds_the_altered_copy(tally: Callable[..., Any]) -> None:
    result = tally("demo")
    assert result.status == 0
    count = len(demo_events())
    assert f"1. Recorded {count} events of a support desk's day in agents.tally.\n" in result.out
    assert f"2. Verified it: VERIFIED {count + 1} events" in result.out
    assert "refund RF-2206: 89.00 EUR became 890.00 EUR" in result.out
    assert "4. Verified the copy: BROKEN at event 158: edited" in result.out
    assert result.err.endswith("tally show 158   tally verify   tally decisions\n")
    with Ledger.open("agents.tally", read_only=True) as ledger:
        [shown] = [line.strip() for line in result.out.splitlines() if line.strip().startswith("tally1:")]
        assert ledger.verify(Head.parse(shown)).verdict is not Verdict.BROKEN
        assert ledger.get(158).body["amount_cents"] == 8900, "the ledger itself is not altered"
    left = {path.name for path in Path().iterdir()}
    assert left - {"agents.tally-shm", "agents.tally-wal"} == {
        "agents.tally",
        "agents.tally.head",
        "policy.yml",
    }


def test_the_demonstration_leaves_decisions_to_look_at(tally: Callable[..., Any]) -> None:
    """D11: `tally init && tally demo && tally decisions`; once labelled, the next like it escalates (D8)."""
    tally("init")
    shown = tally("demo").out.partition("5. Asked the decision gateway")[2]
    listed = tally("decisions", "--nl").lines
    assert len(listed) == 5 == len(shown.splitlines()) - 1
    assert {each["verdict"] for each in listed} == {"TRUST", "QUERY", "ESCALATE", "ABSTAIN"}
    trusted = next(e for e in listed if e["verdict"] == "TRUST" and e["action_type"] == "support.refund")
    short = trusted["decision_id"][:24]
    assert "REFUND_SMALL" in tally("explain", short).out
    assert tally("label", short, "--label", "failure", "--summary", "paid out twice").status == 0
    request = tally("show", short, "--request").out
    again = tally("decide", "--in", "-", "--json", stdin=request.encode())
    assert (again.status, again.json["verdict"]) == (1, "ESCALATE")
    explained = tally("explain", again.json["decision_id"]).out
    assert "paid out twice" in explained.replace("\n", " ")
    assert tally("export", again.json["decision_id"], "--pack", "case.zip").status == 0
    assert tally("demo").out.partition("5. ")[2] == "Asked the decision gateway" + shown


def test_again_adds_nothing(tally: Callable[..., Any]) -> None:
    tally("demo", "-f", "my demo.tally")
    head = tally("head", "-f", "my demo.tally").out
    again = tally("demo", "-f", "my demo.tally")
    assert "1. Found all 379 events" in again.out
    assert "tally -f 'my demo.tally' show 158" in again.err
    assert tally("head", "-f", "my demo.tally").out == head


def test_an_empty_ledger_will_do_and_no_other(tally: Callable[..., Any]) -> None:
    tally("init")
    assert tally("demo").status == 0
    tally("append", "a.b", "-f", "mine.tally")
    head = tally("head", "-f", "mine.tally").out
    refused = tally("demo", "-f", "mine.tally")
    assert refused.status == 2
    assert "mine.tally holds events of its own" in refused.err
    assert tally("head", "-f", "mine.tally").out == head


def test_after_an_erasure(tally: Callable[..., Any]) -> None:
    tally("demo")
    tally("erase", "20", "--reason", "x", "--yes")
    assert "BROKEN at event 158" in tally("demo").out
    tally("erase", "158", "--reason", "x", "--yes")
    result = tally("demo")
    assert result.status == 0
    assert "was erased from this ledger" in result.err


def test_each_event_has_a_key_of_its_own() -> None:
    keys = [event["key"] for event in demo_events()]
    assert len(set(keys)) == len(keys)
