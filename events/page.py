"""docs/events.md, written from the structs: a section a kind, a row a field, nested by dots."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import NoneType
from typing import Any, get_args

import msgspec

from .catalogue import KINDS

_HEADING = """# Events

The bodies of the built-in kinds. This page is generated from the structs in `events/`:
`python -m tallystick.events > docs/events.md`. What every event has besides its body is in
[format.md](format.md); apps add kinds of their own beside these.

Most bodies have two halves. **`derived`** follows from the recorded inputs, and replay derives it again and
compares. **`observed`** is what was seen once (clocks, durations, run ids, texts of exceptions), and is
never compared.
"""


def events_page() -> str:
    """The whole page."""
    return "\n".join([_HEADING, *(_section(kind, body) for kind, body in KINDS.items())])


def _section(kind: str, body: type[msgspec.Struct]) -> str:
    head = [
        f"## `{kind}`\n",
        f"{_docstring(body)[0]}\n",
        "| field | type | required | what it holds |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *_rows(body, "")]) + "\n"


def _rows(body: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    described = _docstring(body)[1]
    for field in msgspec.structs.fields(body):
        what = described.get(field.encode_name, "version of this body" if field.name == "v" else "")
        name = f"{prefix}{field.encode_name}"
        yield f"| `{name}` | {_type_name(field.type)} | {_required(field)} | {what} |"
        nested = struct_of(field.type)
        if nested is not None:
            yield from _rows(
                nested, f"{name}[]." if field.type != nested and _is_list(field.type) else f"{name}."
            )


def struct_of(annotation: Any) -> type[msgspec.Struct] | None:
    """The struct that a field holds: itself, optionally, or as the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    return next((found for part in get_args(annotation) if (found := struct_of(part))), None)


def _is_list(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is list


def _required(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "yes"
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return f"no: {'null' if default is None else repr(default)}"


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


def _type_name(annotation: Any) -> str:
    """As readers of JSON call it: a struct is an object."""
    parts = get_args(annotation)
    if struct_of(annotation) is annotation:
        return "object"
    if _is_list(annotation) and struct_of(annotation):
        return "list of objects"
    if parts and NoneType in parts:
        return " or ".join([*(_type_name(part) for part in parts if part is not NoneType), "null"])
    name = annotation.__name__ if isinstance(annotation, type) and not parts else str(annotation)
    return "any" if annotation is Any else f"`{name.replace('typing.', '')}`"
