"""Where two JSON values differ, in bounded space."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from blake3 import blake3

from tallystick.recorders.capture import pointer_token

from .report import Difference

#: Places that are named; of more, the rest are summed up in one.
DIFFERENCES_MAX: Final = 20
#: A value whose JSON is larger stands by its size and digest.
VALUE_BYTES_MAX: Final = 2000
ABSENT: Final[dict[str, Any]] = {"$absent": True}
_DEPTH_MAX: Final = 64
_encode = msgspec.json.Encoder(order="sorted").encode


def differences(expected: Any, actual: Any) -> tuple[Difference, ...]:
    """The innermost places where two JSON values differ, in order; empty if they are the same."""
    found: list[Difference] = []
    more = _walk(expected, actual, "", found, 0)
    if more:
        found.append(Difference("", shown(expected), shown(actual)))
    return tuple(found)


def the_whole(expected: Any, actual: Any) -> tuple[Difference, ...]:
    """One difference: of the values as they are."""
    return (Difference("", shown(expected), shown(actual)),)


def same(expected: Any, actual: Any) -> bool:
    """Whether two JSON values are the same: true is not 1, and 1 is not 1.0."""
    return expected is actual or (expected == actual and _encode(expected) == _encode(actual))


def _walk(expected: Any, actual: Any, path: str, found: list[Difference], depth: int) -> bool:
    """Note differences; true if there are more than are noted."""
    if same(expected, actual):
        return False
    if len(found) >= DIFFERENCES_MAX:
        return True
    if expected is ABSENT or actual is ABSENT:
        found.append(Difference(path, shown(expected), shown(actual)))
        return False
    if depth < _DEPTH_MAX and isinstance(expected, dict) and isinstance(actual, dict):
        return any(
            [
                _walk(
                    expected.get(name, ABSENT),
                    actual.get(name, ABSENT),
                    f"{path}/{pointer_token(name)}",
                    found,
                    depth + 1,
                )
                for name in sorted({*expected, *actual})
                if len(found) <= DIFFERENCES_MAX
            ]
        )
    if depth < _DEPTH_MAX and isinstance(expected, list) and isinstance(actual, list):
        return any(
            [
                _walk(_item(expected, index), _item(actual, index), f"{path}/{index}", found, depth + 1)
                for index in range(max(len(expected), len(actual)))
                if len(found) <= DIFFERENCES_MAX
            ]
        )
    found.append(Difference(path, shown(expected), shown(actual)))
    return False


def _item(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else ABSENT


def shown(value: Any) -> Any:
    """The value, or what stands for a large one."""
    data = _encode(value)
    if len(data) <= VALUE_BYTES_MAX:
        return value
    return {"$omitted": "too large", "bytes": len(data), "digest": f"blake3:{blake3(data).hexdigest()}"}
