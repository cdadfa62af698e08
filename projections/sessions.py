"""The projection `sessions`: sessions, their actions and their messages (contracts S1, S3, S7, S8).

A session is the stream `session:<id>`; its row begins with its `session.started`. Where the body of an
event was erased, what only the body said is NULL, and what its kind, place and time say stays: that a
session existed, when it began and ended, how many actions and messages it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from tallystick.events import kernel as kernel_events
from tallystick.events import session as events
from tallystick.ledger.event import Event

from .projection import Projection, Table
from .tables import Row, Tables
from .texts import NULL, Int64, content_text, microseconds, text_of

#: Column of `sessions` that counts the actions of an outcome.
_COUNTED = {"verified": "verified", "failed": "failed", "retry": "retried", "skipped": "skipped"}


# What is read of a body, and no more: older and newer bodies fit as well.


class _Start(msgspec.Struct, frozen=True):
    label: str
    kernel: str
    action: str
    retention_hours: Int64


class _StartObserved(msgspec.Struct, frozen=True):
    started_at: str | None = None
    urn: str | None = None


class _Started(msgspec.Struct, frozen=True):
    derived: _Start
    observed: _StartObserved


class _Close(msgspec.Struct, frozen=True):
    outcome: str
    kernels: list[str] = []


class _CloseObserved(msgspec.Struct, frozen=True):
    ended_at: str | None = None
    duration_ms: float | None = None
    error: str | None = None


class _Closed(msgspec.Struct, frozen=True):
    derived: _Close
    observed: _CloseObserved


class _Action(msgspec.Struct, frozen=True):
    seq: Int64
    action_type: str
    outcome: str
    kernel: str = ""
    via_edge: str | None = None
    attempt: Int64 = 1
    diff_summary: str = ""
    note: str = ""
    evidence: msgspec.Raw = NULL


class _Acted(msgspec.Struct, frozen=True):
    derived: _Action


class _Message(msgspec.Struct, frozen=True):
    index: Int64
    role: str
    content: Any = None
    name: str | None = None
    tool_calls: list[msgspec.Raw] = []


class _Said(msgspec.Struct, frozen=True):
    derived: _Message


class Sessions(Projection):
    """Three tables; times are microseconds since 1970 UTC.

    `outcome` of a session is `in_progress`, `complete`, `partial` or `failed`; `expired` once its bodies
    were erased with its retention, `unknown` if the body of its end alone was.
    """

    name = "sessions"
    version = 1
    kinds: ClassVar[Mapping[str, Any]] = {
        events.STARTED: _Started,
        events.CLOSED: _Closed,
        events.EXPIRED: None,
        events.ACTION_RECORDED: _Acted,
        events.MESSAGE_RECORDED: _Said,
        "*": None,
    }
    stream_prefix = events.STREAM_PREFIX
    apply_erased = True
    tables: ClassVar[Mapping[str, Table]] = {
        "sessions": Table(
            columns={
                "id": str,
                "urn": str,
                "label": str,
                "kernel": str,
                "action": str,
                "outcome": str,
                "started_at": int,
                "ended_at": int,
                "duration_ms": float,
                "retention_hours": int,
                "actions": int,
                "verified": int,
                "failed": int,
                "retried": int,
                "skipped": int,
                "messages": int,
                "executions": int,
                "kernels": list,
                "first_seq": int,
                "last_seq": int,
                "last_at": int,
                "closed_seq": int,
                "expired": bool,
                "error": str,
            },
            pk="id",
            indexes=("first_seq",),
            search=("label",),
            seq="first_seq",
            at="started_at",
            session="id",
        ),
        "actions": Table(
            columns={
                "seq": int,
                "session_id": str,
                "number": int,
                "action_type": str,
                "outcome": str,
                "kernel": str,
                "via_edge": str,
                "attempt": int,
                "diff_summary": str,
                "note": str,
                "evidence": str,
                "at": int,
            },
            pk="seq",
            indexes=("session_id",),
            search=("action_type", "note", "evidence"),
        ),
        "messages": Table(
            columns={
                "seq": int,
                "session_id": str,
                "position": int,
                "role": str,
                "name": str,
                "text": str,
                "tool_calls": int,
                "at": int,
            },
            pk="seq",
            indexes=("session_id",),
            search=("text",),
        ),
    }

    def apply(self, event: Event, tables: Tables) -> None:
        """Put the event into the tables, if its stream is a session."""
        session_id = event.stream[len(events.STREAM_PREFIX) :]
        kind = event.kind
        if kind == events.STARTED:
            self._start(session_id, event, tables)
            return
        if kind == events.MESSAGE_RECORDED:
            self._message(session_id, event, tables)
        elif kind == events.ACTION_RECORDED:
            self._action(session_id, event, tables)
        session = tables["sessions"].change(session_id)
        if session is None:
            return  # an app's own stream of that name, or one that does not begin as a session
        session["last_seq"], session["last_at"] = event.seq, event.at
        if kind == events.MESSAGE_RECORDED:
            session["messages"] += 1
        elif kind == events.ACTION_RECORDED:
            session["actions"] += 1
            if event.body is not None:
                _count(event.body.derived, session)
        elif kind == kernel_events.EXECUTED:
            session["executions"] += 1
        elif kind == events.CLOSED:
            _end(event, session)
        elif kind == events.EXPIRED:
            session["expired"], session["outcome"] = 1, "expired"

    def _start(self, session_id: str, event: Event, tables: Tables) -> None:
        if tables["sessions"].get(session_id) is not None:
            return
        row: dict[str, Any] = {
            "id": session_id,
            "outcome": "in_progress",
            "started_at": event.at,
            "kernels": [],
            "first_seq": event.seq,
            "last_seq": event.seq,
            "last_at": event.at,
            "expired": False,
        }
        row |= dict.fromkeys(("actions", *_COUNTED.values(), "messages", "executions"), 0)
        if event.body is not None:
            start, observed = event.body.derived, event.body.observed
            row |= {
                "urn": observed.urn,
                "label": start.label,
                "kernel": start.kernel,
                "action": start.action,
                "started_at": microseconds(observed.started_at, event.at),
                "retention_hours": start.retention_hours,
                "kernels": [start.kernel] if start.kernel else [],
            }
        tables["sessions"].put(row)

    def _action(self, session_id: str, event: Event, tables: Tables) -> None:
        if event.body is None:
            tables["actions"].put({"seq": event.seq, "session_id": session_id, "at": event.at})
            return
        done: _Action = event.body.derived
        tables["actions"].put(
            {
                "seq": event.seq,
                "session_id": session_id,
                "number": done.seq,
                "action_type": done.action_type,
                "outcome": done.outcome,
                "kernel": done.kernel,
                "via_edge": done.via_edge,
                "attempt": done.attempt,
                "diff_summary": done.diff_summary,
                "note": done.note,
                "evidence": text_of(done.evidence),
                "at": event.at,
            }
        )

    def _message(self, session_id: str, event: Event, tables: Tables) -> None:
        if event.body is None:
            tables["messages"].put({"seq": event.seq, "session_id": session_id, "at": event.at})
            return
        said: _Message = event.body.derived
        tables["messages"].put(
            {
                "seq": event.seq,
                "session_id": session_id,
                "position": said.index,
                "role": said.role,
                "name": said.name,
                "text": content_text(said.content),
                "tool_calls": len(said.tool_calls),
                "at": event.at,
            }
        )

    def forget(self, stream: str, tables: Tables) -> None:
        """Delete a session with its actions and messages."""
        session_id = stream[len(events.STREAM_PREFIX) :]
        tables["sessions"].delete(session_id)
        tables["actions"].delete_where(session_id=session_id)
        tables["messages"].delete_where(session_id=session_id)


def _count(done: _Action, session: Row) -> None:
    """Count an action in its session's row, which is as stored."""
    if column := _COUNTED.get(done.outcome):
        session[column] += 1
    # Most actions are of a kernel that is listed: looked for as text, which is sure only if it is found.
    if done.kernel and f'"{done.kernel}"' not in session["kernels"]:
        _add_kernels(session, [done.kernel])


def _end(event: Event, session: Row) -> None:
    """Close a session's row, which is as stored."""
    session["closed_seq"], session["ended_at"], session["outcome"] = event.seq, event.at, "unknown"
    if event.body is not None:
        close, observed = event.body.derived, event.body.observed
        session["outcome"] = close.outcome
        session["ended_at"] = microseconds(observed.ended_at, event.at)
        session["duration_ms"], session["error"] = observed.duration_ms, observed.error
        _add_kernels(session, close.kernels)


def _add_kernels(session: Row, kernels: list[str]) -> None:
    known = msgspec.json.decode(session["kernels"], type=list[str])
    session["kernels"] = msgspec.json.encode(sorted({*known, *kernels})).decode()
