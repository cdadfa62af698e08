"""The shipped JSON Schemas are those of the structs, and stand in docs/schemas as well (D3)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tallystick.recorders.gateway.schemas import NAMES, made, path_of, schema

DOCS = Path(__file__).resolve().parents[3] / "docs" / "schemas"


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_fresh(name: str) -> None:
    """If not: python -m tallystick.recorders.gateway.schemas"""
    assert path_of(name).read_text("utf-8") == made(name)
    assert path_of(name, DOCS).read_text("utf-8") == made(name)


@pytest.mark.parametrize("name", NAMES)
def test_objects_are_closed_and_described(name: str) -> None:
    found = schema(name)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for title, part in [("", found), *found["$defs"].items()]:
        if part.get("type") == "object":
            assert part["additionalProperties"] is False, title
            assert all("description" in field for field in part["properties"].values()), title


def test_what_structs_cannot_say_is_said() -> None:
    assert len(schema("decision_request.v0")["$defs"]["Context"]["allOf"]) == 2
    rule = schema("policy.v0")["$defs"]["RuleDocument"]
    assert rule["properties"]["if"]["propertyNames"] == rule["properties"]["if_any"]["items"]["propertyNames"]


def test_docs_schemas_hold_nothing_else() -> None:
    assert sorted(path.name for path in DOCS.iterdir()) == sorted(path_of(name).name for name in NAMES)
    assert all(json.loads(path.read_text("utf-8")) for path in DOCS.iterdir())
