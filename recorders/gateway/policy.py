"""The policy `policy.v0`: what is allowed, as text that people write and as rules ready to be asked (D5, D6).

`Policy.parse` reads YAML, finds everything that is wrong with it at once, and compiles the rest. The hash is
of the parsed document, so that comments and layout do not make another policy.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from .conditions import UNCERTAINTY, Compiled, Facts, compile_condition, find
from .digests import digest
from .errors import InvalidPolicy, PolicyNotFound, PolicyProblem
from .features import weigher
from .policy_check import check_document
from .stages import STAGES
from .yaml_text import MAX_BYTES, Unreadable, read_yaml

SCHEMA_VERSION: Final = "policy.v0"
STARTER_POLICY: Final = Path(__file__).with_name("starter_policy.yaml")
#: Requests and what the starter policy says to them, a JSON object a line.
STARTER_VECTORS: Final = Path(__file__).with_name("starter_vectors.jsonl")
#: Characters that show nothing, spelled out: what is blank must not depend on a version of Unicode.
_BLANK: Final = (
    "".join(map(chr, [*range(0x21), *range(0x7F, 0xA1), *range(0x2000, 0x2010), *range(0x2028, 0x2030)]))
    + "\u00ad\u1680\u180e\u202f\u205f\u2060\u3000\u3164\ufeff"
)
_Verdict = Literal["TRUST", "ABSTAIN", "ESCALATE", "QUERY"]
_Stage = Literal["REQUIREMENTS", "HARD_BLOCKS", "ESCALATIONS", "TRUST_PATHS"]
_ReasonCode = Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9_]{0,99}$(?!\n)")]
_Object = Annotated[dict[str, Any], Meta(min_length=1)]
_Name = Annotated[str, Meta(min_length=1, max_length=200)]


# -- the document ------------------------------------------------------------------------


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every object of a policy is: its fields and no others."""


class Defaults(_Part, frozen=True, kw_only=True):
    """What holds when no rule fires.

    mode: `enforce`, or `advisory`: verdicts are recorded and not enforced.
    default_verdict: the verdict.
    default_reason_code: its reason.
    """

    mode: Literal["enforce", "advisory"]
    default_verdict: _Verdict
    default_reason_code: _ReasonCode


class When(_Part, frozen=True, kw_only=True):
    """Which actions a rule is about; one of the two.

    action_type: this one.
    action_type_in: one of these.
    """

    action_type: str | UnsetType = UNSET
    action_type_in: Annotated[list[str], Meta(min_length=1)] | UnsetType = UNSET


class QueryTemplate(_Part, frozen=True, kw_only=True):
    """A question to ask on `QUERY`.

    field: where the answer goes, such as `evidence.order_id`.
    question: in words.
    """

    field: _Name
    question: Annotated[str, Meta(min_length=1)]


class Then(_Part, frozen=True, kw_only=True):
    """What a rule asks for when it fires.

    verdict: the strongest of all rules that fire holds.
    reason_codes: upper-case words.
    queries: what to ask.
    obligations: what the caller has to do; the caller's own objects.
    """

    verdict: _Verdict
    reason_codes: Annotated[list[_ReasonCode], Meta(min_length=1)]
    queries: list[QueryTemplate] | UnsetType = UNSET
    obligations: list[_Object] | UnsetType = UNSET


class RuleDocument(_Part, frozen=True, kw_only=True, rename={"if_": "if"}):
    """A rule. At most one of `if`, `if_all` and `if_any`; the conditions of one object hold together.

    id: unique in the policy.
    stage: when it is asked.
    when: which actions it is about; default all.
    if: conditions that all hold.
    if_all: lists of conditions that all hold.
    if_any: lists of conditions of which one holds.
    then: what it asks for.
    """

    id: _Name
    stage: _Stage
    when: When | UnsetType = UNSET
    if_: _Object | UnsetType = UNSET
    if_all: Annotated[list[_Object], Meta(min_length=1)] | UnsetType = UNSET
    if_any: Annotated[list[_Object], Meta(min_length=1)] | UnsetType = UNSET
    then: Then


class FeaturesDocument(_Part, frozen=True, kw_only=True):
    """What makes two decisions alike, besides action type, currency, amount and tags.

    evidence: evidence keys, nested by dots.
    weights: how much `action_type`, `amount_currency`, `amount_bucket`, `tag` or `evidence.<key>` counts,
        from 1 to 100; default 1.
    """

    evidence: list[_Name] | UnsetType = UNSET
    weights: dict[str, Annotated[int, Meta(ge=1, le=100)]] | UnsetType = UNSET


class PolicyDocument(_Part, frozen=True, kw_only=True):
    """A policy as written.

    schema_version: `policy.v0`.
    policy_id: its name.
    policy_version: the author's version of it, text.
    defaults: what holds when no rule fires.
    thresholds: values that conditions name as `$name`.
    required_evidence: action type to the evidence keys that must be there and not empty.
    features: what makes two decisions alike.
    reason_codes: the reason codes that rules may give, with their meaning; default any.
    rules: in the order in which they are asked within their stage.
    extensions: the author's own.
    """

    schema_version: Literal["policy.v0"]
    policy_id: _Name
    policy_version: _Name
    defaults: Defaults
    thresholds: dict[str, int | float | str | bool] | UnsetType = UNSET
    required_evidence: dict[str, list[_Name]] | UnsetType = UNSET
    features: FeaturesDocument | UnsetType = UNSET
    reason_codes: dict[_ReasonCode, str] | UnsetType = UNSET
    rules: Annotated[list[RuleDocument], Meta(min_length=1)]
    extensions: dict[str, Any] | UnsetType = UNSET


# -- ready to be asked -------------------------------------------------------------------


class Rule(NamedTuple):
    """A compiled rule. `asks_uncertainty`: it is asked after those that do not."""

    rule_id: str
    stage: str
    action_types: frozenset[str] | None
    fires: Any
    asks_uncertainty: bool
    verdict: str
    reason_codes: list[str]
    queries: list[QueryTemplate]
    obligations: list[dict[str, Any]]


class Policy:
    """A valid policy, compiled. Make one with `parse` or `load`; two are equal if their hashes are."""

    def __init__(self, text: str, raw: dict[str, Any]) -> None:
        """`raw` is the parsed document, valid; `parse` sees to that."""
        self.text = text
        self.document: PolicyDocument = msgspec.convert(raw, PolicyDocument)
        self.policy_hash = digest(raw)
        self.policy_id = self.document.policy_id
        self.policy_version = self.document.policy_version
        self.defaults = self.document.defaults
        features = self.document.features
        self.feature_keys: tuple[str, ...] = ()
        self.weights: dict[str, int] = {}
        if features is not UNSET:
            self.feature_keys = tuple(dict.fromkeys(_given(features.evidence, [])))
            self.weights = dict(_given(features.weights, {}))
        self.weigh = weigher(self.weights)
        self.weights_key = tuple(sorted(self.weights.items()))
        required = _given(self.document.required_evidence, {})
        self._required = {
            action_type: [key.split(".") for key in keys] for action_type, keys in required.items()
        }
        rules = [self._compiled(rule) for rule in self.document.rules]
        self.rules = [rule for stage in STAGES for rule in rules if rule.stage == stage]
        self._by_action_type: dict[str, list[Rule]] = {}

    @classmethod
    def parse(cls, text: str, source: str = "policy") -> Policy:
        """The policy that the YAML text says. Raises InvalidPolicy with everything that is wrong."""
        try:
            raw = read_yaml(text)
        except Unreadable as error:
            faults = [PolicyProblem("", f"line {fault.line}", fault.problem) for fault in error.faults]
            more = [] if error.value is None else check_document(error.value)
            raise InvalidPolicy(source, [*faults, *more]) from None
        problems = check_document(raw)
        if problems:
            raise InvalidPolicy(source, problems)
        return cls(text, raw)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """The policy in a file. Raises PolicyNotFound, InvalidPolicy."""
        return parse_cached(read_policy_text(path), str(path))

    def rules_for(self, action_type: str) -> list[Rule]:
        """The rules about an action type, in the order of evaluation."""
        rules = self._by_action_type.get(action_type)
        if rules is None:
            rules = [r for r in self.rules if r.action_types is None or action_type in r.action_types]
            if len(self._by_action_type) < 1000:  # action types come from outside
                self._by_action_type[action_type] = rules
        return rules

    def evidence_missing(self, facts: Facts) -> bool:
        """Whether evidence that the action type requires is missing or empty."""
        return any(is_empty(find(facts.evidence, path)) for path in self._required.get(facts.action_type, ()))

    def _compiled(self, rule: RuleDocument) -> Rule:
        groups, hold = ([rule.if_], all) if rule.if_ is not UNSET else (rule.if_all, all)
        if rule.if_any is not UNSET:
            groups, hold = rule.if_any, any
        fires: Any = _always
        fields: set[str] = set()
        if groups is not UNSET:
            compiled = [[self._condition(*item) for item in group.items()] for group in groups]
            fields = {condition.field for group in compiled for condition in group}
            fires = _fires([[condition.holds for condition in group] for group in compiled], hold)
        elif rule.stage == "REQUIREMENTS":
            fires = self.evidence_missing
        return Rule(
            rule_id=rule.id,
            stage=rule.stage,
            action_types=_action_types(rule.when),
            fires=fires,
            asks_uncertainty=UNCERTAINTY in fields,
            verdict=rule.then.verdict,
            reason_codes=rule.then.reason_codes,
            queries=_given(rule.then.queries, []),
            obligations=_given(rule.then.obligations, []),
        )

    def _condition(self, key: str, expected: Any) -> Compiled:
        condition = compile_condition(key, expected, _given(self.document.thresholds, {}))
        assert not isinstance(condition, str), condition  # the check found nothing wrong
        return condition

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and other.policy_hash == self.policy_hash

    def __hash__(self) -> int:
        return hash(self.policy_hash)

    def __repr__(self) -> str:
        return f"Policy({self.policy_id!r}, {self.policy_version!r}, {self.policy_hash!r})"


def read_policy_text(path: str | os.PathLike[str]) -> str:
    """The text of a policy file. Raises PolicyNotFound, InvalidPolicy."""
    try:
        # A named pipe without a writer must not be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            os.set_blocking(file.fileno(), True)
            data = file.read(MAX_BYTES + 1)
            if not data and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise PolicyNotFound(str(path), "is a pipe that nothing was written to")
    except OSError as error:
        raise PolicyNotFound(str(path), f"cannot be read ({error.strerror or error})") from None
    try:
        return data[:MAX_BYTES].decode() if len(data) <= MAX_BYTES else _too_large(str(path))
    except UnicodeDecodeError as error:
        raise InvalidPolicy(
            str(path), [PolicyProblem("", f"byte {error.start + 1}", "is no UTF-8 text")]
        ) from None


def _too_large(source: str) -> str:
    raise InvalidPolicy(source, [PolicyProblem("", "the file", f"more than the {MAX_BYTES:,} bytes allowed")])


@lru_cache(maxsize=64)
def parse_cached(text: str, source: str) -> Policy:
    """As `Policy.parse`, which is not asked twice about the same text while it is remembered."""
    return Policy.parse(text, source)


#: A policy, the path of its file, or its YAML text (a str with a line break).
PolicySource = Policy | str | os.PathLike[str]


def policy_of(source: PolicySource) -> Policy:
    """The policy that is given, or named, or written out. Raises PolicyNotFound, InvalidPolicy."""
    if isinstance(source, Policy):
        return source
    if isinstance(source, str) and "\n" in source:
        return parse_cached(source, "policy")
    return Policy.load(source)


def _given(value: Any, default: Any) -> Any:
    return default if value is UNSET else value


def _always(facts: Facts) -> bool:
    return True


def _fires(groups: list[list[Any]], hold: Any) -> Any:
    """A function of the facts: all conditions of all groups, or of any group, hold."""
    if hold is all or len(groups) == 1:
        conditions = [condition for group in groups for condition in group]
        return lambda facts: all(condition(facts) for condition in conditions)
    return lambda facts: any(all(condition(facts) for condition in group) for group in groups)


def _action_types(when: When | UnsetType) -> frozenset[str] | None:
    if when is UNSET:
        return None
    return frozenset([when.action_type] if when.action_type is not UNSET else _given(when.action_type_in, []))


def is_empty(value: Any) -> bool:
    """Whether required evidence counts as not given: absent, null, blank text, an empty list or object.

    `false` and 0 are answers.
    """
    if isinstance(value, str):
        return not value.strip(_BLANK)
    return not value if isinstance(value, list | dict) else not isinstance(value, bool | int | float)
