"""Verification in several processes: each walks a span, the caller joins the spans.

Threads would only take turns. The workers are fresh interpreters running this module, not
forks, so an open ledger, other threads and an unguarded main script do no harm.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from .errors import TallyError, Unavailable
from .sqlite import SQLiteStore
from .walk import Finding, Problem, Reader, Walk, diagnose

_SPAN_EVENTS_MIN: Final = 1000


class _SpanResult(msgspec.Struct):
    """What a worker found, as one JSON line."""

    events: int
    last: int
    last_hash: bytes
    ledger_id: bytes | None
    finding: Finding | None
    erasures: list[str]


class _Failure(msgspec.Struct):
    """Why a worker could not look."""

    error: str


def walk_in_processes(path: Path, reader: Reader, jobs: int, progress: Callable[[int], None] | None) -> Walk:
    """Walk the whole log at `path` in `jobs` processes; the same outcome as one walk.

    Each span is linked to the stored hash of the event before it, which the span before
    derives again, so nothing falls between two spans.
    """
    last = reader.head().seq
    jobs = max(1, min(jobs, last // _SPAN_EVENTS_MIN))
    bounds = [last * job // jobs for job in range(jobs)]
    workers = [
        _Worker(path, after, bounds[index + 1] if index + 1 < jobs else None)
        for index, after in enumerate(bounds)
    ]
    try:
        while any(worker.running for worker in workers):
            for worker in workers:
                worker.wait(0.1)
            if progress is not None:
                progress(sum(worker.events for worker in workers))
        return _join([(worker.result(), worker.last) for worker in workers], reader)
    finally:
        for worker in workers:
            worker.stop()


def _join(results: list[tuple[_SpanResult, int | None]], reader: Reader) -> Walk:
    whole = Walk(None)
    for result, planned_last in results:
        whole.events += result.events
        whole.last, whole.last_hash = result.last, result.last_hash
        whole.ledger_id = whole.ledger_id or result.ledger_id
        whole.erasures.absorb(result.erasures)
        whole.finding = result.finding
        if whole.finding is None and planned_last is not None and result.last < planned_last:
            missing = result.last + 1
            following = next(reader.read_raw(result.last), None)  # of a later span
            whole.finding = (
                Finding(missing, Problem.GAP, f"event {missing} is missing")
                if following is None
                else diagnose(following, missing, result.last_hash)
            )
        if whole.finding is not None:
            break
    return whole


class _Worker:
    """One process that walks the events after `after`, up to `last` or the log's end."""

    def __init__(self, path: Path, after: int, last: int | None) -> None:
        self.last = last
        self.events = 0
        self._answer = b""
        command = [
            sys.executable,
            "-P",
            "-m",
            __name__,
            str(path),
            str(after),
            "" if last is None else str(last),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def _listen(self, lines: IO[bytes]) -> None:
        for line in lines:
            if line.startswith(b"{"):
                self._answer = line
            else:
                self.events = int(line)

    @property
    def running(self) -> bool:
        return self._listener.is_alive()

    def wait(self, timeout_s: float) -> None:
        self._listener.join(timeout_s)

    def result(self) -> _SpanResult:
        self._listener.join()
        code = self._process.wait()
        if not self._answer:
            assert self._process.stderr is not None
            said = self._process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
            raise Unavailable(
                "verify", f"a worker process ended with status {code}: {' '.join(said)}", "try --jobs 1"
            )
        if code:
            raise TallyError(msgspec.json.decode(self._answer, type=_Failure).error)
        return msgspec.json.decode(self._answer, type=_SpanResult)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


def main(path: str, after: str, last: str) -> int:
    """The worker: print progress as numbers and the result as one JSON line."""
    try:
        answer: Any = _walk_span(Path(path), int(after), int(last) if last else None)
        code = 0
    except TallyError as error:
        answer, code = _Failure(str(error)), 3
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    return code


def _walk_span(path: Path, after: int, last: int | None) -> _SpanResult:
    store = SQLiteStore(path, read_only=True)
    try:
        before = None
        if after:
            row = next(store.read_raw(after - 1, after + 1), None)
            # Without a usable row here the span before ends in a finding, and this one is moot.
            before = (after, row[10] if row is not None and isinstance(row[10], bytes) else b"")
        walk = Walk(before)
        rows = store.read_raw(after or None, None if last is None else last + 1)
        walk.run(rows, lambda events: print(events, flush=True))
    finally:
        store.close()
    return _SpanResult(
        walk.events, walk.last, walk.last_hash, walk.ledger_id, walk.finding, walk.erasures.dump()
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
