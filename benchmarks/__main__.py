"""`python -m benchmarks [ROW …]`: measure, print the tables, write JSON beside them."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from . import (
    rows_append,
    rows_commit,
    rows_gateway,
    rows_kernel,
    rows_scale,
    rows_session,
    rows_verify,
    rows_views,
)
from .harness import (
    FULL,
    QUICK,
    Bench,
    Figure,
    Skipped,
    disk_directory,
    figures_table,
    machine,
    timings_table,
)

ROWS: Final[dict[str, Callable[[Bench], list[Figure]]]] = {
    "append_many": rows_append.append_many,
    "recorder": rows_append.against_recorder,
    "application": rows_append.against_application,
    "threads": rows_commit.threads,
    "singles": rows_commit.singles,
    "verify": rows_verify.verify,
    "jobs": rows_verify.jobs,
    "memory": rows_scale.memory,
    "growth": rows_scale.growth,
    "catch_up": rows_views.catch_up,
    "kernel": rows_kernel.kernel,
    "sessions": rows_session.sessions,
    "decide": rows_gateway.decide,
    "sqlite_utils": rows_append.against_sqlite_utils,
}
ROUNDS_MIN: Final = 5
HERE: Final = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Run the rows asked for; 0 unless a measurement could not be trusted."""
    options = _options(arguments)
    try:
        directory = options.dir or disk_directory()
    except Skipped as error:
        print(error, file=sys.stderr)
        return 2
    directory.mkdir(parents=True, exist_ok=True)
    bench = Bench(directory, options.rounds, QUICK if options.quick else FULL, options.big, say=_say)
    facts = machine(directory)
    figures: list[Figure] = []
    skipped: dict[str, str] = {}
    for row in options.row or ROWS:
        try:
            figures += ROWS[row](bench)
        except Skipped as error:
            skipped[row] = str(error)
            _say(f"{row}: skipped: {error}")
    _say("")
    facts["fsync ms, afterwards"] = machine(directory)["fsync ms"]
    print(_report(bench, facts, figures, skipped))
    options.json.write_text(json.dumps(_result(bench, facts, figures, skipped), indent=1) + "\n", "utf-8")
    print(f"\nevery round in {options.json}", file=sys.stderr)
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("row", nargs="*", metavar="ROW", help=f"which rows (all): {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: to try, not to quote")
    parser.add_argument(
        "--big", action="store_true", help="the row `growth` too: a ledger of 10 million events"
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds after the warm-up (7)")
    parser.add_argument("--dir", type=Path, help="where the files go; must be on a disk")
    parser.add_argument("--json", type=Path, default=HERE / "results.json", metavar="FILE")
    options = parser.parse_args(arguments)
    for row in options.row:
        if row not in ROWS:
            parser.error(f"there is no row {row!r}; the rows are {', '.join(ROWS)}")
    if options.rounds < ROUNDS_MIN:
        parser.error(f"--rounds must be at least {ROUNDS_MIN}: a median of fewer says little")
    return options


def _report(bench: Bench, facts: dict[str, Any], figures: list[Figure], skipped: dict[str, str]) -> str:
    parts = [
        ", ".join(f"{name} {value}" for name, value in facts.items() if name != "packages"),
        ", ".join(f"{name} {version}" for name, version in facts["packages"].items()),
        "",
        figures_table(figures),
    ]
    if bench.timings:
        parts += ["", timings_table(bench.timings)]
    parts += [f"\n{row}: skipped: {why}" for row, why in skipped.items()]
    return "\n".join(parts)


def _result(
    bench: Bench, facts: dict[str, Any], figures: list[Figure], skipped: dict[str, str]
) -> dict[str, Any]:
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "scale": dataclasses.asdict(bench.scale),
        "rounds": bench.rounds,
        "figures": [dataclasses.asdict(figure) | {"verdict": figure.verdict} for figure in figures],
        "timings": {
            row: [dataclasses.asdict(timing) | {"median_s": timing.median_s} for timing in timings]
            for row, timings in bench.timings.items()
        },
        "skipped": skipped,
    }


def _say(message: str) -> None:
    """Progress, on stderr: on a terminal one line that changes, else nothing."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
