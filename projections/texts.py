"""What the built-in projections share: reading times, streams and bounded texts out of bodies."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Final

import msgspec

from tallystick.events.session import STREAM_PREFIX

#: An integer that a column can hold.
Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
NULL: Final = msgspec.Raw(b"null")
#: Evidence and outputs are searched, and shown, up to here; the event has the rest.
TEXT_BYTES_MAX: Final = 4000

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_ESCAPE: Final = re.compile(r"\\(?:u[0-9A-Fa-f]{4}|.)")
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def session_of(stream: str) -> str | None:
    """The session that a stream is, or None."""
    return stream[len(STREAM_PREFIX) :] if stream.startswith(STREAM_PREFIX) else None


def microseconds(text: str | None, otherwise: int) -> int:
    """A time in ISO 8601 as microseconds since 1970 UTC; `otherwise` for none, or what is no time."""
    if not text:
        return otherwise
    try:
        time = dt.datetime.fromisoformat(text)
        if time.tzinfo is None:
            time = time.replace(tzinfo=dt.UTC)
        return (time - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        return otherwise


def text_of(raw: msgspec.Raw) -> str | None:
    """A JSON value as text to search: a string as it is, anything else as JSON, escapes resolved; bounded.

    None for null.
    """
    data = bytes(raw)
    if data == b"null":
        return None
    text = data[:TEXT_BYTES_MAX].decode("utf-8", "ignore")
    if data[:1] == b'"':
        text = text[1:-1] if len(data) <= TEXT_BYTES_MAX else text[1:]
    return _ESCAPE.sub(_unescaped, text) if "\\" in text else text


def _unescaped(match: re.Match[str]) -> str:
    escape = match[0][1:]
    if len(escape) == 5:
        character = chr(int(escape[1:], 16))
        return character if not "\ud800" <= character <= "\udfff" else "\ufffd"
    return _ESCAPED.get(escape, escape)


def content_text(content: Any) -> str | None:
    """The text of a message's content: itself, or the texts among its parts, a line each."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [
        part if isinstance(part, str) else part["text"]
        for part in content
        if isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str))
    ]
    return "\n".join(texts) if texts else None
