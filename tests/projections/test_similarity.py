"""D8: the search among many items gives what looking at every item gives, whatever their order."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.projections.similarity import Bitmaps, Scored, similarity, top_matches

TOKENS = st.lists(st.sampled_from([f"{key}={value}" for key in "abcdef" for value in range(4)]), max_size=8)
WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 100))


def weigher(weights: dict[str, int]) -> Callable[[str], int]:
    return lambda token: weights.get(token[0], 1)


@given(
    st.lists(TOKENS, max_size=60),
    TOKENS,
    st.lists(WEIGHTS, min_size=1, max_size=6),
    st.integers(1, 7),
    st.integers(0),
    st.sets(st.integers(0, 59)),
)
def test_searching_is_exact(
    items: list[list[str]],
    question: list[str],
    weightings: list[dict[str, int]],
    k: int,
    only: int,
    gone: set[int],
) -> None:
    bitmaps = Bitmaps()
    half = len(items) // 2
    for number, tokens in enumerate(items[:half]):
        assert bitmaps.add(tokens) == number
    for number in gone:
        bitmaps.remove(number)
    for weights in weightings:
        weigh, name = weigher(weights), tuple(sorted(weights.items()))
        bitmaps.search(question, weigh, weights=name)  # while there are fewer
    for tokens in items[half:]:
        bitmaps.add(tokens)
    for weights in weightings:
        weigh, name = weigher(weights), tuple(sorted(weights.items()))
        left = [(n, tokens) for n, tokens in enumerate(items) if n not in gone and only >> n & 1]
        assert bitmaps.search(question, weigh, weights=name, k=k, only=only) == top_matches(
            question, left, weigh, k
        )


@pytest.mark.parametrize("distinct", [2, 60, 3000])
def test_searching_many_items_of_few_and_of_many_tokens(distinct: int) -> None:
    chance = random.Random(distinct)
    weigh = weigher({"b": 3})
    bitmaps = Bitmaps()
    items = []
    for number in range(3000):
        tokens = ["a=0", *(f"{key}={chance.randrange(distinct)}" for key in "bcd")]
        items.append((number, tokens))
        bitmaps.add(tokens)
    for _ in range(8):
        question = ["a=0", *(f"{key}={chance.randrange(distinct)}" for key in "bcd")]
        only = chance.getrandbits(3000)
        left = [item for item in items if only >> item[0] & 1]
        assert bitmaps.search(question, weigh, weights=0) == top_matches(question, items, weigh)
        assert bitmaps.search(question, weigh, weights=0, only=only) == top_matches(question, left, weigh)


@given(st.lists(TOKENS, max_size=20), TOKENS, st.randoms())
def test_the_order_of_items_has_no_influence(
    items: list[list[str]], question: list[str], chance: random.Random
) -> None:
    numbered = list(enumerate(items))
    first = top_matches(question, numbered, weigher({}))
    chance.shuffle(numbered)
    for _, tokens in numbered:
        chance.shuffle(tokens)
    assert top_matches(question, numbered, weigher({})) == first


def test_similarity_is_a_fraction_of_weights() -> None:
    weigh = weigher({"a": 2})
    assert similarity(["a=1", "b=1"], ["a=1", "c=1"], weigh) == (2, 4)
    assert similarity(["a=1", "a=1"], ["a=1"], weigh) == (2, 2)
    assert similarity([], [], weigh) == (0, 1)
    assert similarity(["b=1"], [], weigh) == (0, 1)


def test_ties_go_to_the_lower_number_and_nothing_in_common_is_no_match() -> None:
    items = [(5, ["a=1"]), (3, ["a=1"]), (4, ["a=1", "b=1"]), (1, ["c=1"])]
    assert top_matches(["a=1"], items, weigher({})) == [Scored(3, 1, 1), Scored(5, 1, 1), Scored(4, 1, 2)]
