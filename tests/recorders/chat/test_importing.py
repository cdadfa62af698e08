"""Conversations into a ledger: each in one commit, each once (contract S8)."""

from __future__ import annotations

import gzip
import json
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tallystick import (
    Durability,
    InvalidEvent,
    Ledger,
    Session,
    Verdict,
    get_session,
    list_sessions,
    replay_ledger,
)
from tallystick.recorders.chat.conversation import identify
from tallystick.recorders.chat.importing import ChatSummary, import_chat
from tallystick.recorders.errors import BadConversation, InvalidUrn, SessionTaken

AIRLINE = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "airline_agent_sessions.jsonl.gz"
needs_airline = pytest.mark.skipif(not AIRLINE.exists(), reason="the recorded agent sessions are not here")


def chat(number: int, turns: int = 3, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"question {number}.{turn}"} for turn in range(turns)]
    return {"messages": messages, **fields}


def kinds(ledger: Ledger) -> Counter[str]:
    return Counter(event.kind for event in ledger.read(1))


def test_importing_twice_adds_nothing(ledger: Ledger) -> None:
    conversations = [chat(n, reward=n % 2) for n in range(4)]
    first = import_chat(ledger, conversations, outcome="reward")
    assert (first.imported, first.known, first.complete, first.failed) == (4, 0, 2, 2)
    head = ledger.head()
    again = import_chat(ledger, conversations, outcome="reward", label="reward")
    assert again == ChatSummary(known=4)
    assert ledger.head() == head
    more = import_chat(ledger, [chat(9), *conversations, chat(9)])
    assert (more.imported, more.known) == (1, 5)


def test_each_conversation_is_one_stream_in_one_commit(ledger: Ledger) -> None:
    import_chat(ledger, [chat(1), chat(2)])
    for number in (1, 2):
        stream = "session:" + identify(chat(number))[0]
        events = list(ledger.read(stream=stream))
        assert [event.kind for event in events] == [
            "session.started",
            *["message.recorded"] * 3,
            "session.closed",
        ]
        assert [event.seq for event in events] == list(range(events[0].seq, events[0].seq + 5))
    assert ledger.verify().verdict is Verdict.UNANCHORED


def test_a_bad_conversation_leaves_those_before_and_nothing_of_itself(ledger: Ledger) -> None:
    bad = {"messages": [{"role": "user"}, {}]}
    with pytest.raises(BadConversation, match=r"messages\[1\]\.role"):
        import_chat(ledger, [chat(1), bad, chat(2)])
    assert kinds(ledger)["session.started"] == 1
    with pytest.raises(InvalidUrn):
        import_chat(ledger, [chat(3)], kernel="ckp://Action#x")
    for hours in (-1, 1.5, True, 10**9):
        with pytest.raises(InvalidEvent, match="retention_hours"):
            import_chat(ledger, [chat(3)], retention_hours=hours)  # type: ignore[arg-type]
    assert kinds(ledger)["session.started"] == 1


def test_an_imported_session_is_a_session(ledger: Ledger) -> None:
    """S7: it is found and read as any other, and one left in progress can be gone on with."""
    import_chat(ledger, [chat(1), chat(2, ok=True)], outcome="ok")
    closed, open_ = list_sessions(ledger)
    assert (open_.outcome, closed.outcome) == ("in_progress", "complete")
    found = get_session(ledger, open_.session_id[:8], messages=True)
    assert found.messages is not None
    assert [message.content for message in found.messages] == ["question 1.0", "question 1.1", "question 1.2"]
    with Session.resume(ledger, open_.session_id) as session:
        session.record_action("order.check", "failed")
    assert get_session(ledger, open_.session_id).outcome == "failed"
    assert import_chat(ledger, [chat(1)]).known == 1


def test_an_import_that_finds_the_outcome_closes_what_one_that_did_not_left_open(ledger: Ledger) -> None:
    conversations = [chat(1, reward=1), chat(2, reward=0), chat(3), chat(4, reward=1)]
    assert import_chat(ledger, conversations, outcome="rewrd").in_progress == 4
    with Session.resume(ledger, identify(conversations[3])[0]) as session:
        session.record_action("order.check", "verified")
    assert import_chat(ledger, conversations) == ChatSummary(known=4), "nothing says how they ended"
    found = import_chat(ledger, conversations, outcome="reward")
    assert found == ChatSummary(known=4, closed=2, complete=1, failed=1)
    outcomes = [get_session(ledger, identify(one)[0]).outcome for one in conversations]
    assert outcomes[:3] == ["complete", "failed", "in_progress"]
    head = ledger.head()
    assert import_chat(ledger, conversations, outcome="reward") == ChatSummary(known=4)
    assert ledger.head() == head
    report = replay_ledger(ledger)
    assert report.diverged == 0, str(report)


def test_another_session_in_its_place_is_no_import(ledger: Ledger) -> None:
    session_id, _ = identify(chat(1))
    ledger.append("message.user", {"derived": []}, stream=f"session:{session_id}")
    with pytest.raises(SessionTaken, match=f"session {session_id}"):
        import_chat(ledger, [chat(1)])


def test_an_erased_session_stays_erased(ledger: Ledger) -> None:
    import_chat(ledger, [chat(1)])
    ledger.erase_many([event.seq for event in ledger.read(1)], "asked for")
    assert import_chat(ledger, [chat(1)]).known == 1


def test_imports_at_once_import_each_conversation_once(tmp_path: Path) -> None:
    conversations = [chat(n) for n in range(40)]
    summaries: list[ChatSummary] = []
    ledgers = [Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda one=one: summaries.append(import_chat(one, conversations)))
        for one in ledgers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(summary.imported for summary in summaries) == 40
    assert sum(summary.known for summary in summaries) == 80
    assert kinds(ledgers[0]) == {"session.started": 40, "message.recorded": 120, "session.closed": 40}
    for one in ledgers:
        one.close()


IMPORTER = """
import sys
from tallystick import Ledger
from tallystick.recorders.chat.importing import import_chat
turns = [{"role": "user", "content": "x" * 500} for _ in range(30)]
with Ledger.open(sys.argv[1]) as ledger:
    def conversations():
        for number in range(2000):
            print(number, flush=True)
            yield {"number": number, "messages": turns}
    import_chat(ledger, conversations())
"""


def test_kill_9_leaves_whole_conversations_and_another_import_completes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tally"
    turns = [{"role": "user", "content": "x" * 500} for _ in range(30)]
    reached = 0
    for stop_at in (7, 23, 60):
        process = subprocess.Popen([sys.executable, "-c", IMPORTER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for line in process.stdout:
            reached = int(line)
            if reached == stop_at:
                break
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        with Ledger.open(path, create=False) as ledger:
            streams = Counter(event.stream for event in ledger.read(1))
            assert set(streams.values()) == {32}, "only whole conversations"
            assert len(streams) >= stop_at, "what was there before the next was asked for is there"
            assert ledger.verify().finding is None
    with Ledger.open(path, create=False) as ledger:
        stored = kinds(ledger)["session.closed"]
        summary = import_chat(ledger, ({"number": n, "messages": turns} for n in range(100)))
        assert (summary.imported, summary.known) == (100 - stored, stored)
        assert kinds(ledger)["session.closed"] == 100


# -- real transcripts --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def airline() -> list[Any]:
    with gzip.open(AIRLINE) as file:
        return [json.loads(line) for line in file]


@needs_airline
def test_every_message_and_call_of_real_transcripts(ledger: Ledger, airline: list[Any]) -> None:
    summary = import_chat(ledger, airline, outcome="reward")
    counts = summary.counts
    assert (summary.imported, counts.messages) == (100, 2658)
    assert (summary.complete, summary.failed, summary.in_progress) == (43, 57, 0)
    asked = [
        asked for one in airline for message in one["messages"] for asked in message.get("tool_calls") or []
    ]
    assert counts.calls == len(asked) == 572
    assert counts.calls == counts.executed + counts.unanswered + counts.malformed
    assert counts.executed == 572
    assert counts.stray_answers == counts.bad_arguments == counts.left_out == 0
    assert counts.reused_ids == 38
    assert kinds(ledger) == {
        "session.started": 100,
        "message.recorded": 2658,
        "kernel.executed": 572,
        "session.closed": 100,
    }
    assert ledger.verify().finding is None
    head = ledger.head()
    assert import_chat(ledger, airline, outcome="reward") == ChatSummary(known=100)
    assert ledger.head() == head


@needs_airline
def test_executions_hold_what_the_transcripts_say(ledger: Ledger, airline: list[Any]) -> None:
    import_chat(ledger, airline)
    for one in airline:
        expected = []
        waiting: list[Any] = []
        for message in one["messages"]:
            waiting += message.get("tool_calls") or []
            if message["role"] == "tool":
                at = next(n for n, each in enumerate(waiting) if each["id"] == message["tool_call_id"])
                asked = waiting.pop(at)
                function = asked["function"]
                expected.append(
                    (asked["id"], function["name"], json.loads(function["arguments"]), message["content"])
                )
        stream = "session:" + identify(one)[0]
        recorded = [
            (
                event.body["observed"]["call_id"],
                event.body["derived"]["psi"]["name"],
                event.body["derived"]["arguments"],
                event.body["derived"]["output"],
            )
            for event in ledger.read(stream=stream, kinds=["kernel.executed"])
        ]
        assert recorded == expected


def test_the_errors_survive_pickling() -> None:

    for error in (BadConversation("messages[1]", "no"), SessionTaken("abc", 7)):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)
