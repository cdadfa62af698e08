"""What the tests of kernels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tallystick import Ledger, MemoryStore


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A ledger in memory."""
    with Ledger.over(MemoryStore()) as ledger:
        yield ledger
