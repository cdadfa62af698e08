"""The command `tally replay`: what the ledger says is derived again, and compared."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .app import SeqType, SpanType, TimeType, exit_status, ledger_option, open_to_read
from .outfile import check_output, force_option, replacing
from .output import coloured, counted, json_option, path_text, print_json, printable, progress, say

if TYPE_CHECKING:
    from tallystick.replay.rendering.story import Moment
    from tallystick.replay.report import ReplayReport

#: As `tallystick.replay.report.LAYERS`, which is not loaded to print a help page.
LAYERS: Final = ("chain", "digest", "decision", "execution", "view")


_COULD_NOT: Final = "could not look, or the decision that was asked for was not decided again"


@click.command("replay", epilog=exit_status("everything matches", "something diverged", _COULD_NOT))
@click.option("--session", metavar="ID", help="Only this session; the beginning of its id is enough.")
@click.option(
    "--decision",
    metavar="ID",
    help="Only this decision; the beginning of its id is enough, or its event's number.",
)
@click.option("--stream", help="Only this stream.")
@click.option("--correlation", metavar="ID", help="Only events with this correlation id.")
@click.option("--range", "span", type=SpanType(), help="Only these seqs, both ends included.")
@click.option("--since", type=TimeType(), help="Not before this time or age: 2026-03-12T14:30, 2h, 3d.")
@click.option("--until", type=TimeType(), help="Before this time or age.")
@click.option("--up-to", type=SeqType(), help="As if the log ended with this event.")
@click.option(
    "--layer",
    "layers",
    type=click.Choice(LAYERS),
    multiple=True,
    help="Only this layer; repeatable (default: all that apply).",
)
@click.option(
    "--tasks",
    metavar="MODULE:ATTRIBUTE",
    help="A Kernel, or its registry: run its replayable tasks again. Nothing is executed without.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the report there, too, as one HTML page that tells of the events.",
)
@force_option
@click.option(
    "--strict",
    is_flag=True,
    help="What cannot be derived again is a finding, too (redactions do not count).",
)
@click.argument("pack", required=False, metavar="[PACK]", type=click.Path(path_type=Path))
@ledger_option
@json_option
@click.pass_context
def replay_command(
    ctx: click.Context,
    /,
    span: tuple[int, int | None] | None,
    layers: tuple[str, ...],
    tasks: str | None,
    pack: Path | None,
    path: Path,
    html: Path | None,
    force: bool,
    strict: bool,
    as_json: bool,
    **selected: Any,
) -> None:
    """Derive again what the ledger says, compare, and name the first event and layer that differ.

    The layers: chain (hashes and links), digest (digests, numbers and counts that bodies hold), decision
    (verdicts, under the recorded policy with the memory as of then), execution (tasks run again, with
    --tasks), view (stored tables and sealed digests, from projections built anew).

    What cannot be derived again, since it was erased, left out, or given by the caller, is counted and
    said, verdicts that were not decided again in the first line; what was seen once, such as clock times, is
    never compared. The ledger and what lies beside it are only read. PACK, a decision in a zip file, is
    replayed by itself, without a ledger.
    """
    if html is not None:
        check_output(html, force=force)
    if pack is not None:
        if layers or tasks or span or any(value is not None for value in selected.values()):
            raise click.UsageError("a pack is replayed as a whole; leave out what selects")
        report, page = _pack_report(pack, html is not None)
        _end(ctx, report, as_json, html, page, strict)
        return
    from tallystick.replay.rendering.story import moments_of
    from tallystick.replay.run import replay_ledger
    from tallystick.replay.selection import Selection

    first, last = (None, None) if span is None else span
    selection = Selection(first=first, last=last, **selected)
    with open_to_read(path) as ledger:
        costs = _costs(layers)
        total = ledger.head().seq * len(costs) if selection.whole else None
        with progress("replaying", total, costs) as report_progress, redirect_stdout(sys.stderr):
            report = replay_ledger(
                ledger, selection, layers=layers or None, tasks=tasks, progress=report_progress
            )
        if not report.events and not selection.whole:
            raise click.UsageError("nothing was selected: no event fits all that was asked for")
        page = [] if html is None else _page(report, moments_of(ledger, report))
    _end(ctx, report, as_json, html, page, strict)


def _page(report: ReplayReport, moments: Iterable[Moment]) -> list[bytes]:
    """The page in pieces: as one text it would take up to four times as much memory."""
    from tallystick.replay.rendering.html import report_pieces

    return [piece.encode() for piece in report_pieces(report, moments)]


def _pack_report(path: Path, with_page: bool) -> tuple[ReplayReport, list[bytes]]:
    """The report on a pack, and its page if that is wanted."""
    from tallystick.recorders.gateway.pack import PACK_BYTES_MAX, read_pack
    from tallystick.replay.incident.opening import is_incident
    from tallystick.replay.pack import replay_pack
    from tallystick.replay.rendering.story import chosen_rows, tell

    if is_incident(path):
        raise click.UsageError(f"{path} is an incident: `tally incident --check {path}` checks it")
    with path.open("rb") as file:
        data = file.read(PACK_BYTES_MAX + 1)
    pack = read_pack(data, path_text(path))
    report = replay_pack(pack)
    rows = chosen_rows(sorted(pack.rows, key=attrgetter("seq")), report)
    return report, _page(report, tell(rows)) if with_page else []


def _end(
    ctx: click.Context,
    report: ReplayReport,
    as_json: bool,
    html: Path | None,
    page: list[bytes],
    strict: bool,
) -> None:
    """Write the page where one is wanted, and print the report; a divergence is a finding."""
    from tallystick.replay.outcome import Outcome, not_rederivable, outcome

    if html is not None:
        with replacing(html) as file:
            file.writelines(page)
        say(f"wrote {html}")
    if as_json:
        print_json(report.to_dict())
    else:
        _print_report(report)
    if report.diverged:
        ctx.exit(1)
    left = not_rederivable(report, strict=True) if strict else 0
    if left:
        say(f"tally: --strict: {counted(left, 'check')} could not be derived again; the report says why")
        ctx.exit(1)
    if outcome(report) is Outcome.NOT_REDERIVABLE:
        ctx.exit(3)


def _costs(layers: tuple[str, ...]) -> list[int]:
    """What an event costs in each pass over the log, in proportion, about: hashes, bodies, tables."""
    chosen = set(layers or LAYERS)
    return [
        cost for cost, layer in ((1, "chain"), (12, None), (6, "view")) if layer is None or layer in chosen
    ]


def _print_report(report: ReplayReport) -> None:
    from tallystick.replay.outcome import Outcome, outcome

    verdict, *lines = str(report).split("\n")
    word = outcome(report)
    colours = {Outcome.MATCH: "green", Outcome.DIVERGED: "red", Outcome.NOT_REDERIVABLE: "yellow"}
    print(f"{coloured(word, fg=colours[word], bold=True)} {printable(verdict.removeprefix(word).lstrip())}")
    for line in lines:
        print(printable(line))
