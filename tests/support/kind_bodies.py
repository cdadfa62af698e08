"""Bodies of every built-in kind, as their structs want them, with the same text or value in every place."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

from tallystick.events.catalogue import KINDS


def body_of(kind: str, text: str, value: Any, number: int = 1) -> dict[str, Any]:
    """A body that fits the kind's struct. text: for every text; value: where any JSON may stand."""
    body: dict[str, Any] = _filled(KINDS[kind], text, value, number) | {"v": 1}
    return body


def _filled(annotation: Any, text: str, value: Any, number: int) -> Any:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        fields = msgspec.structs.fields(annotation)
        return {field.encode_name: _filled(field.type, text, value, number) for field in fields}
    if origin in (Union, UnionType):
        return _filled(next(part for part in parts if part is not NoneType), text, value, number)
    if origin is list:
        return [_filled(parts[0], text, value, number)]
    if origin is dict:
        return {text: _filled(parts[1], text, value, number)}
    plain = {str: text, int: number, float: 0.5, bool: True}
    assert annotation in plain, f"a field of type {annotation} needs a value here"
    return plain[annotation]
