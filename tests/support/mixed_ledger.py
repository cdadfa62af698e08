"""A ledger in which everything happens at once, of any size: for what has to hold however long the log is.

mixed_ledger.py PATH EVENTS
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from many_decisions import POLICY, label_some, record_decisions, register

from tallystick import Durability, Kernel, Ledger, NewEvent, Policy, PsiDefinition, Session
from tallystick.events import gateway, kernel, session

#: Sessions that are open at once: more than replay keeps at hand.
SESSIONS_OPEN = 25_000
POLICIES = 5
TENANTS = 20
ROUND = 2000
PSI = PsiDefinition("parcels", "double")
#: Every so many rounds some bodies are erased.
ERASE_EVERY = 10


def fill(path: Path, events: int) -> None:
    """Record about so many events; a round of each kind of thing after the other, all of them interleaved."""
    chance = random.Random(11)
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        mixed = _Mixed(ledger, chance)
        while ledger.head().seq < events:
            mixed.round()


class _Mixed:
    def __init__(self, ledger: Ledger, chance: random.Random) -> None:
        self._ledger = ledger
        self._chance = chance
        self._kernel = Kernel(ledger=ledger)
        self._sessions: list[Session] = []
        self._policies = [
            Policy.parse(POLICY.replace("policy_id: many", f"policy_id: many-{number}"))
            for number in range(POLICIES)
        ]
        for policy in self._policies:
            register(ledger, policy)
        self._decisions = 0
        self._rounds = 0

    def round(self) -> None:
        """About ROUND events."""
        chance, before = self._chance, self._ledger.head().seq
        self._ledger.append_many(self._app_event() for _ in range(ROUND * 2 // 5))
        with self._ledger.batch():
            for _ in range(ROUND * 3 // 10):
                self._in_a_session()
            for number in range(ROUND // 10):
                self._kernel.execute(psi=PSI, task=_doubled, number=number)
        policy = self._policies[self._rounds % POLICIES]
        numbers = range(self._decisions, self._decisions + ROUND // 8)
        record_decisions(self._ledger, policy, numbers, chance, tenants=TENANTS)
        self._decisions = numbers.stop
        label_some(self._ledger, before, chance, every=3)
        self._rounds += 1
        if self._rounds % ERASE_EVERY == 0:
            self._erase_some(before)

    def _app_event(self) -> NewEvent:
        number = self._chance.randrange(50_000)
        body = {"order": number, "note": f"parcel {number % 97}", "weight": self._chance.random()}
        meta = {"correlation": f"case-{number % 5000}", "actor": "bot"} if number % 3 else None
        stream = f"order:{number}" if number % 4 else "main"
        return NewEvent(kind="order.shipped", body=body, stream=stream, meta=meta)

    def _in_a_session(self) -> None:
        sessions, chance = self._sessions, self._chance
        if len(sessions) < SESSIONS_OPEN and chance.random() < 0.4:
            sessions.append(Session.start(self._ledger, f"case {chance.randrange(1000)}"))
            return
        if not sessions:
            return
        place = chance.randrange(len(sessions))
        what = chance.random()
        if what < 0.05:
            sessions[place], sessions[-1] = sessions[-1], sessions[place]
            sessions.pop().close()
        elif what < 0.35:
            sessions[place].message("user", f"What of parcel {chance.randrange(1000)}?")
        else:
            outcome, by = chance.choice(["verified", "failed", "verified"]), f"K{chance.randrange(30)}"
            sessions[place].record_action("ship", outcome, by, after_state=_state(chance))

    def _erase_some(self, after: int) -> None:
        kinds = ["order.shipped", kernel.EXECUTED, session.ACTION_RECORDED, gateway.MEMORY_ADDED]
        found = [self._ledger.read(after, kinds=[kind], limit=3) for kind in kinds]
        self._ledger.erase_many([event.seq for some in found for event in some], "was asked for")


def _doubled(number: int) -> int:
    return 2 * number


def _state(chance: random.Random) -> dict[str, Any]:
    return {"parcel": chance.randrange(1000), "weight": chance.random()}


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]))
