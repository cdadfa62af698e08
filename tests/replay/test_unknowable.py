"""What replay cannot know: forgeries that agree with themselves throughout, as docs/replay.md lists them.

Only a head that was kept elsewhere shows them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults import column, derived, diverged, put, replayed, text
from forging import Forger

from tallystick import Ledger
from tallystick.recorders.session.diff import diff_summary

EXECUTED = "kernel.executed"
STARTED, CLOSED, ACTION, MESSAGE = "session.started", "session.closed", "action.recorded", "message.recorded"
DECISION, POLICY, MEMORY, LABELED = (
    *("decision.recorded", "policy.registered", "memory.added"),
    "decision.labeled",
)


def as_an_app_s(forger: Forger, seq: int) -> None:
    """Put an app's event in the place of one: nothing is missing from the sequence."""
    forger.replace(seq, kind="order.seen", stream="order:82", key=None, meta=None, body=b'{"order":82}')


def without_the_session(forger: Forger, seq: int) -> None:
    """Every event of a session."""
    stream = forger.rows[seq - 1].stream
    for at, row in enumerate(forger.rows, 1):
        if row.stream == stream:
            as_an_app_s(forger, at)


def another_before_state(forger: Forger, seq: int) -> None:
    after = forger.body(seq)["derived"]["after_state"]
    forger.put(seq, {"a": 7}, "derived", "before_state")
    forger.put(seq, diff_summary({"a": 7}, after), "derived", "diff_summary")


def cut_off(forger: Forger, seq: int) -> None:
    del forger.rows[seq - 1 :]


UNKNOWABLE = {
    "decision_gone": (DECISION, 1, as_an_app_s),
    "session_gone": (STARTED, 0, without_the_session),
    "end_of_a_session_gone": (CLOSED, 0, as_an_app_s),
    "end_cut_off": (LABELED, 0, cut_off),
    "last_decision_cut_off": (DECISION, 1, cut_off),
    "before_state_with_its_diff": (ACTION, 0, another_before_state),
    "label_moved_earlier": (LABELED, 0, lambda forger, seq: forger.replace(seq, at=1)),
    "memory_moved_earlier": (MEMORY, 0, lambda forger, seq: forger.replace(seq, at=1)),
    "content_of_a_message": (MESSAGE, 0, derived("It works fine", "content")),
    "evidence_of_an_action": (ACTION, 1, derived({"paid": True}, "evidence")),
    "body_of_an_app": ("order.placed", 0, put(82, "order")),
    "correlation_id": (ACTION, 0, column(meta=b'{"correlation":"case-8"}')),
    "time_of_an_app_s_event": ("order.placed", 0, column(at=1)),
    "runtime": (EXECUTED, 0, put(0.001, "observed", "runtime_ms")),
    "comment_in_a_policy": (POLICY, 0, text(lambda old: f"# checked by the board\n{old}", "text")),
    "note": ("decision.noted", 0, put({"by": "the CEO"}, "data")),
    "outcome_given_by_the_caller": (
        CLOSED,
        1,
        lambda forger, seq: (
            forger.put(seq, True, "derived", "given"),
            forger.put(seq, "failed", "derived", "outcome"),
        )[0],
    ),
}


@pytest.mark.parametrize(("kind", "nth", "forge"), UNKNOWABLE.values(), ids=list(UNKNOWABLE))
def test_what_contradicts_nothing_is_for_an_outside_head(
    filled: Path, kind: str, nth: int, forge: Any
) -> None:
    """docs/replay.md lists these; a head from before shows each (`verify --expect`)."""
    with Ledger.open(filled, read_only=True) as ledger:
        head = ledger.head()
    with Forger(filled) as forger:
        forge(forger, forger.seq_of(kind, nth))
    assert diverged(replayed(filled, layers=["chain", "digest", "decision"])) == []
    with Ledger.open(filled, read_only=True) as ledger:
        assert ledger.verify(head).verdict == "BROKEN"
