"""Group commit: concurrent appends share one transaction, and no delay is added.

Requests queue up; one caller leads: it takes what has queued, chains it, commits it, wakes
each caller by the caller's own lock, and hands the lead to the next in the queue. A lone
caller finds the queue empty and leads at once.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from typing import Final

from .chain import Hasher
from .errors import Closed, KeyConflict, OutcomeUnknown, PositionConflict, StoreError, TallyError, Unavailable
from .event import Draft, Head, Receipt, Row
from .store import Store

#: Events in one commit, at most; a single request may be larger.
GROUP_EVENTS_MAX: Final = 4096


class Request(ABC):
    """One caller's events, to be stored together or not at all, and what became of them."""

    def __init__(self, drafts: Sequence[Draft], expect: tuple[str, int] | None = None) -> None:
        self.drafts = drafts
        self.expect = expect
        self.receipts: list[Receipt] | None = None
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether it was committed or refused."""
        return self.receipts is not None or self.error is not None

    @abstractmethod
    def wake(self) -> None:
        """Tell the caller that the request is done, or that it must lead."""

    def result(self) -> list[Receipt]:
        """The receipts, or the error raised."""
        if self.error is not None:
            raise self.error
        assert self.receipts is not None
        return self.receipts


class _ThreadRequest(Request):
    """A request whose caller sleeps on a lock."""

    def __init__(self, drafts: Sequence[Draft], expect: tuple[str, int] | None) -> None:
        super().__init__(drafts, expect)
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wake(self) -> None:
        self._asleep.release()

    def sleep(self) -> None:
        self._asleep.acquire()


class Committer:
    """The one way into a store: places drafts in the chain and commits them in groups."""

    def __init__(self, store: Store, on_commit: Callable[[Head], None], patience_s: float = 30.0) -> None:
        self._store = store
        self._on_commit = on_commit
        self._patience_s = patience_s
        self._mutex = threading.Lock()
        self._queue: deque[Request] = deque()
        self._hasher = Hasher()  # for whoever leads
        #: Who leads, or was told to; None when nothing waits.
        self._leader: Request | None = None

    def submit(self, drafts: Sequence[Draft], expect: tuple[str, int] | None = None) -> list[Receipt]:
        """Commit the drafts together with whatever else is waiting; one receipt a draft.

        `expect` is (stream, seq of its last event). Raises KeyConflict, PositionConflict and
        StoreErrors.
        """
        request = _ThreadRequest(drafts, expect)
        try:
            if not self.enqueue(request):
                request.sleep()
            if not request.done:
                self.lead()
        except BaseException:  # an interrupt of this thread
            self._withdraw(request)
            raise
        return request.result()

    def _withdraw(self, request: Request) -> None:
        """Take a request out of the queue if it waits there still, and hand its lead on."""
        with self._mutex:
            if request not in self._queue:
                return
            self._queue.remove(request)
            if self._leader is not request:
                return
            successor = self._leader = self._queue[0] if self._queue else None
        if successor is not None:
            successor.wake()

    def enqueue(self, request: Request) -> bool:
        """Queue a request; true if its caller must lead now, else it will be woken."""
        with self._mutex:
            self._queue.append(request)
            if self._leader is not None:
                return False
            self._leader = request
            return True

    def lead(self) -> None:
        """Commit the head of the queue, wake its callers, hand the lead on."""
        head = None
        group: list[Request] = []
        try:
            with self._mutex:
                group.append(self._queue.popleft())
                events = len(group[0].drafts)
                while self._queue and events + len(self._queue[0].drafts) <= GROUP_EVENTS_MAX:
                    group.append(self._queue.popleft())
                    events += len(group[-1].drafts)
            head = self._commit(group)
        finally:
            # Even an interrupt in mid-commit must not leave others asleep for ever.
            for request in group:
                if not request.done:
                    request.error = OutcomeUnknown(
                        "the commit was interrupted; ask the ledger before trying again"
                    )
                request.wake()
            with self._mutex:
                successor = self._leader = self._queue[0] if self._queue else None
            if successor is not None:
                successor.wake()
        if head is not None:
            self._on_commit(head)

    def _commit(self, group: list[Request]) -> Head | None:
        """Store the group in one transaction; the outcome is in each request. The new head."""
        placing = _Placing(self._store, group, self._hasher)
        try:
            head = self._store.append(placing.build)
        except OutcomeUnknown as unknown:
            if placing.answered and not placing.rows:  # there was nothing to store
                placing.succeed()
                return None
            try:
                stored = bool(placing.rows) and self._ask_until_known(placing.rows)
            except OutcomeUnknown as error:
                placing.fail(error)
                return None
            if not stored:
                placing.fail(Unavailable("the store", f"did not take the events ({unknown})", "try again"))
                return None
            head = Head(placing.rows[-1].seq, placing.rows[-1].hash)
        except (StoreError, Closed) as error:
            placing.fail(error)
            return None
        placing.succeed()
        return head

    def _ask_until_known(self, rows: Sequence[Row]) -> bool:
        """Whether the store has the rows, asked again until it answers.

        A row's hash covers random salt, so no other writer can have made the same one.
        """
        deadline = time.monotonic() + self._patience_s
        pause_s = 0.01
        while True:
            try:
                found = next(self._store.read(rows[0].seq - 1, limit=1), None)
                return found is not None and found.hash == rows[0].hash
            except (StoreError, OSError) as error:
                if time.monotonic() >= deadline:
                    raise OutcomeUnknown(
                        f"the store did not say within {self._patience_s:g} s whether it has the events "
                        f"({error}); look for them before appending again, or append with a key"
                    ) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)


class _Placing:
    """A group taking its place behind a head; made anew for every call of `build`."""

    def __init__(self, store: Store, group: list[Request], hasher: Hasher) -> None:
        self._store = store
        self._group = group
        self.rows: list[Row] = []
        self._outcomes: list[list[Receipt] | StoreError | KeyConflict | PositionConflict] = []
        self._keys: dict[str, Row] = {}
        self._stored: dict[str, Row] = {}
        self._hasher = hasher

    def build(self, head: Head) -> list[Row]:
        """The rows of every request that can be met, chained behind `head`."""
        self.rows, self._outcomes = [], []
        self._keys = {}
        keys = [draft.key for request in self._group for draft in request.drafts if draft.key is not None]
        self._stored = self._store.find_keys(keys) if keys else {}
        for request in self._group:
            mark = len(self.rows)
            try:
                self._outcomes.append(self._place(request, head))
            except (KeyConflict, PositionConflict) as error:
                self._outcomes.append(error)
                for row in self.rows[mark:]:
                    if row.key is not None:
                        del self._keys[row.key]
                del self.rows[mark:]
            if len(self.rows) > mark:
                head = Head(self.rows[-1].seq, self.rows[-1].hash)
        return self.rows

    def _place(self, request: Request, head: Head) -> list[Receipt]:
        receipts: list[Receipt] = []
        hasher = self._hasher
        seq, prev_hash = head.seq, head.hash
        expect = request.expect
        for draft in request.drafts:
            key = draft.key
            if key is not None:
                first = self._keys.get(key) or self._stored.get(key)
                if first is not None:
                    receipts.append(_same_event(first, draft, len(receipts)))
                    continue
            if expect is not None:
                self._check_position(*expect)
                expect = None
            seq += 1
            row = draft.place(seq, prev_hash, hasher)
            if key is not None:
                self._keys[key] = row
            self.rows.append(row)
            prev_hash = row.hash
            receipts.append(Receipt(seq, prev_hash, draft.at))
        return receipts

    def _check_position(self, stream: str, expected: int) -> None:
        actual = next((row.seq for row in reversed(self.rows) if row.stream == stream), None)
        if actual is None:
            actual = self._store.stream_head(stream)
        if actual != expected:
            raise PositionConflict(stream, expected, actual)

    @property
    def answered(self) -> bool:
        """Whether `build` ran to its end."""
        return len(self._outcomes) == len(self._group)

    def succeed(self) -> None:
        """Give each request its outcome, now that the rows are stored."""
        for request, outcome in zip(self._group, self._outcomes, strict=True):
            if isinstance(outcome, list):
                request.receipts = outcome
            else:
                request.error = outcome

    def fail(self, error: TallyError) -> None:
        """Give every request the error that kept the group from being stored, each its own copy.

        A caller adds to its error how many of its events were stored.
        """
        for request in self._group:
            request.error = copy(error)
            request.error.__cause__ = error.__cause__


def _same_event(first: Row, draft: Draft, index: int) -> Receipt:
    """The first receipt, if the draft asks for the very event that the key was used for."""
    assert draft.key is not None
    different = next((f for f in ("kind", "stream", "body") if getattr(first, f) != getattr(draft, f)), None)
    if different is not None:
        erased = different == "body" and first.body is None
        conflict = KeyConflict(draft.key, first.seq, different, erased)
        conflict.index = index
        raise conflict
    return Receipt(first.seq, first.hash, first.at)
