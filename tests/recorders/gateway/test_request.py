"""D2: a request is understood whole, or refused with the path of what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.recorders.gateway.digests import context_digest, digest
from tallystick.recorders.gateway.errors import InvalidRequest
from tallystick.recorders.gateway.request import MAX_BYTES, DecisionRequest, check_request

Make = Callable[..., dict[str, Any]]

FULL = {
    "schema_version": "decision_request.v0",
    "request_id": "r-1",
    "trace": {"correlation_id": "case-1", "span_id": "s-1"},
    "tenant": {"tenant_id": "acme", "environment": "staging"},
    "subject": {
        "type": "user",
        "id": "u-1",
        "tenant_id": "acme",
        "ip": "10.0.0.1",
        "user_agent": "curl",
        "roles": ["support"],
    },
    "action": {
        "type": "support.refund",
        "intent": "Refund it",
        "target": {"system": "shop", "resource_type": "order", "resource_id": "O-1"},
        "amount": {"value": 12.5, "currency": "EUR"},
        "tags": ["damaged"],
    },
    "evidence": {"anything": {"at": ["all", 1, None, True]}},
    "context": {
        "mode": "inline",
        "digest": digest({"a": 1}),
        "ref": {"kind": "s3", "id": "k", "uri": "s3://b/k"},
        "inline": {"a": 1},
        "redaction": {"profile": "strict", "fields_removed": ["/context/inline/b"]},
    },
    "policy": {"policy_id": "p", "policy_version": "1", "mode": "enforce"},
    "hints": {"mode": "advisory", "dry_run": True},
    "extensions": {"mine": 1},
}


def path_of_refusal(request: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check_request(request)
    assert caught.value.path in str(caught.value)
    return caught.value.path


def test_every_field_is_taken_as_given() -> None:
    checked = check_request(FULL)
    assert checked.plain == FULL
    assert checked.request.to_dict() == FULL
    assert check_request(checked.request).digest == check_request(json.dumps(FULL)).digest == digest(FULL)


def test_the_copy_is_private(make_request: Make) -> None:
    request = make_request()
    checked = check_request(request)
    request["evidence"]["order"]["id"] = "another"
    assert checked.plain["evidence"]["order"]["id"] == "O-1"


@pytest.mark.parametrize(
    "field",
    ["trace", "tenant", "subject", "action", "action.target", "action.amount", "context", "policy", "hints"],
)
def test_an_unknown_field_is_refused_everywhere(field: str) -> None:
    request = json.loads(json.dumps(FULL))
    place = request
    for name in field.split("."):
        place = place[name]
    place["surprise"] = 1
    assert path_of_refusal(request) == f"{field}.surprise"
    assert path_of_refusal({**FULL, "surprise": 1}) == "surprise"


@pytest.mark.parametrize("field", ["schema_version", "subject", "action", "context"])
def test_what_must_be_there(field: str) -> None:
    assert path_of_refusal({name: value for name, value in FULL.items() if name != field}) == field


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"schema_version": "decision_request.v1"}, "schema_version"),
        ({"subject": {"type": "robot"}}, "subject.type"),
        ({"subject": {"id": ""}}, "subject.id"),
        ({"subject": {"id": "a\x00b"}}, "subject.id"),
        ({"subject": {"id": "a\n"}}, "subject.id"),
        ({"subject": {"id": "a\x85b"}}, "subject.id"),
        ({"subject": {"roles": ["ok", "\x1b[2J"]}}, "subject.roles[1]"),
        ({"subject": {"roles": "support"}}, "subject.roles"),
        ({"request_id": "x" * 201}, "request_id"),
        ({"request_id": 7}, "request_id"),
        ({"tenant": {"environment": "production"}}, "tenant.environment"),
        ({"tenant": {"tenant_id": "\u2028"}}, "tenant.tenant_id"),
        ({"subject": {"tenant_id": "other"}}, "subject.tenant_id"),
        ({"action": {"type": "refund"}}, "action.type"),
        ({"action": {"type": "Support.Refund"}}, "action.type"),
        ({"action": {"type": "support.refund\n"}}, "action.type"),
        ({"action": {"type": "support..refund"}}, "action.type"),
        ({"action": {"intent": ""}}, "action.intent"),
        ({"action": {"amount": {"value": True}}}, "action.amount.value"),
        ({"action": {"amount": {"value": "12"}}}, "action.amount.value"),
        ({"action": {"amount": {"value": float("nan")}}}, "action.amount.value"),
        ({"action": {"amount": {"value": float("inf")}}}, "action.amount.value"),
        ({"action": {"amount": {"value": 2**60}}}, "action.amount.value"),
        ({"action": {"amount": {"currency": "US"}}}, "action.amount.currency"),
        ({"action": {"amount": {"currency": "US$"}}}, "action.amount.currency"),
        ({"action": {"tags": ["t"] * 65}}, "action.tags"),
        ({"hints": {"dry_run": 1}}, "hints.dry_run"),
        ({"policy": {"mode": "off"}}, "policy.mode"),
        ({"context": {"digest": "sha256:" + "A" * 64}}, "context.digest"),
        ({"context": {"digest": "md5:" + "0" * 32}}, "context.digest"),
        ({"context": {"mode": "file"}}, "context.mode"),
        ({"context": {"mode": "inline"}}, "context.inline"),
        ({"context": {"mode": "reference"}}, "context.ref"),
        ({"context": {"inline": {"a": 1}}}, "context.inline"),
        ({"context": {"mode": "inline", "inline": {"a": 1}}}, "context.digest"),
        ({"context": {"redaction": {"profile": "none"}}}, "context.redaction.profile"),
        ({"evidence": {"x": {1, 2}}}, "evidence.x"),
        ({"evidence": {"x": ["\ud800"]}}, "evidence.x[0]"),
        ({"evidence": {"x": {1: 2}}}, "evidence.x"),
        ({"evidence": [1]}, "evidence"),
        (
            {"evidence": {"fx_rate_to_usd": 1e300}, "action": {"amount": {"value": 1e300}}},
            "evidence.fx_rate_to_usd",
        ),
    ],
)
def test_hostile_values_are_refused_by_their_path(make_request: Make, changes: Any, path: str) -> None:
    assert path_of_refusal(make_request(**changes)) == path


def test_a_number_that_nothing_can_hold_is_refused_by_its_path(make_request: Make) -> None:
    text = json.dumps(make_request(evidence={"score": [1, "@"]})).replace('"@"', "1e999")
    assert path_of_refusal(text) == "evidence.score[1]"


@pytest.mark.parametrize(
    "name",
    [
        "shop-eu ",
        " shop-eu",
        "shop-eu\u200b",
        "shop\u00a0eu",
        "\u202eue-pohs",
        "shop\u00adeu",
        "shop\U000e0061",
        " ",
    ],
)
def test_names_that_look_like_another_are_refused(make_request: Make, name: str) -> None:
    """D2: a tenant that cannot be told from another by sight has no memory of its own."""
    assert path_of_refusal(make_request(tenant={"tenant_id": name})) == "tenant.tenant_id"
    assert path_of_refusal(make_request(subject={"id": name})) == "subject.id"
    assert path_of_refusal(make_request(request_id=name)) == "request_id"
    assert path_of_refusal(make_request(trace={"correlation_id": name})) == "trace.correlation_id"
    assert path_of_refusal(make_request(action={"tags": ["ok", name]})) == "action.tags[1]"


@pytest.mark.parametrize("name", ["shop eu", "shöp", "店", "a/b:c@d"])
def test_names_that_can_be_seen_are_taken(make_request: Make, name: str) -> None:
    assert check_request(make_request(tenant={"tenant_id": name})).request.tenant_id == name


def test_all_mistakes_are_told_at_once_with_the_choices(make_request: Make) -> None:
    request = make_request(subject={"type": "system"}, schema_version="v9", action={"intent": None}, extra=1)
    with pytest.raises(InvalidRequest) as caught:
        check_request(request)
    told = str(caught.value)
    assert "subject.type: 'system' is none of service, agent, user, job" in told
    assert "schema_version: 'v9' is none of decision_request.v0" in told
    assert "action.intent: missing" in told
    assert "extra: unknown field" in told
    assert len(caught.value.others) == 3


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1, "a": 2}', "[1]", "", "{", "\ud800"])
def test_hostile_text_is_refused(text: str) -> None:
    assert path_of_refusal(text) == "request"


@pytest.mark.parametrize("value", [None, 3, [1], "x", b"\xff"])
def test_what_is_no_request_at_all(value: Any) -> None:
    assert path_of_refusal(value) == "request"


def test_size_is_bounded(make_request: Make) -> None:
    assert path_of_refusal(make_request(evidence={"big": "x" * 10_000_000})) == "request"
    assert path_of_refusal(json.dumps(make_request(evidence={"big": "x" * 10_000_000}))) == "request"
    check_request(make_request(evidence={"big": "x" * (MAX_BYTES - 2000)}))


def test_depth_is_bounded(make_request: Make) -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return value

    request = make_request()
    check_request({**request, "evidence": {"x": nested(30)}})
    for levels in (31, 100, 100_000):
        with pytest.raises(InvalidRequest, match="nested"):
            check_request({**request, "evidence": {"x": nested(levels)}})


def test_an_inline_context_and_its_digest(make_request: Make) -> None:
    inline = {"b": [1.0, 2.5], "a": "é"}
    context = {"mode": "inline", "inline": inline, "digest": digest(inline)}
    check_request(make_request(context=context))
    assert context_digest(context) == digest({"a": "é", "b": [1, 2.5]})
    assert context_digest({"mode": "reference", "ref": {"kind": "a", "id": "b"}}) == digest(
        {"id": "b", "kind": "a"}
    )
    assert context_digest({"mode": "digest_only"}) is None


def test_a_struct_made_by_hand_is_checked_like_anything_else() -> None:
    request = msgspec.convert(FULL, DecisionRequest)
    lie: Any = 5
    with pytest.raises(InvalidRequest, match="request_id"):
        check_request(msgspec.structs.replace(request, request_id=lie))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    ),
    st.sampled_from(["evidence", "extensions", "context", "subject", "action", "tenant", "trace"]),
)
def test_anything_anywhere_is_taken_whole_or_refused(value: Any, field: str) -> None:
    request = {**FULL, field: value}
    try:
        checked = check_request(request)
    except InvalidRequest as error:
        assert error.path.startswith(field) or error.path in ("request", "subject.tenant_id")
    else:
        assert checked.plain == request
        assert checked.digest == digest(request)
