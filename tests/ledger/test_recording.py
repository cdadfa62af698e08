"""How recorders write: reserved kinds, results handed back on failure, batches, erasing many at once."""

import asyncio
import contextvars
import threading
from collections.abc import Callable

import pytest
from wrapped_stores import FullStore

from tallystick import (
    AsyncLedger,
    BodyTooLarge,
    Ledger,
    MemoryStore,
    NewEvent,
    NotCanonical,
    NotErasable,
    PositionConflict,
    RecordingFailed,
    Unavailable,
)
from tallystick.ledger import canonical

OpenLedger = Callable[..., Ledger]


def event(number: int, stream: str = "main") -> NewEvent:
    return NewEvent(kind="kernel.executed", body={"number": number}, stream=stream)


def test_a_recorder_writes_reserved_kinds_in_one_commit(ledger: Ledger) -> None:
    receipts = ledger.record([event(1), event(2)])
    assert receipts is not None
    assert [receipt.seq for receipt in receipts] == [2, 3]
    assert [read.kind for read in ledger.read(1)] == ["kernel.executed"] * 2
    assert ledger.verify().finding is None


def test_an_app_s_body_limit_does_not_hold_for_recorders(open_ledger: OpenLedger) -> None:
    ledger = open_ledger(max_body_bytes=100)
    ledger.record([NewEvent(kind="kernel.executed", body={"output": "x" * 1000})])
    assert len(ledger.get(2).body["output"]) == 1000


def test_context_meta_key_and_position_hold_for_recorders(ledger: Ledger) -> None:
    keyed = NewEvent(kind="session.started", body={"id": "a"}, stream="session:a", key="k", meta={"a": "b"})
    with ledger.context(actor="bot"):
        first = ledger.record([keyed], expect=("session:a", 0))
    assert ledger.get(2).meta == {"actor": "bot", "a": "b"}
    assert ledger.record([keyed]) == first
    with pytest.raises(PositionConflict):
        ledger.record([event(1, "session:a")], expect=("session:a", 0))


def test_a_failure_hands_the_result_back() -> None:
    store = FullStore()
    ledger = Ledger.over(store)
    store.full = True
    with pytest.raises(Unavailable):
        ledger.record([event(1)])
    with pytest.raises(RecordingFailed, match="is full") as caught:
        ledger.record([event(1)], result="the trace")
    assert caught.value.result == "the trace"
    assert isinstance(caught.value.__cause__, Unavailable)
    ledger.close()
    with pytest.raises(RecordingFailed, match="closed"):
        ledger.record([event(1)], result="the trace")


def test_a_batch_commits_by_chunks_and_at_its_end(ledger: Ledger) -> None:
    with ledger.batch(chunk=3) as batch:
        assert ledger.record([event(1)]) is None
        assert ledger.record([event(2)]) is None
        assert ledger.head().seq == 1
        ledger.record([event(3)])
        assert ledger.head().seq == 4
        ledger.record([event(4)])
        assert ledger.head().seq == 4
        batch.flush()
        assert ledger.head().seq == 5
        ledger.record([event(5)])
    assert [read.body["number"] for read in ledger.read(1)] == [1, 2, 3, 4, 5]


def test_a_batch_stores_the_rest_when_its_block_raises(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.batch():
        ledger.record([event(1)])
        1 / 0  # noqa: B018
    assert ledger.head().seq == 2


def test_in_a_batch_an_expected_position_is_answered_at_once_and_in_order(ledger: Ledger) -> None:
    with ledger.batch():
        ledger.record([event(1, "s")])
        receipts = ledger.record([event(2, "s")], expect=("s", 2))
        assert receipts is not None
        assert receipts[0].seq == 3
        with pytest.raises(PositionConflict):
            ledger.record([event(3, "s")], expect=("s", 2))


def test_a_batch_in_a_batch_is_the_same_and_is_stored_at_the_end_of_either(ledger: Ledger) -> None:
    with ledger.batch() as outer:
        ledger.record([event(1)])
        with ledger.batch() as inner:
            assert inner is outer
            ledger.record([event(2)])
        assert ledger.head().seq == 3
        ledger.record([event(3)])
        assert ledger.head().seq == 3


def test_batches_of_two_ledgers_are_apart(open_ledger: OpenLedger) -> None:
    one, two = open_ledger("one.tally"), open_ledger("two.tally")
    with one.batch():
        two.record([event(1)])
        one.record([event(1)])
        assert (one.head().seq, two.head().seq) == (1, 2)


def test_what_outlives_a_batch_commits_at_once(ledger: Ledger) -> None:
    with ledger.batch():
        inside = contextvars.copy_context()
    assert inside.run(ledger.record, [event(1)]) is not None
    assert ledger.head().seq == 2


def test_threads_may_share_a_batch(ledger: Ledger) -> None:
    with ledger.batch(chunk=7):
        threads = [
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(lambda t=t: [ledger.record([event(n, f"t{t}")]) for n in range(50)],),
            )
            for t in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for t in range(4):
        assert [read.body["number"] for read in ledger.read(stream=f"t{t}")] == list(range(50))


def test_a_failed_chunk_hands_back_every_result_in_it() -> None:
    store = FullStore()
    ledger = Ledger.over(store)
    with pytest.raises(RecordingFailed, match="2 calls") as caught, ledger.batch():
        ledger.record([event(1)], result="first")
        store.full = True
        ledger.record([event(2)], result="second")
    assert caught.value.results == ("first", "second")
    store.full = False
    assert ledger.record([event(3)]) is not None  # nothing of the lost chunk comes later
    assert [read.body["number"] for read in ledger.read(1)] == [3]


def test_async_recording(tmp_path: pytest.TempPathFactory) -> None:
    async def run() -> None:
        store = FullStore()
        async with AsyncLedger(Ledger.over(store)) as ledger:
            receipts = await asyncio.gather(*(ledger.record([event(n)]) for n in range(20)))
            assert {receipt.seq for [receipt] in receipts} == set(range(2, 22))
            store.full = True
            with pytest.raises(RecordingFailed) as caught:
                await ledger.record([event(1)], result="trace")
            assert caught.value.result == "trace"

    asyncio.run(run())


@pytest.mark.parametrize("memory", [True, False])
def test_erasing_many_is_one_transaction_with_its_record(memory: bool, open_ledger: OpenLedger) -> None:
    ledger = Ledger.over(MemoryStore()) if memory else open_ledger()
    ledger.append_many([{"kind": "app.noted", "body": n} for n in range(5)])
    once = ledger.erase(3, "law")
    about = NewEvent(kind="session.expired", body={"erased": 3}, stream="session:a")
    receipts = ledger.erase_many([2, 3, 4, 2], "retention", record=[about])
    assert [receipt.seq for receipt in receipts] == [8, once.seq, 9]
    assert [read.seq for read in ledger.read() if read.erased] == [2, 3, 4]
    assert ledger.get(10).kind == "session.expired"
    assert ledger.verify().finding is None
    before = ledger.head()
    with pytest.raises(NotErasable):
        ledger.erase_many([5, 1], "no")
    assert (ledger.head(), ledger.get(5).erased) == (before, False)
    ledger.erase_many([2], "again", record=[about])
    assert ledger.head().seq == before.seq + 1
    assert ledger.verify().finding is None


def test_a_recorder_may_hand_over_canonical_bytes(open_ledger: OpenLedger) -> None:
    ledger = open_ledger(max_body_bytes=100)
    data = canonical.encode({"b": 1, "a": [None]})
    ledger.record([NewEvent(kind="kernel.executed", body=canonical.Encoded(data))])
    assert next(ledger.rows(1)).body == data
    with pytest.raises(BodyTooLarge):
        ledger.record([NewEvent(kind="kernel.executed", body=canonical.Encoded(b'"' + b"x" * 2**20 + b'"'))])


def test_an_app_may_not(ledger: Ledger) -> None:
    with pytest.raises(NotCanonical):
        ledger.append("app.noted", canonical.Encoded(b'{"b":1,"a":2}'))
