"""Canonical JSON: the one byte form of a body or meta.

UTF-8, keys sorted by code point, no white space, shortest round-trip numbers, as
`msgspec.json.Encoder(order="sorted")` writes them. Hashes cover the stored bytes, so nothing
below this file ever encodes a value twice.

msgspec alone would lose values in silence: NaN and the infinities become `null`, bytes
become base64 text, the key 1 becomes "1". So `encode` asks a second encoder, orjson in its
strict mode, and trusts the bytes when both wrote the same; everything else goes to a
slow, exact walk that either accepts the value or names the place that is wrong.
"""

from __future__ import annotations

import json
import math
import uuid
from enum import Enum
from typing import Any, Final

import msgspec
import orjson

from .errors import BodyTooLarge, NotCanonical

#: Integers beyond this lose digits in readers that hold numbers as doubles (RFC 7493, section 2.2).
MAX_INTEGER: Final = 2**53 - 1
#: Arrays and objects inside one another, the outermost counted.
MAX_DEPTH: Final = 64
#: Default limit of one body or meta.
MAX_BYTES: Final = 1 << 20

_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_OPEN_OBJECT: Final = ord("{")  # bytes.count is faster with a number
_OPEN_ARRAY: Final = ord("[")
_decode = msgspec.json.Decoder().decode
_STRICT: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


def encode(value: Any, path: str = "body", max_bytes: int = MAX_BYTES) -> bytes:
    """The canonical bytes of a JSON value.

    Takes dict (string keys), list, tuple, str, int within ±(2**53 - 1), finite float, bool,
    None, and UUID and Enum for the JSON value that they stand for. Raises NotCanonical with
    the path of the first value that does not fit, BodyTooLarge over `max_bytes`.
    `decode(encode(v)) == v`, but for tuples, which come back as lists, and UUID and Enum.
    """
    try:
        data = _encode_sorted(value)
        trusted = data == orjson.dumps(value, None, _STRICT)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        trusted = False
        data = b""
    if trusted and b"null" in data:  # None, or NaN in disguise
        trusted = _decode(data) == value
    if not trusted or data.count(_OPEN_OBJECT) + data.count(_OPEN_ARRAY) > MAX_DEPTH:
        data = _encode_sorted(_plain(value, path, MAX_DEPTH))
    check_size(data, path, max_bytes)
    return data


def check_size(data: bytes, path: str, max_bytes: int) -> None:
    """Raise BodyTooLarge if the bytes are too many."""
    if len(data) > max_bytes:
        raise BodyTooLarge(path, len(data), max_bytes)


class Encoded(bytes):
    """A body in the bytes that `encode` would write; the recorder that put them together vouches for it."""


def decode(data: bytes) -> Any:
    """The value of canonical bytes; the inverse of `encode`."""
    return _decode(data)


def parse(text: bytes) -> Any:
    """The value of JSON from outside, in any form.

    Raises msgspec.MsgspecError or ValueError for what is no JSON, and ValueError for an object with a
    name twice, of which every reader would keep another member or none.
    """
    try:
        value = _decode(text)
        # A member that was lost took a colon with it; only an escaped one can make up for that.
        colons_lost = text.count(b":") != _encode_sorted(value).count(b":")
        if colons_lost or b"\\u003" in text:
            json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"the name {_short(name)} comes twice in one object")
        seen.add(name)


def _plain(value: Any, path: str, depth: int) -> Any:
    """The value in builtin types; raises NotCanonical at the first that JSON cannot hold."""
    while isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    # A subclass may say something else of itself; what counts is the value that it holds.
    if isinstance(value, uuid.UUID):
        return uuid.UUID.__str__(value)
    if isinstance(value, str):
        return _text(str.__str__(value), path)
    if isinstance(value, int):
        value = int.__int__(value)
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise NotCanonical(
                path,
                f"the integer {_short(value)} is beyond ±(2**53 - 1) and would lose digits",
                "send it as a string",
            )
        return value
    if isinstance(value, float):
        value = float.__float__(value)
        if not math.isfinite(value):
            raise NotCanonical(path, f"{value} is no JSON number", "use null or a string")
        return value
    if isinstance(value, dict):
        _check_depth(path, depth)
        plain = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise NotCanonical(path, f"the key {_short(key)} is of type {_type(key)}, not a string")
            name = _text(str.__str__(key), f"{path} (a key)")
            if name in plain:
                raise NotCanonical(path, f"the key {_short(name)} comes twice")
            plain[name] = _plain(
                item, f"{path}.{name}" if name.isidentifier() else f"{path}[{name!r}]", depth - 1
            )
        return plain
    if isinstance(value, (list, tuple)):
        _check_depth(path, depth)
        return [_plain(item, f"{path}[{index}]", depth - 1) for index, item in enumerate(value)]
    remedy = (
        "encode it, in base64 say"
        if isinstance(value, (bytes, bytearray, memoryview))
        else "convert it first"
    )
    raise NotCanonical(path, f"a value of type {_type(value)} is no JSON value", remedy)


def _text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NotCanonical(
            path, f"lone surrogate U+{ord(text[error.start]):04X} at character {error.start}"
        ) from None
    return text


def _check_depth(path: str, depth: int) -> None:
    if depth <= 0:
        shown = path if len(path) <= 80 else path[:77] + "..."
        raise NotCanonical(shown, f"nested deeper than {MAX_DEPTH} levels, or containing itself")


def _type(value: object) -> str:
    return type(value).__name__


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 1024 else "of over 300 digits"
    return text if len(text) <= 40 else text[:37] + "..."
