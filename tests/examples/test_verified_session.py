"""The example of a verified session does what its text says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tallystick import Head, Ledger, Verdict, get_session, list_sessions

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "verified_session.py"


def test_the_example(tmp_path: Path) -> None:
    path = tmp_path / "agents.tally"
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(path)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "VERIFIED" in done.stdout.splitlines()[-1]
    assert len(re.findall(r"^\d\d:\d\d:\d\d\.\d{3} ", done.stderr, re.MULTILINE)) == 7
    with Ledger.open(path) as ledger:
        assert ledger.verify(Head.parse(str(ledger.head()))).verdict is Verdict.VERIFIED
        [summary] = list_sessions(ledger)
        assert (summary.outcome, summary.label) == ("partial", "spring prices")
        record = get_session(ledger, summary.session_id[:5])
    assert [(action.action_type, action.attempt, action.outcome) for action in record.actions] == [
        ("price.change", 1, "failed"),
        ("price.change", 2, "retry"),
        ("price.change", 3, "verified"),
        ("product.delete", 1, "failed"),
        ("product.delete", 2, "failed"),
        ("product.withdraw", 1, "verified"),
        ("label.write", 1, "verified"),
    ]
    assert "503" in record.actions[0].evidence["error"]
    assert record.actions[1].diff_summary == "no change"
    assert record.actions[2].diff_summary == "price: 4790 -> 3990"
    assert record.actions[5].via_edge == "EXTENDS"
    assert record.kernels == (
        "ckp://Kernel#Pricing:v1.0",
        "ckp://Kernel#Printer:v1.0",
        "ckp://Kernel#Shop:v1.0",
    )
