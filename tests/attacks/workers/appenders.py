"""A process that appends to a shared ledger from many threads, and prints a receipt a line.

    appenders.py PATH NAME THREADS ROUNDS EVENTS_BEFORE_START

Each thread mixes single appends, chunks and keyed appends. Its own events carry its name and a
counter; keyed ones, a key that every process tries to be the first to use.
"""

from __future__ import annotations

import random
import sys
import threading
import traceback

from tallystick import Durability, Ledger

path, name, threads, rounds, keys = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
failures: list[str] = []
printing = threading.Lock()


def say(lines: list[str]) -> None:
    with printing:
        sys.stdout.write("".join(f"{line}\n" for line in lines))


def run(ledger: Ledger, thread: int) -> None:
    chosen = random.Random(f"{name}/{thread}")
    who = f"{name}-{thread}"
    made = 0

    def event() -> dict[str, object]:
        nonlocal made
        made += 1
        return {"kind": "load.made", "body": {"who": who, "n": made}, "stream": f"load:{who}"}

    for _ in range(rounds):
        way = chosen.random()
        if way < 0.5:
            one = event()
            receipt = ledger.append("load.made", one["body"], stream=str(one["stream"]))
            say([f"own {receipt.seq} {receipt.hash.hex()} {who} {made}"])
        elif way < 0.75:
            first = made
            receipts = ledger.append_many((event() for _ in range(chosen.randrange(1, 40))), chunk=16)
            say([f"own {r.seq} {r.hash.hex()} {who} {n}" for n, r in enumerate(receipts, first + 1)])
        else:
            key = f"shared-{chosen.randrange(keys)}"
            receipt = ledger.append("load.shared", {"key": key}, stream="shared", key=key)
            say([f"key {receipt.seq} {receipt.hash.hex()} {key}"])


def guarded(ledger: Ledger, thread: int) -> None:
    try:
        run(ledger, thread)
    except BaseException:
        failures.append(traceback.format_exc())


# All start together; opening, creating if need be, is part of the test.
sys.stdin.readline()
with Ledger.open(path, durability=Durability.PROCESS) as ledger:
    crew = [threading.Thread(target=guarded, args=(ledger, thread)) for thread in range(threads)]
    for member in crew:
        member.start()
    for member in crew:
        member.join()
sys.stderr.write("\n".join(failures))
sys.exit(1 if failures else 0)
