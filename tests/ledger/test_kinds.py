"""Names of kinds, streams and keys, and the registered bodies."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import InvalidEvent, NotCanonical, ReservedKind
from tallystick.ledger import kinds

# ---- kinds ----


@given(st.from_regex(r"[a-z][a-z0-9_]{0,9}(\.[a-z][a-z0-9_]{0,9}){1,3}", fullmatch=True))
def test_a_kind_is_dotted_words(kind: str) -> None:
    assert kinds.check_kind(kind) is kind


@given(st.text(max_size=12) | st.from_regex(r"[a-z.A-Z_0-9]{1,8}", fullmatch=True))
def test_any_text_is_a_kind_as_the_pattern_says(text: str) -> None:
    if re.match(r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+\Z", text):
        kinds.check_kind(text)
    else:
        with pytest.raises(InvalidEvent) as caught:
            kinds.check_kind(text)
        assert caught.value.path == "kind"
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind",
    ["", "order", ".a", "a.", "a..b", "A.b", "a.B", "1a.b", "a.1", "_a.b", "a-b.c", "a.b\n", "ä.b", "a.b c"],
)
def test_what_is_no_kind(kind: str) -> None:
    with pytest.raises(InvalidEvent, match="is no kind; use at least two dotted words"):
        kinds.check_kind(kind)


@pytest.mark.parametrize("kind", [None, 1, b"a.b", ["a.b"], {}], ids=repr)
def test_a_kind_is_a_string(kind: object) -> None:
    for check in (kinds.check_kind, kinds.check_open_kind):
        with pytest.raises(InvalidEvent, match=f"^kind: expected a string, got {type(kind).__name__}$"):
            check(kind)


def test_the_length_of_a_kind() -> None:
    assert kinds.check_kind("a." + "b" * 126)
    with pytest.raises(InvalidEvent, match="129 characters long, more than the 128 allowed"):
        kinds.check_kind("a." + "b" * 127)


@pytest.mark.parametrize("area", sorted(kinds.RESERVED_AREAS))
def test_reserved_areas_are_the_recorders(area: str) -> None:
    with pytest.raises(ReservedKind, match=f"^kind: '{area}.x_1' is reserved") as caught:
        kinds.check_open_kind(f"{area}.x_1")
    assert (caught.value.kind, caught.value.path) == (f"{area}.x_1", "kind")
    assert kinds.check_kind(f"{area}.x") == f"{area}.x"
    assert kinds.check_open_kind(f"{area}s.x") and kinds.check_open_kind(f"app.{area}")


def test_apps_may_have_messages_of_their_own() -> None:
    """`message` is a word that apps want, too; only the recorder's own kind is reserved."""
    assert kinds.check_open_kind("message.user") == "message.user"
    with pytest.raises(ReservedKind, match=r"^kind: 'message\.recorded' is reserved"):
        kinds.check_open_kind("message.recorded")


# ---- streams and keys ----


@given(st.text())
def test_a_name_is_what_the_rules_say(name: str) -> None:
    controls = any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in name)
    if name and len(name.encode()) <= 512 and not controls:
        assert kinds.check_name(name, "stream") is name
    else:
        with pytest.raises(InvalidEvent) as caught:
            kinds.check_name(name, "stream")
        assert caught.value.path == "stream"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "must not be empty"),
        ("\ud800", "'\\ud800' has a lone surrogate"),
        ("a\0b", "'a\\x00b' has a control character"),
        ("a\nb", "'a\\nb' has a control character"),
        ("a\x7f", "'a\\x7f' has a control character"),
        ("a\x9f", "'a\\x9f' has a control character"),
        ("a" * 513, "513 bytes long, more than the 512 allowed"),
        ("é" * 257, "514 bytes long, more than the 512 allowed"),
        (None, "expected a string, got NoneType"),
        (5, "expected a string, got int"),
        (b"a", "expected a string, got bytes"),
    ],
    ids=repr,
)
def test_what_is_no_name(name: object, problem: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        kinds.check_name(name, "key")
    assert str(caught.value) == f"key: {problem}"


@pytest.mark.parametrize("name", ["a" * 512, "é" * 256, " ", "session:01K", "größe:日本🧾", "\u2028", "*"])
def test_unusual_names(name: str) -> None:
    assert kinds.check_name(name, "stream") is name


# ---- registered bodies ----


class Item(msgspec.Struct):
    price: int


class Order(msgspec.Struct):
    order: Annotated[int, msgspec.Meta(ge=1)]
    items: list[Item] = []
    placed: dt.datetime | None = None
    extra: Any = None
    again: Order | None = None


class Other(msgspec.Struct):
    order: int


@pytest.fixture
def registry() -> kinds.Registry:
    registry = kinds.Registry()
    registry.register("order.placed", Order)
    return registry


@pytest.mark.parametrize(
    "body",
    [
        {"order": 1},
        {"order": 1, "items": [{"price": 5}], "extra": [1, {"a": None}]},
        {"order": 1, "unknown": 2},
        {"order": 1, "placed": "2025-01-01T00:00:00Z"},
    ],
    ids=repr,
)
def test_a_body_that_fits_is_appended_as_it_is(registry: kinds.Registry, body: Any) -> None:
    assert registry.check("order.placed", body) is body


@pytest.mark.parametrize(
    ("body", "path", "problem"),
    [
        ({}, "body", "Object missing required field `order`"),
        ({"order": "1"}, "body.order", "Expected `int`, got `str`"),
        ({"order": 0}, "body.order", "Expected `int` >= 1"),
        ({"order": 1, "items": [{"price": 1}, {"price": 1.5}]}, "body.items[1].price", "Expected `int`, got"),
        ({"order": 1, "again": {"order": 1, "again": {}}}, "body.again.again", "Object missing required"),
        ([], "body", "Expected `object`, got `array`"),
        (None, "body", "Expected `object`, got `null`"),
        ({"order": 1, "placed": "yesterday"}, "body.placed", "Invalid RFC3339"),
        (Other(1), "body", "Expected `object`, got `Other`"),
        (Order("1"), "body.order", "Expected `int`, got `str`"),  # type: ignore[arg-type]
        (Order(1, [Item("x")]), "body.items[0].price", "Expected `int`, got `str`"),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_a_body_that_does_not_fit(registry: kinds.Registry, body: Any, path: str, problem: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        registry.check("order.placed", body)
    assert caught.value.path == path
    assert caught.value.problem.startswith(problem)
    assert caught.value.remedy == "'order.placed' is registered as Order"


def test_a_struct_becomes_plain_values(registry: kinds.Registry) -> None:
    order = Order(1, [Item(2)], dt.datetime(2025, 1, 1, tzinfo=dt.UTC))
    plain = {
        "order": 1,
        "items": [{"price": 2}],
        "placed": "2025-01-01T00:00:00Z",
        "extra": None,
        "again": None,
    }
    assert registry.check("order.placed", order) == plain
    assert registry.check("not.registered", order) == plain


def test_a_kind_without_a_struct_takes_any_body(registry: kinds.Registry) -> None:
    body = object()
    assert registry.check("order.shipped", body) is body


def of_itself() -> Any:
    body: dict[str, Any] = {"order": 1}
    body["again"] = body
    return body


@pytest.mark.parametrize("kind", ["order.placed", "not.registered"])
@pytest.mark.parametrize("extra", [object(), 1j, of_itself()], ids=["object", "complex", "itself"])
def test_a_struct_that_holds_what_json_cannot(registry: kinds.Registry, kind: str, extra: Any) -> None:
    with pytest.raises(NotCanonical) as caught:
        registry.check(kind, Order(1, extra=extra))
    assert caught.value.path == "body"


def test_a_registered_body_that_contains_itself(registry: kinds.Registry) -> None:
    with pytest.raises(NotCanonical, match="containing itself"):
        registry.check("order.placed", of_itself())


def test_registering_again(registry: kinds.Registry) -> None:
    registry.register("order.placed", Order)
    with pytest.raises(InvalidEvent, match=r"'order\.placed' is registered already, for Order"):
        registry.register("order.placed", Other)
    assert registry.check("order.placed", {"order": 1})


@pytest.mark.parametrize("body", [dict, int, Order(1), "Order", None, list[Order]], ids=repr)
def test_only_a_struct_type_can_be_registered(registry: kinds.Registry, body: Any) -> None:
    with pytest.raises(InvalidEvent, match=r"is no msgspec\.Struct type"):
        registry.register("order.other", body)
    assert "order.other" not in registry.json_schemas()


def test_bad_and_reserved_kinds_cannot_be_registered(registry: kinds.Registry) -> None:
    with pytest.raises(ReservedKind):
        registry.register("decision.recorded", Order)
    with pytest.raises(InvalidEvent, match="is no kind"):
        registry.register("Order", Order)


def test_the_schemas_are_those_of_the_structs(registry: kinds.Registry) -> None:
    registry.register("a.first", Item)
    schemas = registry.json_schemas()
    assert list(schemas) == ["a.first", "order.placed"]
    assert schemas["order.placed"] == msgspec.json.schema(Order)
    assert schemas["a.first"]["$defs"]["Item"]["required"] == ["price"]
