"""The command that asks the gateway: `tally decide`. It also says where a policy is looked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from tallystick.ledger.errors import BadLine

from .app import ledger_option, open_to_write
from .lines import BOM, SOURCE, open_source, readable, source_name
from .output import coloured, json_option, json_text, nl_option, print_json, print_json_line, print_pairs, say

if TYPE_CHECKING:
    from tallystick.ledger.ledger import Ledger
    from tallystick.recorders.gateway.policy import Policy, PolicySource
    from tallystick.recorders.gateway.record import DecisionRecord

    Decide = Callable[[bytes], DecisionRecord]

#: The policy's file, in the folder of the ledger.
POLICY_NAME: Final = "policy.yml"
#: Room for the largest request, however its JSON is escaped and spaced.
REQUEST_BYTES_MAX: Final = 4 << 20
#: Digits of a policy's hash that tell it from others.
HASH_DIGITS: Final = 12
#: Decisions that are looked at for one with a policy.
_LOOKED_BACK_MAX: Final = 20
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
    "requests); 1 any other verdict; 2 a bad request, of which nothing is recorded, or a policy that is "
    "missing or broken, for which ABSTAIN is recorded and printed; 3 could not record: ABSTAIN is printed.",
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
    policy, problem = _policy_or_problem(given, path)
    unrecorded = stopped = 0
    with ExitStack() as stack:
        file = open_source(source, stack)
        requests = (
            _lines(file, source_name(source)) if as_lines else iter([_whole(file, source_name(source))])
        )
        decide = _decider(stack, path, policy, redaction)
        for number, request in enumerate(requests, start=1):
            record = _decide(decide, request, source_name(source), number if as_lines else 0)
            unrecorded += not record.recorded
            stopped += not record.may_proceed
            _print(record, as_json, as_lines)
            if record.error is not None:
                say(f"tally: {record.error if record.recorded else _remedied(record)}")
    if problem is not None:
        say(f"tally: {problem}")
    if unrecorded or stopped:
        ctx.exit(3 if unrecorded else 1 if problem is None else 2)


def _policy_or_problem(given: Path | None, ledger: Path) -> tuple[PolicySource, str | None]:
    """The policy; or its file, and why it cannot be used: the gateway then abstains, and records that."""
    from tallystick.recorders.gateway.errors import InvalidPolicy, PolicyNotFound

    try:
        return load_policy(given, ledger), None
    except click.UsageError as error:
        problem = error.message
    except (PolicyNotFound, InvalidPolicy) as error:
        problem = str(error)
    return policy_beside(ledger) if given is None else given, problem


def _decider(stack: ExitStack, path: Path, policy: PolicySource, redaction: str | None) -> Decide:
    """What decides a request; where the ledger cannot be opened, abstains from it."""
    from tallystick.ledger.errors import TallyError
    from tallystick.recorders.gateway.gateway import Gateway, unrecorded

    try:
        ledger = stack.enter_context(open_to_write(path))
    except (TallyError, OSError) as error:
        cause = error
        return lambda request: unrecorded(request, cause, redaction=redaction)
    gateway = Gateway(ledger, policy, redaction=redaction)

    def decide(request: bytes) -> DecisionRecord:
        record = gateway.decide(request)
        with suppress(TallyError):  # it was decided, whatever else can be said
            _remark_on_policy(ledger, record)
        return record

    return decide


def _remedied(record: DecisionRecord) -> str | None:
    from .remarks import remedied

    return record.error if record.cause is None else remedied(record.cause)


def _remark_on_policy(ledger: Ledger, record: DecisionRecord) -> None:
    """Say that the decision brought a new policy text into a ledger that has decisions under another."""
    from tallystick.events import gateway as events

    if record.receipt is None:
        return
    seq, ref = record.receipt.seq, record.policy
    before = next(ledger.rows(seq - 2, before=seq), None)
    if before is None or before.kind != events.POLICY_REGISTERED or seq < ledger.head().seq:
        return
    earlier = _last_policy(ledger, seq)
    if earlier is None or earlier.policy_hash == ref.policy_hash:
        return
    digest, other = short_hash(ref.policy_hash), short_hash(earlier.policy_hash)
    told = f"policy {ref.policy_id} {ref.policy_version}: a new text, {digest}, is event {seq - 1}"
    if (earlier.policy_id, earlier.policy_version) == (ref.policy_id, ref.policy_version):
        told += (
            f"; the decision before was made under another of the same version, {other}: "
            "give a changed policy a new policy_version"
        )
    say(told)


def _last_policy(ledger: Ledger, before: int) -> Any:
    """The policy of the last decision before an event that had one that can be read; None without."""
    import msgspec

    from tallystick.events import gateway as events

    for event in ledger.read(before=before, kinds=[events.RECORDED], reverse=True, limit=_LOOKED_BACK_MAX):
        try:
            ref = msgspec.convert(event.body, events.DecisionRecorded).derived.policy
        except msgspec.MsgspecError:
            continue
        if ref.policy_hash is not None:
            return ref
    return None


def short_hash(policy_hash: str | None) -> str:
    """As much of a policy's hash as tells it from others."""
    name, _, digits = (policy_hash or "").partition(":")
    return f"{name}:{digits[:HASH_DIGITS]}…"


def _decide(decide: Decide, request: bytes, name: str, number: int) -> DecisionRecord:
    from tallystick.recorders.gateway.errors import InvalidRequest, RequestConflict

    try:
        return decide(request)
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
        name = f"{policy.policy_id} {policy.policy_version} {short_hash(policy.policy_hash)}"
        pairs.append(("policy", name))
    if not record.enforced:
        pairs.append(("mode", "advisory: the verdict is not enforced"))
    print_pairs(pairs)


def meaning(record: DecisionRecord) -> str:
    """What a verdict asks for, and whether that is enforced."""
    return MEANINGS[record.verdict] + ("" if record.enforced else " (advisory: not enforced)")


def verdict_text(verdict: str, width: int = 0) -> str:
    """A verdict, coloured where colours are wanted."""
    return coloured(f"{verdict:<{width}}", fg=VERDICT_COLOURS.get(verdict), bold=True)
