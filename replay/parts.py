"""What stands in a body, as text, whatever it holds: nothing is taken from it without a look at its type.

Shared by the command's timeline and the story of a report. Texts are raw: who prints them escapes them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

#: Signs of outcomes: of actions (contract S5), and of sessions.
SIGNS: Final[Mapping[str, str]] = {
    "verified": "+",
    "failed": "x",
    "retry": "~",
    "skipped": "-",
    "complete": "+",
    "partial": "~",
    "in_progress": "…",
    "expired": "-",
}

_EPOCH: Final = dt.datetime(1970, 1, 1)


def sign_of(outcome: str) -> str:
    """The sign of an outcome; a question mark for one that there is not."""
    return SIGNS.get(outcome, "?")


def part(value: Any, *path: str) -> Any:
    """What stands in a body under these names; None if there is nothing, or no such place."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def text_part(value: Any, *path: str) -> str:
    """The text in a body under these names; anything else as JSON, and nothing as an empty text."""
    found = part(value, *path)
    if found is None:
        return ""
    return found if isinstance(found, str) else json_line(found)


def json_line(value: Any) -> str:
    """A value as JSON on one line."""
    return msgspec.json.encode(value).decode()


def content_text(content: Any) -> str:
    """A message's content as text: its text, or the texts among its parts and the types of the others."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(each, dict) and "type" in each for each in content):
        texts = (each.get("text") for each in content)
        return " ".join(
            text if isinstance(text, str) else f"[{text_part(each, 'type')}]"
            for text, each in zip(texts, content, strict=True)
        )
    return json_line(content)


def call_text(name: str, arguments: Any) -> str:
    """A call: what was called, and with which arguments."""
    return f"{name or '?'} {arguments if isinstance(arguments, str) else json_line(arguments)}"


def tool_calls(turn: Any) -> list[str]:
    """The calls that a message asks for."""
    listed = part(turn, "tool_calls")
    return [
        call_text(text_part(call, "name"), part(call, "arguments"))
        for call in (listed if isinstance(listed, list) else [])
    ]


def kernel_text(urn: str) -> str:
    """A kernel's URN without what is the same for all."""
    return urn.removeprefix("ckp://Kernel#").removesuffix(":v1.0") or "?"


def time_text(at: int, precision: str = "milliseconds") -> str:
    """A time (microseconds since 1970 UTC) in UTC: 2026-03-12 14:30:00.123Z.

    The number itself where no calendar has it. precision: as `isoformat` has it.
    """
    try:
        moment = _EPOCH + dt.timedelta(microseconds=at)
    except OverflowError:
        return f"{at} µs"
    return f"{moment.isoformat(' ', precision)}Z"


def erased_text(erased: Any) -> str:
    """How many bodies a list of seqs says were erased, in words."""
    count = len(erased) if isinstance(erased, list) else 0
    return f"{count:,} {'body was' if count == 1 else 'bodies were'} erased"
