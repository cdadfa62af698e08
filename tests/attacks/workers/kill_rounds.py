"""Rounds of killing a process in the middle of its work, and of looking at what it left.

    kill_rounds.py write|erase|backup|create POWER|PROCESS ROUNDS SEED FOLDER

A round forks a child of this small single-threaded process, before any ledger is open in it. The
child works on the ledger and reports what it was promised over a pipe, each before the next step;
after a random few milliseconds it gets SIGKILL. Ends with status 1 and a traceback if a promise
was broken; else prints how many reports there were.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tallystick import (
    Durability,
    Head,
    Ledger,
    LedgerNotFound,
    NotALedger,
    Receipt,
    TallyError,
    Unavailable,
    Verdict,
)

Report = Callable[[str], None]
#: After so many rounds on one ledger a new one is begun, so that looking stays quick.
ROUNDS_A_LEDGER = 10
#: How the line begins that keeps a promise of each kind.
PROMISES = {"write": "receipt", "erase": "erased", "backup": "copied", "create": "created"}


def killed(work: Callable[[Report], None], delay_s: float, after: str) -> list[str]:
    """Run `work` in a child, kill it `delay_s` after its first report `after`; the lines that it reported."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            work(lambda line: os.write(writing, f"{line}\n".encode()) and None)
            signal.pause()
        except BaseException as error:
            os.write(writing, f"failed {error!r}\n".encode())
        finally:
            os._exit(1)
    os.close(writing)
    received = b""
    deadline = None
    while deadline is None or time.monotonic() < deadline:
        wait_s = 30.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if select.select([reading], [], [], wait_s)[0]:
            data = os.read(reading, 1 << 16)
            if not data:
                break
            received += data
        else:
            assert deadline is not None, f"the child did not come as far as {after!r}"
        if deadline is None and after.encode() in received:
            deadline = time.monotonic() + delay_s
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while data := os.read(reading, 1 << 16):  # what it had reported by then
        received += data
    os.close(reading)
    lines = received.decode().splitlines()
    assert not any(line.startswith("failed") for line in lines), lines[-1]
    return lines


# -- appending -------------------------------------------------------------------------------


def write(path: Path, durability: Durability, round_name: str, seed: int) -> Callable[[Report], None]:
    def report_all(report: Report, receipts: list[Receipt]) -> None:
        report("\n".join(f"receipt {receipt.seq} {receipt.hash.hex()}" for receipt in receipts))

    def run(ledger: Ledger, report: Report, who: str) -> None:
        chosen = random.Random(f"{seed}/{who}")
        step = 0
        while True:
            step += 1
            if chosen.random() < 0.6:
                body = {"batch": f"{round_name}/{who}/{step}", "size": 1}
                report_all(report, [ledger.append("load.made", body, stream=who)])
                continue
            # At most 45 receipts a report, which a pipe takes as a whole (PIPE_BUF).
            size, chunks = chosen.choice((2, 7, 15)), chosen.choice((1, 3))
            events = [
                {
                    "kind": "load.made",
                    "body": {"batch": f"{round_name}/{who}/{step}/{n // size}", "size": size},
                    "stream": who,
                }
                for n in range(size * chunks)
            ]
            report_all(report, ledger.append_many(events, chunk=size))

    def work(report: Report) -> None:
        if seed % 5 == 0:  # so that some are killed while they open
            report("going")
        ledger = Ledger.open(path, durability=durability)
        if seed % 5 != 0:
            report("going")
        threads = seed % 3 * 2  # 0, 2 or 4 beside the main one
        for number in range(threads):
            threading.Thread(target=run, args=(ledger, report, f"t{number}"), daemon=True).start()
        run(ledger, report, "main")

    return work


def check_written(path: Path, lines: list[str], promised: dict[int, str]) -> int:
    """Every receipt is kept, batches are whole, the chain verifies; how many receipts came."""
    before = len(promised)
    for line in lines:
        if line.startswith("receipt"):
            _, seq, digest = line.split()
            assert promised.setdefault(int(seq), digest) == digest, f"two receipts for {seq}"
    if path.exists():
        try:
            with Ledger.open(path, read_only=True) as ledger:  # as a reader that comes first
                ledger.verify()
        except Unavailable as error:
            assert not promised and "read-only" not in str(error), error
    with Ledger.open(path) as ledger:
        check_chain(ledger, promised)
        events = list(ledger.read())
        batches = Counter((e.body["batch"], e.body["size"]) for e in events if e.kind == "load.made")
        for (batch, size), there in batches.items():
            assert there == size, f"batch {batch}: {there} of {size}"
        ledger.append("after.crash", {"seen": len(events)})
    return len(promised) - before


def check_chain(ledger: Ledger, promised: dict[int, str]) -> None:
    assert ledger.verify().verdict is Verdict.UNANCHORED  # also against the head file
    events = {event.seq: event.hash.hex() for event in ledger.read()}
    for seq, digest in promised.items():
        assert events.get(seq) == digest, f"the receipt of {seq} is worth nothing"
    if promised:
        last = max(promised)
        report = ledger.verify(Head(last, bytes.fromhex(promised[last])))
        assert report.finding is None and report.anchored_to == last, report


# -- erasing ---------------------------------------------------------------------------------

SECRETS = 40


def secret(seq: int) -> str:
    return f"secret-{seq:04d}-" + "x" * 200


def prepare_secrets(path: Path, durability: Durability) -> None:
    with Ledger.open(path, durability=durability) as ledger:
        ledger.append_many({"kind": "note.kept", "body": {"text": secret(n)}} for n in range(2, SECRETS + 2))


def erase(path: Path, durability: Durability) -> Callable[[Report], None]:
    def work(report: Report) -> None:
        ledger = Ledger.open(path, durability=durability)
        report("going")
        for seq in range(2, SECRETS + 2):
            ledger.append("note.between")
            receipt = ledger.erase(seq, "request of the data subject")
            report(f"erased {seq} {receipt.seq} {receipt.hash.hex()}")

    return work


def check_erased(path: Path, lines: list[str], durability: Durability) -> int:
    """What was reported erased is gone, from the bytes too; each other body is whole or on record."""
    erased = [int(line.split()[1]) for line in lines if line.startswith("erased")]
    records = {int(line.split()[2]): line.split()[3] for line in lines if line.startswith("erased")}
    for file in (path, Path(f"{path}-wal")):  # no ledger is open in this process now
        data = file.read_bytes() if file.exists() else b""
        for seq in erased:
            assert secret(seq).encode() not in data, f"{file.name} still holds the body of {seq}"
    with Ledger.open(path, durability=durability) as ledger:
        check_chain(ledger, records)
        for seq in range(2, SECRETS + 2):
            event = ledger.get(seq)
            assert event.erased or event.body == {"text": secret(seq)}
            assert event.erased or seq not in erased
        for seq in range(2, SECRETS + 2):
            ledger.erase(seq, "request of the data subject")
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
    data = path.read_bytes()
    assert not any(secret(seq).encode() in data for seq in range(2, SECRETS + 2))
    return len(erased)


# -- backing up --------------------------------------------------------------------------------


def back_up(path: Path, durability: Durability, folder: Path) -> Callable[[Report], None]:
    def work(report: Report) -> None:
        ledger = Ledger.open(path, durability=durability)
        report("going")
        for number in range(1000):
            ledger.append("load.made", {"n": number})
            head = ledger.backup(folder / f"{number}.tally")
            report(f"copied {number} {head}")

    return work


def check_copies(path: Path, lines: list[str], folder: Path) -> int:
    """Each copy that bears its name is whole; each that was reported is there."""
    promised = {int(line.split()[1]): line.split()[2] for line in lines if line.startswith("copied")}
    for copy in folder.glob("*.tally"):
        with Ledger.open(copy, read_only=True) as ledger:
            assert ledger.verify().verdict is Verdict.UNANCHORED
        if int(copy.stem) in promised:
            head = Head.parse(promised.pop(int(copy.stem)))
            with Ledger.open(copy) as ledger:
                assert ledger.verify(head).verdict is Verdict.VERIFIED
    assert not promised, f"copies are missing: {promised}"
    with Ledger.open(path) as ledger:
        check_chain(ledger, {})
    return sum(line.startswith("copied") for line in lines)


# -- creating ----------------------------------------------------------------------------------


def create(path: Path, durability: Durability) -> Callable[[Report], None]:
    def work(report: Report) -> None:
        report("going")
        report(f"created {Ledger.open(path, durability=durability).head()}")

    return work


def check_created(path: Path, lines: list[str], durability: Durability) -> int:
    """Looking says what is wrong or nothing; opening finishes the work, and keeps what was promised."""
    promised = [Head.parse(line.split()[1]) for line in lines if line.startswith("created")]
    try:
        with Ledger.open(path, read_only=True) as ledger:
            ledger.verify()
    except Unavailable as error:  # none yet, still empty, or with the journal of its creation
        assert not promised and "read-only" not in str(error), error
    try:
        with Ledger.open(path, create=False, durability=durability):
            pass
    except (LedgerNotFound, NotALedger):
        assert not promised
    with Ledger.open(path, durability=durability) as ledger:
        assert ledger.head().seq == 1
        assert not promised or ledger.head() == promised[0]
        ledger.append("after.crash")
        assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
    return len(promised)


def main() -> int:
    mode, durability, rounds, seed = sys.argv[1], Durability[sys.argv[2]], int(sys.argv[3]), int(sys.argv[4])
    folder = Path(sys.argv[5])
    chosen = random.Random(seed)
    promised: dict[int, str] = {}
    reports = 0
    path = folder / "agents.tally"
    for number in range(rounds):
        # A third of them once something was promised, however slow the machine is.
        after = "going" if number % 3 else PROMISES[mode]
        if mode == "write":
            if number % ROUNDS_A_LEDGER == 0:
                path, promised = folder / f"{number}.tally", {}
            work = write(path, durability, str(number), chosen.randrange(1000))
            reports += check_written(path, killed(work, chosen.uniform(0, 0.05), after), promised)
        elif mode == "erase":
            path = folder / f"{number}.tally"
            prepare_secrets(path, durability)
            lines = killed(erase(path, durability), chosen.uniform(0, 0.08), after)
            reports += check_erased(path, lines, durability)
        elif mode == "backup":
            copies = folder / str(number)
            copies.mkdir()
            lines = killed(back_up(path, durability, copies), chosen.uniform(0, 0.08), after)
            reports += check_copies(path, lines, copies)
        else:
            path = folder / f"{number}.tally"
            lines = killed(create(path, durability), chosen.choice((0.01, 0.1)) * chosen.random(), after)
            reports += check_created(path, lines, durability)
    print(reports)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TallyError as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
