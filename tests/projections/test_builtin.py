"""The built-in projections: what each kind of event, whole, erased or malformed, puts into the tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tallystick import Ledger, NewEvent, Views, views_of


def one(views: Views, sql: str) -> dict[str, Any]:
    [row] = views.rows(sql)
    return row


# -- sessions (S1, S3, S7) ---------------------------------------------------------------------


def test_a_session_in_progress(ledger: Ledger, make: Any) -> None:
    ledger.record(
        [make.started("01A"), make.message("hi"), make.action("first"), make.executed("session:01A")]
    )
    last = ledger.get(5)
    assert one(views_of(ledger), "SELECT * FROM sessions") == {
        "id": "01A",
        "urn": "ckp://S#01A",
        "label": "A chipped mug",
        "kernel": make.desk,
        "action": "triage",
        "outcome": "in_progress",
        "started_at": make.noon_us,
        "ended_at": None,
        "duration_ms": None,
        "retention_hours": 48,
        "actions": 1,
        "verified": 1,
        "failed": 0,
        "retried": 0,
        "skipped": 0,
        "messages": 1,
        "executions": 1,
        "kernels": json.dumps([make.desk, make.pay], separators=(",", ":")),
        "first_seq": 2,
        "last_seq": 5,
        "last_at": last.at,
        "closed_seq": None,
        "expired": 0,
        "error": None,
    }


def test_a_closed_session(ledger: Ledger, make: Any) -> None:
    ledger.record([make.started(), make.closed(outcome="failed", error="the till is empty")])
    row = one(views_of(ledger), "SELECT * FROM sessions")
    assert (row["outcome"], row["error"], row["duration_ms"]) == ("failed", "the till is empty", 12.5)
    assert (row["closed_seq"], row["ended_at"]) == (3, make.noon_us)


def test_outcomes_of_actions_are_counted(ledger: Ledger, make: Any) -> None:
    outcomes = ["verified", "retry", "retry", "failed", "skipped", "skipped", "skipped"]
    ledger.record([make.started(), *(make.action(outcome=outcome) for outcome in outcomes)])
    row = one(views_of(ledger), "SELECT actions, verified, retried, failed, skipped FROM sessions")
    assert tuple(row.values()) == (7, 1, 2, 1, 3)


def test_kernels_are_a_sorted_set(ledger: Ledger, make: Any) -> None:
    kernels = ["ckp://Kernel#Z:v1.0", "", 'quoted "kernel"', "ckp://Kernel#Z:v1.0"]
    ledger.record([make.started(), *(make.action(kernel=kernel) for kernel in kernels)])
    row = one(views_of(ledger), "SELECT kernels FROM sessions")
    assert json.loads(row["kernels"]) == [make.desk, "ckp://Kernel#Z:v1.0", 'quoted "kernel"']


def test_actions_and_messages(ledger: Ledger, make: Any) -> None:
    parts = [{"type": "text", "text": "look:"}, {"type": "image_url", "image_url": {}}, {"text": "a chip"}]
    call = {"id": "c1", "name": "lookup", "arguments": "{}"}
    ledger.record(
        [
            make.started(),
            make.message("hello", index=0, name="Ines"),
            make.message(parts, index=1, role="assistant", tool_calls=[call, call]),
            make.message(None, index=2),
            make.action("done", attempt=2, via_edge="REQUIRES", evidence={"seen": 'a\nb "c" é \\ \u2028'}),
        ]
    )
    views = views_of(ledger)
    messages = views.rows(
        "SELECT position, role, name, text, tool_calls, session_id FROM messages ORDER BY seq"
    )
    assert [tuple(row.values()) for row in messages] == [
        (0, "user", "Ines", "hello", 0, "01A"),
        (1, "assistant", None, "look:\na chip", 2, "01A"),
        (2, "user", None, None, 0, "01A"),
    ]
    action = one(views, "SELECT * FROM actions")
    assert (action["seq"], action["number"], action["attempt"], action["via_edge"]) == (6, 1, 2, "REQUIRES")
    assert (action["action_type"], action["outcome"], action["note"]) == ("refund", "verified", "done")
    assert action["evidence"] == '{"seen":"a\nb "c" é \\ \u2028"}'


def test_long_evidence_and_output_are_cut(ledger: Ledger, make: Any) -> None:
    ledger.record([make.started(), make.action(evidence="é" * 9000), make.executed(output=["x" * 9000])])
    views = views_of(ledger)
    assert set(one(views, "SELECT evidence FROM actions")["evidence"]) == {"é"}
    assert 1900 < len(one(views, "SELECT evidence FROM actions")["evidence"]) <= 4000
    assert len(one(views, "SELECT output FROM executions")["output"]) == 4000


def test_an_apps_own_stream_of_that_name_is_no_session(ledger: Ledger, make: Any) -> None:
    """A session begins with its session.started; what else is in such a stream makes none."""
    ledger.append("order.placed", stream="session:x")
    ledger.record([make.message("early", "x"), NewEvent(kind="session.closed", stream="main", body={})])
    views = views_of(ledger)
    assert views.rows("SELECT * FROM sessions") == []
    assert one(views, "SELECT text FROM messages") == {"text": "early"}


def test_any_event_in_its_stream_keeps_a_session_alive(ledger: Ledger, make: Any) -> None:
    ledger.record([make.started()])
    receipt = ledger.append("order.placed", stream="session:01A")
    row = one(views_of(ledger), "SELECT last_seq, last_at FROM sessions")
    assert tuple(row.values()) == (receipt.seq, receipt.at)


def test_an_expired_session_is_still_known_to_have_been(ledger: Ledger, make: Any) -> None:
    """S7: the bodies are gone, and what kinds, places and times say is left."""
    ledger.record(make.session("01A", ["secret one", "secret two"]))
    views = views_of(ledger)
    views.catch_up()
    seqs = list(range(2, 8))
    ledger.erase_many(seqs, "retention", record=[make.expired("01A", 7, seqs)])
    row = one(views, "SELECT * FROM sessions")
    assert (row["id"], row["expired"], row["outcome"], row["closed_seq"]) == ("01A", 1, "expired", 7)
    assert (row["started_at"], row["ended_at"]) == (ledger.get(2).at, ledger.get(7).at)
    assert (row["actions"], row["messages"], row["verified"]) == (2, 2, 0)
    assert (row["label"], row["kernel"], row["duration_ms"], row["kernels"]) == (None, None, None, "[]")
    assert views.rows("SELECT seq, text, role FROM messages ORDER BY seq") == [
        {"seq": 3, "text": None, "role": None},
        {"seq": 5, "text": None, "role": None},
    ]
    assert views.search("secret") == views.search("label") == []


def test_a_session_whose_end_was_erased_ended_somehow(ledger: Ledger, make: Any) -> None:
    ledger.record([make.started(), make.closed()])
    ledger.erase(3, "a secret in it")
    row = one(views_of(ledger), "SELECT outcome, closed_seq, ended_at FROM sessions")
    assert tuple(row.values()) == ("unknown", 3, ledger.get(3).at)


# -- executions (K8) ---------------------------------------------------------------------------


def test_executions_and_pipelines(ledger: Ledger, make: Any) -> None:
    ledger.record(
        [
            make.executed("session:01A", output={"total": 3}),
            make.executed("main", output=None, error="boom"),
            make.pipeline("main", [2, 3]),
        ]
    )
    views = views_of(ledger)
    good, bad = views.rows("SELECT * FROM executions ORDER BY seq")
    assert good == {
        "seq": 2,
        "stream": "session:01A",
        "session_id": "01A",
        "psi_type": "tool",
        "name": "lookup",
        "success": 1,
        "failure_code": "OK",
        "exception_type": None,
        "error": None,
        "output": '{"total":3}',
        "run_id": "r1",
        "call_id": None,
        "runtime_ms": 1.5,
        "core_digest": "a" * 64,
        "at": ledger.get(2).at,
    }
    assert (bad["success"], bad["error"], bad["output"], bad["session_id"]) == (0, "boom", None, None)
    pipeline = one(views, "SELECT * FROM pipelines")
    assert (pipeline["seq"], pipeline["steps"], pipeline["executions"]) == (4, 2, "[2,3]")
    ledger.erase(2, "private")
    assert one(views, "SELECT name, output, stream FROM executions WHERE seq = 2") == {
        "name": None,
        "output": None,
        "stream": "session:01A",
    }


# -- streams -----------------------------------------------------------------------------------


def test_streams(ledger: Ledger) -> None:
    first = ledger.append("order.placed", stream="order:1")
    ledger.append("order.placed", stream="order:2")
    last = ledger.append("order.shipped", stream="order:1")
    views = views_of(ledger)
    assert one(views, "SELECT * FROM streams WHERE stream = 'order:1'") == {
        "stream": "order:1",
        "events": 2,
        "first_seq": 2,
        "last_seq": 4,
        "first_at": first.at,
        "last_at": last.at,
        "last_kind": "order.shipped",
    }
    assert [row["stream"] for row in views.rows("SELECT stream FROM streams ORDER BY first_seq")] == [
        "ledger",
        "order:1",
        "order:2",
    ]


# -- bodies that are not as expected -------------------------------------------------------------

HUGE = 9_007_199_254_740_991
MALFORMED: list[tuple[str, Any]] = [
    ("session.started", {}),
    ("session.started", []),
    ("session.started", {"derived": {"label": 3, "kernel": "k", "action": "", "retention_hours": 1}}),
    ("session.closed", {"derived": {"outcome": None}, "observed": {}}),
    ("session.closed", None),
    ("action.recorded", {"derived": {"seq": "1", "action_type": "x", "outcome": "verified"}}),
    ("action.recorded", "text"),
    ("message.recorded", {"derived": {"index": 0.5, "role": "user"}}),
    ("message.recorded", {"derived": None}),
    ("kernel.executed", {"derived": {"success": "yes"}, "observed": {}}),
    ("pipeline.completed", {"derived": {"success": True}, "executions": ["one"]}),
]
BARE = {"label": "", "kernel": "", "action": "", "retention_hours": -HUGE}
ODD: list[tuple[str, Any]] = [
    ("session.started", {"derived": BARE, "observed": {}}),
    ("session.closed", {"derived": {"outcome": "??"}, "observed": {"ended_at": "yesterday"}}),
    ("session.closed", {"derived": {"outcome": "x"}, "observed": {"ended_at": "0001-01-01T00:00:00+14:00"}}),
    ("action.recorded", {"derived": {"seq": HUGE, "action_type": "x", "outcome": "!"}, "v": 7, "new": [1]}),
    ("message.recorded", {"derived": {"index": -1, "role": "", "content": {"text": 1}}}),
    ("message.recorded", {"derived": {"index": 0, "role": "user", "content": [[], 3, {"text": 4}, "x\0y"]}}),
    ("kernel.executed", {"derived": {"success": True, "output": "\\ud800 \\"}, "observed": {}}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body"), MALFORMED)
def test_a_malformed_body_is_skipped_and_counted(ledger: Ledger, make: Any, kind: str, body: Any) -> None:
    ledger.record([NewEvent(kind=kind, body=body, stream="session:01A"), make.started("02B")])
    views = views_of(ledger)
    assert [row["id"] for row in views.rows("SELECT id FROM sessions")] == ["02B"]
    assert sum(status.skipped for status in views.status()) == 1
    [skipped] = views.rows("SELECT * FROM tally_skipped")
    assert skipped["seq"] == 2 and skipped["why"]


@pytest.mark.parametrize(("kind", "body"), ODD)
def test_an_odd_body_of_another_version_is_read_as_far_as_it_goes(
    ledger: Ledger, make: Any, kind: str, body: Any
) -> None:
    first = [] if kind == "session.started" else [make.started()]
    ledger.record([*first, NewEvent(kind=kind, body=body, stream="session:01A")])
    views = views_of(ledger)
    assert one(views, "SELECT count(*) AS n FROM sessions") == {"n": 1}
    assert sum(status.skipped for status in views.status()) == 0


def test_what_no_longer_decodes_is_skipped_by_those_who_want_bodies(
    ledger: Ledger, make: Any, dump: Callable[..., Any]
) -> None:
    """An altered ledger is read as far as it goes; verification is what says that it was altered."""
    ledger.record([make.message("fine"), make.message("altered")])
    store: Any = ledger._store
    writer = store._writer
    writer.execute("DROP TRIGGER events_no_update")
    writer.execute("UPDATE events SET body = x'7b22' WHERE seq = 3")
    views = views_of(ledger)
    assert one(views, "SELECT text FROM messages") == {"text": "fine"}
    assert one(views, "SELECT events FROM streams WHERE stream = 'session:01A'") == {"events": 2}
    assert [row["seq"] for row in dump(views)["skipped"]] == [3]
