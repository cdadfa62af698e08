"""The protocol that every store keeps, and what the core may rely on.

Hashing and chaining are the core's; a store only keeps rows. Nothing above this protocol
assumes a local file. `tests/ledger/test_store_conformance.py` is the suite every store passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from .errors import NoSuchEvent
from .event import Head, Row

#: From the head that the rows must follow to the rows. May ask the store's `find_key`,
#: `find_keys`, `stream_head` and `read`, which then answer as of that head. May raise: nothing is stored.
Build = Callable[[Head], Sequence[Row]]


class Store(Protocol):
    """An ordered, append-only sequence of rows."""

    def head(self) -> Head:
        """The last row's (seq, hash) as of now, never stale; `Head(0, NO_HASH)` when empty."""

    def append(self, build: Build) -> Head:
        """Store all the rows that `build` makes, or none; the new head when they are durable.

        Raises Conflict or Unavailable when nothing was stored, and OutcomeUnknown when the
        store may have the rows. A store that compares and swaps calls `build` again after a
        conflict, with the new head.
        """

    def read(
        self,
        after: int = 0,
        *,
        before: int | None = None,
        stream: str | None = None,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Row]:
        """Rows with `after < seq < before`, in order of seq (descending with `reverse`).

        `kinds` are exact kinds or GLOB patterns (`message.*`). Reads in pages: a slow reader
        holds no lock, and rows appended meanwhile are part of an unbounded read.
        """

    def read_raw(self, after: int | None = None, before: int | None = None) -> Iterator[Sequence[Any]]:
        """Rows as they stand, whatever their types, from the lowest seq; for verification."""

    def find_key(self, key: str) -> Row | None:
        """The row with this idempotency key."""

    def find_keys(self, keys: Sequence[str]) -> dict[str, Row]:
        """The rows with any of these idempotency keys, by key."""

    def stream_head(self, stream: str) -> int:
        """The seq of the stream's last row; 0 if it has none."""

    def erase(self, seqs: Sequence[int], build: Build) -> Head:
        """Append the rows that `build` makes and null body and salt of `seqs`, in one step.

        When it returns, no trace of the erased bytes is left where the store keeps them;
        TracesRemain if the erasure is recorded but that could not be done yet.
        """

    def summary(self) -> dict[str, Any]:
        """Counts and sizes: events, streams, erased, body_bytes, largest_body_bytes, first_at,
        last_at, kinds (kind to count), and what the store knows of its own size in bytes."""

    def engine(self) -> dict[str, Any]:
        """What keeps the rows: name, version and settings in force; part of event 1."""

    def close(self) -> None:
        """Release everything; the store cannot be used afterwards."""


def row_at(store: Store, seq: int) -> Row:
    """The row with this seq. Raises NoSuchEvent."""
    row = next(store.read(seq - 1, before=seq + 1), None) if 0 < seq < 1 << 62 else None
    if row is None:
        raise NoSuchEvent(seq, store.head().seq)
    return row
