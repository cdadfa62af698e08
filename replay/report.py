"""What a replay found: one report, of which text and JSON are renderings.

The same ledger and selection give the same report, byte for byte in JSON, on any machine: nothing in it is
a clock reading, a path or a chance.
"""

from __future__ import annotations

from enum import StrEnum
from heapq import heappop, heappush
from typing import Any, Final

import msgspec

from .selection import Selection

#: Entries of one layer and result that a report keeps, unless it is told otherwise; the rest are counted.
ENTRIES_MAX: Final = 1000


#: What all differences together may take, as JSON; of later ones only their place is kept.
DIFFERENCES_BYTES_MAX: Final = 8 << 20
REASON_CHARACTERS_MAX: Final = 500
#: Different reasons for what cannot be derived again.
REASONS_MAX: Final = 200
OTHER_REASONS: Final = "for other reasons"
LEFT_OUT: Final = {"$omitted": "the report holds too many differences"}


class Layer(StrEnum):
    """What is derived again, from the ground up."""

    #: The hashes of the events and their links.
    CHAIN = "chain"
    #: Every digest, number and count that a body holds.
    DIGEST = "digest"
    #: The decision on the recorded request under the recorded policy, with the memory as of then.
    DECISION = "decision"
    #: The task, run again.
    EXECUTION = "execution"
    #: The tables of projections, and the digests that they were sealed with.
    VIEW = "view"


LAYERS: Final = tuple(Layer)


class Result(StrEnum):
    """What came of deriving something again."""

    MATCH = "match"
    DIVERGED = "diverged"
    NOT_REDERIVABLE = "not_rederivable"


class Difference(msgspec.Struct, frozen=True):
    """One place where two values differ.

    path: a JSON pointer into the values (RFC 6901), empty for the whole. expected: what was derived again;
    actual: what is recorded. One that is not there is `{"$absent": true}`, a large one an object with
    `$omitted`.
    """

    path: str
    expected: Any
    actual: Any


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """Something that diverged or could not be derived again.

    seq: the event that says it. layer, result: as of the report's counts. what: the field, or the row.
    differences: where it diverged. reason: why, in words; of what could not be derived again, always.
    """

    seq: int
    layer: Layer
    what: str
    result: Result
    differences: tuple[Difference, ...] = ()
    reason: str | None = None


class Counts(msgspec.Struct, frozen=True):
    """How many checks of a layer had each result."""

    match: int = 0
    diverged: int = 0
    not_rederivable: int = 0


class Reason(msgspec.Struct, frozen=True):
    """Why checks of a layer could not be derived again: how many, and the first event's seq."""

    layer: Layer
    reason: str
    count: int
    first_seq: int


class Observed(msgspec.Struct, frozen=True):
    """What was seen once and is never compared: the fields of a kind, and in how many events."""

    kind: str
    fields: tuple[str, ...]
    events: int


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a replay.

    ledger_id: hex. selection: what was asked for. head: seq and hash (hex) of the ledger when the replay
    began; nothing behind it was looked at. events: how many were selected. layers: results by layer, in
    checks. entries: what diverged and what could not be derived again, by seq and layer. left_out: entries
    beyond the limit, which are counted only. reasons: why things could not be derived again, in numbers.
    observed: what was left out of every comparison.
    """

    ledger_id: str
    selection: Selection
    head: tuple[int, str]
    events: int
    layers: dict[Layer, Counts]
    entries: tuple[Entry, ...]
    left_out: int
    reasons: tuple[Reason, ...]
    observed: tuple[Observed, ...]

    @property
    def diverged(self) -> int:
        """How many checks diverged."""
        return sum(counts.diverged for counts in self.layers.values())

    @property
    def first(self) -> Entry | None:
        """The first event that diverged, in the first layer that shows it; None if nothing did."""
        return next((entry for entry in self.entries if entry.result is Result.DIVERGED), None)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        first = plain["entries"][self.entries.index(self.first)] if self.first is not None else None
        from .outcome import outcome, undecided

        said = {"outcome": outcome(self).value, "undecided": undecided(self)}
        return {**plain, **said, "diverged": self.diverged, "first": first}

    def to_json(self) -> bytes:
        """The report as JSON, the same bytes for the same report."""
        return msgspec.json.encode(self.to_dict(), order="sorted")

    def __str__(self) -> str:
        """The report in lines, as `tally replay` prints it."""
        from .rendering.text import report_text

        return report_text(self)


class Notes:
    """Takes the results of checks while a replay runs, in bounded memory, and ends as a report's parts."""

    def __init__(self, layers: tuple[Layer, ...], entries_max: int = ENTRIES_MAX) -> None:
        self.layers = layers
        self._max = entries_max
        self._counts = {(layer, result): 0 for layer in layers for result in Result}
        #: Heaps of (-seq, -number, entry): of each layer and result those with the lowest seqs are kept.
        self._entries: dict[tuple[Layer, Result], list[tuple[int, int, Entry]]] = {
            key: [] for key in self._counts
        }
        self._number = 0
        self._reasons: dict[tuple[Layer, str], list[int]] = {}
        self._left_out = 0
        self._weight = 0

    def match(self, layer: Layer, count: int = 1) -> None:
        """Something is as it should be."""
        self._counts[layer, Result.MATCH] += count

    def diverged(
        self,
        layer: Layer,
        seq: int,
        what: str,
        differences: tuple[Difference, ...],
        reason: str | None = None,
    ) -> None:
        """Something is not what was derived again."""
        self._add(
            Entry(
                seq=seq,
                layer=layer,
                what=what,
                result=Result.DIVERGED,
                differences=differences,
                reason=reason,
            )
        )

    def not_rederivable(self, layer: Layer, seq: int, what: str, reason: str, count: int = 1) -> None:
        """Something cannot be derived again. reason: one of few, so that they can be counted."""
        if (layer, reason) not in self._reasons and len(self._reasons) >= REASONS_MAX:
            reason = OTHER_REASONS
        known = self._reasons.setdefault((layer, reason), [0, seq])
        known[0] += count
        known[1] = min(known[1], seq)
        self._add(Entry(seq=seq, layer=layer, what=what, result=Result.NOT_REDERIVABLE, reason=reason), count)

    def _add(self, entry: Entry, count: int = 1) -> None:
        key = (entry.layer, entry.result)
        self._counts[key] += count
        self._keep(key, entry)

    def _keep(self, key: tuple[Layer, Result], entry: Entry) -> None:
        entry = self._bounded(entry)
        self._number += 1
        heappush(self._entries[key], (-entry.seq, -self._number, entry))
        if len(self._entries[key]) > self._max:
            heappop(self._entries[key])
            self._left_out += 1

    def _bounded(self, entry: Entry) -> Entry:
        """The entry, without its differences once the report holds as much as can be read, or be sent."""
        if entry.reason is not None and len(entry.reason) > REASON_CHARACTERS_MAX:
            cut = f"{entry.reason[: REASON_CHARACTERS_MAX - 1]}…"
            entry = msgspec.structs.replace(entry, reason=cut)
        if not entry.differences:
            return entry
        self._weight += len(msgspec.json.encode(entry.differences))
        if self._weight <= DIFFERENCES_BYTES_MAX:
            return entry
        left_out = Difference("", LEFT_OUT, LEFT_OUT)
        return msgspec.structs.replace(entry, differences=(left_out,))

    def absorb(self, other: Notes) -> None:
        """Take over what another noted, of layers that are here, too."""
        for key, count in other._counts.items():
            self._counts[key] += count
            for _, _, entry in sorted(other._entries[key], reverse=True):
                self._keep(key, entry)
        self._left_out += other._left_out
        for why, (number, seq) in other._reasons.items():
            known = self._reasons.setdefault(why, [0, seq])
            known[0] += number
            known[1] = min(known[1], seq)

    def counts(self) -> dict[Layer, Counts]:
        """Results by layer."""
        return {layer: Counts(*(self._counts[layer, result] for result in Result)) for layer in self.layers}

    def entries(self) -> tuple[Entry, ...]:
        """What was kept, by seq, then layer, then in the order of noting."""
        order = {layer: place for place, layer in enumerate(LAYERS)}
        kept = [one for entries in self._entries.values() for one in entries]
        kept.sort(key=lambda one: (one[2].seq, order[one[2].layer], -one[1]))
        return tuple([entry for _, _, entry in kept])

    @property
    def left_out(self) -> int:
        """Entries that were counted and not kept."""
        return self._left_out

    def reasons(self) -> tuple[Reason, ...]:
        """Why things could not be derived again, by layer and number."""
        order = {layer: place for place, layer in enumerate(LAYERS)}
        found = [Reason(layer, why, count, seq) for (layer, why), (count, seq) in self._reasons.items()]
        return tuple(sorted(found, key=lambda one: (order[one.layer], -one.count, one.reason)))
