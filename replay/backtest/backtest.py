"""`backtest`: past decisions under another policy, each with the memory that it had then (contract D12).

One pass over the decisions. Each is first decided again under its own policy, as replay does it, so that what
differs is the policies' doing; then under the new one, by the function that the gateway itself decides with.
What a changed verdict would have led to, such as other labels and so another memory, is not simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from typing import Any, Final, NamedTuple

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger import chain
from tallystick.ledger.errors import StoreError
from tallystick.ledger.event import Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.projections.memory import NOTHING, MemoryBroken, MemoryTooLarge, Remembered
from tallystick.recorders.gateway.decision import (
    Question,
    asked_otherwise,
    decide_purely,
    question_of,
    recall,
)
from tallystick.recorders.gateway.pack import check_row
from tallystick.recorders.gateway.policy import Policy, PolicySource, policy_of
from tallystick.recorders.gateway.redaction import OFF
from tallystick.recorders.gateway.request import DecisionRequest
from tallystick.recorders.gateway.stages import ADVISORY, ENFORCE, STRENGTH

from ..differences import same
from ..errors import BadSelection
from ..layers.checks import Body, Checks, Past, read_body
from ..layers.decision import (
    MEMORY_BROKEN,
    MEMORY_ERASED,
    MEMORY_TOO_LARGE,
    NO_SNAPSHOT,
    NOT_EVALUATED,
    Decisions,
    as_recorded,
)
from ..layers.digest_gateway import policy_in, registered
from ..report import Layer, Notes
from .policy_reads import Reads
from .report import (
    CHANGES_MAX,
    BacktestReport,
    Change,
    Divergence,
    PolicyNamed,
    is_change,
)
from .tally import Tally
from .where import LABELS, NO_LABEL, Where

ALTERED: Final = "its event does not match its own hashes: run `tally verify`"
LABEL_ALTERED: Final = "what was said of it does not match its own hashes: run `tally verify`"
MALFORMED: Final = "its body is malformed"
NOT_FIRST: Final = "it is not the first event of its stream, which is another's"
REMOVED: Final = "the new policy asks about what was redacted from the request"
LATER_MEMORY: Final = "it names a memory that did not exist yet"
#: Characters of an intent, and rules or reasons of a decision, that a change holds.
_INTENT_MAX: Final = 200
_NAMES_MAX: Final = 20
_NAME_MAX: Final = 200
#: Policies of the past that are remembered for how they compare.
_POLICIES_MAX: Final = 1000
_PROGRESS_EVERY: Final = 500
_SAME_VERDICT: Final = ("reason_codes", "matched_rules", "queries", "obligations")

#: Called with the seq that is reached.
Progress = Callable[[int], None]


def backtest(
    ledger: Ledger,
    policy: PolicySource,
    where: Where | None = None,
    *,
    changes_max: int | None = CHANGES_MAX,
    on_change: Callable[[Change], None] | None = None,
    progress: Progress | None = None,
) -> BacktestReport:
    """What another policy would have decided on the requests of the past.

    where: which decisions; default all. changes_max: how many changed decisions of one cell the report keeps
    (None: all, which takes memory for each). on_change: called with every changed decision, in order of seq.
    Reads only, up to the head as of now; the views are not asked.
    Raises InvalidPolicy, PolicyNotFound, BadSelection, Unavailable.
    """
    where = Where() if where is None else where
    where.check()
    if changes_max is not None and changes_max < 0:
        raise BadSelection("changes_max", f"{changes_max} is no number of decisions", "give 0 or more")
    head = ledger.head()
    test = _Test(ledger, head, policy_of(policy), where, Tally(changes_max, on_change))
    told = 0
    for row in ledger.rows(before=head.seq + 1, kinds=[events.RECORDED]):
        test.take(row)
        if progress is not None and row.seq >= told + _PROGRESS_EVERY:
            told = row.seq
            progress(told)
    return test.report()


class _Again(Checks):
    """What came of deciding a recorded decision again under its own policy."""

    __slots__ = ("again", "differing", "reason", "wrong_reason")

    def __init__(self, seq: int) -> None:
        super().__init__(Notes(()), Layer.DECISION, seq)
        self.differing: list[str] = []
        self.reason: str | None = None
        self.wrong_reason: str | None = None
        self.again: Any = None

    def equal(self, what: str, expected: Any, actual: Any, reason: str | None = None) -> bool:
        """See Checks.equal."""
        if what == "verdict":
            self.again = expected
        if same(expected, actual):
            return True
        self.differing.append(what)
        return False

    def true(self, what: str, holds: bool, expected: Any, actual: Any, reason: str | None = None) -> bool:
        """See Checks.true."""
        if not holds:
            self.differing.append(what)
        return holds

    def wrong(self, what: str, reason: str) -> None:
        """See Checks.wrong."""
        self.wrong_reason = reason

    def cannot(self, what: str, reason: str) -> None:
        """See Checks.cannot."""
        self.reason = reason


class _New(NamedTuple):
    """A decision under the new policy. similarity: to failures, None if the policy does not look."""

    decision: events.Decision
    similarity: float | None
    other_features: bool


class _Test:
    """A back-test under way."""

    def __init__(self, ledger: Ledger, head: Head, policy: Policy, where: Where, tally: Tally) -> None:
        self._ledger = ledger
        self._head = head
        self._policy = policy
        self._where = where
        self._tally = tally
        self._past = Past(ledger, head)
        self._decisions = Decisions(self._past)
        self._reads = Reads(policy)
        self._alike: dict[str | None, bool] = {}

    def take(self, row: Row) -> None:
        """Compare a decision, if it is meant; whatever it holds, it is counted."""
        if not self._where.in_time(row):
            return
        try:
            self._take(row)
        except StoreError:
            raise
        except Exception:
            # A body can say things that no recorder would; none of them may end a back-test.
            self._tally.not_compared(row.seq, MALFORMED)

    def _take(self, row: Row) -> None:
        if any(True for _ in check_row(row)):
            self._tally.not_compared(row.seq, ALTERED)
            return
        body = read_body(row)
        if not isinstance(body, Body):
            # Whether the other conditions fit, nobody can tell any more: it is counted, not left out.
            self._tally.not_compared(row.seq, MALFORMED if body.malformed else body.reason)
            return
        if next(self._ledger.rows(before=row.seq, stream=row.stream, limit=1), None) is not None:
            self._tally.not_compared(row.seq, NOT_FIRST)
            return
        label = _label(self._said(row, [events.LABELED]))
        if not self._where.fits(row, label or NO_LABEL, self._said(row)):
            return
        reason = LABEL_ALTERED if label is None else self._compare(row, body, label)
        if reason is not None:
            self._tally.not_compared(row.seq, reason)

    def _said(self, row: Row, kinds: list[str] | None = None) -> Iterator[Row]:
        """What was said of a decision since."""
        return self._ledger.rows(row.seq, before=self._head.seq + 1, stream=row.stream, kinds=kinds)

    def _compare(self, row: Row, body: Body, label: str) -> str | None:
        """Compare a decision and count it; why it cannot be compared, if it cannot."""
        derived: events.Decision = body.struct.derived
        if derived.verdict not in STRENGTH or derived.policy.mode not in (ENFORCE, ADVISORY):
            return MALFORMED
        if derived.features is None:
            return NOT_EVALUATED
        request = msgspec.convert(derived.request, DecisionRequest)
        again = _Again(row.seq)
        self._decisions.check(again, row, body)
        new = self._decide(row, derived, request, again)
        if isinstance(new, str):
            return new
        self._count(row, body, request, label, again, new)
        return None

    def _decide(
        self, row: Row, derived: events.Decision, request: DecisionRequest, again: _Again
    ) -> _New | str:
        """The decision under the new policy, or why there is none."""
        policy, action_type = self._policy, request.action.type
        if self._reads.any_of(action_type, derived.redacted) is not None:
            return REMOVED
        question = question_of(policy, derived.request)
        snapshot = derived.determinism.memory_snapshot
        if not self._reads.memory(action_type):
            decision = decide_purely(policy, question, NOTHING, snapshot, redaction=OFF)
            return _New(decision, None, False)
        if snapshot is None:
            return NO_SNAPSHOT
        if snapshot.seq >= row.seq:
            return LATER_MEMORY
        remembered = self._remembered(question, derived, request, snapshot, again)
        if isinstance(remembered, str):
            return remembered
        decision = decide_purely(policy, question, remembered, snapshot, redaction=OFF)
        assert derived.features is not None, "it was evaluated"
        similarity = decision.risk_signals.failure_similarity.score
        other_features = bool(remembered.top_k) and question.tokens != derived.features.tokens
        return _New(decision, similarity, other_features)

    def _remembered(
        self,
        question: Question,
        derived: events.Decision,
        request: DecisionRequest,
        snapshot: events.Snapshot,
        again: _Again,
    ) -> Remembered | str:
        """What memory would have found then, or why nobody can tell."""
        alike = self._compares_alike(derived.policy.policy_hash)
        if again.reason in (MEMORY_ERASED, MEMORY_BROKEN, MEMORY_TOO_LARGE):
            # What it had found is recorded, and a policy that compares alike would have found the same.
            return as_recorded(derived) if alike else again.reason
        confirmed = alike and again.reason is None and not again.differing
        tenant_id, action_type = request.tenant_id, request.action.type
        if not confirmed and self._decisions.was_erased(tenant_id, action_type, snapshot.seq):
            return MEMORY_ERASED
        try:
            head = Head(snapshot.seq, b"")
            return recall(self._policy, question, tenant_id, self._decisions.memory, head)
        except MemoryBroken:
            return MEMORY_BROKEN
        except MemoryTooLarge:
            return MEMORY_TOO_LARGE

    def _compares_alike(self, policy_hash: str | None) -> bool:
        """Whether a policy of the past asks memory in the way that the new one does."""
        known = self._alike.get(policy_hash)
        if known is None:
            row = registered(policy_hash or "", self._past)
            own = None if row is None else policy_in(row)
            known = own is not None and _asks_memory(own) == _asks_memory(self._policy)
            if len(self._alike) >= _POLICIES_MAX:
                self._alike.clear()
            self._alike[policy_hash] = known
        return known

    def _count(
        self, row: Row, body: Body, request: DecisionRequest, label: str, again: _Again, new: _New
    ) -> None:
        derived: events.Decision = body.struct.derived
        decision, tally = new.decision, self._tally
        decision_id: str = body.struct.observed.decision_id
        old, now = derived.policy, decision.policy
        changed = is_change(derived.verdict, old.mode, decision.verdict, now.mode)
        tally.compared(old, derived.verdict, decision.verdict, now.mode, label, changed=changed)
        if changed:
            tally.changed(_change(row, decision_id, derived, request, label, new))
        else:
            plain: dict[str, Any] = msgspec.to_builtins(decision)
            tally.same_verdict(
                [name for name in _SAME_VERDICT if not same(plain[name], body.plain["derived"].get(name))]
            )
        if again.wrong_reason is not None:
            tally.unconfirmed(row.seq, again.wrong_reason)
        elif again.reason is not None:
            tally.unconfirmed(row.seq, again.reason)
        elif again.differing:
            tally.diverged(
                Divergence(
                    seq=row.seq,
                    decision_id=decision_id[:_NAME_MAX],
                    fields=again.differing,
                    recorded=derived.verdict,
                    again=str(again.again),
                )
            )
        tally.pinned += asked_otherwise(request, self._policy) is not None
        tally.other_features += new.other_features

    def report(self) -> BacktestReport:
        """What was found."""
        assert self._head.ledger_id is not None, "a ledger's own head names it"
        policy = self._policy
        return self._tally.report(
            ledger_id=self._head.ledger_id.hex(),
            head=(self._head.seq, self._head.hash.hex()),
            policy=PolicyNamed(
                policy_id=policy.policy_id,
                policy_version=policy.policy_version,
                policy_hash=policy.policy_hash,
                mode=policy.defaults.mode,
            ),
            where=self._where,
        )


def _label(labels: Iterable[Row]) -> str | None:
    """The last label that was given, `none` without one; None if it cannot be believed."""
    label = NO_LABEL
    for row in labels:
        if row.body is None:
            continue
        if row.salt is None or chain.body_hash(row.salt, row.body) != row.body_hash:
            return None
        try:
            given = msgspec.json.decode(row.body, type=events.DecisionLabeled).label
        except msgspec.MsgspecError:
            continue
        if given in LABELS:
            label = given
    return label


def _asks_memory(policy: Policy) -> tuple[Any, ...]:
    """By what a policy compares a request with what is remembered."""
    return frozenset(policy.feature_keys), policy.weights_key


def _change(
    row: Row,
    decision_id: str,
    derived: events.Decision,
    request: DecisionRequest,
    label: str,
    new: _New,
) -> Change:
    decision = new.decision
    intent = request.action.intent
    assert derived.features is not None, "it was evaluated"
    return Change(
        seq=row.seq,
        decision_id=decision_id[:_NAME_MAX],
        at=row.at,
        old=derived.verdict,
        old_mode=derived.policy.mode,
        new=decision.verdict,
        new_mode=decision.policy.mode,
        label=label,
        action_type=request.action.type,
        tenant_id=request.tenant_id,
        amount_value=derived.features.amount_value,
        amount_currency=derived.features.amount_currency,
        intent=intent if len(intent) <= _INTENT_MAX else intent[: _INTENT_MAX - 1] + "…",
        old_rules=_deciding(derived),
        new_rules=_deciding(decision),
        old_reasons=_few(derived.reason_codes),
        new_reasons=_few(decision.reason_codes),
        failure_similarity=(derived.risk_signals.failure_similarity.score, new.similarity),
    )


def _deciding(decision: events.Decision) -> list[str]:
    """The rules that ask for the verdict, in the order of evaluation."""
    return _few(rule.rule_id for rule in decision.matched_rules if rule.effect == decision.verdict)


def _few(names: Iterable[str]) -> list[str]:
    numbered = enumerate(dict.fromkeys(names))
    return [name[:_NAME_MAX] for _, name in takewhile(lambda one: one[0] < _NAMES_MAX, numbered)]
