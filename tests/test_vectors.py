"""The vector files are what their generator makes, and the format page shows their bytes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
VECTORS = ROOT / "tests" / "vectors"


def test_the_files_are_what_make_py_makes() -> None:
    command = [sys.executable, str(VECTORS / "make.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_format_page_shows_the_vectors_bytes() -> None:
    page = re.sub(r"\s+", "", (ROOT / "docs" / "format.md").read_text("utf-8"))
    hashes = json.loads((VECTORS / "hashes.json").read_text("utf-8"))
    plain = next(vector for vector in hashes["event_hash"] if vector["name"] == "plain")
    shown = [plain["preimage"], plain["hash"], plain["body_hash"], hashes["genesis"][0]["hash"]]
    shown.append((VECTORS / "ledger.head").read_text("utf-8").strip())
    shown.append((VECTORS / "ledger.jsonl").read_text("utf-8").split("\n")[1])
    assert [value for value in shown if re.sub(r"\s+", "", value) not in page] == []


def test_every_number_on_the_format_page_is_a_vector() -> None:
    """The table of numbers in section 3: value in, bytes out."""
    page = (ROOT / "docs" / "format.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (?:integer|float) \| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert len(rows) >= 8
    accepted = json.loads((VECTORS / "canonical.json").read_text("utf-8"))["accepted"]
    known = {vector["in"]: vector["out"] for vector in accepted}
    assert {text: known.get(text) for text, _ in rows} == dict(rows)
