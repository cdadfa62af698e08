"""Several handles on one session, in one process: none loses what another recorded."""

from __future__ import annotations

import threading

import pytest

from tallystick import (
    ActionRecord,
    AsyncSession,
    Ledger,
    NewEvent,
    RecordingFailed,
    Session,
    SessionEnded,
)
from tallystick.projections.errors import NoSuchId
from tallystick.recorders.session.core import Clocks


def kinds(ledger: Ledger, session: Session | AsyncSession) -> list[str]:
    return [event.kind for event in ledger.read(stream=session.stream)]


def test_resume_goes_on_where_the_record_ends(ledger: Ledger) -> None:
    session = Session.start(ledger, "x", kernel="A", action="go", retention_hours=3)
    session.record_action("a", "failed", kernel="B")
    session.message("user", "hello")
    again = Session.resume(ledger, session.session_id)
    for field in (
        "session_id",
        "urn",
        "label",
        "kernel",
        "action",
        "retention_hours",
        "started_at",
        "kernels",
    ):
        assert getattr(again, field) == getattr(session, field)
    assert again.record_action("b", "verified").seq == 2
    assert again.message("assistant", "hi").index == 1
    summary = again.close()
    assert (summary.outcome, summary.action_outcomes) == ("partial", {"failed": 1, "verified": 1})
    assert summary.duration_ms is not None and summary.duration_ms >= 0


def test_resume_refuses_what_has_ended_or_never_was(ledger: Ledger) -> None:
    with pytest.raises(NoSuchId, match="0000000000"):
        Session.resume(ledger, "0000000000")
    session = Session.start(ledger, "x")
    session.close()
    with pytest.raises(SessionEnded):
        Session.resume(ledger, session.session_id)


def test_two_handles_take_turns_without_losing_a_number(ledger: Ledger) -> None:
    one = Session.start(ledger, "x")
    two = Session.resume(ledger, one.session_id)
    seqs = [handle.record_action("a", "verified").seq for handle in (one, two, two, one, one, two)]
    assert seqs == [1, 2, 3, 4, 5, 6]
    assert (one.message("user", "x").index, two.message("user", "y").index) == (0, 1)
    assert one.close().action_count == 6
    with pytest.raises(SessionEnded) as caught:
        two.record_action("late", "verified", evidence=7)
    assert isinstance(caught.value.record, ActionRecord) and caught.value.record.evidence == 7
    assert two.outcome == "complete"
    with pytest.raises(SessionEnded):
        two.close()
    assert kinds(ledger, one)[-1] == "session.closed"


def test_two_handles_that_record_the_very_same_at_once_record_it_twice(ledger: Ledger) -> None:
    """The ledger takes the same body under the same key for a repetition, so no two are the same."""
    still = Clocks(wall_us=lambda: 7)
    one = Session.start(ledger, "x", clocks=still)
    two = Session.resume(ledger, one.session_id, clocks=still)
    assert [handle.record_action("a", "verified").seq for handle in (one, two)] == [1, 2]
    assert [handle.message("user", "x").index for handle in (one, two)] == [0, 1]
    assert len(one.actions()) == 2


def test_a_key_that_an_app_took_is_no_other_handle(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    ledger.append("app.noted", key=f"{session.stream}:1")
    with pytest.raises(RecordingFailed, match="was used by event"):
        session.record_action("a", "verified")


def test_other_events_in_the_stream_do_no_harm(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    for seq in (1, 2):
        ledger.record([NewEvent(kind="kernel.executed", stream=session.stream)])
        ledger.append("app.noted", stream=session.stream)
        assert session.record_action("a", "verified").seq == seq
    assert Session.resume(ledger, session.session_id).record_action("a", "verified").seq == 3


def test_an_erased_action_keeps_its_number(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    action = session.record_action("a", "failed")
    assert action.event_seq is not None
    ledger.erase(action.event_seq, "law")
    assert session.actions() == []
    assert Session.resume(ledger, session.session_id).record_action("b", "verified").seq == 2


def test_threads_sharing_a_session_record_in_the_order_of_their_numbers(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    mine: list[list[int]] = [[] for _ in range(8)]

    def work(thread: int) -> None:
        for _ in range(25):
            mine[thread].append(session.record_action("a", "verified", evidence=thread).seq)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seq for seqs in mine for seq in seqs) == list(range(1, 201))
    actions = session.actions()
    assert [action.seq for action in actions] == list(range(1, 201))
    for number, seqs in enumerate(mine):
        assert [action.seq for action in actions if action.evidence == number] == seqs
