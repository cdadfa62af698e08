"""docs/events.md, written from the structs: a section a kind, a row a field."""

from __future__ import annotations

import inspect
import re
from typing import Any

import msgspec

from .catalogue import KINDS

_HEADING = """# Events

The bodies of the built-in kinds. This page is generated from the structs in `events/`:
`python -m tallystick.events > docs/events.md`. What every event has besides its body is in
[format.md](format.md); apps add kinds of their own beside these.
"""


def events_page() -> str:
    """The whole page."""
    return "\n".join([_HEADING, *(_section(kind, body) for kind, body in KINDS.items())])


def _section(kind: str, body: type[msgspec.Struct]) -> str:
    summary, described = _docstring(body)
    rows = [
        f"## `{kind}`\n",
        f"{summary}\n",
        "| field | type | required | what it holds |",
        "|---|---|---|---|",
    ]
    for field in msgspec.structs.fields(body):
        required = "yes" if field.required else f"no: {field.default!r}"
        what = described.get(field.encode_name, "version of this body" if field.name == "v" else "")
        rows.append(f"| `{field.encode_name}` | {_type_name(field.type)} | {required} | {what} |")
    return "\n".join(rows) + "\n"


def _docstring(body: type[msgspec.Struct]) -> tuple[str, dict[str, str]]:
    """The docstring's summary, and what it says of each field (`name: text`, text may run on)."""
    text = inspect.getdoc(body) or ""
    summary, _, rest = text.partition("\n\n")
    described: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        start = re.match(r"(\w+): (.*)", line)
        if start:
            name = start[1]
            described[name] = start[2]
        elif name and line.strip():
            described[name] += " " + line.strip()
    summary = re.sub(r"^`[\w.]+`: ", "", " ".join(summary.split()))
    return summary[:1].upper() + summary[1:], described


def _type_name(kind: Any) -> str:
    name = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return f"`{name.replace('typing.', '').replace('|', chr(92) + '|')}`"
