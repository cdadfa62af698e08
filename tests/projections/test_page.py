"""docs/projections.md names every table and column of the built-in projections."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tallystick import BUILT_IN
from tallystick.projections import file

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "projections.md").read_text("utf-8")
TABLES = [(name, table) for projection in BUILT_IN for name, table in projection.tables.items()]


@pytest.mark.parametrize(("name", "table"), TABLES, ids=[name for name, _ in TABLES])
def test_a_table_is_described_with_all_its_columns(name: str, table: object) -> None:
    [line] = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    columns = line.split("|")[3]
    assert re.findall(r"`(\w+)`", columns) == list(table.columns)  # type: ignore[attr-defined]
    assert re.findall(r"`(\w+)`\*", columns) == list(table.search)  # type: ignore[attr-defined]


def test_the_page_says_how_the_file_is_known() -> None:
    assert f"`application_id` `{file.APPLICATION_ID:#x}`" in PAGE
    assert bytes.fromhex(f"{file.APPLICATION_ID:x}") == b"TALV"
