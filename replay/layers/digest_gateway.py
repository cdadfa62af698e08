"""The layer `digest` for policies, decisions, what was said of them, and memory (contracts D4, D8 to D10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger.event import Row
from tallystick.recorders.gateway.decision import ENGINE_VERSION
from tallystick.recorders.gateway.digests import context_digest, digest, inputs_digest, jcs
from tallystick.recorders.gateway.errors import InvalidPolicy
from tallystick.recorders.gateway.features import amount_usd, tokens_of
from tallystick.recorders.gateway.gateway import policy_key, request_key
from tallystick.recorders.gateway.policy import Policy
from tallystick.recorders.gateway.redaction import DEFAULT, SENSITIVE, STRICT, STRICTNESS, redact
from tallystick.recorders.gateway.request import DecisionRequest
from tallystick.recorders.gateway.stages import EVALUATION_ORDER, STRENGTH, DecisionVerdict, Label
from tallystick.recorders.gateway.ulid import RANDOM_BYTES, TIME_LENGTH, ulid
from tallystick.recorders.session.records import iso_text, moment

from ..parts import part
from .checks import NOT_HERE, Body, Checks, Past, Unreadable, read_body
from .policies import parsed

REDACTED: Final = "part of the request was redacted"
POLICY_ERASED: Final = "the text of its policy was erased, or cannot be read"
LABEL_ERASED: Final = "the body of the label before it was erased, or cannot be read"
LEARNED_NOT_HERE: Final = "what was learned from it is not in the pack"
DECISION_ERASED: Final = "the body of the decision was erased, or cannot be read"
_CONTEXT: Final = "/context/inline"


def check_policy(checks: Checks, row: Row, body: Body, past: Past) -> None:
    """The hash, id and version of a `policy.registered` from its text."""
    struct: events.PolicyRegistered = body.struct
    checks.equal("stream", events.policy_stream(struct.policy_hash), row.stream)
    checks.equal("key", policy_key(struct.policy_hash), row.key)
    _check_first(checks, row, past)
    try:
        policy = parsed(struct.text)
    except InvalidPolicy as error:
        checks.wrong("text", f"it is no valid policy: {error.problems[0]}")
        return
    for what in ("policy_hash", "policy_id", "policy_version"):
        checks.equal(what, getattr(policy, what), getattr(struct, what), "from its text")


def check_decision(checks: Checks, row: Row, body: Body, past: Past) -> None:
    """The digests of a `decision.recorded`, and what it refers to."""
    past.keep(row)
    derived: events.Decision = body.struct.derived
    decision_id = body.struct.observed.decision_id
    checks.equal("decision_id", row.stream, events.decision_stream(decision_id), "the stream's")
    _check_first(checks, row, past)
    _check_circumstances(checks, row, body.struct, past)
    request = evaluated_request(derived)
    if derived.redacted:
        checks.cannot("request_digest", REDACTED)
        checks.true("redacted", _could_be_redacted(derived), "what its profile removes", derived.redacted)
    else:
        again = digest(derived.request if request is None else request)
        checks.equal("request_digest", again, derived.request_digest)
    _check_context(checks, derived)
    recorded = derived.determinism.inputs_digest
    if derived.features is None:
        checks.equal("inputs_digest", None, recorded, "it was not evaluated")
    elif derived.redacted:
        checks.cannot("inputs_digest", REDACTED)
    else:
        form = jcs(derived.request if request is None else request)
        checks.equal("inputs_digest", inputs_digest(form, msgspec.to_builtins(derived.features)), recorded)
    if not _is_decided_again(derived, past):
        _check_verdict(checks, derived)
    _check_snapshot(checks, row, derived.determinism.memory_snapshot, past)
    if derived.policy.policy_hash is not None:
        _check_policy_ref(checks, row, derived.policy, past)
    elif derived.features is not None:
        checks.wrong("policy", "it was evaluated, and names no policy")


def _is_decided_again(derived: events.Decision, past: Past) -> bool:
    """Whether the layer `decision` can decide it again, which says all that can be said of the verdict."""
    if derived.determinism.engine_version != ENGINE_VERSION or derived.features is None:
        return False
    registration = registered(derived.policy.policy_hash or "", past)
    return registration is not None and policy_in(registration) is not None


def _check_verdict(checks: Checks, derived: events.Decision) -> None:
    """Verdict and reasons from the rules that fired: so they follow in every version of the engine."""
    rules = derived.matched_rules
    if derived.features is None or not rules:
        verdict = DecisionVerdict.ABSTAIN if derived.features is None else "some rule, or DEFAULT"
        sound = derived.features is None and not rules and derived.verdict == verdict
        checks.true("verdict", sound, verdict, derived.verdict, "of a request that was not evaluated")
        return
    stages = [rule.stage for rule in rules]
    known = all(rule.stage in EVALUATION_ORDER and rule.effect in STRENGTH for rule in rules)
    if not known or stages != sorted(stages, key=EVALUATION_ORDER.index):
        checks.wrong(
            "matched_rules", "a stage or an effect that there is none of, or stages in another order"
        )
        return
    strongest = max((rule.effect for rule in rules), key=STRENGTH.__getitem__)
    checks.equal("verdict", strongest, derived.verdict, "the strongest that its matched rules ask for")
    reasons = list(dict.fromkeys(code for rule in rules for code in rule.reason_codes))
    if reasons:  # else they are the policy's default
        checks.equal("reason_codes", reasons, derived.reason_codes, "of its matched rules, in their order")


def _check_first(checks: Checks, row: Row, past: Past) -> None:
    """Nothing stands before it in its stream: its recorder would have been refused."""
    before = next(past.ledger.rows(before=row.seq, stream=row.stream, limit=1), None)
    found = None if before is None else before.seq
    checks.true("place", before is None, "the first event of its stream", found, "what stands before it")


def _check_circumstances(checks: Checks, row: Row, body: events.DecisionRecorded, past: Past) -> None:
    """What was observed once was written down in several places: key, time of the event, id and record.

    A decision that could not be made has the key of no request: asking again decides anew.
    """
    derived, observed = body.derived, body.observed
    request = msgspec.convert(derived.request, DecisionRequest)
    key = None if observed.error is not None else request_key(request)
    if checks.equal("key", key, row.key, "of its request id") and key is not None:
        known = past.ledger.find(key)
        first = None if known is None else known.seq
        checks.equal("key", row.seq, first, "the one event with its key")
    said, made = iso_text(moment(row.at)), observed.decision_id.removeprefix("dec_")[:TIME_LENGTH]
    expected = [said, ulid(row.at, bytes(RANDOM_BYTES))[:TIME_LENGTH]]
    checks.equal("created_at", expected, [observed.created_at, made], "the time of the event")
    failed = observed.error is not None
    reason = "what kept it from being evaluated"
    checks.true("error", failed is (derived.features is None), derived.features is None, failed, reason)


def _could_be_redacted(derived: events.Decision) -> bool:
    """Whether the pointers say what the profile in the request removes, and nothing of that is left."""
    context, removed = derived.request.get("context"), derived.redacted
    told = part(context, "redaction", "fields_removed")
    if not isinstance(context, dict) or not isinstance(told, list) or told[-len(removed) :] != removed:
        return False
    profile = part(context, "redaction", "profile")
    if profile == STRICT:
        return removed == [_CONTEXT] and "inline" not in context
    if profile != DEFAULT or "inline" not in context or redact(derived.request, DEFAULT)[1]:
        return False
    return all(
        pointer.startswith(f"{_CONTEXT}/") and pointer.rpartition("/")[2].casefold() in SENSITIVE
        for pointer in removed
    )


def evaluated_request(derived: events.Decision) -> dict[str, Any] | None:
    """The request as it was evaluated; None if it was redacted, or its digest fits no request.

    Of an inline context, what removed nothing still wrote down that it looked: which profile was asked
    for, if any, the digest tells.
    """
    if derived.redacted:
        return None
    for request in _before_redaction(derived.request):
        if digest(request) == derived.request_digest:
            return request
    return None


def _before_redaction(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The requests that are recorded like this when nothing is removed."""
    yield request
    context = request.get("context")
    if not isinstance(context, dict) or "inline" not in context:
        return
    told = part(context, "redaction", "fields_removed")
    bare = {name: value for name, value in context.items() if name != "redaction"}
    yield {**request, "context": bare}
    for profile in (None, *STRICTNESS):
        asked = {} if profile is None else {"profile": profile}
        yield {**request, "context": {**bare, "redaction": asked}}
        yield {**request, "context": {**bare, "redaction": {**asked, "fields_removed": told}}}


def _check_context(checks: Checks, derived: events.Decision) -> None:
    context = derived.request.get("context")
    if not isinstance(context, dict) or context.get("mode") != "inline":
        return
    if derived.redacted:
        checks.cannot("context.digest", REDACTED)
    else:
        checks.equal("context.digest", context_digest(context), context.get("digest"))


def _check_snapshot(checks: Checks, row: Row, snapshot: events.Snapshot | None, past: Past) -> None:
    if snapshot is None:
        return
    before = past.row(snapshot.seq) if snapshot.seq < row.seq else None
    if before is None and not past.whole and snapshot.seq < row.seq:
        checks.cannot("memory_snapshot", NOT_HERE)
    elif before is None:
        checks.wrong("memory_snapshot", f"there is no earlier event {snapshot.seq}")
    else:
        checks.equal("memory_snapshot", before.hash.hex(), snapshot.hash, f"the hash of event {snapshot.seq}")


def _check_policy_ref(checks: Checks, row: Row, ref: events.PolicyRef, past: Past) -> None:
    assert ref.policy_hash is not None
    found = registered(ref.policy_hash, past)
    if found is None or found.seq > row.seq:
        checks.wrong("policy", "no policy with this hash was registered before")
        return
    body = read_body(found)
    if isinstance(body, Unreadable):
        checks.cannot("policy", POLICY_ERASED)
        return
    known: events.PolicyRegistered = body.struct
    said = [known.policy_id, known.policy_version, known.policy_hash]
    checks.equal("policy", said, [ref.policy_id, ref.policy_version, ref.policy_hash], f"event {found.seq}")


def registered(policy_hash: str, past: Past) -> Row | None:
    """The registration of the policy with this hash, or None."""
    try:
        return past.first(events.policy_stream(policy_hash), events.POLICY_REGISTERED)
    except ValueError:  # no stream can have this name
        return None


def policy_in(row: Row) -> Policy | None:
    """The policy that a registration holds; None if it was erased, or holds none."""
    body = read_body(row)
    if isinstance(body, Unreadable):
        return None
    try:
        return parsed(body.struct.text)
    except InvalidPolicy:
        return None


def check_labeled(checks: Checks, row: Row, body: Body, past: Past) -> None:
    """A `decision.labeled`: as all that is said of a decision; what was learned stands behind it."""
    check_said(checks, row, body, past)
    struct: events.DecisionLabeled = body.struct
    _check_label(checks, struct.label)
    behind = past.row(row.seq + 1)
    if behind is None and not past.whole:
        checks.cannot("memory.added", LEARNED_NOT_HERE)
        return
    learned = None if behind is None or behind.kind != events.MEMORY_ADDED else read_body(behind)
    if isinstance(learned, Unreadable):  # which is said there
        return
    of = None if learned is None else learned.struct.decision_id
    checks.equal("memory.added", struct.decision_id, of, "the event behind it, by the decision")


def _check_label(checks: Checks, label: str) -> None:
    if label not in list(Label):
        checks.wrong("label", f"{label[:40]!r} is no label")


def check_said(checks: Checks, row: Row, body: Body, past: Past) -> None:
    """What was said of a decision: that it is in the decision's stream, and names its event."""
    checks.equal("decision_id", row.stream, events.decision_stream(body.struct.decision_id), "the stream's")
    _decision_of(checks, row, body.struct, past)


def _decision_of(checks: Checks, row: Row, said: Any, past: Past) -> Row | None:
    found = past.row(said.decision_seq) if said.decision_seq < row.seq else None
    if found is None and not past.whole and said.decision_seq < row.seq:
        checks.cannot("decision_seq", NOT_HERE)
        return None
    stream = events.decision_stream(said.decision_id)
    sound = found is not None and (found.kind, found.stream) == (events.RECORDED, stream)
    checks.true("decision_seq", sound, "the decision's event", said.decision_seq)
    return found if sound else None


def check_memory(checks: Checks, row: Row, body: Body, past: Past) -> None:
    """A `memory.added` from the decision and the label that it was learned from."""
    struct: events.MemoryAdded = body.struct
    checks.equal("stream", events.memory_stream(struct.tenant_id, struct.action_type), row.stream)
    found = _decision_of(checks, row, struct, past)
    if found is None:
        return
    decision = read_body(found)
    if isinstance(decision, Unreadable):
        checks.cannot("tokens", DECISION_ERASED)
    else:
        derived: events.Decision = decision.struct.derived
        request = derived.request
        features = derived.features
        expected = {
            "tenant_id": msgspec.convert(request, DecisionRequest).tenant_id,
            "action_type": request["action"]["type"],
            "tokens": features.tokens if features else tokens_of(request, amount_usd(request), ()),
        }
        actual = {name: getattr(struct, name) for name in expected}
        checks.equal("tokens", expected, actual, f"of the decision, event {found.seq}")
    _check_label(checks, struct.label)
    before = past.row(row.seq - 1)
    if before is None and not past.whole:
        checks.cannot("label", NOT_HERE)
    elif before is None or (before.kind, before.stream) != (events.LABELED, found.stream):
        kind = None if before is None else before.kind
        checks.true("label", False, events.LABELED, kind, "what stands before it is no label of the decision")
    elif isinstance(label := read_body(before), Unreadable):
        checks.cannot("label", LABEL_ERASED)
    else:
        said = [label.struct.label, label.struct.summary]
        checks.equal("label", said, [struct.label, struct.summary], "of the decision.labeled before it")
