"""`tally diff ID1 ID2` (D12)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forging import Forger
from requests_to_decide import refund

from tallystick import Durability, Gateway, Ledger
from tallystick.recorders.gateway.policy import STARTER_POLICY

Tally = Callable[..., Any]


@pytest.fixture
def ids(tmp_path: Path) -> list[str]:
    """Decisions in the default ledger: trusted and failed; like it; the third as the second."""
    with Ledger.open(tmp_path / "agents.tally", durability=Durability.PROCESS) as ledger:
        gateway = Gateway(ledger, STARTER_POLICY)
        first = gateway.decide(refund()).decision_id
        gateway.label(first, "failure", "sent twice")
        return [first, gateway.decide(refund()).decision_id, gateway.decide(refund()).decision_id]


def test_the_first_line_says_what_made_the_difference(tally: Tally, ids: list[str]) -> None:
    result = tally("diff", *ids[:2])
    assert (result.status, result.err) == (1, "")
    answer, _, rest = result.out.partition("\n\n")
    assert " ".join(answer.split()) == (
        "TRUST and ESCALATE: same request; same policy; memory found something else. The memory made the "
        f"difference: {ids[0]} was labelled failure in between."
    )
    titles = [line for line in rest.splitlines() if line and not line.startswith(" ")]
    assert titles == [
        *("The two", "Requests", "Derived from them", "Policies", "Rules", "Memory"),
        *("Tried: the first, with what the second had", "Said since"),
    ]


def test_no_difference(tally: Tally, ids: list[str]) -> None:
    result = tally("diff", *ids[1:])
    assert result.status == 0
    assert result.out.startswith("Both came out ESCALATE for the same reasons; the requests are the same.\n")


def test_as_json(tally: Tally, ids: list[str]) -> None:
    result = tally("diff", *ids[:2], "--json")
    assert result.status == 1
    assert (result.json["causes"], result.json["same_verdict"]) == ([["memory"]], False)
    assert tally("diff", *ids[:2], "--json").out == result.out


def test_as_markdown(tally: Tally, ids: list[str]) -> None:
    result = tally("diff", *ids[:2], "--markdown")
    assert result.out.startswith("# TRUST and ESCALATE: same request; ")
    assert "\n## Memory\n" in result.out
    assert tally("diff", *ids[:2], "--markdown", "--json").status == 2


def test_ids_as_they_are_written(tally: Tally, ids: list[str]) -> None:
    """In any case, without the `dec_`, as a stream, and by the seq of the event."""
    expected = tally("diff", *ids[:2], "--json").out
    with Ledger.open("agents.tally", read_only=True) as ledger:
        seq = next(ledger.read(stream=f"decision:{ids[1]}")).seq
    for name in (ids[1].lower(), ids[1].removeprefix("dec_"), f"decision:{ids[1]}", str(seq)):
        assert tally("diff", ids[0], name, "--json").out == expected


@pytest.mark.parametrize("name", ["dec_", "dec_nothing", "999", "1", "0", "decision:", "", "dec_%"])
def test_what_names_no_decision(tally: Tally, ids: list[str], name: str) -> None:
    result = tally("diff", ids[0], name)
    assert (result.status, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1


def test_the_same_decision_twice(tally: Tally, ids: list[str]) -> None:
    assert "name two decisions" in tally("diff", ids[0], ids[0]).err


def test_packs_need_no_ledger(tally: Tally, ids: list[str]) -> None:
    expected = tally("diff", *ids[:2], "--json").json
    for number, each in enumerate(ids[:2]):
        assert tally("export", each, "--pack", f"{number}.zip").status == 0
    mixed = tally("diff", "0.zip", ids[1], "--json").json
    assert mixed["causes"] == expected["causes"]
    result = tally("-f", "none.tally", "diff", "0.zip", "1.zip", "--json")
    assert (result.status, result.json["causes"]) == (1, [["memory"]])
    assert tally("-f", "none.tally", "diff", *ids[:2]).status == 3


def test_two_records_of_one_decision(tally: Tally, ids: list[str]) -> None:
    """The pack from before, and what the ledger says now: nothing but a comparison shows what was altered."""
    assert tally("export", ids[0], "--pack", "before.zip").status == 0
    result = tally("diff", "before.zip", ids[0])
    assert result.status == 0
    assert "; the requests are the same." in " ".join(result.out.split())
    with Forger(Path("agents.tally")) as forger:
        seq = forger.seq_of("decision.recorded")
        forger.put(seq, "gateway.v1", "derived", "determinism", "engine_version")
        forger.put(seq, "ABSTAIN", "derived", "verdict")
    assert tally("export", ids[0], "--pack", "since.zip").status == 0
    altered = tally("diff", "before.zip", "since.zip", "--json")
    assert altered.status == 1
    assert altered.json["first"]["decision_id"] == altered.json["second"]["decision_id"]
    assert altered.json["second"]["verdict"] == "ABSTAIN" != altered.json["first"]["verdict"]


def test_a_pack_that_is_none(tally: Tally, ids: list[str]) -> None:
    Path("bad.zip").write_bytes(b"PK\x05\x06" + b"x" * 100)
    result = tally("diff", "bad.zip", ids[0])
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert tally("diff", "none.zip", ids[0]).status == 3


def test_an_altered_decision_is_a_finding(tally: Tally, ids: list[str], alter: Callable[..., None]) -> None:
    with Ledger.open("agents.tally", read_only=True) as ledger:
        event = next(ledger.rows(stream=f"decision:{ids[2]}"))
    assert event.body is not None
    alter(Path("agents.tally"), event.seq, body=event.body.replace(b"broken", b"chipped"))
    result = tally("diff", *ids[1:])
    assert result.status == 1
    assert "does not match its own hashes" in " ".join(result.out.split())


def test_what_a_request_says_does_not_reach_the_terminal(tally: Tally, ids: list[str]) -> None:
    odd = refund(action={**refund()["action"], "intent": "\x1b[2J\u202e<script>"})
    with Ledger.open("agents.tally", durability=Durability.PROCESS) as ledger:
        last = Gateway(ledger, STARTER_POLICY).decide(odd).decision_id
    for form in ([], ["--json"], ["--markdown"]):
        out = tally("diff", ids[1], last, *form).out
        assert "\x1b" not in out and "\u202e" not in out
    assert "<script>" not in tally("diff", ids[1], last, "--markdown").out.replace("\\<", "")


def test_no_views_are_made(tally: Tally, ids: list[str], tmp_path: Path) -> None:
    tally("diff", *ids[:2])
    assert not list(tmp_path.glob("*.views*"))
