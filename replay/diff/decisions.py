"""Two decisions held against each other: inputs, policy, rules, memory and verdict.

What made the difference is found by trying: the request, the policy and the memory of the second are put in
the place of the first's, one, two or all of them, and each mixture is decided by the function that the
gateway itself decides with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import combinations
from typing import Any, Final, NamedTuple

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger.event import Event, Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.projections.memory import Memory, MemoryBroken
from tallystick.recorders.gateway.decision import ENGINE_VERSION, decide_purely, question_of, recall
from tallystick.recorders.gateway.errors import DecisionErased
from tallystick.recorders.gateway.explanation import Look, facts_of, looks_of
from tallystick.recorders.gateway.pack import Pack, check_row
from tallystick.recorders.gateway.policy import Policy
from tallystick.recorders.gateway.policy_diff import Change, diff_policies
from tallystick.recorders.gateway.record import DecisionRecord, LogEntry, log_entry, record_of
from tallystick.recorders.gateway.redaction import OFF
from tallystick.recorders.gateway.stages import DEFAULT

from ..backtest.policy_reads import Reads, overlap
from ..differences import differences
from ..errors import BadSelection, MalformedDecision
from ..layers.checks import Body, Events, Past, read_body
from ..layers.decision import MEMORY_BROKEN
from ..layers.digest_gateway import policy_in, registered
from ..pack import Part
from ..selection import Selection

REQUEST: Final = "request"
POLICY: Final = "policy"
MEMORY: Final = "memory"
FACTORS: Final = (REQUEST, POLICY, MEMORY)
#: Entries of what was said of a decision that are kept, the last ones.
LOG_MAX: Final = 1000
_SAID: Final = (events.LABELED, events.OUTCOME, events.NOTED, events.OVERRIDDEN)
#: Fields of a request that name it and decide nothing.
_NAMES: Final = ("/request_id", "/trace")


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two decisions.

    seq, at (microseconds since 1970 UTC), ledger_id (hex): where it stands. verdict, mode, reason_codes,
    queries, obligations, policy, engine_version: as recorded. memory_seq: the event that memory was read at,
    or null. failure_similarity, uncertainty: as recorded. error: why the gateway could not decide, or null.
    log: what was said of it since, the last thousand. altered: whether an event of it does not match its own
    hashes.
    """

    decision_id: str
    seq: int
    at: int
    ledger_id: str
    verdict: str
    mode: str
    reason_codes: list[str]
    queries: list[events.Query]
    obligations: list[dict[str, Any]]
    policy: events.PolicyRef
    engine_version: str
    memory_seq: int | None
    failure_similarity: float
    uncertainty: float
    error: str | None
    log: list[LogEntry]
    altered: bool


class Differing(msgspec.Struct, frozen=True, kw_only=True):
    """A place where two values differ.

    path: a JSON pointer (RFC 6901). first, second: the values; `{"$absent": true}` for none. evaluated:
    whether one of the policies looks there.
    """

    path: str
    first: Any
    second: Any
    evaluated: bool


class LookPair(msgspec.Struct, frozen=True, kw_only=True):
    """A condition of a rule, as it found each of the two; null where the policy has no such condition."""

    first: Look | None
    second: Look | None


class RuleDiffering(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that fired in one of the two alone.

    fired_in: `first` or `second`. known: whether the other's policy has a rule with this id. about: whether
    that is about the other's action type. looks: the conditions that held in one alone.
    """

    rule_id: str
    stage: str
    effect: str
    reason_codes: list[str]
    fired_in: str
    known: bool
    about: bool
    looks: list[LookPair]


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """An item of memory, and how much it is like each of the two among its best matches (null: not among).

    decision_id: the decision that it was learned from; null if that cannot be read any more. between:
    whether it was added after the one decision had read its memory, and before the other had.
    """

    memory_id: str
    decision_id: str | None
    label: str
    summary: str
    first: float | None
    second: float | None
    between: bool


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """What comes out for the first decision with some of the second's in its place."""

    swapped: tuple[str, ...]
    verdict: str
    reason_codes: list[str]


class DecisionDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What two decisions have in common and what not.

    first, second: the decisions. inputs: where the requests differ. features: where what was derived from
    them differs. same_policy: whether their policies have the same hash. policy_changes: what differs between
    the policies and concerns a rule that fired, or these requests; other_policy_changes: how many more.
    rules: those that fired in one alone; both: ids of those that fired in both. memory: the best matches of
    either. added: how many items were added to what the second asks, between the two. causes: the smallest
    sets of `request`, `policy` and `memory` of the second that give the first the second's verdict (its
    reasons, if the verdict is the same); empty if they have the same, or if it cannot be told, for which
    `untold` says why. what_if: all that was tried.
    """

    first: Side
    second: Side
    inputs: tuple[Differing, ...]
    features: tuple[Differing, ...]
    same_policy: bool
    policy_changes: tuple[Change, ...]
    other_policy_changes: int
    rules: tuple[RuleDiffering, ...]
    both: tuple[str, ...]
    memory: tuple[Remembered, ...]
    added: int
    causes: tuple[tuple[str, ...], ...]
    untold: str | None
    what_if: tuple[WhatIf, ...]

    @property
    def same_verdict(self) -> bool:
        """Whether verdict, reasons and mode are the same."""
        return _outcome(self.first) == _outcome(self.second) and self.first.mode == self.second.mode

    @property
    def same_inputs(self) -> bool:
        """Whether the requests are the same, but for their ids and traces."""
        return all(_is_name(each.path) for each in self.inputs)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {**plain, "same_verdict": self.same_verdict, "same_inputs": self.same_inputs}

    def to_json(self) -> bytes:
        """The comparison as JSON, the same bytes for the same decisions."""
        return msgspec.json.encode(self.to_dict(), order="sorted")

    def __str__(self) -> str:
        """The comparison in lines, the answer first."""
        from .text import diff_text

        return diff_text(self)


def diff_decisions(ledger: Ledger, first: str, second: str) -> DecisionDiff:
    """Compare two decisions of a ledger, each named by its id or the beginning of it.

    Reads only; the views are not asked. Raises NoSuchId, AmbiguousPrefix, BadSelection, DecisionErased,
    MalformedDecision, Unavailable.
    """
    return diff_sources(source_in(ledger, first), source_in(ledger, second))


def diff_packs(first: Pack, second: Pack) -> DecisionDiff:
    """Compare the decisions in two packs. Of memory a pack holds only what counted. Raises as above."""
    return diff_sources(source_of(first), source_of(second))


# -- where a decision comes from ---------------------------------------------------------------


class Source(NamedTuple):
    """A decision and the events that it can be looked up in. whole: whether those are a whole ledger."""

    decision_id: str
    events: Events
    head: Head
    whole: bool


def source_in(ledger: Ledger, decision_id: str) -> Source:
    """A decision in a ledger. Raises NoSuchId, AmbiguousPrefix."""
    head = ledger.head()
    found = Selection(decision=decision_id).resolved(ledger, head).decision
    assert found is not None, "it was asked for"
    return Source(found, ledger, head, True)


def source_of(pack: Pack) -> Source:
    """The decision in a pack."""
    return Source(pack.record.decision_id, Part(pack.rows, pack.head), pack.head, False)


class _Decided:
    """A decision with all that it can be decided again from."""

    def __init__(self, source: Source) -> None:
        self.source = source
        stream = events.decision_stream(source.decision_id)
        self.past = Past(source.events, source.head, whole=source.whole)
        self.row = _recorded(self.past.first(stream, events.RECORDED), source.decision_id)
        body = read_body(self.row)
        if not isinstance(body, Body):
            if not body.malformed:
                raise DecisionErased(source.decision_id, self.row.seq)
            raise MalformedDecision(source.decision_id, self.row.seq, body.reason)
        self.derived: events.Decision = body.struct.derived
        try:
            self.log, self.altered = _said(source, self.row)
            self.record: DecisionRecord = record_of(body.struct, self.log)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise MalformedDecision(source.decision_id, self.row.seq, str(error)) from None
        registration = registered(self.derived.policy.policy_hash or "", self.past)
        self.policy: Policy | None = None if registration is None else policy_in(registration)
        self.memory = Memory(source.events)

    @property
    def tenant_id(self) -> str | None:
        return self.record.request.tenant_id

    @property
    def action_type(self) -> str:
        return self.record.request.action.type

    @property
    def memory_seq(self) -> int | None:
        snapshot = self.derived.determinism.memory_snapshot
        return None if snapshot is None else snapshot.seq

    def side(self) -> Side:
        """As the comparison tells of it."""
        derived, risk = self.derived, self.derived.risk_signals
        return Side(
            decision_id=self.source.decision_id,
            seq=self.row.seq,
            at=self.row.at,
            ledger_id=(self.source.head.ledger_id or b"").hex(),
            verdict=derived.verdict,
            mode=derived.policy.mode,
            reason_codes=derived.reason_codes,
            queries=derived.queries,
            obligations=derived.obligations,
            policy=derived.policy,
            engine_version=derived.determinism.engine_version,
            memory_seq=self.memory_seq,
            failure_similarity=risk.failure_similarity.score,
            uncertainty=risk.uncertainty_score,
            error=self.record.error,
            log=self.log,
            altered=self.altered,
        )


def _recorded(row: Row | None, decision_id: str) -> Row:
    if row is None:
        raise BadSelection("decision", f"{decision_id} has no decision.recorded", "see `tally decisions`")
    return row


def _said(source: Source, recorded: Row) -> tuple[list[LogEntry], bool]:
    """The last that was said of a decision, and whether an event of it does not match its own hashes."""
    log: deque[LogEntry] = deque(maxlen=LOG_MAX)
    altered = False
    rows = source.events.rows(recorded.seq - 1, before=source.head.seq + 1, stream=recorded.stream)
    for row in rows:
        altered = altered or any(True for _ in check_row(row))
        entry = _entry(row)
        if entry is not None:
            log.append(entry)
    return list(log), altered


def _entry(row: Row) -> LogEntry | None:
    """What an event says of a decision; None if it says nothing, was erased, or is malformed."""
    if row.kind not in _SAID or not isinstance(read_body(row), Body):
        return None
    return log_entry(Event.from_row(row))


# -- comparing ---------------------------------------------------------------------------------


def diff_sources(first: Source, second: Source) -> DecisionDiff:
    """Compare two decisions, wherever they come from. Raises DecisionErased, MalformedDecision.

    One decision as two packs have it, or a pack and the ledger, is two records: either may have been altered.
    """
    same = (first.decision_id, first.head.ledger_id) == (second.decision_id, second.head.ledger_id)
    if same and first.whole and second.whole:
        raise BadSelection("ids", f"both name {first.decision_id}", "name two decisions")
    one, other = _Decided(first), _Decided(second)
    _share_memory(one, other)
    read = _evaluated(one) | _evaluated(other)
    fired = {rule.rule_id for side in (one, other) for rule in side.derived.matched_rules}
    changes = _policy_changes(one, other)
    mattering = [
        change for change in changes if _matters(change, fired, {one.action_type, other.action_type})
    ]
    causes, untold, what_if = _causes(one, other)
    return DecisionDiff(
        first=one.side(),
        second=other.side(),
        inputs=tuple(_differing(one.derived.request, other.derived.request, read)),
        features=tuple(_features(one.derived.features, other.derived.features)),
        same_policy=one.derived.policy.policy_hash == other.derived.policy.policy_hash,
        policy_changes=tuple(mattering),
        other_policy_changes=len(changes) - len(mattering),
        rules=tuple(_rules(one, other)),
        both=tuple(rule_id for rule_id in _fired(one) if rule_id in _fired(other)),
        memory=tuple(_memory(one, other)),
        added=_added(one, other),
        causes=causes,
        untold=untold,
        what_if=what_if,
    )


def _share_memory(one: _Decided, other: _Decided) -> None:
    """Of one ledger's memory each pack holds a part: let both sides ask all that is at hand of it."""
    first, second = one.source, other.source
    if first.head.ledger_id != second.head.ledger_id:
        return
    if first.whole or second.whole:
        one.memory = other.memory = (one if first.whole else other).memory
        return
    rows = {row.seq: row for row in first.events.rows()}
    others = {row.seq: row for row in second.events.rows()}
    if any(rows[seq].hash != others[seq].hash for seq in rows.keys() & others.keys()):
        return  # of two histories; each has its own
    rows |= others
    both = Part(rows.values(), max(first.head, second.head))
    one.memory = other.memory = Memory(both)


def _evaluated(side: _Decided) -> frozenset[str]:
    """What the side's policy reads of a request like this one."""
    if side.policy is None:
        return frozenset()
    return Reads(side.policy).pointers(side.action_type)


def _differing(first: Any, second: Any, read: frozenset[str] | None) -> Iterator[Differing]:
    """Where two values differ. read: what counts as evaluated; None: all."""
    for found in differences(first, second):
        evaluated = read is None or any(overlap(found.path, pointer) for pointer in read)
        yield Differing(path=found.path, first=found.expected, second=found.actual, evaluated=evaluated)


def _is_name(path: str) -> bool:
    return any(path == name or path.startswith(f"{name}/") for name in _NAMES)


def _features(first: events.Features | None, second: events.Features | None) -> Iterator[Differing]:
    """Where what was derived differs; of the tokens those that one of the two alone has."""
    plain = [None if features is None else msgspec.to_builtins(features) for features in (first, second)]
    tokens = [[] if features is None else features.pop("tokens") for features in plain]
    yield from _differing(plain[0], plain[1], None)
    alone = [[token for token in mine if token not in theirs] for mine, theirs in (tokens, tokens[::-1])]
    if any(alone):
        yield Differing(path="/tokens", first=alone[0], second=alone[1], evaluated=True)


def _fired(side: _Decided) -> dict[str, events.MatchedRule]:
    return {rule.rule_id: rule for rule in side.derived.matched_rules}


def _policy_changes(one: _Decided, other: _Decided) -> list[Change]:
    return [] if one.policy is None or other.policy is None else diff_policies(one.policy, other.policy)


def _matters(change: Change, fired: set[str], action_types: set[str]) -> bool:
    """Whether a difference of the policies concerns a rule that fired, or these requests."""
    if change.part == "rule":
        return change.name in fired
    if change.part == "threshold":
        return not fired.isdisjoint(change.affects)
    if change.part == "required_evidence":
        return change.name in action_types
    return change.part == "features" or (change.part == "defaults" and DEFAULT in fired)


# -- rules -------------------------------------------------------------------------------------


def _rules(one: _Decided, other: _Decided) -> Iterator[RuleDiffering]:
    """The rules that fired in one alone: of the first, then of the second."""
    for side, against, name in ((one, other, "first"), (other, one, "second")):
        for rule_id, rule in _fired(side).items():
            if rule_id in _fired(against):
                continue
            known = rule_id == DEFAULT or _looks(against, rule_id) is not None
            yield RuleDiffering(
                rule_id=rule_id,
                stage=rule.stage,
                effect=rule.effect,
                reason_codes=rule.reason_codes,
                fired_in=name,
                known=known,
                about=rule_id == DEFAULT or (known and _is_about(against, rule_id)),
                looks=_look_pairs(_looks(one, rule_id) or {}, _looks(other, rule_id) or {}),
            )


def _looks(side: _Decided, rule_id: str) -> dict[tuple[int, str, str], Look] | None:
    """What each condition of a rule found, by its place; None if the policy has no such rule."""
    rules = () if side.policy is None else side.policy.document.rules
    rule = next((rule for rule in rules if rule.id == rule_id), None)
    if rule is None or side.policy is None:
        return None
    groups = looks_of(side.policy, rule, facts_of(side.record))
    return {(number, look.field, look.op): look for number, group in enumerate(groups) for look in group}


def _is_about(side: _Decided, rule_id: str) -> bool:
    """Whether a rule of the side's policy is about its action type."""
    rules = () if side.policy is None else side.policy.rules_for(side.action_type)
    return any(rule.rule_id == rule_id for rule in rules)


def _look_pairs(
    first: dict[tuple[int, str, str], Look], second: dict[tuple[int, str, str], Look]
) -> list[LookPair]:
    pairs = [
        LookPair(first=first.get(key), second=second.get(key)) for key in dict.fromkeys([*first, *second])
    ]
    return [
        pair
        for pair in pairs
        if pair.first is None or pair.second is None or pair.first.holds != pair.second.holds
    ]


# -- memory ------------------------------------------------------------------------------------


def _memory(one: _Decided, other: _Decided) -> Iterator[Remembered]:
    """The best matches of either, those of the second first: it is the one that is asked about."""
    same_ledger = one.source.head.ledger_id == other.source.head.ledger_id
    matches = [{match.memory_id: match for match in _top(side)} for side in (one, other)]
    seqs = [side.memory_seq for side in (one, other)]
    low, high = min(seq or 0 for seq in seqs), max(seq or 0 for seq in seqs)
    for memory_id in dict.fromkeys([*matches[1], *matches[0]]):
        first, second = (found.get(memory_id) for found in matches)
        match = second or first
        assert match is not None
        seq = events.memory_seq(memory_id)
        yield Remembered(
            memory_id=memory_id,
            decision_id=_learned_from(other if second else one, seq),
            label=match.label,
            summary=match.summary,
            first=None if first is None else first.score,
            second=None if second is None else second.score,
            between=same_ledger and seq is not None and low < seq <= high,
        )


def _top(side: _Decided) -> list[events.Match]:
    return side.derived.risk_signals.failure_similarity.top_k


def _learned_from(side: _Decided, seq: int | None) -> str | None:
    row = None if seq is None else side.past.row(seq)
    if row is None or row.kind != events.MEMORY_ADDED:
        return None
    body = read_body(row)
    return body.struct.decision_id if isinstance(body, Body) else None


def _added(one: _Decided, other: _Decided) -> int:
    """How many items were added to the memory that the second asks, between the two snapshots."""
    if one.source.head.ledger_id != other.source.head.ledger_id or not other.source.whole:
        return 0
    if one.memory_seq is None or other.memory_seq is None:
        return 0
    low, high = sorted((one.memory_seq, other.memory_seq))
    stream = events.memory_stream(other.tenant_id, other.action_type)
    rows = other.source.events.rows(low, before=high + 1, stream=stream, kinds=[events.MEMORY_ADDED])
    return sum(1 for _ in rows)


# -- what made the difference --------------------------------------------------------------------

_Outcome = tuple[str, list[str]]


def _outcome(side: Side | events.Decision | WhatIf) -> _Outcome:
    return side.verdict, side.reason_codes


def _causes(
    one: _Decided, other: _Decided
) -> tuple[tuple[tuple[str, ...], ...], str | None, tuple[WhatIf, ...]]:
    """The smallest sets of factors that make the difference, why that cannot be told, what was tried."""
    wanted = _outcome(other.derived)
    for name, side in (("first", one), ("second", other)):
        reason = _why_not(side, name)
        if reason is not None:
            return (), reason, ()
    tried = []
    try:
        for size in range(len(FACTORS) + 1):
            for swapped in combinations(FACTORS, size):
                request, policy, memory = (other if factor in swapped else one for factor in FACTORS)
                decision = _decide(request, policy, memory)
                tried.append(
                    WhatIf(swapped=swapped, verdict=decision.verdict, reason_codes=decision.reason_codes)
                )
    except MemoryBroken:
        return (), MEMORY_BROKEN, ()
    for name, side, again in (("first", one, tried[0]), ("second", other, tried[-1])):
        if _outcome(again) != _outcome(side.derived):
            return (), f"the {name} does not come out again as recorded; see `tally replay`", tuple(tried)
    if _outcome(one.derived) == wanted:
        return (), None, tuple(tried)
    if one.derived.verdict != other.derived.verdict:
        enough = [set(what.swapped) for what in tried if what.verdict == other.derived.verdict]
    else:
        enough = [set(what.swapped) for what in tried if _outcome(what) == wanted]
    causes = [each for each in enough if not any(less < each for less in enough)]
    return tuple(tuple(f for f in FACTORS if f in each) for each in causes), None, tuple(tried)


def _why_not(side: _Decided, name: str) -> str | None:
    """Why a decision cannot be decided again; None if it can."""
    if side.derived.features is None:
        return f"the gateway could not decide the {name}, and abstained"
    if side.policy is None:
        return f"the text of the policy of the {name} was erased, or is not there"
    if side.derived.determinism.engine_version != ENGINE_VERSION:
        return f"the {name} was made by another engine than this, {ENGINE_VERSION!r}"
    if Reads(side.policy).any_of(side.action_type, side.derived.redacted) is not None:
        return f"what the policy of the {name} asks about was redacted from its request"
    if side.memory_seq is None:
        return f"the {name} does not say which memory it was made with"
    return None


def _decide(request: _Decided, policy: _Decided, memory: _Decided) -> events.Decision:
    """The decision on one side's request, under one's policy, with what was remembered at one's event."""
    assert policy.policy is not None, "it was looked for before"
    assert memory.memory_seq is not None, "it was looked for before"
    question = question_of(policy.policy, request.derived.request)
    head = Head(memory.memory_seq, b"")
    remembered = recall(policy.policy, question, request.tenant_id, memory.memory, head)
    return decide_purely(policy.policy, question, remembered, None, redaction=OFF)
