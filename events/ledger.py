"""The area `ledger`: its two bodies are part of the format, so they are defined beside the chain."""

from tallystick.ledger.records import BODY_ERASED, CREATED, BodyErased, LedgerCreated

__all__ = ["BODY_ERASED", "CREATED", "BodyErased", "LedgerCreated"]
