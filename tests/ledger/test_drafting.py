"""From an app's event to a draft: fields, meta and context, time, salt."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import BodyTooLarge, InvalidEvent, NewEvent, NotCanonical, ReservedKind
from tallystick.ledger import canonical, chain
from tallystick.ledger.drafting import Drafter

AT = 1_700_000_000_000_000


@pytest.fixture
def drafter() -> Drafter:
    ticks = itertools.count(AT)
    return Drafter(lambda: next(ticks), lambda size: bytes(range(size)), 1000)


def meta_of(drafter: Drafter, meta: Mapping[str, Any] | None = None) -> Any:
    data = drafter.draft(NewEvent(kind="a.b", meta=meta)).meta
    return None if data is None else canonical.decode(data)


# ---- events ----


def test_the_parts_of_a_draft(drafter: Drafter) -> None:
    event = NewEvent(kind="a.b", body={"b": 1, "a": 2}, stream="s", key="k", meta={"x": 1}, at=5)
    draft = drafter.draft(event)
    assert draft.body == b'{"a":2,"b":1}'
    assert draft.salt == bytes(range(16))
    assert draft.body_hash == chain.body_hash(draft.salt, draft.body)
    assert draft.label == chain.label("a.b", "s", "k", b'{"x":1}')
    assert (draft.kind, draft.stream, draft.key, draft.meta, draft.at) == ("a.b", "s", "k", b'{"x":1}', 5)


def test_a_mapping_is_as_good_as_a_new_event(drafter: Drafter) -> None:
    fields = {"kind": "a.b", "body": [1], "stream": "s", "key": "k", "meta": {"x": 1}, "at": 5}
    expected = drafter.draft(NewEvent(**fields))  # type: ignore[arg-type]
    assert drafter.draft(fields) == expected
    assert drafter.draft(MappingProxyType(fields)) == expected


def test_defaults(drafter: Drafter) -> None:
    draft = drafter.draft({"kind": "a.b"})
    assert (draft.body, draft.stream, draft.key, draft.meta, draft.at) == (b"{}", "main", None, None, AT)


@pytest.mark.parametrize("body", [None, False, 0, "", [], {}])
def test_a_body_may_be_any_json_value(drafter: Drafter, body: Any) -> None:
    assert canonical.decode(drafter.draft(NewEvent(kind="a.b", body=body)).body) == body


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({}, "kind: missing; every event needs a kind such as 'order.shipped'"),
        ({"body": 1}, "kind: missing; every event needs a kind such as 'order.shipped'"),
        (
            {"kind": "a.b", "stram": "s", "atx": 1},
            "atx: unknown field; the fields are kind, body, stream, key, meta, at",
        ),
        ({"kind": "a.b", 5: 1}, "5: unknown field; the fields are kind, body, stream, key, meta, at"),
        ("a.b", "event: expected a NewEvent or a mapping, got str"),
        (None, "event: expected a NewEvent or a mapping, got NoneType"),
        ([("kind", "a.b")], "event: expected a NewEvent or a mapping, got list"),
        ({"kind": ["a.b"]}, "kind: expected a string, got list"),
        ({"kind": None}, "kind: expected a string, got NoneType"),
        ({"kind": "a.b", "stream": []}, "stream: expected a string, got list"),
        ({"kind": "a.b", "stream": None}, "stream: expected a string, got NoneType"),
        ({"kind": "a.b", "stream": ""}, "stream: must not be empty"),
        ({"kind": "a.b", "key": ""}, "key: must not be empty"),
        ({"kind": "a.b", "key": 5}, "key: expected a string, got int"),
        ({"kind": "a.b", "meta": []}, "meta: expected an object, got list"),
        ({"kind": "a.b", "meta": "actor"}, "meta: expected an object, got str"),
        ({"kind": "a.b", "meta": [("a", 1)]}, "meta: expected an object, got list"),
    ],
    ids=repr,
)
def test_what_is_no_event(drafter: Drafter, event: Any, message: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        drafter.draft(event)
    assert str(caught.value) == message


def test_reserved_kinds_are_not_for_apps(drafter: Drafter) -> None:
    with pytest.raises(ReservedKind):
        drafter.draft({"kind": "ledger.body_erased"})
    assert drafter.own("ledger.body_erased", {"seq": 1}, "ledger").kind == "ledger.body_erased"


@pytest.mark.parametrize("at", [0, -1, 2**63 - 1, -(2**63) + 1])
def test_times_that_fit(drafter: Drafter, at: int) -> None:
    assert drafter.draft(NewEvent(kind="a.b", at=at)).at == at


@pytest.mark.parametrize("at", [2**63, -(2**63) - 1, 1.5, "2025-01-01", True, b""], ids=repr)
def test_what_is_no_time(drafter: Drafter, at: Any) -> None:
    with pytest.raises(InvalidEvent, match="is no time; give microseconds since 1970-01-01 UTC") as caught:
        drafter.draft(NewEvent(kind="a.b", at=at))
    assert caught.value.path == "at"


def test_the_size_limit_holds_for_body_and_meta(drafter: Drafter) -> None:
    drafter.draft(NewEvent(kind="a.b", body="x" * 998, meta={"x": "y" * 992}))
    with pytest.raises(BodyTooLarge) as caught:
        drafter.draft(NewEvent(kind="a.b", body="x" * 999))
    assert (caught.value.path, caught.value.limit_bytes) == ("body", 1000)
    with pytest.raises(BodyTooLarge) as caught:
        drafter.draft(NewEvent(kind="a.b", meta={"x": "y" * 993}))
    assert caught.value.path == "meta"


def test_salts_are_drawn_at_once_and_cut_up() -> None:
    asked: list[int] = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return bytes(range(size))

    salts = list(Drafter(lambda: 0, entropy, 1000).salts(3))
    assert (asked, salts) == ([48], [bytes(range(n, n + 16)) for n in (0, 16, 32)])


def test_salts_of_the_system_are_drawn_ahead_and_never_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def urandom(size: int) -> bytes:
        asked.append(size)
        return real(size)

    real = os.urandom
    monkeypatch.setattr(os, "urandom", urandom)
    drafter = Drafter(lambda: 0, os.urandom, 1000)
    salts = {drafter.draft(NewEvent(kind="a.b")).salt for _ in range(130)}
    assert asked == [64 * 16] * 3
    assert len(salts) == 130
    assert {len(salt) for salt in salts} == {16}


def test_an_apps_own_entropy_is_asked_event_by_event() -> None:
    asked: list[int] = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    drafter = Drafter(lambda: 0, entropy, 1000)
    for _ in range(3):
        drafter.draft(NewEvent(kind="a.b"))
    assert asked == [16, 16, 16]


# ---- meta and context ----


def test_meta_is_canonical_json_and_absent_when_empty(drafter: Drafter) -> None:
    assert drafter.draft(NewEvent(kind="a.b", meta={"z": 1, "actor": "me"})).meta == b'{"actor":"me","z":1}'
    assert drafter.draft(NewEvent(kind="a.b", meta={})).meta is None
    assert meta_of(drafter, MappingProxyType({"a": [1]})) == {"a": [1]}


@pytest.mark.parametrize("field", ["actor", "correlation", "causation", "traceparent"])
@pytest.mark.parametrize("value", [5, None, ["me"], b"me"], ids=repr)
def test_known_meta_fields_are_strings(drafter: Drafter, field: str, value: Any) -> None:
    with pytest.raises(InvalidEvent) as caught:
        meta_of(drafter, {field: value})
    assert str(caught.value) == f"meta.{field}: expected a string, got {type(value).__name__}"
    if value is not None:  # in a context, None is no value given
        with pytest.raises(InvalidEvent, match=rf"^meta\.{field}: "), drafter.context({field: value}):
            pytest.fail("entered")
        assert meta_of(drafter) is None


def test_meta_that_json_cannot_hold(drafter: Drafter) -> None:
    with pytest.raises(NotCanonical) as caught:
        meta_of(drafter, {"a": [b""]})
    assert caught.value.path == "meta.a[0]"


metas = st.dictionaries(st.sampled_from(["actor", "correlation", "x", "y"]), st.sampled_from("abc"))


@given(st.lists(metas, max_size=4), st.none() | metas)
def test_contexts_nest_and_the_events_own_meta_wins(around: list[dict[str, str]], own: Any) -> None:
    drafter = Drafter(lambda: 0, bytes, 1000)
    merged: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for meta in around:
            stack.enter_context(drafter.context(meta))
            merged |= meta
            assert meta_of(drafter) == (merged or None)
        assert meta_of(drafter, own) == ({**merged, **(own or {})} or None)
        for _ in around:
            stack.pop_all().close()
    assert meta_of(drafter) is None


def test_the_context_before_is_back_after_the_block_and_after_an_error(drafter: Drafter) -> None:
    with drafter.context({"actor": "a"}):
        with pytest.raises(KeyError), drafter.context({"actor": "b", "x": 1}):
            assert meta_of(drafter) == {"actor": "b", "x": 1}
            raise KeyError
        assert meta_of(drafter) == {"actor": "a"}
        with drafter.context({"actor": None, "y": None}):  # not given
            assert meta_of(drafter) == {"actor": "a"}
    assert meta_of(drafter) is None


def test_a_context_is_of_one_drafter(drafter: Drafter) -> None:
    other = Drafter(lambda: 0, bytes, 1000)
    with drafter.context({"actor": "a"}), other.context({"actor": "b"}):
        assert (meta_of(drafter), meta_of(other)) == ({"actor": "a"}, {"actor": "b"})


def test_a_context_keeps_what_it_was_given(drafter: Drafter) -> None:
    meta = {"x": "1"}
    with drafter.context(meta):
        meta["x"] = "2"
        assert meta_of(drafter) == meta_of(drafter, {"x": "1"}) == {"x": "1"}
