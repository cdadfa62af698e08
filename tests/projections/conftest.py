"""What the tests of the read side share: ledgers, events of the built-in kinds, whole views to compare."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick import BUILT_IN, Ledger, NewEvent, Views

DESK = "ckp://Kernel#Desk:v1.0"
PAY = "ckp://Kernel#Pay:v1.0"
NOON = "2026-03-12T12:00:00.000000Z"
NOON_US = 1_773_316_800_000_000


class Make:
    """Events of the built-in kinds with bodies as recorders write them."""

    desk, pay, noon, noon_us = DESK, PAY, NOON, NOON_US

    @staticmethod
    def started(session_id: str = "01A", label: str = "A chipped mug", **derived: Any) -> NewEvent:
        about = {"session_id": session_id, "label": label, "kernel": DESK, "action": "triage"}
        about |= {"retention_hours": 48, "source": None} | derived
        return NewEvent(
            kind="session.started",
            stream=f"session:{session_id}",
            body={"v": 1, "derived": about, "observed": {"started_at": NOON, "urn": f"ckp://S#{session_id}"}},
        )

    @staticmethod
    def closed(session_id: str = "01A", outcome: str = "complete", **observed: Any) -> NewEvent:
        end = {"session_id": session_id, "outcome": outcome, "given": False, "actions": {}, "kernels": [DESK]}
        seen = {"ended_at": NOON, "duration_ms": 12.5, "error": None, "error_type": None} | observed
        return NewEvent(
            kind="session.closed",
            stream=f"session:{session_id}",
            body={"v": 1, "derived": end, "observed": seen},
        )

    @staticmethod
    def expired(session_id: str, closed_seq: int, erased: list[int]) -> NewEvent:
        body = {"v": 1, "session_id": session_id, "retention_hours": 48, "closed_seq": closed_seq}
        return NewEvent(
            kind="session.expired", stream=f"session:{session_id}", body={**body, "erased": erased}
        )

    @staticmethod
    def message(text: Any = "hello", session_id: str = "01A", index: int = 0, **derived: Any) -> NewEvent:
        said = {"session_id": session_id, "index": index, "role": "user", "content": text, "name": None}
        said |= {"tool_calls": [], "tool_call_id": None, "extra": None, "placeholders": []} | derived
        return NewEvent(
            kind="message.recorded",
            stream=f"session:{session_id}",
            body={"v": 1, "derived": said, "observed": {"recorded_at": NOON}},
        )

    @staticmethod
    def action(
        note: str = "", session_id: str = "01A", outcome: str = "verified", seq: int = 1, **derived: Any
    ) -> NewEvent:
        done = {"session_id": session_id, "seq": seq, "action_type": "refund", "outcome": outcome}
        done |= {"kernel": PAY, "via_edge": None, "intent": None, "evidence": None, "before_state": None}
        done |= {"after_state": None, "diff_summary": "", "attempt": 1, "note": note, "placeholders": []}
        return NewEvent(
            kind="action.recorded",
            stream=f"session:{session_id}",
            body={"v": 1, "derived": done | derived, "observed": {"recorded_at": NOON, "urn": "ckp://A#x"}},
        )

    @staticmethod
    def executed(stream: str = "main", output: Any = "done", error: str | None = None) -> NewEvent:
        good = error is None
        done = {"psi": {"psi_type": "tool", "name": "lookup", "metadata": {}}, "arguments": {}}
        done |= {
            "arguments_digest": None,
            "success": good,
            "failure_code": "OK" if good else "TASK_EXCEPTION",
        }
        done |= {"exception_type": None if good else "ValueError", "output": output, "output_digest": None}
        done |= {"core_digest": "a" * 64, "placeholders": [], "capture": "content"}
        seen = {"run_id": "r1", "started_at": NOON, "finished_at": NOON, "runtime_ms": 1.5, "error": error}
        seen |= {"exception_repr": None, "metadata": {}, "call_id": None}
        return NewEvent(
            kind="kernel.executed", stream=stream, body={"v": 1, "derived": done, "observed": seen}
        )

    @staticmethod
    def pipeline(stream: str = "main", executions: list[int] | None = None) -> NewEvent:
        ran = {"success": True, "failure_code": None, "failure_message": None, "steps": 2, "core_digests": []}
        body = {"v": 1, "executions": executions, "derived": ran, "observed": {"run_ids": [], "metadata": {}}}
        return NewEvent(kind="pipeline.completed", stream=stream, body=body)

    def session(self, session_id: str, texts: list[str]) -> list[NewEvent]:
        """A whole session: started, a message and an action a text, closed."""
        events = [self.started(session_id, f"label of {session_id}")]
        for index, text in enumerate(texts):
            events.append(self.message(text, session_id, index))
            events.append(self.action(text, session_id, seq=index + 1))
        return [*events, self.closed(session_id)]


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()


Dump = dict[str, list[dict[str, Any]]]


def dumped(views: Views, projections: Any = BUILT_IN) -> Dump:
    """Every row of every table in order of its key, what was skipped, and what the indexes find.

    The full text indexes are checked against the rows.
    """
    found: Dump = {}
    for projection in projections:
        for name, table in projection.tables.items():
            order = ", ".join(f'"{column}"' for column in table.key)
            found[name] = views.rows(f'SELECT * FROM "{name}" ORDER BY {order}')
            if table.search:
                views.db.execute("PRAGMA query_only=OFF")
                views.db.execute(f"INSERT INTO {name}_fts ({name}_fts, rank) VALUES ('integrity-check', 1)")
                views.db.execute("PRAGMA query_only=ON")
    names = [projection.name for projection in projections]
    marks = ", ".join("?" * len(names))
    found["skipped"] = views.rows(
        f"SELECT projection, seq FROM tally_skipped WHERE projection IN ({marks}) ORDER BY 1, 2", names
    )
    return found


@pytest.fixture(scope="session")
def dump() -> Callable[..., Dump]:
    return dumped


@pytest.fixture
def at_once(tmp_path: Path) -> Callable[..., Dump]:
    """The views of a ledger as built in one go, in a file of their own."""
    count = itertools.count()

    def build(ledger: Ledger, projections: Any = BUILT_IN) -> Dump:
        path = tmp_path / f"at-once-{next(count)}.views"
        with Views(ledger, path=path, projections=projections) as views:
            return dumped(views, projections)

    return build
