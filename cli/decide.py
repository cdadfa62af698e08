"""The command that asks the gateway: `tally decide`. It also says where a policy is looked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from tallystick.ledger.errors import BadLine

from .app import ledger_option, open_to_write
from .lines import BOM, SOURCE, open_source, readable, source_name
from .output import coloured, json_option, json_text, nl_option, print_json, print_json_line, print_pairs, say

if TYPE_CHECKING:
    from tallystick.recorders.gateway.policy import Policy
    from tallystick.recorders.gateway.record import DecisionRecord

#: The policy's file, in the folder of the ledger.
POLICY_NAME: Final = "policy.yml"
#: Room for the largest request, however its JSON is escaped and spaced.
REQUEST_BYTES_MAX: Final = 4 << 20
VERDICT_COLOURS: Final = {"TRUST": "green", "ESCALATE": "yellow", "QUERY": "cyan", "ABSTAIN": "red"}
#: What a verdict asks for, in words.
MEANINGS: Final = {
    "TRUST": "go on",
    "ESCALATE": "a human must approve it",
    "QUERY": "more evidence is needed",
    "ABSTAIN": "stop",
}


def policy_beside(ledger: Path) -> Path:
    """Where the policy of a ledger is, unless another is named."""
    return ledger.parent / POLICY_NAME


def policy_path(given: Path | None, ledger: Path) -> Path:
    """The policy's file: the one given, or the one beside the ledger. UsageError if neither is there."""
    path = policy_beside(ledger) if given is None else given
    if given is None and not path.exists():
        raise click.UsageError(
            f"there is no {path}; `tally init` writes a policy to start from, --policy FILE names another"
        )
    return path


def load_policy(given: Path | None, ledger: Path) -> Policy:
    """The policy to decide under. Raises UsageError, PolicyNotFound, InvalidPolicy."""
    from tallystick.recorders.gateway.policy import Policy

    return Policy.load(policy_path(given, ledger))


@click.command(
    "decide",
    epilog="Exit status: 0 go on: TRUST, or any verdict that an advisory policy gave (with --nl: for all "
    "requests); 1 any other verdict; 2 bad request or policy, nothing was recorded; 3 could not record.",
)
@click.option(
    "--in", "source", type=SOURCE, required=True, metavar="FILE", help="The request, JSON; - is stdin."
)
@click.option(
    "--policy",
    "given",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"The policy (default {POLICY_NAME} beside the ledger).",
)
@click.option(
    "--redaction",
    type=click.Choice(["default", "strict", "off"]),
    help="The least that is removed from the inline context before it is recorded.",
)
@ledger_option
@json_option
@nl_option
@click.pass_context
def decide_command(
    ctx: click.Context,
    source: Path,
    given: Path | None,
    redaction: str | None,
    path: Path,
    as_json: bool,
    as_lines: bool,
) -> None:
    """Ask the gateway about a request, and record the decision.

    \b
    tally decide --in request.json && ./refund.sh

    A script that goes on only at 0 fails closed: 0 is TRUST, or a verdict under a policy in advisory mode,
    which is recorded, printed as not enforced and stops nobody. What the gateway could not decide or record
    is never 0. --json prints the whole record. With --nl FILE holds a request a line, and each record is
    printed on a line as soon as it is decided; at a bad line it ends, and those before it stay decided. A
    request with a request_id that was decided before gets the first record again.
    """
    if as_json and as_lines:
        raise click.UsageError("--json and --nl exclude each other")
    from tallystick.recorders.gateway.gateway import Gateway

    policy = load_policy(given, path)
    unrecorded = stopped = 0
    with ExitStack() as stack:
        file = open_source(source, stack)
        requests = (
            _lines(file, source_name(source)) if as_lines else iter([_whole(file, source_name(source))])
        )
        gateway = Gateway(stack.enter_context(open_to_write(path)), policy, redaction=redaction)
        for number, request in enumerate(requests, start=1):
            record = _decide(gateway, request, source_name(source), number if as_lines else 0)
            unrecorded += not record.recorded
            stopped += not record.may_proceed
            _print(record, as_json, as_lines)
            if record.error is not None:
                say(f"tally: {record.error}")
    if unrecorded or stopped:
        ctx.exit(3 if unrecorded else 1)


def _decide(gateway: Any, request: bytes, name: str, number: int) -> DecisionRecord:
    from tallystick.recorders.gateway.errors import InvalidRequest, RequestConflict

    try:
        record: DecisionRecord = gateway.decide(request)
        return record
    except (InvalidRequest, RequestConflict) as error:
        if not number:
            raise
        raise BadLine(name, number, str(error)) from error


def _whole(file: BinaryIO, name: str) -> bytes:
    """The one request of a file. Raises BadLine."""
    with readable(name, 1):
        data = file.read(REQUEST_BYTES_MAX + 1)
    if len(data) > REQUEST_BYTES_MAX:
        raise BadLine(name, 1, f"longer than {REQUEST_BYTES_MAX >> 20} MiB")
    return data.removeprefix(BOM)


def _lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The requests of a file, one a line. Raises BadLine."""
    number = 1
    while True:
        with readable(name, number):
            line = file.readline(REQUEST_BYTES_MAX + 1)
        if not line:
            return
        if len(line) > REQUEST_BYTES_MAX:
            raise BadLine(name, number, f"longer than {REQUEST_BYTES_MAX >> 20} MiB")
        yield line.removeprefix(BOM) if number == 1 else line
        number += 1


def _print(record: DecisionRecord, as_json: bool, as_lines: bool) -> None:
    if as_json:
        print_json(record)
    elif as_lines:
        print_json_line(record)
        sys.stdout.flush()
    else:
        print_decision(record)


def print_decision(record: DecisionRecord) -> None:
    """What was decided, in a few lines."""
    policy = record.policy
    pairs: list[tuple[str, str]] = []
    if sys.stdout.isatty():
        sys.stdout.write(f"{verdict_text(record.verdict)}: {meaning(record)}\n")
    else:
        pairs.append(("verdict", record.verdict))
    pairs += [("decision", record.decision_id if record.recorded else "could not be recorded")]
    pairs += [("reason", code) for code in record.reason_codes]
    pairs += [("rule", f"{rule.rule_id} ({rule.effect})") for rule in record.matched_rules]
    pairs += [("ask", f"{query.question} ({query.field})") for query in record.queries]
    pairs += [("obligation", json_text(obligation)) for obligation in record.obligations]
    if policy.policy_id is not None:
        pairs.append(("policy", f"{policy.policy_id} {policy.policy_version}"))
    if not record.enforced:
        pairs.append(("mode", "advisory: the verdict is not enforced"))
    print_pairs(pairs)


def meaning(record: DecisionRecord) -> str:
    """What a verdict asks for, and whether that is enforced."""
    return MEANINGS[record.verdict] + ("" if record.enforced else " (advisory: not enforced)")


def verdict_text(verdict: str, width: int = 0) -> str:
    """A verdict, coloured where colours are wanted."""
    return coloured(f"{verdict:<{width}}", fg=VERDICT_COLOURS.get(verdict), bold=True)
