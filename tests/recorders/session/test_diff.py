"""Contract S2: the summary of what differs between two states."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.ledger import canonical
from tallystick.recorders.capture import capture
from tallystick.recorders.session.diff import diff_of, diff_summary

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(object()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=30,
)


class Odd:
    """Compares as it likes, and has no words."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __eq__(self, other: object) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError("no words")


class NoTruth:
    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


@pytest.mark.parametrize(
    ("before", "after", "summary"),
    [
        ({}, {}, "no change"),
        ({"a": 1}, {"a": 1}, "no change"),
        ({"a": 1}, {"a": 1.0}, "no change"),
        ({"b": 1, "a": "x"}, {"a": "y", "b": 2}, "a: x -> y | b: 1 -> 2"),
        ({"a": True}, {"a": False}, "a: True -> False"),
        ({"a": [1]}, {"a": [1, 2]}, "a: changed"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a: changed"),
        ({"a": None}, {"a": {}}, "a: changed"),
        ({}, {"a": 1}, "a: None -> 1"),
        ({"a": "x"}, {}, "a: x -> None"),
        ({"a": None}, {}, "no change"),
        ({"a": [1]}, {"a": 5}, "a: [1] -> 5"),
        ({2: 1, 10: 1}, {2: 2, 10: 2}, "10: 1 -> 2 | 2: 1 -> 2"),
        ({"a": "x\ny"}, {"a": "z\u2028"}, r"a: x\ny -> z\u2028"),
        (MappingProxyType({"a": 1}), {"a": 2}, "a: 1 -> 2"),
        (1, 2, "1 -> 2"),
        ([1], [1], "no change"),
        ([1], {"a": 1}, "changed"),
        ({"a": Odd(ValueError())}, {"a": Odd(ValueError())}, "a: changed"),
        ({"a": Odd(NoTruth())}, {"a": Odd(True)}, "a: changed"),
        ({"a": Odd(True)}, {"a": Odd(True)}, "no change"),
        ({"a": Odd(False)}, {"a": 1}, "a: ? -> 1"),
    ],
)
def test_s2_summaries(before: Any, after: Any, summary: str) -> None:
    assert diff_summary(before, after) == summary


def test_s2_one_value_is_the_same_as_itself() -> None:
    state = {"a": Odd(ValueError()), "b": float("nan")}
    assert diff_summary(state, state) == "no change"


def test_s2_a_summary_is_bounded() -> None:
    assert len(diff_summary({"a": "x" * 10**6}, {"a": "y"})) < 20_000


@given(VALUES, VALUES)
def test_s2_any_two_states_have_a_summary_in_one_line(before: Any, after: Any) -> None:
    summary = diff_summary(before, after)
    assert len(summary.splitlines()) == 1
    assert diff_summary(before, before) == "no change"


@given(VALUES, VALUES)
def test_s2_what_was_kept_whole_gives_the_summary_again(before: Any, after: Any) -> None:
    """So that replay can derive it from the record alone."""
    kept, kept_after = capture(before), capture(after)
    summary = diff_of(before, after, kept, kept_after)
    if not kept.placeholders and not kept_after.placeholders:
        again = (canonical.decode(canonical.encode(value.value)) for value in (kept, kept_after))
        assert diff_summary(*again) == summary
