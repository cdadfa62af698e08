"""HTML put together so that no text becomes markup: whatever is not `Markup` is escaped where it is put in.

This is the only place that escapes. Pure: texts in, texts out.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from typing import Final

_VOID: Final = frozenset({"meta"})
_KEPT_BLANKS: Final = "\n\t"


class Markup(str):
    """HTML that is as it should be. Only this module makes it."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """The text as HTML that shows it: characters that nobody would see are written out and marked."""
    if type(text) is Markup:
        return text
    if text.replace("\n", "").replace("\t", "").isprintable():
        return Markup(html.escape(text))
    return Markup(
        "".join(
            f'<span class="unseen">{html.escape(written_out("".join(run)))}</span>'
            if unseen
            else html.escape("".join(run))
            for unseen, run in groupby(text, _is_unseen)
        )
    )


def visible(text: str) -> str:
    """The text as a reader sees it: characters that nobody would see are written out."""
    return "".join(written_out(each) if _is_unseen(each) else each for each in text)


def written_out(text: str) -> str:
    r"""Every character as its escape: \x00, \u202e."""
    return "".join(each.encode("unicode_escape").decode("ascii") for each in text)


@lru_cache(4096)
def _is_unseen(character: str) -> bool:
    """Controls, what turns the direction of text, what joins or breaks unseen, what is no character."""
    if character.isprintable() or character in _KEPT_BLANKS:
        return False
    return unicodedata.category(character) != "Zs"  # spaces of other widths


def element(name: str, /, *children: str, **attributes: str | bool | None) -> Markup:
    """An element. Attributes: `class_` for class, `aria_label` for aria-label; True for a bare name."""
    start = opening(name, **attributes)
    return start if name in _VOID else Markup(f"{start}{joined(children)}</{name}>")


def opening(name: str, /, **attributes: str | bool | None) -> Markup:
    """The start of an element whose content comes piece by piece."""
    given = "".join(
        f" {_name(key)}" if value is True else f' {_name(key)}="{_attribute(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{given}>")


def closing(name: str) -> Markup:
    """The end of an element that was opened."""
    return Markup(f"</{name}>")


def joined(children: Iterable[str], separator: str = "") -> Markup:
    """Several in a row; with a separator between them."""
    return Markup(escaped(separator).join(map(escaped, children)))


def page(head: Iterable[Markup], body: Iterable[Markup], style: str) -> Iterator[Markup]:
    """A whole page in English, piece by piece. style: CSS of this package, which is put in as it is."""
    assert "</" not in style and "<!" not in style, "the style sheet holds no markup"
    yield Markup(
        f'<!doctype html>\n<html lang="en">\n<head>\n{joined(head)}<style>{style}</style>\n</head>\n'
    )
    yield Markup("<body>\n")
    yield from body
    yield Markup("\n</body>\n</html>\n")


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _attribute(value: str) -> str:
    return html.escape(visible(value).replace("\n", " "))
