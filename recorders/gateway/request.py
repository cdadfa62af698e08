"""The request `decision_request.v0`: what is asked, and whether it may be evaluated at all (D2).

A request comes as a dict, as JSON text or as a `DecisionRequest`. `check_request` gives back a private
copy in plain JSON values with the struct beside it, or raises InvalidRequest with the path of the first
thing that is wrong. What is not understood is refused: a request decides whether money moves.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tallystick.ledger import canonical
from tallystick.ledger.errors import BodyTooLarge, InvalidEvent

from .digests import digest_of, jcs, jcs_of
from .errors import InvalidRequest

SCHEMA_VERSION: Final = "decision_request.v0"
#: A request as JSON, in bytes; it is kept whole in the ledger, beside what follows from it.
MAX_BYTES: Final = 512 * 1024
#: Arrays and objects inside one another, the request itself counted.
MAX_DEPTH: Final = 32
TAGS_MAX: Final = 64

#: `$` alone would let a line feed at the end pass.
_NO_CONTROLS: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$(?!\n)"
#: What shows nothing, or changes how its neighbours show: Cf, Zl, Zp, and Zs but for the plain space;
#: fillers, joiners and variation selectors, too. Spelled out, so that an id is one under any Unicode.
_INVISIBLE: Final = (
    r"\u00a0\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u1680\u17b4\u17b5"
    r"\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
    # Beyond U+FFFF as they are: dialects of patterns escape those differently.
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
#: Two ids that look the same are the same, as far as characters that cannot be seen go.
_VISIBLE: Final = rf"^(?! )[^\x00-\x1f\x7f-\x9f{_INVISIBLE}]*(?<! )$(?!\n)"
_Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=_VISIBLE)]
_Line = Annotated[str, Meta(max_length=2000, pattern=_NO_CONTROLS)]
_Text = Annotated[str, Meta(min_length=1, max_length=16_000)]
_ActionType = Annotated[str, Meta(max_length=128, pattern=r"^[a-z0-9][a-z0-9_]*(\.[a-z0-9_]+)+$(?!\n)")]
_Currency = Annotated[str, Meta(pattern=r"^[A-Za-z]{3}$(?!\n)")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$(?!\n)")]
Mode = Literal["enforce", "advisory"]
Profile = Literal["default", "strict", "off"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every object of a request is: its fields and no others."""


class Trace(_Part, frozen=True, kw_only=True):
    """Where the request belongs in the caller's traces.

    correlation_id: of the whole case.
    span_id: of this call.
    """

    correlation_id: _Name | UnsetType = UNSET
    span_id: _Name | UnsetType = UNSET


class Tenant(_Part, frozen=True, kw_only=True):
    """For whom it is decided. Memory of one tenant has no influence on another.

    tenant_id: the caller's id; if the subject has one, too, it is the same.
    environment: `dev`, `staging` or `prod`.
    """

    tenant_id: _Name
    environment: Literal["dev", "staging", "prod"] | UnsetType = UNSET


class Subject(_Part, frozen=True, kw_only=True):
    """Who wants to act.

    type: `service`, `agent`, `user` or `job`.
    id: the caller's id of it.
    tenant_id: the tenant that it belongs to.
    ip: where it comes from.
    user_agent: what it says it is.
    roles: what it may be.
    """

    type: Literal["service", "agent", "user", "job"]
    id: _Name
    tenant_id: _Name | UnsetType = UNSET
    ip: _Name | UnsetType = UNSET
    user_agent: _Line | UnsetType = UNSET
    roles: Annotated[list[_Name], Meta(max_length=TAGS_MAX)] | UnsetType = UNSET


class Target(_Part, frozen=True, kw_only=True):
    """What it acts upon.

    system: such as `stripe`.
    resource_type: such as `charge`.
    resource_id: the system's id of it.
    """

    system: _Name | UnsetType = UNSET
    resource_type: _Name | UnsetType = UNSET
    resource_id: _Name | UnsetType = UNSET


class Amount(_Part, frozen=True, kw_only=True):
    """How much.

    value: in units of the currency, not in cents.
    currency: three letters.
    """

    value: int | float | UnsetType = UNSET
    currency: _Currency | UnsetType = UNSET


class Action(_Part, frozen=True, kw_only=True):
    """What is to be done.

    type: dotted lower-case words, such as `support.refund`.
    intent: in words.
    target: what it acts upon.
    amount: how much.
    tags: the caller's own words for it.
    """

    type: _ActionType
    intent: _Text
    target: Target | UnsetType = UNSET
    amount: Amount | UnsetType = UNSET
    tags: Annotated[list[_Name], Meta(max_length=TAGS_MAX)] | UnsetType = UNSET


class Reference(_Part, frozen=True, kw_only=True):
    """Where the context is kept.

    kind: what keeps it.
    id: its id there.
    uri: how to get it.
    """

    kind: _Name
    id: _Name
    uri: _Line | UnsetType = UNSET


class Redaction(_Part, frozen=True, kw_only=True):
    """What is removed from the inline context before the request is recorded.

    profile: `default`, `strict` or `off`.
    fields_removed: JSON pointers to what was removed.
    """

    profile: Profile | UnsetType = UNSET
    fields_removed: Annotated[list[str], Meta(max_length=10_000)] | UnsetType = UNSET


class Context(_Part, frozen=True, kw_only=True):
    """What the caller knew when it asked.

    mode: `digest_only`, `inline` (needs `inline`, which no other mode may have) or `reference` (needs `ref`).
    digest: `sha256:` and the hex of the RFC 8785 JSON of the inline context, or of the reference.
    ref: where the context is kept.
    inline: the context itself.
    redaction: what is removed from it before it is recorded.
    """

    mode: Literal["digest_only", "inline", "reference"]
    digest: Digest
    ref: Reference | UnsetType = UNSET
    inline: dict[str, Any] | UnsetType = UNSET
    redaction: Redaction | UnsetType = UNSET


class AskedPolicy(_Part, frozen=True, kw_only=True):
    """The policy that the caller expects; the gateway abstains if it has another.

    policy_id: as the policy says.
    policy_version: as the policy says.
    mode: `enforce` makes an advisory policy binding for this request; the other way there is none.
    """

    policy_id: _Name | UnsetType = UNSET
    policy_version: _Name | UnsetType = UNSET
    mode: Mode | UnsetType = UNSET


class Hints(_Part, frozen=True, kw_only=True):
    """What the caller wishes.

    mode: as in `policy`.
    dry_run: the caller will not act on the verdict; it is recorded all the same.
    """

    mode: Mode | UnsetType = UNSET
    dry_run: bool | UnsetType = UNSET


class DecisionRequest(_Part, frozen=True, kw_only=True):
    """May this be done? Everything that the answer may depend on, besides policy and memory.

    schema_version: `decision_request.v0`.
    request_id: makes asking again safe: the same request under the same id gets the first record.
    trace: where it belongs in the caller's traces.
    tenant: for whom it is decided.
    subject: who wants to act.
    action: what is to be done.
    evidence: what speaks for it, under names that the policy knows.
    context: what the caller knew when it asked.
    policy: the policy that the caller expects.
    hints: what the caller wishes.
    extensions: the caller's own.
    """

    schema_version: Literal["decision_request.v0"]
    request_id: _Name | UnsetType = UNSET
    trace: Trace | UnsetType = UNSET
    tenant: Tenant | UnsetType = UNSET
    subject: Subject
    action: Action
    evidence: dict[str, Any] | UnsetType = UNSET
    context: Context
    policy: AskedPolicy | UnsetType = UNSET
    hints: Hints | UnsetType = UNSET
    extensions: dict[str, Any] | UnsetType = UNSET

    @property
    def tenant_id(self) -> str | None:
        """The tenant, wherever the request names it; None if it names none."""
        if self.tenant is not UNSET:
            return self.tenant.tenant_id
        return None if self.subject.tenant_id is UNSET else self.subject.tenant_id

    def to_dict(self) -> dict[str, Any]:
        """The request as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class CheckedRequest(NamedTuple):
    """A request that may be evaluated.

    `plain` is a private copy, as given; `jcs` its RFC 8785 form, `digest` the digest of that.
    """

    request: DecisionRequest
    plain: dict[str, Any]
    jcs: bytes
    digest: str


def check_request(request: DecisionRequest | dict[str, Any] | str | bytes) -> CheckedRequest:
    """The request, if it may be evaluated. Raises InvalidRequest."""
    plain, data = _plain(request)
    try:
        struct = msgspec.convert(plain, DecisionRequest)
    except msgspec.ValidationError as error:
        first = _named(str(error))
        found = [each for each in _all_problems(plain, DecisionRequest, "") if each.path != first.path]
        others = [f"{each.path}: {each.problem}" for each in found]
        raise InvalidRequest(first.path, first.problem, others=others) from None
    _check_tenant(struct)
    _check_context(struct.context, plain["context"])
    _check_amount(struct, plain)
    form = jcs_of(data, plain)
    return CheckedRequest(struct, plain, form, digest_of(form))


def _plain(request: object) -> tuple[dict[str, Any], bytes]:
    """A private copy in plain JSON values, within the bounds of size and depth, and its canonical form."""
    value: object = request
    if isinstance(request, DecisionRequest):
        try:
            value = msgspec.to_builtins(request)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest("request", f"holds what is no JSON value ({error})") from None
    elif isinstance(request, str | bytes):
        value = _parsed(request)
    if not isinstance(value, dict):
        raise InvalidRequest("request", f"expected an object, got {type(value).__name__}")
    try:
        data = canonical.encode(value, "request", MAX_BYTES)
    except BodyTooLarge as error:
        raise InvalidRequest(
            "request",
            f"{error.size_bytes:,} bytes of JSON, more than the {MAX_BYTES:,} allowed",
            "send digests or references in place of large content",
        ) from None
    except InvalidEvent as error:
        raise InvalidRequest(error.path.removeprefix("request."), error.problem, error.remedy) from None
    copy: dict[str, Any] = canonical.decode(data)
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and deeper_than(copy, MAX_DEPTH):
        raise InvalidRequest("request", f"nested deeper than {MAX_DEPTH} levels")
    return copy, data


def _parsed(text: str | bytes) -> object:
    try:
        data = text.encode() if isinstance(text, str) else text
        if len(data) > 4 * MAX_BYTES:
            raise InvalidRequest("request", f"{len(data):,} bytes, more than the {4 * MAX_BYTES:,} allowed")
        return canonical.parse(data)
    except (msgspec.MsgspecError, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        _refuse_numbers(text)
        raise InvalidRequest("request", f"is no JSON ({error})") from None


def _refuse_numbers(data: str | bytes) -> None:
    """Raise InvalidRequest with the path of a number that no reader of JSON can hold, such as 1e999."""

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is no JSON")

    try:
        canonical.encode(json.loads(data, parse_constant=refuse), "request", 4 * MAX_BYTES)
    except InvalidEvent as error:
        path = error.path.removeprefix("request.")
        raise InvalidRequest(path, "a number beyond what readers of JSON can hold") from None
    except (ValueError, RecursionError):
        return


def deeper_than(value: Any, levels: int) -> bool:
    """Whether a JSON value has more levels of arrays and objects."""
    level = [value]
    for _ in range(levels + 1):
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return False
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return True


_AT: Final = re.compile(r"(?P<problem>.*?)(?: - at `(?P<at>key in )?\$(?P<path>.*)`)?", re.DOTALL)
_FIELD: Final = re.compile(
    r"Object (?P<what>contains unknown|missing required) field `(?P<field>.*)`", re.DOTALL
)
_FORM: Final = re.compile(r"Expected `str` matching regex .*", re.DOTALL)
_UNSEEN: Final = "control characters, line breaks, invisible characters and blanks at an end are not allowed"
_FORMS: Final = {
    "action.type": "expected dotted lower-case words, such as support.refund",
    "action.amount.currency": "expected a currency of three letters, such as USD",
    "context.digest": "expected sha256: and 64 lower-case hex digits",
}


def _all_problems(value: Any, kind: Any, path: str) -> Iterator[InvalidRequest]:
    """Everything in a value that is not as its type asks, field by field."""
    parts = [part for part in get_args(kind) or (kind,) if isinstance(part, type)]
    struct = next((part for part in parts if issubclass(part, msgspec.Struct)), None)
    if struct is None or not isinstance(value, dict):
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            yield _named(str(error), path)
        return
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    for name in value:
        inner = f"{path}.{name}" if path else name
        if name in fields:
            yield from _all_problems(value[name], fields[name].type, inner)
        else:
            yield InvalidRequest(_cut(inner), "unknown field")
    for name, field in fields.items():
        if field.required and name not in value:
            yield InvalidRequest(f"{path}.{name}" if path else name, "missing")


def _cut(path: str) -> str:
    return path if len(path) <= 120 else path[:117] + "..."


def _choices_of(kind: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The path of each field that takes one of some words, and those words."""
    for part in get_args(kind) or (kind,):
        if get_origin(part) is Literal:
            yield path, ", ".join(get_args(part))
        elif isinstance(part, type) and issubclass(part, msgspec.Struct):
            for field in msgspec.structs.fields(part):
                yield from _choices_of(field.type, f"{path}.{field.name}" if path else field.name)
    if get_origin(kind) is Literal:
        yield path, ", ".join(get_args(kind))


_CHOICES: Final = dict(_choices_of(DecisionRequest))
_CHOICE: Final = re.compile(r"Invalid enum value (?P<value>.*)", re.DOTALL)


def _named(message: str, within: str = "") -> InvalidRequest:
    """msgspec's message with its path in front; `within` is the path of what was looked at."""
    match = _AT.fullmatch(message)
    assert match is not None
    path, problem = within + (match["path"] or ""), match["problem"]
    path = path.lstrip(".")
    choice = _CHOICE.fullmatch(problem)
    if choice is not None and path in _CHOICES:
        return InvalidRequest(path, f"{choice['value'][:80]} is none of {_CHOICES[path]}")
    field = _FIELD.fullmatch(problem)
    if field is not None:
        name = field["field"] if len(field["field"]) <= 80 else field["field"][:77] + "..."
        path = f"{path}.{name}" if path else name
        problem = "missing" if field["what"] == "missing required" else "unknown field"
    elif _FORM.fullmatch(problem):
        problem = _FORMS.get(path, _UNSEEN)
    else:
        problem = problem[:1].lower() + problem[1:].replace("`", "")
    return InvalidRequest(path or "request", problem)


def _check_tenant(request: DecisionRequest) -> None:
    ours = request.subject.tenant_id
    if request.tenant is not UNSET and ours is not UNSET and ours != request.tenant.tenant_id:
        raise InvalidRequest(
            "subject.tenant_id",
            f"{ours!r} is another tenant than tenant.tenant_id, {request.tenant.tenant_id!r}",
            "name one tenant",
        )


def _check_context(context: Context, plain: dict[str, Any]) -> None:
    if context.mode == "reference" and context.ref is UNSET:
        raise InvalidRequest("context.ref", "missing", "mode 'reference' needs it")
    if context.mode != "inline":
        if context.inline is not UNSET:
            raise InvalidRequest(
                "context.inline",
                f"does not go with mode {context.mode!r}",
                "leave it out, or use mode 'inline'",
            )
        return
    if context.inline is UNSET:
        raise InvalidRequest("context.inline", "missing", "mode 'inline' needs it")
    actual = digest_of(jcs(plain["inline"]))
    if actual != context.digest:
        raise InvalidRequest(
            "context.digest",
            f"the inline context has the digest {actual}, not {context.digest}",
            "give the SHA-256 of the RFC 8785 JSON of context.inline",
        )


def _check_amount(request: DecisionRequest, plain: dict[str, Any]) -> None:
    """Refuse an amount in dollars that no number holds: no rule could compare it."""
    rate = plain.get("evidence", {}).get("fx_rate_to_usd")
    value = plain["action"].get("amount", {}).get("value")
    if type(rate) in (int, float) and value is not None and not math.isfinite(float(value) * float(rate)):
        raise InvalidRequest("evidence.fx_rate_to_usd", "times the amount it is beyond all numbers")
