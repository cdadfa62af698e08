"""A back-test in lines of text, for people: the answer first, then the table, then who is behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

from tallystick.recorders.gateway.stages import ADVISORY

from .report import BacktestReport, Cell, Change, Counted, RuleCount
from .where import LABELS

#: Decisions that are named of each cell, and rules of each side, unless more are asked for.
SHOWN: Final = 3
_RULES_SHOWN: Final = 10
_HEADINGS: Final = {
    "failure": "failure",
    "success": "success",
    "near_miss": "near miss",
    "none": "unlabelled",
}
_INTENT_SHOWN: Final = 60
_SIMULATED: Final = (
    "Each decision was made again with the memory that it had then; what other verdicts would have led to,"
    " such as other labels, is not simulated."
)


def backtest_text(report: BacktestReport, shown: int | None = SHOWN) -> str:
    """The whole report. shown: how many decisions of each cell are named; None: all that it has."""
    parts = [
        [answer(report)],
        list(_effects(report)),
        list(_table(report)),
        list(_rules(report)),
        list(_examples(report, shown)),
        list(_remarks(report)),
        [_SIMULATED] if report.compared else [],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def answer(report: BacktestReport) -> str:
    """What would change, in one line."""
    if not report.compared:
        return "No decision could be compared." if report.decisions else "There is no decision to compare."
    if not report.changed:
        return f"None of {_decisions(report.compared)} would change."
    pairs = [
        f"{sum(counts.values()):,} {arrow}{_of_them(counts)}" for arrow, counts in _by_pair(report, True)
    ]
    return f"{report.changed:,} of {_decisions(report.compared)} would change: {'; '.join(pairs)}."


def _by_pair(report: BacktestReport, changed: bool) -> list[tuple[str, dict[str, int]]]:
    """The cells without their labels: verdicts with an arrow between, and how many by label."""
    cells = [cell for cell in report.cells if cell.changed is changed]
    return [
        (" → ".join(pair), {cell.label: cell.count for cell in group})
        for pair, group in groupby(cells, key=_pair)
    ]


def _pair(cell: Cell | Change) -> tuple[str, str]:
    return _verdict(cell.old, cell.old_mode), _verdict(cell.new, cell.new_mode)


def _verdict(verdict: str, mode: str) -> str:
    """A verdict; with a star if it was not enforced."""
    return f"{verdict}*" if mode == ADVISORY else verdict


def _of_them(counts: Mapping[str, int]) -> str:
    """`, of them 4 labelled failure, 1 success`; nothing if none is labelled."""
    labelled = [(counts[name], _HEADINGS[name]) for name in LABELS[:-1] if counts.get(name)]
    if not labelled:
        return ""
    (count, label), *others = labelled
    return f", of them {count:,} labelled {label}" + "".join(
        f", {count:,} {label}" for count, label in others
    )


def _decisions(count: int) -> str:
    return f"{count:,} decision{'' if count == 1 else 's'}"


def _effects(report: BacktestReport) -> Iterator[str]:
    """What it comes to: what would be caught, and the price of it."""
    for counts, what, failure, success in (
        (report.stopped, "went on and would be stopped", "caught", "the price"),
        (report.let_through, "were stopped and would go on", "the risk", "freed"),
    ):
        total = sum(counts.values())
        if total:
            yield (
                f"{total:,} {what}: {counts.get('failure', 0):,} labelled failure ({failure}), "
                f"{counts.get('success', 0):,} success ({success}), "
                f"{counts.get('near_miss', 0):,} near miss, "
                f"{counts.get('none', 0):,} unlabelled."
            )


def _table(report: BacktestReport) -> Iterator[str]:
    """Old verdict by new verdict by label; unchanged ones below."""
    if not report.cells:
        return
    yield _line("then", "now", [_HEADINGS[label] for label in LABELS], "decisions", "")
    for changed in (True, False):
        for arrow, counts in _by_pair(report, changed):
            then, _, now = arrow.partition(" → ")
            numbers = [f"{counts[label]:,}" if label in counts else "·" for label in LABELS]
            mark = "" if changed else "  same"
            yield _line(then, now, numbers, f"{sum(counts.values()):,}", mark)
    if any(ADVISORY in (cell.old_mode, cell.new_mode) for cell in report.cells):
        yield "* advisory: recorded, not enforced"


def _line(then: str, now: str, numbers: Sequence[str], total: str, mark: str) -> str:
    widths = [len(_HEADINGS[label]) + 2 for label in LABELS]
    columns = "".join(f"{number:>{width}}" for number, width in zip(numbers, widths, strict=True))
    return f"{then:<10}{now:<10}{columns}{total:>11}{mark}"


def _rules(report: BacktestReport) -> Iterator[str]:
    for side, title in (
        ("new", "Rules that decide now"),
        ("old", "Rules that no longer decide"),
    ):
        found = [rule for rule in report.rules if rule.side == side]
        if found:
            yield f"{title}:"
            yield from (f"  {_rule(rule)}" for rule in found[:_RULES_SHOWN])
            if len(found) > _RULES_SHOWN:
                yield f"  … and {len(found) - _RULES_SHOWN:,} more"


def _rule(rule: RuleCount) -> str:
    return f"{rule.rule_id}: {_decisions(rule.decisions)}{_of_them(rule.labels)}"


def _examples(report: BacktestReport, shown: int | None) -> Iterator[str]:
    if shown == 0 or not report.changes:
        return
    for cell in report.cells:
        behind = [change for change in report.changes if _pair(change) == _pair(cell)]
        behind = [change for change in behind if change.label == cell.label]
        if not cell.changed or not behind:
            continue
        label = "not labelled" if cell.label == LABELS[-1] else f"labelled {_HEADINGS[cell.label]}"
        yield f"{' → '.join(_pair(cell))}, {label}:"
        named = behind if shown is None else behind[:shown]
        yield from (f"  {_example(change)}" for change in named)
        if cell.count > len(named):
            yield f"  … and {cell.count - len(named):,} more"
    yield f"`tally explain {report.changes[0].decision_id}` tells why it came out as it did then."


def _example(change: Change) -> str:
    amount = "" if change.amount_value is None else f" {change.amount_value} {change.amount_currency or ''}"
    intent = change.intent
    intent = intent if len(intent) <= _INTENT_SHOWN else intent[: _INTENT_SHOWN - 1] + "…"
    why = ", ".join(change.new_rules) or "no rule"
    return f"{change.decision_id}  {change.action_type}{amount.rstrip()}  “{intent}”  now: {why}"


def _remarks(report: BacktestReport) -> Iterator[str]:
    for why in report.not_compared:
        yield f"{why.count:,} not compared: {_why(why)}"
    if report.diverged:
        first = report.divergences[0]
        yield (
            f"{_decisions(report.diverged)} would not come out again as recorded, not even under the same"
            f" policy (first: event {first.seq}, {', '.join(first.fields)}): there the comparison is not of"
            " policies alone; `tally replay --layer decision` says what differs"
        )
    for why in report.unconfirmed:
        yield f"{why.count:,} compared as recorded, not decided again under the policy of then: {_why(why)}"
    if report.pinned:
        yield (
            f"{report.pinned:,} of the requests ask for another policy by its id or version: the gateway"
            " would abstain from them until their callers ask for this one"
        )
    if report.other_features:
        yield (
            f"{report.other_features:,} were held against memory by other features than were recorded:"
            " similarity is then lower, as it would be at first after a change of policies"
        )
    if report.same_verdict:
        named = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in report.same_verdict.items())
        yield f"With the same verdict, what would be said otherwise: {named}"


def _why(counted: Counted) -> str:
    return f"{counted.reason} (first: event {counted.first_seq})"
