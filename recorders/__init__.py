"""The write side: what apps call; each call ends as events in the ledger."""
