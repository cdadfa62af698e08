"""Work on sessions in a process of its own, told apart by its first argument; see the functions.

Each line printed is a promise that the test holds the ledger to.
"""

from __future__ import annotations

import datetime as dt
import sys
import threading
import time
from collections.abc import Callable

from tallystick import Durability, Ledger, Session, verified_action
from tallystick.recorders.session.retention import expire, expired_sessions


def say(line: str) -> None:
    """A line in one write, which no other thread's comes between."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def together(threads: int, work: Callable[[int], None]) -> None:
    """Run `work` in so many threads; an error in one is raised here."""
    errors: list[BaseException] = []

    def body(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=body, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


def record(path: str, threads: str, sessions: str, actions: str) -> None:
    """Each thread records sessions one after the other; prints id, thread and the seqs it was given."""
    with Ledger.open(path, durability=Durability.PROCESS, timeout_s=100) as ledger:

        def work(thread: int) -> None:
            for number in range(int(sessions)):
                with Session.start(ledger, f"{thread}/{number}") as session:
                    seqs = [
                        session.record_action("a", "verified", evidence={"n": n}).seq
                        for n in range(int(actions))
                    ]
                say(f"{session.session_id} {','.join(map(str, seqs))}")

        together(int(threads), work)


def share(path: str, session_id: str, threads: str, actions: str) -> None:
    """All threads, of all processes, record in one session; prints the seqs that each was given."""
    with Ledger.open(path, durability=Durability.PROCESS, timeout_s=100) as ledger:
        session = Session.resume(ledger, session_id)

        def work(thread: int) -> None:
            seqs = [
                session.record_action("a", "verified", evidence=session_id).seq for _ in range(int(actions))
            ]
            say(",".join(map(str, seqs)))

        together(int(threads), work)


def die_between(path: str) -> None:
    """Act, and wait to be killed before the action is looked at and recorded."""
    ledger = Ledger.open(path)
    session = Session.start(ledger, "doomed", retention_hours=0)
    verified_action(lambda: None, lambda: False, session, "first", "K", max_attempts=1, settle_delay=0)
    say(session.session_id)

    def act() -> None:
        say("acted")
        time.sleep(100)

    verified_action(act, lambda: True, session, "second", "K", settle_delay=100)


def keep_recording(path: str) -> None:
    """Record in one session until killed; prints its id, then the seq of each action recorded."""
    session = Session.start(Ledger.open(path), "doomed")
    say(session.session_id)
    while True:
        say(f"{session.record_action('a', 'verified').seq}")


def keep_expiring(path: str) -> None:
    """Expire every session until killed; prints the id of each that is done."""
    ledger = Ledger.open(path)
    say("going")
    now = dt.datetime.now(dt.UTC) + dt.timedelta(days=9)
    for summary in expired_sessions(ledger, now):
        expire(ledger, summary, now)
        say(summary.session_id)
    time.sleep(100)


MODES = {
    "record": record,
    "share": share,
    "die_between": die_between,
    "keep_recording": keep_recording,
    "keep_expiring": keep_expiring,
}

if __name__ == "__main__":
    MODES[sys.argv[1]](*sys.argv[2:])
