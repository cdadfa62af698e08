"""The read side: read models rebuilt from events, and their engine."""
