"""The command that says whether a ledger's file, engine, disk and neighbours are well: doctor."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from .app import ledger_option
from .decide import policy_beside
from .output import counted, json_option, print_json, print_table, printable, progress, say

if TYPE_CHECKING:
    from tallystick.ledger.sqlite.check import Check

_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command("doctor")
@click.option(
    "--quick", is_flag=True, help="Do not compare the indexes with the table, nor read a large file."
)
@ledger_option
@json_option
@click.pass_context
def doctor_command(ctx: click.Context, quick: bool, path: Path, as_json: bool) -> None:
    """Look at the file, engine, disk and other processes, and say what to do.

    Nothing in the ledger is changed, and writers go on meanwhile. A policy.yml beside it is looked at, too.
    Exit status 1 if anything fails; what is only worth knowing is a warning. Whether the events
    themselves are as they were written is for `tally verify` to say.
    """
    from tallystick.ledger.sqlite.doctor import examine

    with progress("pages read", None) as report_progress:
        checks = [*examine(path, quick=quick, progress=report_progress), *_policy_check(path)]
    failed = sum(check.status == "fail" for check in checks)
    warned = sum(check.status == "warn" for check in checks)
    if as_json:
        verdict = "fail" if failed else "warn" if warned else "ok"
        print_json({"path": str(path), "status": verdict, "checks": msgspec.to_builtins(checks)})
    else:
        _print_checks(checks)
        say(f"{path}: {len(checks)} checks, {failed} failed, {warned} warned")
    if failed:
        ctx.exit(1)


def _policy_check(path: Path) -> list[Check]:
    """Whether the policy beside the ledger can be decided under; nothing if there is none."""
    from tallystick.ledger.sqlite.check import Check
    from tallystick.recorders.gateway.errors import InvalidPolicy, PolicyNotFound
    from tallystick.recorders.gateway.policy import Policy

    policy = policy_beside(path)
    if not policy.exists():
        return []
    try:
        found = Policy.load(policy)
    except (InvalidPolicy, PolicyNotFound) as error:
        count = f": {counted(len(error.problems), 'error')}" if isinstance(error, InvalidPolicy) else ""
        remedy = f"run `tally policy validate {shlex.quote(str(policy))}`"
        return [Check("policy", "fail", f"{policy} cannot be decided under{count}", remedy)]
    named = f"{found.policy_id} {found.policy_version}, {counted(len(found.rules), 'rule')}"
    return [Check("policy", "ok", f"{policy}: {named}")]


def _print_checks(checks: Sequence[Check]) -> None:
    """On a terminal whole findings, folded, with the remedy below; in a pipe a check a line."""
    if not sys.stdout.isatty():
        print_table((), [(check.status, check.name, check.finding, check.remedy) for check in checks])
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for check in checks:
        finding = Text(printable(check.finding))
        if check.remedy:
            finding.append(f"\n→ {printable(check.remedy)}", style="bold")
        table.add_row(Text(check.status, style=_STYLES[check.status]), Text(check.name), finding)
    Console().print(table)
