"""What the ledger remembers of decisions: found at once for the gateway, and as tables for people (D8).

`Memory` reads the streams of `memory.added` straight from the ledger, each the first time that it is asked
for and then only what is new, and answers as of any head: later items and other tenants do not exist for it,
and an item that a later one replaces is in force until that one's event. It does without the views file,
which anybody can delete or alter. `MemoryItems` is the same as tables.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from operator import attrgetter
from sys import intern
from typing import Any, ClassVar, Final, NamedTuple, Protocol

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger import chain, records
from tallystick.ledger.errors import TallyError
from tallystick.ledger.event import Event, Head, Row
from tallystick.ledger.ledger import Ledger

from .projection import Projection, Table
from .similarity import TOP_K, Bitmaps, Scored, first_bits
from .tables import Tables

FAILURE: Final = "failure"
#: Pairs of tenant and action type that are kept in memory; the one that was used longest ago goes first.
BUCKETS_MAX: Final = 1000
#: About what an item takes besides its tokens and texts.
_ITEM_BYTES: Final = 180
_decode = msgspec.json.Decoder(events.MemoryAdded).decode


class MemoryBroken(TallyError):
    """An item of the memory cannot be read as it should be."""

    def __init__(self, seq: int, problem: str) -> None:
        self.seq = seq
        self.problem = problem
        super().__init__(
            f"memory.added, event {seq}: {problem}; run `tally verify`, then restore a backup, or make a "
            "ledger of the events before its label (docs/gateway.md)"
        )


class MemoryTooLarge(TallyError):
    """What is remembered of a tenant and action type is more than may be held at once."""

    def __init__(self, stream: str, bytes_max: int) -> None:
        self.stream = stream
        self.bytes_max = bytes_max
        super().__init__(f"{stream}: its items take more than {bytes_max:,} bytes; look at the events before")


class Events(Protocol):
    """The part of a Ledger that is asked."""

    def head(self) -> Head:
        """See Ledger.head."""

    def rows(
        self, after: int = 0, *, before: int | None = None, stream: str | None = None, kinds: Sequence[str]
    ) -> Iterator[Row]:
        """See Ledger.rows."""


class Remembered(NamedTuple):
    """What memory found: the best five matches, and the best of all failures, maybe not among them."""

    top_k: Sequence[events.Match] = ()
    failure: events.Match | None = None


NOTHING: Final = Remembered()


class Memory:
    """The memory of one ledger handle. Safe to share between threads; get it with `memory_of`."""

    def __init__(self, ledger: Events, bytes_max: int | None = None) -> None:
        """bytes_max: about how much memory it may take; default as much as it needs."""
        self._ledger = ledger
        self._bytes_max = bytes_max
        #: Whose items were more than may be held: they are not read again only to be let go again.
        self._too_large: set[tuple[str | None, str]] = set()
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str | None, str], _Bucket] = {}
        self._erasures_seen = ledger.head().seq

    def recall(
        self,
        tenant_id: str | None,
        action_type: str,
        tokens: Sequence[str],
        at: Head,
        *,
        weigh: Callable[[str], int],
        weights: Hashable,
    ) -> Remembered:
        """The items of a tenant and action type most like the tokens, as remembered at a head.

        weights: whatever identifies `weigh`. What was erased up to the newest head that was asked about is
        not remembered as of an older one, either: nobody has its tokens any more.
        Raises MemoryBroken, MemoryTooLarge and the errors of reading the ledger.
        """
        with self._lock:
            if self._bytes_max is not None and (tenant_id, action_type) in self._too_large:
                raise MemoryTooLarge(events.memory_stream(tenant_id, action_type), self._bytes_max)
            bucket = self._bucket(tenant_id, action_type)
            self._forget_erased(at)
        try:
            found = bucket.recall(self._ledger, tokens, at, weigh, weights, self._bytes_max)
        except MemoryTooLarge:
            with self._lock:
                self._too_large.add((tenant_id, action_type))
                self._buckets.pop((tenant_id, action_type), None)
            raise
        self._let_go()
        return found

    def pass_over(self, tenant_id: str | None, action_type: str, after: int, to: int) -> None:
        """Note that the events behind `after` up to `to` neither add to memory nor erase anything."""
        with self._lock:
            if self._erasures_seen == after:
                self._erasures_seen = to
            bucket = self._buckets.get((tenant_id, action_type))
        if bucket is not None:
            bucket.pass_over(after, to)

    def close(self) -> None:
        """Let go of everything; it is read again when it is needed."""
        with self._lock:
            self._buckets.clear()

    def _bucket(self, tenant_id: str | None, action_type: str) -> _Bucket:
        key = (tenant_id, action_type)
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            bucket = _Bucket(tenant_id, action_type)
            if len(self._buckets) >= BUCKETS_MAX:
                del self._buckets[next(iter(self._buckets))]
        self._buckets[key] = bucket  # the last in the dict is the one that was used last
        return bucket

    def _let_go(self) -> None:
        """Keep no more than may be held; what was used longest ago goes first."""
        if self._bytes_max is None:
            return
        with self._lock:
            held = sum([bucket.bytes_held for bucket in self._buckets.values()])
            while held > self._bytes_max and len(self._buckets) > 1:
                held -= self._buckets.pop(next(iter(self._buckets))).bytes_held

    def _forget_erased(self, at: Head) -> None:
        """Take out of what was read what was erased since; what is erased before it is read is never in."""
        newest = at.seq if at.seq > self._erasures_seen else self._ledger.head().seq
        if newest == self._erasures_seen:
            return
        kinds = [records.BODY_ERASED]
        for row in self._ledger.rows(
            self._erasures_seen, before=newest + 1, stream=records.STREAM, kinds=kinds
        ):
            erased = msgspec.json.decode(row.body or b"", type=records.BodyErased)
            for bucket in self._buckets.values():
                bucket.forget(erased.seq)
        self._erasures_seen = newest


def memory_of(ledger: Ledger) -> Memory:
    """The memory of a ledger: one object a handle."""
    return ledger.attached(Memory)


class _End(NamedTuple):
    """The event with this seq took the place of an item."""

    seq: int
    item: int


_seq_of: Final = attrgetter("seq")


class _Bucket:
    """The items of one tenant and action type, in the order of their seqs."""

    def __init__(self, tenant_id: str | None, action_type: str) -> None:
        self._of = (tenant_id, action_type)
        self._stream = events.memory_stream(tenant_id, action_type)
        self._lock = threading.Lock()
        self._read_to = 0
        self._seqs = array("q")
        self._labels: list[str] = []
        #: In UTF-8, one behind the other, and where each ends: there may be very many.
        self._summaries = bytearray()
        self._summary_ends = array("Q")
        self._decisions: list[str] = []
        self._decision_characters = 0
        self._replacing = bytearray()
        self._erased: set[int] = set()
        self._failures = 0
        self._bitmaps = Bitmaps()
        #: The one item of a decision, or all in order.
        self._of_decision: dict[str, int | list[int]] = {}
        #: The items that others took the place of: a bit for each; and when, in the order of those events.
        self._replaced = 0
        self._ends: list[_End] = []
        self._unsettled = False

    def recall(
        self,
        ledger: Events,
        tokens: Sequence[str],
        at: Head,
        weigh: Callable[[str], int],
        weights: Hashable,
        bytes_max: int | None,
    ) -> Remembered:
        with self._lock:
            if at.seq > self._read_to:
                kinds = [events.MEMORY_ADDED]
                for row in ledger.rows(self._read_to, before=at.seq + 1, stream=self._stream, kinds=kinds):
                    if bytes_max is not None and self.bytes_held > bytes_max:
                        raise MemoryTooLarge(self._stream, bytes_max)
                    self._add(row)
                self._read_to = at.seq
            then = self._in_force(at.seq)
            top = self._bitmaps.search(tokens, weigh, weights=weights, k=TOP_K, only=then)
            failure = next((found for found in top if self._labels[found.item] == FAILURE), None)
            if failure is None and len(top) == TOP_K:
                only = then & self._failures
                failure = next(
                    iter(self._bitmaps.search(tokens, weigh, weights=weights, k=1, only=only)), None
                )
            return Remembered([self._match(found) for found in top], failure and self._match(failure))

    def pass_over(self, after: int, to: int) -> None:
        with self._lock:
            if self._read_to == after:
                self._read_to = to

    @property
    def bytes_held(self) -> int:
        """About how much memory its items take."""
        own = len(self._seqs) * _ITEM_BYTES + self._decision_characters + len(self._summaries)
        return own + self._bitmaps.bytes_held

    def forget(self, seq: int) -> None:
        """Take an item out, if it is here."""
        with self._lock:
            place = bisect_left(self._seqs, seq)
            if place < len(self._seqs) and self._seqs[place] == seq and place not in self._erased:
                self._erased.add(place)
                self._bitmaps.remove(place)
                start, end = self._summary_span(place)
                self._summaries[start:end] = bytes(end - start)
                others = self._items_of(self._decisions[place])
                others.remove(place)
                self._of_decision[self._decisions[place]] = others
                self._unsettled = self._unsettled or bool(others)

    def _in_force(self, at: int) -> int:
        """A bit for each item that was in force at an event: there, and not replaced yet."""
        if self._unsettled:
            self._settle()
        standing = ~self._replaced
        later = bisect_right(self._ends, at, key=_seq_of)
        for _, number in self._ends[later:]:
            standing |= 1 << number
        return first_bits(self._seqs, at) & standing

    def _settle(self) -> None:
        """Say anew which item was replaced when: an erased one replaces nothing any more."""
        self._replaced, self._ends = 0, []
        for numbers in self._of_decision.values():
            if isinstance(numbers, int):
                continue
            end = None
            for number in reversed(numbers):
                if end is not None:
                    self._replaced |= 1 << number
                    self._ends.append(_End(end, number))
                if self._replacing[number]:
                    end = self._seqs[number]
        self._ends.sort()
        self._unsettled = False

    def _add(self, row: Row) -> None:
        if row.body is None:
            return
        if row.salt is None or chain.body_hash(row.salt, row.body) != row.body_hash:
            raise MemoryBroken(row.seq, "its body was altered")
        try:
            item = _decode(row.body)
        except msgspec.MsgspecError as error:
            raise MemoryBroken(row.seq, f"its body is not as expected ({error})") from None
        if (item.tenant_id, item.action_type) != self._of:
            raise MemoryBroken(row.seq, f"it does not belong in the stream {self._stream!r}")
        number = self._bitmaps.add(item.tokens)
        others = self._items_of(item.decision_id)
        if item.replaces_earlier:
            for other in reversed(others):
                if self._replaced >> other & 1:
                    break  # and so are all before it
                self._replaced |= 1 << other
                self._ends.append(_End(row.seq, other))
        if others:
            others.append(number)
        self._of_decision[item.decision_id] = others or number
        self._seqs.append(row.seq)
        self._labels.append(intern(item.label))
        self._summaries += item.summary.encode()
        self._summary_ends.append(len(self._summaries))
        self._decisions.append(item.decision_id)
        self._decision_characters += len(item.decision_id)
        self._replacing.append(item.replaces_earlier)
        if item.label == FAILURE:
            self._failures |= 1 << number
        self._read_to = row.seq

    def _items_of(self, decision_id: str) -> list[int]:
        """The items of a decision, in order."""
        numbers = self._of_decision.get(decision_id, [])
        return [numbers] if isinstance(numbers, int) else numbers

    def _summary_span(self, number: int) -> tuple[int, int]:
        """From where to where the summary of an item stands."""
        return self._summary_ends[number - 1] if number else 0, self._summary_ends[number]

    def _match(self, found: Scored) -> events.Match:
        assert found.item not in self._erased, "what was erased is not found"
        start, end = self._summary_span(found.item)
        return events.Match(
            memory_id=events.memory_id(self._seqs[found.item]),
            label=self._labels[found.item],
            score=found.score,
            numerator=found.numerator,
            denominator=found.denominator,
            summary=self._summaries[start:end].decode(),
        )


class MemoryItems(Projection):
    """The memory as tables: `memory_items`, and `memory_tokens` to look items up by what they share.

    `replaced_by` is the memory id of the later item of the same decision that counts instead;
    `memory_decisions` has the items of a decision that count.
    """

    name = "memory"
    version = 2
    kinds: ClassVar[Mapping[str, Any]] = {events.MEMORY_ADDED: events.MemoryAdded}
    tables: ClassVar[Mapping[str, Table]] = {
        "memory_items": Table(
            columns={
                "memory_id": str,
                "seq": int,
                "at": int,
                "stream": str,
                "decision_id": str,
                "tenant_id": str,
                "action_type": str,
                "label": str,
                "summary": str,
                "tokens": list,
                "replaced_by": str,
            },
            pk="memory_id",
            indexes=(("tenant_id", "action_type", "label"), "decision_id", "stream"),
            search=("summary",),
        ),
        "memory_tokens": Table(
            columns={"token": str, "memory_id": str, "stream": str},
            pk=("token", "memory_id"),
            indexes=("memory_id", "stream"),
        ),
        "memory_decisions": Table(
            columns={"decision_id": str, "stream": str, "memory_ids": list},
            pk=("decision_id", "stream"),
            indexes=("stream",),
        ),
    }

    def apply(self, event: Event, tables: Tables) -> None:
        """Add the item and its tokens."""
        item: events.MemoryAdded = event.body
        memory_id = events.memory_id(event.seq)
        items, decisions = tables["memory_items"], tables["memory_decisions"]
        of_decision = {"decision_id": item.decision_id, "stream": event.stream}
        known = decisions.get((item.decision_id, event.stream))
        counting: list[str] = [] if known is None else known["memory_ids"]
        if item.replaces_earlier:
            for earlier in counting:
                items.update(earlier, replaced_by=memory_id)
            counting = []
        decisions.put({**of_decision, "memory_ids": [*counting, memory_id]})
        items.put(
            {
                "memory_id": memory_id,
                "seq": event.seq,
                "at": event.at,
                "stream": event.stream,
                "decision_id": item.decision_id,
                "tenant_id": item.tenant_id,
                "action_type": item.action_type,
                "label": item.label,
                "summary": item.summary,
                "tokens": item.tokens,
            }
        )
        for token in dict.fromkeys(item.tokens):
            tables["memory_tokens"].put({"token": token, "memory_id": memory_id, "stream": event.stream})

    def forget(self, stream: str, tables: Tables) -> None:
        """Delete the items of a tenant and action type."""
        for rows in tables.values():
            rows.delete_where(stream=stream)
