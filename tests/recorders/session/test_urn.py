"""Contract S6: URNs are built, parsed and validated, and building and parsing are inverses."""

import importlib.util
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import InvalidUrn
from tallystick.recorders.session.urn import (
    ActionName,
    Urn,
    build_action_urn,
    build_kernel_urn,
    build_urn,
    kernel_name,
    kernel_urn,
    parse_action_urn,
    parse_urn,
    validate_urn,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
PLAIN = st.from_regex(r"[A-Za-z][A-Za-z0-9.]*", fullmatch=True)

PEER_MISSING = importlib.util.find_spec("cklib") is None


@pytest.fixture(scope="module")
def peer() -> Any:
    if PEER_MISSING:
        pytest.skip("the peer conceptkernel is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cklib.urn
    return cklib.urn


def test_s6_the_forms() -> None:
    assert build_kernel_urn("Billing.Refunds") == "ckp://Kernel#Billing.Refunds:v1.0"
    assert build_kernel_urn("Billing", "2.1.3") == "ckp://Kernel#Billing:v2.1.3"
    assert build_action_urn("Billing", "refund.issue", 1773518402000) == (
        "ckp://Action#Billing/refund.issue-1773518402000"
    )
    assert build_action_urn("ckp://Kernel#Billing:v1.0", "refund") == "ckp://Action#Billing/refund"
    assert build_urn("Session", "7f3a") == "ckp://Session#7f3a"
    assert parse_urn("ckp://Kernel#A:v1.0") == Urn("Kernel", "A", "v1.0")
    assert parse_urn("ckp://Process#deploy-1-ab") == Urn("Process", "deploy-1-ab", None)


@given(TEXT)
def test_s6_any_name_of_a_kernel_comes_back(name: str) -> None:
    urn = build_kernel_urn(name)
    assert validate_urn(urn)
    assert kernel_name(urn) == name
    assert kernel_urn(urn) == urn
    assert str(parse_urn(urn)) == urn


@given(TEXT, TEXT, st.integers(0, 10**15))
def test_s6_any_action_comes_back(kernel: str, action: str, at_ms: int) -> None:
    urn = build_action_urn(kernel, action, at_ms)
    assert validate_urn(urn)
    assert parse_action_urn(urn) == ActionName(kernel, action, at_ms)
    assert urn == build_action_urn(build_kernel_urn(kernel), action, at_ms)


def test_s6_an_action_without_a_time() -> None:
    assert parse_action_urn("ckp://Action#A/b.c") == ActionName("A", "b.c", None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ckp://Kernel",
        "ckp://Kernel#",
        "ckp://#A",
        "ckp://Kernel#A:1.0",
        "ckp://Kernel#A:v1",
        "ckp://Kernel#A:v1.0:v1.0",
        "ckp://Kernel#A B",
        "ckp://Kernel#A\n",
        "ckp://Kernel#A?x=1",
        "http://Kernel#A",
        "ckp://Ker nel#A",
        None,
        7,
    ],
)
def test_s6_what_is_no_urn(text: Any) -> None:
    assert not validate_urn(text)
    with pytest.raises(InvalidUrn):
        parse_urn(text)


@pytest.mark.parametrize("text", ["ckp://Action#A", "ckp://Action#/b", "ckp://Action#A/", "ckp://Kernel#A/b"])
def test_s6_a_urn_that_lacks_a_part_of_its_kind(text: str) -> None:
    assert str(parse_urn(text)) == text
    assert not validate_urn(text)


@pytest.mark.parametrize("kernel", ["ckp://Action#A/b", "ckp://Kernel#", "ckp://nothing"])
def test_s6_what_begins_like_a_urn_must_be_a_kernel_s(kernel: str) -> None:
    with pytest.raises(InvalidUrn):
        kernel_urn(kernel)


def test_s6_parts_that_would_be_read_as_something_else_are_refused() -> None:
    for identifier in ("A:v1.0", "A#b", ""):
        with pytest.raises(InvalidUrn):
            build_urn("Kernel", identifier)
    with pytest.raises(InvalidUrn):
        build_kernel_urn("")
    with pytest.raises(InvalidUrn):
        build_kernel_urn("A", "one")


@given(PLAIN, PLAIN, st.integers(10**9, 10**13))
def test_s6_plain_names_give_the_peer_s_urns(peer: Any, kernel: str, action: str, at_ms: int) -> None:
    assert build_kernel_urn(kernel) == peer.build_kernel_urn(kernel)
    urn = build_action_urn(kernel, action, at_ms)
    assert urn == peer.build_action_urn(kernel, action, at_ms)
    theirs, ours = peer.parse_urn(urn), parse_action_urn(urn)
    assert ours == ActionName(theirs["kernel_name"], theirs["action_name"], theirs["timestamp_ms"])
