"""The example of a projection runs, and docs/projections.md shows it as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "projection_shipments.py"


def test_it_runs() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "parcel:81: sent",
        "parcel:82: packed",
        "parcel:81: nobody at [home]",
    ]


def test_the_page_shows_its_projection() -> None:
    source = EXAMPLE.read_text("utf-8")
    shown = source.split("# -- docs: projection\n")[1].split("# -- docs: end")[0].strip()
    assert f"```python\n{shown}\n```" in (ROOT / "docs" / "projections.md").read_text("utf-8")
