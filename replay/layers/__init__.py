"""What is derived again: a module for each layer of a replay, and what they share.

`chain`; `digest`, with a module for each area of events; `decision`; `execution`; `view`, with `rebuilt`
(projections built anew), `stored_views`, `stored_schema` and `stored_indexes` (what they are held against).
`checks` has what a check is given and notes, `folds` the sessions that are under way, `policies` those that
were registered.
"""
