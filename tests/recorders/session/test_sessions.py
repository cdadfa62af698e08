"""Contract S7: sessions read back, listed newest first and found by prefix."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tallystick import (
    Durability,
    Kernel,
    Ledger,
    MemoryStore,
    PsiDefinition,
    Session,
    SessionRecord,
    SessionSummary,
    get_session,
    list_sessions,
)
from tallystick.projections.errors import AmbiguousPrefix, NoSuchId
from tallystick.recorders.session.core import Clocks


@pytest.fixture(params=["file", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "memory":
        yield Ledger.over(MemoryStore())
        return
    with Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS) as ledger:
        yield ledger


def fixed(session_id_byte: int) -> Clocks:
    return Clocks(entropy=lambda size: bytes([0, 0, 0, 0, 0, 0, 0, session_id_byte]))


def summary_part(record: SessionRecord) -> SessionSummary:
    return SessionSummary(**{name: getattr(record, name) for name in SessionSummary.__dataclass_fields__})


def test_s7_newest_first(ledger: Ledger) -> None:
    assert list_sessions(ledger) == []
    sessions = [Session.start(ledger, f"{n}") for n in range(4)]
    sessions[1].close()
    sessions[0].close("failed")
    listed = list_sessions(ledger)
    assert [summary.label for summary in listed] == ["3", "2", "1", "0"]
    assert [summary.outcome for summary in listed] == ["in_progress", "in_progress", "complete", "failed"]
    assert [summary.label for summary in list_sessions(ledger, outcome="in_progress")] == ["3", "2"]
    assert [summary.label for summary in list_sessions(ledger, limit=1)] == ["3"]


def test_s7_a_session_is_read_back_as_it_was_recorded(ledger: Ledger) -> None:
    with pytest.raises(ValueError), Session.start(ledger, "x", "A", "go", 7) as session:
        actions = [
            session.record_action("a", "retry", "B", intent={"n": 1}),
            session.record_action("a", "verified", before_state={"n": 1}, after_state={"n": 2}, attempt=2),
        ]
        message = session.message("user", "hello")
        raise ValueError("no")
    record = get_session(ledger, session.session_id)
    assert record.actions == tuple(actions)
    assert record.messages is None
    assert get_session(ledger, session.session_id[:4], messages=True).messages == (message,)
    for field in (
        "session_id",
        "urn",
        "label",
        "kernel",
        "action",
        "retention_hours",
        "started_at",
        "ended_at",
        "duration_ms",
        "outcome",
        "kernels",
        "stream",
    ):
        assert getattr(record, field) == getattr(session, field), field
    assert (record.error, record.error_type, record.last_kind) == ("no", "ValueError", "session.closed")
    assert (record.action_count, record.message_count) == (2, 1)
    assert record.action_outcomes == {"retry": 1, "verified": 1}
    [summary] = list_sessions(ledger)
    assert summary == summary_part(record) == session.close()


def test_s7_the_list_and_the_record_say_the_same_whatever_state_it_is_in(ledger: Ledger) -> None:
    for number in range(5):
        session = Session.start(ledger, f"{number}", kernel="K", retention_hours=0)
        session.record_action("a", "failed", "B")
        session.message("user", "x")
        if number in (1, 4):
            session.close()
        if number == 2:
            ledger.erase(session.actions()[0].event_seq or 0, "law")
        if number == 3:
            ledger.append("app.noted", stream=session.stream)
        if number == 4:
            ledger.erase(session.close().closed_seq or 0, "law")
    listed = list_sessions(ledger)
    assert [summary.outcome for summary in listed] == [
        "unknown",
        *["in_progress"] * 2,
        "failed",
        "in_progress",
    ]
    for summary in listed:
        assert summary_part(get_session(ledger, summary.session_id)) == summary


def test_s7_prefixes(ledger: Ledger) -> None:
    one = Session.start(ledger, "one", clocks=fixed(1))
    two = Session.start(ledger, "two", clocks=fixed(33))
    assert one.session_id[0] == two.session_id[0] and one.session_id[1] != two.session_id[1]
    assert get_session(ledger, two.session_id[:2]).label == "two"
    with pytest.raises(AmbiguousPrefix) as ambiguous:
        get_session(ledger, one.session_id[:1])
    assert set(ambiguous.value.candidates) == {one.session_id, two.session_id}
    with pytest.raises(NoSuchId):
        get_session(ledger, "zz")
    with pytest.raises(NoSuchId):
        get_session(ledger, one.session_id + "0")
    assert Session.resume(ledger, two.session_id[:2]).session_id == two.session_id


def test_s3_a_session_whose_process_died_stays_in_progress(ledger: Ledger) -> None:
    session = Session.start(ledger, "x")
    action = session.record_action("a", "retry")
    record = get_session(ledger, session.session_id)
    assert (record.outcome, record.ended_at, record.closed_seq) == ("in_progress", None, None)
    assert (record.last_seq, record.last_kind) == (action.event_seq, "action.recorded")


def test_records_are_frozen_and_can_be_copied_and_pickled(ledger: Ledger) -> None:
    with Session.start(ledger, "x") as session:
        session.record_action("a", "verified", evidence={"a": [1]})
    record = get_session(ledger, session.session_id)
    with pytest.raises(AttributeError):
        record.label = "y"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        record.actions[0].note = "y"  # type: ignore[misc]
    assert copy.deepcopy(record) == record == pickle.loads(pickle.dumps(record))


def test_a_kernel_records_in_the_session_s_stream(ledger: Ledger) -> None:
    with Session.start(ledger, "x") as session:
        kernel = Kernel(ledger=ledger, stream=session.stream)
        for number in range(3):
            kernel.execute(psi=PsiDefinition("a", "b"), task=lambda n: n + 1, n=number)
            session.record_action("a", "verified")
    kinds = [event.kind for event in ledger.read(stream=session.stream)]
    assert kinds == ["session.started", *["kernel.executed", "action.recorded"] * 3, "session.closed"]
    record = get_session(ledger, session.session_id)
    assert (record.action_count, record.first_seq, record.last_seq) == (3, 2, 9)


def test_threads_running_kernels_do_not_starve_the_session(ledger: Ledger) -> None:
    """Events of others between its own cost a session nothing: its numbers are its own."""
    session = Session.start(ledger, "x")
    kernel = Kernel(ledger=ledger, stream=session.stream)
    going = threading.Event()
    stop = threading.Event()

    def execute() -> None:
        while not stop.is_set():
            kernel.execute(psi=PsiDefinition("a", "b"), task=lambda: 1)
            going.set()

    threads = [threading.Thread(target=execute) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert going.wait(30)
        assert [session.record_action("a", "verified").seq for _ in range(30)] == list(range(1, 31))
        assert session.close().action_count == 30
    finally:
        stop.set()
        for thread in threads:
            thread.join()
