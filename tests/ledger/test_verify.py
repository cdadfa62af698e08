"""Verification: reports, anchors, spans, streams, progress, and processes that say the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from attacker import tamper

from tallystick import (
    BadHead,
    Durability,
    Finding,
    Head,
    InvalidEvent,
    Ledger,
    MemoryStore,
    NoSuchEvent,
    NotALedger,
    Problem,
    Report,
    SQLiteStore,
    Unavailable,
    Verdict,
)
from tallystick.ledger import walk as walk_module
from tallystick.ledger.headfile import head_path
from tallystick.ledger.verify import verify

Open = Callable[..., Ledger]


@pytest.fixture
def ten(ledger: Ledger) -> Ledger:
    """A ledger of ten events and an erasure: event 4 is erased, event 11 says so."""
    ledger.append_many([{"kind": "a.b", "body": n, "stream": f"s{n % 3}"} for n in range(9)])
    ledger.erase(4, "why")
    return ledger


# ---- the three words ----


def test_a_sound_log_with_an_anchor_at_its_end(ten: Ledger) -> None:
    report = ten.verify(ten.head())
    assert report == Report(
        verdict=Verdict.VERIFIED,
        events=11,
        first=1,
        last=11,
        head=ten.head(),
        anchored_to=11,
        erased=1,
        finding=None,
        scope="chain",
    )
    assert str(report) == (
        "VERIFIED 11 events: every hash derived again, and the end of the log is the one expected"
    )


def test_a_sound_log_without_an_anchor(ten: Ledger) -> None:
    report = ten.verify()
    assert (report.verdict, report.events, report.anchored_to) == (Verdict.UNANCHORED, 11, None)
    assert report.head == ten.head()
    assert str(report) == (
        "UNANCHORED 11 events: every hash derived again, but nothing outside the file says that its end "
        "is not missing"
    )


def test_an_anchor_earlier_than_the_end(ten: Ledger) -> None:
    head = ten.head()
    ten.append("a.b")
    report = ten.verify(head)
    assert (report.verdict, report.anchored_to, report.last) == (Verdict.UNANCHORED, 11, 12)
    assert str(report).endswith("but the anchor vouches for events 1 to 11 only")
    event = ten.get(5)
    assert ten.verify(Head(5, event.hash)).anchored_to == 5


def test_an_anchor_later_than_the_end(ten: Ledger) -> None:
    report = ten.verify(msgspec.structs.replace(ten.head(), seq=15))
    assert (report.verdict, report.anchored_to, report.head) == (Verdict.BROKEN, None, None)
    detail = "the log ends at event 11, but the expected head names event 15"
    assert report.finding == Finding(12, Problem.TRUNCATED, detail)
    assert str(report) == f"BROKEN at event 12: truncated: {detail}"


def test_an_anchor_that_names_another_event(ten: Ledger) -> None:
    for seq in (1, 5, 11):
        report = ten.verify(Head(seq, b"x" * 32))
        assert report.verdict is Verdict.BROKEN
        assert report.finding is not None
        assert (report.finding.seq, report.finding.problem) == (seq, Problem.EDITED)
        assert "the expected head names another event" in report.finding.detail


def test_an_anchor_of_another_ledger(ten: Ledger, open_ledger: Open) -> None:
    other = open_ledger("other.tally")
    for head in (other.head(), msgspec.structs.replace(ten.head(), ledger_id=b"x" * 16)):
        report = ten.verify(head)
        assert report.finding is not None
        assert (report.finding.seq, report.finding.problem) == (1, Problem.EDITED)
        assert "another ledger" in report.finding.detail


def test_an_anchor_without_a_ledger_id(ten: Ledger) -> None:
    head = ten.head()
    assert ten.verify(Head(head.seq, head.hash)).verdict is Verdict.VERIFIED


def test_one_event_is_no_plural(ledger: Ledger) -> None:
    assert str(ledger.verify()).startswith("UNANCHORED 1 event: ")


def test_large_counts_are_grouped() -> None:
    report = Report(
        verdict=Verdict.UNANCHORED,
        events=1_234_567,
        first=1,
        last=1_234_567,
        head=None,
        anchored_to=None,
        erased=0,
        finding=None,
        scope="chain",
    )
    assert str(report).startswith("UNANCHORED 1,234,567 events: ")


def test_an_empty_store_is_no_ledger() -> None:
    report = verify(MemoryStore())
    assert (report.verdict, report.events) == (Verdict.BROKEN, 0)
    assert report.finding is not None
    assert (report.finding.seq, report.finding.problem) == (1, Problem.MALFORMED)


# ---- the head file ----


def kept(tmp_path: Path, head: Head) -> None:
    head_path(tmp_path / "a.tally").write_text(f"{head}\n")


def test_the_kept_head_shows_that_the_end_is_missing_and_verifies_nothing(
    ten: Ledger, open_ledger: Open, tmp_path: Path
) -> None:
    head = ten.head()
    ten.close()
    reader = open_ledger(read_only=True)
    assert reader.verify().verdict is Verdict.UNANCHORED
    kept(tmp_path, msgspec.structs.replace(head, seq=12))
    for expect in (None, head):
        report = reader.verify(expect)
        assert report.verdict is Verdict.BROKEN
        assert report.finding == Finding(
            12, Problem.TRUNCATED, "the log ends at event 11, but the head file names event 12"
        )
    kept(tmp_path, Head(5, reader.get(5).hash, head.ledger_id))
    assert reader.verify().verdict is Verdict.UNANCHORED
    assert reader.verify().anchored_to is None
    head_path(tmp_path / "a.tally").unlink()
    assert reader.verify(head).verdict is Verdict.VERIFIED


def test_a_kept_head_that_cannot_be_read_is_no_pass(ten: Ledger, open_ledger: Open, tmp_path: Path) -> None:
    ten.close()
    head_path(tmp_path / "a.tally").write_text("gibberish")
    reader = open_ledger(read_only=True)
    with pytest.raises(Unavailable, match="cannot be read"):
        reader.verify()


# ---- a part of the log ----


@pytest.mark.parametrize(
    ("first", "last", "erased"), [(1, 11, 1), (1, 3, 0), (4, 4, 1), (3, 7, 1), (11, 11, 0)]
)
def test_a_span(ten: Ledger, first: int, last: int, erased: int) -> None:
    report = ten.verify(span=(first, last))
    assert report == Report(
        verdict=Verdict.UNANCHORED,
        events=last - first + 1,
        first=first,
        last=last,
        head=None,
        anchored_to=None,
        erased=erased,
        finding=None,
        scope=f"events {first} to {last}",
    )
    assert str(report).endswith(f"but the check covers events {first} to {last} only")


@pytest.mark.parametrize("span", [(0, 3), (-1, 3), (5, 4), (1, 0)])
def test_what_is_no_span(ten: Ledger, span: tuple[int, int]) -> None:
    with pytest.raises(InvalidEvent, match="is no span") as caught:
        ten.verify(span=span)
    assert caught.value.path == "span"


@pytest.mark.parametrize("span", [(1, 12), (11, 12), (12, 12), (13, 14), (1, 2**70), (2**70, 2**70)])
def test_a_span_beyond_the_end(ten: Ledger, span: tuple[int, int]) -> None:
    with pytest.raises(NoSuchEvent):
        ten.verify(span=span)


def test_a_stream(ten: Ledger) -> None:
    report = ten.verify(stream="s1")
    assert (report.verdict, report.scope) == (Verdict.UNANCHORED, "stream 's1'")
    assert (report.events, report.first, report.last, report.erased) == (3, 3, 9, 0)
    assert (report.head, report.anchored_to, report.finding) == (None, None, None)
    assert ten.verify(stream="s2").erased == 1
    assert ten.verify(stream="ledger").events == 2


def test_a_stream_that_is_not_there(ten: Ledger) -> None:
    """Nothing was checked, so nothing is said to be in order."""
    with pytest.raises(InvalidEvent, match="the ledger has no events in 'nope'") as caught:
        ten.verify(stream="nope")
    assert caught.value.path == "stream"


def test_an_expected_head_as_its_line(ten: Ledger) -> None:
    """A head that was kept elsewhere comes back as text."""
    assert ten.verify(f"{ten.head()}\n").verdict is Verdict.VERIFIED
    assert ten.verify("11:" + "0" * 64).verdict is Verdict.BROKEN
    for nonsense in ("tally1:zz", "", b"11:00", 5, ("a", 1)):
        with pytest.raises(BadHead):
            ten.verify(nonsense)  # type: ignore[arg-type]


# ---- broken logs ----


BROKEN: dict[str, tuple[int, Problem, list[str]]] = {
    "a body edited": (1500, Problem.EDITED, ["UPDATE events SET body = CAST('9' AS BLOB) WHERE seq = 1500"]),
    "a kind edited": (2999, Problem.EDITED, ["UPDATE events SET kind = 'a.c' WHERE seq = 2999"]),
    "at edited": (1001, Problem.EDITED, ["UPDATE events SET at = at + 1 WHERE seq = 1001"]),
    "a hash edited": (1000, Problem.EDITED, ["UPDATE events SET hash = prev_hash WHERE seq = 1000"]),
    "a link edited": (
        1001,
        Problem.LINK_BROKEN,
        ["UPDATE events SET prev_hash = body_hash WHERE seq = 1001"],
    ),
    "one row gone": (2000, Problem.GAP, ["DELETE FROM events WHERE seq = 2000"]),
    "first row of a span gone": (1001, Problem.GAP, ["DELETE FROM events WHERE seq = 1001"]),
    "rows gone across two spans": (995, Problem.GAP, ["DELETE FROM events WHERE seq BETWEEN 995 AND 1010"]),
    "a whole span gone": (1001, Problem.GAP, ["DELETE FROM events WHERE seq BETWEEN 1001 AND 2000"]),
    "more than a span gone": (900, Problem.GAP, ["DELETE FROM events WHERE seq BETWEEN 900 AND 2500"]),
    "two rows swapped": (
        1000,
        Problem.REORDERED,
        [
            "UPDATE events SET seq = 9999 WHERE seq = 1000",
            "UPDATE events SET seq = 1000 WHERE seq = 1001",
            "UPDATE events SET seq = 1001 WHERE seq = 9999",
        ],
    ),
    "a body gone": (700, Problem.ERASED, ["UPDATE events SET body = NULL, salt = NULL WHERE seq = 700"]),
    "two troubles": (10, Problem.EDITED, ["UPDATE events SET at = 0 WHERE seq IN (10, 2500)"]),
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 3000 events; some early ones are erased, and their records are far behind them."""
    path = tmp_path_factory.mktemp("large") / "a.tally"
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        ledger.append_many({"kind": "a.b", "body": n, "stream": f"s{n % 7}"} for n in range(2990))
        for seq in (100, 1200, 2100, 2985, 2, 999, 1000, 1001, 2991):
            ledger.erase(seq, "why")
        assert ledger.head().seq == 3000
    return path


@pytest.fixture
def copied(large: Path, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a.tally"
    shutil.copy(large, path)
    yield path


@pytest.mark.parametrize("jobs", [2, 3, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_say_what_one_walk_says_of_a_sound_log(large: Path, jobs: int) -> None:
    with Ledger.open(large, read_only=True) as ledger:
        for expect in (None, ledger.head(), Head(1500, ledger.get(1500).hash)):
            report = ledger.verify(expect, jobs=jobs)
            assert report == ledger.verify(expect)
            assert (report.events, report.erased, report.finding) == (3000, 9, None)


@pytest.mark.parametrize("name", BROKEN)
def test_what_one_walk_says_of_a_broken_log(copied: Path, name: str) -> None:
    seq, problem, statements = BROKEN[name]
    tamper(copied, *statements)
    with Ledger.open(copied, read_only=True) as ledger:
        report = ledger.verify()
        assert report.verdict is Verdict.BROKEN
        assert report.finding is not None
        assert (report.finding.seq, report.finding.problem) == (seq, problem), report.finding
        assert report.head is None


#: Of each kind one, and those where spans meet; with several processes each takes three interpreters.
QUICK_IN_PROCESSES = {
    "a body edited",
    "a hash edited",
    "first row of a span gone",
    "rows gone across two spans",
    "two rows swapped",
    "a body gone",
    "two troubles",
}


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK_IN_PROCESSES else pytest.param(name, marks=pytest.mark.slow) for name in BROKEN],
)
def test_processes_say_what_one_walk_says_of_a_broken_log(copied: Path, name: str) -> None:
    tamper(copied, *BROKEN[name][2])
    with Ledger.open(copied, read_only=True) as ledger:
        assert ledger.verify(jobs=3) == ledger.verify()


def test_event_1_gone(copied: Path) -> None:
    tamper(copied, "DELETE FROM events WHERE seq = 1")
    with pytest.raises(NotALedger):
        Ledger.open(copied, read_only=True)
    store = SQLiteStore(copied, read_only=True)
    report = verify(store)
    assert report.finding == Finding(1, Problem.GAP, "event 1 is missing")
    assert verify(store, path=copied, jobs=3) == report
    store.close()


def test_an_erasure_undone(copied: Path) -> None:
    """The body comes back from a copy, and fits its hash; but the record says that it is gone."""
    with Ledger.open(copied, durability=Durability.PROCESS) as ledger:
        (row,) = ledger._store.read(1499, before=1501)
        ledger.erase(1500, "why")
    assert row.salt is not None and row.body is not None
    tamper(
        copied, f"UPDATE events SET body = x'{row.body.hex()}', salt = x'{row.salt.hex()}' WHERE seq = 1500"
    )
    with Ledger.open(copied, read_only=True) as ledger:
        report = ledger.verify()
        assert report.finding is not None
        assert (report.finding.seq, report.finding.problem) == (1500, Problem.MALFORMED)
        assert "recorded as erased, but its body is still there" in report.finding.detail
        assert ledger.verify(jobs=3) == report


def test_the_end_gone(copied: Path) -> None:
    with Ledger.open(copied, read_only=True) as ledger:
        head = ledger.head()
    tamper(copied, "DELETE FROM events WHERE seq > 2985")
    with Ledger.open(copied, read_only=True) as ledger:
        for jobs in (1, 3):
            # The records of the erasures were at the end, too.
            report = ledger.verify(head, jobs=jobs)
            assert report.finding is not None
            assert report.finding.problem is Problem.ERASED
            assert report.finding.seq == 2
            assert report.last == 2985


@pytest.mark.parametrize("seq", [5, 700])
def test_a_span_sees_what_is_in_it(copied: Path, seq: int) -> None:
    tamper(copied, f"UPDATE events SET at = 0 WHERE seq = {seq}")
    with Ledger.open(copied, read_only=True) as ledger:
        assert ledger.verify(span=(1, seq - 1)).finding is None
        assert ledger.verify(span=(seq + 1, 3000)).finding is None
        report = ledger.verify(span=(seq - 1, seq + 1))
        assert report.finding is not None
        assert (report.finding.seq, report.finding.problem) == (seq, Problem.EDITED)
        assert (report.verdict, report.events) == (Verdict.BROKEN, 1)
        stream = ledger.get(seq).stream
        assert ledger.verify(stream=stream).finding is not None
        assert ledger.verify(stream="ledger").finding is None


def test_a_stream_sees_that_a_row_of_it_was_taken_out(copied: Path) -> None:
    with Ledger.open(copied, read_only=True) as ledger:
        stream = ledger.get(500).stream
    tamper(copied, "DELETE FROM events WHERE seq = 500", "UPDATE events SET stream = 'other' WHERE seq = 507")
    with Ledger.open(copied, read_only=True) as ledger:
        assert ledger.verify(stream="other").verdict is Verdict.BROKEN
        assert ledger.verify(span=(490, 510)).verdict is Verdict.BROKEN
        assert ledger.verify(stream=stream).scope == f"stream {stream!r}"


# ---- progress, jobs ----


def test_progress_counts_the_events_checked(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_module, "PROGRESS_EVERY", 500)
    with Ledger.open(large, read_only=True) as ledger:
        counts: list[int] = []
        ledger.verify(progress=counts.append)
        assert len(counts) >= 5
        assert counts == sorted(counts)
        assert all(0 < count <= 3000 for count in counts)
        counts.clear()
        ledger.verify(span=(1001, 2500), progress=counts.append)
        assert counts
        assert all(0 < count <= 1500 for count in counts)


def test_progress_of_processes(large: Path) -> None:
    with Ledger.open(large, read_only=True) as ledger:
        counts: list[int] = []
        ledger.verify(jobs=2, progress=counts.append)
        assert counts == sorted(counts)
        assert all(0 <= count <= 3000 for count in counts)


def test_progress_may_stop_it(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_module, "PROGRESS_EVERY", 500)

    class Stop(Exception):
        pass

    def stop(count: int) -> None:
        raise Stop

    with Ledger.open(large, read_only=True) as ledger:
        for jobs in (1, 2):
            with pytest.raises(Stop):
                ledger.verify(progress=stop, jobs=jobs)
        assert ledger.verify().finding is None


def test_processes_while_the_ledger_is_written(copied: Path) -> None:
    with Ledger.open(copied, durability=Durability.PROCESS) as ledger:
        ledger.append("a.b", "in the log")
        assert ledger.verify(ledger.head(), jobs=2).verdict is Verdict.VERIFIED


def test_a_store_in_memory_needs_no_processes() -> None:
    ledger = Ledger.over(MemoryStore())
    ledger.append_many([{"kind": "a.b"}] * 2500)
    assert ledger.verify(ledger.head(), jobs=3).verdict is Verdict.VERIFIED


def test_a_worker_that_fails_is_no_pass(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(copied, read_only=True) as ledger:
        ledger._path = copied.with_name("gone.tally")
        with pytest.raises(Exception, match="no such ledger"):
            ledger.verify(jobs=2)
        ledger._path = copied
        monkeypatch.setattr("tallystick.ledger.verify_jobs.__name__", "tallystick.ledger.no_such_module")
        with pytest.raises(Unavailable, match=r"a worker process ended with status 1: .*try --jobs 1"):
            ledger.verify(jobs=2)


def test_events_appended_during_a_walk_are_covered_or_left_for_the_next(ledger: Ledger) -> None:
    """A writer that goes on is no breakage, and an anchor taken before holds."""
    ledger.append_many([{"kind": "a.b"}] * 2000)
    head = ledger.head()
    store = ledger._store

    class Growing:
        head = store.head
        read = store.read

        def read_raw(self, after: int | None = None, before: int | None = None) -> Any:
            for number, row in enumerate(store.read_raw(after, before)):
                if number % 500 == 100 and number < 2000:
                    ledger.append("a.b", "meanwhile")
                    ledger.erase(ledger.head().seq, "why")
                    ledger.erase(number + 5, "just checked" if number % 1000 else "or not yet")
                yield row

    report = verify(Growing(), expect=head)
    assert report.finding is None
    assert report.anchored_to == head.seq
    assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
