"""Catching up: events not yet applied go to every projection that wants them, a chunk a transaction.

A chunk begins with the write lock and reads the positions under it, so processes that catch up at once
take turns and never apply an event twice. It ends with one commit of rows and positions together: a
crash leaves whole chunks, and the next catch-up goes on from there. Rows of the ledger are read as of
the head that was taken when the catch-up began; the ledger is never locked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from tallystick.ledger import records
from tallystick.ledger.event import Head, Row
from tallystick.ledger.ledger import Ledger

from .errors import ProjectionFailed
from .file import State, ViewsFile
from .projection import Projection, how
from .runner import Runner, Shared, is_files

CHUNK_EVENTS: Final = 10_000
CHUNK_BYTES: Final = 8 << 20
#: The state of a projection that is in the file and not among those given.
NOT_OURS: Final = "not ours"

Progress = Callable[[int], None]


class ViewStatus(msgspec.Struct, frozen=True):
    """How one projection stands.

    state: `current`, `behind`, `not built`, `stale` (of another version or another history: it will be
        built anew), `failed`, or `not ours` (another program defines it and keeps it up).
    seq: the last event applied. behind: events appended since.
    rows: table to number of rows. skipped: events whose bodies were not as expected.
    failure: what went wrong, and at which event.
    """

    name: str
    version: int
    state: str
    seq: int
    behind: int
    rows: dict[str, int]
    skipped: int
    failure: str | None

    @classmethod
    def unbuilt(cls, projection: Projection, behind: int) -> ViewStatus:
        """Of a projection that has no tables yet."""
        return cls(projection.name, projection.version, "not built", 0, behind, {}, 0, None)


class Engine:
    """Keeps the projections of one open views file up with a ledger. Its owner holds a lock."""

    def __init__(self, file: ViewsFile, ledger: Ledger, projections: Iterable[Projection]) -> None:
        self._file = file
        self._ledger = ledger
        self._runners = {projection.name: Runner(projection, file) for projection in projections}
        self._reached: Head | None = None
        self._changes = -1
        self._emptied_now: set[str] = set()

    def catch_up(self, head: Head, progress: Progress | None = None) -> dict[str, ProjectionFailed]:
        """Apply everything up to `head`; the projections that failed, by name.

        When this returns, no text that was erased up to `head` is left in the file, unless its readers
        were in the way (see `ViewsFile.scrub_due`).
        """
        if self._reached == head and self._changes == self._file.changes():
            return {}
        failed: dict[str, ProjectionFailed] = {}
        self._emptied_now.clear()
        applied = 0
        self._file.query_only(False)
        try:
            while (count := self._chunk(head, failed)) is not None:
                applied += count
                if progress is not None:
                    progress(applied)
            scrubbed = not self._file.scrub_due() or self._file.scrub()
        finally:
            self._file.query_only(True)
        self._reached = head if scrubbed and not failed else None
        return failed

    def status(self, head: Head) -> list[ViewStatus]:
        """How each projection stands, as of the last commit."""
        if not self._file.identified():
            return [ViewStatus.unbuilt(runner.projection, head.seq) for runner in self._runners.values()]
        states = self._file.states()
        ours = [self._status(runner, states.get(runner.name), head) for runner in self._runners.values()]
        others = [state for name, state in states.items() if name not in self._runners]
        return [*ours, *(self._described(state, NOT_OURS, head) for state in others)]

    def _status(self, runner: Runner, state: State | None, head: Head) -> ViewStatus:
        if state is None:
            return ViewStatus.unbuilt(runner.projection, head.seq)
        if self._is_stale(runner.name, state):
            word = "stale"
        elif state.failure is not None:
            word = "failed"
        else:
            word = "current" if state.seq >= head.seq else "behind"
        return self._described(state, word, head)

    def _described(self, state: State, word: str, head: Head) -> ViewStatus:
        failure = None if state.failure is None else f"at event {state.failed_seq}: {state.failure}"
        return ViewStatus(
            name=state.name,
            version=state.version,
            state=word,
            seq=state.seq,
            behind=max(0, head.seq - state.seq),
            rows=self._file.count(state.tables),
            skipped=self._file.skipped(state.name),
            failure=failure,
        )

    def reset(self, names: Iterable[str] | None) -> None:
        """Empty the tables of these projections, or the whole file, so that they are built anew."""
        self._file.query_only(False)
        try:
            with self._file.immediate():
                self._file.ensure_identity(anew=names is None)
                for name, state in self._file.states().items():
                    if name in (names or ()):
                        self._file.forget(state)
        finally:
            self._file.query_only(True)
            self._reached = None
        for runner in self._runners.values():
            runner.tables.discard()

    # -- one transaction -----------------------------------------------------------------

    def _chunk(self, head: Head, failed: dict[str, ProjectionFailed]) -> int | None:
        """Apply one chunk to the projections that are furthest; how many events, None if none was left."""
        file = self._file
        file.check_place()
        with file.immediate():
            self._notice_others()
            file.ensure_identity()
            states = self._settled(file.states(), head)
            left = {
                name: state for name, state in states.items() if name not in failed and state.seq < head.seq
            }
            if not left:
                return None
            # Those nearest to the end first: one that is new or failing keeps nobody waiting.
            furthest = max(state.seq for state in left.values())
            group = [name for name, state in left.items() if state.seq == furthest]
            rows = self._read(furthest, head)
            if not rows:
                return None
            shared = Shared(rows)
            for name in group:
                state = states[name]
                was_sound = state.failed_seq is None and state.seq > 0 and name not in self._emptied_now
                failure = self._apply(state, shared)
                if failure is not None and was_sound:
                    # Perhaps its rows were damaged: what it makes of all events is what counts.
                    self._emptied(name, file.states(), head)
                elif failure is not None:
                    failed[name] = failure
        # Durable against a crash of the process from here on: rows and positions together.
        return len(rows)

    def _notice_others(self) -> None:
        """Forget rows read before another connection wrote."""
        changes = self._file.changes()
        if changes != self._changes:
            self._changes = changes
            for runner in self._runners.values():
                runner.tables.discard()

    def _apply(self, state: State, shared: Shared) -> ProjectionFailed | None:
        """Bring one projection to the end of the chunk, or to just before the event that it fails at."""
        rows = shared.rows
        failure = self._runners[state.name].run(shared)
        if failure is None:
            last: Row | None = rows[-1]
            state.failed_seq = state.failure = None
        else:
            last = next((row for row in reversed(rows) if row.seq < failure.seq), None)
            state.failed_seq, state.failure = failure.seq, failure.cause
        if last is not None:
            state.seq, state.hash = last.seq, last.hash.hex()
        self._file.save(state)
        return failure

    def _read(self, after: int, head: Head) -> list[Row]:
        rows: list[Row] = []
        size = 0
        for row in self._ledger.rows(after, before=head.seq + 1, limit=CHUNK_EVENTS):
            rows.append(row)
            if row.body is not None:
                size += len(row.body)
                if size > CHUNK_BYTES:
                    break
        return rows

    # -- before events are applied: do the tables hold what they should? ---------------------

    def _settled(self, states: dict[str, State], head: Head) -> dict[str, State]:
        """The states of our projections, once erasures are accounted for and stale tables are emptied."""
        stale = {name for name in self._runners if self._is_stale(name, states.get(name))}
        for name, targets in self._erased(states, head).items():
            self._file.want_scrub()
            if name not in self._runners:
                # Nobody here can derive its rows again; whoever can finds them gone, and does.
                self._file.forget(states[name])
            elif name not in stale and not self._redo(states[name], targets):
                stale.add(name)
        for name in sorted(stale):
            states[name] = self._emptied(name, states, head)
        return {name: states[name] for name in self._runners}

    def _is_stale(self, name: str, state: State | None) -> bool:
        """Whether tables were made by another definition, of another history, or are not there."""
        runner = self._runners[name]
        if state is None or (state.version, state.fingerprint) != (
            runner.projection.version,
            runner.fingerprint,
        ):
            return True
        return self._hash_at(state.seq) != state.hash or not self._file.has_tables(runner.table_names)

    def _hash_at(self, seq: int) -> str | None:
        """The hash of the event, in hex; empty before the first; None if there is no such event."""
        if seq == 0:
            return ""
        row = next(self._ledger.rows(seq - 1, before=seq + 1), None)
        return None if row is None else row.hash.hex()

    def _emptied(self, name: str, states: dict[str, State], head: Head) -> State:
        """Make the tables of a projection anew, without rows."""
        runner = self._runners[name]
        self._emptied_now.add(name)
        state = runner.state(erased_to=head.seq)
        for other in list(states.values()):
            if other.name == name or not set(other.tables).isdisjoint(state.tables):
                self._file.forget(other)
                del states[other.name]
        for table, definition in runner.projection.tables.items():
            self._file.create(table, definition)
        runner.tables.discard()
        self._file.save(state)
        return state

    # -- erasures ------------------------------------------------------------------------

    def _erased(self, states: dict[str, State], head: Head) -> dict[str, list[Row]]:
        """By projection, ours or not, the events that it applied with bodies that were erased since."""
        applied = [state for state in states.values() if state.seq and state.erased_to < head.seq]
        if not applied:
            return {}
        found: dict[str, list[Row]] = {}
        oldest = min(state.erased_to for state in applied)
        kinds = [records.BODY_ERASED]
        for record in self._ledger.rows(oldest, before=head.seq + 1, stream=records.STREAM, kinds=kinds):
            target = self._target(record)
            for state in applied:
                if target is None or target.seq > state.seq or record.seq <= state.erased_to:
                    continue
                if self._applied_body(state, target):
                    found.setdefault(state.name, []).append(target)
        for state in applied:
            state.erased_to = head.seq
            if found or state.name in self._runners:
                self._file.save(state)
        return found

    def _applied_body(self, state: State, target: Row) -> bool:
        """Whether a projection, ours or not, was given the body of an event that it has applied."""
        runner = self._runners.get(state.name)
        if runner is not None and not target.stream.startswith(runner.projection.stream_prefix):
            return False
        wanted, body = how(state.bodies, target.kind)
        return bool(wanted and body)

    def _target(self, record: Row) -> Row | None:
        """The event whose erasure is recorded."""
        try:
            seq = msgspec.json.decode(record.body or b"", type=records.BodyErased).seq
        except msgspec.MsgspecError:
            return None
        return next(self._ledger.rows(seq - 1, before=seq + 1), None) if 0 < seq < 1 << 62 else None

    def _redo(self, state: State, targets: Sequence[Row]) -> bool:
        """Derive the streams of erased events again; False if the projection has to be built anew."""
        runner = self._runners[state.name]
        if not runner.projection.forgets:
            return False
        self._file.unskip(state.name, [target.seq for target in targets])
        for stream in sorted({target.stream for target in targets}):
            try:
                runner.projection.forget(stream, runner.tables)
            except Exception as error:
                if is_files(error):
                    raise
                return False
            after = 0
            while rows := self._read_stream(stream, after, state.seq):
                if runner.run(Shared(rows)) is not None:
                    return False
                after = rows[-1].seq
        return True

    def _read_stream(self, stream: str, after: int, last: int) -> list[Row]:
        return list(self._ledger.rows(after, before=last + 1, stream=stream, limit=CHUNK_EVENTS))
