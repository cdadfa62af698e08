"""`tally export ID [--pack FILE.zip]`: one decision with what proves it (D11)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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
