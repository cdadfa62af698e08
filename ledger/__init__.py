"""The log: events, canonical encoding, hash chain, stores, verification.

From the ground up: `errors`, `chain` (hash arithmetic), `canonical` (JSON bytes), `event` (the
values that move), `kinds` (names), `records` (the bodies that the ledger itself writes); `store`
(the protocol), `memory` and `sqlite` (the stores), `headfile`; `drafting` (checking and encoding),
`committer` (group commit), `ledger` and `aio` (what apps call); `verify`, with `walk`, `erasures` and
`verify_jobs`, which needs nothing but a reader of rows.

The public names are those of `tallystick` itself.
"""
