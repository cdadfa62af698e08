"""Commands about sessions: sessions, session, retention."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from tallystick.events import session as bodies
from tallystick.ledger.errors import MalformedEvent
from tallystick.replay.parts import kernel_text, part, sign_of, text_part

from .app import TimeType, exit_status, ledger_option, open_to_read, open_to_write
from .output import (
    LISTED_MAX,
    Table,
    bytes_text,
    counted,
    event_object,
    json_option,
    nl_option,
    print_json,
    print_json_array,
    print_listed,
    print_pairs,
    progress,
    say,
    time_text,
)
from .read import Decoded
from .timeline import Timeline, fold
from .views import forget_in_views, say_where

if TYPE_CHECKING:
    from tallystick.ledger.errors import TallyError
    from tallystick.ledger.ledger import Ledger
    from tallystick.recorders.session.records import SessionSummary

OUTCOMES: Final = ("in_progress", "complete", "partial", "failed", "expired", "unknown")
STALE_AFTER: Final = "1h"
#: Characters of an id that are shown at least; more where it takes more to tell it from all others.
ID_CHARACTERS_MIN: Final = 8
#: Characters of a text in the header of a session.
HEADER_CHARACTERS: Final = 200
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_TIMES: Final = ("started_at", "ended_at", "last_at")
_COUNTS: Final = {"verified": "+", "failed": "x", "retried": "~", "skipped": "-"}

#: The ids before and after show how much of an id is needed.
_LISTED: Final = """
    SELECT *,
        (SELECT max(id) FROM sessions AS other WHERE other.id < sessions.id) AS id_before,
        (SELECT min(id) FROM sessions AS other WHERE other.id > sessions.id) AS id_after
    FROM sessions WHERE {where} ORDER BY first_seq DESC LIMIT ?
"""


@click.command("sessions", epilog=exit_status("listed", "the views could not be built from the events"))
@click.option(
    "--outcome",
    "outcomes",
    type=click.Choice(OUTCOMES),
    multiple=True,
    help="Only with this outcome; repeatable.",
)
@click.option("--kernel", metavar="GLOB", help="Only those in which this kernel took part, e.g. 'Refund*'.")
@click.option(
    "--since", type=TimeType(), help="Not started before this time or age: 2026-03-12T14:30, 2h, 3d."
)
@click.option("--until", type=TimeType(), help="Started before this time or age.")
@click.option(
    "--text", help="Only with this text in the label, in a message, or in an action's type or note."
)
@click.option(
    "--stale",
    type=TimeType(),
    is_flag=False,
    flag_value=STALE_AFTER,
    metavar="[AGE]",
    help=f"Only those in progress in which nothing happened for this long (default {STALE_AFTER}).",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(0),
    help=f"At most so many; 0: all (default {LISTED_MAX} on a terminal, else all).",
)
@ledger_option
@json_option
@nl_option
def sessions_command(
    outcomes: tuple[str, ...],
    kernel: str | None,
    since: int | None,
    until: int | None,
    text: str | None,
    stale: int | None,
    limit: int | None,
    path: Path,
    as_json: bool,
    as_lines: bool,
) -> None:
    """List sessions, newest first.

    Signs of outcomes: + complete, x failed, ~ partial, … in progress, - expired; of actions: + verified, x
    failed, ~ retry, - skipped. A session whose process died stays in progress: --stale finds it.
    """
    if as_json and as_lines:
        raise click.UsageError("--json and --nl exclude each other")
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since is not before --until")
    as_table = not (as_json or as_lines)
    if limit is None:
        limit = LISTED_MAX if as_table and sys.stdout.isatty() else 0
    where, values = _conditions(outcomes, kernel, since, until, text, stale)
    with open_to_read(path) as ledger:
        from tallystick.projections.views import views_of

        views = views_of(ledger)
        say_where(views)
        found = views.rows(_LISTED.format(where=where), (*values, limit + 1 if limit else -1))
    print_listed(found, limit, session_object, _print_table, as_json=as_json, as_lines=as_lines)


def _conditions(
    outcomes: tuple[str, ...],
    kernel: str | None,
    since: int | None,
    until: int | None,
    text: str | None,
    stale: int | None,
) -> tuple[str, list[Any]]:
    """The condition of a query over `sessions`, and its values."""
    where: list[str] = ["1"]
    values: list[Any] = []
    if outcomes:
        where.append(f"outcome IN ({', '.join('?' * len(outcomes))})")
        values += outcomes
    if kernel is not None:
        where.append(
            "EXISTS (SELECT 1 FROM json_each(kernels) AS each WHERE each.value GLOB ? OR each.value GLOB ?)"
        )
        values += [kernel, f"ckp://Kernel#{kernel}:v*"]
    if since is not None:
        where.append("started_at >= ?")
        values.append(since)
    if until is not None:
        where.append("started_at < ?")
        values.append(until)
    if stale is not None:
        where.append("outcome = 'in_progress' AND last_at < ?")
        values.append(stale)
    if text is not None:
        like = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        where.append(
            r"(label LIKE ? ESCAPE '\'"
            r" OR id IN (SELECT session_id FROM messages WHERE text LIKE ? ESCAPE '\')"
            r" OR id IN (SELECT session_id FROM actions"
            r" WHERE action_type LIKE ? ESCAPE '\' OR note LIKE ? ESCAPE '\'))"
        )
        values += [like] * 4
    return " AND ".join(where), values


def session_object(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `sessions` as the JSON object that `sessions` and `session` print; times in ISO 8601."""
    shown = {name: value for name, value in row.items() if name not in {"id_before", "id_after"}}
    for name in _TIMES:
        if shown[name] is not None:
            shown[name] = time_text(shown[name]).replace(" ", "T")
    shown["kernels"] = msgspec.json.decode(shown["kernels"] or "[]")
    shown["expired"] = bool(shown["expired"])
    return shown


# -- the table ---------------------------------------------------------------------------------


def _print_table(rows: list[dict[str, Any]]) -> None:
    """On a terminal without the columns that are empty all the way down; in a pipe with all of them."""
    on_terminal = sys.stdout.isatty()
    columns = ["id", "started (UTC)", "outcome", "actions", "msgs", "calls", "took", "label"]
    lines = [_columns(row, on_terminal) for row in rows]
    kept = [
        number
        for number, name in enumerate(columns)
        if not on_terminal or name in ("id", "label") or any(line[number] not in ("", "0") for line in lines)
    ]
    table = Table([columns[number] for number in kept], right=["msgs", "calls", "took"])
    table.print([line[number] for number in kept] for line in lines)


def _columns(row: Mapping[str, Any], on_terminal: bool) -> list[str]:
    session_id, started = row["id"], time_text(row["started_at"])
    if on_terminal:
        session_id = session_id[: max(ID_CHARACTERS_MIN, _needed(row))]
        started = started[:16]
    return [
        session_id,
        started,
        f"{sign_of(row['outcome'])} {row['outcome'].replace('_', ' ')}",
        _actions_text(row),
        str(row["messages"]),
        str(row["executions"]),
        duration_text(row["duration_ms"]),
        row["label"] or "",
    ]


def _needed(row: Mapping[str, Any]) -> int:
    """How many characters of an id tell it from every other."""
    longest = 0
    for other in (row["id_before"] or "", row["id_after"] or ""):
        shared = 0
        while shared < min(len(other), len(row["id"])) and other[shared] == row["id"][shared]:
            shared += 1
        longest = max(longest, shared)
    return longest + 1


def _actions_text(row: Mapping[str, Any]) -> str:
    """How many actions had each outcome: +3 x1."""
    counts = [f"{sign}{row[name]}" for name, sign in _COUNTS.items() if row[name]]
    other = row["actions"] - sum(row[name] for name in _COUNTS)
    return " ".join([*counts, *([f"?{other}"] if other > 0 else [])])


def duration_text(duration_ms: float | None) -> str:
    """A duration for reading: 12 ms, 3.4 s, 5 min, 2.5 h; empty for none."""
    if duration_ms is None:
        return ""
    for limit, size, unit in ((1e3, 1, "ms"), (120e3, 1e3, "s"), (7200e3, 60e3, "min")):
        if duration_ms < limit:
            value = duration_ms / size
            return f"{value:.1f} {unit}" if unit == "s" and value < 100 else f"{value:.0f} {unit}"
    return f"{duration_ms / 3600e3:.1f} h"


# -- one session -------------------------------------------------------------------------------


@click.command("session", epilog=exit_status("shown", "an event was altered and cannot be decoded"))
@click.argument("session_id", metavar="ID")
@click.option("--full", is_flag=True, help="Show every text whole instead of its first line.")
@ledger_option
@json_option
@click.pass_context
def session_command(ctx: click.Context, session_id: str, full: bool, path: Path, as_json: bool) -> None:
    """Show the session whose id is, or begins with, ID: what it was, then its events in order.

    Actions have their sign (+ verified, x failed, ~ retry, - skipped), attempt, states before and after and
    evidence; tool calls their arguments and answer. A long text is folded to a line that ends in how
    many characters more it has; --full shows it. --json has every event whole.
    """
    from tallystick.projections.views import views_of

    if not session_id:
        raise click.UsageError("the session's id is empty")
    prefix = session_id.removeprefix(bodies.STREAM_PREFIX).removeprefix("ckp://Session#")
    with open_to_read(path) as ledger:
        row = views_of(ledger).find_by_prefix("sessions", "id", prefix)
        events = Decoded(ledger.rows(stream=bodies.STREAM_PREFIX + row["id"]))
        if as_json:
            print_json({**session_object(row), "events": [event_object(event) for event in events]})
        else:
            print_pairs(list(_header(row, _first_body(ledger, row["first_seq"]))))
            sys.stdout.write("\n")
            Timeline(row["last_seq"], full).print(events)
    events.altered.remark_on_rest()
    if events.altered.count:
        ctx.exit(1)


def _first_body(ledger: Ledger, seq: int) -> Any:
    """The body of a session's first event; None if it was erased, or altered."""
    try:
        return ledger.get(seq).body
    except MalformedEvent:  # is named where it stands in the timeline
        return None


def _header(row: Mapping[str, Any], first: Any) -> Iterator[tuple[str, str]]:
    source = part(first, "derived", "source")
    is_timed = source is None or part(first, "observed", "started_at") is not None
    yield "session", row["id"]
    if row["label"]:
        yield "label", fold(row["label"], HEADER_CHARACTERS)
    yield "outcome", f"{sign_of(row['outcome'])} {row['outcome'].replace('_', ' ')}"
    if row["error"]:
        yield "error", fold(row["error"], HEADER_CHARACTERS)
    kernels = msgspec.json.decode(row["kernels"] or "[]")
    if kernels:
        yield "kernels", ", ".join(map(kernel_text, kernels))
    if row["action"]:
        yield "begun by", row["action"]
    yield "started" if is_timed else "imported", time_text(row["started_at"])
    if row["ended_at"] is not None and is_timed:
        took = duration_text(row["duration_ms"])
        yield "ended", time_text(row["ended_at"]) + (f", after {took}" if took else "")
    if row["actions"]:
        yield "actions", f"{row['actions']:,}" + ("" if row["expired"] else f": {_actions_text(row)}")
    if row["messages"]:
        yield "messages", f"{row['messages']:,}"
    if row["executions"]:
        yield "calls", f"{row['executions']:,}"
    if source is not None:
        fields = part(source, "fields")
        text = msgspec.json.encode(source if fields is None else fields).decode()
        yield "source", fold(f"{text_part(source, 'format')} {text}", HEADER_CHARACTERS)
    if row["retention_hours"] is not None:
        yield "kept for", f"{row['retention_hours']:,} hours after its end"


# -- retention ---------------------------------------------------------------------------------


@click.command(
    "retention",
    epilog=exit_status("listed, or expired", "a session could not be expired, the others were"),
)
@click.option("--expire", "is_meant", is_flag=True, help="Erase the sessions' bodies; without it, list them.")
@click.option("--at", type=TimeType(), help="List what will be due at this time; not with --expire.")
@ledger_option
@json_option
@click.pass_context
def retention_command(ctx: click.Context, is_meant: bool, at: int | None, path: Path, as_json: bool) -> None:
    """List the sessions whose retention has passed; with --expire, erase their bodies for good.

    A session is due once it was closed longer ago than the hours that it was started with. An expired
    session keeps its place in the chain, which still verifies, and a session.expired says what was erased.
    Nothing expires by itself. Backups, exports and copies made earlier keep the bodies.
    """
    from tallystick.recorders.session.retention import expired_sessions

    if is_meant and at is not None:
        raise click.UsageError("--at is for looking ahead; leave it out with --expire", ctx)
    now = None if at is None else _EPOCH + dt.timedelta(microseconds=at)
    trouble: list[TallyError] = []
    remembered: str | None = None
    with open_to_write(path) if is_meant else open_to_read(path) as ledger:
        due = expired_sessions(ledger, now)
        listed = [_due_object(ledger, session) for session in due]
        if is_meant:
            trouble = _expire(ledger, due, listed)
            remembered = forget_in_views(ledger) if due else None
    _print_due(listed, is_meant, as_json)
    for error in trouble:
        say(f"tally: {error}")
    if remembered is not None:
        say(f"tally: the views may still hold what was erased: {remembered}")
    if trouble or remembered is not None:
        ctx.exit(1)


def _expire(ledger: Ledger, due: list[SessionSummary], listed: list[dict[str, Any]]) -> list[TallyError]:
    """Expire the sessions and note in `listed` how many bodies were erased; what did not go as meant."""
    from tallystick.ledger.errors import TracesRemain
    from tallystick.recorders.errors import SessionNotExpirable
    from tallystick.recorders.session.retention import expire

    trouble: list[TallyError] = []
    with progress("expiring", len(due)) as report_progress:
        for number, (session, row) in enumerate(zip(due, listed, strict=True), start=1):
            try:
                row["erased"] = len(expire(ledger, session))
            except TracesRemain as error:  # erased, but a reader keeps old pages from being scrubbed
                row["erased"] = row["events"]
                trouble.append(error)
            except SessionNotExpirable as error:
                trouble.append(error)
            if report_progress is not None:
                report_progress(number)
    return trouble


def _due_object(ledger: Ledger, session: SessionSummary) -> dict[str, Any]:
    """What a session that is due holds, as `retention` prints it; times in ISO 8601."""
    closed_at, events, size = None, 0, 0
    for row in ledger.rows(stream=session.stream):
        if row.kind == bodies.CLOSED:
            closed_at = row.at
        if row.body is not None:
            events += 1
            size += len(row.body)
    return {
        "id": session.session_id,
        "label": session.label,
        "outcome": session.outcome,
        "closed_at": None if closed_at is None else time_text(closed_at).replace(" ", "T"),
        "retention_hours": session.retention_hours,
        "events": events,
        "bytes": size,
        "erased": 0,
    }


def _print_due(listed: list[dict[str, Any]], is_meant: bool, as_json: bool) -> None:
    if as_json:
        print_json_array(listed)
        return
    columns = ["id", "closed (UTC)", "kept for", "events", "size", "label"]
    Table(columns, right=["kept for", "events", "size"]).print(
        [
            each["id"],
            (each["closed_at"] or "").replace("T", " ")[:19],
            f"{each['retention_hours']:,} h",
            f"{each['events']:,}",
            bytes_text(each["bytes"]),
            each["label"],
        ]
        for each in listed
    )
    if not listed:
        say("no session is due")
    elif is_meant:
        erased = [each["erased"] for each in listed if each["erased"]]
        say(f"expired {counted(len(erased), 'session')}, erasing what {counted(sum(erased), 'event')} held")
    else:
        size = bytes_text(sum(each["bytes"] for each in listed))
        verb = "is" if len(listed) == 1 else "are"
        say(f"{counted(len(listed), 'session')} {verb} due, {size}; nothing was erased: --expire does it")
