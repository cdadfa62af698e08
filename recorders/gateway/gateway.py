"""The gateway: asked before an action is taken, it decides, records, and only then answers (D1, D7, D8, D10).

It fails closed. Whatever keeps it from deciding or recording (no policy, a broken one, memory that cannot be
read, a full disk, a locked or closed ledger) makes the answer ABSTAIN with a reason of the gateway's own,
and `record.error` says what happened; an exception could be taken for a reason to go on. What does raise is a
mistake of the caller: a request that is none, or a request id used for two requests.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger import canonical
from tallystick.ledger.drafting import wall_clock
from tallystick.ledger.errors import InvalidEvent, KeyConflict, PositionConflict, TallyError
from tallystick.ledger.event import Event, NewEvent, Receipt, Row
from tallystick.ledger.ledger import Ledger
from tallystick.ledger.walk import OwnHashes
from tallystick.projections.memory import memory_of

from ..capture import text_of
from ..session.records import iso_text, moment
from .decision import abstention, asked_otherwise, decide_purely, question_of, recall
from .errors import (
    DecisionAltered,
    DecisionErased,
    InvalidDecisionEvent,
    NoSuchDecision,
    NotTrusted,
    PolicyNotAsked,
    RequestConflict,
)
from .features import amount_usd, tokens_of
from .policy import Policy, PolicySource, policy_of
from .record import SAID, DecisionRecord, LogEntry, log_entry, log_of, reading, record_of
from .redaction import DEFAULT, STRICTNESS
from .request import CheckedRequest, DecisionRequest, check_request
from .stages import (
    EVALUATION_FAILED,
    MEMORY_UNAVAILABLE,
    POLICY_UNAVAILABLE,
    STORAGE_UNAVAILABLE,
    Label,
)
from .ulid import RANDOM_BYTES, ulid

Request = DecisionRequest | dict[str, Any]

SUMMARY_MAX: Final = 2000
DATA_BYTES_MAX: Final = 64 * 1024
_MESSAGE_MAX: Final = 2000


class _Made(NamedTuple):
    """A decision that was made and not recorded yet, and what kept it from being made as it should."""

    decision: events.Decision
    policy: Policy | None
    error: Exception | None = None


class Gateway:
    """Decides requests under a policy, from what its ledger remembers. Safe to share between threads.

    policy: a file's path, its YAML text, or a `Policy`. A file is read again for every decision, so a change
    counts at once. redaction: `default`, `strict` or `off`; the least that is
    removed from what is recorded (a request may ask for more); by default the request's word, else `default`.
    clock (microseconds since 1970 UTC) and entropy make decision ids and times.
    """

    def __init__(
        self,
        ledger: Ledger,
        policy: PolicySource,
        *,
        redaction: str | None = None,
        clock: Callable[[], int] = wall_clock,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if redaction is not None and redaction not in STRICTNESS:
            raise ValueError(f"redaction: {redaction!r} is none of {', '.join(STRICTNESS)}")
        self.ledger = ledger
        self._source = policy
        self._redaction = redaction
        self._clock = clock
        self._entropy = entropy
        self._registered: set[str] = set()

    @property
    def policy(self) -> Policy:
        """The policy as it is now. Raises PolicyNotFound, InvalidPolicy."""
        return policy_of(self._source)

    # -- deciding ------------------------------------------------------------------------

    def decide(self, request: Request | str | bytes) -> DecisionRecord:
        """The decision on a request, recorded; or ABSTAIN if it cannot be made or recorded.

        request: a dict, a `DecisionRequest`, or JSON text. The same `request_id` of the same tenant with the
        same request gives the first record again. Raises InvalidRequest and RequestConflict; nothing is then
        recorded.
        """
        checked = check_request(request)
        key = request_key(checked.request)
        try:
            first = None if key is None else self.ledger.find(key)
            if first is not None:
                return self._first_record(checked, first)
            return self._record(checked, self._make(checked), key)
        except RequestConflict:
            raise
        except Exception as error:
            return _abstained(checked, self._profile(checked.request), error)

    def guard(self, request: Request | str | bytes) -> DecisionRecord:
        """The decision on a request, if the action may go on; else NotTrusted, which carries the record.

        It may go on if the verdict is TRUST and was recorded; and, under a policy in advisory mode, whatever
        the verdict, as long as it could be made and recorded. Raises as `decide` does, too.
        """
        record = self.decide(request)
        if record.may_proceed:
            return record
        raise NotTrusted(record)

    def _make(self, checked: CheckedRequest) -> _Made:
        """The decision, or the abstention that stands for what went wrong. Never raises an Exception."""
        policy = snapshot = None
        redaction = self._profile(checked.request)
        reason = POLICY_UNAVAILABLE
        try:
            policy = self.policy
            _check_asked(checked.request, policy)
            reason = MEMORY_UNAVAILABLE
            head = self.ledger.head()
            question = question_of(policy, checked.plain)
            remembered = recall(policy, question, checked.request.tenant_id, memory_of(self.ledger), head)
            snapshot = events.Snapshot(seq=head.seq, hash=head.hash.hex())
            reason = EVALUATION_FAILED
            decision = decide_purely(
                policy, question, remembered, snapshot, redaction=redaction, form=checked.jcs
            )
        except Exception as error:
            abstained = abstention(
                checked.plain, checked.jcs, reason, redaction=redaction, policy=policy, snapshot=snapshot
            )
            return _Made(abstained, policy, error)
        return _Made(decision, policy)

    def _record(self, checked: CheckedRequest, made: _Made, key: str | None) -> DecisionRecord:
        """The record, once it is in the ledger. Raises RequestConflict, and whatever kept it from there."""
        at = self._clock()
        body = _body(made.decision, made.error, at, self._entropy)
        record = record_of(body)
        # What could not be decided is recorded without the key: asking again must decide anew.
        event = NewEvent(
            kind=events.RECORDED,
            body=body,
            stream=events.decision_stream(body.observed.decision_id),
            key=None if made.error is not None else key,
            at=at,
        )
        try:
            receipt = self._append(made.policy, event)
        except KeyConflict as conflict:
            if conflict.key != event.key:
                raise
            # Another caller with the same request id came first.
            return self._first_record(checked, self.ledger.get(conflict.seq))
        self._tell_memory(checked.request, made.decision.determinism.memory_snapshot, receipt)
        return record.noting(receipt, made.error)

    def _first_record(self, checked: CheckedRequest, first: Event) -> DecisionRecord:
        """The record of the first request with this id. Raises RequestConflict if that was another one, and
        DecisionAltered: a verdict that was never given must not be repeated.
        """
        body = None
        if first.kind == events.RECORDED and not first.erased:
            self._check_unaltered(first, first.stream.partition(":")[2])
            body = msgspec.convert(first.body, events.DecisionRecorded)
        if body is None or body.derived.request_digest != checked.digest:
            decision_id = body.observed.decision_id if body is not None else None
            raise RequestConflict(str(checked.request.request_id), decision_id, first.seq)
        return record_of(body).noting(_receipt(first))

    def _tell_memory(
        self, request: DecisionRequest, snapshot: events.Snapshot | None, receipt: Receipt
    ) -> None:
        """Spare memory from looking for news in a decision that came right after what it has read."""
        if snapshot is None or receipt.seq != snapshot.seq + 1:
            return
        with suppress(TallyError):  # closed meanwhile; the decision stands
            memory = memory_of(self.ledger)
            memory.pass_over(request.tenant_id, request.action.type, snapshot.seq, receipt.seq)

    def _append(self, policy: Policy | None, event: NewEvent) -> Receipt:
        """Append the decision, with its policy if the ledger does not have it. Durable when it returns.

        A crash before leaves nothing of it, and nobody was told; a crash after leaves the whole decision.
        """
        batch = [event]
        key = ""
        if policy is not None and policy.policy_hash not in self._registered:
            key = policy_key(policy.policy_hash)
            stream = events.policy_stream(policy.policy_hash)
            if next(self.ledger.rows(stream=stream, limit=1), None) is None:
                batch.insert(0, _registration(policy, stream, key))
        try:
            # The expectation commits at once, inside a batch of the ledger's, too.
            receipts = self.ledger.record(batch, expect=(event.stream, 0))
        except KeyConflict as conflict:
            if len(batch) == 1 or conflict.key != key:
                raise
            # Another process has just registered the policy, from text that differs in comments or layout.
            receipts = self.ledger.record([event], expect=(event.stream, 0))
        assert receipts is not None
        if policy is not None:
            self._registered.add(policy.policy_hash)
        return receipts[-1]

    def _profile(self, request: DecisionRequest) -> str:
        """The redaction profile in force for a request."""
        return _profile(request, self._redaction)

    # -- afterwards ----------------------------------------------------------------------

    def record(self, decision_id: str, *, as_stored: bool = False) -> DecisionRecord:
        """The record as it was answered, with what was said of it since in `decision_event_log`.

        as_stored: an altered one, too, as far as it can be read; for who shows it, and says that it was
        altered. Raises NoSuchDecision, DecisionErased, DecisionAltered, and MalformedEvent for what was
        altered beyond reading.
        """
        event, body = self._recorded(decision_id)
        rows = list(self.ledger.rows(event.seq - 1, stream=event.stream))
        if not as_stored:
            problem_of = OwnHashes().problem
            for row in rows:
                problem = problem_of(row)
                if problem is not None:
                    raise DecisionAltered(decision_id, row.seq, problem)
        log = log_of(map(Event.from_row, rows))
        with reading(event.seq):
            return record_of(body, log).noting(_receipt(event))

    def label(self, decision_id: str, label: Label | str, summary: str = "") -> LogEntry:
        """Say how a decision turned out: `failure`, `success` or `near_miss`; later ones are judged by it.

        The last label counts: what was learned from those before is replaced. The same label and summary
        again adds nothing and gives the entry that is there. The decision itself is never changed. To take
        back what was learned, erase the `memory.added`: the one before it then counts again. Inside a batch
        of the ledger's a label is committed at once, behind what waits. Raises NoSuchDecision,
        DecisionErased, DecisionAltered, InvalidDecisionEvent.
        """
        if label not in list(Label):
            raise InvalidDecisionEvent(
                "label", f"{label!r} is no label", f"use one of {', '.join(sorted(Label))}"
            )
        if not isinstance(summary, str):
            raise InvalidDecisionEvent("summary", f"is no text but {type(summary).__name__}", "give a str")
        if len(summary) > SUMMARY_MAX:
            raise InvalidDecisionEvent(
                "summary", f"has {len(summary):,} characters", f"give at most {SUMMARY_MAX:,}"
            )
        decision, body = self._recorded(decision_id)
        self._check_unaltered(decision, decision_id)
        request, features = body.derived.request, body.derived.features
        with reading(decision.seq):
            tenant_id = msgspec.convert(request, DecisionRequest).tenant_id
        said = events.DecisionLabeled(
            decision_id=decision_id, decision_seq=decision.seq, label=Label(label).value, summary=summary
        )
        learned = events.MemoryAdded(
            decision_id=decision_id,
            decision_seq=decision.seq,
            tenant_id=tenant_id,
            action_type=request["action"]["type"],
            label=said.label,
            summary=summary,
            tokens=features.tokens if features else tokens_of(request, amount_usd(request), ()),
            replaces_earlier=True,
        )
        stream = events.memory_stream(tenant_id, learned.action_type)
        while True:
            last, standing = self._standing(decision, said)
            if standing is not None:
                return standing
            try:
                entry = self._say(
                    NewEvent(kind=events.LABELED, body=said, stream=decision.stream),
                    NewEvent(kind=events.MEMORY_ADDED, body=learned, stream=stream),
                    expect=(decision.stream, last),
                )
            except PositionConflict:
                continue  # something was said of the decision a moment ago; it may be the same
            assert entry is not None, "what is expected to follow an event does not wait in a batch"
            return entry

    def _standing(self, decision: Event, said: events.DecisionLabeled) -> tuple[int, LogEntry | None]:
        """The last event of a decision's stream, and the entry of its label if that says this, and counts."""
        rows = list(self.ledger.rows(decision.seq, stream=decision.stream))
        last = rows[-1].seq if rows else decision.seq
        labels = [row for row in rows if row.kind == events.LABELED]
        in_force: list[events.MemoryAdded | None] = []
        for row in labels:
            learned = self._learned_from(row)
            if learned is not None and learned.replaces_earlier:
                in_force.clear()
            in_force.append(learned)  # None if it was erased: then it has to be said again
        if len(in_force) != 1 or in_force[0] is None or labels[-1].body is None:
            return last, None
        counts = (in_force[0].label, in_force[0].summary)
        entry = log_entry(Event.from_row(labels[-1]))
        same = entry is not None and entry.data == {"label": said.label, "summary": said.summary}
        return last, entry if same and counts == (said.label, said.summary) else None

    def _learned_from(self, labeled: Row) -> events.MemoryAdded | None:
        """What memory took from a label: the event right behind it. None if that was erased, or altered."""
        row = next(self.ledger.rows(labeled.seq, limit=1), None)
        if row is None or row.kind != events.MEMORY_ADDED or row.body is None:
            return None
        with suppress(msgspec.MsgspecError):
            return msgspec.json.decode(row.body, type=events.MemoryAdded)
        return None

    def add_event(self, decision_id: str, type: str, data: dict[str, Any]) -> LogEntry | None:
        """Say something of a decision: an `outcome`, a `note`, an `override`; or a `label`, as `label` does.

        data: the caller's own JSON object; for a label `{"label": …, "summary": …}`. None inside a batch of
        the ledger's, where the entry has no place yet. Raises as `label` does.
        """
        _check_data(data)
        if type == "label":
            unknown = sorted(data.keys() - {"label", "summary"})
            if unknown:
                raise InvalidDecisionEvent(f"data.{unknown[0]}", "unknown field", "give label and summary")
            return self.label(decision_id, data.get("label", ""), data.get("summary", ""))
        if type not in SAID:
            raise InvalidDecisionEvent("type", f"{type!r} is no type", f"use one of label, {', '.join(SAID)}")
        decision, _ = self._recorded(decision_id)
        self._check_unaltered(decision, decision_id)
        kind, struct = SAID[type]
        body = struct(decision_id=decision_id, decision_seq=decision.seq, data=data)
        return self._say(NewEvent(kind=kind, body=body, stream=decision.stream))

    def _say(self, said: NewEvent, *more: NewEvent, expect: tuple[str, int] | None = None) -> LogEntry | None:
        said.at = self._clock()
        try:
            receipts = self.ledger.record([said, *more], expect=expect)
        except InvalidEvent as error:
            raise InvalidDecisionEvent(error.path, error.problem, error.remedy or "give JSON") from None
        return None if receipts is None else log_entry(self.ledger.get(receipts[0].seq))

    def _recorded(self, decision_id: str) -> tuple[Event, events.DecisionRecorded]:
        """The event of a decision and its body."""
        stream = events.decision_stream(str(decision_id))
        event = next(self.ledger.read(stream=stream, kinds=[events.RECORDED], limit=1), None)
        if event is None:
            raise NoSuchDecision(str(decision_id))
        if event.erased:
            raise DecisionErased(decision_id, event.seq)
        with reading(event.seq):
            return event, msgspec.convert(event.body, events.DecisionRecorded)

    def _check_unaltered(self, decision: Event, decision_id: str) -> None:
        """Refuse an event that does not match its hashes: memory must not learn what was never decided."""
        row = next(self.ledger.rows(decision.seq - 1, before=decision.seq + 1))
        problem = OwnHashes().problem(row)
        if problem is not None:
            raise DecisionAltered(decision_id, decision.seq, problem)


def decide(
    request: Request | str | bytes,
    *,
    ledger: Ledger | str | os.PathLike[str],
    policy: PolicySource,
    redaction: str | None = None,
) -> DecisionRecord:
    """As `Gateway(ledger, policy).decide(request)`.

    ledger: a path names a ledger that exists; it is opened for this once.
    """
    if isinstance(ledger, Ledger):
        return Gateway(ledger, policy, redaction=redaction).decide(request)
    check_request(request)
    try:
        opened = Ledger.open(Path(ledger), create=False)
    except Exception as error:
        return unrecorded(request, error, redaction=redaction)
    with opened:
        return Gateway(opened, policy, redaction=redaction).decide(request)


def unrecorded(
    request: Request | str | bytes, error: Exception, *, redaction: str | None = None
) -> DecisionRecord:
    """ABSTAIN, STORAGE_UNAVAILABLE: the answer where no ledger can be opened. Raises InvalidRequest."""
    checked = check_request(request)
    return _abstained(checked, _profile(checked.request, redaction), error)


def _abstained(checked: CheckedRequest, redaction: str, error: Exception) -> DecisionRecord:
    """ABSTAIN, because whatever was decided could not be recorded."""
    decision = abstention(checked.plain, checked.jcs, STORAGE_UNAVAILABLE, redaction=redaction)
    return record_of(_body(decision, error, wall_clock(), os.urandom)).noting(None, error)


def _body(
    decision: events.Decision, error: Exception | None, at: int, entropy: Callable[[int], bytes]
) -> events.DecisionRecorded:
    observed = events.DecisionObserved(
        decision_id=f"dec_{ulid(at, entropy(RANDOM_BYTES))}",
        created_at=iso_text(moment(at)),
        error=None if error is None else _failure(error),
    )
    return events.DecisionRecorded(derived=decision, observed=observed)


def _profile(request: DecisionRequest, least: str | None) -> str:
    """The stricter redaction profile of the one asked for and the least; `default` if neither is given."""
    redaction = request.context.redaction
    asked = redaction.profile if redaction is not msgspec.UNSET else msgspec.UNSET
    profiles = [profile for profile in (least, asked) if isinstance(profile, str)]
    return max(profiles, key=STRICTNESS.__getitem__, default=DEFAULT)


def policy_key(policy_hash: str) -> str:
    """The ledger's key of a policy's registration: there is one for each hash."""
    return f"policy:{policy_hash}"


def request_key(request: DecisionRequest) -> str | None:
    """The ledger's key of a request id; a tenant's own, so that no other can get its record or block it."""
    if request.request_id is msgspec.UNSET:
        return None
    name = canonical.encode([request.tenant_id, request.request_id])
    return f"decision:{hashlib.sha256(name).hexdigest()}"


def _receipt(event: Event) -> Receipt:
    return Receipt(event.seq, event.hash, event.at)


def _check_asked(request: DecisionRequest, policy: Policy) -> None:
    """Refuse to decide under another policy than the one that the request asks for. Raises PolicyNotAsked."""
    field = asked_otherwise(request, policy)
    if field is not None:
        raise PolicyNotAsked(field, getattr(request.policy, field), getattr(policy, field))


def _registration(policy: Policy, stream: str, key: str) -> NewEvent:
    body = events.PolicyRegistered(
        policy_id=policy.policy_id,
        policy_version=policy.policy_version,
        policy_hash=policy.policy_hash,
        text=policy.text,
    )
    return NewEvent(kind=events.POLICY_REGISTERED, body=body, stream=stream, key=key)


def _failure(error: Exception) -> events.Failure:
    message = text_of(lambda: str(error), "its text cannot be had")
    return events.Failure(type=type(error).__name__, message=message[:_MESSAGE_MAX])


def _check_data(data: object) -> None:
    if not isinstance(data, dict):
        raise InvalidDecisionEvent("data", f"expected an object, got {type(data).__name__}", "give a dict")
    try:
        canonical.encode(data, "data", DATA_BYTES_MAX)
    except InvalidEvent as error:
        raise InvalidDecisionEvent(error.path, error.problem, error.remedy or "give JSON") from None
