"""What is to be executed, as its caller names it (contract K1).

    psi = PsiDefinition("orders", "total", {"currency": "EUR"})
    psi.describe()   # {"psi_type": "orders", "name": "total", "metadata": {"currency": "EUR"}}

The kernel reads none of it: a psi says what an execution was meant to be, and nothing branches on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any, Final

from tallystick.ledger import canonical

from ..capture import Snapshot, capture, text_of
from ..errors import InvalidPsi
from .frozen import freeze, jsonable, key_text, thaw

#: Metadata of which the JSON is over this, in bytes, is left out of events.
METADATA_MAX_BYTES: Final = 64 * 1024
#: Names over this are cut in events.
NAME_MAX_CHARS: Final = 1024

#: JSON with sorted keys, no spaces, in ASCII (contract K6).
sorted_json: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, init=False)
class PsiDefinition:
    """Names an operation: its class, its name, and whatever else the caller wants to say of it.

    The metadata is copied and deeply frozen, so that neither a task nor another thread changes what
    an execution was called. Raises InvalidPsi, a TypeError.
    """

    psi_type: str
    name: str
    metadata: Mapping[Any, Any]

    def __init__(self, psi_type: str, name: str, metadata: Mapping[Any, Any] | None = None) -> None:
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidPsi("metadata", "a mapping or None", type(metadata).__name__)
        object.__setattr__(self, "psi_type", _text("psi_type", psi_type))
        object.__setattr__(self, "name", _text("name", name))
        object.__setattr__(self, "metadata", freeze(metadata))

    def describe(self) -> dict[str, Any]:
        """`psi_type`, `name` and `metadata` as a new dict; the metadata's keys as strings, sorted."""
        described = {name: thaw(item) for name, item in self._items()}
        return {"psi_type": self.psi_type, "name": self.name, "metadata": described}

    @cached_property
    def json(self) -> str:
        """The description as sorted JSON, as it stands in the core of a trace."""
        described = {"psi_type": self.psi_type, "name": self.name, "metadata": dict(self._items())}
        try:
            return sorted_json(described)
        except (TypeError, ValueError, RecursionError):
            return sorted_json(jsonable(described))

    @cached_property
    def recorded(self) -> Snapshot:
        """The description as it stands in events; the pointers begin with `/psi`."""
        return _recorded(self.json)

    def _items(self) -> list[tuple[str, Any]]:
        """The metadata's items, their keys as strings, sorted; the last of several alike counts."""
        return sorted(((key_text(key), item) for key, item in self.metadata.items()), key=itemgetter(0))


@lru_cache(maxsize=256)
def _recorded(psi_json: str) -> Snapshot:
    """What is recorded of the psi with this JSON; many are made anew for every call."""
    described = json.loads(psi_json)
    metadata = capture(described["metadata"], "/psi/metadata", max_bytes=METADATA_MAX_BYTES)
    placeholders = list(metadata.placeholders)
    for field in ("psi_type", "name"):
        name = described[field]
        described[field] = text_of(lambda name=name: name, "?", NAME_MAX_CHARS)  # type: ignore[misc]
        if described[field] != name:
            placeholders.append(f"/psi/{field}")
    return Snapshot(canonical.encode({**described, "metadata": metadata.value}), None, placeholders)


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidPsi(field, "a string", type(value).__name__)
    return str.__str__(value)


#: Stands in the trace for a psi that was none.
INVALID: Final = PsiDefinition("invalid", "invalid")
