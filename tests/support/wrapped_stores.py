"""Stores that can be made slow or full, and the check that what was promised was kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from tallystick import Event, Head, Ledger, MemoryStore, Row, SQLiteStore, Unavailable, Verdict

Build = Callable[[Head], Sequence[Row]]


class WrappedStore:
    """A store around another, to be made to fail."""

    def __init__(self, store: MemoryStore | SQLiteStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


class SlowStore(WrappedStore):
    """A store whose next append waits until released."""

    def __init__(self, store: MemoryStore | SQLiteStore) -> None:
        super().__init__(store)
        self.entered = threading.Event()
        self._go = threading.Event()
        self._go.set()

    def hold(self) -> None:
        self.entered.clear()
        self._go.clear()

    def release(self) -> None:
        self._go.set()

    def append(self, build: Build) -> Head:
        self.entered.set()
        assert self._go.wait(60)
        return self.store.append(build)


class FullStore(MemoryStore):
    """A store that stops taking rows when told to."""

    full = False

    def append(self, build: Build) -> Head:
        if self.full:
            raise Unavailable("the store", "is full", "make room")
        return super().append(build)


def check_promises(ledger: Ledger, promised: list[tuple[int, bytes]]) -> None:
    """What was acknowledged is there, whole batches only, and the chain verifies up to its end."""
    events: dict[int, Event] = {event.seq: event for event in ledger.read()}
    assert all(events[seq].hash == digest for seq, digest in promised)
    assert len(events) == 1 + len(promised), "something that was refused is there"
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
