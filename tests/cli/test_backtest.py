"""`tally policy backtest` (D12)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from requests_to_decide import refund

from tallystick import Durability, Gateway, Ledger
from tallystick.recorders.gateway.policy import STARTER_POLICY
from tallystick.replay.backtest.where import KEYS

Tally = Callable[..., Any]
TEXT = STARTER_POLICY.read_text("utf-8")
#: Everything is loaded, and the same done as whoever runs the tests, before the rights are given up.
AS_NOBODY = """
import os, sys
from tallystick import Ledger, backtest, diff_decisions

def tested(path):
    with Ledger.open(path, create=False, read_only=True) as ledger:
        report = backtest(ledger, sys.argv[3])
        diff = diff_decisions(ledger, sys.argv[4], sys.argv[5])
    return f"{report.to_json().decode()} {diff.to_json().decode()} {report} {diff}"

before = tested(sys.argv[1])
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
assert not os.access(os.path.dirname(sys.argv[2]), os.W_OK)
print(tested(sys.argv[2]) == before)
"""


@pytest.fixture
def ids(tmp_path: Path) -> list[str]:
    """The decisions in the default ledger: trusted and failed, trusted and well, escalated."""
    with Ledger.open(tmp_path / "agents.tally", durability=Durability.PROCESS) as ledger:
        gateway = Gateway(ledger, TEXT)
        requests = [refund(30), refund(40, tenant={"tenant_id": "bolt"}), refund(300)]
        ids = [gateway.decide(request).decision_id for request in requests]
        gateway.label(ids[0], "failure", "sent twice")
        gateway.label(ids[1], "success")
    Path("same.yml").write_text(TEXT)
    Path("new.yml").write_text(TEXT.replace("refund_alone_max_usd: 50", "refund_alone_max_usd: 10"))
    return ids


def test_the_answer_comes_first(tally: Tally, ids: list[str]) -> None:
    result = tally("policy", "backtest", "new.yml")
    assert (result.status, result.err) == (1, "")
    lines = result.out.splitlines()
    assert lines[0] == (
        "2 of 3 decisions would change: 2 TRUST → ESCALATE, of them 1 labelled failure, 1 success."
    )
    assert lines[2].startswith("2 went on and would be stopped: 1 labelled failure (caught), 1 success (the")
    assert "TRUST     ESCALATE          1        1          ·           ·          2" in lines
    assert f"  {ids[0]}  support.refund 30 USD  “Refund a mug that arrived broken”  now: DEFAULT" in lines


def test_the_same_policy(tally: Tally, ids: list[str]) -> None:
    result = tally("policy", "backtest", "same.yml")
    assert (result.status, result.out.splitlines()[0]) == (0, "None of 3 decisions would change.")


def test_as_json(tally: Tally, ids: list[str]) -> None:
    result = tally("policy", "backtest", "new.yml", "--json")
    assert result.status == 1
    assert result.json["changed"] == 2
    assert [change["decision_id"] for change in result.json["changes"]] == ids[:2]
    assert [(cell["old"], cell["new"], cell["label"], cell["count"]) for cell in result.json["cells"]] == [
        ("TRUST", "ESCALATE", "failure", 1),
        ("TRUST", "ESCALATE", "success", 1),
        ("ESCALATE", "ESCALATE", "none", 1),
    ]
    assert tally("policy", "backtest", "new.yml", "--json").out == result.out
    fewer = tally("policy", "backtest", "new.yml", "--json", "--where", "label=failure", "-n", "1").json
    assert (fewer["decisions"], fewer["where"]) == (1, {"label": ["failure"]})


def test_a_decision_a_line(tally: Tally, ids: list[str]) -> None:
    result = tally("policy", "backtest", "new.yml", "--nl")
    assert (result.status, [line["decision_id"] for line in result.lines]) == (1, ids[:2])
    assert result.err.startswith("2 of 3 decisions would change")


def test_as_many_of_each_cell_as_asked_for(tally: Tally, ids: list[str]) -> None:
    with Ledger.open("agents.tally", durability=Durability.PROCESS) as ledger:
        for _ in range(5):
            Gateway(ledger, TEXT).decide(refund(20, tenant={"tenant_id": "new"}))
    assert "  … and 2 more" in tally("policy", "backtest", "new.yml").out
    assert "  … and 4 more" in tally("policy", "backtest", "new.yml", "-n", "1").out
    every = tally("policy", "backtest", "new.yml", "--list", "0").out
    assert "more" not in every and every.count("now: DEFAULT") == 7


@pytest.mark.parametrize(
    ("conditions", "changed"),
    [
        (["label=failure"], [0]),
        (["label=failure", "label=success"], [0, 1]),
        (["label=failure", "tenant=bolt"], []),
        (["verdict=trust", "action=support.*"], [0, 1]),
        (["text=sent twice"], [0]),
        (["policy=support-starter", "mode=enforce", "since=1h"], [0, 1]),
        (["until=2020-01-01"], []),
    ],
)
def test_where(tally: Tally, ids: list[str], conditions: list[str], changed: list[int]) -> None:
    arguments = [part for condition in conditions for part in ("--where", condition)]
    result = tally("policy", "backtest", "new.yml", "--nl", *arguments)
    assert [line["decision_id"] for line in result.lines] == [ids[number] for number in changed]
    assert result.status == (1 if changed else 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "colour=red"], f"KEY one of {', '.join(KEYS)}"),
        (["--where", "verdict"], "give KEY=VALUE"),
        (["--where", "verdict="], "says no value"),
        (["--where", "verdict=MAYBE"], "'MAYBE' is none; use TRUST"),
        (["--where", "since=2h", "--where", "since=1h"], "--where since is given twice"),
        (["--where", "since=soon"], "is no time"),
        (["--where", "since=1h", "--where", "until=2h"], "is not after since"),
        (["--where", "tenant=nobody"], "no decision fits all that was asked for"),
        (["--json", "--nl"], "exclude each other"),
        (["-n", "-1"], "-1"),
    ],
)
def test_bad_usage(tally: Tally, ids: list[str], arguments: list[str], message: str) -> None:
    result = tally("policy", "backtest", "new.yml", *arguments)
    assert (result.status, result.out) == (2, "")
    assert message in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe\x00",
        b"rules: [" * 5000,
        b"a: &a [x]\nb: [" + b"*a," * 5000 + b"]",
        b"- x\n" * 200_000,
        b"schema_version: policy.v0\nrules: []",
        b"!!python/object/apply:os.system ['touch gotcha']",
    ],
)
def test_a_policy_that_is_none(tally: Tally, ids: list[str], data: bytes) -> None:
    """One line and status 2, whatever the file holds."""
    Path("bad.yml").write_bytes(data)
    result = tally("policy", "backtest", "bad.yml")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("tally: bad.yml: ")
    assert len(result.err.splitlines()) == 1
    assert not Path("gotcha").exists()


def test_no_ledger_no_policy_no_decision(tally: Tally, tmp_path: Path) -> None:
    Path("p.yml").write_text(TEXT)
    assert tally("policy", "backtest", "p.yml").status == 3
    assert tally("policy", "backtest", "none.yml").status == 2
    with Ledger.open("agents.tally"):
        pass
    result = tally("policy", "backtest", "p.yml")
    assert (result.status, result.out) == (0, "There is no decision to compare.\n")


def test_what_a_request_says_does_not_reach_the_terminal(tally: Tally, tmp_path: Path) -> None:
    request = refund(action={**refund()["action"], "intent": "\x1b[2J\u202erefund\nTRUST"})
    with Ledger.open("agents.tally", durability=Durability.PROCESS) as ledger:
        Gateway(ledger, TEXT).decide(request)
    Path("new.yml").write_text(TEXT.replace("refund_alone_max_usd: 50", "refund_alone_max_usd: 10"))
    for arguments in ([], ["--json"], ["--nl"]):
        out = tally("policy", "backtest", "new.yml", *arguments).out
        assert "\x1b" not in out and "\u202e" not in out
        assert "[2J" in out


def test_nothing_is_written_and_nothing_needs_to_be(tally: Tally, ids: list[str], tmp_path: Path) -> None:
    """A ledger in a directory without the right to write, without views, by a user without rights."""
    tally("policy", "backtest", "new.yml", "--json")
    assert not list(tmp_path.glob("*.views*"))
    folder = Path("/tmp") / f"tallystick-backtest-{os.getpid()}"
    folder.mkdir()
    try:
        for name in ("agents.tally", "new.yml"):
            shutil.copy(name, folder / name)
            (folder / name).chmod(0o444)
        folder.chmod(0o555)
        arguments = ["agents.tally", str(folder / "agents.tally"), str(folder / "new.yml"), *ids[:2]]
        command = [sys.executable, "-c", AS_NOBODY, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("True\n", "")
        assert sorted(os.listdir(folder)) == ["agents.tally", "new.yml"]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
