"""The record `decision_record.v0`: what is answered, and what is kept of it (D3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Final, Literal, Self, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tallystick.events import gateway as events
from tallystick.ledger.errors import MalformedEvent, TallyError
from tallystick.ledger.event import Event, Receipt

from ..session.records import iso_text
from .request import DecisionRequest, Mode, Trace
from .stages import ADVISORY, DecisionVerdict

SCHEMA_VERSION: Final = "decision_record.v0"
#: Where `extensions` says why the gateway could not decide.
ERROR: Final = "error"
#: Kind and body of what apps say of a decision afterwards, by its type; labels have their own call.
SAID: Final[Mapping[str, tuple[str, Any]]] = {
    "outcome": (events.OUTCOME, events.DecisionOutcome),
    "note": (events.NOTED, events.DecisionNoted),
    "override": (events.OVERRIDDEN, events.DecisionOverridden),
}
_TYPES: Final = {events.LABELED: "label", **{kind: name for name, (kind, _) in SAID.items()}}


class LogEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that was said of a decision afterwards (D10).

    event_id: `evt_` and the seq of the event.
    at: when it was recorded, ISO 8601 in UTC.
    type: `outcome`, `label`, `note` or `override`.
    data: what was said.
    """

    event_id: str
    at: str
    type: Literal["outcome", "label", "note", "override"]
    data: dict[str, Any]


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """A decision.

    schema_version: `decision_record.v0`.
    decision_id: `dec_` and a ULID.
    created_at: wall clock, ISO 8601 in UTC.
    trace: of the request.
    request: as redacted.
    policy: the policy that it was made under, and whether the verdict is enforced.
    verdict: `TRUST`, `ABSTAIN`, `ESCALATE` or `QUERY`.
    reason_codes: in the order of evaluation, at least one.
    matched_rules: the rules that fired, in the order of evaluation.
    risk_signals: what memory says.
    queries: what to ask, on `QUERY`.
    obligations: what the matched rules oblige the caller to.
    determinism: what has to be the same for the same verdict.
    decision_event_log: what was said of it afterwards; only in a record that was read back.
    extensions: `error`, if the gateway could not decide, with its type and message.
    """

    schema_version: Literal["decision_record.v0"] = SCHEMA_VERSION
    decision_id: str
    created_at: str
    trace: Trace = msgspec.field(default_factory=Trace)
    request: DecisionRequest
    policy: events.PolicyRef
    verdict: DecisionVerdict
    reason_codes: Annotated[list[str], Meta(min_length=1)]
    matched_rules: list[events.MatchedRule] = msgspec.field(default_factory=list)
    risk_signals: events.RiskSignals
    queries: list[events.Query] = msgspec.field(default_factory=list)
    obligations: list[dict[str, Any]] = msgspec.field(default_factory=list)
    determinism: events.Determinism
    decision_event_log: list[LogEntry] | UnsetType = UNSET
    extensions: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def receipt(self) -> Receipt | None:
        """Where in the ledger it stands; None if it could not be recorded."""
        return cast("Receipt | None", self.__dict__.get("receipt_"))

    @property
    def recorded(self) -> bool:
        """Whether it stands in the ledger."""
        return self.receipt is not None

    @property
    def trusted(self) -> bool:
        """Whether the verdict is TRUST, and recorded."""
        return self.verdict is DecisionVerdict.TRUST and self.recorded

    @property
    def enforced(self) -> bool:
        """False in advisory mode: the verdict was recorded, and is not to be acted upon."""
        return self.policy.mode != ADVISORY

    @property
    def may_proceed(self) -> bool:
        """Whether the action may go on: trusted, or recorded and not enforced (advisory mode)."""
        return self.recorded and (self.trusted or not self.enforced)

    @property
    def mode(self) -> Mode:
        """`enforce` or `advisory`."""
        return cast(Mode, self.policy.mode)

    @property
    def error(self) -> str | None:
        """Why the gateway could not decide or record, in a line; None if it could."""
        failure = self.extensions.get(ERROR)
        return None if failure is None else f"{failure['type']}: {failure['message']}"

    @property
    def cause(self) -> Exception | None:
        """The exception behind `error`, where it happened in this process."""
        return cast("Exception | None", self.__dict__.get("cause_"))

    def noting(self, receipt: Receipt | None, cause: Exception | None = None) -> Self:
        """This record, knowing where it stands and what went wrong; neither is part of its value."""
        self.__dict__.update(receipt_=receipt, cause_=cause)
        return self

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def to_json(self) -> str:
        """The record as JSON."""
        return msgspec.json.encode(self).decode()


@contextmanager
def reading(seq: int) -> Iterator[None]:
    """Make whatever is not as expected in the body of an event a MalformedEvent: it was altered."""
    try:
        yield
    except TallyError:
        raise
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedEvent(seq, str(error)) from None


def log_entry(event: Event) -> LogEntry | None:
    """The log entry of an event of a decision's stream; None for one that says nothing of it.

    Raises MalformedEvent if its body is not as expected, or no calendar has its time.
    """
    kind: Any = _TYPES.get(event.kind)
    if kind is None or event.erased:
        return None
    body: Any
    with reading(event.seq):
        if kind == "label":
            body = msgspec.convert(event.body, events.DecisionLabeled)
            data = {"label": body.label, "summary": body.summary}
        else:
            body = msgspec.convert(event.body, SAID[kind][1])
            data = body.data
        return LogEntry(event_id=f"evt_{event.seq}", at=iso_text(event.time), type=kind, data=data)


def log_of(said: Iterable[Event]) -> list[LogEntry]:
    """The log entries among events of a decision's stream. Raises MalformedEvent."""
    return [entry for entry in map(log_entry, said) if entry is not None]


def record_of(body: events.DecisionRecorded, log: list[LogEntry] | UnsetType = UNSET) -> DecisionRecord:
    """The record that a `decision.recorded` holds. If it holds none: msgspec.ValidationError, ValueError."""
    derived, observed = body.derived, body.observed
    request = msgspec.convert(derived.request, DecisionRequest)
    return DecisionRecord(
        decision_id=observed.decision_id,
        created_at=observed.created_at,
        trace=Trace() if request.trace is UNSET else request.trace,
        request=request,
        policy=derived.policy,
        verdict=DecisionVerdict(derived.verdict),
        reason_codes=derived.reason_codes,
        matched_rules=derived.matched_rules,
        risk_signals=derived.risk_signals,
        queries=derived.queries,
        obligations=derived.obligations,
        determinism=derived.determinism,
        decision_event_log=log,
        extensions={} if observed.error is None else {ERROR: msgspec.to_builtins(observed.error)},
    )
