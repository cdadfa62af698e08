"""Commands that keep a ledger alive: stats, backup."""

from __future__ import annotations

from pathlib import Path

import click

from .app import ledger_option, open_to_read
from .output import bytes_text, json_option, print_json, print_table, progress, say, time_text


@click.command("stats")
@ledger_option
@json_option
def stats_command(path: Path, as_json: bool) -> None:
    """Count events, streams and bytes."""
    with open_to_read(path) as ledger:
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
    print_table(("", ""), rows)
    print()
    print_table(
        ("events", "kind"), [(f"{count:,}", kind) for kind, count in stats["kinds"].items()], right=["events"]
    )


@click.command("backup")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--no-verify", is_flag=True, help="Do not verify the copy afterwards.")
@ledger_option
@json_option
@click.pass_context
def backup_command(ctx: click.Context, target: Path, no_verify: bool, path: Path, as_json: bool) -> None:
    """Copy the ledger to TARGET while writers go on, and verify the copy.

    The copy is consistent as of one moment and compact. An existing TARGET is never replaced.
    """
    with open_to_read(path) as ledger:
        head = ledger.backup(target)
    verdict = "not verified"
    if not no_verify:
        with open_to_read(target) as copy, progress("verifying", head.seq) as report_progress:
            report = copy.verify(head, progress=report_progress)
        verdict = str(report.verdict)
        if report.finding is not None:
            say(f"tally: {target}: {report}")
            ctx.exit(1)
    if as_json:
        print_json({"target": str(target), "head": str(head), "events": head.seq, "verdict": verdict})
    else:
        say(f"{target}: {head.seq:,} events, {verdict}")
        print(head)
