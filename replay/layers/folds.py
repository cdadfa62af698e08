"""What each session has come to so far, while a replay passes over its events: a fold over its stream.

The folds of the sessions that were met lately are at hand, the others in a temporary database: any number of
sessions may be open at once, and none is read again from its start for every event of it.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from typing import Any, Final

import msgspec

from tallystick.recorders.session import records

#: Folds that are at hand; a few hundred bytes each.
SESSIONS_MAX: Final = 20_000
#: Characters of names in the folds that are at hand.
WEIGHT_MAX: Final = 8_000_000
#: Kernels, and outcomes that are none, that a fold holds, and how long their names may be.
NAMES_MAX: Final = 2000
NAME_CHARACTERS_MAX: Final = 4096
#: Kernels of a session up to which their set is shared with others.
_SHARED_MAX: Final = 8
_NO_KERNELS: Final[frozenset[str]] = frozenset()
_LET_GO: Final = 1000
_OUTCOMES: Final = {name: place for place, name in enumerate(records.ACTION_OUTCOMES)}


class Fold:
    """How far a session has come.

    started, ended, first: seqs of its start, its end and the first event of its stream; 0 for none yet. own:
    events of its own behind its start. expired: the last event of which a `session.expired` said that its
    body was erased. kernels: shared between sessions with the same few. known: whether everything that its
    end sums up was read, and kept: a body may name more kernels than anybody has.
    """

    __slots__ = (
        *("actions", "counts", "ended", "expired", "first", "imported", "kernels", "known", "messages"),
        *("others", "own", "started", "weight"),
    )

    def __init__(self) -> None:
        self.started = 0
        self.ended = 0
        self.expired = 0
        self.first = 0
        #: Characters of the names that it holds.
        self.weight = 0
        self.actions = 0
        self.messages = 0
        self.own = 0
        self.imported = False
        self.counts = (0, 0, 0, 0)
        self.others: dict[str, int] | None = None
        self.kernels: frozenset[str] | set[str] = _NO_KERNELS
        self.known = True

    def outcomes(self) -> dict[str, int]:
        """How many actions had each outcome."""
        known = {name: count for name, count in zip(_OUTCOMES, self.counts, strict=True) if count}
        return known | (self.others or {})

    def count(self, outcome: str) -> None:
        """Count an action."""
        place = _OUTCOMES.get(outcome)
        if place is not None:
            self.counts = tuple(n + (i == place) for i, n in enumerate(self.counts))  # type: ignore[assignment]
            return
        if self.others is None:
            self.others = {}
        if outcome not in self.others and not self._takes(outcome, len(self.others)):
            return
        self.others[outcome] = self.others.get(outcome, 0) + 1

    def add_kernel(self, kernel: str, shared: dict[frozenset[str], frozenset[str]]) -> None:
        """Note that a kernel is involved. shared: the sets of kernels that folds share."""
        if kernel in self.kernels or not self._takes(kernel, len(self.kernels)):
            return
        if isinstance(self.kernels, set):
            self.kernels.add(kernel)
        elif len(self.kernels) < _SHARED_MAX:
            kernels = self.kernels | {kernel}
            self.kernels = shared.setdefault(kernels, kernels)
        else:
            self.kernels = {*self.kernels, kernel}

    def _takes(self, name: str, held: int) -> bool:
        """Whether one more name is kept."""
        if len(name) > NAME_CHARACTERS_MAX or held >= NAMES_MAX:
            self.known = False
            return False
        self.weight += len(name)
        return True

    def packed(self) -> bytes:
        """The fold in bytes; `unpacked` is the inverse."""
        return msgspec.msgpack.encode([*[getattr(self, name) for name in _PLAIN], sorted(self.kernels)])

    @classmethod
    def unpacked(cls, data: bytes, shared: dict[frozenset[str], frozenset[str]]) -> Fold:
        """A fold from its bytes. shared: the sets of kernels that folds share."""
        *values, kernels = msgspec.msgpack.decode(data)
        fold = cls()
        for name, value in zip(_PLAIN, values, strict=True):
            setattr(fold, name, tuple(value) if name == "counts" else value)
        if len(kernels) > _SHARED_MAX:
            fold.kernels = set(kernels)
        else:
            found = frozenset(kernels)
            fold.kernels = shared.setdefault(found, found)
        return fold


_PLAIN: Final = tuple(name for name in Fold.__slots__ if name != "kernels")


class Folds:
    """The folds of all sessions that were met, by stream."""

    def __init__(self, at_hand_max: int = SESSIONS_MAX) -> None:
        self._max = at_hand_max
        self._weight = 0
        self._at_hand: OrderedDict[str, Fold] = OrderedDict()
        self._shared: dict[frozenset[str], frozenset[str]] = {}
        self._away: sqlite3.Connection | None = None

    def get(self, stream: str) -> Fold | None:
        """The fold of a session; None if it was not met yet."""
        fold = self._at_hand.get(stream)
        if fold is not None:
            self._at_hand.move_to_end(stream)
        elif self._away is not None:
            found = self._away.execute(
                "SELECT fold FROM folds WHERE stream = ?", (stream.encode(),)
            ).fetchone()
            if found is not None:
                fold = self._keep(stream, Fold.unpacked(found[0], self._shared))
        return fold

    def new(self, stream: str) -> Fold:
        """A fold for a session that was not met yet."""
        return self._keep(stream, Fold())

    def add_kernel(self, fold: Fold, kernel: str) -> None:
        """Note that a kernel is involved in a session."""
        before = fold.weight
        fold.add_kernel(kernel, self._shared)
        if fold.weight == before:
            return
        self._weight += fold.weight - before
        if len(self._shared) > SESSIONS_MAX:
            self._shared.clear()
        if self._weight > WEIGHT_MAX:
            self._let_go(len(self._at_hand) - 1)
            self._shared.clear()

    def _keep(self, stream: str, fold: Fold) -> Fold:
        self._at_hand[stream] = fold
        self._weight += fold.weight
        if len(self._at_hand) > self._max:
            self._let_go(min(_LET_GO, self._max))
        return fold

    def _let_go(self, count: int) -> None:
        """Put away the folds that were met longest ago."""
        if self._away is None:
            # Without a name: a database on disk that nobody else sees and that goes with its connection.
            self._away = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._away.execute("PRAGMA journal_mode=OFF")
            self._away.execute("CREATE TABLE folds (stream BLOB PRIMARY KEY, fold BLOB) WITHOUT ROWID")
        gone: list[tuple[Any, bytes]] = []
        for _ in range(count):
            stream, fold = self._at_hand.popitem(last=False)
            self._weight -= fold.weight
            gone.append((stream.encode(), fold.packed()))
        self._away.execute("BEGIN")
        self._away.executemany("INSERT OR REPLACE INTO folds VALUES (?, ?)", gone)
        self._away.execute("COMMIT")
