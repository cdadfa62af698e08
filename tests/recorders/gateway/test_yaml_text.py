"""The YAML of policies: a subset in which nothing means something else than it seems or explodes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tallystick.recorders.gateway.yaml_text import MAX_BYTES, MAX_DEPTH, Unreadable, read_yaml

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: -0.70", {"a": -0.7}),
        ("a: true\nb: False\nc: TRUE", {"a": True, "b": False, "c": True}),
        ("a: null\nb: ~\nc:\n", {"a": None, "b": None, "c": None}),
        ("a: 'NO'\nb: \"1\"\nc: '2026-03-01'", {"a": "NO", "b": "1", "c": "2026-03-01"}),
        ("a: |\n  on\n", {"a": "on\n"}),
        ("a: y\nb: support.refund\nc: $limit", {"a": "y", "b": "support.refund", "c": "$limit"}),
        ("a: [1, two, {b: 3}]", {"a": [1, "two", {"b": 3}]}),
        ("", None),
        ("# only a comment", None),
    ],
)
def test_what_is_read(text: str, value: Any) -> None:
    assert read_yaml(text) == value
    assert repr(read_yaml(text)) == repr(value)  # True is not 1


@pytest.mark.parametrize(
    "word",
    "NO no Yes on OFF 2026-03-01 2026-03-01T10:00:00Z 12:30 0x1F 0o17 1_000 007 .5 1. +1 1e3 "
    "1.5e3 .inf -.inf .nan << =".split(),
)
def test_words_that_readers_of_yaml_disagree_on_are_refused(word: str) -> None:
    with pytest.raises(Unreadable, match=r"line 2: .*quote it"):
        read_yaml(f"ok: 1\na: {word}")
    assert read_yaml(f"a: '{word}'") == {"a": word}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (BOMB, "alias"),
        ("a: &x 1", "anchor"),
        ("a: !!python/object/apply:os.system [id]", "tag"),
        ("a: !local x", "tag"),
        ("a: !!str 1", "tag"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' comes twice"),
        ("a: {b: 1, b: 2}", "comes twice"),
        ("1: x", "no text"),
        ("? [a]\n: x", "no text"),
        ("true: x", "no text"),
        ("--- \na: 1\n---\nb: 2", "second document"),
        ("a: [1", "no YAML"),
        ("a: \x00", "no YAML"),
        ("a: \ud800", "surrogate"),
        ("a: 99999999999999999999", "beyond"),
        ("a: 1.0e+400", "beyond"),
        ("a: " + "9" * 5000, "40 characters"),
        ("[" * (MAX_DEPTH + 1), "deeper"),
        ("{a: " * 5000, "deeper"),
        ("[" + "1," * 30_000 + "]", "more than 20,000 values"),
        ("a: " + "x" * MAX_BYTES, "bytes"),
    ],
)
def test_what_is_refused(text: str, what: str) -> None:
    with pytest.raises(Unreadable, match=what):
        read_yaml(text)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(Unreadable) as caught:
        read_yaml("a: NO\nb: &x 1\nc: *x\na: !t 2\n")
    assert [fault.line for fault in caught.value.faults] == [1, 2, 3, 4, 4]


def test_a_text_that_explodes_is_told_in_a_line_or_two() -> None:
    many = "a: &a [x, x]\n" + "".join(f"b{number}: [*a, *a]\n" for number in range(50))
    with pytest.raises(Unreadable) as caught:
        read_yaml(many)
    *_, last = caught.value.faults
    assert (len(caught.value.faults), last.problem) == (4, "and 98 more anchors and aliases")


def test_what_could_be_read_goes_with_the_faults() -> None:
    with pytest.raises(Unreadable) as caught:
        read_yaml("a: 1e999\nb: NO\nc: {d: 2}\n")
    assert caught.value.value == {"a": 0, "b": "NO", "c": {"d": 2}}
    assert "write a plain number" in caught.value.faults[0].problem
    assert "number" not in caught.value.faults[1].problem


@example("0E0")  # a number to readers of YAML 1.2, a text to the writer
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.text(st.characters(codec="ascii")),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text("ab-: #", min_size=1), inner, max_size=4)
        ),
        max_leaves=10,
    )
)
def test_what_is_written_plainly_is_read_back(value: Any) -> None:
    """Another writer's YAML of JSON values: the same value, or refused, and never another value."""
    text = yaml.safe_dump(value)
    try:
        assert read_yaml(text) == value
    except Unreadable as error:
        assert "&" in text or "*" in text or "deeper" in text or "quote it" in str(error)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_yaml(text)
    except Unreadable as error:
        assert error.faults
