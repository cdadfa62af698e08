"""What a back-test found: one report, of which text and JSON are renderings.

The same ledger, policy and conditions give the same report, byte for byte in JSON: no clock is read for it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tallystick.recorders.gateway.stages import ADVISORY, STRENGTH, DecisionVerdict

from .where import LABELS, Where

#: Decisions of one cell that a report keeps, unless it is told otherwise; the rest are counted.
CHANGES_MAX: Final = 1000
_ORDER: Final = {verdict: place for place, verdict in enumerate(STRENGTH)}


def lets_go_on(verdict: str, mode: str) -> bool:
    """Whether an action may go on: it is trusted, or the verdict is not enforced (D7)."""
    return verdict == DecisionVerdict.TRUST or mode == ADVISORY


def is_change(old: str, old_mode: str, new: str, new_mode: str) -> bool:
    """Whether another verdict comes out, or the same is now enforced, or no longer, and that matters."""
    return old != new or lets_go_on(old, old_mode) != lets_go_on(new, new_mode)


class PolicyNamed(msgspec.Struct, frozen=True, kw_only=True):
    """A policy. mode: of its defaults; a request can make it stricter."""

    policy_id: str
    policy_version: str
    policy_hash: str
    mode: str


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions that came out alike, then and now, and turned out alike.

    old, old_mode: as recorded. new, new_mode: under the new policy. label: `failure`, `success`, `near_miss`
    or `none`: the last one given. changed: whether another verdict comes out, or the same is now enforced,
    or no longer. count: how many.
    """

    old: str
    old_mode: str
    new: str
    new_mode: str
    label: str
    changed: bool
    count: int


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that would come out otherwise.

    seq, decision_id, at (microseconds since 1970 UTC): the decision. old, old_mode, new, new_mode, label: its
    cell. action_type, tenant_id, amount_value, amount_currency, intent: what was asked; a long intent is cut.
    old_rules, new_rules: the rules that ask for the verdict, then and now. old_reasons, new_reasons: all
    reasons. failure_similarity: as recorded, and as the new policy would see it (null if it does not look).
    """

    seq: int
    decision_id: str
    at: int
    old: str
    old_mode: str
    new: str
    new_mode: str
    label: str
    action_type: str
    tenant_id: str | None
    amount_value: int | float | None
    amount_currency: str | None
    intent: str
    old_rules: list[str]
    new_rules: list[str]
    old_reasons: list[str]
    new_reasons: list[str]
    failure_similarity: tuple[float, float | None]


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded decision that does not come out again under its own policy, with its own memory.

    fields: what of it differs. recorded: the verdict that it is compared by. again: the verdict that its own
    policy gives now.
    """

    seq: int
    decision_id: str
    fields: list[str]
    recorded: str
    again: str


class RuleCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many changes a rule accounts for.

    side: `new`: it asks for the verdict now; `old`: it asked for the verdict then, and does not decide any
    more. decisions: how many; labels: of them by label.
    """

    rule_id: str
    side: str
    decisions: int
    labels: dict[str, int]


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """Why something was not done, or could not be confirmed: how many, and the first event's seq."""

    reason: str
    count: int
    first_seq: int


class Under(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions by the policy that they were made under."""

    policy_id: str | None
    policy_version: str | None
    policy_hash: str | None
    compared: int
    changed: int


class BacktestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What another policy would have decided.

    ledger_id: hex. head: seq and hash (hex) of the ledger when it began. policy: the new one. where: what was
    asked for. decisions: how many were selected: those compared, and those that `not_compared` counts by
    reason. changed: how many would come out otherwise. cells: by old verdict, new verdict and label, changed
    ones first. stopped: by label, what went on and would be stopped; let_through: the other way round.
    changes: the decisions behind the changed cells, by seq, of each cell at most so many; left_out: the rest.
    rules: which rules account for the changes. same_verdict: of unchanged decisions, how many would have
    other `reason_codes`, `matched_rules`, `queries` or `obligations`. under: by the policy then. diverged:
    how many recorded decisions do not come out again under their own policy; divergences: the first of them.
    unconfirmed: how many could not be decided again under their own policy, by reason. pinned: how many
    requests ask for another policy by its id or version, and so would get no decision from the new one.
    other_features: how many were compared with what is remembered by other features than were recorded.
    """

    ledger_id: str
    head: tuple[int, str]
    policy: PolicyNamed
    where: Where
    decisions: int
    compared: int
    changed: int
    cells: tuple[Cell, ...]
    stopped: dict[str, int]
    let_through: dict[str, int]
    changes: tuple[Change, ...]
    left_out: int
    rules: tuple[RuleCount, ...]
    same_verdict: dict[str, int]
    under: tuple[Under, ...]
    diverged: int
    divergences: tuple[Divergence, ...]
    not_compared: tuple[Counted, ...]
    unconfirmed: tuple[Counted, ...]
    pinned: int
    other_features: int

    def behind(self, old: str, new: str, label: str | None = None) -> tuple[Change, ...]:
        """The changes from one verdict to another, of one label or of any."""
        return tuple(
            change
            for change in self.changes
            if (change.old, change.new) == (old, new) and label in (None, change.label)
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def to_json(self) -> bytes:
        """The report as JSON, the same bytes for the same report."""
        return msgspec.json.encode(self.to_dict(), order="sorted")

    def __str__(self) -> str:
        """The report in lines, as `tally policy backtest` prints it."""
        from .text import backtest_text

        return backtest_text(self)


def cell_order(cell: Cell) -> tuple[Any, ...]:
    """Changed cells first, then by verdicts from TRUST to ABSTAIN, then by label."""
    return (
        not cell.changed,
        *(_ORDER[cell.old], cell.old_mode, _ORDER[cell.new], cell.new_mode),
        LABELS.index(cell.label),
    )
