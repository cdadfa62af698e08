"""What `Ledger` and `AsyncLedger` refuse of their arguments alike, and say on errors that are not theirs."""

from __future__ import annotations

from typing import Any

from .errors import BadHead, InvalidEvent
from .event import Head


def check_chunk(chunk: int) -> None:
    """Refuse a chunk size of `append_many` that would append nothing."""
    if chunk < 1:
        raise InvalidEvent("chunk", f"{chunk!r} is no chunk size", "give at least 1")


def note_appended(error: Exception, stored: int) -> None:
    """Say on an exception of an app's iterable how many of its events `append_many` had stored."""
    error.add_note(f"append_many had stored {stored:,} events before; those stay in the ledger")


def check_seq(value: Any, name: str, *, optional: bool = False) -> None:
    """Refuse what is no seq, such as a string of digits."""
    if (value is None and optional) or (isinstance(value, int) and not isinstance(value, bool)):
        return
    raise InvalidEvent(name, f"{value!r} is no seq", "give an integer")


def expected_head(expect: Any) -> Head | None:
    """A head that was kept elsewhere, given as such or as its line. Raises BadHead."""
    if isinstance(expect, str):
        return Head.parse(expect)
    if expect is not None and not isinstance(expect, Head):
        raise BadHead(repr(expect))
    return expect
