"""Erasing a body: the chain verifies, and no trace stays in the file or in any file beside it."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from attacker import tamper
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_tests import examples

from tallystick import (
    Durability,
    InvalidEvent,
    KeyConflict,
    Ledger,
    MemoryStore,
    NoSuchEvent,
    NotErasable,
    TracesRemain,
    Verdict,
)

Open = Callable[..., Ledger]


def secret(size: int, seed: int = 0) -> str:
    """Random hex: any 32 characters of it are found nowhere else."""
    return random.Random(f"{size} {seed}").randbytes(size // 2 + 1).hex()[:size]


def needles(ledger: Ledger, seq: int) -> list[bytes]:
    """What would give an event's body away: its salt, and windows of its text."""
    (row,) = ledger._store.read(seq - 1, before=seq + 1)
    assert row.salt is not None and row.body is not None
    found = [row.salt]
    if len(row.body) >= 32:
        step = max(1, len(row.body) // 60)
        found += [row.body[at : at + 32] for at in range(0, len(row.body) - 31, step)]
    return found


def traces(folder: Path, needles: list[bytes]) -> list[tuple[str, bytes]]:
    """The needles found in the bytes of the folder's files."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return [(name, needle) for name, data in files.items() for needle in needles if needle in data]


# ---- what an erasure is ----


def test_an_erased_event(ledger: Ledger) -> None:
    before = [ledger.append("a.b", {"secret": 1}, stream="s", key="k", meta={"x": 1}), ledger.append("a.b")]
    event = ledger.get(2)
    receipt = ledger.erase(2, "asked to")
    erased = ledger.get(2)
    assert (erased.body, erased.erased) == (None, True)
    for field in ("seq", "at", "kind", "stream", "key", "meta", "body_hash", "prev_hash", "hash"):
        assert getattr(erased, field) == getattr(event, field)
    record = ledger.get(receipt.seq)
    assert (record.seq, record.hash, record.at) == (4, receipt.hash, receipt.at)
    assert (record.kind, record.stream) == ("ledger.body_erased", "ledger")
    assert record.body == {"v": 1, "seq": 2, "body_hash": event.body_hash.hex(), "reason": "asked to"}
    assert ledger.get(3).hash == before[1].hash
    report = ledger.verify(ledger.head())
    assert (report.verdict, report.erased) == (Verdict.VERIFIED, 1)


def test_erasing_again_appends_nothing(ledger: Ledger) -> None:
    ledger.append_many([{"kind": "a.b", "body": n} for n in range(3)])
    first, other = ledger.erase(3, "one"), ledger.erase(2, "two")
    assert ledger.erase(3, "again") == first
    assert ledger.erase(2, "again") == other
    assert ledger.head().seq == 6


@pytest.mark.parametrize("seq", [0, -1, 3, 2**80])
def test_there_must_be_something_to_erase(ledger: Ledger, seq: int) -> None:
    ledger.append("a.b")
    with pytest.raises(NoSuchEvent, match="the ledger holds 1 to 2"):
        ledger.erase(seq, "why")


def test_the_ledgers_own_events_stay(ledger: Ledger) -> None:
    ledger.append("a.b")
    ledger.erase(2, "why")
    for seq, kind in ((1, "ledger.created"), (3, "ledger.body_erased")):
        with pytest.raises(NotErasable, match=f"{kind} events are part of the proof") as caught:
            ledger.erase(seq, "why")
        assert caught.value.seq == seq
    assert ledger.head().seq == 3


@pytest.mark.parametrize("reason", ["", "  \n", None, 5], ids=repr)
def test_a_reason_is_given(ledger: Ledger, reason: Any) -> None:
    ledger.append("a.b")
    with pytest.raises(InvalidEvent, match="must not be empty; say why the body has to go") as caught:
        ledger.erase(2, reason)
    assert caught.value.path == "reason"
    assert not ledger.get(2).erased


def test_a_key_of_an_erased_event_cannot_be_retried(ledger: Ledger) -> None:
    ledger.append("a.b", "secret", key="k")
    ledger.erase(2, "why")
    with pytest.raises(KeyConflict, match="erased since, so it cannot be compared") as caught:
        ledger.append("a.b", "secret", key="k")
    assert (caught.value.key, caught.value.seq) == ("k", 2)
    assert (caught.value.difference, caught.value.erased) == ("body", True)
    assert "another" not in str(caught.value)
    with pytest.raises(KeyConflict, match="key 'k' was used by event 2 with another kind;") as caught:
        ledger.append("a.c", "secret", key="k")
    assert (caught.value.difference, caught.value.erased) == ("kind", False)
    with pytest.raises(KeyConflict, match="with another stream;"):
        ledger.append("a.b", "secret", stream="s", key="k")
    assert ledger.head().seq == 3


def test_erasing_in_memory() -> None:
    ledger = Ledger.over(MemoryStore())
    ledger.append("a.b", "secret")
    receipt = ledger.erase(2, "why")
    assert ledger.erase(2, "why") == receipt
    assert ledger.get(2).erased
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_erased_events_stay_in_every_read(ledger: Ledger) -> None:
    for n in range(4):
        ledger.append("a.b", n, stream=f"s{n % 2}")
    ledger.erase(3, "why")
    assert [event.seq for event in ledger.read(stream="s1")] == [3, 5]
    assert [event.erased for event in ledger.read(1, kinds=["a.*"])] == [False, True, False, False]


# ---- no trace ----

SIZES = [1, 30, 100, 1000, 4000, 7900, 8100, 8200, 9000, 16_500, 100_000, 900_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("when", ["in the log", "in the file", "opened again"])
def test_no_trace_is_left(open_ledger: Open, tmp_path: Path, size: int, when: str) -> None:
    ledger = open_ledger()
    ledger.append_many([{"kind": "a.b", "body": secret(500, n)} for n in range(10)])
    receipt = ledger.append("a.b", secret(size))
    if when != "in the log":
        ledger.append_many([{"kind": "a.b", "body": secret(500, n)} for n in range(20)])
        ledger.close()
        ledger = open_ledger()
        if when == "in the file":
            ledger.append("a.b")
    found = needles(ledger, receipt.seq)
    assert traces(tmp_path, found)  # so that they would be found
    ledger.erase(receipt.seq, "why")
    assert traces(tmp_path, found) == []
    ledger.append("a.b", secret(size, 2))
    assert traces(tmp_path, found) == []
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
    ledger.close()
    assert traces(tmp_path, found) == []


@pytest.mark.parametrize("size", [300, 2500, 20_000])
@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_many_erased_in_sequence(open_ledger: Open, tmp_path: Path, size: int, order: str) -> None:
    """First, middle and last rows of their pages, pages emptied and joined with others."""
    ledger = open_ledger()
    ledger.append_many([{"kind": "a.b", "body": secret(size, n), "stream": f"s{n}"} for n in range(40)])
    seqs = list(range(2, 42))
    if order == "descending":
        seqs.reverse()
    elif order == "shuffled":
        random.Random(size).shuffle(seqs)
    secrets = {seq: needles(ledger, seq)[::8] for seq in seqs}  # from all over the body
    gone: list[bytes] = []
    for number, seq in enumerate(seqs):
        ledger.erase(seq, "why")
        gone += secrets[seq]
        if number % 5 == 4:
            assert traces(tmp_path, gone) == []
    report = ledger.verify(ledger.head())
    assert (report.verdict, report.erased) == (Verdict.VERIFIED, 40)
    assert not [event.seq for event in ledger.read(1, before=42) if not event.erased]


BODY_SIZES = [20, 200, 1500, 3000, 9000, 30_000]
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"), st.sampled_from([20, 200, 1500, 3000, 9000, 30_000]), st.integers(1, 12)
        ),
        st.tuples(st.just("erase"), st.integers(0, 200), st.integers(0, 1)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
    ),
    min_size=4,
    max_size=12,
)


@given(steps)
@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_trace_is_left_whatever_came_before(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("erase")
    ledger = Ledger.open(folder / "a.tally", durability=Durability.PROCESS)
    gone: list[bytes] = []
    try:
        for number, (step, first, second) in enumerate([("append", 3000, 8), *steps]):
            if step == "append":
                ledger.append_many(
                    {"kind": "a.b", "body": secret(first, number * 100 + n)} for n in range(second)
                )
            elif step == "reopen":
                ledger.close()
                ledger = Ledger.open(folder / "a.tally", durability=Durability.PROCESS)
            else:
                left = [event.seq for event in ledger.read(kinds=["a.b"]) if not event.erased]
                if left:
                    seq = left[first % len(left)]
                    gone += needles(ledger, seq)[:30]
                    ledger.erase(seq, "why")
                    assert traces(folder, gone) == []
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
    finally:
        ledger.close()
    assert traces(folder, gone) == []


# ---- with others at the file ----


def test_a_reader_that_keeps_old_pages(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger(timeout_s=0.05)
    ledger.append("a.b", secret(3000))
    found = needles(ledger, 2)
    con = apsw.Connection(str(tmp_path / "a.tally"))
    con.execute("BEGIN")
    assert con.execute("SELECT count(*) FROM events").get == 2
    with pytest.raises(TracesRemain, match="close other readers and erase the same event again") as caught:
        ledger.erase(2, "why")
    assert (caught.value.seqs, caught.value.path) == ((2,), str(tmp_path / "a.tally"))
    assert ledger.get(2).erased
    assert ledger.head().seq == 3
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
    with pytest.raises(TracesRemain):
        ledger.erase(2, "still there")
    assert ledger.append("a.b").seq == 4
    con.execute("ROLLBACK")
    record = ledger.erase(2, "again")
    assert (record.seq, record.hash) == (3, ledger.get(3).hash)
    assert traces(tmp_path, found) == []
    assert ledger.head().seq == 4
    con.close()


class BrokenCheckpoint:
    """A connection whose checkpoint fails."""

    def __init__(self, con: apsw.Connection, error: apsw.Error) -> None:
        self._con, self._error = con, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)

    def execute(self, sql: str, *arguments: Any) -> Any:
        if "wal_checkpoint" in sql:
            raise self._error
        return self._con.execute(sql, *arguments)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (apsw.FullError("database or disk is full"), "the disk is full); free some space and erase the same"),
        (apsw.IOError("disk I/O error"), "disk I/O error); see `tally doctor` and erase the same"),
    ],
    ids=["full", "input/output error"],
)
def test_a_disk_that_fails_while_scrubbing(ledger: Ledger, error: apsw.Error, said: str) -> None:
    """The erasure is stored by then: whoever is told that nothing was would tell others so."""
    ledger.append("a.b", secret(3000))
    store: Any = ledger._store
    con = store._writer
    store._writer = BrokenCheckpoint(con, error)
    with pytest.raises(TracesRemain, match=re.escape(said)) as caught:
        ledger.erase(2, "why")
    assert caught.value.seqs == (2,) and "nothing was stored" not in str(caught.value)
    assert ledger.get(2).erased
    store._writer = con
    assert ledger.erase(2, "why").seq == 3


OTHER = """
import sys
from tallystick import Durability, Ledger

with Ledger.open(sys.argv[1], durability=Durability.PROCESS) as ledger:
    for line in sys.stdin:
        if line == "append\\n":
            ledger.append("a.b", "theirs")
        print(len([event.erased for event in ledger.read()]), ledger.get(2).erased, flush=True)
"""


def test_with_another_process_at_the_ledger(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger()
    ledger.append_many([{"kind": "a.b", "body": secret(3000, n)} for n in range(10)])
    secrets = {seq: needles(ledger, seq) for seq in (2, 5)}
    command = [sys.executable, "-c", OTHER, str(tmp_path / "a.tally")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None

        def ask(what: str) -> str:
            assert other.stdin is not None and other.stdout is not None
            other.stdin.write(f"{what}\n")
            other.stdin.flush()
            return other.stdout.readline().strip()

        assert ask("append") == "12 False"
        ledger.erase(2, "why")
        assert traces(tmp_path, secrets[2]) == []
        assert ask("look") == "13 True"
        assert ask("append") == "14 True"
        ledger.erase(5, "why")
        assert traces(tmp_path, secrets[2] + secrets[5]) == []
        assert ask("append") == "16 True"
        other.stdin.close()
        assert other.wait(30) == 0
    assert traces(tmp_path, secrets[2] + secrets[5]) == []
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_a_second_handle_sees_the_erasure(open_ledger: Open, tmp_path: Path) -> None:
    first, second = open_ledger(), open_ledger()
    first.append("a.b", secret(3000))
    assert second.get(2).body == secret(3000)
    found = needles(first, 2)
    receipt = second.erase(2, "why")
    assert first.get(2).erased
    assert first.erase(2, "why") == receipt
    assert traces(tmp_path, found) == []


def test_an_altered_body_is_not_erased(tmp_path: Path) -> None:
    """Erasing it would remove what shows that it was altered."""
    path = tmp_path / "agents.tally"
    with Ledger.open(path) as ledger:
        seq = ledger.append("order.shipped", {"order": 81}).seq
    tamper(path, ("UPDATE events SET body = ? WHERE seq = ?", (b'{"order":82}', seq)))
    with Ledger.open(path) as ledger:
        with pytest.raises(NotErasable, match="altered"):
            ledger.erase(seq, "to hide it")
        assert ledger.get(seq).body == {"order": 82}
        finding = ledger.verify().finding
    assert finding is not None and (finding.seq, finding.problem) == (seq, "edited")
