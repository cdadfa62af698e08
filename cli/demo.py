"""The demonstration: a support desk's day is recorded, verified, altered, found out, and asked about."""

from __future__ import annotations

import datetime as dt
import re
import shlex
import sqlite3
import tempfile
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from msgspec import to_builtins

from .app import DEFAULT_LEDGER, exit_status, ledger_option, microseconds, open_to_read, open_to_write
from .decide import policy_beside
from .decisions import amount_text
from .output import printable, say
from .write import write_starter_policy

if TYPE_CHECKING:
    from tallystick.ledger.ledger import Ledger
    from tallystick.recorders.gateway.record import DecisionRecord

DAY: Final = "support_desk_day.jsonl"
#: Requests of that day's agent, one for each verdict and one more.
REQUESTS: Final = "support_desk_requests.jsonl"
#: The refund that the demonstration alters in a copy.
TARGET: Final = "RF-2206"


@click.command("demo", epilog=exit_status("shown", could_not="could not write the ledger or look"))
@ledger_option
def demo_command(path: Path) -> None:
    """Record a support desk's day, show an altered copy being found out, and decide a few requests.

    Appends a few hundred events to the ledger (created if missing); running it again adds
    nothing. A ledger with events of its own is left alone. The alteration is made in a temporary
    copy. The requests are decided under the starter policy, which is written beside a new ledger as
    policy.yml.
    """
    events = demo_events()
    is_new = not path.exists()
    with open_to_write(path, create=True) as ledger:
        recorded = _is_recorded(ledger, path, str(events[0]["key"]))
        if not recorded:
            ledger.append_many(events, atomic=True)
        head = ledger.head()
        report = ledger.verify(head)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.tally"
            ledger.backup(copy)
            altered = _alter(copy)
            with open_to_read(copy) as ledger_copy:
                found = ledger_copy.verify(head)
        decided = _decided(ledger)
    if is_new and not policy_beside(path).exists():
        write_starter_policy(policy_beside(path))
    count = f"Found all {len(events)} events" if recorded else f"Recorded {len(events)} events"
    print(f"1. {count} of a support desk's day in {printable(str(path))}.")
    print(f"2. Verified it: {report}.")
    print(f"   Its head, worth keeping somewhere else:\n   {head}")
    if altered is None:
        say(
            f"The refund {TARGET} was erased from this ledger; see the rest with: tally demo -f another.tally"
        )
    else:
        seq, cents = altered
        print("3. Changed one amount in a copy, with plain SQLite, past the guards in the file:")
        print(f"   event {seq}, refund {TARGET}: {cents / 100:.2f} EUR became {cents / 10:.2f} EUR.")
        print(f"4. Verified the copy: {found}.")
    print("5. Asked the decision gateway whether the agent may, under the starter policy:")
    for record in decided:
        action = to_builtins(record.request.action)
        amount = action.get("amount", {})
        shown = amount_text(amount.get("value"), amount.get("currency"))
        print(f"   {record.verdict:<8}  {printable(action['intent'])}{shown and f', {shown}'}")
    named = "" if str(path) == DEFAULT_LEDGER else f" -f {shlex.quote(str(path))}"
    look = ["log --kind 'refund.*'", *([f"show {altered[0]}"] if altered else []), "verify", "decisions"]
    say("\nLook around: " + "   ".join(f"tally{named} {command}" for command in look))


def _decided(ledger: Ledger) -> list[DecisionRecord]:
    """The decisions on the requests: those in the ledger, or new ones if it holds none."""
    from tallystick.events.gateway import RECORDED
    from tallystick.recorders.gateway.gateway import Gateway
    from tallystick.recorders.gateway.policy import STARTER_POLICY

    gateway = Gateway(ledger, STARTER_POLICY)
    requests = files(__package__).joinpath(REQUESTS).read_bytes().splitlines()
    known = [row.stream for row in ledger.rows(kinds=[RECORDED], limit=len(requests)) if row.body is not None]
    if known:
        return [gateway.record(stream.removeprefix("decision:")) for stream in known]
    return [gateway.decide(request) for request in requests]


def demo_events() -> list[dict[str, Any]]:
    """The day's events, each with a key, so that recording them again adds nothing."""
    events = []
    for number, line in enumerate(files(__package__).joinpath(DAY).read_bytes().splitlines(), start=1):
        event = msgspec.json.decode(line)
        event["at"] = microseconds(dt.datetime.fromisoformat(event["at"]))
        event.setdefault("key", f"support-desk-day/{number}")
        events.append(event)
    return events


def _is_recorded(ledger: Ledger, path: Path, first_key: str) -> bool:
    """Whether the day is in the ledger already; UsageError if something else is."""
    first = next(ledger.read(1, limit=1), None)
    if first is not None and first.key != first_key:
        raise click.UsageError(
            f"{path} holds events of its own, which the demonstration leaves alone; name a new ledger:"
            " `tally demo -f demo.tally`"
        )
    return first is not None


def _alter(copy: Path) -> tuple[int, int] | None:
    """Make a refund ten times as large, as somebody with the file and SQLite could.

    Gives its seq and the old amount in cents; None if the refund was erased.
    """
    with closing(sqlite3.connect(copy)) as con:
        con.execute("DROP TRIGGER events_no_update")
        bodies = con.execute("SELECT seq, body FROM events WHERE kind = 'refund.issued' AND body NOTNULL")
        for seq, body in bodies.fetchall():
            if b'"refund":"%b"' % TARGET.encode() in body:
                amount = re.search(rb'(?<="amount_cents":)[0-9]+', body)
                assert amount is not None, "every refund has an amount"
                altered = body[: amount.end()] + b"0" + body[amount.end() :]
                con.execute("UPDATE events SET body = ? WHERE seq = ?", (altered, seq))
                con.commit()
                return int(seq), int(amount[0])
    return None
