"""Replay: what the ledger says is derived again from what it holds, and compared, layer by layer."""
