"""`tally decisions`, `show ID`, `label` and ids by unique prefix (D10, D11)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from requests_to_decide import refund

from tallystick import Gateway, Ledger
from tallystick.recorders.gateway.policy import STARTER_POLICY

Tally = Callable[..., Any]
DAY_US = 86_400_000_000
START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


class Clock:
    def __init__(self) -> None:
        self.now = START_US - DAY_US

    def __call__(self) -> int:
        self.now += DAY_US
        return self.now


@pytest.fixture
def ids() -> list[str]:
    """Decisions of five days from 2026-01-01: TRUST twice, ESCALATE, ABSTAIN, QUERY for the tenant bolt."""
    bolt = {"tenant_id": "bolt"}
    close = {"type": "support.close_ticket", "intent": "Close 100%_done"}
    requests = [
        refund(),
        refund(20, action={**close}, evidence={"ticket_id": "T-9", "resolution": "Zebra returned"}),
        refund(300),
        refund(5000),
        refund(evidence=None, tenant=bolt),
    ]
    with Ledger.open("agents.tally") as ledger:
        gateway = Gateway(ledger, STARTER_POLICY, clock=Clock())
        return [gateway.decide(request).decision_id for request in requests]


def test_newest_first_in_tab_separated_columns(tally: Tally, ids: list[str]) -> None:
    result = tally("decisions")
    rows = [line.split("\t") for line in result.out.splitlines()]
    assert [row[0] for row in rows] == ids[::-1]
    assert rows[2] == [
        *(ids[2], "2026-01-03 00:00:00.000Z", "ESCALATE", "acme", "support.refund", "300 USD", ""),
        *("REFUND_LARGE", "Refund a mug that arrived broken", "enforce"),
    ]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--verdict", "trust"], [1, 0]),
        (["--verdict", "QUERY", "--verdict", "ABSTAIN"], [4, 3]),
        (["--tenant", "bolt"], [4]),
        (["--tenant", "bol"], []),
        (["--action", "support.refund"], [4, 3, 2, 0]),
        (["--action", "support.c*"], [1]),
        (["--since", "2026-01-03T00:00Z"], [4, 3, 2]),
        (["--until", "2026-01-03T00:00Z"], [1, 0]),
        (["--since", "2026-01-02T00:00Z", "--until", "2026-01-03T00:00Z"], [1]),
        (["--text", "zebra"], [1]),
        (["--text", "100%_DONE"], [1]),
        (["--text", "0%0"], []),
        (["--text", "REFUND_LARGE"], [3, 2]),
        (["--text", "refund-never"], [3]),
        (["--label", "none", "--tenant", "acme", "--verdict", "TRUST"], [1, 0]),
        (["--verdict", "TRUST", "-n", "1"], [1]),
    ],
)
def test_filters(tally: Tally, ids: list[str], arguments: list[str], found: list[int]) -> None:
    assert [ids.index(line["decision_id"]) for line in tally("decisions", "--nl", *arguments).lines] == found


def test_what_was_said_since_is_found(tally: Tally, ids: list[str]) -> None:
    tally("label", ids[0], "--label", "near_miss", "--summary", "the parcel came back")
    for arguments in (["--text", "PARCEL"], ["--label", "near_miss"]):
        [found] = tally("decisions", "--json", *arguments).json
        assert (found["decision_id"], found["label"], found["labels"]) == (ids[0], "near_miss", 1)
    assert found["reason_codes"] == ["REFUND_SMALL"]
    assert found["time"] == "2026-01-01T00:00:00.000Z"


def test_usage(tally: Tally, ids: list[str]) -> None:
    assert ids
    assert tally("decisions", "--json", "--nl").status == 2
    assert tally("decisions", "--since", "2026-02-01", "--until", "2026-01-01").status == 2
    assert tally("decisions", "--verdict", "MAYBE").status == 2
    assert tally("decisions", "-f", "none.tally").status == 3


def test_an_empty_listing(tally: Tally) -> None:
    tally("init")
    assert tally("decisions")[:2] == (0, "")
    assert tally("decisions", "--json").json == []


def test_on_a_terminal_ids_are_as_long_as_needed(
    terminal: Callable[..., tuple[int, str]], tally: Tally, ids: list[str]
) -> None:
    status, shown = terminal("decisions", NO_COLOR="1")
    assert status == 0
    heading, *rows = shown.splitlines()
    assert heading.split() == ["id", "time", "(UTC)", "verdict", "action", "amount", "intent"]
    assert all(len(line) <= 80 for line in shown.splitlines())
    for row, whole in zip(rows, ids[::-1], strict=True):
        short = row.split()[0]
        assert whole.startswith(short)
        assert tally("show", short, "--json").json["decision_id"] == whole
    wide = terminal("decisions", NO_COLOR="1", columns=140)[1].splitlines()[0].split()
    assert wide == ["id", "time", "(UTC)", "verdict", "tenant", "action", "amount", "intent"]


# -- ids -----------------------------------------------------------------------------------


def test_an_id_by_any_unique_beginning_in_any_case(tally: Tally, ids: list[str]) -> None:
    whole = ids[2]
    for text in (whole, whole.lower(), f"decision:{whole}", whole[:14]):
        assert tally("show", text, "--json").json["decision_id"] == whole
    assert tally("explain", whole.removeprefix("dec_"), "--json").json["decision_id"] == whole


@pytest.mark.parametrize("command", [["show"], ["explain"], ["label", "--label", "failure"], ["export"]])
def test_an_ambiguous_beginning_is_refused_with_the_candidates(
    tally: Tally, ids: list[str], command: list[str]
) -> None:
    result = tally(command[0], "dec_0", *command[1:])
    assert (result.status, result.out) == (2, "")
    assert "begins several ids" in result.err
    assert ids[0] in result.err
    unknown = tally(command[0], "dec_ZZZ", *command[1:])
    assert (unknown.status, unknown.out) == (2, "")
    assert "no decision 'dec_ZZZ' in this ledger; `tally decisions` lists them" in unknown.err


@pytest.mark.parametrize("nothing", ["", "dec_", "decision:dec_"])
def test_the_beginning_of_every_id_is_none(tally: Tally, nothing: str) -> None:
    """The only decision of a ledger is not labelled because a script's variable was empty."""
    with Ledger.open("agents.tally") as ledger:
        Gateway(ledger, STARTER_POLICY).decide(refund())
        head = ledger.head()
    assert tally("label", nothing, "--label", "failure").status == 2
    assert tally("explain", nothing).status == 2
    assert tally("show", nothing).status == 2
    with Ledger.open("agents.tally", read_only=True) as ledger:
        assert ledger.head() == head


# -- show ----------------------------------------------------------------------------------


def test_show_prints_where_it_stands_and_the_record(tally: Tally, ids: list[str]) -> None:
    result = tally("show", ids[0])
    pairs, _, record = result.out.partition("\n\n")
    shown = dict(line.split("\t") for line in pairs.splitlines())
    assert shown["verdict"] == "TRUST"
    with Ledger.open("agents.tally", read_only=True) as ledger:
        assert shown["hash"] == ledger.get(int(shown["event"])).hash.hex()
    assert json.loads(record) == tally("show", ids[0], "--json").json


def test_show_a_request_alone_to_decide_it_anew(tally: Tally, ids: list[str]) -> None:
    Path("policy.yml").write_bytes(STARTER_POLICY.read_bytes())
    result = tally("show", ids[2], "--request")
    assert result.json == refund(300)
    assert tally("decide", "--in", "-", stdin=result.out.encode()).status == 1
    assert tally("show", "2", "--request").status == 2


def test_show_still_takes_a_seq(tally: Tally, ids: list[str]) -> None:
    assert tally("show", "3", "--json").json["body"]["observed"]["decision_id"] == ids[0]
    assert tally("show", "first").err.startswith("tally: invalid value: 'first' is no seq")


# -- label ---------------------------------------------------------------------------------


def test_label_records_and_later_requests_are_judged_by_it(tally: Tally, ids: list[str]) -> None:
    """D8: one labelled failure changes a later verdict."""
    Path("policy.yml").write_bytes(STARTER_POLICY.read_bytes())
    result = tally("label", ids[0], "--label", "failure", "--summary", "Never \x1b[31msent back")
    assert result.status == 0
    assert f"labelled {ids[0]} failure; support.refund for acme is judged by it" in result.err
    seq, digest = result.out.strip().split(":")
    with Ledger.open("agents.tally", read_only=True) as ledger:
        labelled = ledger.get(int(seq))
        assert (labelled.kind, labelled.hash.hex()) == ("decision.labeled", digest)
        assert ledger.get(int(seq) + 1).kind == "memory.added"
    request = json.dumps(refund()).encode()
    assert tally("decide", "--in", "-", "--json", stdin=request).json["reason_codes"][0] == (
        "LIKE_AN_EARLIER_FAILURE"
    )
    other = json.dumps(refund(tenant={"tenant_id": "bolt"})).encode()
    assert tally("decide", "--in", "-", stdin=other).status == 0, "another tenant learns nothing of it"


def test_label_as_json(tally: Tally, ids: list[str]) -> None:
    said = tally("label", ids[0][:20], "--label", "success", "--json").json
    assert (said["decision_id"], said["label"], said["summary"]) == (ids[0], "success", "")
    assert said["memory_seq"] == said["seq"] + 1


def test_the_last_label_counts_and_the_same_again_adds_nothing(tally: Tally, ids: list[str]) -> None:
    """D8."""
    Path("policy.yml").write_bytes(STARTER_POLICY.read_bytes())
    request = json.dumps(refund()).encode()
    first = tally("label", ids[0], "--label", "failure", "--summary", "lost")
    again = tally("label", ids[0], "--label", "failure", "--summary", "lost")
    assert (again.status, again.out) == (0, first.out)
    assert again.err.endswith("; nothing was added\n")
    escalated = tally("decide", "--in", "-", "--json", stdin=request)
    assert (escalated.status, escalated.json["verdict"]) == (1, "ESCALATE")
    assert tally("label", ids[0], "--label", "success").out != first.out
    assert tally("decide", "--in", "-", stdin=request).status == 0
    [found] = tally("decisions", "--label", "success", "--json").json
    assert (found["decision_id"], found["labels"]) == (ids[0], 2)
    told = tally("explain", escalated.json["decision_id"]).out
    assert "failure, “lost” (labelled success since)" in " ".join(told.split())
    assert tally("verify").status == tally("replay").status == 0


def test_a_decision_is_named_by_the_number_of_its_event_too(tally: Tally, ids: list[str]) -> None:
    seq = tally("show", ids[1], "--json").json["determinism"]["memory_snapshot"]["seq"] + 1
    said = tally("label", str(seq), "--label", "near_miss", "--json").json
    assert said["decision_id"] == ids[1]
    for number in (seq, said["seq"]):
        assert tally("explain", str(number), "--json").json["decision_id"] == ids[1]
        assert tally("export", str(number)).json["record"]["decision_id"] == ids[1]
    assert tally("show", str(seq), "--request").json["action"]["intent"] == "Close 100%_done"
    assert tally("show", "1", "--request").status == 2
    other = tally("explain", "1")
    assert (other.status, other.out) == (2, "")
    assert "event 1 is a ledger.created, and no decision's" in other.err
    assert tally("explain", str(said["memory_seq"])).status == 2
    assert "no event 999" in tally("label", "999", "--label", "success").err


def test_an_id_that_is_none(tally: Tally, ids: list[str]) -> None:
    assert tally("explain", f" {ids[0]} ").status == 0
    for name in ("nosuch", "dec_ZZ", "dec_%", ids[0][:-1] + "!"):
        result = tally("explain", name)
        assert (result.status, result.out) == (2, "")
        assert f"no decision {name!r} in this ledger; `tally decisions` lists them" in result.err


@pytest.mark.parametrize("bare", ["dec_", "DEC_", "decision:", "decision:dec_", ""])
def test_what_begins_every_id_names_none(tally: Tally, ids: list[str], bare: str) -> None:
    for command in (["explain", bare], ["label", bare, "--label", "success"], ["export", bare]):
        result = tally(*command)
        assert (result.status, result.out) == (2, "")
        assert f"{bare!r} begins every id; give more of it: `tally decisions` lists them" in result.err


def test_a_label_has_to_be_one(tally: Tally, ids: list[str]) -> None:
    assert tally("label", ids[0], "--label", "bad").status == 2
    assert tally("label", ids[0]).status == 2
    long = tally("label", ids[0], "--label", "failure", "--summary", "x" * 2001)
    assert (long.status, long.out) == (2, "")
    assert "has 2,001 characters; give at most 2,000" in long.err
    missing = tally("label", ids[0])
    assert "missing option '--label'. Choose from: failure, success, near_miss; see" in missing.err


def test_an_erased_decision(tally: Tally, ids: list[str]) -> None:
    tally("decisions")
    tally("erase", "3", "--reason", "privacy", "--yes")
    for command in (
        ["show", ids[0]],
        ["explain", ids[0]],
        ["label", "3", "--label", "failure"],
        ["export", "3"],
    ):
        result = tally(*command)
        assert (result.status, result.out) == (1, "")
        assert f"the body of decision {ids[0]} (event 3) was erased" in result.err
    assert tally("explain", ids[0][:20]).status == 2
    assert len(tally("decisions", "--nl").lines) == 4


def test_an_advisory_verdict_is_one_word_in_a_pipe_and_explained_on_a_terminal(
    tally: Tally, terminal: Callable[..., tuple[int, str]]
) -> None:
    tally("init", "-f", "lax.tally")
    Path("lax.yml").write_text(Path("policy.yml").read_text().replace("mode: enforce", "mode: advisory"))
    stdin = json.dumps(refund(5000)).encode()
    tally("decide", "--in", "-", "-f", "lax.tally", "--policy", "lax.yml", stdin=stdin)
    [line] = tally("decisions", "-f", "lax.tally").out.splitlines()
    cells = line.split("\t")
    assert (cells[2], cells[-1]) == ("ABSTAIN", "advisory")
    shown = terminal("decisions", "-f", "lax.tally", columns=120, NO_COLOR="1")[1]
    assert "ABSTAIN*" in shown
    assert "* advisory: recorded, not enforced" in shown
