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
OMITTED: Final = "$omitted"

_SHOWN: Final = (int, float, complex, Decimal, dt.datetime, dt.date, dt.time, dt.timedelta)
_TEXT_MAX: Final = 200
_DESCRIPTION_MAX: Final = 4096
_UNLIMITED: Final = 1 << 62


class Captured(NamedTuple):
    """A value as recorded. `placeholders` are JSON pointers (RFC 6901) to what was left out."""

    value: Any
    digest: str | None
    placeholders: list[str]


def capture(value: Any, pointer: str = "", *, max_bytes: int = MAX_BYTES) -> Captured:
    """A snapshot of any value, now, as JSON; `pointer` says where in the body it will stand.

    Later changes of the value do not show in it. The digest covers the canonical JSON of the whole
    value; it is None if any part is a placeholder for what is no JSON, and stays if the
    value is only too large to keep. Never raises for what the value is.
    """
    try:
        data = canonical.encode(value, max_bytes=_UNLIMITED)
        snapshot = canonical.decode(data)
    except Exception:  # not JSON, or it misbehaves; the walk finds out where
        return _walked(value, pointer, max_bytes)
    if len(data) > max_bytes:
        omitted = {OMITTED: "too large", "type": _type_name(value), "bytes": len(data)}
        return Captured(omitted, digest_of(data), [pointer])
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _depth(snapshot) > MAX_DEPTH:
        return _walked(snapshot, pointer, max_bytes)
    return Captured(snapshot, digest_of(data), [])


def digest_of(data: bytes) -> str:
    """The digest of canonical JSON: `blake3:` and the hex of its BLAKE3-256."""
    return f"blake3:{blake3(data).hexdigest()}"


def text_of(describe: Callable[[], str], otherwise: str) -> str:
    """What `describe` says, as text that JSON can hold; `otherwise` if it raises, as a `__str__` may."""
    try:
        text = describe()
        return str.__str__(text).encode("utf-8", "replace").decode()[:_DESCRIPTION_MAX]
    except Exception:
        return otherwise


def _walked(value: Any, pointer: str, max_bytes: int) -> Captured:
    """The value with placeholders where it is no JSON."""
    placeholders: list[str] = []
    try:
        plain = _Walk(placeholders).plain(value, pointer, 0)
        data = canonical.encode(plain, max_bytes=_UNLIMITED)
    except Exception:  # changed by another thread while it was read, or worse
        plain, data, placeholders = _omitted("unreadable", value), b"", [pointer]
    if len(data) > max_bytes:
        plain = {**_omitted("too large", value), "bytes": len(data)}
        placeholders = [pointer]
    return Captured(plain, None, placeholders)


class _Walk:
    """A walk over one value that notes where it put placeholders."""

    def __init__(self, placeholders: list[str]) -> None:
        self._placeholders = placeholders
        self._around: set[int] = set()

    def plain(self, value: Any, pointer: str, depth: int) -> Any:
        """The value as JSON. Containers are read through their base type, whatever a subclass says."""
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
            shown = {"text": repr(value)[:_TEXT_MAX]} if type(value) in _SHOWN else {}
            return self._put("not JSON", value, pointer, **shown)

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
            str.__str__(key): self.plain(item, f"{pointer}/{_escaped(key)}", depth + 1) for key, item in items
        }

    def _array(self, items: Iterable[Any], pointer: str, depth: int) -> list[Any]:
        return [self.plain(item, f"{pointer}/{index}", depth + 1) for index, item in enumerate(items)]

    def _put(self, reason: str, value: Any, pointer: str, **more: str) -> dict[str, str]:
        self._placeholders.append(pointer)
        return {**_omitted(reason, value), **more}


def _omitted(reason: str, value: Any) -> dict[str, Any]:
    return {OMITTED: reason, "type": _type_name(value)}


def _type_name(value: Any) -> str:
    kind = type(value)
    module, name = kind.__module__, kind.__qualname__
    return text_of(lambda: name if module == "builtins" else f"{module}.{name}", "?")


def _depth(value: Any) -> int:
    """Levels of arrays and objects in a JSON value."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _escaped(key: str) -> str:
    """A key as a reference token of a JSON pointer (RFC 6901, section 3)."""
    return key.replace("~", "~0").replace("/", "~1")


def _is_text(key: str) -> bool:
    try:
        str.encode(key)
    except UnicodeEncodeError:
        return False
    return True
