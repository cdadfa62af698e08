"""The command `tally incident`: what belongs to a case, replayed, and handed on with what proves it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .app import HeadType, TimeType, exit_status, ledger_option, open_to_read
from .outfile import check_output, force_option
from .output import coloured, counted, json_option, path_text, print_json, printable, progress, say
from .remarks import remark_on_end

if TYPE_CHECKING:
    from tallystick.ledger.event import Head
    from tallystick.replay.incident.check import IncidentCheck
    from tallystick.replay.incident.incident import Incident
    from tallystick.replay.selection import Selection

_NAME_MAX: Final = 60
#: What gathering, verifying, replaying and writing cost, in proportion, where everything belongs.
_COSTS: Final = (4, 1, 5, 3)


@click.command("incident", epilog=exit_status("everything matches", "something diverged or is broken"))
@click.option("--correlation", metavar="ID", help="What has this correlation id.")
@click.option("--session", metavar="ID", help="This session; the beginning of its id is enough.")
@click.option(
    "--decision",
    metavar="ID",
    help="This decision; the beginning of its id is enough, or its event's number.",
)
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
@click.option(
    "--expect",
    type=HeadType(),
    help="A head kept elsewhere, as `tally head` printed it, or a file with it. The ledger, or with --check "
    "the incident, is held against it.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Check an incident in a folder or zip file that somebody handed over; no ledger is needed.",
)
@click.option(
    "--manifest", metavar="SHA256", help="With --check: what you were told that manifest.json has as SHA-256."
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
    expect: Head | None,
    check: Path | None,
    manifest: str | None,
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

    --check says of such a folder or zip file, whoever made it: VERIFIED, everything in it follows from its
    events, and --expect names the end of the chain that is in it. UNANCHORED: the same without such a head or
    chain. DIVERGED: a report or a replayed decision does not follow from the events. BROKEN: the events, the
    packs and the manifest contradict one another or the head, or what belongs is withheld.
    """
    if check is not None:
        _check_given(output, with_chain, force, selected)
        _end_check(ctx, check, expect, manifest, as_json)
        return
    if manifest is not None:
        raise click.UsageError("--manifest is about an incident that is there; give --check as well")
    from tallystick.replay.incident.incident import PARTS, write_incident
    from tallystick.replay.outcome import Outcome, outcome
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
        with progress("gathering", PARTS * ledger.head().seq, _COSTS) as report_progress:
            incident = write_incident(
                ledger,
                selection,
                output,
                expect=expect,
                with_chain=with_chain,
                force=force,
                progress=report_progress,
            )
    if as_json:
        print_json({"path": path_text(output), **incident.to_dict()})
    else:
        _print(incident, output)
    if end or not incident.sound:
        ctx.exit(end or 1)
    if outcome(incident.report) is Outcome.NOT_REDERIVABLE:
        ctx.exit(3)


def _check_given(output: Path | None, with_chain: bool, force: bool, selected: dict[str, Any]) -> None:
    """Only an incident to check. Raises UsageError."""
    given = [f"--{name}" for name, value in selected.items() if value is not None]
    given += ["--output"] * (output is not None) + ["--with-chain"] * with_chain + ["--force"] * force
    if given:
        raise click.UsageError(f"--check looks at an incident that is there; leave out {given[0]}")


def _end_check(
    ctx: click.Context, path: Path, expect: Head | None, manifest: str | None, as_json: bool
) -> None:
    """Check an incident, and print what came of it."""
    from tallystick.replay.incident.check import check_incident

    if manifest is not None and not re.fullmatch("[0-9a-fA-F]{64}", manifest):
        raise click.UsageError("--manifest is no SHA-256: give 64 hexadecimal digits")
    found = check_incident(path, expect=expect, manifest=manifest)
    if as_json:
        print_json(found.to_dict())
    else:
        _print_check(found, with_manifest=manifest is not None)
    if found.troubles:
        ctx.exit(1)


def _print_check(found: IncidentCheck, *, with_manifest: bool) -> None:
    word, _, rest = str(found).partition(" ")
    colour = {"VERIFIED": "green", "UNANCHORED": "yellow"}.get(word, "red")
    print(f"{coloured(word, fg=colour, bold=True)} {printable(rest)}")
    for trouble in found.troubles[1:]:
        print(f"  {printable(str(trouble))}")
    if found.says:
        print(f"it says of itself: {printable(found.says)}")
    for note in found.notes:
        say(f"  {printable(note)}")
    if not found.chained:
        say("  without chain.jsonl it cannot be told whether events were left out, or stand in the ledger")
    if not with_manifest:
        say(f"manifest.json has the SHA-256 {found.manifest}: compare it with what you were told")


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
        raise click.UsageError(str(error).replace(" (force=True)", "")) from None


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
    from tallystick.replay.outcome import Outcome

    word = next((str(one) for one in Outcome if incident.verdict.startswith(one)), "BROKEN")
    colour = {str(Outcome.MATCH): "green", str(Outcome.NOT_REDERIVABLE): "yellow"}.get(word, "red")
    print(f"{coloured(word, fg=colour, bold=True)}{printable(incident.verdict.removeprefix(word))}")
    print(printable(path_text(output)))
    summary = incident.summary
    evidence = summary.events - summary.belong
    say(
        f"{incident.what}: {counted(summary.belong, 'event')}, {evidence:,} more as evidence, "
        f"{counted(summary.counts.get('sessions', 0), 'session')}, "
        f"{counted(summary.counts.get('decisions', 0), 'decision')}"
    )
    say(f"the whole ledger: {printable(str(incident.whole))}")
    for note in incident.notes:
        say(f"  {note}")
    manifest = next(file for file in incident.files if file.name == "manifest.json")
    say(f"manifest.json has the SHA-256 {manifest.sha256}: tell it to whom you give this")
