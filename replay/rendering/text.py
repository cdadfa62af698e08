"""A report in lines of text, for people."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..differences import ABSENT
from ..outcome import verdict_line
from ..report import Entry, Layer, ReplayReport, Result

#: What each layer is about, in a line.
ABOUT: Final = {
    Layer.CHAIN: "hashes and links",
    Layer.DIGEST: "digests, numbers and counts in bodies",
    Layer.DECISION: "verdicts decided again",
    Layer.EXECUTION: "tasks run again",
    Layer.VIEW: "stored tables and sealed digests",
}
#: Entries that are written out; all are in the report.
ENTRIES_SHOWN: Final = 50
_VALUE_SHOWN: Final = 100
#: What a decision says of the log before it: after an altered event, of every decision that follows.
SNAPSHOT: Final = "memory_snapshot"


def report_text(report: ReplayReport) -> str:
    """The whole report, the verdict first."""
    return "\n".join([verdict_line(report), "", *_layers(report), *_diverged(report), *_others(report)])


def _layers(report: ReplayReport) -> list[str]:
    lines = [f"{'layer':<10} {'match':>10} {'diverged':>9} {'not re-derivable':>17}  what"]
    for layer, counts in report.layers.items():
        numbers = f"{counts.match:>10,} {counts.diverged:>9,} {counts.not_rederivable:>17,}"
        lines.append(f"{layer:<10} {numbers}  {ABOUT[layer]}")
    return lines


def _diverged(report: ReplayReport) -> list[str]:
    found = [entry for entry in report.entries if entry.result is Result.DIVERGED]
    lines = [""] if found else []
    told, following = _told_once(found)
    for entry in told[:ENTRIES_SHOWN]:
        lines.append(f"event {entry.seq}, {entry.layer}: {entry.what}{_why(entry)}")
        for difference in entry.differences:
            where = f"  at {difference.path}:" if difference.path else " "
            expected, actual = _shown(difference.expected), _shown(difference.actual)
            lines.append(f"{where} expected {expected}, recorded {actual}")
    if following:
        events = f"events {following[0].seq} to {following[-1].seq}" if len(following) > 1 else "one event"
        why = f"{SNAPSHOT} names a hash from before the change"
        lines.append(f"{len(following):,} more follow from it: {why} ({events})")
    rest = report.diverged - min(len(told), ENTRIES_SHOWN) - len(following)
    if rest > 0:
        lines.append(f"… and {rest:,} more that diverged")
    return lines


def _told_once(found: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """What is written out, and the decisions whose snapshot alone is off, as of all after an altered event.

    The first of these is written out, too. One that is off with nothing altered before it is told by itself.
    """
    told: list[Entry] = []
    following: list[Entry] = []
    shown = False
    for entry in found:
        if (
            entry.layer is Layer.DIGEST
            and entry.what == SNAPSHOT
            and entry.differences
            and found[0].seq < entry.seq
        ):
            (following if shown else told).append(entry)
            shown = True
        else:
            told.append(entry)
    return told, following


def _others(report: ReplayReport) -> list[str]:
    lines = [""] if report.reasons else []
    for reason in report.reasons:
        where = f"{reason.count:,} not re-derivable in {reason.layer}"
        lines.append(f"{where}: {reason.reason} (first: event {reason.first_seq})")
    seen = sum(one.events for one in report.observed)
    if seen:
        lines += [
            "",
            f"observed once and never compared, in {seen:,} events: clocks, run ids, texts of errors",
        ]
    return lines


def _why(entry: Entry) -> str:
    return "" if entry.reason is None else f" ({entry.reason})"


def _shown(value: Any) -> str:
    if value == ABSENT:
        return "nothing"
    text = msgspec.json.encode(value, order="sorted").decode()
    return text if len(text) <= _VALUE_SHOWN else f"{text[: _VALUE_SHOWN - 1]}…"
