"""Commands on policies: `tally policy validate`, `test` and `diff`; `backtest` has a module of its own."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import click
import msgspec

from tallystick.ledger import canonical
from tallystick.ledger.errors import BadLine

from .app import exit_status, ledger_option
from .backtest import backtest_command
from .decide import POLICY_NAME, load_policy, policy_path
from .lines import BOM, SOURCE, open_source, readable, source_name
from .output import (
    coloured,
    counted,
    json_option,
    json_text,
    path_text,
    print_json,
    print_json_array,
    print_pairs,
    print_table,
    say,
)
from .views import Group

if TYPE_CHECKING:
    from tallystick.recorders.gateway.decision import Question
    from tallystick.recorders.gateway.policy import Policy
    from tallystick.recorders.gateway.policy_diff import Change

_POLICY: Final = click.Path(path_type=Path, dir_okay=False)
_VECTOR_BYTES_MAX: Final = 4 << 20
_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~", "moved": "↕"}
_SIGN_COLOURS: Final = {"added": "green", "removed": "red", "changed": "yellow", "moved": "yellow"}


@click.group(
    "policy",
    cls=Group,
    invoke_without_command=True,
    no_args_is_help=False,
    subcommand_metavar="COMMAND [ARGS]...",
    epilog=exit_status("good", "a policy with errors, a failed vector, a difference"),
)
@ledger_option
@click.pass_context
def policy_command(ctx: click.Context, path: Path) -> None:
    """Check, test and compare policies; only `backtest` reads a ledger."""
    ctx.obj = path
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


policy_command.add_command(backtest_command)


# -- validate ----------------------------------------------------------------------------------


@policy_command.command("validate", epilog=exit_status("valid", "the policy has errors"))
@click.argument("policy", metavar="[FILE]", type=_POLICY, required=False)
@ledger_option
@json_option
@click.pass_context
def validate_command(ctx: click.Context, policy: Path | None, path: Path, as_json: bool) -> None:
    """Say everything that is wrong with the policy FILE, all of it at once.

    FILE defaults to policy.yml beside the ledger.
    """
    from tallystick.recorders.gateway.errors import InvalidPolicy
    from tallystick.recorders.gateway.policy import Policy

    source = policy_path(policy, path)
    try:
        valid = Policy.load(source)
    except InvalidPolicy as error:
        problems = [problem._asdict() for problem in error.problems]
        if as_json:
            print_json({"path": path_text(source), "valid": False, "problems": problems})
        else:
            _print_problems(problems)
            say(f"{source}: {counted(len(problems), 'error')}")
        ctx.exit(1)
    if as_json:
        print_json({"path": path_text(source), "valid": True, "problems": [], **_named(valid)})
    else:
        print_pairs([(name.replace("_", " "), str(value)) for name, value in _named(valid).items()])
        say(f"{source}: valid")


def _named(policy: Policy) -> dict[str, Any]:
    return {
        "policy_id": policy.policy_id,
        "policy_version": policy.policy_version,
        "policy_hash": policy.policy_hash,
        "mode": policy.defaults.mode,
        "rules": len(policy.rules),
    }


def _print_problems(problems: list[dict[str, str]]) -> None:
    """On a terminal whole, a problem a line; what is wrong must not be cut off at the edge."""
    if not sys.stdout.isatty():
        print_table((), [tuple(problem.values()) for problem in problems])
        return
    for problem in problems:
        place = " ".join(filter(None, (problem["rule_id"], problem["path"])))
        _print_wrapped(f"{place}: {problem['problem']}")


def _print_wrapped(text: str) -> None:
    """A text in lines of the terminal's width, broken between words, later ones further in."""
    from .output import printable

    width = max(40, shutil.get_terminal_size().columns)
    lines = textwrap.wrap(
        printable(text), width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    sys.stdout.write("".join(f"{line}\n" for line in lines))


# -- test --------------------------------------------------------------------------------------


class _Expected(msgspec.Struct, forbid_unknown_fields=True):
    """What a vector expects; what it leaves out may be anything."""

    verdict: Literal["TRUST", "ESCALATE", "QUERY", "ABSTAIN"] | None = None
    reason_codes: list[str] | None = None
    rules: list[str] | None = None


class _Vector(msgspec.Struct, forbid_unknown_fields=True):
    """A request and what a policy has to say to it."""

    name: str
    request: dict[str, Any]
    expect: _Expected
    failure_similarity: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0


class _Tried(msgspec.Struct):
    """What came of a vector."""

    name: str
    line: int
    passed: bool
    expected: dict[str, Any]
    found: dict[str, Any]


@policy_command.command("test", epilog=exit_status("all vectors passed", "a vector failed"))
@click.argument("vectors", type=SOURCE)
@click.option(
    "--policy",
    "given",
    type=_POLICY,
    metavar="FILE",
    help=f"The policy (default {POLICY_NAME} beside the ledger).",
)
@ledger_option
@json_option
@click.pass_context
def test_command(ctx: click.Context, vectors: Path, given: Path | None, path: Path, as_json: bool) -> None:
    """Evaluate the requests in VECTORS under a policy and compare what comes out; nothing is recorded.

    \b
    {"name": "small refund", "request": {…}, "expect": {"verdict": "TRUST", "reason_codes": ["REFUND_SMALL"]}}

    VECTORS has an object a line (- is stdin). expect may have verdict, reason_codes and rules (ids, in the
    order of evaluation). failure_similarity beside it, from 0 to 1, stands for a remembered failure as much
    like the request. Rules that no vector reached are named at the end.
    """
    policy = load_policy(given, path)
    reached: set[str] = set()
    with ExitStack() as stack:
        file = open_source(vectors, stack)
        tried = [_try(policy, *one, reached) for one in _vectors(file, source_name(vectors))]
    if not tried:
        raise click.UsageError(f"{source_name(vectors)} holds no vector: nothing was tested")
    failed = [one for one in tried if not one.passed]
    unreached = [rule.rule_id for rule in policy.rules if rule.rule_id not in reached]
    if as_json:
        print_json({"vectors": tried, "failed": len(failed), "unreached": unreached})
    else:
        for one in failed:
            pairs = [
                ("failed", f"{one.name} (line {one.line})"),
                ("expected", json_text(one.expected)),
                ("found", json_text(one.found)),
            ]
            if sys.stdout.isatty():
                for name, value in pairs:
                    _print_wrapped(f"{name:<8}  {value.replace(',', ', ')}")
            else:
                print_pairs(pairs)
        say(f"{counted(len(tried), 'vector')}: {len(tried) - len(failed):,} passed, {len(failed):,} failed")
        if unreached:
            say(f"no vector reached: {', '.join(unreached)}")
    if failed:
        ctx.exit(1)


def _vectors(file: Any, name: str) -> Iterator[tuple[int, _Vector, Question]]:
    """The vectors of a file, each with its line and its checked request. Raises BadLine."""
    from tallystick.recorders.gateway.errors import InvalidRequest
    from tallystick.recorders.gateway.request import check_request

    number = 0
    while True:
        number += 1
        with readable(name, number):
            line = file.readline(_VECTOR_BYTES_MAX + 1).removeprefix(BOM)
        if not line:
            return
        if len(line) > _VECTOR_BYTES_MAX:
            raise BadLine(name, number, f"longer than {_VECTOR_BYTES_MAX >> 20} MiB")
        if not line.strip():
            continue
        try:
            vector = msgspec.convert(canonical.parse(line), _Vector)
            request = check_request(vector.request).plain
        except msgspec.ValidationError as error:
            raise BadLine(name, number, f"no vector ({error})") from None
        except (msgspec.MsgspecError, ValueError) as error:
            problem = str(error) if isinstance(error, InvalidRequest) else f"not JSON ({error})"
            raise BadLine(name, number, problem) from None
        yield number, vector, request  # type: ignore[misc]


def _try(policy: Policy, line: int, vector: _Vector, request: Any, reached: set[str]) -> _Tried:
    from tallystick.recorders.gateway.decision import decide_purely, question_of

    decision = decide_purely(
        policy, question_of(policy, request), _remembered(vector.failure_similarity), None, redaction="off"
    )
    rules = [rule.rule_id for rule in decision.matched_rules]
    reached.update(rules)
    found = {"verdict": decision.verdict, "reason_codes": decision.reason_codes, "rules": rules}
    expected = {
        name: value for name, value in msgspec.to_builtins(vector.expect).items() if value is not None
    }
    passed = all(found[name] == value for name, value in expected.items())
    return _Tried(vector.name, line, passed, expected, {name: found[name] for name in expected})


def _remembered(similarity: float) -> Any:
    """What memory finds if a failure is as much like the request as said."""
    from tallystick.events.gateway import Match
    from tallystick.projections.memory import FAILURE, NOTHING, Remembered

    if not similarity:
        return NOTHING
    share = Fraction(str(similarity))
    match = Match(
        memory_id="mem_000000000000",
        label=FAILURE,
        score=similarity,
        numerator=share.numerator,
        denominator=share.denominator,
        summary="",
    )
    return Remembered([match], match)


# -- diff --------------------------------------------------------------------------------------


@policy_command.command("diff", epilog=exit_status("no difference", "the policies differ"))
@click.argument("old", type=_POLICY)
@click.argument("new", type=_POLICY)
@ledger_option
@json_option
@click.pass_context
def diff_command(ctx: click.Context, old: Path, new: Path, path: Path, as_json: bool) -> None:
    """Say which rules, thresholds and other parts differ between the policies OLD and NEW.

    Signs: + added, - removed, ~ changed, ↕ asked in another order. Comments and layout are no difference. Of
    a threshold the rules that name it are said.
    """
    from tallystick.recorders.gateway.policy import Policy
    from tallystick.recorders.gateway.policy_diff import diff_policies

    before, after = Policy.load(old), Policy.load(new)
    changes = diff_policies(before, after)
    if as_json:
        print_json_array(changes)
    else:
        for change in changes:
            _print_change(change)
        say(_summary(changes))
    if changes:
        version = f"{before.policy_id} {before.policy_version}"
        if version == f"{after.policy_id} {after.policy_version}":
            say(f"both are {version}: give a changed policy a new policy_version")
        ctx.exit(1)


def _print_change(change: Change) -> None:
    """On a terminal a line, and the old and the new value below; in a pipe all of it in cells."""
    name = " ".join(filter(None, (change.part.replace("_", " "), change.name)))
    if not sys.stdout.isatty():
        cells = (change.what, change.part, change.name, change.path, _cell(change.old), _cell(change.new))
        print_table((), [(*cells, " ".join(change.affects))])
        return
    sign = coloured(_SIGNS[change.what], fg=_SIGN_COLOURS[change.what], bold=True)
    where = f" {change.path}" if change.path else ""
    used = f"  (asked by {', '.join(change.affects)})" if change.affects else ""
    is_scalar = not isinstance(change.old, dict) and not isinstance(change.new, dict)
    values = f": {_between(change)}" if is_scalar and change.what != "moved" else _told(change)
    print_lines(sign, f"{name}{where}{values}{used}")


def _between(change: Change) -> str:
    shown = [_cell(value) for value in (change.old, change.new) if value is not None]
    return " -> ".join(shown)


def _told(change: Change) -> str:
    """What a rule that came or went says, in short."""
    rule = change.new or change.old
    if not isinstance(rule, Mapping):
        return ""
    if change.part == "rule" and not change.path:
        then = rule["then"]
        return f": {rule['stage']}, {then['verdict']} {' '.join(then['reason_codes'])}"
    return f": {_cell(rule)}"


def print_lines(sign: str, text: str) -> None:
    """A sign and a text; what the text holds is escaped."""
    from .output import printable

    if not sys.stdout.isatty():
        sys.stdout.write(f"{sign} {printable(text)}\n")
        return
    width = max(40, shutil.get_terminal_size().columns) - 2
    first, *rest = textwrap.wrap(
        printable(text), width, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    ) or [""]
    sys.stdout.write(
        "".join(f"{start} {line}\n" for start, line in [(sign, first), *((" ", r) for r in rest)])
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json_text(value)


def _summary(changes: list[Change]) -> str:
    if not changes:
        return "no difference"
    counts: dict[str, int] = {}
    for change in changes:
        counts[change.what] = counts.get(change.what, 0) + 1
    return f"{counted(len(changes), 'difference')}: " + ", ".join(f"{n} {what}" for what, n in counts.items())
