"""`tally policy backtest`: what another policy would have decided on the requests of the past."""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .app import TimeType, exit_status, ledger_option, open_to_read
from .explain import wrapped
from .output import (
    coloured,
    json_option,
    nl_option,
    print_json,
    print_json_line,
    printable,
    progress,
    say,
)

if TYPE_CHECKING:
    from tallystick.replay.backtest.report import BacktestReport
    from tallystick.replay.backtest.where import Where

_POLICY: Final = click.Path(path_type=Path, dir_okay=False)
#: Decisions of each cell that are named in text.
_SHOWN: Final = 3
#: As `tallystick.replay.backtest.where.KEYS`, which is not loaded to print a help page.
KEYS: Final = ("verdict", "tenant", "action", "label", "policy", "mode", "since", "until", "text")
_TIMES: Final = ("since", "until")


class WhereType(click.ParamType):  # type: ignore[type-arg]
    """A condition on decisions, KEY=VALUE. Gives (key, value), times in microseconds since 1970 UTC."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        key, equals, wanted = value.partition("=")
        if not equals or key not in KEYS:
            self.fail(f"{value!r} is no condition; give KEY=VALUE, KEY one of {', '.join(KEYS)}", param, ctx)
        if not wanted:
            self.fail(f"{value!r} says no value; leave it out, or say which", param, ctx)
        if key in _TIMES:
            return key, TimeType().convert(wanted, param, ctx)
        return key, wanted.upper() if key == "verdict" else wanted


def where_option(command: Any) -> Any:
    """`--where KEY=VALUE`, repeatable; the command gets `conditions`."""
    return click.option(
        "--where",
        "conditions",
        type=WhereType(),
        multiple=True,
        help=f"Only these decisions; repeatable. KEY is one of {', '.join(KEYS)}.",
    )(command)


def where_of(conditions: tuple[tuple[str, Any], ...]) -> Where:
    """The conditions together. Raises UsageError, BadSelection."""
    from tallystick.replay.backtest.where import Where

    given: dict[str, Any] = {}
    for key, value in conditions:
        if key not in _TIMES:
            given[key] = (*given.get(key, ()), value)
        elif key in given:
            raise click.UsageError(f"--where {key} is given twice; give one of them")
        else:
            given[key] = value
    where = Where(**given)
    where.check()
    return where


@click.command("backtest", epilog=exit_status("nothing would change", "something would, or diverged"))
@click.argument("policy", metavar="NEW", type=_POLICY)
@where_option
@click.option(
    "-n",
    "--list",
    "shown",
    type=click.IntRange(0),
    help=f"Name so many decisions of each cell; 0: all (default {_SHOWN}, in JSON 1,000).",
)
@ledger_option
@json_option
@nl_option
@click.pass_context
def backtest_command(
    ctx: click.Context,
    policy: Path,
    conditions: tuple[tuple[str, Any], ...],
    shown: int | None,
    path: Path,
    as_json: bool,
    as_lines: bool,
) -> None:
    """Say which past decisions would come out otherwise under the policy NEW.

    Every request is decided again, with the memory that the decision had then, and the changes are counted
    by the verdict then, the verdict now, and how it turned out (the last label). What other verdicts would
    have led to is not simulated. The ledger is only read.

    Conditions hold together; of several values of one KEY, any: --where verdict=TRUST --where label=failure.
    action may have * and ?; label may be none; policy is an id, or the beginning of a hash; since and until
    are a time or an age. --nl prints every decision that would change, one a line.
    """
    from tallystick.recorders.gateway.policy import Policy
    from tallystick.replay.backtest.backtest import backtest
    from tallystick.replay.backtest.report import CHANGES_MAX

    if as_json and as_lines:
        raise click.UsageError("--json and --nl exclude each other")
    new = Policy.load(policy)
    where = where_of(conditions)
    default = CHANGES_MAX if as_json else _SHOWN
    kept = default if shown is None else shown or None
    with open_to_read(path) as ledger:
        # A bar would come between the lines, where both go to the terminal.
        bar = (
            nullcontext() if as_lines and sys.stdout.isatty() else progress("back-testing", ledger.head().seq)
        )
        with bar as report_progress:
            report = backtest(
                ledger,
                new,
                where,
                changes_max=0 if as_lines else kept,
                on_change=print_json_line if as_lines else None,
                progress=report_progress,
            )
    if not report.decisions and conditions:
        raise click.UsageError("nothing was compared: no decision fits all that was asked for")
    _print(report, kept, as_json, as_lines)
    if report.changed or report.diverged:
        ctx.exit(1)


def _print(report: BacktestReport, kept: int | None, as_json: bool, as_lines: bool) -> None:
    from tallystick.replay.backtest.text import answer, backtest_text

    if as_json:
        print_json(report.to_dict())
    elif as_lines:
        say(answer(report))
    else:
        first, *lines = [each for line in backtest_text(report, kept).split("\n") for each in _fitted(line)]
        colour = "yellow" if report.changed or report.diverged else "green"
        print(coloured(first, fg=colour, bold=True))
        for line in lines:
            print(line)


def _fitted(line: str) -> list[str]:
    """A line as it may be printed; on a terminal as several, if it is too long for one."""
    text = printable(line)
    width = shutil.get_terminal_size().columns
    is_row = "   " in text.strip()  # of the table, which is no better in two halves
    if not sys.stdout.isatty() or len(text) <= width or is_row:
        return [text]
    return wrapped(line.strip(), "  " if line.startswith(" ") else "", width)
