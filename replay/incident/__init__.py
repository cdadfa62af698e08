"""`tally incident`: everything that belongs to one matter, with what proves it, in a folder or a zip.

`links` says what one event is tied to, `gather` follows the ties, `whole` verifies the ledger, `summary` says
what happened, `files`, `derived` and `readme` write, `incident` does it all. `check` checks what was
written, by whomever: `opening` opens it, `evidence` reads its events, and `derived` makes again what follows
from them. `verify_ledger` is the script of docs/, which goes with what is written.
"""
