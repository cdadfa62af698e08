"""The group `tally`, and what its commands share: naming the ledger, opening it, times and spans."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from tallystick._version import __version__

if TYPE_CHECKING:
    from tallystick.ledger.event import Head
    from tallystick.ledger.ledger import Ledger

DEFAULT_LEDGER: Final = "agents.tally"

#: Command -> the module that defines it, in the order of the help page, by group.
COMMANDS: Final[dict[str, dict[str, str]]] = {
    "Write": {"init": "write", "append": "write", "import": "write", "erase": "write"},
    "Read": {"log": "read", "show": "read", "tail": "read", "export": "read"},
    "Check": {"verify": "check", "head": "check", "doctor": "doctor"},
    "Operate": {"stats": "operate", "backup": "operate", "bench": "bench"},
    "Learn": {"demo": "demo"},
}

F = TypeVar("F", bound=Callable[..., Any])


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for group in COMMANDS.values() for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for group in COMMANDS.values():
            if cmd_name in group:
                module = import_module(f"tallystick.cli.{group[cmd_name]}")
                command: click.Command = getattr(module, f"{cmd_name}_command")
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, group in COMMANDS.items():
            with formatter.section(title):
                rows = []
                for name in group:
                    command = self.get_command(ctx, name)
                    assert command is not None
                    rows.append((name, command.get_short_help_str(70)))
                formatter.write_dl(rows)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-f",
    "--file",
    "path",
    envvar="TALLY_LEDGER",
    metavar="FILE",
    help=f"The ledger (default {DEFAULT_LEDGER}).",
)
@click.version_option(__version__, prog_name="tally", message="%(prog)s %(version)s")
@click.pass_context
def tally(ctx: click.Context, path: str | None) -> None:
    """A tamper-evident, replayable ledger for AI agents and automations.

    Exit status: 0 good, 1 a finding, 2 usage or bad input, 3 could not look.
    """
    ctx.obj = path or DEFAULT_LEDGER


def ledger_option(command: F) -> F:
    """`-f FILE`, also after the command's name; the command gets `path`."""

    def keep(ctx: click.Context, _: click.Parameter, value: str | None) -> Path:
        return Path(value or ctx.obj or DEFAULT_LEDGER)

    option = click.option(
        "-f", "--file", "path", metavar="FILE", callback=keep, help=f"The ledger (default {DEFAULT_LEDGER})."
    )
    return option(command)


def open_to_read(path: Path) -> Ledger:
    """The ledger at `path`, read-only; LedgerNotFound if there is none."""
    from tallystick.ledger.ledger import Ledger

    return Ledger.open(path, create=False, read_only=True)


def open_to_write(path: Path, *, create: bool = False) -> Ledger:
    """The ledger at `path`, made if missing and `create`."""
    from tallystick.ledger.ledger import Ledger

    return Ledger.open(path, create=create)


class HeadType(click.ParamType):  # type: ignore[type-arg]
    """A head line, `<seq>:<hash>`, or the path of a file that holds one."""

    name = "HEAD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Head:
        from tallystick.ledger.event import Head

        if os.path.isfile(value):
            try:
                return Head.parse(Path(value).read_text(encoding="ascii"))
            except UnicodeDecodeError:
                self.fail(f"{value} holds no head line", param, ctx)
        return Head.parse(value)


class SpanType(click.ParamType):  # type: ignore[type-arg]
    """`A:B`, `A:`, `:B` or `A`: seqs, both ends included. Gives (first, last or None)."""

    name = "A:B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        match = re.fullmatch(r"(\d{0,18})(:?)(\d{0,18})", value) if isinstance(value, str) else None
        if match is None or not (match[1] or match[3]):
            self.fail(f"{value!r} is no span of seqs; give A:B, A:, :B or A", param, ctx)
        first = int(match[1] or 1)
        last = int(match[3]) if match[3] else (None if match[2] else first)
        if first < 1 or (last is not None and last < first):
            self.fail(f"{value!r} is no span of seqs: they begin at 1, and the last is not before the first")
        return first, last


class TimeType(click.ParamType):  # type: ignore[type-arg]
    """A date or time in ISO 8601 (local unless it names a zone), or an age: 90s, 15m, 2h, 3d, 1w.

    Gives microseconds since 1970 UTC.
    """

    name = "TIME"
    _UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        age = re.fullmatch(r"(\d{1,9})([smhdw])", value)
        try:
            if age:
                moment = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=int(age[1]) * self._UNITS_S[age[2]])
            else:
                moment = dt.datetime.fromisoformat(value)
            return microseconds(moment)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time; give 2026-03-12, 2026-03-12T14:30 or an age such as 2h", param, ctx
            )


def microseconds(moment: dt.datetime) -> int:
    """Microseconds since 1970 UTC; a time without a zone is local."""
    if moment.tzinfo is None:
        moment = moment.astimezone()
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
