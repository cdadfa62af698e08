"""Commands that say whether the record can be trusted: verify, head."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .app import HeadType, SpanType, exit_status, ledger_option, open_to_read, within
from .output import coloured, json_option, print_json, printable, progress, say
from .remarks import remark_on_end

if TYPE_CHECKING:
    from tallystick.ledger.event import Head
    from tallystick.ledger.verify import Report

#: From here on a second process saves more than its start costs.
EVENTS_FOR_JOBS: Final = 200_000

VERDICT_COLOURS: Final = {"VERIFIED": "green", "UNANCHORED": "yellow", "BROKEN": "red"}


@click.command(
    "verify",
    epilog=exit_status(
        "VERIFIED or UNANCHORED", "BROKEN", "could not look, or --anchored and nothing vouches for the end"
    ),
)
@click.option(
    "--expect", type=HeadType(), help="A head kept elsewhere: what `tally head` printed, or a file with it."
)
@click.option("--anchored", is_flag=True, help="Exit 3 unless an anchor vouches for the end of the log.")
@click.option("--range", "span", type=SpanType(), help="Check only these seqs, both ends included.")
@click.option("--stream", help="Check only this stream's events against the chain.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Processes (default: all cores for a large ledger).")
@ledger_option
@json_option
@click.pass_context
def verify_command(
    ctx: click.Context,
    expect: Head | None,
    anchored: bool,
    span: tuple[int, int | None] | None,
    stream: str | None,
    jobs: int | None,
    path: Path,
    as_json: bool,
) -> None:
    """Derive every hash again and say VERIFIED, BROKEN or UNANCHORED.

    VERIFIED: every hash fits, and --expect vouches for the end of the log. UNANCHORED: every
    hash fits, but nothing outside the file says that its end is not missing; keep what `tally
    head` prints somewhere else and pass it as --expect. BROKEN: the first bad event, and what is
    wrong with it; exit status 1.
    """
    from tallystick.ledger.headfile import read_head_file
    from tallystick.ledger.sqlite import SQLiteStore
    from tallystick.ledger.verify import verify

    if expect is not None and (span is not None or stream is not None):
        raise click.UsageError("--expect speaks of the whole log; leave out --range and --stream")
    if span is not None and stream is not None:
        raise click.UsageError("--range and --stream exclude each other")
    # Not through Ledger, which needs a readable event 1 to open: that may be what is broken.
    with _not_sent_in_a_circle(), closing(SQLiteStore(path, create=False, read_only=True)) as store:
        last = store.head().seq
        bounds = None if span is None else within(span, last)
        if jobs is None:
            jobs = (os.cpu_count() or 1) if last >= EVENTS_FOR_JOBS else 1
        total = last if bounds is None else bounds[1] - bounds[0] + 1
        with progress("verifying", total) as report_progress:
            report = verify(
                store,
                expect=expect,
                kept=read_head_file(path),
                span=bounds,
                stream=stream,
                jobs=jobs,
                path=path,
                progress=report_progress,
            )
    if stream is not None and report.finding is None and report.events == 0:
        raise click.UsageError(f"--stream: the ledger has no events in {stream!r}")
    if as_json:
        print_json(_report_object(report))
    else:
        print(_coloured_report(report))
        if report.verdict == "UNANCHORED" and report.scope == "chain":
            say("To vouch for its end, keep the line of `tally head` elsewhere and pass it as --expect.")
    if report.finding is not None:
        ctx.exit(1)
    if anchored and report.verdict != "VERIFIED":
        ctx.exit(3)


@contextmanager
def _not_sent_in_a_circle() -> Iterator[None]:
    """What cannot even be verified is not to be verified as a remedy."""
    from tallystick.ledger.errors import Corrupt, Unavailable

    try:
        yield
    except Corrupt as error:
        raise Unavailable(
            error.where, error.problem, "restore a backup; `tally doctor` says more about the file"
        ) from None


def _coloured_report(report: Report) -> str:
    verdict = str(report.verdict)
    rest = printable(str(report).removeprefix(verdict))
    return coloured(verdict, fg=VERDICT_COLOURS[verdict], bold=True) + rest


def _report_object(report: Report) -> dict[str, Any]:
    finding = report.finding
    return {
        "verdict": report.verdict,
        "events": report.events,
        "first": report.first,
        "last": report.last,
        "scope": report.scope,
        "erased": report.erased,
        "anchored_to": report.anchored_to,
        "head": None if report.head is None else str(report.head),
        "finding": finding and {"seq": finding.seq, "problem": finding.problem, "detail": finding.detail},
    }


@click.command(
    "head",
    epilog=exit_status(
        "printed",
        "printed, but the head file contradicts the log: do not keep it",
        "could not look, or printed though the head file cannot be read",
    ),
)
@ledger_option
@json_option
@click.pass_context
def head_command(ctx: click.Context, path: Path, as_json: bool) -> None:
    """Print the head line: what the log must end with, to be kept elsewhere.

    Pass it to `tally verify --expect` later. Nothing is verified here.
    """
    with open_to_read(path) as ledger:
        status = remark_on_end(path)
        head = ledger.head()
    if as_json:
        assert head.ledger_id is not None
        print_json(
            {"ledger_id": head.ledger_id.hex(), "seq": head.seq, "hash": head.hash.hex(), "line": str(head)}
        )
    else:
        print(head)
    ctx.exit(status)
