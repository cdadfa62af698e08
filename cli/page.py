"""docs/commands.md, generated from the commands: `python -m tallystick.cli.page > docs/commands.md`."""

from __future__ import annotations

import inspect
from typing import Final

import click

from .app import COMMANDS, exit_status, tally

_HEADING: Final = """\
# The command `tally`

This page is generated from the commands: `python -m tallystick.cli.page > docs/commands.md`. At the
terminal, `tally COMMAND --help` says the same.

Data goes to stdout, remarks and progress to stderr. On a terminal there are tables and colours
(`NO_COLOR` turns colours off); in a pipe each row is a line, its cells separated by tabs. `--json` (one
document) and `--nl` (an object a line) give every field. Text from a ledger never reaches the terminal
as it is: control characters, and those that reorder text, are escaped.

`-f FILE` before or after the command's name, or `TALLY_LEDGER`, names the ledger; without them it is
`agents.tally` in the working directory. Only `init`, `append`, `import` and `demo` create one.

Exit status: 0 good, 1 a finding, 2 usage or bad input, 3 could not look; 130 when interrupted. An error
is one line on stderr that says what to do; `TALLY_DEBUG=1` shows where it came from.

**Completion.** For bash 4.4 or later, put this line into `~/.bashrc`; zsh and fish have `zsh_source` and
`fish_source`:

```sh
eval "$(_TALLY_COMPLETE=bash_source tally)"
```
"""


def commands_page() -> str:
    """The whole page."""
    parts = [_HEADING]
    top = click.Context(tally, info_name="tally", **tally.context_settings)
    for title, group in COMMANDS.items():
        parts.append(f"## {title}\n")
        for name in group:
            command = tally.get_command(top, name)
            assert command is not None, f"{name} is in COMMANDS"
            parts.append(_section(command, click.Context(command, info_name=name, parent=top)))
            for inner, each in getattr(command, "subcommands", {}).items():
                parts.append(_section(each, click.Context(each, info_name=f"{name} {inner}", parent=top)))
    return "\n".join(parts)


def _section(command: click.Command, ctx: click.Context) -> str:
    usage = " ".join(command.collect_usage_pieces(ctx))
    options = [
        f"| {_names(option)} | {_cell(option.help or '')}{_default(option)} |"
        for option in command.params
        if isinstance(option, click.Option)
    ]
    status = command.epilog or exit_status("good", "a finding")
    return "\n".join(
        [
            f"### {ctx.command_path}\n",
            f"```\n{ctx.command_path} {usage}\n```\n",
            _description(command),
            "| option | what it does |\n|---|---|",
            *options,
            f"\n{status}\n",
        ]
    )


def _description(command: click.Command) -> str:
    """The help text as Markdown: a paragraph after `\\b`, which click does not wrap, becomes code."""
    text = inspect.cleandoc(command.help or "")
    paragraphs = []
    for paragraph in text.split("\n\n"):
        verbatim = paragraph.removeprefix("\b\n")
        paragraphs.append(f"```sh\n{verbatim}\n```" if verbatim != paragraph else paragraph)
    return "\n\n".join(paragraphs) + "\n"


def _names(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if option.is_flag:
        return names
    metavar = option.metavar or option.type.name.upper().replace("INTEGER RANGE", "N").replace(" ", "_")
    return f"{names} `{metavar}`"


def _default(option: click.Option) -> str:
    notes = []
    if option.show_default:
        notes.append(f"default {option.default}")
    if isinstance(option.type, click.IntRange):
        low, high = option.type.min, option.type.max
        notes.append(f"{low} to {high}" if high is not None else f"at least {low}")
    if option.required:
        notes.append("required")
    return f" ({', '.join(notes)})" if notes else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(commands_page(), end="")
