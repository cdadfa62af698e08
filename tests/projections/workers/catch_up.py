"""Catches up and rebuilds the views of a ledger, in small chunks, until it is killed or done.

    catch_up.py LEDGER CHUNK_EVENTS ROUNDS SEED

Prints a line when it begins, and what it saw in the end: events counted in the view of streams.
"""

from __future__ import annotations

import random
import sys

from tallystick import Ledger, Views
from tallystick.projections import engine

path, chunk, rounds, seed = sys.argv[1], *map(int, sys.argv[2:])
engine.CHUNK_EVENTS = chunk
rng = random.Random(seed)
with Ledger.open(path, read_only=True) as ledger, Views(ledger) as views:
    print("ready", flush=True)
    for _ in range(rounds):
        views.catch_up()
        views.rebuild(rng.choice((None, ["sessions"], ["streams", "executions"])))
    print(views.rows("SELECT sum(events) AS n FROM streams")[0]["n"], flush=True)
