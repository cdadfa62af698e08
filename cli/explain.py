"""`tally explain`: why a decision came out as it did, as a colleague would tell it."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import msgspec

from .app import exit_status, ledger_option, open_to_read
from .cases import TOLD, TOLD_OF_DECISION, similar_cases
from .decide import meaning, short_hash, verdict_text
from .decisions import alterations, amount_text, decision_id, gateway_of
from .output import coloured, json_option, json_text, print_json, printable, time_text

if TYPE_CHECKING:
    from tallystick.recorders.gateway.explanation import Explanation, Look, RuleExplained
    from tallystick.recorders.gateway.policy import Policy
    from tallystick.recorders.gateway.record import DecisionRecord

#: Lines of prose are no longer, however wide the terminal.
WIDTH_MAX: Final = 100
#: Characters of a value that are shown.
_VALUE_MAX: Final = 120
_OPS: Final = {
    "is": "",
    "ne": "not ",
    "in": "one of ",
    "not_in": "none of ",
    "gt": "over ",
    "gte": "at least ",
    "lt": "under ",
    "lte": "at most ",
}
_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


class Item(NamedTuple):
    """A line of an answer, and what belongs to it."""

    text: str
    more: list[str] = []  # noqa: RUF012  # never changed


class Section(NamedTuple):
    """A part of an answer under its heading."""

    title: str
    items: list[Item]


class Answer(NamedTuple):
    """What is said of a decision; the warnings first."""

    warnings: list[str]
    verdict: str
    meaning: str
    about: str
    sections: list[Section]


@click.command("explain", epilog=exit_status("explained", "it was erased, or what is told was altered"))
@click.argument("decision", metavar="ID")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown, for a ticket or a report.")
@ledger_option
@json_option
@click.pass_context
def explain_command(ctx: click.Context, decision: str, as_markdown: bool, path: Path, as_json: bool) -> None:
    """Tell why the decision ID came out as it did.

    Says the verdict, the rule that decided and what it looked at, what else fired, what is missing, what
    kept the request from being trusted, similar past cases with how they turned out, and under which policy
    it was decided. ID may be the beginning of an id, or the number of the decision's event.
    """
    from tallystick.ledger.errors import MalformedEvent
    from tallystick.recorders.gateway.errors import InvalidPolicy
    from tallystick.recorders.gateway.explanation import explain
    from tallystick.recorders.gateway.packing import registered_text
    from tallystick.recorders.gateway.policy import parse_cached

    if as_json and as_markdown:
        raise click.UsageError("--json and --markdown exclude each other")
    with open_to_read(path) as ledger:
        record = gateway_of(ledger).record(decision_id(ledger, decision), as_stored=True)
        altered = alterations(ledger, record)
        policy = None
        try:
            text = registered_text(ledger, record.policy.policy_hash)
            policy = None if text is None else parse_cached(text, "policy")
        except (MalformedEvent, InvalidPolicy) as error:
            altered.remark(f"the recorded policy cannot be read: {error}")
        explanation = explain(record, policy)
        cases = similar_cases(ledger, explanation.similar, altered)
    if as_json:
        print_json(_object(record, explanation, cases, altered.said))
    else:
        answer = _answer(record, explanation, policy, cases)._replace(warnings=altered.said)
        sys.stdout.write(_markdown(answer) if as_markdown else _prose(answer))
    if altered.count:
        ctx.exit(1)


def _object(
    record: DecisionRecord, explanation: Explanation, cases: list[dict[str, Any]], warnings: list[str]
) -> dict[str, Any]:
    """The explanation as `--json` prints it; `altered` says what of it is not as it was recorded."""
    receipt = record.receipt
    return {
        "altered": warnings,
        "decision_id": record.decision_id,
        "seq": None if receipt is None else receipt.seq,
        "verdict": record.verdict,
        "enforced": record.enforced,
        "reason_codes": record.reason_codes,
        "error": record.error,
        "policy": record.policy,
        **msgspec.to_builtins(explanation),
        "similar": cases,
    }


# -- what is said ------------------------------------------------------------------------------


def _answer(
    record: DecisionRecord, explanation: Explanation, policy: Policy | None, cases: list[dict[str, Any]]
) -> Answer:
    def is_trusting(rule: RuleExplained) -> bool:
        return rule.effect == "TRUST"

    # Beside a stronger verdict, a reason to trust would read as if it held.
    overruled = filter(is_trusting, explanation.also_fired)
    sections = [
        Section("Why", list(_why(record, explanation, policy))),
        Section("What else fired", [_rule(rule) for rule in explanation.also_fired if not is_trusting(rule)]),
        Section("What would have decided otherwise", [_rule(rule) for rule in overruled]),
        Section("What is missing", [_asked(query) for query in explanation.missing]),
        Section("What kept it from TRUST", [_almost(rule) for rule in explanation.almost]),
        Section("What the caller has to do", list(_obligations(record, policy))),
        Section("Similar past cases", [_case(case) for case in cases]),
        Section("What was said of it since", list(_since(record))),
        Section("Under which policy", list(_policy(record, policy))),
    ]
    kept = [each for each in sections if each.items]
    return Answer([], record.verdict, meaning(record), _about(record), kept)


def _about(record: DecisionRecord) -> str:
    """Who wanted what, when, in a sentence or two."""
    request, receipt = record.request, record.receipt
    action, subject = request.action, request.subject
    amount = "" if action.amount is msgspec.UNSET else _amount(msgspec.to_builtins(action.amount))
    tenant = "" if request.tenant_id is None else f" for {request.tenant_id}"
    assert receipt is not None, "it was read from the ledger"
    return (
        f"{subject.type} {subject.id} asked for {action.type}{amount}{tenant}: “{action.intent}”. "
        f"{record.decision_id}, event {receipt.seq}, {time_text(receipt.at)[:19]} UTC."
    )


def _amount(amount: Mapping[str, Any]) -> str:
    shown = amount_text(amount.get("value"), amount.get("currency"))
    return f" of {shown}" if shown else ""


def _why(record: DecisionRecord, explanation: Explanation, policy: Policy | None) -> Iterator[Item]:
    if record.error is not None:
        yield Item(f"The gateway could not decide, and so abstained: {record.error}.")
    elif not explanation.decided:
        yield Item(f"The gateway gave its own reason: {', '.join(record.reason_codes)}.")
    for number, rule in enumerate(explanation.decided):
        if rule.stage == "DEFAULT":
            code, meaning = next(iter(rule.reasons.items()))
            yield Item(f"No rule fired, so the default holds: {_reason(code, meaning)}.")
        else:
            told = _rule(rule)
            yield Item(f"{told.text} It decided." if not number else told.text, told.more)
    if policy is None and record.policy.policy_hash is not None:
        yield Item(
            "The text of the policy was erased, or altered, so what the rules looked at cannot be told."
        )


def _rule(rule: RuleExplained) -> Item:
    """A rule that fired, and what it looked at."""
    reasons = "; ".join(_reason(code, meaning) for code, meaning in rule.reasons.items())
    more = [_held(look) for look in rule.looks]
    more += [f"{field} is required, and not given" for field in rule.missing]
    return Item(f"{rule.rule_id} ({_stage(rule.stage)}) says {rule.effect}: {reasons}.", more)


def _reason(code: str, meaning: str) -> str:
    return f"{code}, {meaning[:1].lower()}{meaning[1:].rstrip('.')}" if meaning else code


def _stage(stage: str) -> str:
    return stage.replace("_", " ").lower().rstrip("s")


def _held(look: Look) -> str:
    """A condition that held: amount_usd is 30, at most 50."""
    if look.op == "present" or (look.op == "is" and look.value == look.expected):
        return _found(look)
    among = "among them " if look.op == "is" else ""
    return f"{_found(look)}, {among}{_wanted(look)}"


def _found(look: Look) -> str:
    return f"{look.field} is {_value(look.value)}" if look.given else f"{look.field} is not given"


def _wanted(look: Look) -> str:
    """What a condition asks, in words; with the name of the threshold that says it."""
    if look.op == "present":
        return "given" if look.expected else "absent"
    expected = look.expected if isinstance(look.expected, list) else [look.expected]
    named = f" ({look.threshold})" if look.threshold else ""
    return f"{_OPS[look.op]}{', '.join(map(_value, expected))}{named}"


def _almost(rule: RuleExplained) -> Item:
    """A rule that would have trusted, and what kept it from that."""
    more = [f"{_found(look)}, and would have to be {_wanted(look)}" for look in rule.looks]
    return Item(f"{rule.rule_id} would have trusted it, but", more)


def _obligations(record: DecisionRecord, policy: Policy | None) -> Iterator[Item]:
    """What the rules that fired oblige to; of those that did not decide it is said whose it is."""
    rules = {} if policy is None else {rule.rule_id: rule for rule in policy.rules}
    if not all(rule.rule_id in rules or rule.stage == "DEFAULT" for rule in record.matched_rules):
        yield from [Item(_in_words(each)) for each in record.obligations]
        return
    for matched in record.matched_rules:
        overruled = matched.effect != record.verdict
        whose = f" (of {matched.rule_id}, which did not decide)" if overruled else ""
        if matched.rule_id in rules:
            yield from [Item(_in_words(each) + whose) for each in rules[matched.rule_id].obligations]


def _in_words(obligation: Mapping[str, Any]) -> str:
    """An obligation for reading: notify: fraud-team, within minutes: 15."""
    return ", ".join(f"{name.replace('_', ' ')}: {_value(value)}" for name, value in obligation.items())


def _asked(query: Any) -> Item:
    return Item(f"{query.field}: {query.question}" if query.question else query.field)


def _case(case: dict[str, Any]) -> Item:
    """A past case: how alike, how it was labelled when this was decided and is now, what was decided then."""
    alike = f"{case['score']:.0%} alike ({case['numerator']}/{case['denominator']})"
    label = case["label"].replace("_", " ")
    summary = f", “{case['summary']}”" if case["summary"] else ""
    if case["label_now"] not in (None, case["label"]):
        summary += f" (labelled {case['label_now'].replace('_', ' ')} since)"
    if case["verdict"] is None:
        became = TOLD.get(case["learned"]) or TOLD_OF_DECISION.get(
            case["decided"], TOLD_OF_DECISION["altered"]
        )
        return Item(f"{alike}: {label}{summary}. {became}.")
    then = f"{case['verdict']} on {time_text(case['at'])[:10]} for “{case['intent']}”"
    return Item(f"{alike}: {label}{summary}. {then} ({case['decision_id']}).")


def _since(record: DecisionRecord) -> Iterator[Item]:
    log = record.decision_event_log
    for entry in [] if log is msgspec.UNSET else log:
        if entry.type == "label":
            said = f"{entry.data['label'].replace('_', ' ')}"
            said += f", “{entry.data['summary']}”" if entry.data["summary"] else ""
        else:
            said = json_text(entry.data)
        yield Item(f"{entry.at[:19].replace('T', ' ')} UTC, {entry.type}: {said}")


def _policy(record: DecisionRecord, policy: Policy | None) -> Iterator[Item]:
    ref, risk = record.policy, record.risk_signals
    if ref.policy_id is None:
        yield Item("None could be used.")
        return
    yield Item(f"{ref.policy_id} {ref.policy_version}, {short_hash(ref.policy_hash)}, in {ref.mode} mode.")
    snapshot = record.determinism.memory_snapshot
    if snapshot is not None:
        yield Item(
            f"Memory was read as of event {snapshot.seq}: failure similarity "
            f"{risk.failure_similarity.score:.2f}, uncertainty {risk.uncertainty_score:.1f}."
        )


def _value(value: Any) -> str:
    """A value for reading: texts as they are, numbers without the noise of binary fractions."""
    if isinstance(value, float):
        return f"{value:.10g}"
    text = value if isinstance(value, str) and value else json_text(value)
    return text if len(text) <= _VALUE_MAX else text[: _VALUE_MAX - 1] + "…"


# -- how it is printed -------------------------------------------------------------------------


def _prose(answer: Answer) -> str:
    width = min(WIDTH_MAX, shutil.get_terminal_size().columns)
    # Warnings are on stderr already, and the two are seen together.
    lines = [f"{verdict_text(answer.verdict)}: {answer.meaning}.", *wrapped(answer.about, "", width)]
    return "\n".join([*lines, *prose_sections(answer.sections, width)]) + "\n"


def prose_sections(sections: list[Section], width: int) -> list[str]:
    """Sections in lines for a terminal, each behind an empty line."""
    lines = []
    for section in sections:
        lines += ["", coloured(section.title, bold=True)]
        for item in section.items:
            lines += wrapped(item.text, "  ", width)
            for more in item.more:
                lines += wrapped(more, "    - ", width)
    return lines


def wrapped(text: str, indent: str, width: int) -> list[str]:
    """Lines of a text; later ones a little further in. Control characters are escaped first."""
    hanging = " " * len(indent) + ("" if indent.endswith("- ") or not indent else "  ")
    return textwrap.wrap(
        printable(text),
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _markdown(answer: Answer) -> str:
    lines = [line for warning in answer.warnings for line in (f"> **Altered:** {plain(warning)}", "")]
    lines += [f"# {answer.verdict}: {plain(answer.meaning)}", "", plain(answer.about)]
    return "\n".join([*lines, *markdown_sections(answer.sections)]) + "\n"


def markdown_sections(sections: list[Section]) -> list[str]:
    """Sections in lines of Markdown, each behind an empty line."""
    lines = []
    for section in sections:
        lines += ["", f"## {section.title}", ""]
        for item in section.items:
            lines.append(f"- {plain(item.text)}")
            lines += [f"  - {plain(more)}" for more in item.more]
    return lines


def plain(text: str) -> str:
    """A text that Markdown shows as it is: nothing in it becomes a link, an image or HTML."""
    return _MARKDOWN.sub(r"\\\1", printable(text))
