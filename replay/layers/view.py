"""The layer `view`: projections built anew, against the stored tables and the sealed digests.

Each projection is compared as of the event that its tables were built up to: nothing is caught up first. One
pass over the events builds everything, stopping wherever there is something to compare.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tallystick.events import projection as events
from tallystick.ledger import records
from tallystick.ledger.errors import Unavailable
from tallystick.ledger.headfile import beside
from tallystick.ledger.ledger import Ledger
from tallystick.projections.digest import digest_in, select
from tallystick.projections.errors import NotViews
from tallystick.projections.file import ENGINE_VERSION, SUFFIX, State
from tallystick.projections.projection import Projection, Table, check_projections, how

from ..report import Layer, Notes
from .checks import ERASED, Body, Checks, read_body
from .rebuilt import Rebuilt, rebuilt
from .stored_indexes import Indexes
from .stored_schema import NO_STATE, NOT_BUILT, check_indexes, check_schema, has_tables
from .stored_views import Changed, engine_version, has_any, states_in, stored

NO_FILE: Final = "there is no views file beside the ledger"
NOT_VIEWS: Final = "what lies in the place of the views file is something else"
OTHER_LEDGER: Final = "the views are of another ledger"
UNREADABLE: Final = "the views file is damaged"
UNKNOWN: Final = "its definition is not known here"
OTHER_VERSION: Final = "its tables were built by another version of its definition"
BEYOND: Final = "its tables are further than the replay goes"
ERASED_SINCE: Final = "bodies that went into it were erased since"
FAILS: Final = "the projection fails at an earlier event"
_ATTEMPTS_MAX: Final = 5
_VIEWS: Final = "views"

Progress = Callable[[int], None]
#: What there is to compare once the tables are built up to an event.
_Job = Callable[[Rebuilt], None]
_Row = tuple[Any, ...]


def check_views(
    ledger: Ledger,
    last: int,
    notes: Notes,
    projections: Sequence[Projection],
    views: str | os.PathLike[str] | None,
    progress: Progress,
    *,
    bounded: bool,
) -> None:
    """Compare what is stored and sealed up to event `last`. Raises BadProjection, Unavailable.

    bounded: tables that go beyond `last` are not looked at; else the log has merely grown meanwhile.
    """
    path = beside(ledger.path, SUFFIX) if ledger.path is not None and views is None else None
    path = Path(views) if views is not None else path
    for _ in range(_ATTEMPTS_MAX):
        found = Notes((Layer.VIEW,))
        look = _Look(ledger, projections, found, last, bounded)
        look.add_seals()
        try:
            if path is None or not has_any(path):
                found.not_rederivable(Layer.VIEW, last, _VIEWS, NO_FILE)
                look.run(progress)
            else:
                _compare_stored(path, look, progress)
        except Changed:
            continue
        notes.absorb(found)
        return
    raise Unavailable(str(path), "is written to all the time", "try again later")


def _compare_stored(path: Path, look: _Look, progress: Progress) -> None:
    try:
        with stored(path) as con, closing(Indexes(con, look.ledger_id)) as indexes:
            look.add_tables(con, indexes)
            look.run(progress)
    except NotViews:
        look.notes.not_rederivable(Layer.VIEW, look.last, _VIEWS, NOT_VIEWS)
        look.run(progress)


class _Stored(NamedTuple):
    """A views file that is open to be read."""

    con: sqlite3.Connection
    indexes: Indexes


class _Look:
    """What there is to compare, by the event that it is as of."""

    def __init__(
        self, ledger: Ledger, projections: Sequence[Projection], notes: Notes, last: int, bounded: bool
    ) -> None:
        self.notes = notes
        self.last = last
        self._bounded = bounded
        self._ledger = ledger
        head = ledger.head()
        assert head.ledger_id is not None, "a ledger's own head names it"
        self.ledger_id: Final = head.ledger_id
        self._known = check_projections(list(projections))
        self._jobs: dict[int, list[_Job]] = {}

    def run(self, progress: Progress) -> None:
        """Build everything up to each event that something is compared as of, and compare."""
        if not self._jobs:
            return
        stops = sorted(self._jobs)
        with rebuilt(self._ledger, self._known.values(), stops[-1]) as tables:
            for seq in stops:
                tables.run_to(seq, progress)
                for job in self._jobs[seq]:
                    job(tables)

    # -- seals -----------------------------------------------------------------------------

    def add_seals(self) -> None:
        """Every `projection.sealed` up to the last event."""
        for row in self._ledger.rows(before=self.last + 1, kinds=[events.SEALED]):
            checks = Checks(self.notes, Layer.VIEW, row.seq)
            body = read_body(row)
            if not isinstance(body, Body):
                checks.cannot("digest", ERASED if row.body is None else "its body is malformed")
                continue
            seal: events.ProjectionSealed = body.struct
            projection = self._known.get(seal.name)
            if projection is None:
                checks.cannot("digest", UNKNOWN)
            elif projection.version != seal.version:
                checks.cannot("digest", OTHER_VERSION)
            elif not 0 <= seal.seq < row.seq:
                checks.wrong("seq", f"it seals what was at event {seal.seq}, which is not before it")
            else:
                job = self._seal_job(checks, projection, seal)
                self._jobs.setdefault(seal.seq, []).append(job)

    def _seal_job(self, checks: Checks, projection: Projection, seal: events.ProjectionSealed) -> _Job:
        def compare(tables: Rebuilt) -> None:
            if projection.name in tables.failed:
                checks.cannot("digest", FAILS)
                return
            again = digest_in(tables.con, projection)
            if again != seal.digest and self._erased_since(checks.seq, seal.seq, projection):
                checks.cannot("digest", ERASED_SINCE)
            else:
                checks.equal("digest", again, seal.digest, f"{seal.name} as of event {seal.seq}")

        return compare

    # -- stored tables -----------------------------------------------------------------------

    def add_tables(self, con: sqlite3.Connection, indexes: Indexes) -> None:
        """Every projection in a views file."""
        checks = Checks(self.notes, Layer.VIEW, self.last)
        try:
            ledger_id, states = states_in(con)
            version = engine_version(con)
        except (sqlite3.Error, msgspec.MsgspecError, UnicodeError):
            checks.wrong(_VIEWS, UNREADABLE)
            return
        if ledger_id != self.ledger_id.hex():
            checks.cannot(_VIEWS, OTHER_LEDGER)
            return
        end = self._ledger.head().seq
        # The file may have been caught up since the replay began; what is there is compared as it is.
        limit = self.last if self._bounded else end
        try:
            current = [name for name, state in states.items() if self._is_current(name, state, version)]
            check_schema(con, self.ledger_id, checks, self._known, states, current)
            for name in self._known.keys() - states.keys():
                checks.cannot(name, NO_STATE if has_tables(con, self._known[name]) else NOT_BUILT)
        except sqlite3.Error:
            checks.wrong(_VIEWS, UNREADABLE)
            return
        for name, state in states.items():
            self._add_projection(_Stored(con, indexes), name, state, version, limit, end)

    def _is_current(self, name: str, state: State, version: int) -> bool:
        """Whether the tables were built by the definition that is known here."""
        known = self._known.get(name)
        kept = (state.version, state.fingerprint)
        return known is not None and (version, *kept) == (ENGINE_VERSION, known.version, known.fingerprint())

    def _add_projection(
        self, file: _Stored, name: str, state: State, version: int, limit: int, end: int
    ) -> None:
        checks = Checks(self.notes, Layer.VIEW, max(1, min(state.seq, self.last)))
        projection = self._known.get(name)
        if projection is None:
            checks.cannot(name, UNKNOWN)
        elif not self._is_current(name, state, version):
            checks.cannot(name, OTHER_VERSION)
        elif limit < state.seq <= end:
            checks.cannot(name, BEYOND)
        elif self._follows(checks, name, state):
            if self._erased_since(state.erased_to, state.seq, projection):
                checks.cannot(name, ERASED_SINCE)
            else:
                job = self._table_job(file, checks, projection)
                self._jobs.setdefault(state.seq, []).append(job)

    def _follows(self, checks: Checks, name: str, state: State) -> bool:
        """Whether the tables were made of this history."""
        row = next(self._ledger.rows(state.seq - 1, before=state.seq + 1), None) if state.seq > 0 else None
        if state.seq == 0 and not state.hash:
            return True
        found = None if row is None else row.hash.hex()
        reason = f"its tables were made of another history, up to event {state.seq}"
        return checks.true(name, found == state.hash, found, state.hash, reason)

    def _table_job(self, file: _Stored, checks: Checks, projection: Projection) -> _Job:
        def compare(tables: Rebuilt) -> None:
            if projection.name in tables.failed:
                checks.cannot(projection.name, FAILS)
                return
            for name, table in sorted(projection.tables.items()):
                expected = select(tables.con, name, table)
                try:
                    actual = _stored_rows(file.con, name, table)
                    # Where rows differ, their index does, too.
                    if self._compare(name, table, expected, actual, checks.seq) and table.search:
                        problem = file.indexes.problem(name, table)
                        checks.true(f"{name}_fts", problem is None, "as the rows", "otherwise", problem)
                    check_indexes(file.con, checks, name)
                except _Damaged as error:
                    checks.wrong(name, f"its table cannot be read: {error}")

        return compare

    def _compare(
        self, name: str, table: Table, expected: Iterator[_Row], actual: Iterator[_Row], seq: int
    ) -> bool:
        """Hold two tables against each other, both in the order of their keys; whether they are the same."""
        places = [list(table.columns).index(column) for column in table.key]
        ours, theirs = next(expected, None), next(actual, None)
        matched = 0
        same = True
        while ours is not None or theirs is not None:
            one = None if ours is None else _order(ours, places)
            other = None if theirs is None else _order(theirs, places)
            same = same and one == other and _same(ours, theirs)
            if one == other:
                if _same(ours, theirs):
                    matched += 1
                else:
                    self._note(name, table, ours, theirs, places, seq)
                ours, theirs = next(expected, None), next(actual, None)
            elif other is None or (one is not None and one < other):
                self._note(name, table, ours, None, places, seq)
                ours = next(expected, None)
            else:
                self._note(name, table, None, theirs, places, seq)
                theirs = next(actual, None)
        self.notes.match(Layer.VIEW, matched)
        return same

    def _note(
        self, name: str, table: Table, ours: _Row | None, theirs: _Row | None, places: list[int], seq: int
    ) -> None:
        row = ours if ours is not None else theirs
        assert row is not None
        place = table.place("seq", "seq")
        at = row[list(table.columns).index(place)] if place is not None else None
        if type(at) is not int or not 0 < at <= seq:
            at = seq
        key = ", ".join(str(_plain(row[index]))[:100] for index in places)
        reason = None
        if ours is None or theirs is None:
            reason = "the row is missing" if theirs is None else "there should be no such row"
        expected, actual = (None if each is None else _named(table, each) for each in (ours, theirs))
        Checks(self.notes, Layer.VIEW, at).equal(f"{name}[{key}]", expected, actual, reason)

    # -- erasures ----------------------------------------------------------------------------

    def _erased_since(self, after: int, applied: int, projection: Projection) -> bool:
        """Whether a body that the projection was given, up to event `applied`, was erased behind `after`."""
        kinds = [records.BODY_ERASED]
        for record in self._ledger.rows(after, stream=records.STREAM, kinds=kinds):
            body = read_body(record)
            if not isinstance(body, Body) or not 0 < body.struct.seq <= applied:
                continue
            seq = body.struct.seq
            row = next(self._ledger.rows(seq - 1, before=seq + 1), None)
            if row is None or not row.stream.startswith(projection.stream_prefix):
                continue
            if all(how(projection.bodies(), row.kind)):
                return True
        return False


class _Damaged(Exception):
    """A stored table cannot be read to its end."""


def _stored_rows(con: sqlite3.Connection, name: str, table: Table) -> Iterator[_Row]:
    try:
        yield from select(con, name, table)
    except sqlite3.Error as error:
        raise _Damaged(type(error).__name__) from error


def _same(ours: _Row | None, theirs: _Row | None) -> bool:
    """Whether two rows hold the same values of the same types."""
    return (
        ours == theirs
        and ours is not None
        and theirs is not None
        and (list(map(type, ours)) == list(map(type, theirs)))
    )


def _order(row: _Row, places: list[int]) -> tuple[tuple[int, Any], ...]:
    """A row's key as SQLite orders it: NULL, numbers, text, bytes."""
    return tuple([_rank(row[index]) for index in places])


def _rank(value: Any) -> tuple[int, Any]:
    if value is None:
        return 0, 0
    if isinstance(value, int | float):
        return 1, value
    return (2, value) if isinstance(value, str) else (3, value)


def _named(table: Table, row: _Row) -> dict[str, Any]:
    return dict(zip(table.columns, map(_plain, row), strict=True))


def _plain(value: Any) -> Any:
    """A stored value as JSON."""
    return value.hex() if isinstance(value, bytes) else value
