"""Many processes and threads on one ledger: nothing lost, nothing twice, one chain."""

from __future__ import annotations

import random
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tallystick import Durability, Ledger, PositionConflict, Receipt, TallyError, Verdict

Process = subprocess.Popen[str]
Start = Callable[..., Process]
Finish = Callable[[Process], str]


def run_threads(*targets: Callable[[], Any]) -> None:
    """Run all at once; the first error of any is raised here."""
    errors: list[BaseException] = []

    def guarded(target: Callable[[], Any]) -> None:
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def check_log(path: Path, printed: list[str]) -> None:
    """Every printed receipt is in the log with its hash, each event once, and the chain is one."""
    with Ledger.open(path) as ledger:
        head = ledger.head()
        events = {event.seq: event for event in ledger.read()}
        assert ledger.verify(head).verdict is Verdict.VERIFIED
    assert sorted(events) == list(range(1, head.seq + 1))
    own = 0
    for line in printed:
        way, seq, digest, *rest = line.split()
        event = events[int(seq)]
        assert event.hash.hex() == digest, line
        if way == "own":
            own += 1
            assert event.body == {"who": rest[0], "n": int(rest[1])}, line
        else:
            assert (event.body, event.key) == ({"key": rest[0]}, rest[0]), line
    made = Counter(
        (event.body["who"], event.body["n"]) for event in events.values() if event.kind == "load.made"
    )
    assert len(made) == own, "an event that was acknowledged is not there, or one that was not"
    assert set(made.values()) <= {1}
    shared = [event.key for event in events.values() if event.kind == "load.shared"]
    assert len(shared) == len(set(shared)), "a key was used twice"
    assert {line.split()[3] for line in printed if line.startswith("key ")} == set(shared)
    streams: dict[str, int] = {}
    for event in events.values():
        if event.kind == "load.made":  # each thread's events stand in the order that it made them
            assert event.body["n"] == streams.get(event.stream, 0) + 1
            streams[event.stream] = event.body["n"]


@pytest.mark.parametrize(
    ("processes", "threads", "rounds"),
    [(4, 8, 12), pytest.param(4, 8, 250, marks=pytest.mark.slow)],
    ids=["quick", "slow"],
)
def test_processes_and_threads(
    ledger_path: Path, processes: int, threads: int, rounds: int, start_worker: Start, finish: Finish
) -> None:
    """Invariant: 4 processes of 8 threads make one chain; no busy or locked error reaches a caller."""
    workers = [
        start_worker("appenders.py", ledger_path, f"p{number}", threads, rounds, 40)
        for number in range(processes)
    ]
    for worker in workers:  # they wait for this line, so that they also create the ledger together
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    printed = [line for worker in workers for line in finish(worker).splitlines()]
    assert len(printed) >= processes * threads * rounds
    check_log(ledger_path, printed)


@pytest.mark.parametrize("rounds", [25, pytest.param(400, marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_eight_processes_create_the_same_ledger(
    tmp_path: Path, rounds: int, start_worker: Start, finish: Finish
) -> None:
    """Invariant: one of them creates it, all append to it, and it has one event 1."""
    assert finish(start_worker("create_race.py", rounds, tmp_path)) == f"{rounds}\n"


def test_many_handles_and_threads_in_one_process(ledger_path: Path) -> None:
    """Invariant: threads over several handles on one file make one chain, and keep its head file whole."""
    handles = [Ledger.open(ledger_path, durability=Durability.PROCESS) for _ in range(3)]
    receipts: list[list[Receipt]] = [[] for _ in range(24)]

    def append(number: int) -> None:
        ledger = handles[number % 3]
        for n in range(20):
            receipts[number].append(ledger.append("load.made", {"n": n}, stream=f"t:{number}"))
            if n % 7 == number % 7:
                assert ledger.verify().verdict is Verdict.UNANCHORED

    run_threads(*(lambda number=number: append(number) for number in range(24)))
    for handle in handles:
        handle.close()
    with Ledger.open(ledger_path) as ledger:
        events = {event.seq: event for event in ledger.read()}
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
    assert len(events) == 1 + 24 * 20
    for number, each in enumerate(receipts):
        assert [events[receipt.seq].body["n"] for receipt in each] == list(range(20))
        assert all(events[receipt.seq].stream == f"t:{number}" for receipt in each)
    assert not list(ledger_path.parent.glob("*.tmp"))


def test_expected_positions_let_one_through(ledger_path: Path) -> None:
    """Invariant: of all who expect the same last event of a stream, one appends."""
    with Ledger.open(ledger_path, durability=Durability.PROCESS) as ledger:
        won: list[int] = []
        for turn in range(10):
            last = max((event.seq for event in ledger.read(stream="s")), default=0)
            results: list[object] = []

            def attempt(last: int = last, results: list[object] = results) -> None:
                try:
                    results.append(ledger.append("turn.taken", {}, stream="s", expect=last))
                except TallyError as error:
                    results.append(error)

            run_threads(*([attempt] * 8))
            winners = [each for each in results if isinstance(each, Receipt)]
            assert len(winners) == 1, (turn, results)
            won.append(winners[0].seq)
        assert [event.seq for event in ledger.read(stream="s")] == won


@pytest.mark.parametrize("events", [1, 300])
def test_another_handle_comes_between(ledger_path: Path, events: int) -> None:
    """Invariant: a ledger that wrote alone and builds behind a head gone by builds again, keys included."""
    with Ledger.open(ledger_path) as ours, Ledger.open(ledger_path) as theirs:
        for _ in range(3):
            ours.append("load.made", {"by": "us"})
        for turn in range(6):
            if turn % 3:  # they come between two of our appends, or stay away for one
                theirs.append("load.made", {"by": "them"}, stream="t", key=f"k{turn}")
            receipts = ours.append_many([{"kind": "load.made", "body": n} for n in range(events)])
            assert [receipt.seq for receipt in receipts] == [
                event.seq for event in ours.read(receipts[0].seq - 1)
            ]
        with pytest.raises(PositionConflict):
            ours.append("load.made", stream="t", expect=0)
        for _ in range(2):
            ours.append("load.made")
        first = theirs.append("load.made", "once", stream="u", key="shared")
        assert ours.append("load.made", "once", stream="u", key="shared") == first
        for _ in range(2):
            ours.append("load.made")
        last = theirs.append("load.made", stream="v")
        assert ours.append("load.made", stream="v", expect=last.seq).seq == last.seq + 1
        assert ours.verify(ours.head()).verdict is Verdict.VERIFIED
        assert sum(event.body == {"by": "them"} for event in ours.read()) == 4


def test_readers_and_followers_see_every_event_once_in_order(ledger_path: Path) -> None:
    """Invariant: whoever reads while others write misses nothing and sees nothing twice."""
    total = 1 + 4 * 300
    done = threading.Event()
    with Ledger.open(ledger_path, durability=Durability.PROCESS) as ledger:

        def write(number: int) -> None:
            chosen = random.Random(number)
            left = 300
            while left:
                size = min(left, chosen.randrange(1, 30))
                ledger.append_many(
                    {"kind": "load.made", "body": {"n": left - each}, "stream": f"w:{number % 2}"}
                    for each in range(size)
                )
                left -= size

        def follow(**options: Any) -> None:
            with Ledger.open(ledger_path, read_only=True) as other:
                wanted = total if "stream" not in options else 600
                seen = list(islice(other.follow(0, poll_s=0.001, stop=done.is_set, **options), wanted))
            seqs = [event.seq for event in seen]
            assert len(seqs) == wanted and seqs == sorted(set(seqs))

        def read() -> None:
            while not done.is_set():
                seqs = [event.seq for event in ledger.read()]
                assert seqs == list(range(1, len(seqs) + 1))
                back = [event.seq for event in ledger.read(reverse=True)]
                assert back == list(range(len(back), 0, -1))

        def writers() -> None:
            try:
                run_threads(*(lambda number=number: write(number) for number in range(4)))
            finally:
                followers.join(60)
                done.set()

        errors: list[BaseException] = []

        def followed() -> None:
            try:
                run_threads(follow, follow, lambda: follow(stream="w:1"))
            except BaseException as error:
                errors.append(error)

        followers = threading.Thread(target=followed)
        followers.start()
        run_threads(writers, read, read)
        assert not errors, errors


def test_verification_beside_writers_and_erasers_gives_no_false_alarm(ledger_path: Path) -> None:
    """Invariant: a log that is being written and erased in good order is never found BROKEN."""
    with Ledger.open(ledger_path, durability=Durability.PROCESS) as ledger:
        ledger.append_many({"kind": "load.made", "body": {"n": n}} for n in range(3000))
        done = threading.Event()

        def write() -> None:
            for n in range(60):
                ledger.append_many({"kind": "load.made", "body": {"n": n}} for _ in range(20))

        def erase() -> None:
            chosen = random.Random(1)
            for _ in range(40):
                while True:
                    try:
                        ledger.erase(chosen.randrange(2, 3000), "request of the data subject")
                        break
                    except TallyError as error:
                        assert "kept the old pages" in str(error) or "part of the proof" in str(error), error

        def change() -> None:
            try:
                run_threads(write, erase)
            finally:
                done.set()

        def verify(jobs: int) -> None:
            with Ledger.open(ledger_path, read_only=True) as other:
                while not done.is_set():
                    head = other.head()
                    report = other.verify(head, jobs=jobs)
                    assert report.verdict is not Verdict.BROKEN, report
                    assert report.anchored_to == head.seq

        def verify_stream_and_span() -> None:
            with Ledger.open(ledger_path, read_only=True) as other:
                while not done.is_set():
                    assert other.verify(span=(100, 2500)).finding is None
                    assert other.verify(stream="ledger").finding is None

        run_threads(change, lambda: verify(1), lambda: verify(2), verify_stream_and_span)
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED


def test_files_come_and_go_while_others_open(ledger_path: Path) -> None:
    """Invariant: opening and closing beside others, which makes and removes the log, fails nobody."""
    Ledger.open(ledger_path, durability=Durability.PROCESS).close()

    def write(number: int) -> None:
        for n in range(15):
            with Ledger.open(ledger_path, durability=Durability.PROCESS) as ledger:
                ledger.append("load.made", {"who": number, "n": n})

    def read() -> None:
        for _ in range(40):
            with Ledger.open(ledger_path, read_only=True) as ledger:
                assert ledger.verify().finding is None

    run_threads(*(lambda number=number: write(number) for number in range(3)), read, read)
    with Ledger.open(ledger_path) as ledger:
        assert ledger.head().seq == 1 + 45


def test_a_second_handle_keeps_the_first_ones_locks(ledger_path: Path, start_worker: Start) -> None:
    """Invariant: opening the file again in one process does not drop the locks that SQLite holds.

    POSIX locks of a process end when it closes any descriptor of the file.
    """
    with Ledger.open(ledger_path, durability=Durability.PROCESS) as ledger:
        ledger.append("load.made")
        Ledger.open(ledger_path, durability=Durability.PROCESS).close()
        Ledger.open(ledger_path, read_only=True).close()
        probe = start_worker("lock_probe.py", ledger_path)
        out, err = probe.communicate(timeout=60)
        assert out.strip() == "locked", (out, err)
        ledger.append("load.made")
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
