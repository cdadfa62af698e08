"""An incident in a large ledger takes little memory, however much belongs to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tallystick import Durability, Ledger

EVENTS = 150_000
RSS_MAX_KIB = 150 * 1024

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WRITE = """
import sys
sys.path.insert(0, sys.argv[1])
from memory_peak import peak_kib
from tallystick import Ledger, Selection, write_incident
with Ledger.open(sys.argv[2], read_only=True) as ledger:
    made = write_incident(ledger, Selection(correlation=sys.argv[4]), sys.argv[3], with_chain=True)
assert made.sound, made.verdict
print(made.summary.events, peak_kib())
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sessions, jobs and causes; a third of the events have one correlation id."""
    path = tmp_path_factory.mktemp("large") / "a.tally"
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        for first in range(0, EVENTS, 10_000):
            ledger.append_many(
                {
                    "kind": "load.made",
                    "body": {"n": n, "session_id": f"s{n % 5000}"},
                    "stream": f"job:{n % 3000}" if n % 7 else f"session:s{n % 5000}",
                    "meta": {"correlation": f"c{n // 5 % 20_000}" if n % 3 else "big", "causation": str(n)},
                }
                for n in range(first, first + 10_000)
            )
    return path


@pytest.mark.parametrize(("correlation", "least"), [("big", EVENTS // 2), ("none-such-as-big", 0)])
def test_memory_is_bounded(large: Path, tmp_path: Path, correlation: str, least: int) -> None:
    if not least:
        with Ledger.open(large, durability=Durability.PROCESS) as ledger:
            ledger.append("load.made", meta={"correlation": correlation})
    support = Path(__file__).parents[2] / "support"
    command = [sys.executable, "-c", WRITE, str(support), str(large), str(tmp_path / "i"), correlation]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    events, peak_kib = map(int, done.stdout.split())
    assert events >= least
    assert peak_kib < RSS_MAX_KIB, f"{peak_kib / 1024:.0f} MiB for {events} of {EVENTS} events"
