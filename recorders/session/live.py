"""The live line of an action, for whoever watches (contract S5)."""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING, Final, TextIO

from . import urn

if TYPE_CHECKING:
    from .records import ActionRecord

SIGNS: Final = {"verified": "+", "failed": "x", "retry": "~", "skipped": "-"}
_DETAIL_CHARACTERS_MAX: Final = 160


def live_line(action: ActionRecord) -> str:
    """Time (UTC), kernel, action type, sign, outcome, detail, attempt; one line, whatever the texts hold."""
    detail = printable(action.diff_summary or action.note)
    if len(detail) > _DETAIL_CHARACTERS_MAX:
        detail = detail[: _DETAIL_CHARACTERS_MAX - 1] + "…"
    columns = [
        action.recorded_at.strftime("%H:%M:%S.%f")[:-3],
        f"{printable(urn.kernel_name(action.kernel)):<20}",
        f"{printable(action.action_type):<24}",
        SIGNS[action.outcome],
        f"{action.outcome:<8}",
        detail,
        f"(attempt {action.attempt})" if action.attempt > 1 else "",
    ]
    return " ".join(column for column in columns if column).rstrip()


def show_live(action: ActionRecord, out: TextIO | None = None) -> None:
    """Write the live line to `out` (default stderr). Nobody watching any more is no trouble."""
    target = sys.stderr if out is None else out
    try:
        target.write(live_line(action) + "\n")
        target.flush()
    except (AttributeError, OSError, ValueError):  # no stream, a broken pipe, a closed file, an encoding
        pass


def printable(text: str) -> str:
    """The text with everything escaped that could move the cursor, change colours or reorder the line."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode()
        for c in text
    )
