"""Storing the record of work that is done: whatever happens, what the work gave comes back.

Nothing is raised here: what came of it is in a `Stored`, since a recorder has more to say than that a
record was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from tallystick.ledger.aio import AsyncLedger
from tallystick.ledger.errors import RecordingFailed, Unavailable
from tallystick.ledger.event import NewEvent, Receipt
from tallystick.ledger.ledger import Ledger

from .capture import text_of


class Stored(msgspec.Struct, frozen=True):
    """What came of storing a record. cancelled: the cancellation that came meanwhile."""

    receipts: list[Receipt] | None = None
    lost: RecordingFailed | None = None
    cancelled: asyncio.CancelledError | None = None


#: Without a ledger.
NOT_STORED: Final = Stored()
#: In a batch.
WAITING: Final = Stored()


def record(ledger: Ledger | AsyncLedger, make: Callable[[], NewEvent], result: object) -> Stored:
    """Store the event that `make` gives, of work that gave `result`."""
    try:
        underlying = ledger.ledger if isinstance(ledger, AsyncLedger) else ledger
        receipts = underlying.record([make()], result=result)
        return WAITING if receipts is None else Stored(receipts)
    except Exception as error:
        return Stored(lost=_lost(error, result))


async def record_async(
    ledger: Ledger | AsyncLedger | None, make: Callable[[], NewEvent], result: object
) -> Stored:
    """`record` without blocking the event loop. When cancelled it waits for the store all the same."""
    if ledger is None:
        return NOT_STORED
    try:
        event = make()  # here and now: other tasks may change what the work gave once this one waits
    except Exception as error:
        return Stored(lost=_lost(error, result))
    if isinstance(ledger, AsyncLedger):
        storing = asyncio.create_task(_record_in_loop(ledger, event, result))
    else:
        storing = asyncio.create_task(asyncio.to_thread(record, ledger, lambda: event, result))
    cancelled = None
    while not storing.done():
        try:
            await asyncio.wait([storing])
        except asyncio.CancelledError as error:
            cancelled = error
    if storing.cancelled():  # with all tasks, since the loop ends: it may be stored, and may not
        return Stored(cancelled=cancelled or asyncio.CancelledError())
    return msgspec.structs.replace(storing.result(), cancelled=cancelled)


async def _record_in_loop(ledger: AsyncLedger, event: NewEvent, result: object) -> Stored:
    try:
        return Stored(await ledger.record([event], result=result))
    except Exception as error:
        return Stored(lost=_lost(error, result))


def _lost(error: Exception, result: object) -> RecordingFailed:
    """The error as one that hands the result back; one of no kind of ours must not lose it either."""
    if isinstance(error, RecordingFailed):
        return error
    problem = f"{type(error).__name__}: {text_of(lambda: str(error), 'no more is known')}"
    lost = RecordingFailed(Unavailable("the record", problem), [result])
    lost.__cause__ = error
    return lost


def settle(interrupt: BaseException | None, lost: RecordingFailed | None) -> None:
    """Raise the interrupt, which then has the lost record as its context; else the lost record."""
    if interrupt is None:
        if lost is not None:
            raise lost
        return
    if lost is None:
        raise interrupt
    with suppress(Exception):
        interrupt.add_note(str(lost))
    try:
        raise lost
    except RecordingFailed:
        raise interrupt from interrupt.__cause__
