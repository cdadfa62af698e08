"""The group `tally`, and what its commands share: naming the ledger, opening it, times and spans."""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from tallystick._version import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from tallystick.ledger.event import Head
    from tallystick.ledger.ledger import Ledger

DEFAULT_LEDGER: Final = "agents.tally"
HEAD_LINE_BYTES_MAX: Final = 1024
#: Where the group leaves the ledgers that were named before the command.
_NAMED: Final = "tallystick.cli.named"

#: Command -> the module that defines it, in the order of the help page, by group.
COMMANDS: Final[dict[str, dict[str, str]]] = {
    "Write": {"init": "write", "append": "write", "import": "importing", "erase": "write"},
    "Read": {"log": "read", "show": "read", "tail": "read", "search": "views", "export": "read"},
    "Sessions": {"sessions": "sessions", "session": "sessions", "retention": "sessions"},
    "Decisions": {
        "decide": "decide",
        "decisions": "decisions",
        "explain": "explain",
        "diff": "diff",
        "label": "decisions",
        "policy": "policy",
    },
    "Check": {
        "verify": "check",
        "replay": "replay",
        "incident": "incident",
        "head": "check",
        "doctor": "doctor",
    },
    "Operate": {"stats": "operate", "views": "views", "backup": "operate", "bench": "bench"},
    "Learn": {"demo": "demo"},
}

F = TypeVar("F", bound=Callable[..., Any])


def end_interrupted_line() -> None:
    """Leave the line where the terminal showed ^C."""
    if sys.stderr.isatty():
        click.echo(err=True)


class ReaderLeft(Exception):
    """What read our output went away, as `head` does."""


@contextmanager
def _kept_from_click() -> Iterator[None]:
    """What click would answer in its own way: with status 1, and with an empty line in a pipe."""
    try:
        yield
    except BrokenPipeError:
        raise ReaderLeft from None
    except (KeyboardInterrupt, click.Abort):
        end_interrupted_line()
        raise click.Abort from None


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are used or described."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with _kept_from_click():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _kept_from_click():
                return super().invoke(ctx)
        except click.UsageError as error:
            name = ctx.invoked_subcommand
            command = self.get_command(ctx, name) if name else None
            if error.ctx is None and command is not None:  # say which command's page helps
                error.ctx = click.Context(command, info_name=name, parent=ctx)
            raise

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
                    rows.append((name, command.get_short_help_str(200)))
                formatter.write_dl(rows)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    no_args_is_help=False,
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.option(
    "-f",
    "--file",
    "paths",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    help=f"The ledger (default {DEFAULT_LEDGER}); TALLY_LEDGER names it, too.",
)
@click.version_option(__version__, prog_name="tally", message="%(prog)s %(version)s")
@click.pass_context
def tally(ctx: click.Context, paths: tuple[str, ...]) -> None:
    """A tamper-evident, replayable ledger for AI agents and automations.

    Exit status: 0 good, 1 a finding, 2 usage or bad input, 3 could not look.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)
    ctx.meta[_NAMED] = paths
    ctx.obj = os.environ.get("TALLY_LEDGER") or DEFAULT_LEDGER


def exit_status(good: str, finding: str = "", could_not: str = "could not look") -> str:
    """The end of a command's help page: what its exit statuses mean."""
    one = f"1 {finding}; " if finding else ""
    return f"Exit status: 0 {good}; {one}2 usage or bad input; 3 {could_not}."


def ledger_option(command: F) -> F:
    """`-f FILE`, also after the command's name; the command gets `path`."""
    return _ledger_option("-f", "--file")(command)


def long_ledger_option(command: F) -> F:
    """`--file FILE` alone, for a command whose `-f` means something else."""
    return _ledger_option("--file")(command)


def _ledger_option(*names: str) -> Callable[[F], F]:
    def keep(ctx: click.Context, _: click.Parameter, value: tuple[str, ...]) -> Path:
        return named_ledger(ctx, *value)

    return click.option(
        *names,
        "path",
        type=click.Path(),
        multiple=True,
        metavar="FILE",
        callback=keep,
        help=f"The ledger (default {DEFAULT_LEDGER}).",
    )


def named_ledger(ctx: click.Context, *names: str) -> Path:
    """The ledger that a command is about: of `names` and those before the command's name, else the default.

    Raises UsageError for two ledgers, and for a name that no file has.
    """
    named = list(dict.fromkeys((*ctx.meta.get(_NAMED, ()), *names)))
    ctx.meta[_NAMED] = named
    if "" in named:
        raise click.UsageError("the ledger's name (-f, TALLY_LEDGER) is empty", ctx)
    if len(named) > 1:
        raise click.UsageError(f"two ledgers are named, {named[0]} and {named[1]}; name one", ctx)
    return _file_name(named[0] if named else ctx.obj, ctx)


def _file_name(name: str, ctx: click.Context | None = None) -> Path:
    path = Path(name)
    if str(path) == ":memory:":  # which SQLite would keep in memory, and forget
        raise click.UsageError(f"{name!r} is no file, and a ledger of the command is one; name a file", ctx)
    return path


def refuse_taken(target: Path) -> None:
    """Refuse a new ledger's name that is in use, or that a head file speaks of. Raises UsageError."""
    from tallystick.ledger.headfile import head_path

    _file_name(str(target))
    if os.path.lexists(target):
        raise click.UsageError(f"{target} exists already; name a new file")
    if os.path.lexists(kept := head_path(target)):
        raise click.UsageError(
            f"{kept} lies there, of a ledger that was moved or lost; name a new file, or keep that head file "
            "under another name"
        )


def open_to_read(path: Path) -> Ledger:
    """The ledger at `path`, read-only; LedgerNotFound if there is none."""
    from tallystick.ledger.ledger import Ledger

    return Ledger.open(path, create=False, read_only=True)


def open_to_write(path: Path, *, create: bool = False) -> Ledger:
    """The ledger at `path`, made if missing and `create`."""
    from tallystick.ledger.ledger import Ledger

    return Ledger.open(path, create=create)


class HeadType(click.ParamType):  # type: ignore[type-arg]
    """A head line, `<seq>:<hash>`, or the path of a file with what `tally head` printed, as JSON too."""

    name = "HEAD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Head:
        from tallystick.ledger.errors import BadHead
        from tallystick.ledger.event import Head

        is_file = os.path.exists(value)
        try:
            if not is_file:
                return Head.parse(value)
            with open(value, "rb") as file:
                return Head.parse(_head_line(file.read(HEAD_LINE_BYTES_MAX).decode("ascii")))
        except OSError as error:
            self.fail(f"{value}: {error.strerror}", param, ctx)
        except (BadHead, UnicodeDecodeError):
            what = (
                f"the file {value} holds no head line"
                if is_file
                else f"{value!r} is no head line, nor a file"
            )
            self.fail(
                f"{what}; a head line is what `tally head` prints, tally1:…, or <seq>:<hash>", param, ctx
            )

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return click.Path().shell_complete(ctx, param, incomplete)


def _head_line(text: str) -> str:
    """The line in what `tally head --json` printed; any other text as it is."""
    import msgspec

    try:
        found = msgspec.json.decode(text) if text.lstrip().startswith("{") else None
    except msgspec.DecodeError:
        found = None
    line = found.get("line") if isinstance(found, dict) else text
    return line if isinstance(line, str) else text


class KindType(click.ParamType):  # type: ignore[type-arg]
    """A kind, or a pattern with `*`, `?` and `[…]`; refused if no kind can match it."""

    name = "GLOB"
    _PATTERN: Final = re.compile(r"(?:[a-z0-9_.*?]|\[\^?[a-z0-9_.-]+\])+")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if (
            isinstance(value, str)
            and self._PATTERN.fullmatch(value)
            and any(character in value for character in ".*?[")  # a kind has a dot
        ):
            return value
        problem = "kinds are lower-case words joined by dots"
        self.fail(f"{value!r} matches no kind: {problem}; give order.placed or order.*", param, ctx)


class SeqType(click.ParamType):  # type: ignore[type-arg]
    """An event's seq."""

    name = "SEQ"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value) and int(value):
            return int(value)
        self.fail(f"{value!r} is no seq; give an event's number, from 1", param, ctx)


class SpanType(click.ParamType):  # type: ignore[type-arg]
    """`A:B`, `A:`, `:B` or `A`: seqs, both ends included. Gives (first, last or None)."""

    name = "A:B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        match = re.fullmatch(r"([0-9]{0,18})(:?)([0-9]{0,18})", value) if isinstance(value, str) else None
        if match is None or not (match[1] or match[3]):
            self.fail(f"{value!r} is no span of seqs; give A:B, A:, :B or A", param, ctx)
        first = int(match[1] or 1)
        last = int(match[3]) if match[3] else (None if match[2] else first)
        if first < 1 or (last is not None and last < first):
            problem = "they begin at 1, and the last is not before the first"
            self.fail(f"{value!r} is no span of seqs: {problem}", param, ctx)
        return first, last


def within(span: tuple[int, int | None] | None, last: int) -> tuple[int, int]:
    """The first and last seq of a span that a log up to seq `last` has to hold. Raises NoSuchEvent."""
    from tallystick.ledger.errors import NoSuchEvent

    first, end = (1, None) if span is None else span
    if max(first, end or 0) > last:
        raise NoSuchEvent(max(first, end or 0), last)
    return first, end or last


class TimeType(click.ParamType):  # type: ignore[type-arg]
    """A date or time in ISO 8601 (local unless it names a zone), or an age: 90s, 15m, 2h, 3d, 1w.

    Gives microseconds since 1970 UTC.
    """

    name = "TIME"
    _UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        age = re.fullmatch(r"([0-9]{1,9})([smhdw])", value)
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
