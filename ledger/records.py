"""The bodies that the ledger itself writes; the format cannot be verified without them."""

from __future__ import annotations

from typing import Any, Final

import msgspec

CREATED: Final = "ledger.created"
BODY_ERASED: Final = "ledger.body_erased"
#: The stream that both belong to.
STREAM: Final = "ledger"
FORMAT_VERSION: Final = 1


class LedgerCreated(msgspec.Struct, frozen=True, kw_only=True):
    """`ledger.created`: always event 1, never erased.

    ledger_id: 16 random bytes in lower-case hex; the chain starts from their hash.
    format: version of `docs/format.md` that the ledger follows.
    program: name and version of the program that created it.
    engine: what keeps the rows: its name, version and settings in force.
    """

    v: int = 1
    ledger_id: str
    format: int
    program: str
    engine: dict[str, Any]


class BodyErased(msgspec.Struct, frozen=True, kw_only=True):
    """`ledger.body_erased`: the body of an earlier event was erased in the same transaction.

    seq: the event whose body and salt are gone.
    body_hash: that event's body hash in lower-case hex.
    reason: why, in the words of whoever asked for it.
    """

    v: int = 1
    seq: int
    body_hash: str
    reason: str
