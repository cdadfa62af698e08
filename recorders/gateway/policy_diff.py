"""What differs between two policies: rules, thresholds and the rest, added, removed, changed (D11).

Pure. Comments and layout are no difference: what is compared is the parsed documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from .conditions import same
from .policy import Policy
from .stages import STAGES

ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"
MOVED: Final = "moved"
#: Parts that are objects whose entries are compared one by one, in the order in which they are told.
_MAPS: Final = ("thresholds", "required_evidence", "reason_codes")
_REST: Final = ("policy_id", "policy_version", "defaults", "features", "extensions")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference.

    part: `rule`, `threshold`, `required_evidence`, `reason_code`, or a field of the policy. name: which one.
    what: `added`, `removed`, `changed`, or `moved` (asked in another order within its stage). path: what of
    it changed, dotted; empty for all of it. old, new: the values; null where there is none. affects: for a
    threshold the rules that name it.
    """

    part: str
    name: str
    what: str
    path: str
    old: Any
    new: Any
    affects: list[str]


def diff_policies(old: Policy, new: Policy) -> list[Change]:
    """The differences, in the order of a policy's fields; none if their hashes are the same."""
    before, after = msgspec.to_builtins(old.document), msgspec.to_builtins(new.document)
    changes = [change for name in _REST for change in _values(name, "", before.get(name), after.get(name))]
    for name in _MAPS:
        changes += _entries(name, before.get(name, {}), after.get(name, {}))
    changes += _rules(before["rules"], after["rules"])
    users = _users(before["rules"], after["rules"])
    return [
        msgspec.structs.replace(change, affects=users.get(change.name, []))
        if change.part == "threshold"
        else change
        for change in changes
    ]


def _entries(field: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    part = {"thresholds": "threshold", "reason_codes": "reason_code"}.get(field, field)
    for name in dict.fromkeys([*before, *after]):
        yield from _values(part, name, before.get(name), after.get(name), whole=True)


def _rules(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Iterator[Change]:
    old, new = ({rule["id"]: rule for rule in rules} for rules in (before, after))
    moved = _moved(before, after)
    for name in dict.fromkeys([*new, *old]):
        if name in old and name in new:
            yield from _values("rule", name, old[name], new[name])
            if name in moved:
                yield _change("rule", name, MOVED, "", None, None)
        else:
            yield from _values("rule", name, old.get(name), new.get(name), whole=True)


def _moved(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> set[str]:
    """Rules of the same stage that are asked in another order; their reasons come in that order."""
    moved: set[str] = set()
    for stage in STAGES:
        old, new = ([rule["id"] for rule in rules if rule["stage"] == stage] for rules in (before, after))
        stay = [name for name in old if name in new]
        then = [name for name in new if name in old]
        moved.update(name for name, other in zip(stay, then, strict=True) if name != other)
    return moved


def _values(
    part: str, name: str, old: Any, new: Any, *, whole: bool = False, path: str = ""
) -> Iterator[Change]:
    """The differences of two values, key by key unless they are told whole."""
    if old is None or new is None:
        if old is not new:
            yield _change(part, name, ADDED if old is None else REMOVED, path, old, new)
    elif not whole and isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            inner = f"{path}.{key}" if path else key
            yield from _values(part, name, old.get(key), new.get(key), path=inner)
    elif not same(old, new):
        yield _change(part, name, CHANGED, path, old, new)


def _change(part: str, name: str, what: str, path: str, old: Any, new: Any) -> Change:
    return Change(part=part, name=name, what=what, path=path, old=old, new=new, affects=[])


def _users(*several: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Threshold to the rules that name it, in either policy."""
    users: dict[str, list[str]] = {}
    for rules in several:
        for rule in rules:
            for name in _named([rule.get(key) for key in ("if", "if_all", "if_any")]):
                if rule["id"] not in users.setdefault(name, []):
                    users[name].append(rule["id"])
    return users


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith("$") and not value.startswith("$$"):
        yield value[1:]
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _named(item)
