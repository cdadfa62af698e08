"""What the attacks share: small ledgers, and scripts that run in processes of their own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tallystick import Durability, Head, Ledger

ROOT = Path(__file__).parent.parent.parent
WORKERS = Path(__file__).parent / "workers"

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


@pytest.fixture(scope="session")
def second_verifier() -> Any:
    """`docs/verify_ledger.py` as a module: it was written from the format page alone."""
    path = ROOT / "docs" / "verify_ledger.py"
    spec = importlib.util.spec_from_file_location("second_verifier", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start_worker() -> Iterator[RunWorker]:
    """Start a script of `workers/` in a process; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-X", "faulthandler", str(WORKERS / script), *map(str, arguments)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


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
