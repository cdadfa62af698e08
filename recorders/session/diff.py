"""From one state to another, in a line (contract S2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ..capture import Captured, text_of

NO_CHANGE: Final = "no change"
_SEPARATOR: Final = " | "
_MAX_CHARACTERS: Final = 16_384
#: Fixed here and not asked of Python's Unicode tables, so that replay derives the same text for ever.
_LINE_BREAKERS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def diff_of(before: Any, after: Any, before_kept: Captured, after_kept: Captured) -> str:
    """The summary of two states, given with what is kept of them.

    Where both are kept whole, the summary is that of the kept values, so that it can be derived again
    from the record alone; else that of the values themselves.
    """
    if before_kept.placeholders or after_kept.placeholders:
        return diff_summary(before, after)
    return diff_summary(before_kept.value, after_kept.value)


def diff_summary(before: Any, after: Any) -> str:
    """What differs between two states; never raises for what they are.

    Of two mappings the top-level keys that differ, in order, joined with ` | `: `key: old -> new` if either
    value is a string, number or boolean, else `key: changed`. A missing key counts as None. Other states
    compare as one value without a key. `no change` if they are equal.
    """
    old, new = _mapping(before), _mapping(after)
    if old is None or new is None:
        parts = [] if _same(before, after) else [_change(before, after)]
    else:
        names = {key: text_of(lambda key=key: str(key), "?") for key in {**old, **new}}  # type: ignore[misc]
        parts = [
            f"{name}: {_change(old.get(key), new.get(key))}"
            for key, name in sorted(names.items(), key=lambda item: item[1])
            if not _same(old.get(key), new.get(key))
        ]
    line = _LINE_BREAKERS.sub(_escaped, _SEPARATOR.join(parts) or NO_CHANGE)
    return line if len(line) <= _MAX_CHARACTERS else line[: _MAX_CHARACTERS - 1] + "…"


def _change(old: Any, new: Any) -> str:
    if isinstance(old, (str, int, float)) or isinstance(new, (str, int, float)):
        return f"{text_of(lambda: str(old), '?')} -> {text_of(lambda: str(new), '?')}"
    return "changed"


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; values that cannot say so are the same only if they are one."""
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:
        return False


def _mapping(state: Any) -> dict[Any, Any] | None:
    if not isinstance(state, Mapping):
        return None
    try:
        return dict(state)
    except Exception:  # it is no mapping after all
        return None


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
