"""`tally export ID [--pack FILE.zip]`: one decision with what proves it (D11)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacker import tamper
from requests_to_decide import refund

from tallystick.recorders.gateway.pack import check_pack, read_pack

Tally = Callable[..., Any]


@pytest.fixture
def decision(tally: Tally) -> str:
    tally("init")
    record = tally("decide", "--in", "-", "--json", stdin=json.dumps(refund()).encode()).json
    return str(record["decision_id"])


def test_a_pack(tally: Tally, decision: str) -> None:
    result = tally("export", decision[:12], "--pack", "case.zip")
    assert result == (0, "", f"case.zip: decision {decision}, 3 events\n")
    pack = read_pack(Path("case.zip").read_bytes())
    assert pack.record.decision_id == decision
    assert check_pack(pack) == []
    before = Path("case.zip").read_bytes()
    assert tally("export", decision, "--pack", "case.zip").status == 2, "it is there already"
    assert tally("export", decision, "--pack", "case.zip", "--force").status == 0
    assert Path("case.zip").read_bytes() == before
    assert [path.name for path in Path().glob("*.tmp")] == []


def test_a_pack_on_stdout(
    process: Callable[..., Any], terminal: Callable[..., tuple[int, str]], tally: Tally, decision: str
) -> None:
    tally("export", decision, "--pack", "case.zip")
    out, err = process("export", decision, "--pack", "-").communicate(timeout=60)
    assert (out, err) == (Path("case.zip").read_bytes(), b"")
    status, shown = terminal("export", decision, "--pack", "-")
    assert status == 2
    assert shown.startswith("tally: a pack is no text for a terminal; name a file, or pipe it")
    assert not Path("-").exists()


def test_one_whose_events_were_altered_is_exported_and_remarked_on(
    tally: Tally, decision: str, alter: Callable[..., None]
) -> None:
    alter(Path("agents.tally"), 3, at=5)
    for options in ([], ["--pack", "case.zip"]):
        result = tally("export", decision, *options)
        assert result.status == 1
        problem = "event 3: its columns do not match its hash; it is exported as it is stored"
        assert f"tally: {problem}: run `tally verify`\n" in result.err
    assert tally("replay", "case.zip").status == 1


def test_one_document(tally: Tally, decision: str) -> None:
    document = tally("export", decision).json
    assert list(document) == ["record", "request", "policy", "events", "head"]
    assert document["record"]["decision_id"] == decision
    assert document["request"] == refund()
    assert document["policy"] == Path("policy.yml").read_text()
    assert [event["kind"] for event in document["events"]] == [
        *("ledger.created", "policy.registered", "decision.recorded")
    ]
    assert document["head"] == tally("head").out.strip()
    assert tally("export", decision, "-o", "case.json").status == 0
    assert json.loads(Path("case.json").read_text()) == document


def test_usage(tally: Tally, decision: str) -> None:
    assert tally("export", "--pack", "case.zip").status == 2
    assert tally("export", decision, "--range", "1:2").status == 2
    assert tally("export", decision, "--pack", "a.zip", "-o", "b.zip").status == 2
    assert "is a database, and stays" in tally("export", decision, "--pack", "agents.tally").err
    assert tally("export", decision, "--pack", "none/case.zip").status == 3
    assert not Path("case.zip").exists()


def test_without_an_id_it_is_the_log_as_before(tally: Tally, decision: str) -> None:
    assert [line["seq"] for line in tally("export").lines] == [1, 2, 3]


@pytest.fixture
def like_a_failure(tally: Tally, decision: str) -> int:
    """The seq of a decision that was made with one failure remembered, by event 5."""
    assert tally("label", decision, "--label", "failure", "--json").json["memory_seq"] == 5
    record = tally("decide", "--in", "-", "--json", stdin=json.dumps(refund()).encode()).json
    assert record["reason_codes"] == ["LIKE_AN_EARLIER_FAILURE", "REFUND_SMALL"]
    return 6


def test_what_was_erased_since_is_no_divergence_in_a_pack(tally: Tally, like_a_failure: int) -> None:
    """D11, D12: the record of the erasure goes along, and a replay says what cannot be derived again."""
    assert tally("erase", "5", "--reason", "learned by mistake", "--yes").status == 0
    assert tally("export", str(like_a_failure), "--pack", "case.zip").status == 0
    pack = read_pack(Path("case.zip").read_bytes())
    assert [(row.seq, row.kind) for row in pack.rows if row.seq > 4] == [
        *((5, "memory.added"), (6, "decision.recorded"), (7, "ledger.body_erased"))
    ]
    assert "Erased since\n  The bodies of these events: 5." in pack.readme_text()
    replayed = tally("replay", "case.zip", "--json")
    assert replayed.status == 0
    assert "something that it was decided with was erased from memory since" in replayed.out
    assert tally("replay").status == 0
    tally("incident", "--decision", str(like_a_failure), "-o", "case")
    [packed] = Path("case/packs").iterdir()
    assert read_pack(packed.read_bytes()).rows == pack.rows


def test_an_erasure_without_its_record_is_one(tally: Tally, like_a_failure: int) -> None:
    tamper(Path("agents.tally"), ("UPDATE events SET body = NULL, salt = NULL WHERE seq = 5", ()))
    assert tally("export", str(like_a_failure), "--pack", "case.zip").status == 0
    assert tally("replay", "case.zip").status == 1


def test_a_memory_item_that_is_gone_is_named(tally: Tally, like_a_failure: int) -> None:
    tamper(Path("agents.tally"), ("DELETE FROM events WHERE seq = 5", ()))
    for options in ([], ["--pack", "case.zip"]):
        result = tally("export", str(like_a_failure), *options)
        assert (result.status, result.out) == (1, "")
        assert "event 5, the memory.added that decision dec_" in result.err
        assert result.err.endswith("names, is not in the ledger; run `tally verify`\n")
    assert not Path("case.zip").exists()
    tally("incident", "--decision", str(like_a_failure), "-o", "case")
    assert "no pack of event 6: event 5, the memory.added" in Path("case/summary.json").read_text()


def test_the_first_event_that_is_gone_is_named(tally: Tally, like_a_failure: int) -> None:
    from tallystick import Ledger
    from tallystick.recorders.gateway.errors import EventMissing
    from tallystick.recorders.gateway.packing import collect

    with Ledger.open("agents.tally") as ledger:
        decision_id = ledger.get(like_a_failure).stream.partition(":")[2]
        tamper(Path("agents.tally"), ("DELETE FROM events WHERE seq = 1", ()))
        with pytest.raises(EventMissing, match=r"event 1, the ledger\.created"):
            collect(ledger, decision_id)
