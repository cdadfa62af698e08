"""JSON Schemas (2020-12) of request, record and policy, made from the structs.

They are shipped beside this module, where `schema` reads them, and stand in docs/schemas/ for readers;
`python -m tallystick.recorders.gateway.schemas` writes both places anew.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from .conditions import NUMBER_FIELDS, OPS, SET_FIELDS, TEXT_FIELDS
from .policy import PolicyDocument
from .record import DecisionRecord
from .request import DecisionRequest

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_STRUCTS: Final = {
    "decision_request.v0": DecisionRequest,
    "decision_record.v0": DecisionRecord,
    "policy.v0": PolicyDocument,
}
NAMES: Final = tuple(_STRUCTS)
_HERE: Final = Path(__file__).resolve().parent
_DOCS: Final = _HERE.parents[1] / "docs" / "schemas"


def schema(name: str) -> dict[str, Any]:
    """The shipped schema of `decision_request.v0`, `decision_record.v0` or `policy.v0`."""
    found: dict[str, Any] = json.loads(path_of(name).read_text("utf-8"))
    return found


def path_of(name: str, folder: Path = _HERE) -> Path:
    """Where a schema's file is."""
    assert name in _STRUCTS, name
    return folder / f"{name}.schema.json"


def made(name: str) -> str:
    """A schema as its struct has it now: the text of its file."""
    raw = msgspec.json.schema(_STRUCTS[name])
    parts = raw.pop("$defs")
    root = parts.pop(raw["$ref"].rpartition("/")[2])
    whole: dict[str, Any] = {"$schema": _DIALECT, "$id": f"urn:tallystick:{name}", **root, "$defs": parts}
    for part in (whole, *parts.values()):
        _describe(part)
    if name == "decision_request.v0":
        parts["Context"]["allOf"] = _context_rules()
    if name == "policy.v0":
        _add_rule_rules(parts["RuleDocument"])
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    """Write the schemas into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        path_of(name, folder).write_text(made(name), "utf-8")


def _describe(part: dict[str, Any]) -> None:
    """Give each field the line about it from the struct's docstring."""
    summary, _, lines = inspect.cleandoc(part.get("description", "")).partition("\n\n")
    if summary:
        part["description"] = " ".join(summary.split())
    for field, text in re.findall(r"^(\w+): (.*(?:\n +.*)*)", lines, re.MULTILINE):
        if field in part["properties"]:
            part["properties"][field]["description"] = " ".join(text.split())


def _context_rules() -> list[dict[str, Any]]:
    """What a struct cannot say of a request's context: which mode needs which field (D2)."""

    def when(mode: str, then: dict[str, Any], otherwise: dict[str, Any] | None = None) -> dict[str, Any]:
        rule = {"if": {"properties": {"mode": {"const": mode}}}, "then": then}
        return rule if otherwise is None else {**rule, "else": otherwise}

    return [
        when("inline", {"required": ["inline"]}, {"not": {"required": ["inline"]}}),
        when("reference", {"required": ["ref"]}),
    ]


def _add_rule_rules(rule: dict[str, Any]) -> None:
    """What a struct cannot say of a policy's rule: which conditions there are, and that one form is given."""
    fixed = sorted(NUMBER_FIELDS | SET_FIELDS | TEXT_FIELDS)
    fields = "|".join([*(field.replace(".", r"\.") for field in fixed), r"evidence(\.[^.]+)+"])
    ops = "|".join(op[1:] for op in sorted(OPS))
    names = {"propertyNames": {"pattern": f"^({fields})_({ops})$"}}
    rule["properties"]["if"].update(names)
    for several in ("if_all", "if_any"):
        rule["properties"][several]["items"].update(names)
    rule["not"] = {
        "anyOf": [{"required": pair} for pair in (["if", "if_all"], ["if", "if_any"], ["if_all", "if_any"])]
    }


if __name__ == "__main__":
    for target in (_HERE, _DOCS):
        write(target)
        print(f"{target}: {', '.join(NAMES)}", file=sys.stderr)
