"""`examples/kernel_pipeline.py` runs, and prints what it is there to show (K7, K8)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "kernel_pipeline.py"


def test_the_example_records_a_good_day_and_a_bad_one() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "monday.csv: ['EUR', '101.50', 'GBP', '47.90']",
        "tuesday.csv: TASK_EXCEPTION: order 8815: 'twelve' is no amount in cents",
        "",
        "recorded:",
        "  2 kernel.executed: validate -> 3",
        "  3 kernel.executed: totals -> {'EUR': 10150, 'GBP': 4790}",
        "  4 kernel.executed: report -> ./monday.txt",
        "  5 pipeline.completed: 3 of 3 steps, events [2, 3, 4]",
        "  6 kernel.executed: validate -> ValueError",
        "  7 pipeline.completed: 1 of 3 steps, events [6]",
        "",
        "verified: True, 7 events",
    ]
