"""What the tests of the ledger share: opened ledgers that are closed again, and rows in a chain."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tallystick import Head, MemoryStore, Row
from tallystick.ledger import chain
from tallystick.ledger.event import Draft

VECTORS = Path(__file__).parent.parent / "vectors"


class Chain:
    """Makes rows that follow a head, as the core does for its stores."""

    ledger_id = bytes(range(16))

    def __init__(self) -> None:
        self._salts = random.Random(0)

    def row(
        self,
        head: Head,
        *,
        kind: str = "test.happened",
        stream: str = "main",
        key: str | None = None,
        body: bytes = b"{}",
        meta: bytes | None = None,
        at: int | None = None,
    ) -> Row:
        prev_hash = chain.genesis_hash(self.ledger_id) if head.seq == 0 else head.hash
        salt = self._salts.randbytes(chain.SALT_BYTES)
        digest = chain.body_hash(salt, body)
        label = chain.label(kind, stream, key, meta)
        at = 1000 + head.seq if at is None else at
        return Draft(at, kind, stream, key, meta, salt, body, digest, label).place(head.seq + 1, prev_hash)

    def rows(self, head: Head, *events: dict[str, Any]) -> list[Row]:
        rows = []
        for event in events:
            rows.append(self.row(head, **event))
            head = Head(rows[-1].seq, rows[-1].hash)
        return rows

    def build(self, *events: dict[str, Any]) -> Callable[[Head], list[Row]]:
        return lambda head: self.rows(head, *events)


@pytest.fixture(scope="session")
def chained() -> Chain:
    return Chain()


@pytest.fixture
def vectors() -> Path:
    return VECTORS


class GatedStore(MemoryStore):
    """A store whose commits can be held, so that a test decides what is grouped with what."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.commits: list[list[Any]] = []
        self.leaders: list[str] = []
        self.fail: list[BaseException | None] = []  # for the next commits, first come first served

    def append(self, build: Any) -> Head:
        self.entered.set()
        assert self.gate.wait(30)
        if self.fail and (error := self.fail.pop(0)) is not None:
            raise error
        before = self.head().seq
        head = super().append(build)
        self.commits.append([row.body for row in self.read(before)])
        self.leaders.append(threading.current_thread().name)
        return head

    def hold(self) -> None:
        self.entered.clear()
        self.gate.clear()


@pytest.fixture
def gated() -> Iterator[GatedStore]:
    store = GatedStore()
    yield store
    store.gate.set()


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], object]], None]:
    """Waits for something that other threads do."""

    def wait_until(condition: Callable[[], object]) -> None:
        for _ in range(6000):
            if condition():
                return
            time.sleep(0.005)
        pytest.fail("waited in vain")

    return wait_until
