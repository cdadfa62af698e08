"""Names: which kinds, streams and keys an event may bear, and the bodies registered for kinds.

The ledger knows nothing of a kind beyond its name; the built-in areas are reserved here by
name so that an app cannot write a record that looks like a recorder's.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from .errors import InvalidEvent, NotCanonical, ReservedKind

KIND: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+")
MAX_KIND_BYTES: Final = 128
MAX_NAME_BYTES: Final = 512
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

#: First words of the kinds that Tallystick's own recorders write.
RESERVED_AREAS: Final = frozenset(
    "ledger kernel pipeline session action policy decision memory flow infer compute refine consensus "
    "budget review plan projection".split()
)
#: Kinds of theirs whose first word apps want for kinds of their own, such as `message.user`.
RESERVED_KINDS: Final = frozenset({"message.recorded"})


def check_kind(kind: object) -> str:
    """The kind, if it is dotted lower-case words of at most 128 bytes; else InvalidEvent."""
    if not isinstance(kind, str):
        raise InvalidEvent("kind", f"expected a string, got {type(kind).__name__}")
    if len(kind) > MAX_KIND_BYTES:
        raise InvalidEvent("kind", f"{len(kind)} characters long, more than the {MAX_KIND_BYTES} allowed")
    if not KIND.fullmatch(kind):
        raise InvalidEvent(
            "kind",
            f"{kind[:80]!r} is no kind",
            "use at least two dotted words of lower-case letters, digits and _, such as 'order.shipped'",
        )
    return kind


def check_open_kind(kind: object) -> str:
    """As `check_kind`, and not one of a recorder's; else ReservedKind."""
    name = check_kind(kind)
    if name[: name.index(".")] in RESERVED_AREAS or name in RESERVED_KINDS:
        raise ReservedKind(name)
    return name


def check_name(name: object, field: str) -> str:
    """A stream or key: 1 to 512 bytes of UTF-8 without control characters; else InvalidEvent."""
    if not isinstance(name, str):
        raise InvalidEvent(field, f"expected a string, got {type(name).__name__}")
    if not name:
        raise InvalidEvent(field, "must not be empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidEvent(field, f"{name[:80]!r} has a lone surrogate") from None
    if size > MAX_NAME_BYTES:
        raise InvalidEvent(field, f"{size} bytes long, more than the {MAX_NAME_BYTES} allowed")
    if _CONTROL.search(name):
        raise InvalidEvent(field, f"{name[:80]!r} has a control character")
    return name


class Registry:
    """The structs that an app registered for its kinds; their bodies are validated on append."""

    def __init__(self) -> None:
        self._types: dict[str, type[msgspec.Struct]] = {}

    def register(self, kind: str, body: type[msgspec.Struct]) -> None:
        """Validate every later body of this kind against a `msgspec.Struct`.

        Raises InvalidEvent for a bad or reserved kind, for a type that is no Struct, and when
        another struct is registered already.
        """
        name = check_open_kind(kind)
        if not (isinstance(body, type) and issubclass(body, msgspec.Struct)):
            raise InvalidEvent(
                "body", f"{body!r} is no msgspec.Struct type", "define the body as a msgspec.Struct"
            )
        known = self._types.setdefault(name, body)
        if known is not body:
            raise InvalidEvent("kind", f"{name!r} is registered already, for {known.__qualname__}")

    def check(self, kind: str, body: Any) -> Any:
        """The body to encode: validated if its kind is registered, structs as plain values."""
        expected = self._types.get(kind)
        if expected is None:
            return _plain(body) if isinstance(body, msgspec.Struct) else body
        if isinstance(body, expected):
            # A Struct does not check its own fields when it is made; converting does.
            body = _plain(body)
        try:
            msgspec.convert(body, expected)
        except msgspec.ValidationError as error:
            message, _, where = str(error).partition(" - at `$")
            raise InvalidEvent(
                "body" + where.rstrip("`"), message, f"{kind!r} is registered as {expected.__qualname__}"
            ) from None
        except RecursionError:
            raise NotCanonical("body", "nested too deep, or containing itself") from None
        return body

    def json_schemas(self) -> dict[str, dict[str, Any]]:
        """JSON Schema (2020-12) of each registered kind's body."""
        return {kind: msgspec.json.schema(body) for kind, body in sorted(self._types.items())}


def _plain(body: msgspec.Struct) -> Any:
    """A struct as plain values, for the canonical encoder to judge."""
    try:
        return msgspec.to_builtins(body)
    except RecursionError:
        raise NotCanonical("body", "nested too deep, or containing itself") from None
    except (TypeError, ValueError) as error:
        raise NotCanonical(
            "body", f"{type(body).__qualname__} holds what is no JSON value ({error})", "convert it first"
        ) from None
