"""D4: digests are of RFC 8785 JSON, whichever way is taken to it; ULIDs sort by time."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from tallystick import NotCanonical
from tallystick.recorders.gateway.digests import digest, inputs_digest, jcs
from tallystick.recorders.gateway.features import _token
from tallystick.recorders.gateway.ulid import ALPHABET, ulid

TEXT = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from('"\\/\b\f\n\r\t\x00\x1f\x7f\u2028\ue000😀e1.0,:[')
)
NUMBERS = (
    st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [0.0, -0.0, 1.0, 1e15, 1e16, 1e20, 1e21, 1e22, 1e-5, 1e-6, 1e-7, 5e-324, 123456789012345680000.0]
    )
    | st.integers(-400, 400).map(lambda n: float(f"1.5e{n}") if abs(n) < 300 else 0.5)
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
@example({"\ue000": 1, "😀": 2})
@example("sha256:0e1,1e5")
@example([1e16, -0.0, 1.0])
def test_the_quick_way_gives_what_rfc_8785_says(value: Any) -> None:
    assert jcs(value) == rfc8785.dumps(value)
    assert digest(value) == f"sha256:{hashlib.sha256(rfc8785.dumps(value)).hexdigest()}"
    data = rfc8785.dumps(value)
    if len(data) <= 128:
        assert _token("k", value) == f"k={data.decode()}"


@given(JSON, JSON)
def test_the_digest_of_inputs_is_that_of_both_in_one_object(request: Any, derived: Any) -> None:
    assert inputs_digest(jcs(request), derived) == digest({"request": request, "derived": derived})


def test_numbers_of_the_rfc() -> None:
    """RFC 8785, section 3.2.4: the sample."""
    numbers = [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001]
    assert jcs(numbers) == b"[333333333.3333333,1e+30,4.5,0.002,1e-27]"


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, {1}, b"x", 2**53, "\ud800"])
def test_what_is_no_json_has_no_digest(value: Any) -> None:
    with pytest.raises(NotCanonical):
        digest(value)


def test_ulids() -> None:
    assert ulid(0, bytes(10)) == "0" * 26
    assert ulid(-5, bytes(10)) == "0" * 26
    assert ulid(1 << 62, b"\xff" * 10) == "7" + "Z" * 25
    assert (
        ulid(1_469_918_176_385_000, bytes(10))[:10] == "01ARYZ6S41"
    )  # the example of the ULID specification
    assert ulid(5_000, b"\xff" * 10) < ulid(6_000, bytes(10))
    assert set(ulid(123_456_789, bytes(range(10)))) <= set(ALPHABET)


def test_a_digest_that_others_can_check() -> None:
    """The policy's hash is that of its JSON: a reader with any RFC 8785 library can make it."""
    text = json.dumps({"b": 1.0, "a": "é"})
    assert digest(json.loads(text)) == "sha256:" + hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()
