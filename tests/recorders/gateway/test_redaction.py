"""D9: what is removed before a request is recorded, and that the pointers say so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.recorders.gateway.redaction import SENSITIVE, redact

INLINE = {
    "Email": "a@example.org",
    "note": "kept",
    "user": {"PASSWORD": "p", "name": "n", "tokens": 3},
    "list": [{"api_key": "k", "ok": 1}, [{"Prompt": "x"}]],
    "a/b~c": {"ssn": 1},
    "raw": {"password": "inside what is gone"},
}


def request(inline: Any, **redaction: Any) -> dict[str, Any]:
    context: dict[str, Any] = {"mode": "inline", "digest": "sha256:…", "inline": inline}
    return {"action": {}, "evidence": {"email": "stays"}, "context": {**context, **redaction}}


def test_default_removes_sensitive_keys_at_any_depth_in_any_case() -> None:
    kept, removed = redact(request(INLINE), "default")
    assert kept["context"]["inline"] == {
        "note": "kept",
        "user": {"name": "n", "tokens": 3},
        "list": [{"ok": 1}, [{}]],
        "a/b~c": {},
    }
    assert removed == [
        "/context/inline/Email",
        "/context/inline/user/PASSWORD",
        "/context/inline/list/0/api_key",
        "/context/inline/list/1/0/Prompt",
        "/context/inline/a~1b~0c/ssn",
        "/context/inline/raw",
    ]
    assert kept["context"]["redaction"] == {"profile": "default", "fields_removed": removed}
    assert kept["evidence"] == {"email": "stays"}


def test_strict_removes_the_whole_inline_context() -> None:
    kept, removed = redact(request(INLINE), "strict")
    assert "inline" not in kept["context"]
    assert removed == ["/context/inline"]
    assert kept["context"]["digest"] == "sha256:…"


def test_off_removes_nothing() -> None:
    kept, removed = redact(request(INLINE), "off")
    assert (kept["context"]["inline"], removed) == (INLINE, [])


def test_what_the_caller_removed_is_listed_first() -> None:
    asked = request({"ssn": 1}, redaction={"profile": "default", "fields_removed": ["/context/inline/x"]})
    kept, removed = redact(asked, "default")
    assert kept["context"]["redaction"]["fields_removed"] == ["/context/inline/x", "/context/inline/ssn"]
    assert removed == ["/context/inline/ssn"]


@pytest.mark.parametrize("profile", ["default", "strict", "off"])
def test_a_request_without_an_inline_context_stays_as_it_is(profile: str) -> None:
    asked = {"context": {"mode": "digest_only", "digest": "d"}}
    assert redact(asked, profile) == (asked, [])


@given(
    st.dictionaries(
        st.sampled_from(sorted(SENSITIVE)) | st.text(max_size=3),
        st.recursive(
            st.integers(),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["TOKEN", "ok", "Phone"]), inner),
        ),
    )
)
def test_no_sensitive_key_is_left_and_the_request_is_not_changed(inline: Any) -> None:
    before = repr(inline)
    kept, removed = redact(request(inline), "default")
    assert repr(inline) == before

    def keys(value: Any) -> list[str]:
        if isinstance(value, list):
            return [key for item in value for key in keys(item)]
        return (
            [*value, *(key for item in value.values() for key in keys(item))]
            if isinstance(value, dict)
            else []
        )

    assert {key.casefold() for key in keys(kept["context"]["inline"])}.isdisjoint(SENSITIVE)
    assert (kept["context"]["inline"] == inline) is (removed == [])
