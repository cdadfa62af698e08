"""Takes what a back-test finds, decision by decision, in bounded memory, and ends as a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from tallystick.events import gateway as events

from .report import (
    BacktestReport,
    Cell,
    Change,
    Counted,
    Divergence,
    RuleCount,
    Under,
    cell_order,
    lets_go_on,
)
from .where import LABELS

#: Divergences that are kept; the rest are counted.
DIVERGENCES_MAX: Final = 1000
#: Names that a ledger chooses, such as ids of rules, of which counts are kept; the rest are counted together.
_NAMES_MAX: Final = 1000
_OTHERS: Final = "(others)"
NEW: Final = "new"
OLD: Final = "old"


class _CellKey(NamedTuple):
    old: str
    old_mode: str
    new: str
    new_mode: str
    label: str


class Tally:
    """Counts. changes_max: changed decisions of a cell that are kept; None: all."""

    def __init__(self, changes_max: int | None, on_change: Callable[[Change], None] | None) -> None:
        self._changes_max = changes_max
        self._on_change = on_change
        self._cells: dict[_CellKey, int] = {}
        self._changed_cells: dict[_CellKey, int] = {}
        self._changes: list[Change] = []
        self._left_out = 0
        self._rules: dict[tuple[str, str], dict[str, int]] = {}
        self._same_verdict: dict[str, int] = {}
        self._under: dict[tuple[str | None, str | None, str | None], list[int]] = {}
        self._divergences: list[Divergence] = []
        self._diverged = 0
        self._not_compared: dict[str, list[int]] = {}
        self._unconfirmed: dict[str, list[int]] = {}
        self.pinned = 0
        self.other_features = 0

    def compared(
        self, policy: events.PolicyRef, old: str, new: str, new_mode: str, label: str, *, changed: bool
    ) -> None:
        """A decision was compared. policy: the one that it was made under."""
        key = _CellKey(old, policy.mode, new, new_mode, label)
        cells = self._changed_cells if changed else self._cells
        cells[key] = cells.get(key, 0) + 1
        name = (policy.policy_id, policy.policy_version, policy.policy_hash)
        if name not in self._under and len(self._under) >= _NAMES_MAX:
            name = (_OTHERS, None, None)
        counts = self._under.setdefault(name, [0, 0])
        counts[0] += 1
        counts[1] += changed

    def changed(self, change: Change) -> None:
        """A decision would come out otherwise; it was noted as compared."""
        key = _CellKey(change.old, change.old_mode, change.new, change.new_mode, change.label)
        if self._changes_max is None or self._changed_cells[key] <= self._changes_max:
            self._changes.append(change)
        else:
            self._left_out += 1
        for side, mine, others in (
            (NEW, change.new_rules, change.old_rules),
            (OLD, change.old_rules, change.new_rules),
        ):
            for rule_id in mine:
                # The same rule may ask for another verdict now, or be enforced: then it accounts for it, too.
                if side == NEW or rule_id not in others:
                    self._rule(rule_id, side, change.label)
        if self._on_change is not None:
            self._on_change(change)

    def _rule(self, rule_id: str, side: str, label: str) -> None:
        key = (side, rule_id)
        if key not in self._rules and len(self._rules) >= _NAMES_MAX:
            key = (side, _OTHERS)
        counts = self._rules.setdefault(key, {})
        counts[label] = counts.get(label, 0) + 1

    def same_verdict(self, differing: Iterable[str]) -> None:
        """A verdict stays, and these fields do not."""
        for name in differing:
            self._same_verdict[name] = self._same_verdict.get(name, 0) + 1

    def diverged(self, divergence: Divergence) -> None:
        """A recorded decision does not come out again under its own policy."""
        self._diverged += 1
        if len(self._divergences) < DIVERGENCES_MAX:
            self._divergences.append(divergence)

    def not_compared(self, seq: int, reason: str) -> None:
        """A decision cannot be compared."""
        _note(self._not_compared, reason, seq)

    def unconfirmed(self, seq: int, reason: str) -> None:
        """A decision was compared, and could not be decided again under its own policy."""
        _note(self._unconfirmed, reason, seq)

    def report(self, **about: Any) -> BacktestReport:
        """The report. about: its fields that are not counted here."""
        cells = [
            Cell(**key._asdict(), changed=changed, count=count)
            for changed, found in ((True, self._changed_cells), (False, self._cells))
            for key, count in found.items()
        ]
        compared = sum(cell.count for cell in cells)
        not_compared = _counted(self._not_compared)
        return BacktestReport(
            **about,
            decisions=compared + sum(each.count for each in not_compared),
            compared=compared,
            changed=sum(self._changed_cells.values()),
            cells=tuple(sorted(cells, key=cell_order)),
            stopped=_by_label(cells, goes_on=False),
            let_through=_by_label(cells, goes_on=True),
            changes=tuple(self._changes),
            left_out=self._left_out,
            rules=tuple(self._rule_counts()),
            same_verdict=dict(sorted(self._same_verdict.items())),
            under=tuple(self._under_counts()),
            diverged=self._diverged,
            divergences=tuple(self._divergences),
            not_compared=not_compared,
            unconfirmed=_counted(self._unconfirmed),
            pinned=self.pinned,
            other_features=self.other_features,
        )

    def _rule_counts(self) -> list[RuleCount]:
        found = [
            RuleCount(rule_id=rule_id, side=side, decisions=sum(labels.values()), labels=_sorted(labels))
            for (side, rule_id), labels in self._rules.items()
        ]
        return sorted(found, key=lambda rule: (rule.side, -rule.decisions, rule.rule_id))

    def _under_counts(self) -> list[Under]:
        found = [
            Under(policy_id=name[0], policy_version=name[1], policy_hash=name[2], compared=all_, changed=some)
            for name, (all_, some) in self._under.items()
        ]
        return sorted(found, key=lambda under: (-under.compared, under.policy_hash or ""))


def _by_label(cells: Iterable[Cell], *, goes_on: bool) -> dict[str, int]:
    """How many changed from being stopped to going on, or the other way round, by label."""
    counts: dict[str, int] = {}
    for cell in cells:
        then, now = lets_go_on(cell.old, cell.old_mode), lets_go_on(cell.new, cell.new_mode)
        if then != now and now == goes_on:
            counts[cell.label] = counts.get(cell.label, 0) + cell.count
    return _sorted(counts)


def _sorted(labels: dict[str, int]) -> dict[str, int]:
    return {label: labels[label] for label in LABELS if label in labels}


def _note(counts: dict[str, list[int]], reason: str, seq: int) -> None:
    if reason not in counts and len(counts) >= _NAMES_MAX:
        reason = _OTHERS
    known = counts.setdefault(reason, [0, seq])
    known[0] += 1


def _counted(counts: dict[str, list[int]]) -> tuple[Counted, ...]:
    found = [Counted(reason=reason, count=count, first_seq=seq) for reason, (count, seq) in counts.items()]
    return tuple(sorted(found, key=lambda one: (-one.count, one.reason)))
