"""Memory stays flat however long the log is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EVENTS = 1_000_000
RSS_MAX_KIB = 150 * 1024

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def large_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ledger of a million events lies; the first test makes it."""
    return tmp_path_factory.mktemp("large") / "agents.tally"


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
@pytest.mark.parametrize("what", ["build", "verify", "read", "reverse", "follow"])
def test_a_million_events(
    what: str, large_ledger: Path, start_worker: Callable[..., object], finish: Callable[..., str]
) -> None:
    """Invariant: appending, verifying, reading and following a million events stay under 150 MiB."""
    if what != "build" and not large_ledger.exists():
        finish(start_worker("memory.py", "build", large_ledger, EVENTS), timeout_s=800)
    seen, peak_kib = map(
        int, finish(start_worker("memory.py", what, large_ledger, EVENTS), timeout_s=800).split()
    )
    assert seen == EVENTS
    assert peak_kib < RSS_MAX_KIB, f"{what}: {peak_kib / 1024:.0f} MiB"
