"""What the checks of every layer share: noting results, reading bodies, looking at earlier events."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, Protocol, get_args, get_type_hints

import msgspec

from tallystick.events.catalogue import KINDS
from tallystick.ledger import canonical
from tallystick.ledger.event import Event, Head, Row

from ..differences import differences, the_whole
from ..report import Layer, Notes

#: The version of every built-in body that is known here.
BODY_VERSION: Final = 1
ERASED: Final = "its body was erased"
UNKNOWN_VERSION: Final = "its body is of a newer version than this program knows"
NOT_HERE: Final = "the event that it names is not in the pack"
#: Rows that are kept because others may refer to them.
_KEPT_ROWS: Final = 4000
_KEPT_BYTES: Final = 16 << 20
_UNLIMITED: Final = 1 << 62
_decoders = {kind: msgspec.json.Decoder(struct) for kind, struct in KINDS.items()}


class Checks:
    """Notes what comes of checks on one event in one layer."""

    __slots__ = ("_notes", "layer", "seq")

    def __init__(self, notes: Notes, layer: Layer, seq: int) -> None:
        self._notes = notes
        self.layer = layer
        self.seq = seq

    def equal(self, what: str, expected: Any, actual: Any, reason: str | None = None) -> bool:
        """Compare what was derived again with what is recorded; whether they are the same JSON value."""
        found = differences(expected, actual)
        if found:
            self._notes.diverged(self.layer, self.seq, what, found, reason)
        else:
            self._notes.match(self.layer)
        return not found

    def true(self, what: str, holds: bool, expected: Any, actual: Any, reason: str | None = None) -> bool:
        """Note that something holds, or the values that it does not hold for."""
        if holds:
            self._notes.match(self.layer)
        else:
            self._notes.diverged(self.layer, self.seq, what, the_whole(expected, actual), reason)
        return holds

    def wrong(self, what: str, reason: str) -> None:
        """Note something that cannot be right, whatever it should be."""
        self._notes.diverged(self.layer, self.seq, what, (), reason)

    def cannot(self, what: str, reason: str) -> None:
        """Note something that cannot be derived again."""
        self._notes.not_rederivable(self.layer, self.seq, what, reason)


class Body(NamedTuple):
    """A body of a built-in kind: as plain JSON, as recorded, and as its struct."""

    plain: dict[str, Any]
    struct: Any


class Unreadable(NamedTuple):
    """Why a body cannot be read: it is malformed, or it is erased or newer and nothing is wrong with it."""

    reason: str
    malformed: bool


def read_body(row: Row) -> Body | Unreadable:
    """The body of an event of a built-in kind."""
    if row.body is None:
        return Unreadable(ERASED, False)
    try:
        plain = canonical.decode(row.body)
        if isinstance(plain, dict):
            version = plain.get("v", BODY_VERSION)
            if type(version) is int and version > BODY_VERSION:
                return Unreadable(UNKNOWN_VERSION, False)
        struct = _decoders[row.kind].decode(row.body)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        return Unreadable(f"malformed body: {error}", True)
    if plain.get("v", BODY_VERSION) != BODY_VERSION:
        return Unreadable("malformed body: v is no version", True)
    return Body(plain, struct)


def check_form(checks: Checks, row: Row, body: Body | None) -> None:
    """Body and meta are written as canonical JSON; and a built-in body has no field that its struct has not.

    What reads a body of another form may see something else in it than what is checked here: a name that
    stands twice, a field that nothing reads.
    """
    for what, data in (("body", row.body), ("meta", row.meta)):
        if data is None:
            continue
        try:
            plain = body.plain if body is not None and what == "body" else canonical.decode(data)
            sound = canonical_bytes(plain) == data
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):  # NotCanonical among them
            sound = False
        if not sound:
            checks.wrong(what, "it is not written as canonical JSON")
    if body is not None:
        extra = _foreign(body.plain, body.struct)
        checks.true("body", not extra, "no other field", extra, f"a field that no {row.kind} has")


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The names of a struct's fields, and of those among them that hold structs or lists of them."""
    hints = get_type_hints(kind)
    return frozenset(hints), tuple([name for name, hint in hints.items() if _holds_structs(hint)])


def _holds_structs(hint: Any) -> bool:
    inner = get_args(hint)
    return (
        any(map(_holds_structs, inner))
        if inner
        else (isinstance(hint, type) and issubclass(hint, msgspec.Struct))
    )


def _foreign(plain: dict[str, Any], struct: Any) -> str:
    """A JSON pointer to a field of a body that its struct does not have; empty if there is none."""
    kind: type[msgspec.Struct] = type(struct)
    known, holding = _fields(kind)
    if not plain.keys() <= known:
        return f"/{min(plain.keys() - known)}"
    for name in holding:
        inner: Any = getattr(struct, name)
        if isinstance(inner, msgspec.Struct):
            found = _foreign(plain[name], inner)
        elif inner:
            pairs = enumerate(zip(plain[name], inner, strict=True))
            found = next((f"/{at}{extra}" for at, (one, of) in pairs if (extra := _foreign(one, of))), "")
        else:
            continue
        if found:
            return f"/{name}{found}"
    return ""


def canonical_bytes(value: Any) -> bytes:
    """The canonical JSON of a value that was decoded. Raises NotCanonical if it never was canonical."""
    return canonical.encode(value, max_bytes=_UNLIMITED)


class Events(Protocol):
    """The part of a Ledger that checks need."""

    def head(self) -> Head:
        """See Ledger.head."""

    def rows(
        self,
        after: int = 0,
        *,
        before: int | None = None,
        stream: str | None = None,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Row]:
        """See Ledger.rows."""

    def find(self, key: str) -> Event | None:
        """See Ledger.find."""


class Past:
    """Earlier events, looked up by seq or read by stream; the last ones are kept.

    whole: whether an event that is not found is not there; else only some of a ledger's events are at hand.
    """

    def __init__(self, ledger: Events, head: Head, *, whole: bool = True) -> None:
        self.ledger = ledger
        self.head = head
        self.whole = whole
        self._rows: OrderedDict[int, Row] = OrderedDict()
        self._bytes = 0
        self._named = bytearray()
        self._firsts: dict[tuple[str, str], int] = {}

    def keep(self, row: Row) -> None:
        """Keep a row that later ones may refer to."""
        known = self._rows.pop(row.seq, None)
        self._bytes += _size(row) - (0 if known is None else _size(known))
        self._rows[row.seq] = row
        while len(self._rows) > _KEPT_ROWS or self._bytes > _KEPT_BYTES:
            _, gone = self._rows.popitem(last=False)
            self._bytes -= _size(gone)

    def name_once(self, seq: int) -> bool:
        """Whether this is the first time that an event names the one with this seq as part of it."""
        if not 0 < seq <= self.head.seq:
            return True
        place, bit = divmod(seq, 8)
        if place >= len(self._named):
            self._named.extend(bytes(place + 1 - len(self._named)))
        new = not self._named[place] >> bit & 1
        self._named[place] |= 1 << bit
        return new

    def row(self, seq: int) -> Row | None:
        """The event with this seq, or None."""
        known = self._rows.get(seq)
        if known is not None:
            return known
        if not 0 < seq <= self.head.seq:
            return None
        return next(self.ledger.rows(seq - 1, before=seq + 1), None)

    def first(self, stream: str, kind: str) -> Row | None:
        """The first event of a kind in a stream, or None."""
        seq = self._firsts.get((stream, kind))
        if seq is not None and (known := self._rows.get(seq)) is not None:
            return known
        rows = self.ledger.rows(before=self.head.seq + 1, stream=stream, kinds=[kind], limit=1)
        found = next(rows, None)
        if found is not None:
            if len(self._firsts) >= _KEPT_ROWS:
                self._firsts.clear()
            self._firsts[stream, kind] = found.seq
            self.keep(found)
        return found


def _size(row: Row) -> int:
    return len(row.body or b"") + len(row.meta or b"")


def check_placeholders(checks: Checks, derived: Any, pointers: Sequence[str], exempt: Sequence[str]) -> None:
    """Each pointer leads to a placeholder, but for those to texts that were mended."""
    astray = [
        pointer
        for pointer in pointers
        if pointer not in exempt and not _is_placeholder(_pointed_at(derived, pointer))
    ]
    if astray:
        checks.wrong("placeholders", f"{astray[0]!r} points at no placeholder")
    elif pointers:
        checks.true("placeholders", True, None, None)


def inside(pointers: Sequence[str], place: str) -> bool:
    """Whether there is a placeholder at a place or in it."""
    return any(pointer == place or pointer.startswith(f"{place}/") for pointer in pointers)


def _pointed_at(value: Any, pointer: str) -> Any:
    """What a JSON pointer leads to (RFC 6901, section 4); None for nothing."""
    if pointer and not pointer.startswith("/"):
        return None
    for token in pointer.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(token)
        elif isinstance(value, list) and token.isascii() and token.isdecimal() and len(token) < 10:
            value = value[int(token)] if int(token) < len(value) else None
        else:
            return None
    return value


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, dict) and "$omitted" in value
