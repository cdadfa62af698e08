"""The suite that every store passes: each sentence of `tallystick.ledger.store` is shown here.

A new store adds one line to STORES.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import Closed, Conflict, Head, MemoryStore, Row, SQLiteStore, StoreError
from tallystick.ledger.chain import NO_HASH
from tallystick.ledger.store import Store

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: MemoryStore(),
    "sqlite": lambda folder: SQLiteStore(folder / "a.tally", timeout_s=5.0),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = STORES[request.param](tmp_path)
    yield store
    store.close()


def seqs(rows: Iterator[Row]) -> list[int]:
    return [row.seq for row in rows]


# ---- head and append ----


def test_an_empty_store(store: Store) -> None:
    assert store.head() == Head(0, NO_HASH)
    assert list(store.read()) == []
    assert list(store.read(reverse=True)) == []
    assert list(store.read_raw()) == []
    assert store.find_key("k") is None
    assert store.stream_head("main") == 0


def test_append_stores_what_build_makes_and_gives_the_new_head(store: Store, chained: Any) -> None:
    made: list[Row] = []

    def build(head: Head) -> list[Row]:
        assert head == Head(0, NO_HASH)
        made.extend(
            chained.rows(head, {"key": "k", "meta": b'{"actor":"x"}', "body": b"[1]"}, {"at": -5}, {})
        )
        return made

    head = store.append(build)
    assert head == store.head() == Head(3, made[-1].hash)
    assert list(store.read()) == made
    assert all(type(row) is Row for row in store.read())


def test_build_is_given_the_head_that_its_rows_must_follow(store: Store, chained: Any) -> None:
    heads = [store.append(chained.build({})) for _ in range(3)]
    given: list[Head] = []

    def build(head: Head) -> list[Row]:
        given.append(head)
        return chained.rows(head, {})

    store.append(build)
    assert given[-1] == heads[-1]


def test_an_append_of_no_rows_changes_nothing(store: Store, chained: Any) -> None:
    head = store.append(chained.build({}))
    assert store.append(lambda _: []) == head == store.head()


class Stop(Exception):
    pass


def test_a_build_that_raises_stores_nothing(store: Store, chained: Any) -> None:
    head = store.append(chained.build({}))

    def build(head: Head) -> list[Row]:
        chained.rows(head, {})
        raise Stop

    with pytest.raises(Stop):
        store.append(build)
    assert store.head() == head
    assert store.append(chained.build({})).seq == 2


def test_build_may_ask_the_store_which_answers_as_of_the_head(store: Store, chained: Any) -> None:
    store.append(chained.build({"stream": "s"}, {"stream": "t", "key": "k"}))
    asked: list[object] = []

    def build(head: Head) -> list[Row]:
        asked.append(store.stream_head("s"))
        asked.append(store.stream_head("none"))
        found = store.find_key("k")
        asked.append(found and found.seq)
        asked.append([row.seq for row in store.find_keys(["k", "none"]).values()])
        asked.append(seqs(store.read()))
        asked.append(seqs(store.read(reverse=True, limit=1)))
        return chained.rows(head, {"stream": "s"})

    store.append(build)
    assert asked == [1, 0, 2, [2], [1, 2], [2]]


WRONG: dict[str, Callable[[Row], Row]] = {
    "seq too high": lambda row: row._replace(seq=row.seq + 1),
    "seq in use": lambda row: row._replace(seq=row.seq - 1),
    "seq 1 again": lambda row: row._replace(seq=1),
    "another prev_hash": lambda row: row._replace(prev_hash=bytes(32)),
    "key in use": lambda row: row._replace(key="used"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("before", [0, 2])
def test_all_rows_or_none(store: Store, chained: Any, wrong: str, before: int) -> None:
    head = store.append(chained.build({"key": "used"}, {}))

    def build(head: Head) -> list[Row]:
        rows: list[Row] = chained.rows(head, *[{"key": f"new {n}"} for n in range(before + 1)])
        return [*rows[:-1], WRONG[wrong](rows[-1])]

    with pytest.raises(Conflict):
        store.append(build)
    assert store.head() == head
    assert seqs(store.read()) == [1, 2]
    assert store.find_key("new 0") is None
    assert store.append(chained.build({"key": "new 0"})).seq == 3


def test_a_key_twice_in_one_append_is_refused(store: Store, chained: Any) -> None:
    with pytest.raises(Conflict):
        store.append(chained.build({"key": "k"}, {"key": "k"}))
    assert store.head().seq == 0


def test_conflict_is_a_store_error() -> None:
    assert issubclass(Conflict, StoreError)


def test_the_head_is_never_stale(store: Store, chained: Any) -> None:
    for seq in range(1, 6):
        head = store.append(chained.build({}))
        seen: list[Head] = []
        thread = threading.Thread(target=lambda seen=seen: seen.append(store.head()))
        thread.start()
        thread.join()
        assert [head] == seen == [store.head()]
        assert head.seq == seq


def test_two_threads_appending_make_one_chain(store: Store, chained: Any) -> None:
    def work() -> None:
        for _ in range(30):
            store.append(chained.build({}, {}))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = list(store.read())
    assert [row.seq for row in rows] == list(range(1, 121))
    assert all(after.prev_hash == before.hash for before, after in itertools.pairwise(rows))


# ---- read ----

EVENTS = [
    {"stream": stream, "kind": kind, "key": f"key {n}" if n % 3 == 0 else None, "body": f"{n}".encode()}
    for n, (stream, kind) in enumerate(
        itertools.islice(
            itertools.cycle(
                itertools.product(
                    ("a", "b", "a:1", "ä"), ("order.placed", "order.shipped", "message.sent", "order.x.y")
                )
            ),
            40,
        )
    )
]


@pytest.fixture(scope="module", params=STORES)
def full(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, chained: Any
) -> Iterator[Any]:
    """A store of 40 rows, to be read only, and those rows in a list."""
    store = STORES[request.param](tmp_path_factory.mktemp("full"))
    store.append(chained.build(*EVENTS))
    yield store, list(store.read())
    store.close()


def matches(kind: str, pattern: str) -> bool:
    if pattern.endswith("*"):
        return kind.startswith(pattern[:-1])
    return kind == pattern


bounds = st.integers(-3, 45)


@given(
    after=bounds,
    before=st.none() | bounds,
    stream=st.none() | st.sampled_from(["a", "b", "a:1", "ä", "none", "*"]),
    kinds=st.none()
    | st.lists(
        st.sampled_from(["order.placed", "order.*", "message.*", "order.x.*", "*", "order", "Order.*"]),
        max_size=3,
    ),
    limit=st.none() | st.integers(0, 45),
    reverse=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_read_gives_what_was_asked_for(full: Any, **asked: Any) -> None:
    store, rows = full
    wanted = [
        row
        for row in rows
        if row.seq > asked["after"]
        and (asked["before"] is None or row.seq < asked["before"])
        and (asked["stream"] is None or row.stream == asked["stream"])
        and (asked["kinds"] is None or any(matches(row.kind, pattern) for pattern in asked["kinds"]))
    ]
    if asked["reverse"]:
        wanted.reverse()
    assert list(store.read(asked.pop("after"), **asked)) == wanted[: asked["limit"]]


@pytest.mark.parametrize(
    ("pattern", "kinds"),
    [
        ("order.?laced", {"order.placed"}),
        ("order.[ps]*", {"order.placed", "order.shipped"}),
        ("*.s*", {"order.shipped", "message.sent"}),
        ("order.%", set()),
        ("order_placed", set()),
        ("", set()),
    ],
)
def test_kinds_are_glob_patterns(full: Any, pattern: str, kinds: set[str]) -> None:
    assert {row.kind for row in full[0].read(kinds=[pattern])} == kinds


@pytest.mark.parametrize("seq", [2**62, 2**63 - 1, 2**63, 2**64, 2**200])
def test_bounds_beyond_any_seq(full: Any, seq: int) -> None:
    store, rows = full
    assert list(store.read(seq)) == []
    assert list(store.read(-seq)) == list(store.read(before=seq)) == rows
    assert list(store.read(before=-seq)) == []
    assert list(store.read(before=seq, reverse=True)) == rows[::-1]
    assert list(store.read_raw(seq)) == list(store.read_raw(None, -seq)) == []
    assert list(map(tuple, store.read_raw(-seq, seq))) == list(map(tuple, rows))


def test_a_limit_below_nothing_is_nothing(full: Any) -> None:
    assert list(full[0].read(limit=-1)) == list(full[0].read(limit=0, reverse=True)) == []


def test_rows_appended_meanwhile_are_part_of_an_unbounded_read(store: Store, chained: Any) -> None:
    """And a slow reader holds no lock: the append between two of its rows goes through."""
    store.append(chained.build(*[{}] * 1500))
    rows = store.read()
    before = [next(rows) for _ in range(500)]
    store.append(chained.build(*[{}] * 1000))
    assert seqs(iter([*before, *rows])) == list(range(1, 2501))


def test_rows_appended_meanwhile_are_no_part_of_a_read_in_reverse(store: Store, chained: Any) -> None:
    store.append(chained.build(*[{}] * 2500))
    rows = store.read(reverse=True)
    first = next(rows)
    store.append(chained.build({}))
    assert seqs(iter([first, *rows])) == list(range(2500, 0, -1))


@pytest.mark.parametrize("limit", [999, 1000, 1001, 2000, 2500, 3000])
@pytest.mark.parametrize("reverse", [False, True])
def test_limits_across_pages(store: Store, chained: Any, limit: int, reverse: bool) -> None:
    store.append(chained.build(*[{}] * 2500))
    every = list(range(1, 2501))[:: -1 if reverse else 1]
    assert seqs(store.read(limit=limit, reverse=reverse)) == every[:limit]


def test_large_bodies_come_whole_and_in_order(store: Store, chained: Any) -> None:
    bodies = [b'"%s"' % (bytes([65 + n]) * 900_000) for n in range(12)]  # some pages of bytes
    for body in bodies:
        store.append(chained.build({"body": body}))
    assert [row.body for row in store.read()] == bodies
    assert [row.body for row in store.read(reverse=True)] == bodies[::-1]
    assert [row[7] for row in store.read_raw()] == bodies


def test_read_raw_gives_the_columns_as_they_stand(full: Any) -> None:
    store, rows = full
    assert list(map(tuple, store.read_raw())) == list(map(tuple, rows))
    assert [row[0] for row in store.read_raw(38)] == [39, 40]
    assert [row[0] for row in store.read_raw(None, 3)] == [1, 2]
    assert [row[0] for row in store.read_raw(3, 6)] == [4, 5]


def test_find_key_and_stream_head(full: Any) -> None:
    store, rows = full
    for row in rows:
        if row.key is not None:
            assert store.find_key(row.key) == row
    for stream in ("a", "b", "a:1", "ä"):
        assert store.stream_head(stream) == max(row.seq for row in rows if row.stream == stream)
    assert store.find_key("key") is None
    assert store.stream_head("A") == 0


def test_find_keys_finds_what_find_key_does(full: Any) -> None:
    store, rows = full
    keyed = {row.key: row for row in rows if row.key is not None}
    assert store.find_keys([]) == store.find_keys(["key"]) == {}
    assert store.find_keys([*keyed, *(f"none {n}" for n in range(300)), *keyed]) == keyed


# ---- erase ----


def erasure(chained: Any, seq: int) -> Callable[[Head], list[Row]]:
    body = b'{"seq":%d}' % seq
    return chained.build({"kind": "ledger.body_erased", "stream": "ledger", "body": body})


def test_erase_appends_and_nulls_body_and_salt(store: Store, chained: Any) -> None:
    store.append(chained.build({"key": "k", "body": b'"secret"', "meta": b"{}"}, {"body": b'"stays"'}))
    before = list(store.read())
    head = store.erase([1], erasure(chained, 1))
    after = list(store.read())
    assert head == store.head() == Head(3, after[2].hash)
    assert after[0] == before[0]._replace(salt=None, body=None)
    assert after[1] == before[1]
    assert store.find_key("k") == after[0]


def test_an_erasure_whose_build_makes_no_rows_changes_nothing(store: Store, chained: Any) -> None:
    head = store.append(chained.build({}, {}))
    before = list(store.read())
    assert store.erase([1], lambda _: []) == head
    assert list(store.read()) == before


def test_an_erasure_whose_build_raises_changes_nothing(store: Store, chained: Any) -> None:
    store.append(chained.build({}, {}))
    before = list(store.read())

    def build(head: Head) -> list[Row]:
        raise Stop

    with pytest.raises(Stop):
        store.erase([1], build)
    assert list(store.read()) == before


def test_an_erasure_that_conflicts_changes_nothing(store: Store, chained: Any) -> None:
    store.append(chained.build({}, {}))
    before = list(store.read())
    with pytest.raises(Conflict):
        store.erase([1], lambda head: [erasure(chained, 1)(head)[0]._replace(seq=9)])
    assert list(store.read()) == before


def test_several_bodies_are_erased_in_one_step(store: Store, chained: Any) -> None:
    store.append(chained.build(*[{"body": b"%d" % n} for n in range(4)]))

    def build(head: Head) -> list[Row]:
        one = {"kind": "ledger.body_erased", "stream": "ledger"}
        return chained.rows(head, {**one, "body": b'{"seq":1}'}, {**one, "body": b'{"seq":3}'})

    store.erase([1, 3], build)
    assert [row.body for row in store.read(before=5)] == [None, b"1", None, b"3"]
    assert [row.salt is None for row in store.read(before=5)] == [True, False, True, False]


# ---- summary, engine, close ----


def test_the_summary_counts(store: Store, chained: Any) -> None:
    empty = store.summary()
    assert (empty["events"], empty["streams"], empty["erased"], empty["kinds"]) == (0, 0, 0, {})
    assert (empty["body_bytes"], empty["largest_body_bytes"]) == (0, 0)
    assert (empty["first_at"], empty["last_at"]) == (None, None)
    store.append(
        chained.build(
            {"stream": "a", "kind": "z.z", "body": b'"abc"', "at": 50},
            {"stream": "b", "kind": "a.a", "body": b"[]", "at": -7},
            {"stream": "a", "kind": "z.z", "body": b"1", "at": 9},
        )
    )
    store.erase([3], erasure(chained, 3))
    summary = store.summary()
    assert summary["events"] == 4
    assert summary["streams"] == 3
    assert summary["erased"] == 1
    assert summary["body_bytes"] == len(b'"abc"[]{"seq":3}')
    assert summary["largest_body_bytes"] == len(b'{"seq":3}')
    assert (summary["first_at"], summary["last_at"]) == (-7, 1003)
    assert list(summary["kinds"].items()) == [("z.z", 2), ("a.a", 1), ("ledger.body_erased", 1)]


def test_the_engine_names_itself(store: Store) -> None:
    engine = store.engine()
    assert isinstance(engine["name"], str)
    assert isinstance(engine["version"], str)
    assert isinstance(engine["pragmas"], dict)


def test_a_closed_store_cannot_be_used(store: Store, chained: Any) -> None:
    store.append(chained.build({"key": "k"}))
    store.close()
    store.close()
    uses: list[Callable[[], object]] = [
        store.head,
        lambda: store.append(chained.build({})),
        lambda: next(store.read()),
        lambda: next(iter(store.read_raw())),
        lambda: store.find_key("k"),
        lambda: store.find_keys(["k"]),
        lambda: store.stream_head("main"),
        lambda: store.erase([1], erasure(chained, 1)),
        store.summary,
    ]
    for use in uses:
        with pytest.raises(Closed):
            use()
