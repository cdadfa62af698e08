"""From what an app hands in to drafts: names checked, body validated, encoded, salted, hashed.

Everything here happens before the store is asked for its lock.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final

from . import canonical, chain, kinds
from .errors import InvalidEvent
from .event import Draft, NewEvent

DEFAULT_STREAM: Final = "main"
#: Fields of meta that Tallystick gives a meaning; each a string. Others are the app's own.
META_FIELDS: Final = ("actor", "correlation", "causation", "traceparent")
_SALTS_AHEAD: Final = 64
_AT_MIN: Final = -(1 << 63)
_AT_MAX: Final = (1 << 63) - 1
_NEW_EVENT_FIELDS: Final = frozenset(NewEvent.__struct_fields__)


@lru_cache(maxsize=4096)
def _label(kind: str, stream: str, meta: bytes | None) -> bytes:
    """The label of an app's event without a key; names are checked when they are first seen."""
    return chain.label(kinds.check_open_kind(kind), kinds.check_name(stream, "stream"), None, meta)


@lru_cache(maxsize=4096)
def _recorded_label(kind: str, stream: str, meta: bytes | None) -> bytes:
    """The label of a recorder's event without a key, of a reserved kind or not."""
    return chain.label(kinds.check_kind(kind), kinds.check_name(stream, "stream"), None, meta)


def _keyed_label(kind: str, stream: str, key: str, meta: bytes | None) -> bytes:
    _label(kind, stream, None)
    return chain.label(kind, stream, kinds.check_name(key, "key"), meta)


#: The context in force: a (meta, its encoding) for each drafter, by its number.
_NO_CONTEXTS: Final[Mapping[int, tuple[dict[str, Any], bytes | None]]] = {}
_numbers = itertools.count()
_contexts: ContextVar[Mapping[int, tuple[dict[str, Any], bytes | None]]] = ContextVar("tallystick_context")


def wall_clock() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


class SystemSalts:
    """Salts from the operating system, drawn ahead of need.

    Each draw is a system call, during which another thread may take the interpreter's lock.
    """

    def __init__(self) -> None:
        self._ready: list[bytes] = []

    def __call__(self) -> bytes:
        """A salt that was given to nobody else."""
        try:
            return self._ready.pop()
        except IndexError:
            first, *rest = _cut(os.urandom(chain.SALT_BYTES * _SALTS_AHEAD))
            self._ready += rest
            return first


def _cut(pool: bytes) -> Iterator[bytes]:
    size = chain.SALT_BYTES
    return (pool[i : i + size] for i in range(0, len(pool), size))


class Drafter:
    """Makes drafts for one ledger, with its clock, entropy, limits and registered kinds."""

    def __init__(
        self, clock: Callable[[], int], entropy: Callable[[int], bytes], max_body_bytes: int
    ) -> None:
        self.registry = kinds.Registry()
        self._number = next(_numbers)
        self._clock = clock
        self._entropy = entropy
        # An app's own entropy is asked as each event comes: the same events get the same bytes.
        self._salt: Callable[[], bytes] = (
            SystemSalts() if entropy is os.urandom else lambda: entropy(chain.SALT_BYTES)
        )
        self._max_body_bytes = max_body_bytes
        #: The largest body of a recorder's event.
        self.recorded_bytes_max = max(max_body_bytes, canonical.MAX_BYTES)

    def draft(
        self,
        event: NewEvent | Mapping[str, Any],
        salt: bytes | None = None,
        hasher: chain.Hasher | None = None,
    ) -> Draft:
        """The draft of an app's event. Raises InvalidEvent with the path of what is wrong.

        Who drafts many brings their salts, drawn at once, and one hasher for all.
        """
        if not isinstance(event, NewEvent):
            event = _from_mapping(event)
        kind, stream, key = event.kind, event.stream, event.key
        meta = self._meta(event.meta)
        try:
            label = _label(kind, stream, meta) if key is None else _keyed_label(kind, stream, key, meta)
        except TypeError:  # unhashable, so no string; let the check say so
            kinds.check_kind(kind)
            kinds.check_name(stream, "stream")
            raise
        limit = self._max_body_bytes
        return self._finish(kind, event.body, stream, key, meta, event.at, salt, label, limit, hasher)

    def own(self, kind: str, body: Any, stream: str) -> Draft:
        """The draft of an event that the ledger itself writes."""
        return self.recorded(NewEvent(kind=kind, body=body, stream=stream))

    def recorded(self, event: NewEvent, hasher: chain.Hasher | None = None) -> Draft:
        """The draft of one of Tallystick's own events, in a reserved area.

        A limit that an app set for its bodies below the default does not hold for these.
        """
        kind, stream, key = event.kind, event.stream, event.key
        meta = self._meta(event.meta)
        label = _recorded_label(kind, stream, meta if key is None else None)
        if key is not None:
            label = chain.label(kind, stream, kinds.check_name(key, "key"), meta)
        limit = self.recorded_bytes_max
        return self._finish(kind, event.body, stream, key, meta, event.at, None, label, limit, hasher, True)

    def salts(self, count: int) -> Iterator[bytes]:
        """Fresh salts, drawn from the entropy source at once."""
        return _cut(self._entropy(chain.SALT_BYTES * count))

    def _finish(
        self,
        kind: str,
        body: Any,
        stream: str,
        key: str | None,
        meta: bytes | None,
        at: int | None,
        salt: bytes | None,
        label: bytes,
        max_body_bytes: int,
        hasher: chain.Hasher | None = None,
        recorded: bool = False,
    ) -> Draft:
        if recorded and type(body) is canonical.Encoded:
            data: bytes = body
            canonical.check_size(data, "body", max_body_bytes)
        else:
            data = canonical.encode(self.registry.check(kind, body), "body", max_body_bytes)
        if at is None:
            at = self._clock()
        if type(at) is not int or not _AT_MIN <= at <= _AT_MAX:
            raise InvalidEvent(
                "at", f"{at!r} is no time", "give microseconds since 1970-01-01 UTC as an integer"
            )
        if salt is None:
            salt = self._salt()
        digest = (chain.body_hash if hasher is None else hasher.body)(salt, data)
        return Draft(at, kind, stream, key, meta, salt, data, digest, label)

    # -- meta and context ----------------------------------------------------------------

    def _meta(self, meta: Mapping[str, Any] | None) -> bytes | None:
        around = _contexts.get(_NO_CONTEXTS).get(self._number)
        if not meta:
            if meta is not None and not isinstance(meta, Mapping):
                raise InvalidEvent("meta", f"expected an object, got {type(meta).__name__}")
            return None if around is None else around[1]
        return self._encode_meta(meta if around is None else {**around[0], **_mapping(meta)})

    def _encode_meta(self, meta: Mapping[str, Any]) -> bytes | None:
        meta = _mapping(meta)
        for field in META_FIELDS:
            if field in meta and not isinstance(meta[field], str):
                raise InvalidEvent(f"meta.{field}", f"expected a string, got {type(meta[field]).__name__}")
        return canonical.encode(meta, "meta", self._max_body_bytes) if meta else None

    @contextmanager
    def context(self, meta: Mapping[str, Any]) -> Iterator[None]:
        """Merge `meta` into the meta of every draft made inside the block, in this task or thread."""
        outer = _contexts.get(_NO_CONTEXTS)
        merged = {
            **outer.get(self._number, ({}, None))[0],
            **{k: v for k, v in meta.items() if v is not None},
        }
        token = _contexts.set({**outer, self._number: (merged, self._encode_meta(merged))})
        try:
            yield
        finally:
            _contexts.reset(token)


def _mapping(meta: Any) -> dict[str, Any]:
    if not isinstance(meta, Mapping):
        raise InvalidEvent("meta", f"expected an object, got {type(meta).__name__}")
    return dict(meta)


def _from_mapping(event: Any) -> NewEvent:
    if type(event) is dict:
        with suppress(TypeError):  # the checks below say what is wrong with it
            return NewEvent(**event)
    if not isinstance(event, Mapping):
        raise InvalidEvent("event", f"expected a NewEvent or a mapping, got {type(event).__name__}")
    unknown = sorted(str(field) for field in event if field not in _NEW_EVENT_FIELDS)
    if unknown:
        raise InvalidEvent(
            unknown[0], "unknown field", f"the fields are {', '.join(NewEvent.__struct_fields__)}"
        )
    if "kind" not in event:
        raise InvalidEvent("kind", "missing", "every event needs a kind such as 'order.shipped'")
    return NewEvent(**event)
