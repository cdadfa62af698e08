"""Conditions: from `evidence.customer.age_days_lt: 14` to a function of what is known of a request (D6).

A key is `<field>_<op>`, the longest op that fits (`x_not_in` is `not_in` of `x`). What each op says:

- an **absent** value (not given, null, or no tags at all) satisfies only `ne`, `not_in` and `present: false`;
- `is`, `ne`, `in`, `not_in` compare JSON values by type and content: `1` is `1.0`, not `"1"` and not `true`;
- `gt`, `gte`, `lt`, `lte` hold between numbers alone: on anything else they are false, and never an error;
- `tags` and `subject.roles` are **sets** of words. `is` of a word: it is among them; `is` of a list: they are
  these and no others; `in`: at least one is; `ne` and `not_in` the opposite; `present`: there is one;
- `evidence.a.b` descends through objects alone.

Nothing here compiles a pattern or a program from what a policy or a request says.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

#: What a condition finds where there is no value.
ABSENT: Final = object()

#: Longest first: the first that ends a key is its op.
OPS: Final = ("_not_in", "_present", "_gte", "_lte", "_gt", "_lt", "_in", "_is", "_ne")
_ORDERINGS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
NUMBER_FIELDS: Final = frozenset(
    {"amount_value", "amount_usd", "risk.failure_similarity", "risk.uncertainty"}
)
SET_FIELDS: Final = frozenset({"tags", "subject.roles"})
TEXT_FIELDS: Final = frozenset(
    {"amount_currency"} | {f"subject.{name}" for name in ("type", "id", "tenant_id", "ip", "user_agent")}
)
UNCERTAINTY: Final = "risk.uncertainty"
_THRESHOLD: Final = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")


class Facts(NamedTuple):
    """What rules can ask about. Absent numbers and texts are None."""

    action_type: str
    amount_value: int | float | None
    amount_currency: str | None
    amount_usd: int | float | None
    evidence: Mapping[str, Any]
    subject: Mapping[str, Any]
    tags: list[str]
    failure_similarity: float
    uncertainty: float


Get = Callable[[Facts], Any]
Condition = Callable[[Facts], bool]


class Compiled(NamedTuple):
    """A condition ready to be asked. `field` is what it asks about."""

    field: str
    holds: Condition


def compile_condition(key: str, expected: Any, thresholds: Mapping[str, Any]) -> Compiled | str:
    """The condition of one key and its expected value, or what is wrong with it."""
    op = next((op for op in OPS if key.endswith(op) and len(key) > len(op)), None)
    if op is None:
        return f"{key!r} ends in no known op; the ops are {', '.join(op[1:] for op in OPS)}"
    field, op = key.removesuffix(op), op[1:]
    get = getter(field)
    if get is None:
        return (
            f"{field!r} is no field; the fields are amount_value, amount_usd, amount_currency, "
            "evidence.<key>, subject.<key>, tags, risk.failure_similarity, risk.uncertainty"
        )
    unknown: list[str] = []
    expected = _resolved(expected, thresholds, unknown)
    if unknown:
        return f"no threshold is named {', '.join(unknown)}"
    problem = _type_problem(field, op, expected)
    return problem if problem is not None else Compiled(field, _condition(field, op, get, expected))


def getter(field: str) -> Get | None:
    """The function that finds a field's value; None if there is no such field."""
    if field in NUMBER_FIELDS or field == "amount_currency":
        return _or_absent(operator.attrgetter(field.removeprefix("risk.")))
    if field == "tags":
        return operator.attrgetter("tags")
    root, _, rest = field.partition(".")
    if root == "subject" and (field in TEXT_FIELDS or field in SET_FIELDS):
        default = [] if field in SET_FIELDS else ABSENT
        return lambda facts: facts.subject.get(rest, default)
    if root == "evidence" and rest:
        path = rest.split(".")
        return None if "" in path else lambda facts: find(facts.evidence, path)
    return None


def find(evidence: Mapping[str, Any], path: list[str]) -> Any:
    """The value at a path of keys; ABSENT if it is not there, is null, or not in objects all the way."""
    value: Any = evidence
    for name in path:
        if type(value) is not dict or name not in value:
            return ABSENT
        value = value[name]
    return ABSENT if value is None else value


def same(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal: by type and content, 1 and 1.0 being one number and true another."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(value, b[name]) for name, value in a.items())
    return bool(a == b)


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _or_absent(get: Get) -> Get:
    def get_or_absent(facts: Facts) -> Any:
        value = get(facts)
        return ABSENT if value is None else value

    return get_or_absent


def _resolved(expected: Any, thresholds: Mapping[str, Any], unknown: list[str]) -> Any:
    """The expected value with thresholds in place of their names; `$$` begins a text that begins with `$`."""
    if isinstance(expected, list):
        return [_resolved(item, thresholds, unknown) for item in expected]
    if not isinstance(expected, str) or not expected.startswith("$"):
        return expected
    if expected.startswith("$$"):
        return expected[1:]
    if _THRESHOLD.fullmatch(expected) and expected[1:] in thresholds:
        return thresholds[expected[1:]]
    unknown.append(repr(expected))
    return expected


def _type_problem(field: str, op: str, expected: Any) -> str | None:
    """Why a condition could never hold, or always, for the type of what is expected."""
    if op == "present":
        return None if isinstance(expected, bool) else "expected true or false"
    if op in _ORDERINGS:
        return None if is_number(expected) else "expected a number, or the $name of a threshold that is one"
    if op in ("in", "not_in"):
        if not isinstance(expected, list) or not expected:
            return "expected a list with at least one value"
        problems = (_value_problem(field, item) for item in expected)
        return next((problem for problem in problems if problem is not None), None)
    if field in SET_FIELDS and isinstance(expected, list):
        return None if expected and all(isinstance(item, str) for item in expected) else "expected words"
    return _value_problem(field, expected)


def _value_problem(field: str, expected: Any) -> str | None:
    if field in NUMBER_FIELDS and not is_number(expected):
        return "expected a number"
    if field in TEXT_FIELDS | SET_FIELDS and not isinstance(expected, str):
        return "expected text"
    return "null can never be; ask `present: false`" if expected is None else None


def _condition(field: str, op: str, get: Get, expected: Any) -> Condition:
    if op in _ORDERINGS:
        holds = _ORDERINGS[op]
        return lambda facts: is_number(value := get(facts)) and holds(value, expected)
    if field in SET_FIELDS:
        return _set_condition(op, get, expected)
    if op == "present":
        return lambda facts: (get(facts) is not ABSENT) is expected
    if op == "is":
        return lambda facts: same(get(facts), expected)
    if op == "ne":
        return lambda facts: not same(get(facts), expected)
    if op == "in":
        return lambda facts: any(same(value, item) for value in (get(facts),) for item in expected)
    assert op == "not_in"
    return lambda facts: not any(same(value, item) for value in (get(facts),) for item in expected)


def _set_condition(op: str, get: Get, expected: Any) -> Condition:
    if op == "present":
        return lambda facts: bool(get(facts)) is expected
    words = frozenset([expected] if isinstance(expected, str) else expected)
    if op in ("is", "ne") and isinstance(expected, list):
        wanted = op == "is"
        return lambda facts: (words == frozenset(get(facts))) is wanted
    wanted = op in ("is", "in")
    return lambda facts: (not words.isdisjoint(get(facts))) is wanted
