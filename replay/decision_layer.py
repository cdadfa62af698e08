"""The layer `decision`: the recorded request decided again (contract D12).

Under the policy whose text the ledger holds, with the memory as of the decision, by the function that the
gateway itself decides with.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger import records
from tallystick.ledger.event import Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.projections.memory import Memory, MemoryBroken
from tallystick.recorders.gateway.decision import ENGINE_VERSION, decide_purely, question_of, recall
from tallystick.recorders.gateway.redaction import OFF, STRICTNESS
from tallystick.recorders.gateway.request import DecisionRequest

from .checks import Body, Checks, Past, Unreadable
from .differences import same
from .digest_gateway import POLICY_ERASED, evaluated_request, policy_in, registered

NOT_EVALUATED: Final = "the gateway could not decide, and abstained"
NO_SNAPSHOT: Final = "it does not say which memory it was made with"
MEMORY_ERASED: Final = "something that it was decided with was erased from memory since"
MEMORY_BROKEN: Final = "the memory that it was decided with cannot be read"
#: In the order in which they are worth telling; after a redaction, the first alone can be compared.
_VERDICT: Final = (
    *("verdict", "reason_codes", "matched_rules", "risk_signals", "queries", "obligations"),
    *("features", "policy", "determinism"),
)
_REQUEST: Final = ("request", "request_digest", "redacted")


class Decisions:
    """Decides again."""

    def __init__(self, past: Past, ledger: Ledger) -> None:
        self._past = past
        self._memory = Memory(ledger)

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
        if derived.features is None:
            checks.cannot("verdict", NOT_EVALUATED)
        elif version != ENGINE_VERSION:
            checks.cannot(
                "verdict", f"it was made by the engine {version[:40]!r}, and this is {ENGINE_VERSION!r}"
            )
        elif derived.determinism.memory_snapshot is None:
            checks.cannot("verdict", NO_SNAPSHOT)
        else:
            self._decide(checks, row, derived, recorded)

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
        try:
            head = Head(snapshot.seq, b"")
            remembered = recall(policy, question, tenant_id, self._memory, head)
        except MemoryBroken:
            checks.cannot("verdict", MEMORY_BROKEN)
            return
        decision = decide_purely(policy, question, remembered, snapshot, redaction=_profile(derived.request))
        again: dict[str, Any] = msgspec.to_builtins(decision)
        fields: tuple[str, ...] = _VERDICT
        if request is None:
            again["determinism"]["inputs_digest"] = derived.determinism.inputs_digest
        else:
            fields += _REQUEST
        differing = [name for name in fields if not same(again[name], recorded.get(name))]
        if differing and self._was_erased(tenant_id, question.request["action"]["type"], snapshot.seq):
            checks.cannot("verdict", MEMORY_ERASED)
            return
        for name in fields:
            checks.equal(name, again[name], recorded.get(name))

    def _was_erased(self, tenant_id: str | None, action_type: str, upto: int) -> bool:
        """Whether an item of the memory as of then was erased later."""
        stream = events.memory_stream(tenant_id, action_type)
        rows = self._past.ledger.rows(before=upto + 1, stream=stream, kinds=[events.MEMORY_ADDED])
        gone = {row.seq for row in rows if row.body is None}
        if not gone:
            return False
        kinds = [records.BODY_ERASED]
        for record in self._past.ledger.rows(upto, stream=records.STREAM, kinds=kinds):
            try:
                erased = msgspec.json.decode(record.body or b"", type=records.BodyErased)
            except msgspec.MsgspecError:
                continue
            if erased.seq in gone:
                return True
        return False


def _profile(request: dict[str, Any]) -> str:
    """The redaction profile in force, as the recorded request says."""
    context = request.get("context")
    redaction = context.get("redaction") if isinstance(context, dict) else None
    profile = redaction.get("profile") if isinstance(redaction, dict) else None
    return profile if profile in STRICTNESS else OFF
