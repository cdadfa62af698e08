"""What a report comes to: its verdict in one line, and what was not derived again behind a MATCH.

Whoever hides an alteration makes it look like something that cannot be derived again: a decision by an engine
that nobody knows, a body of a later version. So the first line says what was not decided, and a replay of one
decision whose verdict was not decided again is no MATCH.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from .layers.checks import NOT_HERE, UNKNOWN_VERSION
from .layers.decision import MEMORY_BROKEN, MEMORY_ERASED, MEMORY_TOO_LARGE
from .layers.digest import UNKNOWN_KIND
from .layers.digest_gateway import LEARNED_NOT_HERE, REDACTED
from .report import Entry, Layer, ReplayReport

#: Reasons of the layer `decision` for which the verdict was decided again all the same.
_DECIDED: Final = frozenset({MEMORY_BROKEN, MEMORY_ERASED, MEMORY_TOO_LARGE})
#: What is no finding however strict one is: records that are as they should be.
_NORMAL: Final = frozenset({REDACTED, NOT_HERE, LEARNED_NOT_HERE})
_UNKNOWN: Final = frozenset({UNKNOWN_KIND, UNKNOWN_VERSION})


class Outcome(StrEnum):
    """The first word, or words, of a verdict."""

    MATCH = "MATCH"
    DIVERGED = "DIVERGED"
    #: One decision was asked for, and nothing shows its verdict.
    NOT_REDERIVABLE = "NOT RE-DERIVABLE"


def outcome(report: ReplayReport) -> Outcome:
    """What a report comes to."""
    if report.first is not None:
        return Outcome.DIVERGED
    counts = report.layers.get(Layer.DECISION)
    if report.selection.decision is not None and counts is not None:
        return Outcome.NOT_REDERIVABLE if undecided(report) or not counts.match else Outcome.MATCH
    return Outcome.MATCH


def undecided(report: ReplayReport) -> int:
    """How many recorded verdicts were not decided again."""
    reasons = (one for one in report.reasons if one.layer is Layer.DECISION)
    return sum(one.count for one in reasons if one.reason not in _DECIDED)


def not_rederivable(report: ReplayReport, *, strict: bool = False) -> int:
    """How many checks could not be derived again; strict: of those that are a finding with `--strict`.

    A redaction is none: the digests of the request cannot be made again, the verdict can, and is. Nor is it
    one that a pack holds a part of a ledger.
    """
    return sum(one.count for one in report.reasons if not (strict and one.reason in _NORMAL))


def verdict_line(report: ReplayReport) -> str:
    """`MATCH …`, `DIVERGED …` or `NOT RE-DERIVABLE …`, in one line."""
    first = report.first
    if first is not None:
        why = "" if first.reason is None else f" ({first.reason})"
        return f"{Outcome.DIVERGED} at event {first.seq}, layer {first.layer}: {first.what}{why}"
    word = outcome(report)
    if word is Outcome.NOT_REDERIVABLE:
        return f"{word} decision {report.selection.decision}: {_why_undecided(report)}"
    events = f"{report.events:,} event{'' if report.events == 1 else 's'}"
    checks = sum(counts.match for counts in report.layers.values())
    line = f"{word} {events}: {checks:,} checks derived again as recorded"
    verdicts, others = undecided(report), _unknown(report)
    if verdicts:
        line += f"; {verdicts:,} verdict{'' if verdicts == 1 else 's'} NOT DECIDED AGAIN"
    if others:
        line += f"; {others:,} event{'' if others == 1 else 's'} of an UNKNOWN kind or version"
    return line


def _why_undecided(report: ReplayReport) -> str:
    found: Entry | None = next((one for one in report.entries if one.layer is Layer.DECISION), None)
    if found is None or found.reason is None:
        return "no verdict was found to decide again"
    return f"its verdict was not decided again ({found.reason})"


def _unknown(report: ReplayReport) -> int:
    """How many events are of a kind or version that is not known here, as the layer `digest` says."""
    found = (one for one in report.reasons if one.layer is Layer.DIGEST and one.reason in _UNKNOWN)
    return sum(one.count for one in found)
