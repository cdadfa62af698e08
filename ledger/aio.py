"""The ledger for asyncio code: the same calls, awaited.

Appends made at the same time by many tasks are committed together, as those of threads are:
they queue as requests of the same committer, and one worker thread leads.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from .arguments import check_chunk, note_appended
from .committer import Request
from .drafting import DEFAULT_STREAM
from .errors import Closed, LedgerMoved, RecordingFailed, TallyError
from .event import Draft, Event, Head, NewEvent, Receipt
from .ledger import CHUNK_EVENTS, FOLLOW_POLL_S, Ledger
from .verify import Report

READ_AHEAD_EVENTS: Final = 500


class _TaskRequest(Request):
    """A request whose caller awaits a future."""

    def __init__(
        self, drafts: Sequence[Draft], expect: tuple[str, int] | None, lead: Callable[[], object]
    ) -> None:
        super().__init__(drafts, expect)
        self._loop = asyncio.get_running_loop()
        self._lead = lead
        self.future: asyncio.Future[list[Receipt]] = self._loop.create_future()

    def wake(self) -> None:
        """From the leading thread: settle the future, or find a thread to lead."""
        if not self.done:
            self._lead()
            return
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self.future.done():
            return  # its task was cancelled; the events are in the ledger all the same
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            assert self.receipts is not None
            self.future.set_result(self.receipts)


class AsyncLedger:
    """`Ledger` for asyncio. Use as `async with AsyncLedger.open(path) as ledger`.

    A cancelled append may have happened: give it a key to be able to ask again. Not to be
    shared between event loops.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._leader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tallystick-commit")
        self._closed = False

    @classmethod
    def open(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Open a ledger file; the options are those of `Ledger.open`."""
        return cls(Ledger.open(path, **options))

    async def append(
        self,
        kind: str,
        body: Any = msgspec.UNSET,
        *,
        stream: str = DEFAULT_STREAM,
        key: str | None = None,
        meta: Mapping[str, Any] | None = None,
        at: int | None = None,
        expect: int | None = None,
    ) -> Receipt:
        """See Ledger.append."""
        draft, position = self.ledger.prepare(
            kind, body, stream=stream, key=key, meta=meta, at=at, expect=expect
        )
        return (await self._submit((draft,), position))[0]

    async def append_many(
        self,
        events: Iterable[NewEvent | Mapping[str, Any]],
        *,
        chunk: int = CHUNK_EVENTS,
        atomic: bool = False,
    ) -> list[Receipt]:
        """See Ledger.append_many."""
        check_chunk(chunk)
        receipts: list[Receipt] = []
        source = iter(events)
        try:
            while batch := list(source) if atomic else list(islice(source, chunk)):
                receipts += await self._submit(self.ledger.prepare_many(batch, len(receipts)), None)
        except TallyError as error:
            raise error.after(len(receipts)) from None
        except Exception as error:
            note_appended(error, len(receipts))
            raise
        return receipts

    async def record(
        self,
        events: Sequence[NewEvent],
        *,
        expect: tuple[str, int] | None = None,
        result: Any = msgspec.UNSET,
    ) -> list[Receipt]:
        """See Ledger.record; batches do not hold here, since tasks share their commits anyway."""
        try:
            return await self._submit(self.ledger.prepare_records(events), expect)
        except TallyError as error:
            if result is msgspec.UNSET:
                raise
            raise RecordingFailed(error, [result]) from error

    async def _submit(self, drafts: Sequence[Draft], expect: tuple[str, int] | None) -> list[Receipt]:
        if self._closed:
            raise Closed("the ledger was closed", "open it again")
        request = _TaskRequest(drafts, expect, self._lead)
        if self.ledger.committer.enqueue(request):
            self._lead()
        return await request.future

    def _lead(self) -> None:
        try:
            self._leader.submit(self.ledger.committer.lead)
        except RuntimeError:  # closing: this thread leads what is left, so that nobody waits for ever
            self.ledger.committer.lead()

    async def read(
        self,
        after: int = 0,
        *,
        before: int | None = None,
        stream: str | None = None,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Event]:
        """See Ledger.read."""
        events = self.ledger.read(
            after, before=before, stream=stream, kinds=kinds, limit=limit, reverse=reverse
        )
        while page := await asyncio.to_thread(lambda: list(islice(events, READ_AHEAD_EVENTS))):
            for event in page:
                yield event

    async def follow(
        self,
        after: int | None = None,
        *,
        stream: str | None = None,
        kinds: Sequence[str] | None = None,
        poll_s: float = FOLLOW_POLL_S,
    ) -> AsyncIterator[Event]:
        """See Ledger.follow; ends when its task is cancelled."""
        seen = (await self.head()).seq if after is None else after
        while True:
            head = await self.head()
            if head.seq <= seen:
                await asyncio.sleep(poll_s)
                continue
            async for event in self.read(seen, before=head.seq + 1, stream=stream, kinds=kinds):
                yield event
            seen = head.seq

    async def get(self, seq: int) -> Event:
        """See Ledger.get."""
        return await asyncio.to_thread(self.ledger.get, seq)

    async def head(self) -> Head:
        """See Ledger.head."""
        return await asyncio.to_thread(self.ledger.head)

    async def erase(self, seq: int, reason: str) -> Receipt:
        """See Ledger.erase."""
        return await asyncio.to_thread(self.ledger.erase, seq, reason)

    async def backup(self, path: str | os.PathLike[str]) -> Head:
        """See Ledger.backup."""
        return await asyncio.to_thread(self.ledger.backup, path)

    async def stats(self) -> dict[str, Any]:
        """See Ledger.stats."""
        return await asyncio.to_thread(self.ledger.stats)

    async def verify(self, expect: Head | str | None = None, **options: Any) -> Report:
        """See Ledger.verify."""
        return await asyncio.to_thread(lambda: self.ledger.verify(expect, **options))

    def register(self, kind: str, body: type[msgspec.Struct]) -> None:
        """See Ledger.register."""
        self.ledger.register(kind, body)

    def context(self, **meta: Any) -> AbstractContextManager[None]:
        """See Ledger.context; holds in the current task."""
        return self.ledger.context(**meta)

    async def close(self) -> None:
        """See Ledger.close; appends that were under way are finished first."""
        self._closed = True
        await asyncio.to_thread(self._leader.shutdown)
        await asyncio.to_thread(self.ledger.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except LedgerMoved as moved:
            if error is None:
                raise
            if not isinstance(error, LedgerMoved):
                error.add_note(str(moved))
