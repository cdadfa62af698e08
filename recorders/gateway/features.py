"""What is derived from a request before rules are asked: the amount in dollars, and tokens to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from .conditions import ABSENT, find, is_number
from .digests import digest_of, jcs

#: Bounds of the amount buckets in dollars: small < 50 <= medium < 200 <= large (D8).
_MEDIUM_FROM: Final = 50
_LARGE_FROM: Final = 200
#: A value whose JSON is longer stands in its token by its digest, as does a longer list.
_VALUE_MAX: Final = 128
_ITEMS_MAX: Final = 64
_encode: Final = msgspec.json.Encoder().encode


def amount_usd(request: Mapping[str, Any]) -> int | float | None:
    """The amount in dollars: as given, or times a number `evidence.fx_rate_to_usd`; else None (D6)."""
    amount = request["action"].get("amount", {})
    value, currency = amount.get("value"), amount.get("currency")
    if value is None or currency is None:
        return None
    if currency == "USD":
        return value  # type: ignore[no-any-return]
    rate = request.get("evidence", {}).get("fx_rate_to_usd")
    return float(value) * float(rate) if is_number(rate) else None


def amount_bucket(usd: int | float | None) -> str | None:
    """`small`, `medium` or `large`; None for no amount."""
    if usd is None:
        return None
    return "small" if usd < _MEDIUM_FROM else "medium" if usd < _LARGE_FROM else "large"


def tokens_of(request: Mapping[str, Any], usd: int | float | None, feature_keys: Iterable[str]) -> list[str]:
    """What similarity compares, sorted: `key=value` with the value as RFC 8785 JSON, so that 1, "1" and true
    differ. Absent values have no token, each tag has one, and each item of a list in the evidence.
    """
    action = request["action"]
    evidence = request.get("evidence", {})
    tokens = {_token("action_type", action["type"])}
    for key, value in (
        ("amount_currency", action.get("amount", {}).get("currency")),
        ("amount_bucket", amount_bucket(usd)),
    ):
        if value is not None:
            tokens.add(_token(key, value))
    tokens.update(_token("tag", tag) for tag in action.get("tags", ()))
    for key in feature_keys:
        value = find(evidence, key.split("."))
        if value is ABSENT:
            continue
        if isinstance(value, list) and len(value) <= _ITEMS_MAX:
            tokens.update(_token(f"evidence.{key}[]", item) for item in value)
        else:
            tokens.add(_token(f"evidence.{key}", value))
    return sorted(tokens)


def weigher(weights: Mapping[str, int]) -> Callable[[str], int]:
    """The function from a token to its weight: that of its key, else 1."""
    if not weights:
        return lambda token: 1
    return lambda token: weights.get(token.partition("=")[0].removesuffix("[]"), 1)


def _token(key: str, value: Any) -> str:
    data = _encode(value) if type(value) is str else b"\\"
    if b"\\" in data:  # no plain text: there is more than one way to write it
        data = jcs(value)
    return f"{key}={data.decode()}" if len(data) <= _VALUE_MAX else f"{key}=#{digest_of(data)}"
