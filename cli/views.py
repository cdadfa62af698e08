"""Commands on the read models: `tally views` (status, rebuild, path) and `tally search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tallystick.ledger.errors import TallyError

from .app import exit_status, ledger_option, open_to_read, open_to_write
from .output import (
    counted,
    json_option,
    nl_option,
    path_text,
    print_json,
    print_json_array,
    print_json_line,
    print_table,
    progress,
    say,
    time_text,
)

if TYPE_CHECKING:
    from tallystick.ledger.ledger import Ledger
    from tallystick.projections.digest import ProjectionDigest
    from tallystick.projections.engine import ViewStatus
    from tallystick.projections.search import SearchHit
    from tallystick.projections.views import Views

SEARCH_LIMIT: Final = 20


class Group(click.Group):
    """A command that is nothing without one of its subcommands."""

    @property
    def subcommands(self) -> dict[str, click.Command]:
        """Its subcommands, as the page of commands asks for them."""
        return dict(self.commands)


def say_where(views: Views) -> None:
    """Tell the person at the terminal if the views are not where they are looked for."""
    if views.elsewhere is not None:
        where = "memory" if views.path is None else path_text(views.path)
        say(f"the views are in {where}, since {views.elsewhere}")


def forget_in_views(ledger: Ledger) -> str | None:
    """Catch up the views, if there are any, so that erased text is gone from them; why it may not be."""
    from tallystick.projections.file import cached_copy, remove
    from tallystick.projections.views import views_of

    try:
        views = views_of(ledger)
        ledger_id = ledger.head().ledger_id
        assert ledger_id is not None
        copy = cached_copy(ledger_id)
        if copy.exists() and copy != views.path:  # from a time when the ledger's directory was read-only
            remove(copy)
        if views.path is None or not views.path.exists():
            return None
        views.catch_up()
        if views.erased_text_remains():
            return (
                f"another program is reading {path_text(views.path)}; `tally sessions` clears it afterwards"
            )
    except (TallyError, OSError) as error:
        return f"{error}; `tally views rebuild` clears them"
    return None


@click.group(
    "views",
    cls=Group,
    invoke_without_command=True,
    no_args_is_help=False,
    subcommand_metavar="COMMAND [ARGS]...",
    epilog=exit_status("done", "a projection failed"),
)
@ledger_option
@click.pass_context
def views_command(ctx: click.Context, path: Path) -> None:
    """Look after the views: what is derived from the events, in a file beside the ledger.

    Views are caught up whenever they are read, and can be deleted at any time. The file is an ordinary SQLite
    database: `sqlite3`, `sqlite-utils` and Datasette open it.
    """
    ctx.obj = path
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


@views_command.command("status", epilog=exit_status("shown", "a projection failed"))
@ledger_option
@json_option
@click.pass_context
def status_command(ctx: click.Context, path: Path, as_json: bool) -> None:
    """Show how far each projection is, without catching up.

    States: current, behind (caught up at the next read), not built, stale (of another version, or of another
    history: built anew at the next read), failed, not ours (an app defines it and keeps it up). Skipped
    are events whose bodies were not as expected.
    """
    from tallystick.projections.views import views_of

    with open_to_read(path) as ledger:
        views = views_of(ledger)
        found = views.status()
        say_where(views)
        if as_json:
            print_json(
                {
                    "path": path_text(views.path or ""),
                    "elsewhere": views.elsewhere,
                    "head": ledger.head().seq,
                    "projections": found,
                }
            )
        else:
            columns = ("projection", "version", "state", "seq", "behind", "skipped", "rows")
            print_table(columns, map(_status_row, found), right=("version", "seq", "behind", "skipped"))
    for one in found:
        if one.failure is not None:
            say(f"tally: projection {one.name!r} failed {one.failure}")
    if any(one.failure is not None for one in found):
        ctx.exit(1)


def _status_row(one: ViewStatus) -> tuple[Any, ...]:
    rows = ", ".join(f"{table} {count:,}" for table, count in one.rows.items())
    return one.name, one.version, one.state, f"{one.seq:,}", f"{one.behind:,}", f"{one.skipped:,}", rows


@views_command.command("rebuild", epilog=exit_status("rebuilt", "a projection failed"))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@ledger_option
def rebuild_command(names: tuple[str, ...], path: Path) -> None:
    """Build the projections NAME, or the whole file, anew from the events.

    With the whole file go tables of projections that an app defines; the app builds them anew when it
    next reads them.
    """
    from tallystick.projections.engine import NOT_OURS
    from tallystick.projections.views import views_of

    with open_to_read(path) as ledger:
        views = views_of(ledger)
        last = ledger.head().seq
        say_where(views)
        others = [] if names else [one.name for one in views.status() if one.state == NOT_OURS]
        with progress("rebuilding", last) as report_progress:
            views.rebuild(list(names) or None, report_progress)
        say(f"{path_text(views.path or '')}: rebuilt from {counted(last, 'event')}")
        for name in others:
            say(f"projection {name!r} is gone until the program that defines it reads it again")


@views_command.command("path", epilog=exit_status("printed"))
@ledger_option
@click.pass_context
def path_command(ctx: click.Context, path: Path) -> None:
    """Print where the views are, or will be once they are read: `datasette $(tally views path)`."""
    from tallystick.projections.views import views_of

    with open_to_read(path) as ledger:
        views = views_of(ledger)
        say_where(views)
        if views.path is None:
            ctx.exit(3)
        click.echo(path_text(views.path))


@views_command.command("digest", epilog=exit_status("printed", "a projection failed"))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@ledger_option
@json_option
def digest_command(names: tuple[str, ...], path: Path, as_json: bool) -> None:
    """Print the digests of the tables of the projections NAME, or of all, caught up first.

    The same events give the same digest, wherever the tables were built.
    """
    from tallystick.projections.views import views_of

    with open_to_read(path) as ledger:
        views = views_of(ledger)
        say_where(views)
        with progress("catching up", None) as report_progress:
            views.catch_up(report_progress)
        _print_digests(views.digests(list(names) or None), as_json)


@views_command.command(
    "seal", epilog=exit_status("sealed", "a projection failed, or its tables were altered", "could not seal")
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@ledger_option
@json_option
def seal_command(names: tuple[str, ...], path: Path, as_json: bool) -> None:
    """Append the digests of the projections NAME, or of all, as events.

    What is sealed is built anew from the events, which takes as long as a rebuild; if the stored tables are
    others, nothing is sealed. `tally replay` builds the projections anew as of that event: a seal that no
    longer holds shows that tables, or events, were altered.
    """
    from tallystick.projections.sealing import seal_projections
    from tallystick.projections.views import views_of

    with open_to_write(path) as ledger:
        views = views_of(ledger)
        say_where(views)
        with progress("catching up", None) as report_progress:
            views.catch_up(report_progress)
        _print_digests(seal_projections(ledger, list(names) or None, views=views), as_json)


def _print_digests(digests: list[ProjectionDigest], as_json: bool) -> None:
    if as_json:
        print_json_array(digests)
    else:
        rows = ((one.name, one.version, f"{one.seq:,}", one.digest) for one in digests)
        print_table(("projection", "version", "seq", "digest"), rows, right=("version", "seq"))


@click.command("search", epilog=exit_status("searched"))
@click.argument("text", nargs=-1, required=True, metavar="TEXT")
@click.option(
    "-n", "--limit", type=click.IntRange(1), default=SEARCH_LIMIT, show_default=True, help="At most so many."
)
@ledger_option
@json_option
@nl_option
def search_command(text: tuple[str, ...], limit: int, path: Path, as_json: bool, as_lines: bool) -> None:
    """Find TEXT in messages, actions, executions and the labels of sessions, best first.

    The arguments of calls and the bodies of an app's own events are not looked at: `tally log --text` reads
    everything.

    All words must be there, in any case and with or without accents; 'mug*' finds what begins so, '"blue
    mug"' the phrase, and AND, OR, NOT combine. What matched is in [brackets]; the seq is for `tally
    show`. Text that was left out of the ledger, or erased, is not found.
    """
    if as_json and as_lines:
        raise click.UsageError("--json and --nl exclude each other")
    from tallystick.projections.views import views_of

    with open_to_read(path) as ledger:
        views = views_of(ledger)
        say_where(views)
        with progress("catching up", None) as report_progress:
            views.catch_up(report_progress)
        hits = views.search(" ".join(text), limit)
    if as_json:
        print_json_array(map(_hit_object, hits))
    elif as_lines:
        for hit in hits:
            print_json_line(_hit_object(hit))
    else:
        columns = ("seq", "time (UTC)", "session", "in", "text")
        print_table(columns, map(_hit_row, hits), right=("seq",))


def _hit_object(hit: SearchHit) -> dict[str, Any]:
    return {
        "table": hit.table,
        "key": hit.key,
        "seq": hit.seq,
        "time": None if hit.at is None else time_text(hit.at).replace(" ", "T"),
        "at": hit.at,
        "session": hit.session,
        "snippet": hit.snippet,
    }


def _hit_row(hit: SearchHit) -> tuple[Any, ...]:
    time = "" if hit.at is None else time_text(hit.at)
    return "" if hit.seq is None else hit.seq, time, hit.session or "", hit.table, hit.snippet
