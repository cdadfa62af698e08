"""Sessions: the actions and messages of one run of an agent, numbered, in one stream.

From the ground up: `urn` (names), `diff` (of two states), `inputs` (what a caller may pass), `records` (the
bodies), `progress` (what a session has so far), `live` and `core` (a session without its clock and lock),
then `session` and `verified` (an action checked by what it left). `sessions` reads back, `retention` erases.
"""
