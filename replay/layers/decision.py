"""The layer `decision`: the recorded request decided again (contract D12).

Under the policy whose text the ledger holds, with the memory as of the decision, by the function that the
gateway itself decides with.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from itertools import accumulate
from operator import itemgetter
from typing import Any, Final

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger import records
from tallystick.ledger.event import Head, Row
from tallystick.projections.memory import (
    BUCKETS_MAX,
    FAILURE,
    Memory,
    MemoryBroken,
    MemoryTooLarge,
    Remembered,
)
from tallystick.recorders.gateway.decision import (
    ENGINE_VERSION,
    abstention,
    decide_purely,
    question_of,
    recall,
)
from tallystick.recorders.gateway.digests import jcs
from tallystick.recorders.gateway.redaction import OFF, STRICTNESS
from tallystick.recorders.gateway.request import DecisionRequest
from tallystick.recorders.gateway.stages import GATEWAY_REASONS, STORAGE_UNAVAILABLE

from ..differences import same
from ..parts import part
from .checks import Body, Checks, Past, Unreadable
from .digest_gateway import POLICY_ERASED, evaluated_request, policy_in, registered

NOT_EVALUATED: Final = "the gateway could not decide, and abstained"
NO_SNAPSHOT: Final = "it does not say which memory it was made with"
MEMORY_ERASED: Final = "something that it was decided with was erased from memory since"
MEMORY_BROKEN: Final = "the memory that it was decided with cannot be read"
#: What replay keeps of memory, about, in bytes: some 240,000 items of the usual size.
MEMORY_BYTES_MAX: Final = 64 << 20
MEMORY_TOO_LARGE: Final = "the memory that it was decided with is larger than replay can hold"
FROM_RECORDED: Final = "with the memory that it says it was decided with"
#: With any other, nothing would have been recorded.
RECORDED_REASONS: Final = GATEWAY_REASONS - {STORAGE_UNAVAILABLE}
#: In the order in which they are worth telling; after a redaction, the first alone can be compared.
_VERDICT: Final = (
    *("verdict", "reason_codes", "matched_rules", "risk_signals", "queries", "obligations"),
    *("features", "policy", "determinism"),
)
_REQUEST: Final = ("request", "request_digest", "redacted")


class Decisions:
    """Decides again."""

    def __init__(self, past: Past) -> None:
        self._past = past
        self.memory = Memory(past.ledger, MEMORY_BYTES_MAX)
        self._gone: dict[str, list[tuple[int, int]]] = {}

    def check(self, checks: Checks, row: Row, body: Body | Unreadable) -> None:
        """Decide the request of a `decision.recorded` again, and compare field by field."""
        if isinstance(body, Unreadable):
            if body.malformed:
                checks.cannot("verdict", "its body is malformed")
            else:
                checks.cannot("verdict", body.reason)
            return
        derived: events.Decision = body.struct.derived
        recorded: dict[str, Any] = body.plain["derived"]
        version = derived.determinism.engine_version
        if version != ENGINE_VERSION:
            checks.cannot("verdict", f"unknown engine {version[:40]!r}: this program has {ENGINE_VERSION!r}")
        elif derived.features is None:
            self._abstain(checks, derived, recorded)
        elif derived.determinism.memory_snapshot is None:
            checks.wrong("memory_snapshot", NO_SNAPSHOT)
        else:
            self._decide(checks, row, derived, recorded)

    def _abstain(self, checks: Checks, derived: events.Decision, recorded: dict[str, Any]) -> None:
        """What is recorded when the gateway cannot decide follows from that alone."""
        checks.cannot("verdict", NOT_EVALUATED)
        [reason] = derived.reason_codes if len(derived.reason_codes) == 1 else [""]
        if reason not in RECORDED_REASONS:
            expected = sorted(RECORDED_REASONS)
            checks.true("reason_codes", False, expected, derived.reason_codes, "one of the gateway's own")
            return
        request = evaluated_request(derived) or derived.request
        snapshot = derived.determinism.memory_snapshot
        redaction = _profile(derived.request)
        again = abstention(request, jcs(request), reason, redaction=redaction, snapshot=snapshot)
        policy = msgspec.structs.replace(derived.policy, mode=again.policy.mode)
        plain: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(again, policy=policy))
        for name in _VERDICT if derived.redacted else (*_VERDICT, *_REQUEST):
            checks.equal(name, plain[name], recorded.get(name), NOT_EVALUATED)

    def _decide(self, checks: Checks, row: Row, derived: events.Decision, recorded: dict[str, Any]) -> None:
        registration = registered(derived.policy.policy_hash or "", self._past)
        policy = None if registration is None else policy_in(registration)
        if policy is None:
            checks.cannot("verdict", POLICY_ERASED if registration else "its policy is not in the ledger")
            return
        snapshot = derived.determinism.memory_snapshot
        assert snapshot is not None
        if snapshot.seq >= row.seq:
            checks.wrong("memory_snapshot", "it was made with a memory that did not exist yet")
            return
        request = evaluated_request(derived)
        tenant_id = msgspec.convert(derived.request, DecisionRequest).tenant_id
        question = question_of(policy, derived.request if request is None else request)

        def decided(remembered: Remembered) -> dict[str, Any]:
            decision = decide_purely(
                policy, question, remembered, snapshot, redaction=_profile(derived.request)
            )
            again: dict[str, Any] = msgspec.to_builtins(decision)
            if request is None:
                again["determinism"]["inputs_digest"] = derived.determinism.inputs_digest
            return again

        fields = _VERDICT if request is None else (*_VERDICT, *_REQUEST)
        lost = None
        try:
            head = Head(snapshot.seq, b"")
            again = decided(recall(policy, question, tenant_id, self.memory, head))
        except MemoryBroken:
            lost = MEMORY_BROKEN
        except MemoryTooLarge:
            lost = MEMORY_TOO_LARGE
        else:
            differing = any(not same(again[name], recorded.get(name)) for name in fields)
            if differing and self.was_erased(tenant_id, question.request["action"]["type"], snapshot.seq):
                lost = MEMORY_ERASED
        if lost is not None:
            checks.cannot("risk_signals", lost)
            again = decided(as_recorded(derived))
        for name in fields:
            checks.equal(name, again[name], recorded.get(name), lost and FROM_RECORDED)

    def was_erased(self, tenant_id: str | None, action_type: str, upto: int) -> bool:
        """Whether an item of the memory as of then was erased later."""
        stream = events.memory_stream(tenant_id, action_type)
        gone = self._gone.get(stream)
        if gone is None:
            if len(self._gone) >= BUCKETS_MAX:
                self._gone.clear()
            gone = self._gone[stream] = self._erased_in(stream)
        there = bisect_right(gone, upto, key=itemgetter(0))
        return there > 0 and gone[there - 1][1] > upto

    def _erased_in(self, stream: str) -> list[tuple[int, int]]:
        """The items of a stream of memory that were erased, by seq: each with the last record of that, of it
        or of one before it.
        """
        ledger, end = self._past.ledger, self._past.head.seq + 1
        rows = ledger.rows(before=end, stream=stream, kinds=[events.MEMORY_ADDED])
        without = {row.seq for row in rows if row.body is None}
        gone = []
        kinds = [records.BODY_ERASED]
        for record in ledger.rows(before=end, stream=records.STREAM, kinds=kinds) if without else ():
            with suppress(msgspec.MsgspecError, ValueError):
                erased = msgspec.json.decode(record.body or b"", type=records.BodyErased)
                if erased.seq in without:
                    gone.append((erased.seq, record.seq))
        gone.sort()
        latest = accumulate((record for _, record in gone), max)
        return [(seq, record) for (seq, _), record in zip(gone, latest, strict=True)]


def as_recorded(derived: events.Decision) -> Remembered:
    """What memory had found, as the decision itself says: its verdict still has to follow from that."""
    found = derived.risk_signals.failure_similarity
    failure = None
    if found.numerator:
        failure = events.Match(
            memory_id="",
            label=FAILURE,
            score=found.score,
            numerator=found.numerator,
            denominator=found.denominator,
            summary="",
        )
    return Remembered(found.top_k, failure)


def _profile(request: dict[str, Any]) -> str:
    """The redaction profile in force, as the recorded request says."""
    profile = part(request, "context", "redaction", "profile")
    return profile if profile in STRICTNESS else OFF
