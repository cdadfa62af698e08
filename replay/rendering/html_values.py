"""Values in the HTML report: cut where they are large; two of them side by side, the difference marked."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any, Final

import msgspec

from ..differences import ABSENT
from ..report import Difference
from .markup import Markup, element

#: Characters of a value that are shown; of more, it is said how many.
VALUE_CHARACTERS_MAX: Final = 2000
#: Lines of a value that are shown side by side with another's.
_LINES_MAX: Final = 100
_PATH_CHARACTERS_MAX: Final = 400
#: A value of fewer characters stands on one line.
_LINE_CHARACTERS: Final = 70
_NOTHING: Final = element("i", "nothing is there")
_EMPTY: Final = element("i", "an empty text")
_encode = msgspec.json.Encoder(order="sorted").encode


def value_markup(value: Any, characters: int = VALUE_CHARACTERS_MAX) -> Markup:
    """A value: a text as it is, anything else as JSON; a text that could be taken for JSON in quotes."""
    if value == "":
        return _EMPTY
    if isinstance(value, str) and not _looks_like_json(value):
        return element("code", *_cut(value, characters))
    return element("code", *_cut(pretty(value), characters))


def pretty(value: Any) -> str:
    """A value as JSON, indented unless it is short or large."""
    try:
        data = _encode(value)
    except (UnicodeEncodeError, ValueError, TypeError, RecursionError):
        return ascii(value)  # nothing that was ever stored
    if not _LINE_CHARACTERS < len(data) <= VALUE_CHARACTERS_MAX:
        return data.decode()
    return msgspec.json.format(data, indent=2).decode()


def side_by_side(difference: Difference) -> Markup:
    """A difference as a table: what was derived again on the left, what is recorded on the right."""
    return element(
        "table",
        element("caption", "at ", element("code", *_cut(difference.path, _PATH_CHARACTERS_MAX)))
        if difference.path
        else "",
        element(
            "thead",
            element(
                "tr",
                element("th", "expected: derived again", scope="col"),
                element("th", "recorded", scope="col"),
            ),
        ),
        element("tbody", *_rows(difference)),
        class_="sides",
    )


def _rows(difference: Difference) -> Iterator[Markup]:
    if ABSENT in (difference.expected, difference.actual):
        sides = (difference.expected, difference.actual)
        yield element("tr", *(_cell(_NOTHING if one == ABSENT else _marked(one)) for one in sides))
        return
    ours, theirs = _lines(difference.expected), _lines(difference.actual)
    for tag, i, i_end, j, j_end in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if tag == "equal":
            for line in ours[i:i_end]:
                yield element("tr", _cell(element("code", line)), _cell(element("code", line)))
            continue
        for place in range(max(i_end - i, j_end - j)):
            left = ours[i + place] if i + place < i_end else None
            right = theirs[j + place] if j + place < j_end else None
            yield element("tr", *map(_cell, _pair(left, right)))


def _cell(content: Markup) -> Markup:
    return element("td", content)


def _marked(value: Any) -> Markup:
    return element("code", element("mark", *_cut(pretty(value), VALUE_CHARACTERS_MAX)))


def _pair(left: str | None, right: str | None) -> tuple[Markup, Markup]:
    """Two lines, marked where they differ."""
    if left is None or right is None:
        one, other = (
            Markup() if line is None else element("code", element("mark", line)) for line in (left, right)
        )
        return one, other
    start, end = _common(left, right)
    one, other = (
        element(
            "code",
            line[:start],
            element("mark", line[start : len(line) - end]) if len(line) > start + end else "",
            line[len(line) - end :],
        )
        for line in (left, right)
    )
    return one, other


def _common(left: str, right: str) -> tuple[int, int]:
    """How many characters two lines have in common at their start and at their end, in whole words."""
    start = _same_start(left, right)
    while start and any(_in_word(line, start) for line in (left, right)):
        start -= 1
    end = _same_start(left[start:][::-1], right[start:][::-1])
    while end and any(_in_word(line, len(line) - end) for line in (left, right)):
        end -= 1
    return start, end


def _same_start(left: str, right: str) -> int:
    places = (place for place, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    return next(places, min(len(left), len(right)))


def _in_word(line: str, place: int) -> bool:
    """Whether a place is inside a word."""
    return 0 < place < len(line) and _is_letter(line[place - 1]) and _is_letter(line[place])


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_"


def _lines(value: Any) -> list[str]:
    text = pretty(value)
    lines = text[:VALUE_CHARACTERS_MAX].split("\n")[:_LINES_MAX]
    missing = len(text) - len("\n".join(lines))
    return [*lines, f"… and {missing:,} characters more"] if missing else lines


def _cut(text: str, characters: int) -> Iterator[str]:
    yield text[:characters]
    if len(text) > characters:
        yield element("i", f"… and {len(text) - characters:,} characters more")


def _looks_like_json(text: str) -> bool:
    """Whether a reader could not tell the text from another value."""
    if len(text) > VALUE_CHARACTERS_MAX:
        return False
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True
