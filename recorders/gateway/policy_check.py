"""Everything that is wrong with a policy, at once: each thing with its rule and its place (D6)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from .conditions import compile_condition, getter
from .errors import PolicyProblem
from .stages import DEFAULT, GATEWAY_REASONS, STAGES, STRENGTH

_FIELDS: Final = (
    "schema_version",
    "policy_id",
    "policy_version",
    "defaults",
    "thresholds",
    "required_evidence",
    "features",
    "reason_codes",
    "rules",
    "extensions",
)
_REQUIRED: Final = ("schema_version", "policy_id", "policy_version", "defaults", "rules")
_DEFAULTS: Final = ("mode", "default_verdict", "default_reason_code")
_RULE: Final = ("id", "stage", "when", "if", "if_all", "if_any", "then")
_THEN: Final = ("verdict", "reason_codes", "queries", "obligations")
_NAME_MAX: Final = 200
_ACTION_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9_]*(\.[a-z0-9_]+)+")
_REASON_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,99}")
_THRESHOLD_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FEATURE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_BUILT_IN_FEATURES: Final = frozenset({"action_type", "amount_currency", "amount_bucket", "tag"})
_FEATURES_MAX: Final = 50


def check_document(raw: Any) -> list[PolicyProblem]:
    """The problems of a parsed policy, in the order of its fields; none if it is valid."""
    check = _Check()
    if check.is_object(raw, "policy"):
        check.document(raw)
    return check.problems


class _Check:
    """One look at a policy. `rule_id` is that of the rule being looked at, or empty."""

    def __init__(self) -> None:
        self.problems: list[PolicyProblem] = []
        self.rule_id = ""
        self._thresholds: Mapping[str, Any] = {}
        self._declared: frozenset[str] | None = None

    def report(self, path: str, problem: str) -> bool:
        self.problems.append(PolicyProblem(self.rule_id, path, problem))
        return False

    # -- small checks: each true if the value can be looked at further ---------------------

    def is_object(self, value: Any, path: str) -> bool:
        return isinstance(value, dict) or self.report(path, f"expected an object, got {_type(value)}")

    def is_list(self, value: Any, path: str, *, empty: bool = False) -> bool:
        if not isinstance(value, list):
            return self.report(path, f"expected a list, got {_type(value)}")
        return bool(value) or empty or self.report(path, "must not be empty")

    def is_name(self, value: Any, path: str) -> bool:
        if not isinstance(value, str):
            remedy = "; quote it" if isinstance(value, bool | int | float) else ""
            return self.report(path, f"expected text, got {_type(value)}{remedy}")
        if not 0 < len(value) <= _NAME_MAX:
            return self.report(path, f"expected 1 to {_NAME_MAX} characters, got {len(value)}")
        return not _CONTROL.search(value) or self.report(path, "has a control character")

    def one_of(self, value: Any, path: str, allowed: Iterable[str]) -> bool:
        known = list(allowed)
        return value in known or self.report(path, f"{_shown(value)} is none of {', '.join(known)}")

    def fields(
        self, value: Mapping[str, Any], path: str, allowed: Iterable[str], required: Iterable[str]
    ) -> None:
        allowed = list(allowed)
        for name in value:
            if name not in allowed:
                self.report(_join(path, name), f"unknown key; the keys are {', '.join(allowed)}")
        for name in required:
            if name not in value:
                self.report(_join(path, name), "missing")

    def reason_code(self, value: Any, path: str) -> None:
        if not isinstance(value, str) or not _REASON_CODE.fullmatch(value):
            self.report(path, f"{_shown(value)} is no reason code; use upper-case letters, digits and _")
        elif value in GATEWAY_REASONS:
            self.report(path, f"{value} is the gateway's own reason code; choose another")
        elif self._declared is not None and value not in self._declared:
            self.report(path, f"unknown reason code {value}; reason_codes does not declare it")

    # -- the document ----------------------------------------------------------------------

    def document(self, raw: dict[str, Any]) -> None:
        self.fields(raw, "", _FIELDS, _REQUIRED)
        if "schema_version" in raw:
            self.one_of(raw["schema_version"], "schema_version", ["policy.v0"])
        for name in ("policy_id", "policy_version"):
            if name in raw:
                self.is_name(raw[name], name)
        if "reason_codes" in raw:
            self._reason_codes(raw["reason_codes"])
        if "thresholds" in raw:
            self._thresholds_of(raw["thresholds"])
        if "defaults" in raw:
            self._defaults(raw["defaults"])
        if "required_evidence" in raw:
            self._required_evidence(raw["required_evidence"])
        if "features" in raw:
            self._features(raw["features"])
        if "extensions" in raw:
            self.is_object(raw["extensions"], "extensions")
        if "rules" in raw and self.is_list(raw["rules"], "rules"):
            self._rules(raw["rules"])

    def _reason_codes(self, value: Any) -> None:
        if not self.is_object(value, "reason_codes"):
            return
        for code, meaning in value.items():
            self.reason_code(code, "reason_codes")
            if not isinstance(meaning, str):
                self.report(f"reason_codes.{code}", f"expected its meaning in words, got {_type(meaning)}")
        self._declared = frozenset(value)

    def _thresholds_of(self, value: Any) -> None:
        if not self.is_object(value, "thresholds"):
            return
        for name, threshold in value.items():
            if not _THRESHOLD_NAME.fullmatch(name):
                self.report(f"thresholds.{name}", "is no name; use letters, digits and _, no digit first")
            if not isinstance(threshold, bool | int | float | str):
                self.report(f"thresholds.{name}", f"expected a number or text, got {_type(threshold)}")
        self._thresholds = value

    def _defaults(self, value: Any) -> None:
        if not self.is_object(value, "defaults"):
            return
        self.fields(value, "defaults", _DEFAULTS, _DEFAULTS)
        if "mode" in value:
            self.one_of(value["mode"], "defaults.mode", ["enforce", "advisory"])
        if "default_verdict" in value:
            self.one_of(value["default_verdict"], "defaults.default_verdict", STRENGTH)
        if "default_reason_code" in value:
            self.reason_code(value["default_reason_code"], "defaults.default_reason_code")

    def _required_evidence(self, value: Any) -> None:
        if not self.is_object(value, "required_evidence"):
            return
        for action_type, keys in value.items():
            path = f"required_evidence.{action_type}"
            self._action_type(action_type, "required_evidence")
            if self.is_list(keys, path, empty=True):
                for index, key in enumerate(keys):
                    if self.is_name(key, f"{path}[{index}]") and getter(f"evidence.{key}") is None:
                        self.report(f"{path}[{index}]", f"{_shown(key)} is no evidence key")

    def _features(self, value: Any) -> None:
        if not self.is_object(value, "features"):
            return
        self.fields(value, "features", ("evidence", "weights"), ())
        keys = value.get("evidence", [])
        known = set(_BUILT_IN_FEATURES)
        if self.is_list(keys, "features.evidence", empty=True):
            if len(keys) > _FEATURES_MAX:
                self.report("features.evidence", f"more than the {_FEATURES_MAX} keys allowed")
            for index, key in enumerate(keys):
                if not isinstance(key, str) or not _FEATURE_KEY.fullmatch(key):
                    self.report(
                        f"features.evidence[{index}]",
                        f"{_shown(key)} is no evidence key; use letters, digits, _ and -, nested by dots",
                    )
                else:
                    known.add(f"evidence.{key}")
        weights = value.get("weights", {})
        if self.is_object(weights, "features.weights"):
            for name, weight in weights.items():
                if name not in known:
                    self.report(f"features.weights.{name}", "is no feature of this policy")
                if type(weight) is not int or not 1 <= weight <= 100:
                    self.report(f"features.weights.{name}", "expected a whole number from 1 to 100")

    # -- rules -----------------------------------------------------------------------------

    def _rules(self, rules: list[Any]) -> None:
        seen: set[str] = set()
        for index, rule in enumerate(rules):
            self.rule_id = f"#{index + 1}"
            if not self.is_object(rule, f"rules[{index}]"):
                continue
            if "id" in rule and self.is_name(rule["id"], "id"):
                self.rule_id = rule["id"]
                if rule["id"] in seen:
                    self.report("id", "another rule has this id")
                elif rule["id"] == DEFAULT:
                    self.report("id", "DEFAULT names what holds when no rule fires; choose another id")
                seen.add(rule["id"])
            self._rule(rule)
        self.rule_id = ""

    def _rule(self, rule: dict[str, Any]) -> None:
        self.fields(rule, "", _RULE, ("id", "stage", "then"))
        if "stage" in rule:
            self.one_of(rule["stage"], "stage", STAGES)
        if "when" in rule:
            self._when(rule["when"])
        given = [name for name in ("if", "if_all", "if_any") if name in rule]
        if len(given) > 1:
            self.report(given[1], f"beside {given[0]}; give one of if, if_all, if_any")
        for name in given:
            if name == "if":
                self._conditions(rule["if"], "if")
            elif self.is_list(rule[name], name):
                for index, conditions in enumerate(rule[name]):
                    self._conditions(conditions, f"{name}[{index}]")
        if "then" in rule:
            self._then(rule["then"])

    def _when(self, when: Any) -> None:
        if not self.is_object(when, "when"):
            return
        self.fields(when, "when", ("action_type", "action_type_in"), ())
        if len(when) > 1 and set(when) == {"action_type", "action_type_in"}:
            self.report("when", "give action_type or action_type_in, not both")
        if not when:
            self.report("when", "must not be empty; leave it out for a rule about every action")
        if "action_type" in when:
            self._action_type(when["action_type"], "when.action_type")
        if "action_type_in" in when and self.is_list(when["action_type_in"], "when.action_type_in"):
            for index, action_type in enumerate(when["action_type_in"]):
                self._action_type(action_type, f"when.action_type_in[{index}]")

    def _action_type(self, value: Any, path: str) -> None:
        if not isinstance(value, str) or not _ACTION_TYPE.fullmatch(value):
            self.report(path, f"{_shown(value)} is no action type; use dotted lower-case words")

    def _conditions(self, conditions: Any, path: str) -> None:
        if not self.is_object(conditions, path):
            return
        if not conditions:
            self.report(path, "must not be empty; leave it out for a rule without a condition")
        for key, expected in conditions.items():
            problem = compile_condition(key, expected, self._thresholds)
            if isinstance(problem, str):
                self.report(_join(path, key), problem)

    def _then(self, then: Any) -> None:
        if not self.is_object(then, "then"):
            return
        self.fields(then, "then", _THEN, ("verdict", "reason_codes"))
        if "verdict" in then:
            self.one_of(then["verdict"], "then.verdict", STRENGTH)
        if "reason_codes" in then and self.is_list(then["reason_codes"], "then.reason_codes"):
            for index, code in enumerate(then["reason_codes"]):
                self.reason_code(code, f"then.reason_codes[{index}]")
        if self.is_list(then.get("queries", []), "then.queries", empty=True):
            for index, query in enumerate(then.get("queries", [])):
                self._query(query, f"then.queries[{index}]")
        if self.is_list(then.get("obligations", []), "then.obligations", empty=True):
            for index, obligation in enumerate(then.get("obligations", [])):
                path = f"then.obligations[{index}]"
                if self.is_object(obligation, path) and not obligation:
                    self.report(path, "must not be empty")

    def _query(self, query: Any, path: str) -> None:
        if not self.is_object(query, path):
            return
        self.fields(query, path, ("field", "question"), ("field", "question"))
        if "field" in query:
            self.is_name(query["field"], f"{path}.field")
        question = query.get("question", "?")
        if not isinstance(question, str) or not question:
            self.report(f"{path}.question", f"expected a question, got {_shown(question)}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
