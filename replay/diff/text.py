"""Two decisions compared, as a colleague would tell it: what made the difference, then all that differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tallystick.recorders.gateway.explanation import Look
from tallystick.recorders.gateway.policy_diff import MOVED, Change
from tallystick.recorders.gateway.stages import ADVISORY

from ..differences import ABSENT
from ..parts import time_text
from .decisions import (
    MEMORY,
    POLICY,
    REQUEST,
    DecisionDiff,
    Differing,
    LookPair,
    Remembered,
    RuleDiffering,
    Side,
)

_FEW: Final = 3
_VALUE_SHOWN: Final = 100
_HASH_DIGITS: Final = 12
_OPS: Final = {
    "is": "is",
    "ne": "is not",
    "in": "is one of",
    "not_in": "is none of",
    "gt": "is over",
    "gte": "is at least",
    "lt": "is under",
    "lte": "is at most",
    "present": "is given:",
}


class Told(NamedTuple):
    """A line, and what belongs to it."""

    text: str
    more: Sequence[str] = ()


class Section(NamedTuple):
    """A part under its heading."""

    title: str
    items: list[Told]


def diff_text(diff: DecisionDiff) -> str:
    """The whole comparison in lines."""
    lines = [answer(diff)]
    for section in sections(diff):
        lines += ["", section.title]
        for item in section.items:
            lines += [f"  {item.text}", *(f"    - {more}" for more in item.more)]
    return "\n".join(lines)


# -- the answer --------------------------------------------------------------------------------


def answer(diff: DecisionDiff) -> str:
    """What made the difference, in a sentence."""
    first, second = _verdict(diff.first), _verdict(diff.second)
    if diff.same_verdict:
        inputs = "; the requests are the same" if diff.same_inputs else f", though {_requests(diff)}"
        return f"Both came out {first} for the same reasons{inputs}."
    outcome = f"{first} and {second}" if first != second else f"Both came out {first}, for other reasons"
    common = "; ".join([_requests(diff), _policies(diff), _memories(diff)])
    return f"{outcome}: {common}. {_cause(diff)}"


def _verdict(side: Side) -> str:
    return f"{side.verdict} (not enforced)" if side.mode == ADVISORY else side.verdict


def _requests(diff: DecisionDiff) -> str:
    if diff.same_inputs:
        return "same request"
    asked = sum(each.evaluated for each in diff.inputs)
    if not asked:
        return "the requests differ only in what no rule asks about"
    return f"the requests differ in {asked} place{'' if asked == 1 else 's'} that the rules ask about"


def _policies(diff: DecisionDiff) -> str:
    return "same policy" if diff.same_policy else "the policies differ"


def _memories(diff: DecisionDiff) -> str:
    first, second = diff.first, diff.second
    if first.ledger_id != second.ledger_id:
        return "memory is another ledger's"
    if all(item.first is not None and item.first == item.second for item in diff.memory):
        return "memory had nothing" if not diff.memory else "memory found the same"
    return "memory found something else"


def _cause(diff: DecisionDiff) -> str:
    if diff.untold is not None:
        return f"What made the difference cannot be told: {diff.untold}."
    if not diff.causes:
        return "They differ only in whether the verdict is enforced."
    told = [_together(cause) for cause in diff.causes]
    factors = dict.fromkeys(factor for cause in diff.causes for factor in cause)
    detail = "; ".join(filter(None, (_detail(diff, factor) for factor in factors)))
    why = f": {detail}" if detail else ""
    if len(told) > 1:
        return _sentence(f"{' alone, or '.join(told)} alone, would have made the difference{why}.")
    return _sentence(f"{told[0]} made the difference{why}.")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _together(cause: Sequence[str]) -> str:
    named = [f"the {factor}" for factor in cause]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]} together"


def _detail(diff: DecisionDiff, factor: str) -> str:
    """What of a factor differs, in short."""
    if factor == REQUEST:
        places = [each for each in diff.inputs if each.evaluated]
        return ", ".join(_is_not(each) for each in places[:_FEW]) + (" …" if len(places) > _FEW else "")
    if factor == POLICY:
        changes = list(
            dict.fromkeys(f"{change.part} {change.name}".rstrip() for change in diff.policy_changes)
        )
        return ", ".join(changes[:_FEW]) + (" …" if len(changes) > _FEW else "")
    assert factor == MEMORY
    # What was learned in between tells more than what was there, and a failure more than a success.
    items = sorted(
        (item for item in diff.memory if item.first != item.second),
        key=lambda item: (not item.between, item.label != "failure", -(item.second or 0)),
    )
    return _learned(items[0]) if items else ""


def _learned(item: Remembered) -> str:
    label = item.label.replace("_", " ")
    when = " in between" if item.between else ""
    return f"{item.decision_id or item.memory_id} was labelled {label}{when}"


def _is_not(each: Differing) -> str:
    return f"{each.path} is {_shown(each.second)}, not {_shown(each.first)}"


# -- the sections ------------------------------------------------------------------------------


def sections(diff: DecisionDiff) -> list[Section]:
    """All that differs, and what was tried."""
    found = [
        Section("The two", [_side(diff.first), _side(diff.second)]),
        Section("Requests", list(_inputs(diff))),
        Section("Derived from them", [Told(_changed(each)) for each in diff.features]),
        Section("Policies", list(_policy(diff))),
        Section("Rules", list(_rules(diff))),
        Section("Memory", list(_memory(diff))),
        Section("Tried: the first, with what the second had", list(_tried(diff))),
        Section("Said since", [*_log(diff.first, "first"), *_log(diff.second, "second")]),
    ]
    return [section for section in found if section.items]


def _side(side: Side) -> Told:
    time = time_text(side.at, "seconds").removesuffix("Z")
    reasons = ", ".join(side.reason_codes)
    more = [f"{query.field}: {query.question}" for query in side.queries]
    more += [f"the caller has to do {_shown(obligation)}" for obligation in side.obligations]
    if side.error is not None:
        more.append(f"the gateway could not decide: {side.error}")
    if side.altered:
        more.append("an event of it does not match its own hashes: run `tally verify`")
    return Told(f"{side.decision_id}, event {side.seq}, {time} UTC: {_verdict(side)}, {reasons}", more)


def _inputs(diff: DecisionDiff) -> Iterator[Told]:
    if not diff.inputs:
        yield Told("They are the same.")
    for each in sorted(diff.inputs, key=lambda each: not each.evaluated):
        yield Told(_changed(each) + ("" if each.evaluated else "  (no rule asks about it)"))


def _changed(each: Differing) -> str:
    return f"{each.path or 'the whole'}: {_shown(each.first)} → {_shown(each.second)}"


def _policy(diff: DecisionDiff) -> Iterator[Told]:
    first, second = diff.first.policy, diff.second.policy
    if diff.same_policy:
        yield Told(f"The same: {_named(diff.first)}.")
        return
    yield Told(f"{_named(diff.first)} → {_named(diff.second)}")
    for change in diff.policy_changes:
        yield Told(_policy_change(change))
    if diff.other_policy_changes:
        differences = "difference" if diff.other_policy_changes == 1 else "differences"
        said = f"and {diff.other_policy_changes:,} other {differences}, of what concerns neither request"
        yield Told(said)
    if first.mode != second.mode:
        yield Told(f"mode {first.mode} → {second.mode}")


def _named(side: Side) -> str:
    ref = side.policy
    if ref.policy_hash is None:
        return "none"
    digits = ref.policy_hash.removeprefix("sha256:")[:_HASH_DIGITS]
    return f"{ref.policy_id} {ref.policy_version}, sha256:{digits}…"


def _policy_change(change: Change) -> str:
    where = " ".join(filter(None, (change.part.replace("_", " "), change.name, change.path)))
    if change.what == MOVED:
        return f"{where}: is asked in another place"
    if change.old is None or change.new is None:
        return f"{where}: {change.what} {_shown(change.new if change.old is None else change.old)}"
    return f"{where}: {_shown(change.old)} → {_shown(change.new)}"


def _rules(diff: DecisionDiff) -> Iterator[Told]:
    for rule in diff.rules:
        reasons = ", ".join(rule.reason_codes)
        text = f"only the {rule.fired_in}: {rule.rule_id} ({rule.stage}) says {rule.effect}, {reasons}"
        yield Told(text, list(_looked(rule)))
    if diff.both:
        yield Told(f"both: {', '.join(diff.both)}")


def _looked(rule: RuleDiffering) -> Iterator[str]:
    other = "second" if rule.fired_in == "first" else "first"
    if not rule.known:
        yield f"the policy of the {other} has no such rule"
        return
    if not rule.about:
        yield f"it is not about the action of the {other}"
        return
    yield from map(_look_pair, rule.looks)


def _look_pair(pair: LookPair) -> str:
    """`amount_usd is 30, then 300: is over 250 only in the second`."""
    first, second = pair.first, pair.second
    look = second or first
    assert look is not None
    if first is None or second is None:
        there = "second" if first is None else "first"
        return f"{look.field} {_wanted(look)} is asked in the {there} alone, and found {_found(look)}"
    where = "second" if second.holds else "first"
    wanted = (
        _wanted(second)
        if _same_look(first, second)
        else f"{_wanted(first)} (first), {_wanted(second)} (second),"
    )
    return f"{look.field}: {_found(first)} → {_found(second)}; {wanted} holds in the {where} alone"


def _same_look(first: Look, second: Look) -> bool:
    return (first.op, first.expected) == (second.op, second.expected)


def _wanted(look: Look) -> str:
    named = f" ({look.threshold})" if look.threshold else ""
    return f"{_OPS[look.op]} {_shown(look.expected)}{named}"


def _found(look: Look) -> str:
    return _shown(look.value) if look.given else "nothing"


def _memory(diff: DecisionDiff) -> Iterator[Told]:
    first, second = diff.first, diff.second
    if first.memory_seq is not None and second.memory_seq is not None:
        count = f"{diff.added:,} item{' was' if diff.added == 1 else 's were'}"
        added = f"; {count} added in between" if diff.added else ""
        yield Told(f"read as of event {first.memory_seq}, and as of event {second.memory_seq}{added}")
    yield Told(
        f"failure similarity {first.failure_similarity:.2f} → {second.failure_similarity:.2f}, "
        f"uncertainty {first.uncertainty:.1f} → {second.uncertainty:.1f}"
    )
    for item in diff.memory:
        summary = f", “{item.summary}”" if item.summary else ""
        alike = f"{_score(item.first)} → {_score(item.second)} alike"
        yield Told(f"{alike}: {_learned(item)}{summary}")


def _score(score: float | None) -> str:
    return "not among the best" if score is None else f"{score:.0%}"


def _tried(diff: DecisionDiff) -> Iterator[Told]:
    if not diff.causes:
        return
    alike = {
        REQUEST: not any(each.evaluated for each in diff.inputs),
        POLICY: diff.same_policy,
        MEMORY: (diff.first.ledger_id, diff.first.memory_seq)
        == (diff.second.ledger_id, diff.second.memory_seq),
    }
    for what in diff.what_if:
        if what.swapped and len(what.swapped) < len(alike) and not any(alike[name] for name in what.swapped):
            name = " and ".join(what.swapped)
            yield Told(f"the {name}: {what.verdict}, {', '.join(what.reason_codes)}")


def _log(side: Side, name: str) -> Iterator[Told]:
    for entry in side.log:
        yield Told(f"{name}, {entry.at[:19].replace('T', ' ')} UTC, {entry.type}: {_shown(entry.data)}")


def _shown(value: Any) -> str:
    if value == ABSENT:
        return "nothing"
    text = value if isinstance(value, str) and value else msgspec.json.encode(value, order="sorted").decode()
    return text if len(text) <= _VALUE_SHOWN else f"{text[: _VALUE_SHOWN - 1]}…"
