"""Run one task in this process and print the most memory it ever had resident, in KiB, on stderr.

`python -m benchmarks.probe TASK LEDGER FILE`, or `python -m benchmarks.probe tally ARGUMENTS…`
for a command of `tally` itself. The figure is VmHWM where /proc tells: getrusage would count
the memory of the process that started this one.
"""

from __future__ import annotations

import json
import resource
import runpy
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from tallystick import Event, Ledger, NewEvent


def open_only(ledger: Path, file: Path) -> None:
    """Open the ledger and do nothing more."""
    with Ledger.open(ledger, read_only=True):
        pass


def verify(ledger: Path, file: Path) -> None:
    """Verify the whole chain."""
    with Ledger.open(ledger, read_only=True) as source:
        report = source.verify()
    assert report.finding is None, report


def export(ledger: Path, file: Path) -> None:
    """Stand-in for `tally export`: every event as a JSON line."""
    with Ledger.open(ledger, read_only=True) as source, file.open("w", encoding="utf-8") as out:
        for event in source.read():
            json.dump(_line(event), out)
            out.write("\n")


def load(ledger: Path, file: Path) -> None:
    """Stand-in for `tally import`: the exported lines into a new ledger, a thousand at a time."""
    with Ledger.open(ledger) as target, file.open(encoding="utf-8") as lines:
        events = (event for line in lines if (event := _event(json.loads(line))) is not None)
        while part := list(islice(events, 1000)):
            target.append_many(part)


def tail(ledger: Path, file: Path) -> None:
    """Follow the ledger from its first event to its last."""
    with Ledger.open(ledger, read_only=True) as source:
        last = source.head().seq
        seen = sum(1 for _ in islice(source.follow(0), last))
    assert seen == last, f"the tail saw {seen} of {last} events"


def _line(event: Event) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "at": event.at,
        "kind": event.kind,
        "stream": event.stream,
        "key": event.key,
        "meta": event.meta,
        "body": event.body,
        "hash": event.hash.hex(),
    }


def _event(line: dict[str, Any]) -> NewEvent | None:
    if line["kind"].startswith("ledger."):
        return None
    return NewEvent(**{name: line[name] for name in ("kind", "stream", "key", "meta", "body", "at")})


def peak_kib() -> int:
    """The most memory that this process ever had resident."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def main(task: str, *arguments: str) -> None:
    """See the module."""
    if task == "tally":
        sys.argv = ["tally", *arguments]
        try:
            runpy.run_module("tallystick", run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    else:
        tasks = {"open": open_only, "verify": verify, "tail": tail, "export": export, "import": load}
        ledger, file = arguments
        tasks[task](Path(ledger), Path(file))
    print(peak_kib(), file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
