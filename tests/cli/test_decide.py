"""`tally decide`: what it prints and records, and the exit status that a script relies on (D1, D7, D11)."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from requests_to_decide import refund

from tallystick import Ledger
from tallystick.ledger.errors import Unavailable

Tally = Callable[..., Any]


@pytest.fixture(autouse=True)
def _ledger(tally: Tally) -> None:
    assert tally("init").status == 0


def decided() -> int:
    with Ledger.open("agents.tally", read_only=True) as ledger:
        return sum(1 for _ in ledger.rows(kinds=["decision.recorded"]))


def data(request: Any) -> bytes:
    return json.dumps(request).encode()


def test_trust_exits_0_and_is_recorded(tally: Tally) -> None:
    Path("request.json").write_bytes(data(refund()))
    result = tally("decide", "--in", "request.json")
    assert (result.status, result.err) == (0, "")
    cells = [line.split("\t") for line in result.out.splitlines()]
    assert ["verdict", "TRUST"] in cells
    assert ["reason", "REFUND_SMALL"] in cells
    assert ["rule", "refund-small (TRUST)"] in cells
    [policy] = [cell for name, cell in cells if name == "policy"]
    assert re.fullmatch("support-starter 1 sha256:[0-9a-f]{12}…", policy)
    assert decided() == 1


@pytest.mark.parametrize(
    ("request_", "verdict"),
    [
        (refund(300), "ESCALATE"),
        (refund(evidence={"ticket_id": "T-1"}), "QUERY"),
        (refund(5000), "ABSTAIN"),
    ],
)
def test_any_other_verdict_exits_1(tally: Tally, request_: dict[str, Any], verdict: str) -> None:
    result = tally("decide", "--in", "-", "--json", stdin=data(request_))
    assert (result.status, result.json["verdict"], result.err) == (1, verdict, "")
    assert decided() == 1


def test_json_is_the_record_that_show_gives_again(tally: Tally) -> None:
    record = tally("decide", "--in", "-", "--json", stdin=data(refund())).json
    assert record["schema_version"] == "decision_record.v0"
    again = tally("show", record["decision_id"], "--json").json
    assert again.pop("decision_event_log") == []
    assert again == record


@pytest.fixture
def lax() -> str:
    """The starter policy in advisory mode."""
    text = Path("policy.yml").read_text().replace("mode: enforce", "mode: advisory")
    Path("lax.yml").write_text(text)
    return "lax.yml"


@pytest.mark.parametrize("amount", [30, 300, 5000])
def test_advisory_verdicts_are_recorded_said_not_to_be_enforced_and_exit_0(
    tally: Tally, lax: str, amount: int
) -> None:
    """D7."""
    result = tally("decide", "--in", "-", "--policy", lax, stdin=data(refund(amount)))
    assert (result.status, result.err) == (0, "")
    assert "mode\tadvisory: the verdict is not enforced\n" in result.out
    assert decided() == 1
    many = tally("decide", "--in", "-", "--nl", "--policy", lax, stdin=lines(refund(300), refund(amount)))
    assert many.status == 0


def test_what_a_request_wants_enforced_is(tally: Tally, lax: str) -> None:
    """D2: a request can make an advisory policy stricter."""
    strict = refund(300, hints={"mode": "enforce"})
    assert tally("decide", "--in", "-", "--policy", lax, stdin=data(strict)).status == 1
    both = tally("decide", "--in", "-", "--nl", "--policy", lax, stdin=lines(refund(300), strict))
    assert both.status == 1


def test_an_abstention_of_the_gateways_own_is_enforced_whatever_the_policy(
    tally: Tally, lax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1, D7."""
    other = refund(policy={"policy_id": "another"})
    result = tally("decide", "--in", "-", "--policy", lax, stdin=data(other))
    assert (result.status, "not enforced" in result.out) == (1, False)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Ledger, "record", fail)
    assert tally("decide", "--in", "-", "--policy", lax, stdin=data(refund())).status == 3


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"", "tally: request: is no JSON"),
        (b"[]", "expected an object"),
        (data(refund(extra=1)), "extra: unknown field"),
        (data(refund(subject=None)), "subject: missing"),
        (data(refund(action={"type": "Refund", "intent": "x"})), "action.type: expected dotted"),
    ],
)
def test_a_bad_request_exits_2_and_nothing_is_recorded(tally: Tally, stdin: bytes, message: str) -> None:
    result = tally("decide", "--in", "-", stdin=stdin)
    assert (result.status, result.out) == (2, "")
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert decided() == 0


def test_a_bad_or_missing_policy_exits_2_and_the_abstention_is_recorded(tally: Tally) -> None:
    """D1: as from Python."""
    Path("bad.yml").write_text(Path("policy.yml").read_text().replace("refund_alone_max_usd: 50", ""))
    bad = tally("decide", "--in", "-", "--json", "--policy", "bad.yml", stdin=data(refund()))
    assert (bad.status, bad.json["reason_codes"]) == (2, ["POLICY_UNAVAILABLE"])
    assert "no threshold is named '$refund_alone_max_usd'" in bad.err
    assert tally("decide", "--in", "-", "--policy", "none.yml", stdin=data(refund())).status == 2
    Path("policy.yml").unlink()
    missing = tally("decide", "--in", "-", stdin=data(refund()))
    assert missing.status == 2
    assert missing.out.startswith("verdict\tABSTAIN\n")
    assert "there is no policy.yml; `tally init` writes a policy to start from" in missing.err
    assert decided() == 3
    assert tally("replay").status == 0


def test_the_policy_is_the_one_beside_the_ledger(tally: Tally) -> None:
    Path("other").mkdir()
    tally("init", "-f", "other/a.tally")
    strict = Path("policy.yml").read_text().replace("refund_alone_max_usd: 50", "refund_alone_max_usd: 5")
    Path("other/policy.yml").write_text(strict)
    assert tally("decide", "--in", "-", stdin=data(refund())).status == 0
    assert tally("decide", "--in", "-", "-f", "other/a.tally", stdin=data(refund())).status == 1


def test_no_ledger_is_made(tally: Tally) -> None:
    result = tally("decide", "--in", "-", "-f", "none.tally", stdin=data(refund()))
    assert result.status == 3
    assert result.out.startswith("verdict\tABSTAIN\ndecision\tcould not be recorded\n")
    assert "no such ledger" in result.err
    assert not Path("none.tally").exists()


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("agents.tally", "the disk is full; nothing was stored", "free some space and try again"),
        Unavailable("agents.tally", "the file is read-only", "check its permissions, or open it read-only"),
        PermissionError(13, "Permission denied", "agents.tally"),
    ],
)
def test_a_ledger_that_cannot_be_opened_is_abstained_from(
    tally: Tally, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """D1: whatever keeps it from opening, a script reads a record, and each line of --nl has one."""

    def fail(*_: Any, **__: Any) -> Ledger:
        raise error

    monkeypatch.setattr(Ledger, "open", fail)
    one = tally("decide", "--in", "-", "--json", stdin=data(refund()))
    assert (one.status, one.json["reason_codes"]) == (3, ["STORAGE_UNAVAILABLE"])
    assert str(error) in one.err
    many = tally("decide", "--in", "-", "--nl", stdin=lines(refund(), refund(300)))
    assert (many.status, [line["verdict"] for line in many.lines]) == (3, ["ABSTAIN", "ABSTAIN"])
    assert tally("decide", "--in", "-", stdin=b"{}").status == 2, "a bad request stays one"


def test_a_changed_policy_of_the_same_version_is_remarked_on(tally: Tally) -> None:
    def decide() -> Any:
        return tally("decide", "--in", "-", stdin=data(refund()))

    assert decide().err == ""
    text = Path("policy.yml").read_text()
    Path("policy.yml").write_text(text.replace("refund_alone_max_usd: 50", "refund_alone_max_usd: 60"))
    changed = decide()
    assert "policy support-starter 1: a new text, sha256:" in changed.err
    assert "under another of the same version, sha256:" in changed.err
    assert decide().err == "", "it is said once"
    newer = text.replace('policy_version: "1"', 'policy_version: "2"')
    Path("policy.yml").write_text(newer)
    assert decide().err.endswith(", is event 7\n")
    Path("policy.yml").write_text(text)
    assert decide().err == "", "the ledger has it"


def test_what_cannot_be_recorded_is_abstain_and_exits_3(
    tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails closed (D1)."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Ledger, "record", fail)
    result = tally("decide", "--in", "-", "--json", stdin=data(refund()))
    assert result.status == 3
    assert (result.json["verdict"], result.json["reason_codes"]) == ("ABSTAIN", ["STORAGE_UNAVAILABLE"])
    assert "No space left on device" in result.err
    assert "could not be recorded" in tally("decide", "--in", "-", stdin=data(refund())).out


_HOLD = """
import sqlite3, sys
con = sqlite3.connect("agents.tally", isolation_level=None)
con.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_locked_ledger_exits_3(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Ledger.open
    monkeypatch.setattr(Ledger, "open", lambda *a, **k: original(*a, **{**k, "timeout_s": 0.1}))
    holder = subprocess.Popen([sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        result = tally("decide", "--in", "-", "--json", stdin=data(refund()))
    finally:
        holder.communicate(b"")
    assert result.status == 3
    assert (result.json["verdict"], result.json["reason_codes"]) == ("ABSTAIN", ["STORAGE_UNAVAILABLE"])


def test_a_request_id_gives_the_first_record_again_and_no_other(tally: Tally) -> None:
    """D2."""
    first = tally("decide", "--in", "-", "--json", stdin=data(refund(request_id="r-1"))).json
    assert tally("decide", "--in", "-", "--json", stdin=data(refund(request_id="r-1"))).json == first
    other = tally("decide", "--in", "-", stdin=data(refund(31, request_id="r-1")))
    assert (other.status, other.out) == (1, "")
    assert "was used by event" in other.err
    assert decided() == 1


def test_redaction(tally: Tally) -> None:
    """D9."""
    from tallystick.recorders.gateway.digests import digest

    inline = {"note": "hello", "email": "a@example.com"}
    request = refund(context={"mode": "inline", "digest": digest(inline), "inline": inline})
    record = tally("decide", "--in", "-", "--json", stdin=data(request)).json
    assert record["request"]["context"]["inline"] == {"note": "hello"}
    record = tally("decide", "--in", "-", "--json", "--redaction", "strict", stdin=data(request)).json
    assert "inline" not in record["request"]["context"]


# -- many requests -----------------------------------------------------------------------------


def lines(*requests: Any) -> bytes:
    return b"".join(data(request) + b"\n" for request in requests)


def test_many_requests_a_record_a_line(tally: Tally) -> None:
    result = tally("decide", "--in", "-", "--nl", stdin=lines(refund(), refund(300), refund(5000)))
    assert [line["verdict"] for line in result.lines] == ["TRUST", "ESCALATE", "ABSTAIN"]
    assert result.status == 1
    assert tally("decide", "--in", "-", "--nl", stdin=lines(refund(), refund(20))).status == 0
    assert decided() == 5
    Path("all.jsonl.gz").write_bytes(gzip.compress(lines(refund())))
    assert tally("decide", "--in", "all.jsonl.gz", "--nl").status == 0


def test_at_a_bad_line_it_ends_and_those_before_stay(tally: Tally) -> None:
    result = tally("decide", "--in", "-", "--nl", stdin=lines(refund(), refund(extra=1), refund()))
    assert (result.status, len(result.lines)) == (2, 1)
    assert "standard input, line 2: request: extra: unknown field" in result.err
    assert decided() == 1


def test_json_and_nl_exclude_each_other(tally: Tally) -> None:
    assert tally("decide", "--in", "-", "--nl", "--json").status == 2
    assert tally("decide").status == 2


def test_on_a_terminal(terminal: Callable[..., tuple[int, str]], tally: Tally) -> None:
    intent = "Refund \x1b[2Ja mug"
    request = refund(300, action={"type": "support.refund", "intent": intent}, evidence=None)
    Path("r.json").write_bytes(data(request))
    status, shown = terminal("decide", "--in", "r.json", NO_COLOR="1")
    assert status == 1
    assert shown.startswith("QUERY: more evidence is needed\n")
    assert "\x1b" not in shown
    assert "ask " in shown
    assert "\x1b[2J" not in terminal("explain", decisions(tally)[0])[1]


def decisions(tally: Tally) -> list[str]:
    return [line["decision_id"] for line in tally("decisions", "--nl").lines]
