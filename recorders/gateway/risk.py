"""Risk signals: what memory says of a request, in exact fractions (D8)."""

from __future__ import annotations

from typing import Final

from tallystick.events import gateway as events
from tallystick.projections.memory import Remembered

from .stages import Label

#: From here on a likeness to failures makes uncertain: 35 / 100, compared in integers.
_ALIKE_PERCENT: Final = 35
#: Tenths of the uncertainty score.
_BASE, _ON_QUERY, _IF_ALIKE, _WHOLE = 2, 2, 3, 10


def failure_similarity(remembered: Remembered) -> events.Similar:
    """To the best match labelled failure; 0/1 without one."""
    match = remembered.failure
    assert match is None or match.label == Label.FAILURE
    if match is None:
        return events.Similar(numerator=0, denominator=1)
    return events.Similar(numerator=match.numerator, denominator=match.denominator)


def uncertainty(failure: events.Similar, *, query: bool) -> float:
    """0.2, 0.2 more on QUERY, 0.3 more if the failure similarity is at least 0.35, at most 1."""
    alike = failure.numerator * 100 >= _ALIKE_PERCENT * failure.denominator
    tenths = _BASE + (_ON_QUERY if query else 0) + (_IF_ALIKE if alike else 0)
    return min(tenths, _WHOLE) / _WHOLE


def risk_signals(remembered: Remembered, uncertainty_score: float) -> events.RiskSignals:
    """The signals as recorded."""
    failure = failure_similarity(remembered)
    return events.RiskSignals(
        uncertainty_score=uncertainty_score,
        failure_similarity=events.FailureSimilarity(
            score=failure.numerator / failure.denominator,
            numerator=failure.numerator,
            denominator=failure.denominator,
            top_k=list(remembered.top_k),
        ),
    )
