"""`tally diff`: two decisions beside each other, and what made the difference.

`decisions` compares, `text` says it.
"""
