"""How alike two sets of tokens are: weighted Jaccard, in integers, and the best matches among many (D8).

`top_matches` is the definition: it looks at every item. `Bitmaps` gives the same answer without doing so: it
adds up the weight that each item shares with the question in binary, for all items at once, each binary
digit of the sums being one large integer with a bit for every item.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from typing import Final, NamedTuple

TOP_K: Final = 5
#: A token's items are kept as a bitmap once there are more than this, and one in 64.
_SPARSE_MAX: Final = 64
#: Ways of weighing whose totals are kept.
_WEIGHTS_MAX: Final = 4
#: About what a token takes besides its characters, a token of an item, and an item besides those.
_TOKEN_BYTES: Final = 200
_MENTION_BYTES: Final = 6
_ITEM_BYTES: Final = 16
Weigh = Callable[[str], int]


class Scored(NamedTuple):
    """An item and how much of the weight of either it shares with the question."""

    item: int
    numerator: int
    denominator: int

    @property
    def score(self) -> float:
        """From 0 to 1. Different fractions of weights up to 2**26 are different floats, equal ones equal."""
        return self.numerator / self.denominator


def similarity(a: Collection[str], b: Collection[str], weigh: Weigh) -> tuple[int, int]:
    """The weight of the tokens that both have, and of those that either has; (0, 1) if none has any."""
    both = sum(weigh(token) for token in set(a) & set(b))
    either = sum(weigh(token) for token in set(a) | set(b))
    return (both, either) if either else (0, 1)


def top_matches(
    question: Collection[str], items: Iterable[tuple[int, Collection[str]]], weigh: Weigh, k: int = TOP_K
) -> list[Scored]:
    """The k items most like the question, best first, of equal ones the lower number first.

    items: (number, tokens), in any order. Items that share nothing are no matches.
    """
    scored = [Scored(number, *similarity(question, tokens, weigh)) for number, tokens in items]
    return sorted((s for s in scored if s.numerator), key=lambda s: (-s.score, s.item))[:k]


class _Totals:
    """Items by the weight of all their tokens, of the first `done` items; weights: of tokens, by id."""

    def __init__(self) -> None:
        self.done = 0
        self.items: dict[int, bytearray] = {}
        self.weights = array("q")


class Bitmaps:
    """Items by their tokens, numbered in the order of their addition, for exact search among all of them.

    A token is kept once and has an id, by which everything else speaks of it: there may be very many items.
    """

    def __init__(self) -> None:
        self._size = 0
        self._ids: dict[str, int] = {}
        self._tokens: list[str] = []
        #: By id, the items that have a token: the only one, or some in order, or a bit for each.
        self._having: list[int | array[int] | bytearray] = []
        #: The ids of the tokens of all items, one item behind the other, and where each item's end.
        self._item_tokens = array("I")
        self._item_ends = array("Q")
        self._gone = 0
        self._totals: dict[Hashable, _Totals] = {}
        self._characters = 0

    def __len__(self) -> int:
        return self._size

    @property
    def bytes_held(self) -> int:
        """About how much memory this takes."""
        tokens = len(self._tokens) * _TOKEN_BYTES + self._characters
        return tokens + len(self._item_tokens) * _MENTION_BYTES + self._size * _ITEM_BYTES

    def add(self, tokens: Collection[str]) -> int:
        """Add an item; its number."""
        number = self._size
        self._size += 1
        for token in dict.fromkeys(tokens):
            known = self._ids.get(token)
            if known is None:
                known = self._ids[token] = len(self._tokens)
                self._tokens.append(token)
                self._having.append(number)
                self._characters += len(token)
            else:
                self._having[known] = self._and(self._having[known], number)
            self._item_tokens.append(known)
        self._item_ends.append(len(self._item_tokens))
        return number

    def _and(self, having: int | array[int] | bytearray, number: int) -> int | array[int] | bytearray:
        """Those items and one more, in the form that takes the least room."""
        if isinstance(having, bytearray):
            _set(having, number)
            return having
        if isinstance(having, int):
            return array("I", (having, number))
        having.append(number)
        if len(having) > _SPARSE_MAX and len(having) * 64 > self._size:
            return _bits(having)
        return having

    def remove(self, number: int) -> None:
        """Forget an item; its number is not used again."""
        self._gone |= 1 << number

    def search(
        self, question: Collection[str], weigh: Weigh, *, weights: Hashable, k: int = TOP_K, only: int = -1
    ) -> list[Scored]:
        """As `top_matches`, among the items whose bit is set in `only`.

        weights: whatever identifies `weigh`; equal ones weigh alike.
        """
        among = only & ((1 << self._size) - 1) & ~self._gone
        totals = {
            total: int.from_bytes(items, "little")
            for total, items in sorted(self._total_weights(weigh, weights).items())
        }
        asked = set(question)
        whole = sum(map(weigh, asked))
        best: list[Scored] = []
        for shared, these in _by_sum(self._shared(asked, weigh), among):
            if not shared or (len(best) == k and shared / whole < best[-1].score):
                break  # an item weighs at least what it shares, so no later one can score higher
            for total, items in totals.items():
                if total < shared:
                    continue
                either = whole + total - shared
                if len(best) == k and shared / either < best[-1].score:
                    break
                group = these & items
                if group:
                    best += [Scored(number, shared, either) for number in _lowest(group, k)]
                    best = sorted(best, key=lambda s: (-s.score, s.item))[:k]
        return best

    def _shared(self, question: Iterable[str], weigh: Weigh) -> list[int]:
        """For every item the weight that it shares with the question: digit by digit, the lowest first."""
        digits: list[int] = []
        for token in question:
            have = self._items_with(token)
            weight = weigh(token) if have else 0
            place = 0
            while weight:
                if weight & 1:
                    _add(digits, place, have)
                weight >>= 1
                place += 1
        return digits

    def _items_with(self, token: str) -> int:
        """The items that have a token, a bit for each."""
        known = self._ids.get(token)
        if known is None:
            return 0
        having = self._having[known]
        if isinstance(having, int):
            return 1 << having
        return int.from_bytes(having if isinstance(having, bytearray) else _bits(having), "little")

    def _total_weights(self, weigh: Weigh, weights: Hashable) -> dict[int, bytearray]:
        """The items by the weight of all their tokens."""
        known = self._totals.pop(weights, None) or _Totals()
        known.weights.extend(map(weigh, self._tokens[len(known.weights) :]))
        start = self._item_ends[known.done - 1] if known.done else 0
        for number in range(known.done, self._size):
            end = self._item_ends[number]
            total = sum([known.weights[token] for token in self._item_tokens[start:end]])
            _set(known.items.setdefault(total, bytearray()), number)
            start = end
        known.done = self._size
        self._totals[weights] = known  # the last in the dict is the one that was used last
        if len(self._totals) > _WEIGHTS_MAX:
            del self._totals[next(iter(self._totals))]
        return known.items


def first_bits(numbers: array[int], most: int) -> int:
    """A bit for each of the sorted numbers that is at most `most`, by its place among them."""
    return (1 << bisect_right(numbers, most)) - 1


def _add(digits: list[int], place: int, carry: int) -> None:
    """Add 2**place to the sums of the items in `carry`."""
    while carry:
        while place >= len(digits):
            digits.append(0)
        digits[place], carry = digits[place] ^ carry, digits[place] & carry
        place += 1


def _by_sum(digits: list[int], among: int) -> Iterator[tuple[int, int]]:
    """The sums that items have, highest first, each with its items."""

    def split(place: int, above: int, items: int) -> Iterator[tuple[int, int]]:
        if not items:
            return
        if place < 0:
            yield above, items
            return
        yield from split(place - 1, above | 1 << place, items & digits[place])
        yield from split(place - 1, above, items & ~digits[place])

    return split(len(digits) - 1, 0, among)


def _bits(numbers: Iterable[int]) -> bytearray:
    bitmap = bytearray()
    for number in numbers:
        _set(bitmap, number)
    return bitmap


def _set(bitmap: bytearray, number: int) -> None:
    byte = number >> 3
    if byte >= len(bitmap):
        bitmap.extend(bytes(byte + 1 - len(bitmap)))
    bitmap[byte] |= 1 << (number & 7)


def _lowest(bits: int, k: int) -> list[int]:
    """The numbers of the k lowest bits that are set."""
    numbers: list[int] = []
    while bits and len(numbers) < k:
        lowest = bits & -bits
        numbers.append(lowest.bit_length() - 1)
        bits ^= lowest
    return numbers
