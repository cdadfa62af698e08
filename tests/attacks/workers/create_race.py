"""Eight processes open a ledger that does not exist yet, at the same instant, round after round.

    create_race.py ROUNDS FOLDER

Each appends an event; a ninth only reads, and may be too early. Prints how many rounds there were.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

from tallystick import Durability, Ledger, LedgerNotFound, NotALedger, Unavailable, Verdict

WRITERS = 8


def start(path: Path, at_s: float, number: int) -> int:
    """Fork a process that opens the ledger at `at_s` of the monotonic clock; its pid."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        while time.monotonic() < at_s:
            pass
        if number < WRITERS:
            with Ledger.open(path, durability=Durability.PROCESS) as ledger:
                ledger.append("load.made", {"by": number})
        else:
            try:
                with Ledger.open(path, read_only=True) as ledger:
                    assert ledger.verify().finding is None
            except (LedgerNotFound, NotALedger):
                pass
            except Unavailable as error:  # the journal of its creation: whoever creates it removes it
                assert "journal" in str(error), error
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def main(rounds: int, folder: Path) -> None:
    for number in range(rounds):
        path = folder / f"{number}.tally"
        at_s = time.monotonic() + 0.02
        children = [start(path, at_s, each) for each in range(WRITERS + 1)]
        assert not any([os.waitpid(child, 0)[1] for child in children]), f"round {number}"
        with Ledger.open(path, read_only=True) as ledger:
            events = list(ledger.read())
            assert [event.kind for event in events] == ["ledger.created"] + ["load.made"] * WRITERS
            assert {event.body["by"] for event in events[1:]} == set(range(WRITERS))
            assert ledger.verify(ledger.head()).verdict is Verdict.VERIFIED
    print(rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
