"""How everything here is measured: contenders take turns, a round is thrown away, medians are quoted.

A contender is a function that gets an empty directory, does its own preparing and checking, and
returns the seconds that count. A row of the table makes one or more figures from such races.
"""

from __future__ import annotations

import gc
import os
import platform
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import apsw

from tallystick.ledger.sqlite.connection import filesystem_type

#: One round in an empty directory: the seconds that count.
Run = Callable[[Path], float]

FSYNC_SAMPLES: Final = 200
FSYNC_BYTES: Final = 8192
#: File systems in memory, where nothing is ever synced to a disk.
MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})
PACKAGES: Final = (
    "apsw",
    "blake3",
    "conceptkernel",
    "eventsourcing",
    "msgspec",
    "orjson",
    "rfc8785",
    "sqlite-utils",
    "tallystick",
)


class Skipped(Exception):
    """A row that cannot be measured here, and why."""


@dataclass(frozen=True)
class Scale:
    """How much work a round does."""

    chunks: int = 50
    chunk_events: int = 1000
    thread_appends: int = 500
    single_appends: int = 3000
    verify_events: int = 200_000
    jobs_events: int = 400_000
    memory_events: int = 1_000_000
    small_events: int = 10_000
    big_events: int = 10_000_000
    growth_singles: int = 300
    growth_chunks: int = 20
    session_actions: int = 1000
    decisions: int = 1000
    memory_items: int = 10_000


FULL: Final = Scale()
QUICK: Final = Scale(
    chunks=10,
    thread_appends=100,
    single_appends=500,
    verify_events=20_000,
    jobs_events=60_000,
    memory_events=50_000,
    big_events=300_000,
    growth_singles=100,
    growth_chunks=10,
    session_actions=200,
    decisions=300,
    memory_items=2000,
)


@dataclass(frozen=True)
class Timing:
    """What a contender did a round, and how long each round took."""

    name: str
    work: int
    unit: str
    seconds: list[float]

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    def rate(self, seconds: float) -> float:
        """Units of work a second."""
        return self.work / seconds


@dataclass(frozen=True)
class Figure:
    """One line of the table: a value held against what it must be and what it aims at."""

    row: str
    name: str
    value: float
    low: float
    high: float
    unit: str = "×"
    must: float | None = None
    aim: float | None = None
    lower_is_better: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """`ok, aim`, `ok`, `miss`, or nothing for a figure that is information."""
        if self.must is None:
            return ""
        if self.aim is not None and self._meets(self.aim):
            return "ok, aim"
        return "ok" if self._meets(self.must) else "miss"

    def _meets(self, bound: float) -> bool:
        return self.value <= bound if self.lower_is_better else self.value >= bound


@dataclass
class Bench:
    """Where and how often to measure, and the timings collected so far."""

    directory: Path
    rounds: int = 7
    scale: Scale = FULL
    big: bool = False
    timings: dict[str, list[Timing]] = field(default_factory=dict)
    say: Callable[[str], None] = lambda message: None

    @contextmanager
    def place(self) -> Iterator[Path]:
        """An empty directory, removed afterwards."""
        path = Path(tempfile.mkdtemp(prefix="tallystick-bench-", dir=self.directory))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def race(
        self, row: str, contenders: Sequence[tuple[str, Run]], work: int, unit: str = "events"
    ) -> list[Timing]:
        """Run the contenders in turns, `rounds` times after one warm-up; each round in fresh files.

        The one that starts a round changes from round to round.
        """
        seconds: dict[str, list[float]] = {name: [] for name, _ in contenders}
        for round_number in range(self.rounds + 1):
            start = round_number % len(contenders)
            for name, run in (*contenders[start:], *contenders[:start]):
                with self.place() as path:
                    elapsed = run(path)
                if round_number:
                    seconds[name].append(elapsed)
                self.say(f"{row}: round {round_number}, {name}: {elapsed:.3f} s")
        timings = [Timing(name, work, unit, seconds[name]) for name, _ in contenders]
        self.timings.setdefault(row, []).extend(timings)
        return timings


def times_as_fast(row: str, name: str, peer: Timing, ours: Timing, **bounds: Any) -> Figure:
    """How many times as fast as the peer: ratio of medians, with the extremes of single rounds."""
    pairs = [theirs / mine for theirs, mine in zip(peer.seconds, ours.seconds, strict=True)]
    return Figure(row, name, peer.median_s / ours.median_s, min(pairs), max(pairs), **bounds)


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Time a block into the list it yields. The garbage of what came before is collected first,
    and what is alive (the input) is set aside from the collector; it stays on."""
    gc.collect()
    gc.freeze()
    elapsed: list[float] = []
    started = time.perf_counter()
    try:
        yield elapsed
    finally:
        elapsed.append(time.perf_counter() - started)
        gc.unfreeze()


def chunks_of(size: int, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Consecutive slices of `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def check(condition: bool, what: str) -> None:
    """A measurement of work that was not done is worse than none."""
    if not condition:
        raise RuntimeError(f"the benchmark's own check failed: {what}")


# -- the machine -------------------------------------------------------------------------


def disk_directory() -> Path:
    """The first usual directory for temporary files that is not in memory."""
    for candidate in (Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()):
        if candidate.is_dir() and filesystem_type(candidate) not in MEMORY_FILESYSTEMS:
            return candidate
    raise Skipped("every directory for temporary files is in memory; name one on a disk with --dir")


def fsync_ms(directory: Path) -> float:
    """Median time of an 8 KiB write and its fsync, in milliseconds."""
    samples = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(FSYNC_SAMPLES):
            started = time.perf_counter()
            os.write(file.fileno(), bytes(FSYNC_BYTES))
            os.fsync(file.fileno())
            samples.append(time.perf_counter() - started)
    return statistics.median(samples) * 1000


def machine(directory: Path) -> dict[str, Any]:
    """What the absolute figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "file system": filesystem_type(directory),
        "fsync ms": round(fsync_ms(directory), 3),
        "python": platform.python_version(),
        "sqlite (sqlite3)": sqlite3.sqlite_version,
        "sqlite (apsw)": apsw.sqlite_lib_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# -- the table ---------------------------------------------------------------------------


def figures_table(figures: Iterable[Figure]) -> str:
    """The figures as a Markdown table."""
    rows: list[tuple[str, ...]] = [("row", "figure", "value", "lowest to highest", "must", "aim", "")]
    for f in figures:
        rows.append(
            (
                f.row,
                f.name + (f" ({f.note})" if f.note else ""),
                _number(f.value, f.unit),
                f"{_number(f.low, f.unit)} to {_number(f.high, f.unit)}",
                _bound(f.must, f),
                _bound(f.aim, f),
                f.verdict,
            )
        )
    return _table(rows)


def timings_table(timings: dict[str, list[Timing]]) -> str:
    """The absolute figures as a Markdown table: units a second, of the median and extreme rounds."""
    rows: list[tuple[str, ...]] = [("row", "contender", "a second", "lowest to highest", "of", "rounds")]
    for row, entries in timings.items():
        for t in entries:
            slowest, fastest = t.rate(max(t.seconds)), t.rate(min(t.seconds))
            rows.append(
                (
                    row,
                    t.name,
                    f"{t.rate(t.median_s):,.0f}",
                    f"{slowest:,.0f} to {fastest:,.0f}",
                    f"{t.work:,} {t.unit}",
                    str(len(t.seconds)),
                )
            )
    return _table(rows)


def _number(value: float, unit: str) -> str:
    return f"{value:.2f}" if unit == "×" else f"{value:,.3g} {unit}" if value < 10 else f"{value:,.0f} {unit}"


def _bound(bound: float | None, figure: Figure) -> str:
    return "" if bound is None else ("≤ " if figure.lower_is_better else "≥ ") + f"{bound:g}"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(rows[0]), line("-" * width for width in widths), *map(line, rows[1:])])
