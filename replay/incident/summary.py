"""What happened in an incident, in the words and numbers that a person asks for first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from typing import Any, Final

import msgspec

from tallystick.events import gateway, kernel, session
from tallystick.ledger import records
from tallystick.ledger.event import Row

from ..layers.checks import Body, read_body
from ..parts import part, text_part, time_text
from ..rendering.markup import element, escaped, joined
from ..rendering.story import tell
from .gather import Member, Ring

#: Of each sort of thing so many are told of; all are counted.
TOLD_MAX: Final = 100
_TEXT_MAX: Final = 300


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an event says. at: microseconds since 1970 UTC."""

    seq: int
    at: int
    text: str


class SessionFact(msgspec.Struct, kw_only=True):
    """A session: when it began (its first event's seq), what it was about, and how it ended, if it did."""

    session_id: str
    seq: int
    label: str
    outcome: str = "in_progress"
    ended: str = ""


class DecisionFact(msgspec.Struct, kw_only=True):
    """A decision. text: what was asked, the verdict, the rule and the reasons, in one sentence."""

    decision_id: str
    seq: int
    at: int
    action: str
    verdict: str
    enforced: bool
    text: str
    labels: list[str] = msgspec.field(default_factory=list)
    overridden: bool = False


class Summary(msgspec.Struct, kw_only=True):
    """What happened, as the events that belong say it; events that are evidence only are counted apart.

    first_at, last_at: microseconds since 1970 UTC. kinds: how many events of each. executions: how often each
    task was called. errors_returned: calls that succeeded and gave a text that begins with "error", as tools
    of agents do. counts: how many of each sort of thing there were; the first hundred are listed.
    """

    events: int = 0
    belong: int = 0
    first_at: int | None = None
    last_at: int | None = None
    actors: dict[str, int] = msgspec.field(default_factory=dict)
    kinds: dict[str, int] = msgspec.field(default_factory=dict)
    executions: dict[str, int] = msgspec.field(default_factory=dict)
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    sessions: list[SessionFact] = msgspec.field(default_factory=list)
    decisions: list[DecisionFact] = msgspec.field(default_factory=list)
    verdicts: dict[str, int] = msgspec.field(default_factory=dict)
    failures: list[Said] = msgspec.field(default_factory=list)
    errors_returned: list[Said] = msgspec.field(default_factory=list)
    retries: list[Said] = msgspec.field(default_factory=list)
    labels: list[Said] = msgspec.field(default_factory=list)
    outcomes: list[Said] = msgspec.field(default_factory=list)
    overrides: list[Said] = msgspec.field(default_factory=list)
    notes: list[Said] = msgspec.field(default_factory=list)
    erasures: list[Said] = msgspec.field(default_factory=list)


_LISTS: Final = {
    gateway.LABELED: "labels",
    gateway.OUTCOME: "outcomes",
    gateway.OVERRIDDEN: "overrides",
    gateway.NOTED: "notes",
    records.BODY_ERASED: "erasures",
    session.EXPIRED: "erasures",
}
_OTHER_KINDS: Final = "(other kinds)"


def summarised(events: Iterable[tuple[Member, Row]]) -> Summary:
    """The summary of an incident's events, in constant memory."""
    building = _Building()
    for member, row in events:
        building.note(member, row)
    return building.summary


class _Building:
    """A summary that grows event by event."""

    def __init__(self) -> None:
        self.summary = Summary()
        self._counts: Counter[str] = Counter()
        self._sessions: dict[str, SessionFact] = {}
        self._decisions: dict[str, DecisionFact] = {}

    def note(self, member: Member, row: Row) -> None:
        """Count an event, and keep what it says."""
        summary = self.summary
        summary.events += 1
        _count(summary.kinds, row.kind)
        if member.ring == Ring.EVIDENCE and row.kind != records.BODY_ERASED:
            return
        if row.kind != records.BODY_ERASED:
            summary.belong += 1
            summary.first_at = row.at if summary.first_at is None else min(summary.first_at, row.at)
            summary.last_at = row.at if summary.last_at is None else max(summary.last_at, row.at)
            self._actor(row)
        name = _LISTS.get(row.kind)
        if name is not None:
            self._say(name, row)
        if row.stream.startswith(session.STREAM_PREFIX):
            self._of_session(row)
        if row.stream.startswith(gateway.decision_stream("")):
            self._of_decision(row)
        if row.kind in (kernel.EXECUTED, kernel.PIPELINE_COMPLETED, session.ACTION_RECORDED):
            self._of_work(row)

    def _actor(self, row: Row) -> None:
        if row.meta is None:
            return
        try:
            actor = part(msgspec.json.decode(row.meta), "actor")
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return
        if isinstance(actor, str):
            _count(self.summary.actors, actor[:_TEXT_MAX])

    def _say(self, name: str, row: Row) -> None:
        self.summary.counts[name] = self.summary.counts.get(name, 0) + 1
        said: list[Said] = getattr(self.summary, name)
        if len(said) < TOLD_MAX:
            said.append(Said(seq=row.seq, at=row.at, text=_headline(row)))

    def _of_session(self, row: Row) -> None:
        if row.kind not in (session.STARTED, session.CLOSED):
            return
        session_id = row.stream.removeprefix(session.STREAM_PREFIX)
        body = _plain(row)
        known = self._sessions.get(session_id)
        if known is None and row.kind == session.STARTED:
            self.summary.counts["sessions"] = self.summary.counts.get("sessions", 0) + 1
            if len(self.summary.sessions) >= TOLD_MAX:
                return
            label = text_part(body, "derived", "label")[:_TEXT_MAX] if body else "(erased)"
            known = SessionFact(session_id=session_id, seq=row.seq, label=label)
            self._sessions[session_id] = known
            self.summary.sessions.append(known)
        elif known is not None and row.kind == session.CLOSED:
            known.outcome = text_part(body, "derived", "outcome")[:_TEXT_MAX] if body else "(erased)"
            known.ended = _headline(row)

    def _of_decision(self, row: Row) -> None:
        if row.kind not in (gateway.RECORDED, gateway.LABELED, gateway.OVERRIDDEN):
            return
        decision_id = row.stream.removeprefix(gateway.decision_stream(""))
        body = _plain(row)
        if row.kind == gateway.RECORDED and decision_id not in self._decisions:
            verdict = text_part(body, "derived", "verdict")[:40] if body else "(erased)"
            _count(self.summary.verdicts, verdict)
            self.summary.counts["decisions"] = self.summary.counts.get("decisions", 0) + 1
            if len(self.summary.decisions) >= TOLD_MAX:
                return
            fact = DecisionFact(
                decision_id=decision_id,
                seq=row.seq,
                at=row.at,
                action=text_part(body, "derived", "request", "action", "type")[:_TEXT_MAX],
                verdict=verdict,
                enforced=part(body, "derived", "policy", "mode") == "enforce",
                text=_headline(row),
            )
            self._decisions[decision_id] = fact
            self.summary.decisions.append(fact)
        fact_of = self._decisions.get(decision_id)
        if fact_of is None:
            return
        if row.kind == gateway.LABELED and len(fact_of.labels) < TOLD_MAX:
            fact_of.labels.append(text_part(body, "label")[:40] if body else "(erased)")
        elif row.kind == gateway.OVERRIDDEN:
            fact_of.overridden = True

    def _of_work(self, row: Row) -> None:
        body = _plain(row)
        outcome, output = part(body, "derived", "outcome"), part(body, "derived", "output")
        if row.kind == kernel.EXECUTED:
            name = text_part(body, "derived", "psi", "name")
            _count(self.summary.executions, name[:_TEXT_MAX] if body else "(erased)")
        if part(body, "derived", "success") is False or outcome == "failed":
            self._say("failures", row)
        elif isinstance(output, str) and output[:5].lower() == "error":
            self._say("errors_returned", row)
        elif outcome == "retry":
            self._say("retries", row)


def _count(counts: dict[str, int], name: str) -> None:
    """Count under a name; those beyond a number of names go together."""
    name = name if name in counts or len(counts) < TOLD_MAX else _OTHER_KINDS
    counts[name] = counts.get(name, 0) + 1


def _plain(row: Row) -> dict[str, Any] | None:
    """The body as plain JSON; None if it is erased or malformed."""
    body = read_body(row)
    return body.plain if isinstance(body, Body) else None


def _headline(row: Row) -> str:
    [moment] = tell([row])
    text = moment.headline
    return text if len(text) <= _TEXT_MAX else f"{text[: _TEXT_MAX - 1]}…"


# -- for people --------------------------------------------------------------------------

#: Sessions and decisions, and of other things, that are told of at the top of the report.
_THINGS_SHOWN: Final = 20
_SAID_SHOWN: Final = 10
_OF_EVENT: Final = re.compile(r"([A-Za-z ]+, )event ([0-9]{1,18})")
_TITLES: Final = {
    "failures": "Failed",
    "errors_returned": "Answered with an error",
    "retries": "Tried again",
    "outcomes": "Outcome",
    "labels": "Labelled",
    "overrides": "Overridden",
    "erasures": "Erased",
}


def facts_of(
    summary: Summary, ledger_line: str, notes: Iterable[str], told: Container[int] = ()
) -> list[tuple[str, str]]:
    """What the report says at its top, a name and a text each; a name leads to its event if that is told."""
    found = [*_circumstances(summary), *_things(summary), *_said(summary)]
    found.append(("The whole ledger", ledger_line))
    found += [("Note", note) for note in notes]
    return [(_leading(name, told), text) for name, text in found if text]


def _leading(name: str, told: Container[int]) -> str:
    """`Failed, event 12` with a link to that event."""
    found = _OF_EVENT.fullmatch(name)
    if found is None or int(found[2]) not in told:
        return name
    return joined([escaped(found[1]), element("a", f"event {found[2]}", href=f"#event-{found[2]}")])


def _circumstances(summary: Summary) -> Iterator[tuple[str, str]]:
    if summary.first_at is not None and summary.last_at is not None:
        yield "When", f"{time_text(summary.first_at)} to {time_text(summary.last_at)}"
    evidence = summary.events - summary.belong
    yield "Belong to it", _events(summary.belong) + (f", {evidence:,} more are evidence" if evidence else "")
    yield "Acted", _counted(summary.actors)


def _things(summary: Summary) -> Iterator[tuple[str, str]]:
    for one in summary.sessions[:_THINGS_SHOWN]:
        ended = one.ended or "it has not ended"
        yield f"Session {one.session_id}", f"“{one.label}”: {ended} (from event {one.seq})"
    yield "Sessions", _more(summary, "sessions", _THINGS_SHOWN)
    yield "Called", _counted(summary.executions)
    yield "Decided", _counted(summary.verdicts)
    for decision in summary.decisions[:_THINGS_SHOWN]:
        later = ["overridden"] if decision.overridden else []
        later += [f"labelled {label}" for label in decision.labels[-1:]]
        since = f"; since then {', '.join(later)}" if later else ""
        yield f"Decision, event {decision.seq}", f"{decision.decision_id}: {decision.text}{since}"
    yield "Decisions", _more(summary, "decisions", _THINGS_SHOWN)


def _said(summary: Summary) -> Iterator[tuple[str, str]]:
    for name, title in _TITLES.items():
        told: list[Said] = getattr(summary, name)
        for one in told[:_SAID_SHOWN]:
            yield f"{title}, event {one.seq}", one.text
        yield title, _more(summary, name, _SAID_SHOWN)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


def _more(summary: Summary, name: str, told: int) -> str:
    left = summary.counts.get(name, 0) - told
    return f"and {left:,} more" if left > 0 else ""
