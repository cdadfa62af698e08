"""Commands that import: `tally import`, an export into a new ledger, and `tally import chat`, transcripts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from tallystick.ledger.errors import BadLine

from .app import HeadType, exit_status, ledger_option, refuse_taken
from .lines import SOURCE, export_lines, open_source, source_name
from .output import counted, json_option, path_text, print_json, progress, say
from .write import open_to_append

if TYPE_CHECKING:
    from tallystick.ledger.event import Head
    from tallystick.ledger.verify import Report
    from tallystick.recorders.chat.importing import ChatImporter, ChatSummary

    from .conversations import Found

#: Bad conversations that are named one by one.
NAMED_MAX: Final = 20


class _WithSubcommands(click.Command):
    """A command whose first argument may be the name of another one. A file of that name is `./chat`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.subcommands: dict[str, click.Command] = {}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        at = _first_word(args)
        name = args[at] if at < len(args) else ""
        if name in self.subcommands:
            rest = args[:at] + args[at + 1 :]
            return self.subcommands[name].make_context(f"{info_name} {name}", rest, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("Subcommands"):
            formatter.write_dl(
                [(name, each.get_short_help_str(200)) for name, each in self.subcommands.items()]
            )


def _first_word(args: list[str]) -> int:
    """Where the first argument is that is neither `-f FILE` nor another form of it."""
    at = 0
    while at < len(args) and args[at].startswith(("-f", "--file")):
        at += 2 if args[at] in ("-f", "--file") else 1
    return at


@click.command(
    "import",
    cls=_WithSubcommands,
    epilog=exit_status("imported", "an event does not fit, nothing was imported", "could not read or write"),
)
@click.argument("source", type=SOURCE)
@click.argument("target", type=click.Path(path_type=Path), required=False)
@click.option("--expect", type=HeadType(), help="The head that the imported log must end with.")
@ledger_option
@json_option
@click.pass_context
def import_command(
    ctx: click.Context, source: Path, target: Path | None, expect: Head | None, path: Path, as_json: bool
) -> None:
    """Make a new ledger TARGET from the export SOURCE (JSON lines, also gzipped; - is stdin).

    Every event comes over hash for hash and is verified while it goes; on the first event that
    does not fit, or line that is none, nothing is left behind and the exit status is 1. What is no
    export at all is not looked at: exit status 3. TARGET, which must not exist, defaults to -f FILE.
    Transcripts of agents are imported with `tally import chat`; an export named chat is ./chat.
    """
    from tallystick.ledger.portable import import_lines

    target = target or path
    refuse_taken(target)
    name = source_name(source)
    with ExitStack() as stack:
        lines = export_lines(open_source(source, stack), name)
        report_progress = stack.enter_context(progress("importing", None))
        try:
            report = import_lines(lines, target, source=name, expect=expect, progress=report_progress)
        except BadLine as error:
            report = _broken_at(error)
    if as_json:
        print_json(
            {
                "target": path_text(target),
                "verdict": report.verdict,
                "events": report.events,
                "head": None if report.head is None else str(report.head),
                "report": str(report),
            }
        )
    if report.finding is not None:
        say(f"tally: {name}: {report}; nothing was imported")
        ctx.exit(1)
    if not as_json:
        say(f"{target}: imported {counted(report.events, 'event')}")
        print(report.head)


def _broken_at(error: BadLine) -> Report:
    """The report of an export of which a line cannot be read: before it each line was a sound event."""
    from tallystick.ledger.verify import Report, Verdict
    from tallystick.ledger.walk import Finding, Problem

    sound = error.line - 1
    finding = Finding(error.line, Problem.MALFORMED, f"line {error.line}: {error.problem}")
    return Report(
        verdict=Verdict.BROKEN,
        events=sound,
        first=1,
        last=sound,
        head=None,
        anchored_to=None,
        erased=0,
        finding=finding,
        scope="chain",
    )


# -- transcripts -------------------------------------------------------------------------------


@click.command(
    "chat",
    epilog=exit_status(
        "imported, or there already", "conversations were skipped (--skip-bad)", "could not read or write"
    ),
)
@click.argument("source", type=SOURCE)
@click.option(
    "--outcome",
    metavar="FIELD",
    help="The field that says how a conversation ended, e.g. reward or info.result.",
)
@click.option(
    "--label", metavar="FIELD", help="The field to label sessions with (default the user's first words)."
)
@click.option(
    "--kernel", metavar="URN", help="The kernel that the sessions belong to, by name or URN (default Chat)."
)
@click.option(
    "--retention-hours",
    type=click.IntRange(1),
    default=48,
    show_default=True,
    help="How long `tally retention` keeps the sessions.",
)
@click.option("--skip-bad", is_flag=True, help="Go on behind a conversation that cannot be imported.")
@ledger_option
@json_option
@click.pass_context
def chat_command(
    ctx: click.Context,
    source: Path,
    outcome: str | None,
    label: str | None,
    kernel: str | None,
    retention_hours: int,
    skip_bad: bool,
    path: Path,
    as_json: bool,
) -> None:
    """Import transcripts in the OpenAI chat format as sessions; the ledger is created if missing.

    \b
    tally import chat transcripts.jsonl.gz --outcome reward
    tally sessions

    SOURCE holds conversations, objects with `messages`, one a line or in a JSON array, also gzipped;
    - is stdin. Each becomes a session in one commit: its messages, and for each tool call that was
    answered a kernel.executed with arguments and answer, matched by call id. Ids come from the
    content, so importing again adds nothing, and completes an import that was interrupted. When a
    conversation is bad, those before it stay imported and its line is said.

    With --outcome a session is closed as complete if the field is true, 1 or more, or a word such as
    success or pass, and as failed if it says otherwise; where it is missing or says neither, the
    session is left in progress, until an import with the right field closes it. Without --outcome every
    session is closed as complete.
    """
    from tallystick.recorders.chat.conversation import DEFAULT_KERNEL, ChatOptions
    from tallystick.recorders.chat.importing import ChatImporter

    from .conversations import read_conversations

    urn = DEFAULT_KERNEL if kernel is None else _urn(kernel, ctx)
    options = ChatOptions(outcome=outcome, label=label, kernel=urn, retention_hours=retention_hours)
    name = source_name(source)
    with ExitStack() as stack:
        found = read_conversations(open_source(source, stack), name)
        first = next(found, None)
        if first is not None and not skip_bad:
            _check(first, name)
        ledger = open_to_append(path, stack, {})
        importer = ChatImporter(ledger, options)
        run = _ChatRun(importer, name, skip_bad)
        try:
            with progress("importing", None) as report_progress:
                for one in chain([] if first is None else [first], found):
                    run.take(one)
                    if report_progress is not None:
                        report_progress(run.seen)
        except BaseException:
            if run.seen > 1:
                run.report()
            raise
        head = str(ledger.head())
    if as_json:
        print_json({**_summary_object(importer.summary), "skipped": run.skipped, "head": head})
    else:
        run.report()
        print(head)
    summary = importer.summary
    unread = outcome is not None and summary.imported > 0 and summary.in_progress == summary.imported
    if unread:
        say(f"no conversation says an outcome in its field {outcome!r}: every session was left in progress")
    if run.skipped or unread:
        ctx.exit(1)


def _urn(kernel: str, ctx: click.Context) -> str:
    from tallystick.recorders.errors import InvalidUrn
    from tallystick.recorders.session.urn import kernel_urn

    try:
        return kernel_urn(kernel)
    except InvalidUrn as error:
        raise click.UsageError(f"--kernel: {error}", ctx) from None


def _check(found: Found, name: str) -> None:
    """Refuse what is no conversation before a ledger is made for it."""
    from tallystick.recorders.chat.conversation import check_conversation
    from tallystick.recorders.errors import BadConversation

    if isinstance(found.value, BadLine):
        raise found.value
    try:
        check_conversation(found.value)
    except BadConversation as error:
        raise found.bad(name, str(error)) from None


class _ChatRun:
    """One run of the import: takes conversations, names the bad ones, says at the end what was done."""

    def __init__(self, importer: ChatImporter, name: str, skip_bad: bool) -> None:
        self.seen = 0
        self.skipped = 0
        self._importer = importer
        self._name = name
        self._skip_bad = skip_bad

    def take(self, found: Found) -> None:
        """Import a conversation. Raises BadLine unless bad ones are skipped."""
        from tallystick.recorders.errors import BadConversation

        self.seen += 1
        try:
            if isinstance(found.value, BadLine):
                raise found.value
            self._importer.add(found.value)
        except BadConversation as error:
            self._skip(found.bad(self._name, str(error)))
        except BadLine as error:
            self._skip(error)

    def _skip(self, error: BadLine) -> None:
        if not self._skip_bad:
            raise error from None
        self.skipped += 1
        if self.skipped <= NAMED_MAX:
            say(f"skipped {error}")

    def report(self) -> None:
        """Say what was imported."""
        if self.skipped > NAMED_MAX:
            say(f"… and {self.skipped - NAMED_MAX:,} more were skipped")
        for line in summary_lines(self._importer.summary):
            say(line)


def summary_lines(summary: ChatSummary) -> Iterator[str]:
    """What an import did, in words: what was imported, every tool call accounted for, how sessions ended."""
    known = f"{counted(summary.known, 'session')} {'was' if summary.known == 1 else 'were'} there already"
    if summary.closed:
        known += f", {summary.closed:,} of them left in progress and closed now"
    outcomes = {"complete": summary.complete, "failed": summary.failed, "in progress": summary.in_progress}
    ends = "outcomes: " + ", ".join(f"{count:,} {name}" for name, count in outcomes.items() if count)
    if not summary.imported:
        yield "nothing was imported" + (f"; {known}" if summary.known else "")
        if summary.closed:
            yield ends
        return
    counts = summary.counts
    yield (
        f"imported {counted(summary.imported, 'session')} with {counted(counts.messages, 'message')}"
        + (f"; {known}" if summary.known else "")
    )
    fates = [
        f"{counts.executed:,} executed",
        f"{counts.unanswered:,} unanswered",
        f"{counts.malformed:,} malformed",
    ]
    yield f"{counted(counts.calls, 'tool call')}: {', '.join(fates)}"
    if counts.bad_arguments:
        yield f"  of those executed, {counts.bad_arguments:,} with arguments that are no JSON object"
    if counts.reused_ids:
        yield (
            f"  {counts.reused_ids:,} with an id used before in their session; each answer went to the "
            "earliest call with its id that waited for one"
        )
    if counts.stray_answers:
        yield f"{counted(counts.stray_answers, 'answer')} to no open call, kept as messages alone"
    if counts.left_out:
        yield f"{counted(counts.left_out, 'value')} left out, too large or beyond canonical JSON"
    yield ends


def _summary_object(summary: ChatSummary) -> dict[str, Any]:
    """The summary as `--json` prints it."""
    return {
        "imported": summary.imported,
        "known": summary.known,
        "closed": summary.closed,
        "outcomes": {
            "complete": summary.complete,
            "failed": summary.failed,
            "in_progress": summary.in_progress,
        },
        **msgspec.to_builtins(summary.counts),
    }


import_command.subcommands["chat"] = chat_command
