"""One projection at work: which events it is given, in which form, and what happens when it fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from tallystick.ledger.errors import MalformedEvent
from tallystick.ledger.event import Event, Row

from .errors import ProjectionFailed
from .file import State, ViewsFile
from .projection import JSON, Projection
from .tables import Rows, Tables

#: Kinds whose treatment is remembered, of each projection.
_KINDS_MAX: Final = 10_000
_WHY_MAX: Final = 300
#: Result codes (https://www.sqlite.org/rescode.html) that rows can be the cause of.
_FROM_ROWS: Final = frozenset(
    {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_MISUSE,
    }
)

#: How a body is wanted: whether at all, and by which decoder; None for plain JSON.
_Plan = tuple[bool, Callable[[bytes], Any] | None]


class Shared:
    """The rows of a chunk, and the events made of them, which the projections have in common."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        #: Kind to the places of its rows, in order.
        self.by_kind: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            self.by_kind.setdefault(row.kind, []).append(index)
        self._plain: list[Event | None] = [None] * len(rows)
        self._decoded: list[Event | None] = [None] * len(rows)

    def plain(self, index: int) -> Event:
        """The event without body and meta."""
        event = self._plain[index]
        if event is None:
            event = self._plain[index] = _bare(self.rows[index], None, None)
        return event

    def decoded(self, index: int) -> Event:
        """The event with body and meta. Raises MalformedEvent."""
        event = self._decoded[index]
        if event is None:
            event = self._decoded[index] = Event.from_row(self.rows[index])
        return event


def _bare(row: Row, meta: Any, body: Any) -> Event:
    seq, at, kind, stream, key, _, _, stored, body_hash, prev_hash, digest = row
    return Event(seq, at, kind, stream, key, meta, body, stored is None, body_hash, prev_hash, digest)


class Runner:
    """One projection at work on one views file."""

    def __init__(self, projection: Projection, file: ViewsFile) -> None:
        self.projection = projection
        self.name = projection.name
        self.fingerprint = projection.fingerprint()
        self.tables = Tables({name: Rows(file.con, name, table) for name, table in projection.tables.items()})
        searched = (f"{name}_fts" for name, table in projection.tables.items() if table.search)
        self.table_names = [*projection.tables, *searched]
        self._file = file
        self._plans: dict[str, _Plan] = {}
        self._unwanted: set[str] = set()

    def state(self, erased_to: int) -> State:
        """The state of tables that are empty."""
        return State(
            name=self.name,
            version=self.projection.version,
            fingerprint=self.fingerprint,
            tables=sorted(self.projection.tables),
            bodies=self.projection.bodies(),
            erased_to=erased_to,
        )

    def run(self, shared: Shared) -> ProjectionFailed | None:
        """Apply events and write their rows, in the caller's transaction.

        If one fails, those before it are written, and nothing of it and of those behind it.
        """
        try:
            self._run(shared)
            return None
        except Exception as error:
            if is_files(error):
                raise
        # Again, writing after each event, to find the one whose rows are at fault.
        seen: list[Row] = []
        try:
            self._run(shared, seen)
            return None
        except Exception as error:
            if is_files(error):
                raise
            failed = (seen or shared.rows)[-1].seq
            cause = f"{type(error).__name__}: {_said(error)}"
            failure = ProjectionFailed(self.name, failed, cause)
            failure.__cause__ = error
        sound = [row for row in shared.rows if row.seq < failed]
        if sound:
            self._run(Shared(sound))
        return failure

    def _run(self, shared: Shared, seen: list[Row] | None = None) -> None:
        """Apply and write all, or nothing. With `seen` slowly, noting each event before it is applied."""
        plans, apply, tables = self._plans, self.projection.apply, self.tables
        applies_erased, prefix = self.projection.apply_erased, self.projection.stream_prefix
        try:
            with self._file.savepoint():
                for index in self._wanted(shared):
                    row = shared.rows[index]
                    if prefix and not row.stream.startswith(prefix):
                        continue
                    wants_body, decode = plans[row.kind]
                    if not wants_body:
                        event = shared.plain(index)
                    elif row.body is None:
                        if not applies_erased:
                            continue
                        event = shared.plain(index)
                    else:
                        try:
                            if decode is None:
                                event = shared.decoded(index)
                            else:
                                event = _bare(row, _meta(row), decode(row.body))
                        except (MalformedEvent, msgspec.MsgspecError, ValueError, RecursionError) as error:
                            self._file.skip(self.name, row.seq, _said(error))
                            continue
                    if seen is not None:
                        seen.append(row)
                    apply(event, tables)
                    if seen is not None:
                        tables.flush()
                tables.flush()
        except BaseException:
            tables.discard()
            raise

    def _wanted(self, shared: Shared) -> Sequence[int]:
        """The places of the rows whose kinds are wanted, in order; each such kind has its plan."""
        if len(self._plans) + len(self._unwanted) > _KINDS_MAX:
            self._plans.clear()
            self._unwanted.clear()
        places = []
        for kind, indices in shared.by_kind.items():
            if kind not in self._plans and kind not in self._unwanted:
                self._plan(kind)
            if kind in self._plans:
                places.append(indices)
        if len(places) == len(shared.by_kind):
            return range(len(shared.rows))
        return sorted(chain.from_iterable(places))

    def _plan(self, kind: str) -> None:
        wanted, body = self.projection.how(kind)
        if not wanted:
            self._unwanted.add(kind)
            return
        typed = body is not None and body is not JSON
        self._plans[kind] = (body is not None, msgspec.json.Decoder(body).decode if typed else None)


def _said(error: Exception) -> str:
    """What an error says, bounded, as text that can be stored."""
    return str(error)[:_WHY_MAX].encode("utf-8", "replace").decode()


def _meta(row: Row) -> Any:
    return None if row.meta is None else msgspec.json.decode(row.meta)


def is_files(error: Exception) -> bool:
    """Whether the file or the machine is at fault, and not the projection."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, sqlite3.Error):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python's own: of a row that cannot be bound, or of one that cannot be read
        return isinstance(error, sqlite3.OperationalError)
    return code & 0xFF not in _FROM_ROWS
