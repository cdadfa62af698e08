"""Values of an app as they can be recorded: a JSON snapshot, its digest, and what had to be left out.

An app's arguments, outputs and states can be anything: generators, open files, structures that hold
themselves, 40 MB of text. What is JSON is kept exactly. What is not becomes a placeholder that names its
type, at the place where it stood, and the digest is left out, so that nobody takes the snapshot for
the value.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final, NamedTuple

from blake3 import blake3

from tallystick.ledger import canonical

#: Levels that a captured value may have inside a body, which adds some of its own.
MAX_DEPTH: Final = canonical.MAX_DEPTH - 8
#: A captured value over this is left out, and its digest kept; a body holds several.
MAX_BYTES: Final = 256 * 1024
#: A value that would take more than this to write out is left out unread, and has no digest. A few lists
#: that hold one another many times over can stand for more than any memory holds.
MAX_WEIGHT_BYTES: Final = 64 * 1024 * 1024
OMITTED: Final = "$omitted"

_SHOWN: Final = (int, float, complex, Decimal, dt.datetime, dt.date, dt.time, dt.timedelta)
_TEXT_MAX: Final = 200
_DESCRIPTION_MAX: Final = 4096
#: All the pointers to one value's placeholders together, in characters; past it the whole is left out.
_POINTERS_MAX: Final = 48 * 1024
#: What an item of an array or object is taken to weigh beside its text, in bytes.
_ITEM_WEIGHT: Final = 16
_UNLIMITED: Final = 1 << 62
_SIMPLE: Final = frozenset({int, float, bool, type(None)})


class Captured(NamedTuple):
    """A value as recorded. `placeholders` are JSON pointers (RFC 6901) to what was left out."""

    value: Any
    digest: str | None
    placeholders: list[str]


class Snapshot(NamedTuple):
    """A value as recorded, in canonical JSON; see `Captured`."""

    data: bytes
    digest: str | None
    placeholders: list[str]


def snapshot(value: Any, pointer: str = "", *, max_bytes: int = MAX_BYTES) -> Snapshot:
    """What any value is now, as JSON; `pointer` says where in the body it will stand.

    Later changes of the value do not show in it. The digest covers the canonical JSON of the whole
    value; it is None if any part is a placeholder for what is no JSON, and stays if the
    value is only too large to keep (up to MAX_WEIGHT_BYTES). Never raises for what the value is.
    """
    try:
        if _can_be_written(value):
            data = canonical.encode(value, max_bytes=_UNLIMITED)
            if len(data) <= max_bytes:
                return Snapshot(data, digest_of(data), [])
            left_out = canonical.encode({**omitted("too large", value), "bytes": len(data)})
            return Snapshot(left_out, digest_of(data), [pointer])
    except Exception:  # not JSON, or it misbehaves; the walk finds out where
        pass
    plain, digest, placeholders = _walked(value, pointer, max_bytes)
    return Snapshot(canonical.encode(plain, max_bytes=_UNLIMITED), digest, placeholders)


def capture(value: Any, pointer: str = "", *, max_bytes: int = MAX_BYTES) -> Captured:
    """`snapshot`, with the value to be looked at or put into a body rather than its bytes."""
    data, digest, placeholders = snapshot(value, pointer, max_bytes=max_bytes)
    return Captured(canonical.decode(data), digest, placeholders)


def digest_of(data: bytes) -> str:
    """The digest of canonical JSON: `blake3:` and the hex of its BLAKE3-256."""
    return f"blake3:{blake3(data).hexdigest()}"


def text_of(describe: Callable[[], str], otherwise: str, max_chars: int = _DESCRIPTION_MAX) -> str:
    """What `describe` says, as text that JSON can hold; `otherwise` if it raises, as a `__str__` may."""
    try:
        text = describe()
        return str.__str__(text).encode("utf-8", "replace").decode()[:max_chars]
    except Exception:
        return otherwise


def omitted(reason: str, value: Any) -> dict[str, Any]:
    """The placeholder for a value that was left out."""
    return {OMITTED: reason, "type": _type_name(value)}


def _can_be_written(value: Any) -> bool:
    """Whether writing the value out ends, within MAX_DEPTH levels and MAX_WEIGHT_BYTES."""
    left = MAX_WEIGHT_BYTES
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str:
                left -= len(item)
            elif kind in _SIMPLE:
                continue
            elif isinstance(item, str):
                left -= str.__len__(item)
            else:  # containers are read through their base type, whatever a subclass says
                before = len(inner)
                if isinstance(item, dict):
                    inner += dict.values(item)
                elif isinstance(item, list):
                    inner += list.__iter__(item)
                elif isinstance(item, tuple):
                    inner += tuple.__iter__(item)
                left -= _ITEM_WEIGHT * (len(inner) - before)
                if left < 0:
                    return False
        if not inner:
            return left >= 0
        level = inner
    return False


class _TooLarge(Exception):
    """The walk has seen more than may be kept."""


def _walked(value: Any, pointer: str, max_bytes: int) -> Captured:
    """The value with placeholders where it is no JSON."""
    placeholders: list[str] = []
    reason = "unreadable"  # changed by another thread while it was read, or worse
    try:
        plain = _Walk(placeholders, max_bytes).plain(value, pointer, 0)
        if len(canonical.encode(plain, max_bytes=_UNLIMITED)) <= max_bytes:
            return Captured(plain, None, placeholders)
        reason = "too large"
    except _TooLarge:
        reason = "too large"
    except Exception:
        pass
    return Captured(omitted(reason, value), None, [pointer])


class _Walk:
    """A walk over one value that notes where it put placeholders."""

    def __init__(self, placeholders: list[str], max_bytes: int) -> None:
        self._placeholders = placeholders
        self._pointers_left = _POINTERS_MAX
        self._left = max_bytes
        self._around: set[int] = set()

    def plain(self, value: Any, pointer: str, depth: int) -> Any:
        """The value as JSON. Containers are read through their base type, whatever a subclass says."""
        self._left -= 1 + (len(value) if isinstance(value, str) else 0)
        if self._left < 0:
            raise _TooLarge
        if isinstance(value, dict):
            if not all(isinstance(key, str) and _is_text(key) for key in dict.keys(value)):
                return self._put("not JSON", value, pointer, keys="not all are strings")
            return self._inside(
                value, pointer, depth, lambda: self._object(dict.items(value), pointer, depth)
            )
        if isinstance(value, (list, tuple)):
            base: Any = list if isinstance(value, list) else tuple
            return self._inside(
                value, pointer, depth, lambda: self._array(base.__iter__(value), pointer, depth)
            )
        try:
            return canonical.decode(canonical.encode(value, max_bytes=_UNLIMITED))
        except Exception:
            text = text_of(lambda: repr(value), "", _TEXT_MAX) if type(value) in _SHOWN else ""
            return self._put("not JSON", value, pointer, **({"text": text} if text else {}))

    def _inside(self, value: Any, pointer: str, depth: int, read: Callable[[], Any]) -> Any:
        if id(value) in self._around:
            return self._put("holds itself", value, pointer)
        if depth >= MAX_DEPTH:
            return self._put("too deep", value, pointer)
        self._around.add(id(value))
        try:
            return read()
        finally:
            self._around.discard(id(value))

    def _object(self, items: Iterable[tuple[str, Any]], pointer: str, depth: int) -> dict[str, Any]:
        return {
            str.__str__(key): self.plain(item, f"{pointer}/{pointer_token(key)}", depth + 1)
            for key, item in items
        }

    def _array(self, items: Iterable[Any], pointer: str, depth: int) -> list[Any]:
        return [self.plain(item, f"{pointer}/{index}", depth + 1) for index, item in enumerate(items)]

    def _put(self, reason: str, value: Any, pointer: str, **more: str) -> dict[str, str]:
        self._pointers_left -= len(pointer)
        if self._pointers_left < 0:
            raise _TooLarge
        self._placeholders.append(pointer)
        return {**omitted(reason, value), **more}


def _type_name(value: Any) -> str:
    kind = type(value)

    def name() -> str:
        return (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )

    return text_of(name, "?", _TEXT_MAX)


def pointer_token(key: str) -> str:
    """A key as a reference token of a JSON pointer (RFC 6901, section 3)."""
    return key.replace("~", "~0").replace("/", "~1")


def _is_text(key: str) -> bool:
    try:
        str.encode(key)
    except UnicodeEncodeError:
        return False
    return True
