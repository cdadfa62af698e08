"""Contracts S1 to S3 and S5: sessions and their actions, how they end, the live line."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from wrapped_stores import FullStore

from tallystick import (
    ActionRecord,
    AsyncSession,
    InvalidEvent,
    InvalidUrn,
    Ledger,
    PositionConflict,
    RecordingFailed,
    Session,
    SessionEnded,
)
from tallystick.recorders.session.core import ID_CHARACTERS, Clocks, new_id
from tallystick.recorders.session.records import action_body, action_of, message_body, message_of


def kinds(ledger: Ledger, session: Session | AsyncSession) -> list[str]:
    return [event.kind for event in ledger.read(stream=session.stream)]


# -- S1: what a session is -----------------------------------------------------------------


def test_s1_a_session_and_its_end(ledger: Ledger) -> None:
    ticks = iter([1_000_000_000_000_000, 1_000_000_000_500_000, 1_000_000_002_000_000])
    monotonic = iter([5_000_000, 1_005_000_000])
    clocks = Clocks(wall_us=lambda: next(ticks), monotonic_ns=lambda: next(monotonic))
    session = Session.start(ledger, "nightly", kernel="Refunds", action="cron", clocks=clocks)
    assert (session.outcome, session.ended_at, session.duration_ms) == ("in_progress", None, None)
    assert session.kernel == "ckp://Kernel#Refunds:v1.0"
    assert session.urn == f"ckp://Session#{session.session_id}"
    assert (session.label, session.action, session.retention_hours) == ("nightly", "cron", 48)
    assert session.started_at == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
    session.record_action("a.b", "verified", kernel="Mail")
    summary = session.close()
    assert (session.outcome, summary.outcome) == ("complete", "complete")
    assert summary.ended_at == session.ended_at == datetime(2001, 9, 9, 1, 46, 42, tzinfo=UTC)
    assert summary.duration_ms == session.duration_ms == 1000
    assert summary.kernels == session.kernels == ("ckp://Kernel#Mail:v1.0", "ckp://Kernel#Refunds:v1.0")
    assert (summary.action_count, summary.action_outcomes) == (1, {"verified": 1})
    assert (summary.first_seq, summary.last_seq, summary.closed_seq) == (2, 4, 4)
    assert kinds(ledger, session) == ["session.started", "action.recorded", "session.closed"]
    assert ledger.verify().finding is None


def test_s1_the_arguments_by_position_and_their_defaults(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    assert (session.kernel, session.action, session.retention_hours) == ("ckp://Kernel#Name:v1.0", "", 48)
    session = Session.start(ledger, "x", "ckp://Kernel#Name:v2.0", "go", 0)
    assert (session.kernel, session.action, session.retention_hours) == ("ckp://Kernel#Name:v2.0", "go", 0)


def test_s1_ids_are_short_and_unique_in_the_ledger(ledger: Ledger) -> None:
    drawn = [b"\1" * 8, b"\1" * 8, b"\1" * 8, b"\2" * 8]
    clocks = Clocks(entropy=lambda size: drawn.pop(0) if size == 8 else b"name")
    first = Session.start(ledger, "first", clocks=clocks)
    second = Session.start(ledger, "second", clocks=clocks)
    assert drawn == []
    assert first.session_id != second.session_id
    assert len(first.session_id) == ID_CHARACTERS
    assert set(first.session_id) <= set("0123456789abcdefghjkmnpqrstvwxyz")
    with pytest.raises(PositionConflict):  # chance that is none ends, too
        Session.start(ledger, "third", clocks=Clocks(entropy=lambda size: b"\1" * size))
    assert ledger.head().seq == 3


def test_s1_ids_use_every_random_bit() -> None:
    ids = [new_id(lambda size, bit=bit: (1 << bit).to_bytes(size)) for bit in range(50)]  # type: ignore[misc]
    assert len(set(ids)) == 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"label": 7},
        {"label": "x" * 2000},
        {"action": None},
        {"kernel": ""},
        {"retention_hours": -1},
        {"retention_hours": 1.5},
        {"retention_hours": True},
    ],
)
def test_s1_what_cannot_be_started(ledger: Ledger, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        Session.start(ledger, **{"label": "x", **wrong})
    with pytest.raises(InvalidUrn):
        Session.start(ledger, "x", kernel="ckp://Action#A/b")
    assert ledger.head().seq == 1


# -- S2: actions ---------------------------------------------------------------------------


def test_s2_an_action_is_returned_as_it_is_recorded(ledger: Ledger) -> None:
    with Session.start(ledger, "x", kernel="Main") as session:
        action = session.record_action(
            "refund.issue",
            "verified",
            kernel="Billing",
            via_edge="COMPOSES",
            intent={"order": 81},
            evidence={"receipt": "R-1"},
            before_state={"open": True, "lines": [1], "same": 1},
            after_state={"open": False, "lines": [1, 2], "same": 1, "new": "x"},
            attempt=2,
            note="went well",
        )
        plain = session.record_action("b", "skipped")
    assert (action.seq, plain.seq) == (1, 2)
    assert action.kernel == "ckp://Kernel#Billing:v1.0"
    assert plain.kernel == "ckp://Kernel#Main:v1.0"
    moment = int(action.recorded_at.timestamp() * 1000)
    assert action.urn == f"ckp://Action#Billing/refund.issue-{moment}"
    assert action.diff_summary == "lines: changed | new: None -> x | open: True -> False"
    assert plain.diff_summary == ""
    events = list(ledger.read(stream=session.stream, kinds=["action.recorded"]))
    assert [action_of(event) for event in events] == [action, plain] == session.actions()
    assert [event.seq for event in events] == [action.event_seq, plain.event_seq]


def test_s2_a_kernel_s_urn_is_kept(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    assert session.record_action("a", "verified", "ckp://Kernel#K:v3.1").kernel == "ckp://Kernel#K:v3.1"


@pytest.mark.parametrize(
    "wrong",
    [
        {"outcome": "done"},
        {"outcome": ["verified"]},
        {"via_edge": "IMPLIES"},
        {"via_edge": ""},
        {"action_type": ""},
        {"action_type": None},
        {"kernel": None},
        {"attempt": 0},
        {"attempt": True},
        {"note": None},
    ],
)
def test_s2_anything_else_is_refused(ledger: Ledger, wrong: dict[str, Any]) -> None:
    session = Session.start(ledger, "x")
    head = ledger.head()
    with pytest.raises(InvalidEvent, match=next(iter(wrong))):
        session.record_action(**{"action_type": "a", "outcome": "verified", **wrong})
    assert ledger.head() == head
    assert session.record_action("a", "verified").seq == 1


def test_s2_values_that_are_no_json_are_placeholders_and_named(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    action = session.record_action(
        "a",
        "verified",
        intent=object(),
        evidence={"a": [1, {2}]},
        before_state={"b": b"x"},
        after_state={"b": 1},
    )
    assert action.placeholders == ("/intent", "/evidence/a/1", "/before_state/b")
    assert action.intent == {"$omitted": "not JSON", "type": "object"}
    assert action.diff_summary == "b: b'x' -> 1"


def test_s2_no_value_is_too_large_for_its_record(ledger: Ledger) -> None:
    session = Session.start(ledger, "x" * 1000, kernel="é" * 1000)
    large = {"text": "\0" * 24_000}
    many = {f"{'k' * 100}{n}": object() for n in range(100)}
    action = session.record_action(
        "é" * 1000,
        "verified",
        intent=large,
        evidence=large,
        before_state=large,
        after_state=many,
        note="\0" * 99_999,
    )
    assert action.intent == large
    assert action.after_state["$omitted"] == "too many placeholders"
    assert len(action.note) < 99_999
    action = session.record_action("a", "verified", evidence=["x" * 10_000_000])
    assert action.evidence["$omitted"] == "too large"
    huge = {"a": "x" * 1_000_000}
    assert (
        len(session.record_action("a", "failed", before_state=huge, after_state={"a": 1}).diff_summary)
        < 20_000
    )
    session.close()
    assert ledger.verify().finding is None


def test_s2_text_that_no_encoding_holds(ledger: Ledger) -> None:
    with Session.start(ledger, "a\ud800") as session:
        assert session.record_action("b\udfff", "verified", note="\ud800").note == "?"
    assert session.label == "a?"


def test_recording_does_not_wait_for_later_changes(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    evidence = {"items": [1]}
    action = session.record_action("a", "verified", evidence=evidence)
    evidence["items"].append(2)
    assert action.evidence == {"items": [1]} == session.actions()[0].evidence


# -- S3: how it ends -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], "complete"),
        (["verified"], "complete"),
        (["skipped", "retry"], "complete"),
        (["failed"], "failed"),
        (["retry", "failed", "skipped"], "failed"),
        (["failed", "verified"], "partial"),
    ],
)
def test_s3_the_outcome_follows_from_the_actions(ledger: Ledger, outcomes: list[str], expected: str) -> None:
    with Session.start(ledger, "x") as session:
        for outcome in outcomes:
            session.record_action("a", outcome)
    assert session.outcome == expected
    [closed] = ledger.read(stream=session.stream, kinds=["session.closed"])
    assert (closed.body["derived"]["outcome"], closed.body["derived"]["given"]) == (expected, False)


def test_s3_a_given_outcome_wins_and_is_said_to_be_given(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    session.record_action("a", "failed")
    with pytest.raises(InvalidEvent, match="in_progress"):
        session.close("in_progress")
    assert session.close("complete").outcome == "complete"
    [closed] = ledger.read(stream=session.stream, kinds=["session.closed"])
    assert closed.body["derived"]["given"] is True


class Stopped(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "text"), [(ValueError("no"), "no"), (KeyboardInterrupt(), ""), (Stopped(), "?")]
)
def test_s3_an_exception_closes_as_failed_and_goes_on(
    ledger: Ledger, error: BaseException, text: str
) -> None:
    with pytest.raises(type(error)) as caught, Session.start(ledger, "x") as session:
        session.record_action("a", "verified")
        raise error
    assert caught.value is error
    [closed] = ledger.read(stream=session.stream, kinds=["session.closed"])
    assert closed.body["derived"]["outcome"] == session.outcome == "failed"
    assert closed.body["observed"]["error"] == text
    assert closed.body["observed"]["error_type"] == type(error).__name__


def test_s3_closed_is_closed(ledger: Ledger) -> None:
    with Session.start(ledger, "x") as session:
        session.record_action("a", "failed")
        summary = session.close("partial")
        assert session.close() == session.close("partial") == summary
        for call in (
            lambda: session.record_action("a", "verified"),
            lambda: session.message("user", "x"),
            lambda: session.close("failed"),
        ):
            with pytest.raises(SessionEnded, match=r"closed as partial.*Session\.start"):
                call()
    assert kinds(ledger, session) == ["session.started", "action.recorded", "session.closed"]


def test_s3_an_exception_after_the_end_changes_nothing(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="late"), Session.start(ledger, "x") as session:
        session.close("complete")
        raise ValueError("late")
    assert kinds(ledger, session) == ["session.started", "session.closed"]


# -- lost records --------------------------------------------------------------------------


def test_an_action_whose_record_was_lost_is_handed_back() -> None:
    store = FullStore()
    session = Session.start(Ledger.over(store), "x")
    session.record_action("a", "verified")
    store.full = True
    with pytest.raises(RecordingFailed, match="is full") as caught:
        session.record_action("b", "verified", evidence={"done": True})
    lost = caught.value.result
    assert isinstance(lost, ActionRecord)
    assert (lost.seq, lost.action_type, lost.evidence, lost.event_seq) == (2, "b", {"done": True}, None)
    store.full = False
    assert session.record_action("c", "verified").seq == 2  # nothing was stored under that number
    assert session.close().action_outcomes == {"verified": 2}
    assert [action.action_type for action in session.actions()] == ["a", "c"]


def test_the_error_that_ends_a_session_is_not_hidden_by_a_store_that_fails() -> None:
    store = FullStore()
    with pytest.raises(ZeroDivisionError) as caught, Session.start(Ledger.over(store), "x") as session:
        store.full = True
        1 / 0  # noqa: B018
    assert session.session_id in caught.value.__notes__[0] and "is full" in caught.value.__notes__[0]
    with pytest.raises(RecordingFailed), Session.start(Ledger.over(FullStore()), "x") as session:
        store = session.ledger._store  # type: ignore[assignment]
        store.full = True


def test_a_batch_that_was_lost_shows_as_such(ledger: Ledger) -> None:
    store = FullStore()
    session = Session.start(Ledger.over(store), "x")
    with pytest.raises(RecordingFailed) as caught, session.ledger.batch():
        session.record_action("a", "verified")
        session.record_action("b", "failed")
        store.full = True
    assert [lost.action_type for lost in caught.value.results] == ["a", "b"]
    store.full = False
    assert session.record_action("c", "verified").seq == 3
    assert [action.seq for action in session.actions()] == [3]
    again = Session.resume(session.ledger, session.session_id)
    assert again.record_action("d", "verified").seq == 4


def test_a_chunk_that_was_lost_while_recording_leaves_no_gap() -> None:
    store = FullStore()
    session = Session.start(Ledger.over(store), "x")
    with session.ledger.batch(chunk=2):
        session.record_action("a", "verified")
        store.full = True
        with pytest.raises(RecordingFailed) as caught:
            session.record_action("b", "failed")
        store.full = False
        session.record_action("c", "verified")
        session.close()
    assert len(caught.value.results) == 2
    assert [(action.seq, action.action_type) for action in session.actions()] == [(1, "c")]
    assert session.outcome == "complete"


def test_in_a_batch_everything_comes_in_order(ledger: Ledger) -> None:
    with ledger.batch(), Session.start(ledger, "x") as session:
        first = session.record_action("a", "verified")
        session.message("user", "hello")
        session.record_action("b", "failed")
        assert first.event_seq is None
        assert ledger.head().seq == 2
    assert session.outcome == "partial"
    assert kinds(ledger, session)[1:] == [
        "action.recorded",
        "message.recorded",
        "action.recorded",
        "session.closed",
    ]
    assert session.actions()[0] == first


# -- messages ------------------------------------------------------------------------------


def test_messages_are_turns_in_the_session_s_stream(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"order": 81}'}}
    flat = {"id": None, "name": "b", "arguments": {"x": {1}}}
    messages = [
        session.message("user", "where is my order?", name="bea"),
        session.message("assistant", None, tool_calls=[call, flat], extra={"refusal": None}),
        session.message("tool", {"found": object()}, tool_call_id="c1"),
    ]
    assert [message.index for message in messages] == [0, 1, 2]
    assert [(c.id, c.name, c.arguments) for c in messages[1].tool_calls] == [
        ("c1", "look_up", '{"order": 81}'),
        (None, "b", {"x": {"$omitted": "not JSON", "type": "set"}}),
    ]
    assert messages[1].placeholders == ("/tool_calls/1/arguments/x",)
    assert messages[2].placeholders == ("/content/found",)
    events = list(ledger.read(stream=session.stream, kinds=["message.recorded"]))
    assert [message_of(event) for event in events] == messages


def test_messages_too_large_and_wrong(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    call = {"name": "a", "arguments": "x" * 400_000}
    message = session.message("user", "x" * 400_000, tool_calls=[call, call], extra={"a": "x" * 400_000})
    assert message.placeholders == (
        "/content",
        "/tool_calls/0/arguments",
        "/tool_calls/1/arguments",
        "/extra",
    )
    for wrong in ({"role": ""}, {"tool_calls": ["x"]}, {"extra": 7}, {"name": 7}):
        with pytest.raises(InvalidEvent):
            session.message(**{"role": "user", "content": "x", **wrong})  # type: ignore[arg-type]
    assert session.message("user", "y").index == 1


def test_bodies_and_records_are_inverses(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    session.record_action("a", "verified", before_state={}, after_state={})
    session.message("user", "x")
    for event in ledger.read(stream=session.stream):
        if event.kind == "action.recorded":
            assert action_body(action_of(event)).derived.diff_summary == "no change"
        if event.kind == "message.recorded":
            assert message_body(message_of(event)).derived.content == "x"


# -- S5: the live line ---------------------------------------------------------------------


def test_s5_a_live_line_per_action(ledger: Ledger) -> None:
    out = io.StringIO()
    ticks = iter([0, 3_723_004_999, 3_723_005_000, 3_723_006_000, 3_723_007_000, 0])
    clocks = Clocks(wall_us=lambda: next(ticks))
    with Session.start(ledger, "x", kernel="Billing", live=True, out=out, clocks=clocks) as session:
        session.record_action(
            "refund", "retry", before_state={"a": 1}, after_state={"a": 2}, note="not shown"
        )
        session.record_action("refund", "verified", attempt=2, note="it worked")
        session.record_action("mail", "skipped", kernel="Mail")
        session.record_action("mail", "failed")
    columns = [line.split(None, 5) for line in out.getvalue().splitlines()]
    assert columns == [
        ["01:02:03.004", "Billing", "refund", "~", "retry", "a: 1 -> 2"],
        ["01:02:03.005", "Billing", "refund", "+", "verified", "it worked (attempt 2)"],
        ["01:02:03.006", "Mail", "mail", "-", "skipped"],
        ["01:02:03.007", "Billing", "mail", "x", "failed"],
    ]


def test_s5_on_stderr_and_only_when_asked_for(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    with Session.start(ledger, "x") as session:
        session.record_action("quiet", "verified")
    with Session.start(ledger, "x", live=True) as session:
        session.record_action("loud", "verified")
    out, err = capsys.readouterr()
    assert out == ""
    assert "loud" in err and "quiet" not in err


def test_s5_one_harmless_line_whatever_the_texts_hold(ledger: Ledger) -> None:
    out = io.StringIO()
    session = Session.start(ledger, "x", live=True, out=out)
    evil = "a\x1b[2J\r\n\u202eb\u2028\x9b"
    session.record_action(evil, "verified", kernel=evil, note=evil + "x" * 10_000)
    session.record_action("a", "verified", before_state={evil: 1}, after_state={evil: evil})
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 and all(line.isprintable() and len(line) < 400 for line in lines)
    assert r"\x1b[2J" in lines[0]


def test_s5_nobody_watching_is_no_trouble(ledger: Ledger) -> None:
    out = io.StringIO()
    session = Session.start(ledger, "x", live=True, out=out)
    out.close()
    assert session.record_action("a", "verified").seq == 1
