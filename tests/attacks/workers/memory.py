"""Do one thing to a large ledger; print how many events it saw and the process's peak memory in KiB.

memory.py build|verify|read|reverse|follow PATH EVENTS
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

from tallystick import Durability, Ledger

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from memory_peak import peak_kib

what, path, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Ledger.open(path, read_only=what != "build", durability=Durability.PROCESS) as ledger:
    if what == "build":
        # In parts: append_many returns a receipt for each event that it is given.
        for first in range(2, events + 1, 10_000):
            ledger.append_many(
                {"kind": "load.made", "body": {"n": n}, "stream": f"s:{n % 1000}"}
                for n in range(first, min(first + 10_000, events + 1))
            )
        seen = ledger.head().seq
    elif what == "verify":
        report = ledger.verify(ledger.head())
        assert report.verdict == "VERIFIED", report
        seen = report.events
    elif what == "read":
        seen = sum(1 for _ in ledger.read())
    elif what == "reverse":
        seen = sum(1 for _ in ledger.read(reverse=True))
    else:
        assert what == "follow", what
        seen = sum(1 for _ in islice(ledger.follow(0), events))
print(seen, peak_kib())
