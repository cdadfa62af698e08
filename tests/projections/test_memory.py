"""D8: memory is read from the ledger as of any head, exactly, whoever wrote it and in whatever batches."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import Head, Ledger, MemoryStore, NewEvent
from tallystick.events import gateway as events
from tallystick.projections import memory as module
from tallystick.projections.memory import Memory, MemoryBroken, MemoryTooLarge, Remembered, memory_of
from tallystick.projections.similarity import top_matches

TENANTS = st.sampled_from([None, "a", "b", "b:x.y"])
ACTIONS = st.sampled_from(["x.y", "x.z"])
TOKENS = st.lists(st.sampled_from([f"{key}={value}" for key in "abcd" for value in range(3)]), max_size=5)
LABELS = st.sampled_from(["failure", "success", "near_miss"])
ITEMS = st.tuples(TENANTS, ACTIONS, LABELS, TOKENS, st.sampled_from("123"), st.booleans())


def added(item: tuple[str | None, str, str, list[str], str, bool]) -> NewEvent:
    tenant_id, action_type, label, tokens, decision, replaces_earlier = item
    body = events.MemoryAdded(
        decision_id=f"dec_{decision}",
        decision_seq=1,
        tenant_id=tenant_id,
        action_type=action_type,
        label=label,
        summary=f"{tenant_id} {action_type}",
        tokens=tokens,
        replaces_earlier=replaces_earlier,
    )
    return NewEvent(kind="memory.added", body=body, stream=events.memory_stream(tenant_id, action_type))


def weigh(token: str) -> int:
    return 3 if token.startswith("b") else 1


def recall(memory: Memory, tenant: str | None, action: str, question: list[str], head: Head) -> Remembered:
    return memory.recall(tenant, action, question, head, weigh=weigh, weights="b")


def by_looking_at_all(
    ledger: Ledger, tenant: str | None, action: str, question: list[str], seq: int
) -> tuple[list[str], str | None]:
    """The ids that every event up to a seq gives, and the best failure, without an index."""
    bodies = {
        event.seq: event.body
        for event in ledger.read(before=seq + 1, kinds=["memory.added"])
        if not event.erased and (event.body["tenant_id"], event.body["action_type"]) == (tenant, action)
    }
    for s, body in list(bodies.items()):
        if body["replaces_earlier"]:
            for earlier in [e for e in bodies if e < s and bodies[e]["decision_id"] == body["decision_id"]]:
                del bodies[earlier]
    found = top_matches(question, [(s, body["tokens"]) for s, body in bodies.items()], weigh)
    failures = [(s, body["tokens"]) for s, body in bodies.items() if body["label"] == "failure"]
    worst = top_matches(question, failures, weigh, 1)
    return [events.memory_id(s.item) for s in found], events.memory_id(worst[0].item) if worst else None


@given(st.lists(st.lists(ITEMS, max_size=8), max_size=6), TOKENS, st.data())
def test_recalling_gives_what_looking_at_everything_gives_as_of_any_head(
    batches: list[list[Any]], question: list[str], data: st.DataObject
) -> None:
    with Ledger.over(MemoryStore()) as ledger:
        memory = memory_of(ledger)
        for batch in batches:
            if batch:
                ledger.record([added(item) for item in batch])
            head = ledger.head()
            items = [event.seq for event in ledger.read(kinds=["memory.added"])]
            if items and data.draw(st.booleans()):
                ledger.erase(data.draw(st.sampled_from(items)), "forgotten")
            for at in (ledger.head().seq, data.draw(st.integers(1, head.seq))):
                tenant, action = data.draw(TENANTS), data.draw(ACTIONS)
                found = recall(memory, tenant, action, question, Head(at, b""))
                expected = by_looking_at_all(ledger, tenant, action, question, at)
                failure = found.failure.memory_id if found.failure else None
                assert ([match.memory_id for match in found.top_k], failure) == expected
                assert recall(Memory(ledger), tenant, action, question, Head(at, b"")) == found


def test_items_of_older_ledgers_keep_their_meaning() -> None:
    """A body without `replaces_earlier` stands beside the others of its decision, as it did when it came."""
    with Ledger.over(MemoryStore()) as ledger:
        items = [added((None, "x.y", label, ["a=1"], "1", False)) for label in ("failure", "success")]
        for item in items:
            body = msgspec.to_builtins(item.body)
            del body["replaces_earlier"]
            ledger.record([NewEvent(kind=item.kind, body=body, stream=item.stream)])
        found = recall(memory_of(ledger), None, "x.y", ["a=1"], ledger.head())
        assert [match.label for match in found.top_k] == ["failure", "success"]
        ledger.record([added((None, "x.y", "near_miss", ["a=1"], "1", True))])
        found = recall(memory_of(ledger), None, "x.y", ["a=1"], ledger.head())
        assert ([match.label for match in found.top_k], found.failure) == (["near_miss"], None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tenant_id": "b"}, "does not belong"),
        ({"action_type": "x.z"}, "does not belong"),
        ({"tokens": [1]}, "not as expected"),
        ({"label": None}, "not as expected"),
    ],
)
def test_an_item_that_is_not_as_it_should_be_is_an_error_every_time(
    change: dict[str, Any], problem: str
) -> None:
    with Ledger.over(MemoryStore()) as ledger:
        item = added(("a", "x.y", "failure", ["a=1"], "1", False))
        body = {name: getattr(item.body, name) for name in item.body.__struct_fields__}
        ledger.record([item, NewEvent(kind=item.kind, body={**body, **change}, stream=item.stream)])
        for _ in range(2):
            with pytest.raises(MemoryBroken, match=problem) as caught:
                recall(memory_of(ledger), "a", "x.y", ["a=1"], ledger.head())
            assert caught.value.seq == 3


def test_only_so_many_tenants_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUCKETS_MAX", 2)
    with Ledger.over(MemoryStore()) as ledger:
        ledger.record([added((tenant, "x.y", "failure", ["a=1"], "1", False)) for tenant in "abcd"])
        memory = memory_of(ledger)
        for tenant in "abcdabcd":
            assert recall(memory, tenant, "x.y", ["a=1"], ledger.head()).failure is not None
        assert len(memory._buckets) == 2


def test_closing_a_ledger_lets_its_memory_go() -> None:
    ledger = Ledger.over(MemoryStore())
    ledger.record([added((None, "x.y", "failure", ["a=1"], "1", False))])
    memory = memory_of(ledger)
    assert memory is memory_of(ledger)
    recall(memory, None, "x.y", ["a=1"], ledger.head())
    ledger.close()
    assert not memory._buckets


def test_memory_with_a_bound_lets_go_and_finds_the_same_again() -> None:
    """Of tenants asked by turns, one at a time fits."""
    with Ledger.over(MemoryStore()) as ledger:
        tenants = ["a", "b", "c"]
        ledger.record(
            [added((t, "x.y", "failure", [f"a={n}"], "1", False)) for t in tenants for n in range(9)]
        )
        head, whole = ledger.head(), memory_of(ledger)
        expected = {tenant: recall(whole, tenant, "x.y", ["a=3"], head) for tenant in tenants}
        bounded = Memory(ledger, bytes_max=6000)
        for tenant in tenants * 2:
            assert recall(bounded, tenant, "x.y", ["a=3"], head) == expected[tenant]
            assert len(bounded._buckets) == 1


def test_more_than_may_be_held_is_an_error_and_leaves_the_others_alone() -> None:
    with Ledger.over(MemoryStore()) as ledger:
        ledger.record([added(("a", "x.y", "failure", [f"a={n}" for n in range(200)], "1", False))] * 3)
        ledger.record([added(("b", "x.y", "failure", ["a=1"], "1", False))])
        memory = Memory(ledger, bytes_max=30_000)
        for _ in range(2):
            with pytest.raises(MemoryTooLarge, match="memory:"):
                recall(memory, "a", "x.y", ["a=1"], ledger.head())
            assert recall(memory, "b", "x.y", ["a=1"], ledger.head()).failure is not None
        assert list(memory._buckets) == [("b", "x.y")]
