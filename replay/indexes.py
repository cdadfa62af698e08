"""Refusing a large ledger file that lost an index: each look at a stream or key would read all of it."""

from __future__ import annotations

from contextlib import closing
from importlib.resources import files
from typing import Final

from tallystick.ledger import sqlite
from tallystick.ledger.errors import Unavailable
from tallystick.ledger.event import Head
from tallystick.ledger.ledger import Ledger
from tallystick.ledger.sqlite.connection import connect_reader, named_errors

#: Up to so many events a ledger is looked at all the same: reading them all is quick.
WITHOUT_INDEXES_MAX: Final = 10_000
_INDEXES: Final = ("events_by_stream", "events_by_key")
_LOOK_S: Final = 30.0
_REMEDY: Final = "see `tally doctor`; `tally export` and `tally import` make a sound file of it"


def refuse_without_indexes(ledger: Ledger, head: Head) -> None:
    """Raises Unavailable if the ledger is a large file whose indexes are not those of a new ledger."""
    if ledger.path is None or head.seq <= WITHOUT_INDEXES_MAX:
        return
    schema = files(sqlite).joinpath("schema.sql").read_text(encoding="utf-8")
    with closing(connect_reader(ledger.path, timeout_s=_LOOK_S)) as con, named_errors(ledger.path, _LOOK_S):
        for name in _INDEXES:
            sql = con.execute("SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?", (name,)).get
            if not isinstance(sql, str) or f"{sql};" not in schema:
                problem = f"its index {name} is missing, or another"
                raise Unavailable(str(ledger.path), problem, _REMEDY)
