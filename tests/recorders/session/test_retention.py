"""Contract S7: what was closed longer ago than its retention is erased, on request and never else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attacker import tamper

from tallystick import (
    Durability,
    InvalidEvent,
    Ledger,
    MemoryStore,
    NewEvent,
    NotErasable,
    Session,
    SessionNotExpirable,
    SessionSummary,
    get_session,
    list_sessions,
)
from tallystick.projections.errors import NoSuchId
from tallystick.recorders.session import retention
from tallystick.recorders.session.core import Clocks
from tallystick.recorders.session.retention import expire, expired_sessions

NOW = dt.datetime(2026, 3, 12, 12, tzinfo=dt.UTC)
SECRET = "my-bank-account-4711"


class Clock:
    """The ledger's clock; set by the test."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return int(self.now.timestamp()) * 1_000_000

    def hours_ago(self, hours: float) -> None:
        self.now = NOW - dt.timedelta(hours=hours)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["file", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    if request.param == "memory":
        yield Ledger.over(MemoryStore(), clock=clock)
        return
    with Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS, clock=clock) as ledger:
        yield ledger


def closed_session(ledger: Ledger, clock: Clock, hours_ago: float, retention_hours: int = 48) -> Session:
    clock.hours_ago(hours_ago)
    with Session.start(ledger, SECRET, kernel="K", retention_hours=retention_hours) as session:
        session.record_action("a", "verified", evidence={"account": SECRET}, note=SECRET)
        session.message("user", SECRET)
        ledger.record([NewEvent(kind="kernel.executed", stream=session.stream, body={"secret": SECRET})])
    clock.now = NOW
    return session


def test_s7_what_is_due(ledger: Ledger, clock: Clock) -> None:
    due = [closed_session(ledger, clock, 49), closed_session(ledger, clock, 2, retention_hours=1)]
    closed_session(ledger, clock, 47)
    closed_session(ledger, clock, 48)  # not longer ago
    clock.hours_ago(1000)
    Session.start(ledger, "in progress", retention_hours=0)
    assert [summary.session_id for summary in expired_sessions(ledger, NOW)] == [s.session_id for s in due]
    before = ledger.head()
    assert all(isinstance(summary, SessionSummary) for summary in expired_sessions(ledger, NOW))
    assert ledger.head() == before  # looking erases nothing
    assert expired_sessions(ledger, NOW - dt.timedelta(hours=1000)) == []
    with pytest.raises(InvalidEvent, match="time zone"):
        expired_sessions(ledger, NOW.replace(tzinfo=None))


def test_s7_the_time_that_counts_is_the_ledger_s(ledger: Ledger, clock: Clock) -> None:
    """So that a transcript of last year is not erased right after its import."""
    last_year = int((NOW - dt.timedelta(days=365)).timestamp()) * 1_000_000
    session = Session.start(ledger, "x", clocks=Clocks(wall_us=lambda: last_year))
    session.close()
    assert list_sessions(ledger)[0].ended_at == NOW - dt.timedelta(days=365)
    assert expired_sessions(ledger, NOW) == []
    with pytest.raises(SessionNotExpirable, match=r"48 hours.*until 2026-03-14 12:00 UTC"):
        expire(ledger, session.session_id, NOW)


def test_s7_an_expired_session_has_no_bodies_and_the_chain_verifies(ledger: Ledger, clock: Clock) -> None:
    other = closed_session(ledger, clock, 1)
    session = closed_session(ledger, clock, 49)
    seqs = [event.seq for event in ledger.read(stream=session.stream)]
    [summary] = expired_sessions(ledger, NOW)
    assert expire(ledger, summary, NOW) == seqs
    events = list(ledger.read(stream=session.stream))
    assert [event.kind for event in events if not event.erased] == ["session.expired"]
    assert events[-1].body == {
        "v": 1,
        "session_id": session.session_id,
        "retention_hours": 48,
        "closed_seq": seqs[-1],
        "erased": seqs,
    }
    assert not any(event.erased for event in ledger.read(stream=other.stream))
    assert ledger.verify().finding is None
    assert SECRET not in repr([event for event in ledger.read() if event.stream != other.stream])


def test_s7_what_remains_known(ledger: Ledger, clock: Clock) -> None:
    session = closed_session(ledger, clock, 49)
    assert list_sessions(ledger)[0].label == SECRET
    expire(ledger, session.session_id, NOW)
    [summary] = list_sessions(ledger)
    assert (summary.session_id, summary.outcome, summary.label) == (session.session_id, "expired", "")
    assert (summary.action_count, summary.message_count, summary.action_outcomes) == (1, 1, {})
    assert summary.started_at == NOW - dt.timedelta(hours=49)
    record = get_session(ledger, session.session_id, messages=True)
    assert (record.outcome, record.actions, record.messages) == ("expired", (), ())
    assert (record.retention_hours, record.urn, record.last_kind) == (48, session.urn, "session.expired")
    assert (record.action_count, record.message_count) == (1, 1)


def test_s7_nothing_of_the_content_is_left_in_any_file(tmp_path: Path, clock: Clock) -> None:
    with Ledger.open(tmp_path / "a.tally", clock=clock) as ledger:
        session = closed_session(ledger, clock, 49)
        assert list_sessions(ledger)[0].label == SECRET
        expire(ledger, session.session_id, NOW)
    for path in tmp_path.iterdir():
        assert SECRET.encode() not in path.read_bytes(), path


def test_s7_again_is_no_change(ledger: Ledger, clock: Clock) -> None:
    session = closed_session(ledger, clock, 49)
    assert expire(ledger, session.session_id, NOW)
    before = ledger.head()
    assert expire(ledger, session.session_id, NOW) == []
    assert expired_sessions(ledger, NOW) == []
    assert ledger.head() == before


def test_s7_what_came_into_the_stream_later_goes_with_another_record(ledger: Ledger, clock: Clock) -> None:
    session = closed_session(ledger, clock, 49)
    expire(ledger, session.session_id, NOW)
    [late] = ledger.record([NewEvent(kind="kernel.executed", stream=session.stream, body=SECRET)]) or []
    assert expire(ledger, session.session_id, NOW) == [late.seq]
    expired = [
        event.body["erased"] for event in ledger.read(stream=session.stream, kinds=["session.expired"])
    ]
    assert expired[1:] == [[late.seq]]
    assert ledger.verify().finding is None


def test_s7_what_may_not_be_expired(ledger: Ledger, clock: Clock) -> None:
    with pytest.raises(NoSuchId):
        expire(ledger, "0000000000", NOW)
    open_one = Session.start(ledger, "x", retention_hours=0)
    with pytest.raises(SessionNotExpirable, match=r"in progress.*resume"):
        expire(ledger, open_one.session_id, NOW + dt.timedelta(days=10_000))
    session = closed_session(ledger, clock, 49)
    ledger.erase(next(iter(ledger.read(stream=session.stream))).seq, "law")
    assert expired_sessions(ledger, NOW) == []
    with pytest.raises(SessionNotExpirable, match="how long"):
        expire(ledger, session.session_id, NOW)


def test_s7_some_bodies_may_be_erased_already(ledger: Ledger, clock: Clock) -> None:
    session = closed_session(ledger, clock, 49)
    action = session.actions()[0].event_seq or 0
    ledger.erase(action, "law")
    assert action not in expire(ledger, session.session_id, NOW)
    assert ledger.verify().finding is None


def test_s7_an_altered_body_stops_everything(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "a.tally"
    with Ledger.open(path, clock=clock) as ledger:
        session = closed_session(ledger, clock, 49)
    tamper(
        path, """UPDATE events SET body = CAST('{"secret":"other"}' AS BLOB) WHERE kind = 'kernel.executed'"""
    )
    with Ledger.open(path, clock=clock) as ledger:
        before = ledger.head()
        with pytest.raises(NotErasable, match="altered"):
            expire(ledger, session.session_id, NOW)
        assert ledger.head() == before
        assert not any(event.erased for event in ledger.read())


def test_s7_a_long_session_s_seqs_are_named_in_several_records(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_NAMED_MAX", 2)
    session = closed_session(ledger, clock, 49)
    seqs = expire(ledger, session.session_id, NOW)
    records = [
        event.body["erased"] for event in ledger.read(stream=session.stream, kinds=["session.expired"])
    ]
    assert records == [seqs[:2], seqs[2:4], seqs[4:]]
    assert expire(ledger, session.session_id, NOW) == []


def test_s7_another_process_that_came_first_is_no_trouble(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = retention._read
    with (
        Ledger.open(tmp_path / "a.tally", clock=clock) as ledger,
        Ledger.open(tmp_path / "a.tally", clock=clock) as other,
    ):
        session = closed_session(ledger, clock, 49)
        seqs = [event.seq for event in ledger.read(stream=session.stream)]
        theirs: list[list[int]] = []

        def read_and_be_overtaken(ledger: Ledger, session_id: str) -> Any:
            found = read(ledger, session_id)
            monkeypatch.setattr(retention, "_read", read)
            theirs.append(expire(other, session_id, NOW))
            return found

        monkeypatch.setattr(retention, "_read", read_and_be_overtaken)
        assert expire(ledger, session.session_id, NOW) == []
        assert theirs == [seqs]
        assert len(list(ledger.read(kinds=["session.expired"]))) == 1
        assert ledger.verify().finding is None
