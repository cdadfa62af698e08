"""The events that are measured: a support desk's day, made from a seed, the same in every run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final

#: An event as an app has it: kind, stream and body.
Plain = tuple[str, str, dict[str, Any]]

SEED: Final = 20260312
STREAMS: Final = 400
KINDS: Final = ("ticket.opened", "ticket.triaged", "reply.sent", "refund.proposed", "order.looked_up")
_WORDS: Final = (
    "the blue mug arrived with a chip at its rim photo attached we are sorry and send another one "
    "today please keep it order delayed parcel tracking refund agreed naïve Größe café once more "
    "thank you for waiting our carrier says tomorrow before noon would that suit"
).split()


def support_events(count: int, seed: int = SEED) -> list[Plain]:
    """`count` events on several hundred streams; canonical bodies of about 300 bytes, 230 to 380."""
    rng = random.Random(seed)
    streams = [f"ticket:T-{number:05d}" for number in range(1000, 1000 + STREAMS)]
    return [(rng.choice(KINDS), rng.choice(streams), _support_body(rng)) for _ in range(count)]


def _support_body(rng: random.Random) -> dict[str, Any]:
    return {
        "channel": rng.choice(("email", "chat", "phone")),
        "customer": {
            "id": f"C-{rng.randrange(10_000)}",
            "name": rng.choice(("Renée Abendroth", "Ines Duarte", "Tomasz Lis", "Ada King")),
            "vip": rng.random() < 0.1,
        },
        "subject": " ".join(rng.choices(_WORDS, k=4)),
        "text": " ".join(rng.choices(_WORDS, k=rng.randint(6, 16))),
        "order": {
            "id": rng.randrange(100_000, 999_999),
            "cents": rng.randrange(500, 20_000),
            "currency": rng.choice(("EUR", "GBP")),
        },
        "confidence": round(rng.random(), 3),
        "tags": rng.sample(("damaged", "late", "gift", "abroad", "repeat"), k=rng.randint(0, 3)),
        "assignee": None if rng.random() < 0.1 else rng.choice(("agent:sorrel", "human:tomasz")),
    }


def small_events(count: int, streams: Iterator[str]) -> Iterator[Plain]:
    """Events with bodies of about 55 bytes, one for each stream that the iterator yields."""
    for number in range(count):
        yield (
            "meter.read",
            next(streams),
            {"meter": number % 9973, "value": (number * 7919) % 100_003 / 100, "unit": "kWh", "good": True},
        )


# -- which stream the next event goes to -------------------------------------------------


def one_stream() -> Iterator[str]:
    """Every event on one stream."""
    while True:
        yield "session:the-only-one"


def live_sessions(seed: int, live: int = 500, events: int = 20) -> Iterator[str]:
    """The usual case: `live` sessions at a time, each of about `events`; ids grow with time."""
    rng = random.Random(seed)
    opened = seed * 10**9

    def fresh() -> str:
        nonlocal opened
        opened += 1
        return f"session:{opened:014d}"

    sessions = [fresh() for _ in range(live)]
    while True:
        at = rng.randrange(live)
        yield sessions[at]
        if rng.random() * events < 1:
            sessions[at] = fresh()


def scattered(seed: int, streams: int) -> Iterator[str]:
    """The worst case for an index: each event on any one of `streams`, their ids random."""
    rng = random.Random(seed)
    while True:
        yield f"device:{(rng.randrange(streams) * 0x9E3779B97F4A7C15) % 2**64:016x}"
