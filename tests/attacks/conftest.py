"""What the attacks share: small ledgers, and scripts that run in processes of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tallystick import Durability, Head, Ledger

ROOT = Path(__file__).parent.parent.parent

RunWorker = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    """Where a test's ledger goes."""
    return tmp_path / "agents.tally"


@pytest.fixture(params=list(Durability), ids=lambda durability: durability.name.lower())
def durability(request: pytest.FixtureRequest) -> Durability:
    """Each durability in turn."""
    chosen: Durability = request.param
    return chosen


@pytest.fixture
def finish() -> Callable[..., str]:
    """Wait for a worker, which must end well; what it printed."""

    def wait(process: subprocess.Popen[str], timeout_s: float = 110) -> str:
        out, err = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, f"status {process.returncode}\n{err[-4000:]}"
        return out

    return wait


@pytest.fixture
def make_ledger() -> Callable[[Path, int], Head]:
    """Make a closed ledger of so many events, event 1 counted; its head."""

    def make(path: Path, events: int) -> Head:
        with Ledger.open(path, durability=Durability.PROCESS) as ledger:
            ledger.append_many(
                {"kind": "order.placed", "body": {"n": n}, "stream": f"order:{n % 7}"}
                for n in range(2, events + 1)
            )
            return ledger.head()

    return make
