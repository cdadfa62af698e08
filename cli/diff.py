"""`tally diff`: two decisions compared, and what made the difference."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from .app import exit_status, ledger_option, open_to_read
from .decisions import ID_PREFIX, SEQ, decision_of, without_prefix
from .explain import WIDTH_MAX, Item, Section, markdown_sections, plain, prose_sections, wrapped
from .output import coloured, json_option, path_text, print_json

if TYPE_CHECKING:
    from tallystick.ledger.ledger import Ledger
    from tallystick.replay.diff.decisions import DecisionDiff, Source

_PACK: Final = ".zip"


@click.command("diff", epilog=exit_status("same verdict, same request", "they differ, or one was altered"))
@click.argument("first", metavar="ID1")
@click.argument("second", metavar="ID2")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown, for a ticket or a report.")
@ledger_option
@json_option
@click.pass_context
def diff_command(
    ctx: click.Context, first: str, second: str, as_markdown: bool, path: Path, as_json: bool
) -> None:
    """Compare two decisions by inputs, features, policy, rules, memory and verdict.

    Says first what made the difference: the request, the policy and the memory of ID2 are put in the place
    of ID1's, one or more at a time, and each mixture is decided again. ID may be the beginning of an id, the
    seq of the decision's event, or a decision pack (FILE.zip).
    """
    from tallystick.replay.diff.decisions import diff_sources

    if as_json and as_markdown:
        raise click.UsageError("--json and --markdown exclude each other")
    with ExitStack() as stack:
        ledger = None
        if not (_is_pack(first) and _is_pack(second)):
            ledger = stack.enter_context(open_to_read(path))
        diff = diff_sources(_source(ledger, first), _source(ledger, second))
    if as_json:
        print_json(diff.to_dict())
    else:
        _print(diff, as_markdown)
    altered = diff.first.altered or diff.second.altered
    if altered or not (diff.same_verdict and diff.same_inputs):
        ctx.exit(1)


def _is_pack(name: str) -> bool:
    return name.lower().endswith(_PACK)


def _source(ledger: Ledger | None, name: str) -> Source:
    """The decision that an argument names.

    Raises BadPack, NoSuchId, AmbiguousPrefix, NoSuchEvent, UsageError, OSError.
    """
    from tallystick.projections.errors import NoSuchId
    from tallystick.replay.diff.decisions import source_in, source_of

    if _is_pack(name):
        from tallystick.recorders.gateway.pack import PACK_BYTES_MAX, read_pack

        with Path(name).open("rb") as file:
            return source_of(read_pack(file.read(PACK_BYTES_MAX + 1), path_text(name)))
    assert ledger is not None, "it is opened for what is no pack"
    if SEQ.fullmatch(name):
        return source_in(ledger, decision_of(ledger, int(name)))
    rest = without_prefix(name)
    if not rest:  # begins every id, and is the slip of a script
        raise NoSuchId("decisions", name)
    return source_in(ledger, ID_PREFIX + rest)


def _print(diff: DecisionDiff, as_markdown: bool) -> None:
    from tallystick.replay.diff.text import answer, sections

    told = answer(diff)
    parts = [
        Section(part.title, [Item(item.text, list(item.more)) for item in part.items])
        for part in sections(diff)
    ]
    if as_markdown:
        lines = [f"# {plain(told)}", *markdown_sections(parts)]
    else:
        width = min(WIDTH_MAX, shutil.get_terminal_size().columns)
        lines = [coloured(line, bold=True) for line in wrapped(told, "", width)]
        lines += prose_sections(parts, width)
    sys.stdout.write("\n".join(lines) + "\n")
