"""The command that measures a ledger on the operator's own disk: bench."""

from __future__ import annotations

import os
import platform
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from .app import ledger_option, open_to_read, open_to_write
from .output import json_option, print_json, print_table, progress, say

if TYPE_CHECKING:
    from tallystick.ledger.ledger import Ledger

#: How long single appends are counted in each round, however slow the disk.
SINGLES_S: Final = 0.25
CHUNK_EVENTS: Final = 1000
STREAMS: Final = 100
SEED: Final = 20260312
COLUMNS: Final = ("what", "events/s", "µs/event", "note")


class _Measure(msgspec.Struct):
    """One row of the table: what is measured, beside which row, and each round's seconds an event."""

    what: str
    note: str
    run: Callable[[], float]
    beside: str | None = None
    rounds_s: list[float] = msgspec.field(default_factory=list)

    @property
    def median_s(self) -> float:
        return statistics.median(self.rounds_s)


@click.command("bench")
@click.option(
    "--events",
    type=click.IntRange(1),
    default=20_000,
    show_default=True,
    help="Events in batches and to verify.",
)
@click.option(
    "--body-bytes",
    type=click.IntRange(32, 1 << 20),
    default=300,
    show_default=True,
    help="Size of each body.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds; medians are printed."
)
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="Measure here instead of beside the ledger."
)
@ledger_option
@json_option
def bench_command(
    events: int, body_bytes: int, rounds: int, directory: Path | None, path: Path, as_json: bool
) -> None:
    """Measure appends and verification on this disk.

    Works in a temporary directory beside the ledger and removes it afterwards; the ledger
    itself is neither read nor written, and need not exist. A durable append waits for the disk,
    so its time stands beside that of one small write and fsync.
    """
    from tallystick.ledger.sqlite.connection import filesystem_type
    from tallystick.ledger.sqlite.surroundings import BENCH_PREFIX, fsync_time_s

    place = directory or path.absolute().parent
    with tempfile.TemporaryDirectory(dir=place, prefix=BENCH_PREFIX) as folder:
        measures = _measures(Path(folder), events, body_bytes)
        fsyncs_s = []
        with progress("measuring", rounds * len(measures)) as report_progress:
            for round_number in range(rounds):
                fsyncs_s.append(fsync_time_s(Path(folder)))
                for index, measure in enumerate(measures, start=1):
                    measure.rounds_s.append(measure.run())
                    if report_progress is not None:
                        report_progress(round_number * len(measures) + index)
    fsync_s = statistics.median(fsyncs_s)
    notes = _notes(measures)
    system = filesystem_type(place)
    if as_json:
        results = [
            {"what": m.what, "events_per_s": 1 / m.median_s, "us_per_event": m.median_s * 1e6, "note": note}
            | {"rounds_us_per_event": [one_s * 1e6 for one_s in m.rounds_s]}
            for m, note in zip(measures, notes, strict=True)
        ]
        setting = {"directory": str(place.absolute()), "file_system": system, **_machine()}
        setting |= {"events": events, "body_bytes": body_bytes, "rounds": rounds}
        print_json({**setting, "durability": "POWER", "fsync_ms": fsync_s * 1000, "results": results})
        return
    rows = [("write and fsync", *_figures(fsync_s), "the disk alone, 4 KiB each")]
    rows += [(m.what, *_figures(m.median_s), note) for m, note in zip(measures, notes, strict=True)]
    print_table(COLUMNS, rows, right=COLUMNS[1:3])
    machine = _machine()
    say(
        f"{place.absolute()} ({system or 'unknown file system'}), {machine['cpus']} CPUs, SQLite "
        f"{machine['sqlite']}, Python {machine['python']}; {body_bytes:,}-byte bodies, every append durable "
        f"against a power cut, medians of {rounds}"
    )


def _figures(seconds: float) -> tuple[str, str]:
    return f"{1 / seconds:,.0f}", f"{seconds * 1e6:,.1f}"


def _machine() -> dict[str, Any]:
    import apsw

    return {
        "cpus": os.cpu_count(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
    }


def _measures(folder: Path, events: int, body_bytes: int) -> list[_Measure]:
    """What is measured, in order; each round runs them all, so that a slow moment hits them alike."""
    pool = _events(body_bytes)
    single, batches, whole = (folder / name for name in ("single.tally", "batches.tally", "whole.tally"))
    with open_to_write(whole, create=True) as ledger:
        ledger.append_many(islice(cycle(pool), events))
    return [
        _Measure("append", "one by one, each on disk", partial(_append, single, pool, 1)),
        _Measure("append, 4 threads", "", partial(_append, single, pool, 4), "append"),
        _Measure("append, 16 threads", "", partial(_append, single, pool, 16), "append"),
        _Measure(
            "append_many",
            f"{CHUNK_EVENTS:,} a commit",
            partial(_append_many, batches, pool, events),
            "append",
        ),
        _Measure("verify", "one process", partial(_verify, whole, 1, events)),
        _Measure(
            "verify --jobs 2",
            "start-up included",
            partial(_verify, whole, 2, events),
            "verify",
        ),
    ]


def _notes(measures: list[_Measure]) -> list[str]:
    """Each row's note, with its ratio to the row that it stands beside."""
    medians_s = {measure.what: measure.median_s for measure in measures}
    ratios = [m.beside and f"{medians_s[m.beside] / m.median_s:.1f} × {m.beside}" for m in measures]
    return ["; ".join(filter(None, parts)) for parts in zip(ratios, [m.note for m in measures], strict=True)]


def _events(body_bytes: int) -> list[dict[str, Any]]:
    """A chunk of events on a hundred streams, their bodies of exactly `body_bytes`, the same in every run."""
    rng = random.Random(SEED)
    made = []
    for number in range(CHUNK_EVENTS):
        body = {"n": 1000 + number, "text": ""}
        room = body_bytes - len(msgspec.json.encode(body))
        body["text"] = rng.randbytes(room // 2 + 1).hex()[:room]
        made.append({"kind": "bench.measured", "stream": f"bench:{number % STREAMS}", "body": body})
    return made


def _append(path: Path, pool: list[dict[str, Any]], threads: int) -> float:
    """Seconds an event when each of `threads` appends one after the other for a while."""
    stop = threading.Event()

    def work() -> int:
        count = 0
        while True:
            ledger.append(**pool[count % len(pool)])
            count += 1
            if stop.is_set():
                return count

    with _new_ledger(path) as ledger, ThreadPoolExecutor(threads) as workers:
        start = time.perf_counter()
        try:
            running = [workers.submit(work) for _ in range(threads)]
            wait(running, SINGLES_S, FIRST_EXCEPTION)
        finally:
            stop.set()  # also on Ctrl-C: the directory cannot be removed while they write
        count = sum(future.result() for future in running)
        return (time.perf_counter() - start) / count


def _append_many(path: Path, pool: list[dict[str, Any]], events: int) -> float:
    with _new_ledger(path) as ledger:
        start = time.perf_counter()
        ledger.append_many(islice(cycle(pool), events), chunk=CHUNK_EVENTS)
        return (time.perf_counter() - start) / events


def _verify(path: Path, jobs: int, events: int) -> float:
    with open_to_read(path) as ledger:
        start = time.perf_counter()
        report = ledger.verify(jobs=jobs)
        duration_s = time.perf_counter() - start
    assert report.finding is None, report
    return duration_s / events


def _new_ledger(path: Path) -> Ledger:
    """An empty ledger at a path that an earlier round may have used."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    return open_to_write(path, create=True)
