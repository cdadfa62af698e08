"""`replay_ledger`: the selected events, layer by layer, into a report.

One pass over the chain, one over the bodies, and one that builds the projections anew. Events are streamed;
what is kept of them is bounded. Everything is as of the head when the replay began.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol

from tallystick.events import gateway, kernel
from tallystick.events.catalogue import KINDS
from tallystick.ledger.errors import Corrupt, StoreError
from tallystick.ledger.event import Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.projections.builtin import BUILT_IN
from tallystick.projections.projection import Projection

from .errors import BadSelection
from .indexes import refuse_without_indexes
from .layers.chain import check_chain
from .layers.checks import Body, Checks, Past, Unreadable, read_body
from .layers.decision import Decisions
from .layers.digest import Digests, check_other, observed_fields
from .layers.execution import Executions, load_tasks, registry_of
from .layers.view import check_views
from .report import ENTRIES_MAX, LAYERS, Layer, Notes, Observed, ReplayReport
from .selection import Selection

#: Called with how much is done so far, in events read.
Progress = Callable[[int], None]
_PROGRESS_EVERY: Final = 1000
_UNREADABLE: Final = "the log cannot be read to its end: {}"


class _Checker(Protocol):
    def check(self, checks: Checks, row: Row, body: Body | Unreadable) -> None:
        """Check one event."""


def replay_ledger(
    ledger: Ledger,
    selection: Selection | None = None,
    *,
    layers: Iterable[Layer | str] | None = None,
    tasks: Any = None,
    projections: Sequence[Projection] = BUILT_IN,
    views: str | os.PathLike[str] | None = None,
    entries_max: int = ENTRIES_MAX,
    progress: Progress | None = None,
    only: Callable[[], Iterator[Row]] | None = None,
    head: Head | None = None,
) -> ReplayReport:
    """Derive again what the ledger holds, and report what differs.

    selection: which events; default all. layers: default all that apply: `execution` only with tasks, `view`
    only for everything (perhaps up to a seq). tasks: a Kernel, its registry, or `module:attribute` of one;
    nothing is executed without. projections: the definitions of what is in the views file. views: that
    file; default beside the ledger's. entries_max: how many entries of a layer and result are kept. only:
    gives the rows to replay, in order of seq, in place of the selected ones: the report then tells of them,
    and names the selection that they were gathered for. head: an earlier head, behind which nothing is
    looked at; default the ledger's own.
    Reads only; memory is bounded whatever the ledger's size. Raises BadSelection, NoSuchId, AmbiguousPrefix,
    TasksNotFound, Unavailable.
    """
    if entries_max < 1:
        raise BadSelection("entries_max", f"{entries_max} keeps no entry", "give at least 1")
    asked = Selection() if selection is None else selection
    head = ledger.head() if head is None else head
    refuse_without_indexes(ledger, head)
    found = asked.resolved(ledger, head)
    rows = partial(found.rows, ledger, head) if only is None else only
    chosen = chosen_layers(found, layers, tasks is not None)
    registry = None
    if tasks is not None:
        registry = load_tasks(tasks) if isinstance(tasks, str) else registry_of(tasks)
    notes = Notes(chosen, entries_max)
    done = _Steps(progress)
    if Layer.CHAIN in chosen:
        with _readable(notes, Layer.CHAIN, found.span(head)[1]):
            check_chain(ledger, found, head, notes, done.step, only)
        done.finish()
    past = Past(ledger, head)
    checkers: dict[Layer, tuple[frozenset[str], _Checker]] = {}
    if Layer.DIGEST in chosen:
        checkers[Layer.DIGEST] = (frozenset(KINDS), Digests(past))
    if Layer.DECISION in chosen:
        checkers[Layer.DECISION] = (frozenset({gateway.RECORDED}), Decisions(past))
    if Layer.EXECUTION in chosen:
        assert registry is not None
        checkers[Layer.EXECUTION] = (frozenset({kernel.EXECUTED}), Executions(registry))
    bodies = Bodies(notes, checkers)
    bodies.run(rows(), done.step)
    done.finish()
    # The tables want the room that was kept for events and sessions.
    checkers.clear()
    del past
    if Layer.VIEW in chosen:
        last = found.span(head)[1]
        with _readable(notes, Layer.VIEW, last):
            check_views(ledger, last, notes, projections, views, done.step, bounded=found.up_to is not None)
    assert head.ledger_id is not None, "a ledger's own head names it"
    return ReplayReport(
        ledger_id=head.ledger_id.hex(),
        selection=found,
        head=(head.seq, head.hash.hex()),
        events=bodies.events,
        layers=notes.counts(),
        entries=notes.entries(),
        left_out=notes.left_out,
        reasons=notes.reasons(),
        observed=bodies.observed(),
    )


@contextmanager
def _readable(notes: Notes, layer: Layer, last: int) -> Iterator[None]:
    """Note, instead of raising it, that the log cannot be read to its end."""
    try:
        yield
    except Corrupt as error:
        notes.not_rederivable(layer, last, "events", _UNREADABLE.format(error.problem))


def chosen_layers(
    selection: Selection, layers: Iterable[Layer | str] | None, has_tasks: bool
) -> tuple[Layer, ...]:
    """The layers to look at, in order. Raises BadSelection for those that do not go with the selection."""
    if layers is None:
        return tuple(
            layer
            for layer in LAYERS
            if (layer is not Layer.EXECUTION or has_tasks) and (layer is not Layer.VIEW or selection.whole)
        )
    wanted = set()
    for layer in layers:
        try:
            wanted.add(Layer(layer))
        except ValueError:
            raise BadSelection("layers", f"{layer!r} is none", f"use {', '.join(LAYERS)}") from None
    if not wanted:
        raise BadSelection("layers", "there are none", f"name one or more of {', '.join(LAYERS)}")
    if Layer.EXECUTION in wanted and not has_tasks:
        raise BadSelection("layers", "execution needs to know the tasks", "give tasks=module:attribute")
    if Layer.VIEW in wanted and not selection.whole:
        raise BadSelection(
            "layers", "view compares whole tables", "select everything, or everything up to a seq"
        )
    return tuple(layer for layer in LAYERS if layer in wanted)


class Bodies:
    """The pass over bodies: each event of a built-in kind goes to the layers that are about its kind."""

    def __init__(self, notes: Notes, checkers: dict[Layer, tuple[frozenset[str], _Checker]]) -> None:
        self._notes = notes
        self._checkers = checkers
        self._seen: dict[str, int] = {}
        self.events = 0

    def run(self, rows: Iterable[Row], progress: Progress) -> None:
        """Check every event. One that cannot be read ends the pass, and is noted."""
        last = 0
        try:
            for row in rows:
                last = row.seq
                self.events += 1
                if self.events % _PROGRESS_EVERY == 0:
                    progress(self.events)
                if row.kind in KINDS:
                    self._check(row)
                elif Layer.DIGEST in self._checkers:
                    check_other(Checks(self._notes, Layer.DIGEST, row.seq), row)
        except Corrupt as error:
            # Which event it is, the chain says: rows come in pages.
            why = _UNREADABLE.format(error.problem)
            for layer in self._checkers:
                self._notes.not_rederivable(layer, last + 1, "events", why)

    def _check(self, row: Row) -> None:
        self._seen[row.kind] = self._seen.get(row.kind, 0) + 1
        wanting = [(layer, one) for layer, (kinds, one) in self._checkers.items() if row.kind in kinds]
        body = read_body(row) if wanting else Unreadable("", False)
        for layer, checker in wanting:
            checks = Checks(self._notes, layer, row.seq)
            try:
                checker.check(checks, row, body)
            except StoreError:
                raise
            except Exception as error:
                # A body can say things that no recorder would; none of them may end a replay.
                checks.wrong("body", f"malformed body: {type(error).__name__} when it was derived again")

    def observed(self) -> tuple[Observed, ...]:
        """What was left out of every comparison."""
        found = ((kind, observed_fields(KINDS[kind]), count) for kind, count in sorted(self._seen.items()))
        return tuple(Observed(kind, fields, count) for kind, fields, count in found if fields)


class _Steps:
    """Progress over several passes."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._before = 0
        self._now = 0

    def step(self, count: int) -> None:
        """Tell that a pass has come so far."""
        self._now = count
        if self._progress is not None:
            self._progress(self._before + count)

    def finish(self) -> None:
        """A pass is over."""
        self._before += self._now
        self._now = 0
