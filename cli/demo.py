"""The demonstration: a small support desk's day is recorded, verified, altered and found out."""

from __future__ import annotations

import datetime as dt
import shlex
import sqlite3
import tempfile
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from .app import ledger_option, microseconds, open_to_read, open_to_write
from .output import say

DAY: Final = "support_desk_day.jsonl"
#: The refund that the demonstration alters in a copy: its kind and its id.
TARGET: Final = ("refund.issued", "RF-2206")


@click.command("demo")
@ledger_option
def demo_command(path: Path) -> None:
    """Record a support desk's day, then show an altered copy being found out.

    Appends a few hundred events to the ledger (created if missing); running it again adds
    nothing. The alteration is made in a temporary copy.
    """
    events = demo_events()
    with open_to_write(path, create=True) as ledger:
        before = ledger.head().seq
        ledger.append_many(events)
        head = ledger.head()
        report = ledger.verify(head)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.tally"
            ledger.backup(copy)
            seq, old_amount = _alter(copy)
            with open_to_read(copy) as altered:
                found = altered.verify(head)
    appended = head.seq - before
    recorded = f"Recorded {appended} events" if appended else f"Found all {len(events)} events"
    print(f"1. {recorded} of a support desk's day in {path}.")
    print(f"2. Verified it: {report}.")
    print(f"   Its head, worth keeping somewhere else:\n   {head}")
    print("3. Changed one amount in a copy, with plain SQLite, past the guards in the file:")
    print(f"   event {seq}, refund {TARGET[1]}: {old_amount / 100:.2f} EUR became {old_amount / 10:.2f} EUR.")
    print(f"4. Verified the copy: {found}.")
    named = "" if str(path) == "agents.tally" else f" -f {shlex.quote(str(path))}"
    say(f"\nLook around: tally{named} log --kind 'refund.*'   tally{named} show {seq}   tally{named} verify")


def demo_events() -> list[dict[str, Any]]:
    """The day's events, each with a key, so that recording them again adds nothing."""
    events = []
    for number, line in enumerate(files(__package__).joinpath(DAY).read_bytes().splitlines(), start=1):
        event = msgspec.json.decode(line)
        event["at"] = microseconds(dt.datetime.fromisoformat(event["at"]))
        event.setdefault("key", f"support-desk-day/{number}")
        events.append(event)
    return events


def _alter(copy: Path) -> tuple[int, int]:
    """Make a refund ten times as large, as somebody with the file and SQLite could; (seq, old cents)."""
    kind, refund = TARGET
    with closing(sqlite3.connect(copy)) as con:
        con.execute("DROP TRIGGER events_no_update")
        rows = con.execute("SELECT seq, body FROM events WHERE kind = ?", (kind,)).fetchall()
        seq, body = next((seq, body) for seq, body in rows if msgspec.json.decode(body)["refund"] == refund)
        cents: int = msgspec.json.decode(body)["amount_cents"]
        altered = body.replace(b'"amount_cents":%d,' % cents, b'"amount_cents":%d,' % (cents * 10))
        con.execute("UPDATE events SET body = ? WHERE seq = ?", (altered, seq))
        con.commit()
    return seq, cents
