"""The demonstration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tallystick import Ledger
from tallystick.cli.demo import demo_events


def test_the_demonstration_finds_the_altered_copy(tally: Callable[..., Any]) -> None:
    result = tally("demo")
    assert result.status == 0
    count = len(demo_events())
    assert f"1. Recorded {count} events of a support desk's day in agents.tally.\n" in result.out
    assert f"2. Verified it: VERIFIED {count + 1} events" in result.out
    assert "refund RF-2206: 89.00 EUR became 890.00 EUR" in result.out
    assert "4. Verified the copy: BROKEN at event 158: edited" in result.out
    assert result.err.endswith("tally log --kind 'refund.*'   tally show 158   tally verify\n")
    with Ledger.open("agents.tally", read_only=True) as ledger:
        assert f"   {ledger.head()}\n" in result.out
        assert ledger.get(158).body["amount_cents"] == 8900, "the ledger itself is not altered"
    left = {path.name for path in Path().iterdir()}
    assert left - {"agents.tally-shm", "agents.tally-wal"} == {"agents.tally", "agents.tally.head"}


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
