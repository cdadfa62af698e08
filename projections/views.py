"""Views: the read models of one ledger, caught up before every read.

    with Ledger.open("agents.tally") as ledger, Views(ledger) as views:
        views.rows("SELECT id, label, outcome FROM sessions ORDER BY first_seq DESC LIMIT 10")
        views.search("chipped mug")

Everything here follows from the ledger: the file can be deleted at any time.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import msgspec

from tallystick.ledger.errors import Closed, Unavailable
from tallystick.ledger.ledger import Ledger

from .builtin import BUILT_IN
from .digest import ProjectionDigest, digest_in
from .engine import Engine, Progress, ViewStatus
from .errors import AmbiguousPrefix, BadProjection, NoSuchId, ProjectionFailed
from .file import (
    Place,
    ViewsFile,
    cache_place,
    is_damage,
    is_moved,
    is_passing,
    is_unwritable,
    named,
    place_of,
    remove,
)
from .projection import Projection, check_projections
from .search import SEARCH_LIMIT, SearchHit, search

if TYPE_CHECKING:
    from sqlite_utils import Database

#: Times that a file found damaged or replaced is opened anew, before giving up.
_ATTEMPTS_MAX: Final = 10
_CANDIDATES_MAX: Final = 10

#: What a parent process has open, kept from being closed here: that would let go of its locks.
_of_parents: list[ViewsFile] = []
#: What a damaged file can make the engine raise; what comes of `apply` never gets that far.
_FROM_FILE: Final = (sqlite3.Error, msgspec.MsgspecError, UnicodeDecodeError)
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

T = TypeVar("T")


class Views:
    """The read models of a ledger. Safe to share between threads.

    path: the views file; default beside the ledger's, or in the user's cache directory where that cannot
    be written, or in memory for a ledger that has no file. projections: what is kept in it. Nothing is
    opened before the first use. Reading never blocks an append.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        path: str | os.PathLike[str] | None = None,
        projections: Iterable[Projection] = BUILT_IN,
    ) -> None:
        self._ledger = ledger
        self._projections = check_projections(list(projections))
        self._given = None if path is None else Path(path)
        self._place: Place | None = None
        self._lock = threading.RLock()
        self._file: ViewsFile | None = None
        self._engine: Engine | None = None
        self._pid = os.getpid()
        self._closed = False

    # -- reading -------------------------------------------------------------------------

    def catch_up(self, progress: Progress | None = None) -> None:
        """Apply every event that the ledger holds now. Raises ProjectionFailed, Unavailable.

        progress: called now and then with the number of events applied so far.
        """
        with self._lock:
            failed = self._caught_up(progress)
        for failure in failed.values():
            raise failure

    @property
    def db(self) -> Database:
        """The views as a `sqlite_utils.Database`, caught up now; for reading, by one thread at a time."""
        with self._lock:
            self._caught_up()
            assert self._file is not None
            return self._file.db

    def rows(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """The rows of a query, after catching up. JSON columns come as text.

        Raises ProjectionFailed if the query names a table of a projection that failed, Unavailable, and
        sqlite3.Error for SQL that is wrong.
        """

        def query(file: ViewsFile) -> list[dict[str, Any]]:
            cursor = file.con.execute(sql, params)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]

        return self._read(query, lambda table: re.search(rf"\b{table}(_fts)?\b", sql) is not None)

    def search(self, text: str, limit: int = SEARCH_LIMIT) -> list[SearchHit]:
        """What the searchable columns hold of the text, best first.

        text: words that must all be there, `"a phrase"`, `prefix*`, with AND, OR, NOT; whatever is not the
        syntax of FTS5 is looked for as it stands. Raises Unavailable.
        """
        tables = {
            name: table
            for projection in self._projections.values()
            for name, table in projection.tables.items()
            if table.search
        }
        return self._read(lambda file: search(file.con, tables, text, limit), lambda _: False)

    def find_by_prefix(self, table: str, column: str, prefix: str) -> dict[str, Any]:
        """The one row whose `column` is `prefix` or, if there is none, begins with it.

        Raises NoSuchId, AmbiguousPrefix.
        """
        return find_by_prefix(self, table, column, prefix)

    # -- the file ------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """Where the views are or will be; None in memory. Raises Unavailable if there is no place."""
        return self._where().path

    @property
    def elsewhere(self) -> str | None:
        """Why the views are not beside the ledger; None if they are, or were given a path."""
        return self._where().why

    def erased_text_remains(self) -> bool:
        """Whether text of erased events is still in the file, after catching up, since others are reading it.

        It is removed by the first read that finds nobody in the way.
        """
        with self._lock:
            self._caught_up()
            assert self._file is not None
            return self._file.scrub_due()

    def status(self) -> list[ViewStatus]:
        """How each projection stands, without catching up."""
        with self._lock:
            head = self._ledger.head()
            path = self._where().path
            if path is not None and not path.exists():
                return [ViewStatus.unbuilt(projection, head.seq) for projection in self._projections.values()]
            try:
                return self._opened().status(head)
            except _FROM_FILE as error:
                if not is_damage(error, own=True):
                    raise named(error, str(path)) from error
                self._let_go()
                return [ViewStatus.unbuilt(projection, head.seq) for projection in self._projections.values()]

    def rebuild(self, names: Iterable[str] | None = None, progress: Progress | None = None) -> None:
        """Build these projections, or the whole file, anew. Raises BadProjection, ProjectionFailed."""
        chosen = None if names is None else list(self._chosen(names))
        with self._lock:
            self._attempt(lambda: self._opened().reset(chosen))
            failed = self._caught_up(progress)
        for failure in failed.values():
            raise failure

    @property
    def projections(self) -> list[Projection]:
        """What is kept in these views."""
        return list(self._projections.values())

    def digests(self, names: Iterable[str] | None = None) -> list[ProjectionDigest]:
        """The digests of these projections' tables, or of all, caught up now, each with its last event.

        Raises BadProjection, ProjectionFailed, Unavailable.
        """
        chosen = self._chosen(names)

        def read(file: ViewsFile) -> list[ProjectionDigest]:
            with file.snapshot():
                states = file.states()
                return [
                    ProjectionDigest(name, states[name].version, states[name].seq, digest_in(file.con, one))
                    for name, one in chosen.items()
                ]

        return self._read(read, lambda table: any(table in one.tables for one in chosen.values()))

    def close(self) -> None:
        """Close the file. Safe to call twice; the views cannot be used afterwards."""
        with self._lock:
            self._closed = True
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _chosen(self, names: Iterable[str] | None) -> dict[str, Projection]:
        """The projections of these names, or all. Raises BadProjection."""
        if names is None:
            return self._projections
        chosen = {}
        for name in names:
            if name not in self._projections:
                raise BadProjection(
                    f"projection {name!r}", f"there is none; there are {', '.join(self._projections)}"
                )
            chosen[name] = self._projections[name]
        return chosen

    # -- inside: the caller holds the lock -----------------------------------------------------

    def _read(self, query: Callable[[ViewsFile], T], concerns: Callable[[str], bool]) -> T:
        """Catch up, then ask; ask again if the file turns out to be damaged."""
        with self._lock:
            for again in (False, True):
                for name, failure in self._caught_up().items():
                    if any(map(concerns, self._projections[name].tables)):
                        raise failure
                assert self._file is not None
                try:
                    return query(self._file)
                except _FROM_FILE as error:
                    if again or not is_damage(error):
                        raise
                    self._file.remove()
                    self._let_go()
        raise AssertionError("the last attempt returns or raises")

    def _caught_up(self, progress: Progress | None = None) -> dict[str, ProjectionFailed]:
        """Bring the file up to the ledger's head as of now; the projections that failed."""
        head = self._ledger.head()
        return self._attempt(lambda: self._opened().catch_up(head, progress))

    def _attempt(self, work: Callable[[], T]) -> T:
        """Do it on a file that is ours, whole and in its place, made anew if need be."""
        for left in reversed(range(_ATTEMPTS_MAX)):
            try:
                done = work()
                assert self._file is not None
                if not self._file.moved():
                    return done
                self._let_go()  # deleted or replaced meanwhile: what was written is nowhere
            except _FROM_FILE as error:
                if left and is_passing(error):
                    self._let_go()  # its files go and come while it is replaced
                else:
                    self._recover(error)
            except OSError as error:  # of making or removing the file
                self._look_elsewhere(error)
        raise Unavailable(str(self._where().path), "is replaced again and again", "see who does that")

    def _recover(self, error: Exception) -> None:
        """Get ready to try again after an error that another attempt may mend; else raise it by name."""
        place = self._where()
        if is_moved(error) or (self._file is not None and self._file.moved()):
            self._let_go()
        elif is_damage(error, own=True) and place.path is not None:
            if self._file is not None:
                self._file.remove()
            else:
                remove(place.path)
            self._let_go()
        elif is_unwritable(error):
            self._look_elsewhere(error)
        else:
            raise named(error, str(place.path or "views in memory")) from error

    def _look_elsewhere(self, error: Exception) -> None:
        """Go to the cache directory instead of the ledger's; else raise the error by name."""
        place = self._where()
        if isinstance(error, FileNotFoundError) and place.path is not None and place.path.parent.is_dir():
            self._let_go()  # deleted a moment ago
            return
        refused = not isinstance(error, OSError) or error.errno in _REFUSED
        if not refused or place.path is None or place.why is not None or self._given is not None:
            raise named(error, str(place.path or "views in memory")) from error
        self._let_go()
        self._place = cache_place(place.path, self._ledger_id())

    def _opened(self) -> Engine:
        if self._closed:
            raise Closed("the views were closed", "open them again")
        if os.getpid() != self._pid:
            raise Closed("the views were opened before a fork", "open the ledger again in the child process")
        if self._file is not None and self._file.moved():
            self._let_go()
        if self._engine is None or self._file is None:
            place = self._where()
            self._file = ViewsFile(place.path, self._ledger_id(), _mode(self._ledger.path))
            self._engine = Engine(self._file, self._ledger, self._projections.values())
        return self._engine

    def _where(self) -> Place:
        if self._place is None:
            if self._given is not None:
                self._place = Place(self._given)
            else:
                self._place = place_of(self._ledger.path, self._ledger_id())
        return self._place

    def _ledger_id(self) -> bytes:
        ledger_id = self._ledger.head().ledger_id
        assert ledger_id is not None, "a ledger's own head names it"
        return ledger_id

    def _let_go(self) -> None:
        if self._file is not None:
            if os.getpid() == self._pid:
                with suppress(sqlite3.Error):
                    self._file.close()
            else:
                _of_parents.append(self._file)
        self._file = self._engine = None


def views_of(ledger: Ledger) -> Views:
    """The views of a ledger with the built-in projections: one object a handle, closed with it."""
    return ledger.attached(Views)


def find_by_prefix(views: Views, table: str, column: str, prefix: str) -> dict[str, Any]:
    """See Views.find_by_prefix."""
    exact = views.rows(f'SELECT * FROM "{table}" WHERE "{column}" = ? LIMIT 1', (prefix,))
    if exact:
        return exact[0]
    found = views.rows(
        f'SELECT * FROM "{table}" WHERE "{column}" >= ? AND "{column}" < ? ORDER BY "{column}" LIMIT ?',
        (prefix, prefix + "\U0010ffff", _CANDIDATES_MAX),
    )
    if not found:
        raise NoSuchId(table, prefix)
    if len(found) > 1:
        raise AmbiguousPrefix(table, prefix, [row[column] for row in found])
    return found[0]


def _mode(ledger: Path | None) -> int:
    """The permissions of the ledger's file."""
    try:
        return 0o666 if ledger is None else ledger.stat().st_mode
    except OSError:
        return 0o600
