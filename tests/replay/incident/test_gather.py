"""What belongs to an incident, and what is said of it."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forging import Forger
from hypothesis import given, settings
from hypothesis import strategies as st
from incidents import checked, gathered, lines_in, seqs_in, tree, written
from property_tests import examples
from requests_to_decide import refund

from tallystick import (
    BadSelection,
    Gateway,
    Kernel,
    Ledger,
    MemoryStore,
    NewEvent,
    NoSuchId,
    PsiDefinition,
    Selection,
    Session,
    write_incident,
)
from tallystick.recorders.gateway.policy import STARTER_POLICY
from tallystick.replay.incident import gather as incident_gather
from tallystick.replay.incident.files import pack_name
from tallystick.replay.incident.gather import Ring

AT = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


@pytest.fixture
def memory() -> Iterator[Ledger]:
    with Ledger.over(MemoryStore()) as ledger:
        yield ledger


# -- what belongs ----------------------------------------------------------------------------

_event = st.fixed_dictionaries(
    {
        "correlation": st.none() | st.sampled_from(["a", "b", "c"]),
        "causation": st.none() | st.integers(2, 14).map(str) | st.integers(2, 14).map(lambda n: f"key-{n}"),
        "stream": st.sampled_from(["main", "jobs", "order:1", "order:2", "session:x", "session:y"]),
        "mentions": st.none() | st.sampled_from(["x", "y", "z"]),
        "keyed": st.booleans(),
    }
)


def model(events: list[dict[str, Any]], correlation: str) -> tuple[set[int], set[int]]:
    """Which of plain events belong to a correlation id, and which are evidence, by trying again and again."""
    number = {f"key-{n}": n for n, event in enumerate(events, 2) if event["keyed"]}

    def cause(event: dict[str, Any]) -> int | None:
        said = event["causation"]
        found = int(said) if said is not None and said.isdigit() else number.get(said)
        return found if found is not None and found <= len(events) + 1 else None

    def tied(one: int, other: int) -> bool:
        this, that = events[one - 2], events[other - 2]
        if this["correlation"] is not None and this["correlation"] == that["correlation"]:
            return True
        if this["stream"] == that["stream"] and this["stream"].startswith("session:"):
            return True
        if cause(this) == other or cause(that) == one:
            return True
        return (
            f"session:{this['mentions']}" == that["stream"] or f"session:{that['mentions']}" == this["stream"]
        )

    every = set(range(2, len(events) + 2))
    belong = {seq for seq in every if events[seq - 2]["correlation"] == correlation}
    if not belong:
        return set(), set()
    while more := {seq for seq in every - belong if any(tied(seq, one) for one in belong)}:
        belong |= more
    orders = {events[seq - 2]["stream"] for seq in belong if events[seq - 2]["stream"].startswith("order:")}
    evidence = {seq for seq in every - belong if events[seq - 2]["stream"] in orders}
    return belong, evidence | {1}


@given(st.lists(_event, min_size=1, max_size=12))
@settings(max_examples=examples(150), deadline=None)
def test_what_belongs_is_what_a_plain_model_says(events: list[dict[str, Any]]) -> None:
    with Ledger.over(MemoryStore()) as ledger:
        for number, event in enumerate(events, 2):
            meta = {name: event[name] for name in ("correlation", "causation") if event[name] is not None}
            body = {} if event["mentions"] is None else {"session_id": event["mentions"]}
            ledger.record(
                [
                    NewEvent(
                        kind="app.noted",
                        body=body,
                        stream=event["stream"],
                        key=f"key-{number}" if event["keyed"] else None,
                        meta=meta or None,
                    )
                ]
            )
        found = gathered(ledger, correlation="a")
        belong, evidence = model(events, "a")
        assert {seq for seq, (ring, _) in found.items() if ring != Ring.EVIDENCE} == belong
        assert {seq for seq, (ring, _) in found.items() if ring == Ring.EVIDENCE} == evidence


def test_a_session_with_all_that_it_is_tied_to(filled: Path) -> None:
    with Ledger.open(filled, read_only=True) as ledger:
        session = next(ledger.read(kinds=["session.started"]))
        found = gathered(ledger, session=session.stream.removeprefix("session:")[:5])
        kinds = {ledger.get(seq).kind: why for seq, (_, why) in found.items()}
        again = gathered(ledger, correlation="case-7")
    assert kinds["decision.recorded"] == "same correlation case-7"
    assert kinds["policy.registered"].startswith("policy of decision dec_")
    assert kinds["ledger.created"] == "names the ledger"
    assert "order.placed" not in kinds and "pipeline.completed" not in kinds
    assert set(again) == set(found)
    assert [ring for ring, _ in again.values()].count(Ring.SEED) > [r for r, _ in found.values()].count(
        Ring.SEED
    )


def test_a_decision_with_its_policy_and_what_memory_told_it(memory: Ledger) -> None:
    gateway = Gateway(memory, STARTER_POLICY)
    first = gateway.decide(refund(trace={"correlation_id": "a"}))
    gateway.label(first.decision_id, "failure", "sent twice")
    second = gateway.decide(refund(trace={"correlation_id": "b"}))
    gateway.decide(refund(trace={"correlation_id": "c"}))
    found = gathered(memory, decision=second.decision_id)
    told = {memory.get(seq).kind: (ring, why) for seq, (ring, why) in found.items()}
    assert told["memory.added"][1] == f"memory that decision {second.decision_id} looked at"
    assert told["decision.labeled"][1].startswith("what memory item mem_")
    assert told["policy.registered"][0] is told["memory.added"][0] is Ring.EVIDENCE
    recorded = [seq for seq in found if memory.get(seq).kind == "decision.recorded"]
    assert len(recorded) == 2, "the decision itself, and the one that memory learned from"
    other = gathered(memory, decision=first.decision_id)
    assert {memory.get(seq).kind for seq in other} >= {"decision.labeled", "memory.added"}
    assert len([seq for seq in other if memory.get(seq).kind == "decision.recorded"]) == 1


def test_causes_run_ids_and_references_are_followed_both_ways(memory: Ledger) -> None:
    psi = PsiDefinition("tool", "refund")
    kernel = Kernel(ledger=memory, run_id_factory=iter(["r-1", "r-2", "r-2"]).__next__)
    for _ in range(3):
        kernel.execute(psi=psi, task=lambda: None)
    run = 2
    memory.append("app.asked", {"run_id": "r-1"}, key="asked", meta={"correlation": "case"})
    memory.append("app.answered", meta={"causation": "asked"})
    memory.append("app.done", meta={"causation": str(memory.head().seq)})
    memory.append("app.other", {"run_id": "r-2"}, meta={"causation": "asked"})
    memory.append("app.apart", {"text": "asked"})
    found = gathered(memory, correlation="case")
    assert set(found) == {1, run, 5, 6, 7, 8}, "two runs are called r-2, which therefore tells nothing"
    assert found[run][1] == "named by event 5"
    assert found[6][1] == "names key asked, event 5"
    assert set(gathered(memory, correlation="case")) == set(found)


def test_a_trace_is_shared(memory: Ledger) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    for span, meta in (("a", {"correlation": "case"}), ("b", {}), ("c", {"correlation": "else"})):
        memory.append("app.noted", meta={**meta, "traceparent": f"00-{trace}-{span * 16}-01"})
    memory.append("app.noted", meta={"traceparent": f"00-{'0' * 32}-{'a' * 16}-01"})
    assert set(gathered(memory, correlation="case")) == {1, 2, 3, 4}


def test_what_is_too_general_is_not_followed_and_said(
    memory: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(incident_gather, "SHARED_MAX", 3)
    monkeypatch.setattr(incident_gather, "STREAM_MAX", 3)
    with memory.context(correlation="prod"):
        for number in range(5):
            Session.start(memory, str(number), "Desk").close()
            memory.append("app.noted", stream="shift:night")
    [first, *_] = memory.read(kinds=["session.started"])
    found = gathered(memory, session=first.stream.removeprefix("session:"))
    assert sorted(found) == [1, first.seq, first.seq + 1]
    assert len(gathered(memory, correlation="prod")) == 16, "what was asked for is followed in any case"
    made = write_incident(memory, Selection(correlation="prod"), tmp_path / "i")
    assert made.notes == ("not followed: stream shift:night has more than 3 events",)


@pytest.mark.parametrize(("sharing", "followed"), [(3, True), (4, False)])
def test_a_name_is_followed_up_to_the_bound(
    memory: Ledger, monkeypatch: pytest.MonkeyPatch, sharing: int, followed: bool
) -> None:
    monkeypatch.setattr(incident_gather, "SHARED_MAX", 3)
    for _ in range(sharing):
        memory.append("app.noted", meta={"correlation": "met on the way"})
    memory.append("app.noted", meta={"correlation": "case", "causation": "2"})
    expected = set(range(1, sharing + 3)) if followed else {1, 2, sharing + 2}
    assert set(gathered(memory, correlation="case")) == expected


def test_a_trace_id_of_zeros_ties_nothing(memory: Ledger) -> None:
    """W3C trace context, section 3.2.2.3: all zeros are no trace id."""
    parent = f"00-{'0' * 32}-{'a' * 16}-01"
    memory.append("app.noted", meta={"correlation": "case", "traceparent": parent})
    memory.append("app.noted", meta={"traceparent": parent})
    assert set(gathered(memory, correlation="case")) == {1, 2}


@pytest.mark.parametrize(("named", "followed"), [(64, True), (65, False)])
def test_an_event_may_name_so_many_before_it_is_a_list(memory: Ledger, named: int, followed: bool) -> None:
    ids = [f"dec_{number:026d}" for number in range(named)]
    memory.append("app.report", {"ids": ids}, meta={"correlation": "case"})
    memory.append("app.noted", stream=f"decision:{ids[0]}")
    assert set(gathered(memory, correlation="case")) == ({1, 2, 3} if followed else {1, 2})


def test_an_event_that_lists_many_is_tied_to_none(memory: Ledger) -> None:
    ids = [f"dec_{number:026d}" for number in range(99)]
    memory.append("app.report", {"ids": ids}, meta={"correlation": "case"})
    memory.append("app.noted", {"decision_id": ids[0]})
    memory.append("app.summed", {"ids": ids[:3]})
    assert set(gathered(memory, correlation="case")) == {1, 2}


def test_a_span_of_time_takes_what_it_refers_to_and_no_more(memory: Ledger) -> None:
    for number, at in enumerate((0, 10, 20, 30), 2):
        meta = {"correlation": "case"} | ({"causation": str(number - 2)} if number > 3 else {})
        memory.append("app.noted", {"n": number}, meta=meta, at=AT + at)
    memory.append("app.noted", stream="session:s", at=AT + 5)
    memory.append("app.noted", stream="session:s", at=AT + 25)
    found = gathered(memory, since=AT + 20, until=AT + 30)
    assert {seq for seq, (ring, _) in found.items() if ring is Ring.SEED} == {4, 7}
    assert set(found) == {1, 2, 4, 6, 7}
    assert found[2][1] == "named by event 4" and found[6][1] == "in session s"


def test_erased_events_come_with_the_records_of_it(filled: Path, tmp_path: Path) -> None:
    with Ledger.open(filled) as ledger:
        [message] = ledger.read(kinds=["message.recorded"], limit=1)
        ledger.erase(message.seq, "a customer asked")
        ledger.erase(28, "something else")
        found = gathered(ledger, correlation="case-7")
        record = ledger.head().seq - 1
        assert found[record] == (Ring.EVIDENCE, f"records that the body of event {message.seq} was erased")
        assert record + 1 not in found
        made = write_incident(ledger, Selection(correlation="case-7"), tmp_path / "i")
    assert [said.text for said in made.summary.erasures] == [
        f"The body of event {message.seq} was erased: a customer asked"
    ]
    line = next(line for line in lines_in(tmp_path / "i") if line["seq"] == message.seq)
    assert line["body"] is line["salt"] is None
    assert checked("--part", tmp_path / "i" / "events.jsonl")[0] == 0


def test_one_thing_is_asked_for(filled: Path, tmp_path: Path) -> None:
    for wrong in ({}, {"session": "a", "decision": "b"}, {"session": "a", "since": 1}, {"stream": "main"}):
        with pytest.raises(BadSelection, match="give one of"):
            written(filled, tmp_path / "i", Selection(**wrong))
    with pytest.raises(NoSuchId):
        written(filled, tmp_path / "i", Selection(session="nothing"))
    with pytest.raises(BadSelection, match="no event is correlation nothing"):
        written(filled, tmp_path / "i", Selection(correlation="nothing"))
    assert all(name.startswith("a.tally") for name in os.listdir(tmp_path))


# -- hostile ledgers -------------------------------------------------------------------------

HOSTILE = [
    "../../../evil",
    "CON",
    "/etc/passwd",
    "a\\..\\b",
    "x" * 400,
    "DEC_A",
    "dec_a",
    "<script>",
    "\u202egpj",
]


def test_ids_are_no_names_of_files(memory: Ledger, tmp_path: Path) -> None:
    gateway = Gateway(memory, STARTER_POLICY)
    gateway.decide(refund(trace={"correlation_id": "case"}))
    [real] = memory.read(kinds=["decision.recorded"])
    for name in HOSTILE:
        body = json.loads(json.dumps(real.body))
        body["observed"]["decision_id"] = name
        memory.record([NewEvent(kind="decision.recorded", stream=f"decision:{name}", body=body)])
    for target in ("i", "i.zip"):
        write_incident(memory, Selection(correlation="case"), tmp_path / target)
    names = sorted(name for name in tree(tmp_path / "i") if name.startswith("packs/"))
    assert len(names) == 1 + len(HOSTILE)
    assert all(name.removeprefix("packs/").startswith(("dec_0", "decision-")) for name in names)
    assert len({name.lower() for name in names}) == len(names)
    with zipfile.ZipFile(tmp_path / "i.zip") as archive:
        assert sorted(name for name in archive.namelist() if "packs/" in name) == [
            f"incident/{n}" for n in names
        ]
    assert sorted(os.listdir(tmp_path)) == ["i", "i.zip"]
    page = (tmp_path / "i" / "report.html").read_text("utf-8")
    assert "<script" not in page and "\u202e" not in page


def test_pack_names() -> None:
    assert pack_name("dec_01M7YKC1K2JT8NEWZRYR3Q518P", 7) == "packs/dec_01M7YKC1K2JT8NEWZRYR3Q518P.zip"
    assert pack_name("dec_01m7ykc1k2jt8newzryr3q518p", 7) == "packs/decision-7.zip"
    assert pack_name("dec_01M7YKC1K2JT8NEWZRYR3Q518P\n", 7) == "packs/decision-7.zip"


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_json_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abv"), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
@settings(max_examples=examples(40), deadline=None)
def test_whatever_bodies_say_it_ends(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Bodies of built-in kinds of any shape, with names where they are looked for."""
    places = (
        "derived observed request trace correlation_id context ref id kind policy policy_hash top_k "
        "memory_id executions run_ids run_id seq decision_seq failure_similarity risk_signals psi name "
        "verdict success"
    ).split()
    value = st.recursive(
        _json_value | st.sampled_from([[1, 2, 3], "mem_000000000002", "mem_9", 3, "event", 10**15]),
        lambda inner: st.dictionaries(st.sampled_from(places), inner, max_size=4),
        max_leaves=12,
    )
    kinds = (
        "decision.recorded memory.added pipeline.completed kernel.executed session.closed policy.registered "
        "decision.labeled session.started action.recorded"
    ).split()
    with Ledger.over(MemoryStore()) as ledger:
        for kind in data.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=5)):
            stream = data.draw(st.sampled_from(["session:s", "decision:d", "policy:p", "memory:m", "kernel"]))
            event = NewEvent(kind=kind, stream=stream, body=data.draw(value), meta={"correlation": "c"})
            with contextlib.suppress(ValueError):  # not every body is let in
                ledger.record([event])
        if ledger.head().seq == 1:
            return
        target = tmp_path_factory.mktemp("hostile") / "i"
        made = write_incident(ledger, Selection(correlation="c"), target)
        assert made.summary.events >= 2
        assert checked("--part", target / "events.jsonl")[0] == 0


def test_a_body_that_is_no_text_is_left_out_and_said(filled: Path, tmp_path: Path) -> None:
    with Forger(filled) as forger:
        forger.replace(5, body=b'{"\xff":1}')
    made = written(filled, tmp_path / "i", Selection(correlation="case-7"))
    assert 5 not in seqs_in(tmp_path / "i")
    assert not made.sound and made.unreadable == 1
    assert any(note.startswith("not exported: event 5 cannot be decoded") for note in made.notes)
