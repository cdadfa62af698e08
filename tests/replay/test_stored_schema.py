"""The layer `view` on what a views file defines: altered indexes, triggers, views, tables of nobody."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest
from faults import diverged, replayed

from tallystick import Views
from tallystick.ledger.ledger import Ledger
from tallystick.projections.builtin import BUILT_IN
from tallystick.replay.layers.stored_schema import FOREIGN, NO_STATE, NOT_BUILT, TRIGGER
from tallystick.replay.report import Layer, Result

#: An index page (https://www.sqlite.org/fileformat2.html, section 1.6) begins with its type and, at byte 3,
#: the number of its cells.
_LEAF = 0x0A
_CELLS = struct.Struct(">H")


def run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(f"{path}.views", isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def hide_last_cell(path: Path, index: str) -> None:
    """Make an index forget its last row: nothing else of the file is changed."""
    with closing(sqlite3.connect(f"{path}.views")) as db:
        size = db.execute("PRAGMA page_size").fetchone()[0]
        [root] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (index,)).fetchone()
    data = bytearray(Path(f"{path}.views").read_bytes())
    page = (root - 1) * size
    [cells] = _CELLS.unpack_from(data, page + 3)
    assert data[page] == _LEAF
    assert cells > 1
    _CELLS.pack_into(data, page + 3, cells - 1)
    Path(f"{path}.views").write_bytes(data)


INDEXES = {
    "decisions by seq": "decisions",
    "decisions by verdict, seq": "decisions",
    "streams by last_seq": "streams",
    "sqlite_autoindex_streams_1": "streams",
    "sqlite_autoindex_tally_projections_1": "tally_projections",
}


@pytest.mark.parametrize(("index", "table"), INDEXES.items())
def test_an_index_that_hides_a_row_is_found(filled: Path, index: str, table: str) -> None:
    """Every row is as it should be, and a list that goes by the index leaves one out."""
    hide_last_cell(filled, index)
    assert f"{table}" in {entry.what for entry in diverged(replayed(filled, layers=["view"]))}


FAULTS = {
    "trigger": ("CREATE TRIGGER t AFTER INSERT ON decisions BEGIN SELECT 1; END", "t", TRIGGER),
    "column": ("ALTER TABLE decisions ADD COLUMN approved_by TEXT", "decisions", "it is defined otherwise"),
    "index_dropped": ('DROP INDEX "decisions by seq"', "decisions by seq", "it is missing"),
    "view_in_place": (
        "CREATE VIEW pipelines AS SELECT 1",
        "pipelines",
        "a view stands in the place of a table",
    ),
}


@pytest.mark.parametrize(("sql", "what", "reason"), FAULTS.values(), ids=list(FAULTS))
def test_what_changes_the_tables_without_changing_a_row_is_found(
    filled: Path, sql: str, what: str, reason: str
) -> None:
    run_sql(filled, *(["DROP TABLE pipelines"] if "VIEW" in sql else []), sql)
    found = diverged(replayed(filled, layers=["view"]))
    assert (Layer.VIEW, what, reason) in {(entry.layer, entry.what, entry.reason) for entry in found}


def test_an_index_that_is_defined_otherwise_is_found(filled: Path) -> None:
    """One over some of the rows only."""
    run_sql(
        filled,
        'DROP INDEX "decisions by seq"',
        "CREATE INDEX \"decisions by seq\" ON decisions (seq) WHERE verdict = 'TRUST'",
    )
    found = diverged(replayed(filled, layers=["view"]))
    assert [(entry.what, entry.reason) for entry in found] == [
        ("decisions by seq", "it is defined otherwise")
    ]


@pytest.mark.parametrize("sql", ["CREATE TABLE notes (x)", "CREATE VIEW failed AS SELECT 1"])
def test_what_other_programs_keep_there_is_said(filled: Path, sql: str) -> None:
    run_sql(filled, sql)
    report = replayed(filled, layers=["view"])
    assert report.diverged == 0
    assert [(reason.reason, reason.count) for reason in report.reasons] == [(FOREIGN, 1)]


@pytest.mark.parametrize(("drop", "reason"), [(False, NO_STATE), (True, NOT_BUILT)])
def test_tables_that_nothing_vouches_for_are_said(filled: Path, drop: bool, reason: str) -> None:
    """A projection that is taken off the list could hold anything."""
    tables = next(one.tables for one in BUILT_IN if one.name == "sessions")
    change = (
        [f'DROP TABLE "{name}"' for name in tables] if drop else ["UPDATE sessions SET outcome = 'failed'"]
    )
    run_sql(filled, "DELETE FROM tally_projections WHERE name = 'sessions'", *change)
    report = replayed(filled, layers=["view"])
    said = [(entry.what, entry.reason) for entry in report.entries if entry.result is Result.NOT_REDERIVABLE]
    assert ("sessions", reason) in said


def test_a_file_that_was_just_made_is_as_it_is_defined(filled: Path, tmp_path: Path) -> None:
    """With whatever version of its writer: a copy of the ledger whose views are new."""
    path = tmp_path / "new.tally"
    shutil.copyfile(filled, path)
    with Ledger.open(path) as ledger, Views(ledger) as views:
        views.catch_up()
    report = replayed(path, layers=["view"])
    assert (report.diverged, report.layers[Layer.VIEW].not_rederivable) == (0, 0)
