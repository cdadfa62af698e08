"""`tally replay --html`: the page is written beside what is printed, and replaces nothing unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forging import Forger

from tallystick import Gateway, Ledger, Session
from tallystick.recorders.gateway.policy import STARTER_POLICY

Tally = Callable[..., Any]
REQUEST: dict[str, Any] = {
    "schema_version": "decision_request.v0",
    "subject": {"type": "agent", "id": "refund-bot"},
    "action": {"type": "support.refund", "intent": "Refund", "amount": {"value": 30, "currency": "USD"}},
    "evidence": {},
    "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The default ledger: a session of two actions, and a decision."""
    path = tmp_path / "agents.tally"
    with Ledger.open(path) as ledger:
        with Session.start(ledger, "A chipped mug", "Desk") as session:
            session.record_action("look", "verified")
            session.record_action("refund", "failed", "Pay")
        Gateway(ledger, STARTER_POLICY).decide(REQUEST)
    return path


def test_the_page_is_written_beside_what_is_printed(tally: Tally, desk: Path, tmp_path: Path) -> None:
    plain = tally("replay")
    result = tally("replay", "--html", "report.html")
    assert (result.status, result.out, result.err) == (0, plain.out, "wrote report.html\n")
    page = Path("report.html").read_text("utf-8")
    assert "<strong>MATCH</strong> 7 events" in page
    assert "refund by Pay: failed" in page
    assert tally("replay", "--html", "again.html", "--json").json == tally("replay", "--json").json
    assert Path("again.html").read_text("utf-8") == page
    assert sorted(each.name for each in tmp_path.glob("*.tmp")) == []


def test_a_divergence_is_on_the_page_and_stays_a_finding(tally: Tally, desk: Path) -> None:
    with Forger(desk) as forger:
        forger.put(5, "complete", "derived", "outcome")
    assert tally("replay", "--html", "report.html").status == 1
    page = Path("report.html").read_text("utf-8")
    assert "<mark>partial</mark>" in page
    assert "<mark>complete</mark>" in page


def test_the_page_is_about_what_was_selected(tally: Tally, desk: Path) -> None:
    assert tally("replay", "--range", "3:4", "--html", "report.html").status == 0
    page = Path("report.html").read_text("utf-8")
    assert "tally replay --range 3:4<" in page
    assert [f'id="event-{seq}"' in page for seq in range(1, 8)] == [seq in (3, 4) for seq in range(1, 8)]


def test_a_file_is_replaced_only_if_asked(tally: Tally, desk: Path) -> None:
    Path("report.html").write_text("mine")
    result = tally("replay", "--html", "report.html")
    assert result.status == 2
    assert "report.html exists already" in result.err
    assert Path("report.html").read_text() == "mine"
    assert tally("replay", "--html", "report.html", "--force").status == 0
    assert Path("report.html").read_text("utf-8").startswith("<!doctype html>")


def test_a_ledger_and_what_lies_beside_it_stay(tally: Tally, desk: Path) -> None:
    before = desk.read_bytes()
    for name in ("agents.tally", "agents.tally.views", "agents.tally.head"):
        assert tally("replay", "--html", name, "--force").status == 2
    assert desk.read_bytes() == before


def test_no_page_is_written_if_there_is_nothing_to_tell(tally: Tally, desk: Path) -> None:
    assert tally("replay", "--correlation", "nobody", "--html", "report.html").status == 2
    assert tally("replay", "--session", "nobody", "--html", "report.html").status == 2
    assert not Path("report.html").exists()


def test_a_place_that_cannot_be_written_is_said(tally: Tally, desk: Path) -> None:
    result = tally("replay", "--html", "nowhere/report.html")
    assert result.status == 3
    assert "nowhere/report.html" in result.err
    assert "Traceback" not in result.err


def test_a_pack_has_a_page_too(tally: Tally, desk: Path) -> None:
    [decision] = tally("decisions", "--nl").lines
    assert tally("export", decision["decision_id"], "--pack", "case.zip").status == 0
    result = tally("replay", "case.zip", "--html", "case.html")
    assert (result.status, result.err) == (0, "wrote case.html\n")
    page = Path("case.html").read_text("utf-8")
    assert "support.refund asked for 30 USD: " in page
    assert f"decision {decision['decision_id']}" in page
