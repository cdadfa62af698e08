"""The area `projection`: what a read model was at an event, so that a tampered one can be told."""

from __future__ import annotations

from typing import Final

import msgspec

SEALED: Final = "projection.sealed"


def projection_stream(name: str) -> str:
    """The stream of a projection."""
    return f"projection:{name}"


class ProjectionSealed(msgspec.Struct, frozen=True, kw_only=True):
    """`projection.sealed`: the digest of a projection's tables, as they follow from the events up to one.

    name: the projection.
    version: of its definition.
    seq: the last event that was applied.
    digest: `blake3:` and the hex of the digest that docs/replay.md defines.
    """

    v: int = 1
    name: str
    version: int
    seq: int
    digest: str
