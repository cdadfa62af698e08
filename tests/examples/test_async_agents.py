"""`examples/async_agents.py` runs, and prints what it is there to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "async_agents.py"


def test_the_example_records_each_agent_in_its_session() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "8811: 8900",
        "8813: 4790",
        "8831: KeyError(8831)",
        "3 action.recorded",
        "3 kernel.executed",
        "1 ledger.created",
        "3 session.closed",
        "3 session.started",
        "UNANCHORED",
    ]
