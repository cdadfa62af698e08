"""Deeply frozen copies of metadata, and plain JSON values of them and of anything else.

Frozen values are dicts and lists that refuse to be written to, so they compare, print and encode as what
they were copied from, and can be copied and pickled.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, MutableSequence, Sequence, Set
from enum import Enum
from operator import itemgetter
from typing import Any, Final, NoReturn

from ..capture import omitted, text_of
from ..errors import FrozenMetadata

#: Levels of containers in one another; what is deeper is left out.
MAX_DEPTH: Final = 100
#: Python refuses to write longer integers in decimal (4300 digits).
_MAX_INTEGER_BITS: Final = 14_000
_SCALARS: Final = frozenset({str, int, float, bool, type(None), bytes})


def _refuse(self: object, *_: Any, **__: Any) -> NoReturn:
    raise FrozenMetadata(type(self).__name__)


class FrozenDict(dict[Any, Any]):
    """A dict that cannot be written to; made by `freeze` alone, which freezes what is in it, too."""

    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


class FrozenList(list[Any]):
    """A list that cannot be written to; made by `freeze` alone, which freezes what is in it, too."""

    __slots__ = ()
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenList, (list(self),)


EMPTY: Final = FrozenDict()


def freeze(metadata: Mapping[Any, Any] | None) -> FrozenDict:
    """A copy of a mapping that refuses to be written to at any depth (FrozenMetadata, a TypeError).

    Mappings, sequences and sets are copied and frozen; other objects are kept as they are, since nothing
    can be said of them. A container that holds itself, is too deep or cannot be read becomes a
    placeholder, as in `capture`. None is an empty mapping.
    """
    if metadata is None or (type(metadata) is dict and not metadata):
        return EMPTY
    if type(metadata) is FrozenDict:
        return metadata
    frozen = _frozen(metadata, set(), 0)
    assert isinstance(frozen, FrozenDict)
    return frozen


def _frozen(value: Any, around: set[int], depth: int) -> Any:
    if type(value) in _SCALARS:
        return value
    if id(value) in around or depth >= MAX_DEPTH:
        return FrozenDict(omitted("holds itself" if id(value) in around else "too deep", value))
    around.add(id(value))
    try:
        return _frozen_container(value, lambda item: _frozen(item, around, depth + 1))
    except Exception:  # changed by another thread in mid-copy, or worse
        return FrozenDict(omitted("unreadable", value))
    finally:
        around.discard(id(value))


def _frozen_container(value: Any, frozen: Callable[[Any], Any]) -> Any:
    """Containers are copied in one step of the interpreter, so that other threads may go on writing."""
    if isinstance(value, Mapping):
        return FrozenDict({key: frozen(item) for key, item in _items(value)})
    if isinstance(value, (str, bytes)):
        return value
    if isinstance(value, tuple):
        return tuple([frozen(item) for item in tuple.__iter__(value)])
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, list):
        return FrozenList([frozen(item) for item in list.copy(value)])
    if isinstance(value, MutableSequence):
        return FrozenList([frozen(item) for item in list(value)])
    if isinstance(value, Set):
        return frozenset(value)
    return value


def thaw(value: Any) -> Any:
    """A frozen value as plain dicts and lists, free to be written to."""
    if type(value) is FrozenDict:
        return {key: thaw(item) for key, item in value.items()}
    if type(value) is FrozenList:
        return [thaw(item) for item in value]
    if type(value) is tuple:
        return tuple([thaw(item) for item in value])
    return value


def jsonable(value: Any) -> Any:
    """Any value as one that `json` can write: keys as strings, times as ISO 8601, else placeholders.

    What `json` writes without help stays as it writes it, NaN included.
    """
    return _jsonable(value, set(), 0)


def _jsonable(value: Any, around: set[int], depth: int) -> Any:
    kind = type(value)
    if value is None or kind is str or kind is float or kind is bool:
        return value
    if id(value) in around or depth >= MAX_DEPTH:
        return omitted("holds itself" if id(value) in around else "too deep", value)
    around.add(id(value))
    try:
        if isinstance(value, Enum):
            return _jsonable(value.value, around, depth + 1)
        if isinstance(value, int):
            plain = int.__int__(value)
            return plain if plain.bit_length() < _MAX_INTEGER_BITS else omitted("too large", value)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, dt.datetime):
            return iso(value)
        if isinstance(value, Mapping):
            items = sorted(((key_text(key), item) for key, item in _items(value)), key=itemgetter(0))
            return {key: _jsonable(item, around, depth + 1) for key, item in items}
        if isinstance(value, (list, tuple)):
            return [_jsonable(item, around, depth + 1) for item in _items_of(value)]
        return omitted("not JSON", value)
    except Exception:
        return omitted("unreadable", value)
    finally:
        around.discard(id(value))


def _items(value: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """What a mapping holds as of now. A dict is read as one, whatever a subclass says."""
    return list(dict.items(value) if isinstance(value, dict) else value.items())


def _items_of(value: Sequence[Any]) -> list[Any]:
    return list.copy(value) if isinstance(value, list) else list(tuple.__iter__(value))  # type: ignore[arg-type]


def key_text(key: Any) -> str:
    """A key of a mapping as text."""
    return key if type(key) is str else text_of(lambda: str(key), "?")


def iso(moment: dt.datetime) -> str:
    """A time as ISO 8601 in UTC, ending in `Z`; one without a zone is taken to be in UTC."""
    if moment.tzinfo is not dt.UTC:
        moment = utc(moment)
    return moment.isoformat()[:-6] + "Z"


def utc(moment: dt.datetime) -> dt.datetime:
    """The same moment in UTC; one without a zone is taken to be in UTC."""
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
