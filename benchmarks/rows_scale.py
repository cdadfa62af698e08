"""What a large ledger costs: memory over a million events, and an append at ten million."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from tallystick import Ledger, NewEvent

from .bodies import live_sessions, one_stream, scattered, small_events, support_events
from .harness import Bench, Figure, Skipped, Timing, check, chunks_of, stopwatch, times_as_fast

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD_EVENTS: Final = 20_000


def memory(bench: Bench) -> list[Figure]:
    """The most memory resident, each task in a process of its own."""
    count = bench.scale.memory_events
    with bench.place() as kept:
        path, copy, lines = kept / "ours.tally", kept / "copy.tally", kept / "lines.jsonl"
        with Ledger.open(path) as ledger:
            for part in range(0, count, BUILD_EVENTS):
                events = support_events(min(BUILD_EVENTS, count - part), seed=part)
                ledger.append_many(NewEvent(kind=k, stream=s, body=b) for k, s, b in events)
        figures = [
            _memory_figure(bench, "opening it", _peak_mib(["open", path, lines]), bounded=False),
            _memory_figure(bench, "verify", _peak_mib(["verify", path, lines])),
            _memory_figure(bench, "tail", _peak_mib(["tail", path, lines])),
        ]
        if _tally_has("export"):
            with lines.open("wb") as out:
                peak = _peak_mib(["tally", "export"], ledger=path, stdout=out.fileno())
            figures.append(_memory_figure(bench, "export", peak))
        else:
            peak = _peak_mib(["export", path, lines])
            figures.append(_memory_figure(bench, "export", peak, note="stand-in"))
        if _tally_has("import") and _tally_has("export"):
            peak = _peak_mib(["tally", "import", lines], ledger=copy)
            figures.append(_memory_figure(bench, "import", peak))
        else:
            peak = _peak_mib(["import", copy, lines])
            figures.append(_memory_figure(bench, "import", peak, note="stand-in"))
        with Ledger.open(copy, read_only=True) as ledger:
            check(ledger.head().seq >= count, "the import has not every event")
    return figures


def _memory_figure(bench: Bench, task: str, peak: float, bounded: bool = True, note: str = "") -> Figure:
    return Figure(
        "memory",
        f"{task}, {bench.scale.memory_events:,} events",
        peak,
        peak,
        peak,
        unit="MiB",
        must=150 if bounded else None,
        aim=80 if bounded else None,
        lower_is_better=True,
        note=note,
    )


def _peak_mib(arguments: list[str | Path], *, ledger: Path | None = None, stdout: int | None = None) -> float:
    """Run `benchmarks.probe` with these arguments; the peak that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.probe", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ if ledger is None else {**os.environ, "TALLY_LEDGER": str(ledger)},
        stdout=subprocess.DEVNULL if stdout is None else stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    check(done.returncode == 0, f"{arguments[0]} ended with {done.returncode}: {done.stderr[-500:]}")
    return int(done.stderr.split()[-1]) / 1024


def _tally_has(command: str) -> bool:
    """Whether `tally` has this command yet."""
    asked = [sys.executable, "-m", "tallystick", command, "--help"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, check=False).returncode == 0


def growth(bench: Bench) -> list[Figure]:
    """An append to a big ledger against one to a small ledger, by where the events go."""
    if not bench.big:
        raise Skipped("needs minutes and some gigabytes; ask for it with --big")
    scale = bench.scale
    with bench.place() as kept:
        small, big = kept / "small.tally", kept / "big.tally"
        _build(bench, small, scale.small_events)
        _build(bench, big, scale.big_events)
        figures = []
        for pattern in ("live sessions", "one stream", "scattered"):
            figures += _growth(bench, pattern, small, big)
    return figures


def _build(bench: Bench, path: Path, count: int) -> None:
    """A ledger of `count` small events on live sessions."""
    with Ledger.open(path) as ledger:
        events = small_events(count, live_sessions(1))
        while part := list(islice(events, BUILD_EVENTS)):
            ledger.append_many(NewEvent(kind=k, stream=s, body=b) for k, s, b in part)
    bench.say(f"growth: built {count:,} events, {path.stat().st_size / 1e9:.1f} GB")


def _growth(bench: Bench, pattern: str, small: Path, big: Path) -> list[Figure]:
    """Single appends and chunks: on a fresh copy of the small ledger, and on the big one itself.

    Both are opened anew for each round: a log that grows from nothing costs more to sync
    than one whose blocks are written over.
    """
    scale = bench.scale
    seconds: dict[tuple[str, str], list[float]] = {}
    for round_number in range(bench.rounds + 1):
        with bench.place() as place:
            copy = Path(shutil.copy(small, place / "small.tally"))
            sizes = [("small", copy, scale.small_events), ("big", big, scale.big_events)]
            for size, path, events in sizes if round_number % 2 else reversed(sizes):
                streams = _streams(pattern, round_number, events)
                with Ledger.open(path) as ledger:
                    single = _append_singly(ledger, streams, scale.growth_singles)
                    chunk = _append_chunks(ledger, streams, scale.growth_chunks, scale.chunk_events)
                    check(ledger.head().seq > events, f"{path} has not grown")
                if round_number:
                    seconds.setdefault(("single", size), []).append(single)
                    seconds.setdefault(("chunk", size), []).append(chunk)
                bench.say(f"growth: {pattern}, round {round_number}, {size}: {single:.3f} s, {chunk:.3f} s")
    figures = []
    for way, work in (
        ("single", scale.growth_singles),
        ("chunk", scale.growth_chunks * scale.chunk_events),
    ):
        at_small, at_big = (
            Timing(f"{pattern}, {way}, at {events:,}", work, "events", seconds[way, size])
            for size, events in (("small", scale.small_events), ("big", scale.big_events))
        )
        bench.timings.setdefault("growth", []).extend((at_small, at_big))
        quoted = pattern == "live sessions"
        figures.append(
            times_as_fast(
                "growth",
                f"{pattern}: {'one event' if way == 'single' else 'chunks of 1000'}, big to small",
                at_big,
                at_small,
                must=1.3 if quoted else None,
                aim=1.1 if quoted else None,
                lower_is_better=True,
                note="" if quoted else "information",
            )
        )
    return figures


def _streams(pattern: str, round_number: int, events: int) -> Iterator[str]:
    if pattern == "one stream":
        return one_stream()
    if pattern == "live sessions":
        return live_sessions(2 + round_number)
    return scattered(round_number, max(1, events // 20))


def _append_singly(ledger: Ledger, streams: Iterator[str], count: int) -> float:
    events = list(small_events(count, streams))
    with stopwatch() as elapsed:
        for kind, stream, body in events:
            ledger.append(kind, body, stream=stream)
    return elapsed[0]


def _append_chunks(ledger: Ledger, streams: Iterator[str], chunks: int, size: int) -> float:
    events = [NewEvent(kind=k, stream=s, body=b) for k, s, b in small_events(chunks * size, streams)]
    with stopwatch() as elapsed:
        for part in chunks_of(size, events):
            ledger.append_many(part)
    return elapsed[0]
