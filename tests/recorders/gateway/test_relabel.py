"""D8: the last label of a decision counts, from its event on; replay finds the memory that there was then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import Durability, Gateway, Ledger, MemoryStore, replay_ledger
from tallystick.events import gateway as events
from tallystick.ledger.event import NewEvent
from tallystick.projections.views import views_of
from tallystick.recorders.gateway.packing import collect
from tallystick.recorders.gateway.policy import STARTER_POLICY, Policy
from tallystick.recorders.gateway.record import DecisionRecord, LogEntry
from tallystick.replay.pack import replay_pack

Make = Callable[..., dict[str, Any]]
STARTER = Policy.load(STARTER_POLICY)


@pytest.fixture
def gateway(ledger: Ledger) -> Gateway:
    return Gateway(ledger, STARTER)


def labels_found(record: DecisionRecord) -> list[tuple[str, str]]:
    return [(match.label, match.summary) for match in record.risk_signals.failure_similarity.top_k]


def learned(ledger: Ledger) -> list[int]:
    return [row.seq for row in ledger.rows(kinds=[events.MEMORY_ADDED])]


def test_a_failure_that_was_none_stops_counting(gateway: Gateway, make_request: Make) -> None:
    first = gateway.decide(make_request())
    gateway.label(first.decision_id, "failure", "never arrived")
    assert gateway.decide(make_request()).verdict == "ESCALATE"
    gateway.label(first.decision_id, "success", "it was at the neighbour's")
    after = gateway.decide(make_request())
    assert (after.verdict, after.risk_signals.failure_similarity.score) == ("TRUST", 0)
    assert labels_found(after) == [("success", "it was at the neighbour's")]
    gateway.label(first.decision_id, "failure", "never arrived")
    assert gateway.decide(make_request()).verdict == "ESCALATE"
    assert replay_ledger(gateway.ledger).diverged == 0


def test_another_summary_replaces_the_words(gateway: Gateway, make_request: Make) -> None:
    first = gateway.decide(make_request())
    for summary in ("lost", "lost by the carrier"):
        gateway.label(first.decision_id, "failure", summary)
    assert labels_found(gateway.decide(make_request())) == [("failure", "lost by the carrier")]


def test_the_same_label_again_adds_nothing(gateway: Gateway, make_request: Make) -> None:
    first = gateway.decide(make_request())
    entry = gateway.label(first.decision_id, "failure", "lost")
    gateway.add_event(first.decision_id, "note", {"text": "called"})
    head = gateway.ledger.head()
    assert gateway.label(first.decision_id, "failure", "lost") == entry
    again = gateway.add_event(first.decision_id, "label", {"label": "failure", "summary": "lost"})
    assert (again, gateway.ledger.head()) == (entry, head)


def test_what_was_erased_is_said_again(gateway: Gateway, make_request: Make) -> None:
    first = gateway.decide(make_request())
    gateway.label(first.decision_id, "failure")
    gateway.ledger.erase(learned(gateway.ledger)[0], "by mistake")
    assert gateway.decide(make_request()).verdict == "TRUST"
    gateway.label(first.decision_id, "failure")
    assert gateway.decide(make_request()).verdict == "ESCALATE"


def test_erasing_the_last_one_brings_back_the_one_before(gateway: Gateway, make_request: Make) -> None:
    first = gateway.decide(make_request())
    for label in ("failure", "near_miss", "success"):
        gateway.label(first.decision_id, label)
        gateway.decide(make_request())
    failure, near_miss, success = learned(gateway.ledger)
    for seq, left in ((success, ["near_miss"]), (near_miss, ["failure"]), (failure, [])):
        gateway.ledger.erase(seq, "taken back")
        for one in (gateway, Gateway(gateway.ledger, STARTER)):
            assert [label for label, _ in labels_found(one.decide(make_request()))] == left
    assert replay_ledger(gateway.ledger).diverged == 0


def test_labels_of_older_ledgers_are_all_replaced(
    gateway: Gateway, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that stood side by side: saying the last again is no repetition, for the other still counted."""
    record = gateway.ledger.record

    def record_as_before(new: Sequence[NewEvent], **settings: Any) -> Any:
        for event in new:
            if event.kind == events.MEMORY_ADDED:
                event.body = msgspec.to_builtins(event.body)
                del event.body["replaces_earlier"]
        return record(new, **settings)

    first = gateway.decide(make_request())
    with monkeypatch.context() as before:
        before.setattr(gateway.ledger, "record", record_as_before)
        for label in ("failure", "success"):
            gateway.label(first.decision_id, label)
    assert len(labels_found(gateway.decide(make_request()))) == 2
    gateway.label(first.decision_id, "success")
    assert labels_found(gateway.decide(make_request())) == [("success", "")]
    assert replay_ledger(gateway.ledger).diverged == 0


def test_a_label_of_many_threads_is_said_once(tmp_path: Path, make_request: Make) -> None:
    path = tmp_path / "shared.tally"
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        record = Gateway(ledger, STARTER).decide(make_request())
        entries: list[LogEntry | None] = []

        def label() -> None:
            with Ledger.open(path, durability=Durability.PROCESS) as own:
                entries.append(Gateway(own, STARTER).label(record.decision_id, "failure", "lost"))

        threads = [threading.Thread(target=label) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(entries) == 6
        assert len({entry.event_id for entry in entries if entry is not None}) == 1
        assert len(learned(ledger)) == 1


def test_a_pack_holds_the_memory_as_it_was(gateway: Gateway, make_request: Make) -> None:
    first = gateway.decide(make_request())
    gateway.label(first.decision_id, "failure", "lost")
    escalated = gateway.decide(make_request())
    gateway.label(first.decision_id, "success", "found")
    trusted = gateway.decide(make_request())
    for record, label in ((escalated, "failure"), (trusted, "success")):
        pack = collect(gateway.ledger, record.decision_id)
        bodies = [
            msgspec.json.decode(row.body or b"") for row in pack.rows if row.kind == events.MEMORY_ADDED
        ]
        assert [body["label"] for body in bodies] == [label]
        assert replay_pack(pack).diverged == 0


# -- any sequence, against a plain model ---------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("decide"), st.integers(0, 2), st.just("")),
        st.tuples(st.just("label"), st.integers(0, 4), st.sampled_from(["failure", "success", "near_miss"])),
        st.tuples(st.just("erase"), st.integers(0, 9), st.just("")),
        st.tuples(st.just("note"), st.integers(0, 4), st.just("")),
    ),
    max_size=25,
)


def weight(tokens: Iterable[str]) -> int:
    return sum(map(STARTER.weigh, tokens))


class Model:
    """What is remembered: for each decision the items that were learned, the last one in force."""

    def __init__(self) -> None:
        self.items: list[tuple[int, str, str, tuple[str, ...]]] = []
        self.last: dict[str, Any] = {}

    def label(self, seq: int, decision_id: str, label: str, tokens: tuple[str, ...]) -> bool:
        """Whether it says anything new: the item learned last may say so already, and still be there."""
        last = self.last.get(decision_id)
        if last in self.items and last[2] == label:
            return False
        self.last[decision_id] = (seq, decision_id, label, tokens)
        self.items.append(self.last[decision_id])
        return True

    def in_force(self) -> dict[str, str]:
        return {decision_id: label for _, decision_id, label, _ in self.items}

    def failures(self) -> list[tuple[str, ...]]:
        last = {decision_id: (label, tokens) for _, decision_id, label, tokens in self.items}
        return [tokens for label, tokens in last.values() if label == "failure"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
def test_any_sequence_of_labels_gives_what_a_plain_model_says(make_request: Make, steps: list[Any]) -> None:
    with Ledger.over(MemoryStore()) as ledger:
        gateway, model = Gateway(ledger, STARTER), Model()
        decided: list[tuple[str, tuple[str, ...]]] = []
        for what, which, label in steps:
            if what == "decide":
                record = gateway.decide(make_request(action={"tags": [f"t{which}"]}))
                assert record.receipt is not None
                tokens = tuple(ledger.get(record.receipt.seq).body["derived"]["features"]["tokens"])
                decided.append((record.decision_id, tokens))
                scores = [
                    weight({*tokens} & {*each}) / weight({*tokens} | {*each}) for each in model.failures()
                ]
                assert record.risk_signals.failure_similarity.score == max(scores, default=0)
            elif what == "erase" and model.items:
                gone = model.items.pop(which % len(model.items))
                ledger.erase(gone[0], "forgotten")
            elif what == "label" and decided:
                decision_id, tokens = decided[which % len(decided)]
                before = ledger.head().seq
                entry = gateway.label(decision_id, label)
                is_new = model.label(before + 2, decision_id, label, tokens)
                assert (ledger.head().seq - before, entry.data["label"]) == (2 * is_new, label)
            elif what == "note" and decided:
                gateway.add_event(decided[which % len(decided)][0], "note", {"n": which})
        rows = views_of(ledger).rows("SELECT decision_id, label FROM memory_items WHERE replaced_by IS NULL")
        assert {row["decision_id"]: row["label"] for row in rows} == model.in_force()
        assert len(rows) == len(model.in_force())
        assert replay_ledger(ledger).diverged == 0
