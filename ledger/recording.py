"""How Tallystick's own recorders write: reserved kinds, one commit for what belongs together, batches.

A recorder's event records work that was done already, so it must not be lost for want of room or
of a name: the errors say what could not be stored and hand the work's result back. Inside a batch,
events wait in memory and are committed a chunk at a time.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import msgspec

from .drafting import Drafter
from .errors import RecordingFailed, TallyError
from .event import Draft, NewEvent, Receipt

Submit = Callable[[Sequence[Draft], tuple[str, int] | None], list[Receipt]]


class Batch:
    """Recorded events that wait for their commit. `Ledger.batch` makes one; threads may share it."""

    def __init__(self, submit: Submit, chunk: int) -> None:
        self._submit = submit
        self._chunk = chunk
        self._lock = threading.Lock()
        self._drafts: list[Draft] = []
        self._results: list[Any] = []
        self._over = False

    def add(self, drafts: Sequence[Draft], result: Any) -> bool:
        """Keep the drafts for the next commit, which comes now if a chunk is full.

        False if the batch is over: a task or thread started inside it may outlive it.
        """
        with self._lock:
            if self._over:
                return False
            self._drafts += drafts
            if result is not msgspec.UNSET:
                self._results.append(result)
            if len(self._drafts) >= self._chunk:
                self._flush()
            return True

    def flush(self) -> None:
        """Commit what waits. Raises RecordingFailed, whose `results` are those of the lost events."""
        with self._lock:
            self._flush()

    def end(self) -> None:
        """Commit what waits, and take no more."""
        with self._lock:
            self._over = True
            self._flush()

    def _flush(self) -> None:
        drafts, results = self._drafts, self._results
        self._drafts, self._results = [], []
        if not drafts:
            return
        try:
            self._submit(drafts, None)
        except TallyError as error:
            raise RecordingFailed(error, results) from error


#: The batch in force for each ledger, by the number of its Recording.
_numbers = itertools.count()
_NO_BATCHES: Final[Mapping[int, Batch]] = {}
_batches: ContextVar[Mapping[int, Batch]] = ContextVar("tallystick_batch")


class Recording:
    """What one ledger's recorders share: drafting, and the batch in force."""

    def __init__(self, drafter: Drafter, submit: Submit) -> None:
        self._drafter = drafter
        self._submit = submit
        self._number = next(_numbers)

    def record(
        self, events: Sequence[NewEvent], expect: tuple[str, int] | None, result: Any
    ) -> list[Receipt] | None:
        """See `Ledger.record`."""
        try:
            drafts = self.drafts(events)
            batch = _batches.get(_NO_BATCHES).get(self._number)
            if batch is not None:
                if expect is None and batch.add(drafts, result):
                    return None
                batch.flush()  # what waits comes first
            return self._submit(drafts, expect)
        except RecordingFailed:
            raise
        except TallyError as error:
            if result is msgspec.UNSET:
                raise
            raise RecordingFailed(error, [result]) from error

    def drafts(self, events: Sequence[NewEvent]) -> list[Draft]:
        """The drafts of a recorder's events; touches no store."""
        return [self._drafter.recorded(event) for event in events]

    @contextmanager
    def batch(self, chunk: int) -> Iterator[Batch]:
        """See `Ledger.batch`. A batch inside a batch is the same one."""
        outer = _batches.get(_NO_BATCHES)
        around = outer.get(self._number)
        if around is not None:
            try:
                yield around
            finally:
                around.flush()
            return
        batch = Batch(self._submit, chunk)
        token = _batches.set({**outer, self._number: batch})
        try:
            yield batch
        finally:
            _batches.reset(token)
            batch.end()
