"""The projection `decisions`: what was decided, what was said of it since, and under which policies.

`decisions` has a row a decision, to filter by verdict, tenant, action type and time and to search by text;
`decision_events` what was said afterwards; `policies` each policy that was used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger.event import Event, Row

from .projection import Projection, Table
from .tables import Tables

_TEXT_MAX: Final = 4000
_TYPES: Final = {
    events.LABELED: "label",
    events.OUTCOME: "outcome",
    events.NOTED: "note",
    events.OVERRIDDEN: "override",
}


class _Trace(msgspec.Struct):
    correlation_id: str | None = None


class _Tenant(msgspec.Struct):
    tenant_id: str | None = None
    environment: str | None = None


class _Subject(msgspec.Struct):
    type: str
    id: str
    tenant_id: str | None = None


class _Target(msgspec.Struct):
    system: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None


class _Amount(msgspec.Struct):
    value: float | None = None
    currency: str | None = None


class _Action(msgspec.Struct):
    type: str
    intent: str
    amount: _Amount = msgspec.field(default_factory=_Amount)
    target: _Target = msgspec.field(default_factory=_Target)
    tags: list[str] = []


class _Request(msgspec.Struct):
    """What of a request has a column; the event has the rest."""

    subject: _Subject
    action: _Action
    tenant: _Tenant = msgspec.field(default_factory=_Tenant)
    trace: _Trace = msgspec.field(default_factory=_Trace)
    request_id: str | None = None
    evidence: dict[str, Any] = {}


class _Features(msgspec.Struct):
    amount_usd: float | None


class _Derived(msgspec.Struct):
    request: _Request
    features: _Features | None
    policy: events.PolicyRef
    verdict: str
    reason_codes: list[str]
    matched_rules: list[events.MatchedRule]
    risk_signals: events.RiskSignals


class Recorded(msgspec.Struct):
    """What of a `decision.recorded` has a column. A body that does not fit is skipped, and breaks nothing."""

    derived: _Derived
    observed: events.DecisionObserved


class Decisions(Projection):
    """Times are microseconds since 1970 UTC, as the events have them.

    `label` is the last one given, `labels` how many were, `events` how often anything was said.
    """

    name = "decisions"
    version = 1
    kinds: ClassVar[Mapping[str, Any]] = {
        events.RECORDED: Recorded,
        events.LABELED: events.DecisionLabeled,
        events.OUTCOME: events.DecisionOutcome,
        events.NOTED: events.DecisionNoted,
        events.OVERRIDDEN: events.DecisionOverridden,
        events.POLICY_REGISTERED: events.PolicyRegistered,
    }
    tables: ClassVar[Mapping[str, Table]] = {
        "decisions": Table(
            columns={
                "decision_id": str,
                "seq": int,
                "at": int,
                "stream": str,
                "verdict": str,
                "mode": str,
                "tenant_id": str,
                "environment": str,
                "subject_type": str,
                "subject_id": str,
                "action_type": str,
                "intent": str,
                "amount_value": float,
                "amount_currency": str,
                "amount_usd": float,
                "tags": list,
                "target_system": str,
                "target_resource_type": str,
                "target_resource_id": str,
                "request_id": str,
                "correlation_id": str,
                "policy_id": str,
                "policy_version": str,
                "policy_hash": str,
                "reason_codes": list,
                "matched_rules": list,
                "uncertainty": float,
                "failure_similarity": float,
                "error": str,
                "label": str,
                "labels": int,
                "events": int,
                "words": str,
            },
            pk="decision_id",
            indexes=(
                "seq",
                "at",
                ("verdict", "seq"),
                ("tenant_id", "seq"),
                ("action_type", "seq"),
                "policy_hash",
                "correlation_id",
                "stream",
            ),
            search=("intent", "words"),
        ),
        "decision_events": Table(
            columns={
                "seq": int,
                "at": int,
                "stream": str,
                "decision_id": str,
                "type": str,
                "label": str,
                "text": str,
                "data": dict,
            },
            pk="seq",
            indexes=("decision_id", ("type", "seq"), ("label", "seq"), "stream"),
            search=("text",),
        ),
        "policies": Table(
            columns={
                "policy_hash": str,
                "policy_id": str,
                "policy_version": str,
                "seq": int,
                "at": int,
                "stream": str,
                "text": str,
            },
            pk="policy_hash",
            indexes=("policy_id", "stream"),
            search=("text",),
        ),
    }

    def apply(self, event: Event, tables: Tables) -> None:
        """Add a row, or count what was said."""
        if event.kind == events.RECORDED:
            tables["decisions"].put(table_row(event, event.body))
        elif event.kind == events.POLICY_REGISTERED:
            policy: events.PolicyRegistered = event.body
            tables["policies"].put(
                {
                    **_place(event),
                    "policy_hash": policy.policy_hash,
                    "policy_id": policy.policy_id,
                    "policy_version": policy.policy_version,
                    "text": policy.text,
                }
            )
        else:
            self._said(event, tables)

    def forget(self, stream: str, tables: Tables) -> None:
        """Delete the rows of a decision or a policy."""
        for rows in tables.values():
            rows.delete_where(stream=stream)

    def _said(self, event: Event, tables: Tables) -> None:
        said = event.body
        label = said.label if event.kind == events.LABELED else None
        data = {"label": label, "summary": said.summary} if label is not None else said.data
        tables["decision_events"].put(
            {
                **_place(event),
                "decision_id": said.decision_id,
                "type": _TYPES[event.kind],
                "label": label,
                "text": said_text(data) or None,
                "data": data,
            }
        )
        decision = tables["decisions"].get(said.decision_id)
        if decision is None:  # its body was erased
            return
        changes = {"events": decision["events"] + 1}
        if label is not None:
            changes.update(label=label, labels=decision["labels"] + 1)
        tables["decisions"].update(said.decision_id, **changes)


def table_row(event: Event | Row, body: Recorded) -> dict[str, Any]:
    """The row of `decisions` that a `decision.recorded` begins with; nothing was said of it yet."""
    derived, observed = body.derived, body.observed
    request, policy, risk = derived.request, derived.policy, derived.risk_signals
    subject, action, tenant = request.subject, request.action, request.tenant
    rules = [rule.rule_id for rule in derived.matched_rules]
    named = [observed.decision_id, action.type, subject.id, action.target.resource_id or ""]
    said = [*derived.reason_codes, *rules, *action.tags, *_words(request.evidence)]
    return {
        **_place(event),
        "decision_id": observed.decision_id,
        "verdict": derived.verdict,
        "mode": policy.mode,
        "tenant_id": tenant.tenant_id or subject.tenant_id,
        "environment": tenant.environment,
        "subject_type": subject.type,
        "subject_id": subject.id,
        "action_type": action.type,
        "intent": action.intent,
        "amount_value": action.amount.value,
        "amount_currency": action.amount.currency,
        "amount_usd": derived.features.amount_usd if derived.features else None,
        "tags": action.tags,
        "target_system": action.target.system,
        "target_resource_type": action.target.resource_type,
        "target_resource_id": action.target.resource_id,
        "request_id": request.request_id,
        "correlation_id": request.trace.correlation_id,
        "policy_id": policy.policy_id,
        "policy_version": policy.policy_version,
        "policy_hash": policy.policy_hash,
        "reason_codes": derived.reason_codes,
        "matched_rules": rules,
        "uncertainty": risk.uncertainty_score,
        "failure_similarity": risk.failure_similarity.score,
        "error": None if observed.error is None else f"{observed.error.type}: {observed.error.message}",
        "label": None,
        "labels": 0,
        "events": 0,
        "words": " ".join([*named, *said])[:_TEXT_MAX],
    }


def said_text(data: Any) -> str:
    """The words in what was said of a decision, to look for."""
    return " ".join(_words(data))[:_TEXT_MAX]


def _place(event: Event | Row) -> dict[str, Any]:
    return {"seq": event.seq, "at": event.at, "stream": event.stream}


def _words(value: Any) -> Iterable[str]:
    """The texts in a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _words(item)
