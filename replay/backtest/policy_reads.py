"""What of a request a policy looks at, so that nobody asks it about what is gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import UNSET

from tallystick.recorders.capture import pointer_token
from tallystick.recorders.gateway.conditions import compile_condition
from tallystick.recorders.gateway.policy import Policy, RuleDocument

_RISK: Final = "risk."
_AMOUNT: Final = "/action/amount"
_RATE: Final = "/evidence/fx_rate_to_usd"
_TYPE: Final = "/action/type"
_FIELDS: Final = {
    "amount_value": (f"{_AMOUNT}/value",),
    "amount_currency": (f"{_AMOUNT}/currency",),
    "amount_usd": (_AMOUNT, _RATE),
    "tags": ("/action/tags",),
}
_MEMORY_KEYS: Final = (_AMOUNT, _RATE, "/action/tags", "/tenant", "/subject/tenant_id")


class Reads:
    """What a policy reads, by action type."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._known: dict[str, tuple[bool, frozenset[str]]] = {}

    def memory(self, action_type: str) -> bool:
        """Whether what is remembered can make a difference to the verdict."""
        return self._read(action_type)[0]

    def any_of(self, action_type: str, pointers: Iterable[str]) -> str | None:
        """The first of the JSON pointers into the request that leads to something it reads, or into it."""
        read = self._read(action_type)[1]
        return next((gone for gone in pointers if any(overlap(gone, each) for each in read)), None)

    def pointers(self, action_type: str) -> frozenset[str]:
        """What it reads, as JSON pointers into the request."""
        return self._read(action_type)[1]

    def _read(self, action_type: str) -> tuple[bool, frozenset[str]]:
        known = self._known.get(action_type)
        if known is None:
            known = self._found(action_type)
            if len(self._known) < 1000:  # action types come from outside
                self._known[action_type] = known
        return known

    def _found(self, action_type: str) -> tuple[bool, frozenset[str]]:
        asked = {rule.rule_id for rule in self._policy.rules_for(action_type)}
        document = self._policy.document
        required = document.required_evidence
        read = {_TYPE}
        memory = False
        for rule in document.rules:
            if rule.id not in asked:
                continue
            fields = list(_fields(self._policy, rule))
            if not fields and rule.stage == "REQUIREMENTS" and required is not UNSET:
                fields = [f"evidence.{key}" for key in required.get(action_type, ())]
            memory = memory or any(field.startswith(_RISK) for field in fields)
            for field in fields:
                read.update(_FIELDS.get(field, (_pointer(field),)))
        if memory:
            read.update(_MEMORY_KEYS, (_pointer(f"evidence.{key}") for key in self._policy.feature_keys))
        return memory, frozenset(pointer for pointer in read if not pointer.startswith("/risk"))


def _fields(policy: Policy, rule: RuleDocument) -> Iterator[str]:
    """The fields that a rule's conditions ask about."""
    thresholds = policy.document.thresholds
    groups = [rule.if_] if rule.if_ is not UNSET else []
    for given in (rule.if_all, rule.if_any):
        groups += [] if given is UNSET else given
    for group in groups:
        for key, expected in group.items():
            compiled = compile_condition(key, expected, {} if thresholds is UNSET else thresholds)
            assert not isinstance(compiled, str), "the policy is valid"
            yield compiled.field


def _pointer(field: str) -> str:
    """The JSON pointer of a dotted field."""
    return "".join(f"/{pointer_token(name)}" for name in field.split("."))


def overlap(one: str, other: str) -> bool:
    """Whether one of two JSON pointers leads to the other, or into it."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/") or not one
