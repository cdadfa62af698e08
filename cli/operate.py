"""Commands that keep a ledger alive: stats, backup."""

from __future__ import annotations

from pathlib import Path

import click

from .app import exit_status, ledger_option, open_to_read, refuse_taken
from .output import (
    bytes_text,
    counted,
    json_option,
    path_text,
    print_json,
    print_pairs,
    print_table,
    progress,
    say,
    time_text,
)
from .remarks import remark_on_end


@click.command("stats", epilog=exit_status("counted"))
@ledger_option
@json_option
def stats_command(path: Path, as_json: bool) -> None:
    """Count events, streams and bytes."""
    with open_to_read(path) as ledger:
        remark_on_end(path)
        stats = ledger.stats()
        head = ledger.head()
    if as_json:
        print_json({**stats, "head": str(head)})
        return
    body_bytes, bodies = stats["body_bytes"], stats["events"] - stats["erased"]
    rows = [
        ("ledger", stats["ledger_id"]),
        ("head", str(head)),
        ("events", f"{stats['events']:,}"),
        ("streams", f"{stats['streams']:,}"),
        ("erased bodies", f"{stats['erased']:,}"),
        ("first event", time_text(stats["first_at"])),
        ("last event", time_text(stats["last_at"])),
        ("bodies", f"{bytes_text(body_bytes)}, {bytes_text(body_bytes / max(bodies, 1))} on average"),
        ("largest body", bytes_text(stats["largest_body_bytes"])),
        ("file", bytes_text(stats["file_bytes"])),
        ("write-ahead log", bytes_text(stats["wal_bytes"])),
    ]
    print_pairs(rows)
    print()
    print_table(
        ("events", "kind"), [(f"{count:,}", kind) for kind, count in stats["kinds"].items()], right=["events"]
    )


@click.command(
    "backup",
    epilog=exit_status("copied", "the ledger lost its end and was not copied, or the copy is BROKEN"),
)
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--no-verify", is_flag=True, help="Do not verify the copy afterwards.")
@ledger_option
@json_option
@click.pass_context
def backup_command(ctx: click.Context, target: Path, no_verify: bool, path: Path, as_json: bool) -> None:
    """Copy the ledger to TARGET while writers go on, and verify the copy.

    The copy is consistent as of one moment and compact. An existing TARGET is never replaced. A
    ledger that its head file contradicts is not copied: the copy, with a head file of its own,
    would look whole. A copy that is found BROKEN otherwise stays: most likely the ledger is, too,
    and either is evidence. A sound copy is UNANCHORED; `tally verify --expect` holds it against a
    head kept elsewhere.
    """
    refuse_taken(target)
    with open_to_read(path) as ledger:
        head = ledger.backup(target)
    report = None
    if not no_verify:
        with open_to_read(target) as copy, progress("verifying", head.seq) as report_progress:
            report = copy.verify(progress=report_progress)
    verdict = "not verified" if report is None else str(report.verdict)
    if as_json:
        print_json({"target": path_text(target), "head": str(head), "events": head.seq, "verdict": verdict})
    else:
        print(head)
    if report is not None and report.finding is not None:
        say(f"tally: {target}: {report}; the copy was kept, look at the ledger with `tally verify`")
        ctx.exit(1)
    if not as_json:
        said = f"{counted(head.seq, 'event')}, not verified" if report is None else str(report)
        say(f"{target}: {said}")
