"""Digests that the gateway's contract defines: `sha256:<hex>` of RFC 8785 JSON (D4)."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import rfc8785

from tallystick.ledger import canonical

#: Escapes that RFC 8785 may write otherwise than canonical JSON.
_ESCAPES: Final = re.compile(rb"\\[ubf]")
#: Letters beyond the basic plane, by which keys sort otherwise in UTF-16.
_ASTRAL: Final = re.compile(rb"[\xf0-\xf4]")
_UNLIMITED: Final = 1 << 62


def jcs(value: Any) -> bytes:
    """The RFC 8785 form of a JSON value. Raises NotCanonical for what is none."""
    return jcs_of(canonical.encode(value, "value", _UNLIMITED), value)


def jcs_of(data: bytes, value: Any) -> bytes:
    """The RFC 8785 form of a JSON value whose canonical form is known.

    They are the same but for a few things; to look for those is ten times as fast as to write it anew.
    """
    may_differ = (
        (b"\\" in data and _ESCAPES.search(data))
        or (not data.isascii() and _ASTRAL.search(data))
        or _has_odd_float(value)
    )
    return rfc8785.dumps(value) if may_differ else data


def _has_odd_float(value: Any) -> bool:
    """Whether there is a whole number as a float, or a float so large or small that it has an exponent."""
    if isinstance(value, dict):
        return any(map(_has_odd_float, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_odd_float, value))
    return isinstance(value, float) and (value.is_integer() or not 1e-4 < abs(value) < 1e15)


def digest(value: Any) -> str:
    """The digest of a JSON value."""
    return digest_of(jcs(value))


def digest_of(data: bytes) -> str:
    """The digest of a value that is in its RFC 8785 form already."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def inputs_digest(request: bytes, derived: Any) -> str:
    """The digest of `{"request": …, "derived": …}`, the request being in its RFC 8785 form already."""
    return digest_of(b'{"derived":%b,"request":%b}' % (jcs(derived), request))


def context_digest(context: dict[str, Any]) -> str | None:
    """What `context.digest` is of a request's context: of `inline`, or of `ref`; None without either."""
    content = context.get("inline", context.get("ref"))
    return None if content is None else digest(content)
