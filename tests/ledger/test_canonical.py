"""Canonical JSON: what is accepted, its bytes, and the path of what is refused.

A second implementation of the rules, simple and slow, says what `encode` must do with any value.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tallystick import BodyTooLarge, InvalidEvent, NotCanonical
from tallystick.ledger import canonical

MAX = 2**53 - 1
sorted_json = msgspec.json.Encoder(order="sorted").encode


# ---- values that are not what they look like ----


class Text(str):
    """Says something else of itself than it holds."""

    def __str__(self) -> str:
        return "\ud800"


class Whole(int):
    def __int__(self) -> int:
        return 2**60

    def __le__(self, other: object) -> bool:
        return True

    def __ge__(self, other: object) -> bool:
        return True


class Real(float):
    """As numpy's float64: a float by inheritance."""

    def __float__(self) -> float:
        return math.nan


class Named(uuid.UUID):
    def __str__(self) -> str:
        return "\ud800"


class Twin(str):
    """Equal to nothing but itself, so that one dict can hold the same text twice."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Data:
    x: int = 1


class AStruct(msgspec.Struct):
    x: int = 1


class Word(enum.StrEnum):
    PLAIN = "plain"
    LATER = "\uffff"
    BAD = "\udfff"


class Number(enum.IntEnum):
    ONE = 1
    HUGE = 2**53


class Fraction(float, enum.Enum):
    HALF = 0.5
    NAN = math.nan


class Inner(enum.Enum):
    ONE = 1
    NAN = math.nan


class Any_(enum.Enum):
    NOTHING = None
    TEXT = "text"
    NAN = math.nan
    INFINITE = -math.inf
    LIST = (1, None)
    BAD_LIST = (1, math.nan)
    BYTES = b"bytes"
    NESTED = Inner.ONE
    BAD_NESTED = Inner.NAN
    WORD = Word.BAD
    UUID = uuid.UUID(int=7)


ODD_GOOD = [
    Text("held"),
    Whole(7),
    Real(0.25),
    Named(int=5),
    uuid.UUID(int=2**128 - 1),
    Word.PLAIN,
    Number.ONE,
    Fraction.HALF,
    Any_.NOTHING,
    Any_.TEXT,
    Any_.LIST,
    Any_.NESTED,
    Any_.UUID,
    Point(1, None),
    collections.OrderedDict(b=1, a=2),
    collections.defaultdict(list, a=[]),
]
ODD_BAD = [
    math.nan,
    math.inf,
    -math.inf,
    Real(math.inf),
    Real(math.nan),
    MAX + 1,
    -MAX - 1,
    2**64,
    -(10**400),
    Whole(2**53),
    "\ud800",
    "ok\udfffok",
    Text("\udc80"),
    Word.BAD,
    Number.HUGE,
    Fraction.NAN,
    Any_.NAN,
    Any_.INFINITE,
    Any_.BAD_LIST,
    Any_.BAD_NESTED,
    Any_.BYTES,
    Any_.WORD,
    b"bytes",
    bytearray(b"bytes"),
    memoryview(b"bytes"),
    decimal.Decimal("1.5"),
    dt.datetime(2025, 1, 1, tzinfo=dt.UTC),
    dt.date(2025, 1, 1),
    dt.timedelta(1),
    {1, 2},
    frozenset("a"),
    Data(),
    AStruct(),
    msgspec.Raw(b"1"),
    msgspec.UNSET,
    orjson.Fragment(b"1"),
    complex(1, 2),
    range(3),
    collections.UserDict(a=1),
    object,
    ...,
]


# ---- the rules again ----


class Refused(Exception):
    pass


def reference(value: Any, path: str = "body", room: int = 64) -> Any:
    """The value in exact builtin types; Refused with the path of the first misfit."""
    while isinstance(value, enum.Enum):
        value = value.value
    if value is None or value is True or value is False:
        return value
    if isinstance(value, uuid.UUID):
        digits = f"{value.int:032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    if isinstance(value, str):
        return reference_text(value, path)
    if isinstance(value, int):
        exact = int.__add__(value, 0)
        if abs(exact) > MAX:
            raise Refused(path)
        return exact
    if isinstance(value, float):
        exact_float = float.__add__(value, -0.0)
        if not -sys.float_info.max <= exact_float <= sys.float_info.max:
            raise Refused(path)
        return exact_float
    if isinstance(value, (dict, list, tuple)) and room == 0:
        raise Refused(path if len(path) <= 80 else path[:77] + "...")
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise Refused(path)
            name = reference_text(key, f"{path} (a key)")
            if name in found:
                raise Refused(path)
            inner = f"{path}.{name}" if name.isidentifier() else f"{path}[{name!r}]"
            found[name] = reference(item, inner, room - 1)
        return found
    if isinstance(value, (list, tuple)):
        return [reference(item, f"{path}[{index}]", room - 1) for index, item in enumerate(value)]
    raise Refused(path)


def reference_text(value: str, path: str) -> str:
    characters = list(value)  # iterating gives what a str holds, whatever its __str__ says
    if any("\ud800" <= character <= "\udfff" for character in characters):
        raise Refused(path)
    return "".join(characters)


def outcome(value: Any, encode: Callable[[Any], bytes]) -> tuple[str, Any]:
    try:
        return "accepted", encode(value)
    except NotCanonical as error:
        assert str(error).startswith(f"{error.path}: ")
        assert "\n" not in str(error)
        return "refused", error.path
    except Refused as error:
        return "refused", error.args[0]


def slow(value: Any) -> bytes:
    """`encode` with the second encoder out of order, so that every value takes the exact walk."""

    def refuse(*_: object) -> bytes:
        raise TypeError

    with mock.patch.object(canonical, "orjson", SimpleNamespace(dumps=refuse)):
        return canonical.encode(value)


def as_the_rules_say(value: Any) -> None:
    expected = outcome(value, lambda value: sorted_json(reference(value)))
    assert outcome(value, canonical.encode) == expected
    assert outcome(value, slow) == expected


# ---- strategies ----

integers = st.one_of(
    st.integers(-MAX, MAX), st.integers(-3, 3).map(MAX.__add__), st.integers(-3, 3).map((-MAX).__add__)
)
plain_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-MAX, MAX),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-0.0, 5e-324, 1e16, 1e-7, 1e15, 123456789012345680.0]),
    st.text(),
)
keys = st.text() | st.sampled_from(["", "a", "null", "\uffff", "\U0001f600", "\ue000", "é", "e\u0301"])


def nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)
    )


plain_values = nested(plain_leaves, keys)
any_text = st.text(st.characters(codec=None, categories=None), max_size=6)
odd_keys = st.one_of(
    keys,
    any_text,
    st.sampled_from([Twin("a"), Twin("a"), "a", Text("held"), "held", Word.PLAIN, "plain"]),
    st.sampled_from([1, None, True, 1.5, b"a", Any_.TEXT, (1,), Word.BAD]),
)
odd_leaves = st.one_of(
    plain_leaves,
    integers,
    st.floats(),
    any_text,
    st.sampled_from(ODD_GOOD),
    st.sampled_from(ODD_BAD),
)
odd_values = st.recursive(
    odd_leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.builds(Point, inner, inner),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(odd_keys, inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3).map(collections.OrderedDict),
    ),
    max_leaves=6,
)


# ---- accepted values ----


@given(plain_values)
def test_encode_and_decode_are_inverses(value: Any) -> None:
    again = canonical.decode(canonical.encode(value))
    assert again == value
    # Python's == takes 1, 1.0 and True for the same, and 0.0 and -0.0; the text does not.
    assert json.dumps(again, sort_keys=True) == json.dumps(value, sort_keys=True)


@given(plain_values)
def test_the_bytes_of_plain_values_are_those_of_msgspec(value: Any) -> None:
    assert canonical.encode(value) == sorted_json(value)


@given(nested(st.none() | st.booleans() | st.integers(-MAX, MAX) | st.text(), keys))
def test_the_bytes_of_values_without_floats_are_those_of_the_standard_library(value: Any) -> None:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical.encode(value) == text.encode()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_back_to_the_last_bit(value: float) -> None:
    text = canonical.encode(value).decode()
    assert float(text).hex() == value.hex()
    assert any(mark in text for mark in ".e")  # and stays a float
    assert decimal.Decimal(text) == decimal.Decimal(repr(value))  # the shortest digits, as repr's are


@given(st.dictionaries(keys, st.none()))
def test_keys_are_sorted_by_code_point(value: dict[str, None]) -> None:
    written = list(canonical.decode(canonical.encode(value)))
    assert written == sorted(value, key=lambda name: [ord(character) for character in name])


def test_sorting_by_code_point_is_not_sorting_by_utf_16() -> None:
    value = {"\U0001f600": 1, "\uffff": 2, "\ue000": 3}
    assert list(canonical.decode(canonical.encode(value))) == ["\ue000", "\uffff", "\U0001f600"]
    assert sorted(value, key=lambda name: name.encode("utf-16-be"))[0] == "\U0001f600"


@pytest.mark.parametrize("value", ODD_GOOD, ids=repr)
def test_a_value_stands_for_what_it_holds(value: Any) -> None:
    assert canonical.encode(value) == sorted_json(reference(value))
    assert canonical.encode({"a": [value, None]}) == sorted_json({"a": [reference(value), None]})


# ---- any value: the rules decide, on either path ----


@given(odd_values)
@example({"a": None, "b": math.nan})
@example([None, {"a": Any_.NESTED}])
@example({Twin("a"): 1, "a": 2})
@example({"x": {Word.PLAIN: 1, Twin("plain"): math.nan}})
@example([-0.0, None, 1e16, "null"])
def test_any_value_is_judged_by_the_rules(value: Any) -> None:
    as_the_rules_say(value)


@pytest.mark.parametrize("value", ODD_BAD, ids=lambda value: repr(value).split(" at 0x")[0][:40])
@pytest.mark.parametrize("place", ["alone", "first", "last", "in an object", "deep"])
@pytest.mark.parametrize("beside", [None, 1], ids=repr)
def test_what_json_cannot_hold_is_refused_anywhere(value: Any, place: str, beside: Any) -> None:
    whole = {
        "alone": value,
        "first": [value, beside],
        "last": [beside, value],
        "in an object": {"a": beside, "b c": value},
        "deep": {"z": beside, "a": [[{"k": (beside, value)}]]},
    }[place]
    with pytest.raises(NotCanonical):
        canonical.encode(whole)
    as_the_rules_say(whole)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (math.nan, "body"),
        ([1, [math.nan]], "body[1][0]"),
        ({"items": [0, 0, {"price": 2**60}]}, "body.items[2].price"),
        ({"not a name": {"x": b""}}, "body['not a name'].x"),
        ({"line\nbreak": {1}}, "body['line\\nbreak']"),
        ({"a": {"\ud800": 1}}, "body.a (a key)"),
        ({"a": {2: 1}}, "body.a"),
        ({"a": "\udc00"}, "body.a"),
        ({"a": {Twin("k"): 1, Twin("k"): 2}}, "body.a"),
        ({"": None, "é": [None, math.inf]}, "body.é[1]"),
        ({"": math.inf}, "body['']"),
    ],
)
def test_a_refusal_names_the_place(value: Any, path: str) -> None:
    assert outcome(value, canonical.encode) == ("refused", path)


def test_the_path_starts_where_the_caller_says() -> None:
    with pytest.raises(NotCanonical, match=r"^meta\.actor: nan is no JSON number; use null or a string$"):
        canonical.encode({"actor": math.nan}, "meta")


def test_a_refusal_says_what_was_found_and_what_to_do() -> None:
    with pytest.raises(NotCanonical) as caught:
        canonical.encode([b"\x00"])
    error = caught.value
    assert (error.path, error.problem) == ("body[0]", "a value of type bytes is no JSON value")
    assert error.remedy == "encode it, in base64 say"
    assert isinstance(error, InvalidEvent)
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("integer", [MAX, -MAX])
def test_the_largest_integers_are_accepted(integer: int) -> None:
    assert canonical.encode(integer) == str(integer).encode()
    for beyond in (integer + 1, integer - 1):
        as_the_rules_say([None, beyond])


# ---- depth ----


def wrapped(depth: int, wrap: Callable[[Any], Any], value: Any = None) -> Any:
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "wrap",
    [lambda v: [v], lambda v: {"k": v}, lambda v: (v,), lambda v: [[], {}, {"k": v}][2], lambda v: [0, v]],
)
@pytest.mark.parametrize("leaf", [None, 1, "x"], ids=repr)
def test_64_levels_are_accepted_and_65_are_not(wrap: Callable[[Any], Any], leaf: Any) -> None:
    assert canonical.encode(wrapped(64, wrap, leaf)) == sorted_json(reference(wrapped(64, wrap, leaf)))
    with pytest.raises(NotCanonical, match="nested deeper than 64 levels, or containing itself"):
        canonical.encode(wrapped(65, wrap, leaf))
    as_the_rules_say(wrapped(65, wrap, leaf))


def test_an_empty_array_counts_as_a_level() -> None:
    assert canonical.encode(wrapped(63, lambda v: [v], [])) == b"[" * 64 + b"]" * 64
    as_the_rules_say(wrapped(64, lambda v: [v], []))


def test_many_shallow_containers_are_no_depth() -> None:
    as_the_rules_say([[{"a": []}] for _ in range(100)])
    assert len(canonical.encode([[]] * 100)) == 301


@pytest.mark.parametrize("depth", [1000, sys.getrecursionlimit() * 3])
def test_a_very_deep_value_is_refused_and_nothing_worse(depth: int) -> None:
    with pytest.raises(NotCanonical, match="nested deeper"):
        canonical.encode(wrapped(depth, lambda v: [v]))


def test_a_value_that_contains_itself_is_refused() -> None:
    array: list[Any] = [None]
    array.append(array)
    thing: dict[str, Any] = {"a": 1}
    thing["self"] = {"again": thing}
    for value in (array, thing, [thing], {"x": array}):
        with pytest.raises(NotCanonical, match="containing itself"):
            canonical.encode(value)
        as_the_rules_say(value)


# ---- size ----


@given(plain_values)
def test_the_limit_is_the_largest_size_allowed(value: Any) -> None:
    size = len(canonical.encode(value))
    assert len(canonical.encode(value, max_bytes=size)) == size
    with pytest.raises(BodyTooLarge) as caught:
        canonical.encode(value, "meta", size - 1)
    assert (caught.value.path, caught.value.size_bytes, caught.value.limit_bytes) == ("meta", size, size - 1)


def test_the_default_limit_is_one_mebibyte() -> None:
    assert len(canonical.encode("x" * (2**20 - 2))) == 2**20
    with pytest.raises(BodyTooLarge, match="1,048,577 bytes of JSON, more than the 1,048,576 allowed"):
        canonical.encode("x" * (2**20 - 1))


def test_the_limit_counts_bytes_and_not_characters() -> None:
    with pytest.raises(BodyTooLarge):
        canonical.encode("é" * 10, max_bytes=20)
    assert canonical.encode("é" * 9, max_bytes=20) == b'"' + "é".encode() * 9 + b'"'


# ---- the vectors ----


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that keeps members of the same name apart, as a dict of plain keys could not."""
    names = [name for name, _ in pairs]
    return {Twin(name) if names.count(name) > 1 else name: value for name, value in pairs}


def test_the_vectors_accepted(vectors: Path) -> None:
    accepted = json.loads((vectors / "canonical.json").read_text("utf-8"))["accepted"]
    assert len(accepted) > 40
    for vector in accepted:
        value = json.loads(vector["in"])
        data = canonical.encode(value)
        assert data.hex() == vector["out_hex"], vector["name"]
        assert slow(value) == data, vector["name"]
        assert canonical.encode(canonical.decode(data)) == data, vector["name"]


def test_the_vectors_refused(vectors: Path) -> None:
    not_json = {
        "not a number": math.nan,
        "positive infinity": math.inf,
        "negative infinity": -math.inf,
        "name that is no string": {1: 1},
        "bytes": b"bytes",
    }
    refused = json.loads((vectors / "canonical.json").read_text("utf-8"))["refused"]
    assert {vector["name"] for vector in refused if vector["in"] is None} == set(not_json)
    for vector in refused:
        text = vector["in"]
        value = not_json[vector["name"]] if text is None else json.loads(text, object_pairs_hook=unique)
        for encode in (canonical.encode, slow):
            with pytest.raises(NotCanonical):
                encode(value)
                pytest.fail(vector["name"])


# ---- JSON from outside ----


@given(
    json_text=st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=12,
    ),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_parse_reads_any_form(json_text: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(json_text, indent=indent, ensure_ascii=ascii_only, separators=(" , ", " : "))
    assert canonical.parse(text.encode()) == json_text


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        '{"a":1,"\\u0061":2}',
        '[{"x":{"a" : 1, "b":2, "a":1}}]',
        '{"a":"\\":","a":2}',
        '{"a":"\\u003a","a":2}',
        '{"a":1,"b":"x\\":y","a" :3}',
    ],
)
def test_parse_refuses_a_name_that_comes_twice(text: str) -> None:
    """Any reader would keep one member and lose the other in silence."""
    with pytest.raises(ValueError, match="the name 'a' comes twice"):
        canonical.parse(text.encode())


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b'"\xff"', b"[" * 5000, b'"\\ud800"', b"1e999"])
def test_parse_refuses_what_is_no_json(text: bytes) -> None:
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        canonical.parse(text)
