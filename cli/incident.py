"""The command `tally incident`: what belongs to a case, replayed, and handed on with what proves it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .app import TimeType, exit_status, ledger_option, open_to_read
from .outfile import check_output, force_option
from .output import coloured, counted, json_option, path_text, print_json, printable, progress, say
from .remarks import remark_on_end

if TYPE_CHECKING:
    from tallystick.replay.incident.incident import Incident
    from tallystick.replay.selection import Selection

_NAME_MAX: Final = 60


@click.command("incident", epilog=exit_status("everything matches", "something diverged or is broken"))
@click.option("--correlation", metavar="ID", help="What has this correlation id.")
@click.option("--session", metavar="ID", help="This session; the beginning of its id is enough.")
@click.option("--decision", metavar="ID", help="This decision; the beginning of its id is enough.")
@click.option(
    "--since", type=TimeType(), help="What happened from this time or age on, such as 2026-03-12T14:30 or 2h."
)
@click.option("--until", type=TimeType(), help="What happened before this time or age.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A folder to make, or a file if it ends in .zip (default: a folder named after what was asked for).",
)
@click.option(
    "--with-chain",
    is_flag=True,
    help="Add what links the events to the head: kind, stream, key and meta of every other event, no bodies.",
)
@force_option
@ledger_option
@json_option
@click.pass_context
def incident_command(
    ctx: click.Context,
    /,
    output: Path | None,
    with_chain: bool,
    force: bool,
    path: Path,
    as_json: bool,
    **selected: Any,
) -> None:
    """Gather all that belongs to a case, replay it, and write a report with the evidence.

    Name the case by one of --correlation, --session and --decision, or by a span of time. What belongs is
    found through correlation ids, causation, streams and what bodies refer to, with the policies and
    memories that its decisions rest on. Of a span of time: its events and what these refer to.

    The folder or zip file holds report.html, the events with their hashes, a pack of each decision, and how
    to check all of it without trusting us. The ledger is only read.
    """
    from tallystick.replay.incident.incident import write_incident
    from tallystick.replay.selection import Selection

    selection = Selection(**selected)
    _check_selection(selected)
    if output is None:
        with open_to_read(path) as ledger:
            selection = selection.resolved(ledger, ledger.head())
        output = Path(f"incident-{name_of(selection)}")
    _check_target(output, force)
    with open_to_read(path) as ledger:
        end = remark_on_end(path)
        with progress("gathering", 2 * ledger.head().seq) as report_progress:
            incident = write_incident(
                ledger, selection, output, with_chain=with_chain, force=force, progress=report_progress
            )
    if as_json:
        print_json({"path": path_text(output), **incident.to_dict()})
    else:
        _print(incident, output)
    if end or not incident.sound:
        ctx.exit(end or 1)


def _check_selection(selected: dict[str, Any]) -> None:
    """One case. Raises UsageError."""
    ways = "--correlation, --session, --decision, or --since and --until"
    given = [name for name, value in selected.items() if value is not None]
    if not given:
        raise click.UsageError(f"name the case: give one of {ways}")
    if len(given) > 1 and not set(given) <= {"since", "until"}:
        raise click.UsageError(f"--{given[0]} and --{given[1]} do not go together; give one of {ways}")


def _check_target(output: Path, force: bool) -> None:
    """Refuse a name that is taken, or belongs to a ledger. Raises UsageError."""
    from tallystick.ledger.errors import Unavailable
    from tallystick.replay.incident.files import check_target

    check_output(output, force=force)
    try:
        check_target(output, force=force)
    except Unavailable as error:
        raise click.UsageError(str(error).replace("with force", "with --force")) from None


def name_of(selection: Selection) -> str:
    """A name for files that any system takes, one for each selection."""
    values = [selection.correlation, selection.session, selection.decision]
    span = [str(selection.since or ""), str(selection.until or "")]
    text = next((value for value in values if value is not None), "-".join(span))
    plain = re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:_NAME_MAX].strip("-")
    if (plain and plain == text) or (selection.decision is not None and text.lower() == plain):
        return plain
    # Other ids may look the same without what no file name can hold.
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")


def _print(incident: Incident, output: Path) -> None:
    """Where it is, and what came of it."""
    word, _, rest = incident.verdict.partition(" ")
    colour = "green" if incident.sound else "red"
    print(f"{coloured(word, fg=colour, bold=True)} {printable(rest)}")
    print(printable(path_text(output)))
    summary = incident.summary
    evidence = summary.events - summary.belong
    say(
        f"{incident.what}: {counted(summary.belong, 'event')}, {evidence:,} more as evidence, "
        f"{counted(summary.counts.get('sessions', 0), 'session')}, "
        f"{counted(summary.counts.get('decisions', 0), 'decision')}"
    )
    for note in incident.notes:
        say(f"  {note}")
    manifest = next(file for file in incident.files if file.name == "manifest.json")
    say(f"manifest.json has the SHA-256 {manifest.sha256}: tell it to whom you give this")
