"""`tally incident`: everything that belongs to one matter, with what proves it, in a folder or a zip.

`links` says what one event is tied to, `gather` follows the ties, `summary` says what happened, `files` and
`readme` write, `incident` does it all. `verify_ledger` is the script of docs/, which goes with what is
written.
"""
