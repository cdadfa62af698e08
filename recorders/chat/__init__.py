"""Conversations of other tools as sessions: `conversation` makes the events, `importing` appends them."""
