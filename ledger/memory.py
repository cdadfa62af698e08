"""A store in memory: for tests, for trying things out, and as the model of what a store does."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from .chain import NO_HASH
from .errors import Closed, Conflict
from .event import Head, Row
from .store import Build


class MemoryStore:
    """Rows in a list. Safe to share between threads; gone with the process."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._by_key: dict[str, int] = {}
        self._stream_heads: dict[str, int] = {}
        self._lock = threading.RLock()
        self._closed = False

    def head(self) -> Head:
        """See Store.head."""
        self._check_open()
        with self._lock:
            return Head(len(self._rows), self._rows[-1].hash) if self._rows else Head(0, NO_HASH)

    def append(self, build: Build) -> Head:
        """See Store.append."""
        with self._lock:
            head = self.head()
            rows = self._checked(build(head), head)
            self._rows += rows  # at once: readers take no lock, and see all of them or none
            for row in rows:
                self._stream_heads[row.stream] = row.seq
                if row.key is not None:
                    self._by_key[row.key] = row.seq
            return self.head()

    def _checked(self, rows: Sequence[Row], head: Head) -> list[Row]:
        """The rows, if each follows the one before with a key of its own; else Conflict."""
        checked: list[Row] = []
        keys = set(self._by_key)
        for row in map(Row._make, rows):
            if (row.seq - 1, row.prev_hash) != (head.seq, head.hash) and not row.seq == head.seq + 1 == 1:
                raise Conflict("memory: a new event must follow the last one; nothing was stored")
            if row.key is not None and row.key in keys:
                raise Conflict("memory: a new event must have a key of its own; nothing was stored")
            if row.key is not None:
                keys.add(row.key)
            head = Head(row.seq, row.hash)
            checked.append(row)
        return checked

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
        """See Store.read."""
        self._check_open()
        after = max(after, 0)
        at, step = (
            (after, 1) if not reverse else (min(len(self._rows) + 1, before or len(self._rows) + 1), -1)
        )
        found = 0
        while limit is None or found < limit:
            at += step
            if not (after < at <= len(self._rows)) or (before is not None and at >= before):
                return
            row = self._rows[at - 1]
            if stream is not None and row.stream != stream:
                continue
            if kinds is not None and not any(fnmatchcase(row.kind, kind) for kind in kinds):
                continue
            found += 1
            yield row

    def read_raw(self, after: int | None = None, before: int | None = None) -> Iterator[Sequence[Any]]:
        """See Store.read_raw."""
        return self.read(after or 0, before=before)

    def find_key(self, key: str) -> Row | None:
        """See Store.find_key."""
        self._check_open()
        with self._lock:
            seq = self._by_key.get(key)
            return None if seq is None else self._rows[seq - 1]

    def find_keys(self, keys: Sequence[str]) -> dict[str, Row]:
        """See Store.find_keys."""
        return {key: row for key in keys if (row := self.find_key(key)) is not None}

    def stream_head(self, stream: str) -> int:
        """See Store.stream_head."""
        self._check_open()
        with self._lock:
            return self._stream_heads.get(stream, 0)

    def erase(self, seqs: Sequence[int], build: Build) -> Head:
        """See Store.erase."""
        with self._lock:
            before = len(self._rows)
            head = self.append(build)
            if len(self._rows) > before:
                for seq in seqs:
                    self._rows[seq - 1] = self._rows[seq - 1]._replace(salt=None, body=None)
            return head

    def summary(self) -> dict[str, Any]:
        """See Store.summary."""
        self._check_open()
        with self._lock:
            rows = list(self._rows)
        bodies = [len(row.body) for row in rows if row.body is not None]
        return {
            "events": len(rows),
            "streams": len({row.stream for row in rows}),
            "erased": len(rows) - len(bodies),
            "body_bytes": sum(bodies),
            "largest_body_bytes": max(bodies, default=0),
            "first_at": min((row.at for row in rows), default=None),
            "last_at": max((row.at for row in rows), default=None),
            "kinds": dict(
                sorted(Counter(row.kind for row in rows).items(), key=lambda item: (-item[1], item[0]))
            ),
        }

    def engine(self) -> dict[str, Any]:
        """See Store.engine."""
        return {"name": "memory", "version": "1", "pragmas": {}}

    def close(self) -> None:
        """See Store.close."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the store in memory was closed", "make a new one")
