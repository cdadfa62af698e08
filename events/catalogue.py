"""Every built-in kind and the struct of its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from . import ledger

KINDS: Final[Mapping[str, type[msgspec.Struct]]] = {
    ledger.CREATED: ledger.LedgerCreated,
    ledger.BODY_ERASED: ledger.BodyErased,
}
