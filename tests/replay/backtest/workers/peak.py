"""Back-test a ledger; print how many decisions were compared, how many would change, and the peak in KiB.

Arguments: the ledger, the policy.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "support"))

from memory_peak import peak_kib

from tallystick import Ledger, backtest

with Ledger.open(sys.argv[1], read_only=True) as ledger:
    report = backtest(ledger, sys.argv[2])
print(report.compared, report.changed, peak_kib())
