"""Back-testing: what another policy would have decided.

`where` says which decisions, `policy_reads` what of a request a policy looks at, `tally` counts, `report`
and `text` say it, and `backtest` does it all.
"""
