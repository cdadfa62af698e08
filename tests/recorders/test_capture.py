"""Any value can be captured: exactly where it is JSON, with placeholders where it is not (K8)."""

import datetime as dt
import io
from decimal import Decimal
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tallystick.ledger import canonical
from tallystick.recorders.capture import MAX_DEPTH, capture, text_of

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner))
ODD = st.sampled_from(
    [object(), {1, 2}, b"x", float("nan"), 2**70, "\ud800", {1: 2}, io.BytesIO(), print, Decimal(1)]
)
#: Not on top of JSON, which is as deep: to draw from one recursion inside another takes long.
MIXED = st.recursive(
    SCALARS | ODD,
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab/~\ud800") | ANY_TEXT, inner),
)


class Nasty:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


class LyingDict(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no")

    def __iter__(self) -> Any:
        raise RuntimeError("no")


def at(value: Any, pointer: str) -> Any:
    for token in pointer.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        value = value[int(token) if isinstance(value, list) else token]
    return value


@given(JSON)
def test_json_is_kept_exactly_with_its_digest(value: Any) -> None:
    captured = capture(value)
    data = canonical.encode(value)
    assert canonical.encode(captured.value) == data
    assert (captured.digest, captured.placeholders) == (f"blake3:{blake3(data).hexdigest()}", [])


@given(MIXED)
def test_anything_becomes_json_and_every_placeholder_is_named(value: Any) -> None:
    captured = capture(value, "/output")
    canonical.encode({"output": captured.value})
    found = [at({"output": captured.value}, pointer) for pointer in captured.placeholders]
    assert all("$omitted" in placeholder for placeholder in found)
    assert (captured.digest is None) == bool(found)


def test_placeholders_name_the_type_where_the_value_stood() -> None:
    captured = capture({"a/b": [1, (n for n in [])], "when": dt.date(2026, 3, 1)}, "/arguments")
    assert captured.value == {
        "a/b": [1, {"$omitted": "not JSON", "type": "generator"}],
        "when": {"$omitted": "not JSON", "type": "datetime.date", "text": "datetime.date(2026, 3, 1)"},
    }
    assert captured.placeholders == ["/arguments/a~1b/1", "/arguments/when"]


def test_a_value_that_only_looks_like_a_placeholder_is_none() -> None:
    captured = capture({"$omitted": "not JSON", "type": "generator"})
    assert captured.digest is not None
    assert captured.placeholders == []


def test_structures_that_hold_themselves_and_deep_ones() -> None:
    loop: list[Any] = [1]
    loop.append({"again": loop})
    assert capture(loop).value == [1, {"again": {"$omitted": "holds itself", "type": "list"}}]
    twice = [1]
    assert capture([twice, twice]).placeholders == []
    deep: Any = 1
    for _ in range(MAX_DEPTH + 3):
        deep = [deep]
    assert capture(deep).placeholders == ["/0" * MAX_DEPTH]
    for _ in range(100_000):
        deep = [deep]
    assert capture(deep).placeholders == ["/0" * MAX_DEPTH]


def test_a_large_value_is_left_out_and_its_digest_kept() -> None:
    captured = capture("x" * 5000, "/output", max_bytes=1000)
    assert captured.value == {"$omitted": "too large", "type": "str", "bytes": 5002}
    assert captured.digest == capture("x" * 5000).digest
    assert captured.placeholders == ["/output"]
    assert capture(["x" * 5000, print], max_bytes=1000).value["$omitted"] == "too large"


def test_the_snapshot_does_not_change_with_the_value() -> None:
    value = {"items": [1]}
    captured = capture(value)
    value["items"].append(2)
    assert captured.value == {"items": [1]}


@pytest.mark.parametrize("value", [Nasty(), [Nasty()], LyingDict(a=1, b=print), {"k": Nasty()}])
def test_values_that_misbehave(value: Any) -> None:
    captured = capture(value)
    canonical.encode(captured.value)


def test_text_of_what_may_raise() -> None:
    assert text_of(lambda: str(Nasty()), "?") == "?"
    assert text_of(lambda: "a\ud800", "?") == "a?"
    assert len(text_of(lambda: "x" * 100_000, "?")) < 5000
