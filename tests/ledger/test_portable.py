"""Export and import: an export that no table can hold is judged like any other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick import Ledger, Problem, Verdict, import_lines

Open = Callable[..., Ledger]


@pytest.fixture
def export(ledger: Ledger) -> list[dict[str, Any]]:
    """Six events; event 3 is erased, event 6 says so; and a salt for it."""
    ledger.append_many([{"kind": "a.b", "body": n, "key": f"k{n}"} for n in range(4)])
    ledger.erase(3, "why")
    return [json.loads(line) for line in ledger.export()]


def lines(export: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(event).encode() for event in export]


def test_an_export_is_imported(ledger: Ledger, export: list[dict[str, Any]], tmp_path: Path) -> None:
    report = import_lines(lines(export), tmp_path / "copy.tally", expect=ledger.head())
    assert (report.verdict, report.erased) == (Verdict.VERIFIED, 1)


@pytest.mark.parametrize("recorded", [True, False])
def test_an_erased_row_that_kept_its_salt(
    export: list[dict[str, Any]], tmp_path: Path, recorded: bool
) -> None:
    """The table would refuse it; what is wrong is said in the words of verification."""
    export[2]["salt"] = "00" * 16
    target = tmp_path / "copy.tally"
    report = import_lines(lines(export if recorded else export[:5]), target)
    assert report.verdict is Verdict.BROKEN and report.finding is not None
    expected = Problem.MALFORMED if recorded else Problem.ERASED
    assert (report.finding.seq, report.finding.problem) == (3, expected)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("copy")]


def test_an_earlier_flaw_is_named_first(export: list[dict[str, Any]], tmp_path: Path) -> None:
    """Also one that shows only at the end: event 2 erased without record, then the salt of event 3."""
    export[1] |= {"body": None, "salt": None}
    export[2]["salt"] = "00" * 16
    report = import_lines(lines(export), tmp_path / "copy.tally")
    assert report.finding is not None
    assert (report.finding.seq, report.finding.problem) == (2, Problem.ERASED)
