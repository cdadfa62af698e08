"""Executions: a call of a registered task, run and recorded with digests of what went in and what came out.

From the ground up: `frozen` (mappings that stay as they are), `psi` (what a task is), `trace` and `execution`
(what a call gave), `registry`, `events` (an execution as a ledger event), then `kernel`, which runs and
records, `tasks` (the decorator) and `cael` (pipelines).
"""
