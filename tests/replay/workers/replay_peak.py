"""Replay a ledger; print how many checks diverged and the process's peak memory in KiB.

replay_peak.py PATH [LAYER...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from tallystick import Ledger, replay_ledger

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from memory_peak import peak_kib

path, *layers = sys.argv[1:]
with Ledger.open(path, read_only=True) as ledger:
    report = replay_ledger(ledger, layers=layers or None)
    report.to_json()
print(report.diverged, peak_kib())
