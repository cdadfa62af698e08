"""Commands on what was decided, `tally decisions` and `tally label`; how a decision is found by its id."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from tallystick.events import gateway as events

from .app import TimeType, exit_status, ledger_option, open_to_read, open_to_write
from .output import (
    LISTED_MAX,
    Table,
    json_option,
    nl_option,
    print_json,
    print_listed,
    print_pairs,
    say,
    time_text,
)
from .remarks import Altered
from .views import say_where

if TYPE_CHECKING:
    from tallystick.ledger.event import Row
    from tallystick.ledger.ledger import Ledger
    from tallystick.recorders.gateway.gateway import Gateway
    from tallystick.recorders.gateway.record import DecisionRecord

VERDICTS: Final = ("TRUST", "ESCALATE", "QUERY", "ABSTAIN")
LABELS: Final = ("failure", "success", "near_miss")
ID_PREFIX: Final = "dec_"
#: Characters of an id that are shown at least; more where it takes more to tell it from all others.
ID_CHARACTERS_MIN: Final = 12
#: Characters of an intent for which columns are left out on a narrow terminal; these, the first one first.
_INTENT_MIN: Final = 10
_SPARED: Final = ("tenant", "amount", "time (UTC)")
#: An event's number. Ids begin with a zero until the year 3084.
SEQ: Final = re.compile("[1-9][0-9]{0,17}")
_LISTS: Final = ("tags", "reason_codes", "matched_rules")
_HIDDEN: Final = frozenset({"id_before", "id_after", "words"})

#: The ids before and after show how much of an id is needed.
_LISTED: Final = """
    SELECT *,
        (SELECT max(decision_id) FROM decisions AS o WHERE o.decision_id < d.decision_id) AS id_before,
        (SELECT min(decision_id) FROM decisions AS o WHERE o.decision_id > d.decision_id) AS id_after
    FROM decisions AS d WHERE {where} ORDER BY seq DESC LIMIT ?
"""


# -- one decision ------------------------------------------------------------------------------


def is_decision(text: str) -> bool:
    """Whether an argument names a decision, not an event."""
    return text.lower().startswith((ID_PREFIX, f"decision:{ID_PREFIX}"))


def decision_id(ledger: Ledger, text: str) -> str:
    """The whole id of the decision whose id is the text or begins with it, or that this event is about.

    Raises UsageError, NoSuchEvent, NoSuchDecision, AmbiguousPrefix.
    """
    from tallystick.projections.errors import NoSuchId
    from tallystick.projections.views import views_of
    from tallystick.recorders.gateway.errors import NoSuchDecision

    text = text.strip()
    if SEQ.fullmatch(text):
        return decision_of(ledger, int(text))
    rest = without_prefix(text)
    if not rest:  # the slip of a script
        raise click.UsageError(f"{text!r} begins every id; give more of it: `tally decisions` lists them")
    try:
        found = views_of(ledger).find_by_prefix("decisions", "decision_id", ID_PREFIX + rest)
    except NoSuchId:
        if not _is_id(rest) or next(_rows_of(ledger, ID_PREFIX + rest), None) is None:
            raise NoSuchDecision(text) from None
        return ID_PREFIX + rest  # it is there, and no row of it: erased, or altered
    return str(found["decision_id"])


def without_prefix(text: str) -> str:
    """What an id, or the beginning of one, has behind its prefix, however it is written."""
    return re.sub(rf"^(decision:)?({ID_PREFIX})?", "", text, flags=re.IGNORECASE).upper()


def decision_of(ledger: Ledger, seq: int) -> str:
    """The id of the decision that an event records or is about. Raises NoSuchEvent, UsageError."""
    from tallystick.ledger.errors import NoSuchEvent

    row = next(ledger.rows(seq - 1, before=seq + 1), None)
    if row is None:
        raise NoSuchEvent(seq, ledger.head().seq)
    prefix, _, name = row.stream.partition(":")
    if f"{prefix}:" != events.decision_stream("") or not name:
        raise click.UsageError(
            f"event {seq} is a {row.kind}, and no decision's; `tally decisions` lists decisions"
        )
    return name


def _is_id(rest: str) -> bool:
    return re.fullmatch(r"[0-9A-Z]{26}", rest) is not None


def _rows_of(ledger: Ledger, whole_id: str) -> Iterator[Row]:
    return ledger.rows(stream=events.decision_stream(whole_id), limit=1)


def gateway_of(ledger: Ledger) -> Gateway:
    """A gateway to read what was decided and to say something of it, for which no policy is asked."""
    from tallystick.recorders.gateway.gateway import Gateway
    from tallystick.recorders.gateway.policy import STARTER_POLICY

    return Gateway(ledger, STARTER_POLICY)


def alterations(ledger: Ledger, record: DecisionRecord) -> Altered:
    """Which events of a decision's, and its policy's, do not match their own hashes; says so."""
    from tallystick.recorders.gateway.packing import registration_of

    assert record.receipt is not None, "it was read from the ledger"
    said = ledger.rows(record.receipt.seq - 1, stream=events.decision_stream(record.decision_id))
    rows = [*said, registration_of(ledger, record.policy.policy_hash)]
    altered = Altered("what is said here is not what was decided")
    for row in rows:
        if row is not None:
            altered.look_at(row)
    return altered


def show_decision(ledger: Ledger, text: str, as_json: bool, request_alone: bool) -> bool:
    """Print the record of a decision, or its request alone; whether it is as it was recorded."""
    record = gateway_of(ledger).record(decision_id(ledger, text), as_stored=True)
    altered = alterations(ledger, record).count > 0
    if request_alone:
        print_json(record.request)
    elif as_json:
        print_json(record)
    else:
        _print_record(record)
    return not altered


def _print_record(record: DecisionRecord) -> None:
    """Where it stands, and the record."""
    receipt = record.receipt
    assert receipt is not None, "it was read from the ledger"
    print_pairs(
        [
            ("decision", record.decision_id),
            ("verdict", record.verdict + ("" if record.enforced else " (advisory: not enforced)")),
            ("time", time_text(receipt.at)),
            ("event", str(receipt.seq)),
            ("hash", receipt.hash.hex()),
        ]
    )
    sys.stdout.write("\n")
    print_json(record)


# -- the listing -------------------------------------------------------------------------------


@click.command(
    "decisions",
    epilog=exit_status("listed", "one of them was altered, or the views could not be built from the events"),
)
@click.option(
    "--verdict",
    "verdicts",
    type=click.Choice(VERDICTS, case_sensitive=False),
    multiple=True,
    help="Only with this verdict; repeatable.",
)
@click.option("--tenant", help="Only of this tenant.")
@click.option("--action", metavar="GLOB", help="Only about this action type, e.g. 'support.*'.")
@click.option(
    "--label",
    type=click.Choice([*LABELS, "none"]),
    help="Only with this label (the last one given), or none.",
)
@click.option("--since", type=TimeType(), help="Not before this time or age: 2026-03-12T14:30, 2h, 3d.")
@click.option("--until", type=TimeType(), help="Before this time or age.")
@click.option(
    "--text", help="Only with this text in ids, intent, evidence, reasons, rules, or what was said since."
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
@click.pass_context
def decisions_command(
    ctx: click.Context,
    verdicts: tuple[str, ...],
    tenant: str | None,
    action: str | None,
    label: str | None,
    since: int | None,
    until: int | None,
    text: str | None,
    limit: int | None,
    path: Path,
    as_json: bool,
    as_lines: bool,
) -> None:
    """List decisions, newest first; `tally explain ID` tells why.

    Times are UTC; those given are local unless they name a zone. Text is found in any case (of A to Z), and
    in the first 4,000 characters of what a decision was about.
    """
    if as_json and as_lines:
        raise click.UsageError("--json and --nl exclude each other")
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since is not before --until")
    as_table = not (as_json or as_lines)
    if limit is None:
        limit = LISTED_MAX if as_table and sys.stdout.isatty() else 0
    where, values = _conditions(verdicts, tenant, action, label, since, until, text)
    with open_to_read(path) as ledger:
        from tallystick.projections.views import views_of

        views = views_of(ledger)
        say_where(views)
        found = views.rows(_LISTED.format(where=where), (*values, limit + 1 if limit else -1))
        print_listed(found, limit, _object, _print_table, as_json=as_json, as_lines=as_lines)
        if _any_altered(ledger, found[:limit] if limit else found):
            ctx.exit(1)


def _any_altered(ledger: Ledger, listed: list[dict[str, Any]]) -> bool:
    """Whether an event of the decisions listed is missing or does not match its own hashes; says which."""
    altered = Altered("what is listed of it is not what was decided")
    for row in listed:
        found = False
        for event in ledger.rows(row["seq"] - 1, stream=events.decision_stream(row["decision_id"])):
            found = found or event.seq == row["seq"]
            altered.look_at(event)
        if not found:
            altered.remark(f"event {row['seq']} is not in the ledger, and was: run `tally verify`")
    altered.remark_on_rest()
    return altered.count > 0


def _conditions(
    verdicts: tuple[str, ...],
    tenant: str | None,
    action: str | None,
    label: str | None,
    since: int | None,
    until: int | None,
    text: str | None,
) -> tuple[str, list[Any]]:
    """The condition of a query over `decisions`, and its values."""
    where: list[str] = ["1"]
    values: list[Any] = []
    if verdicts:
        where.append(f"verdict IN ({', '.join('?' * len(verdicts))})")
        values += verdicts
    for column, test, value in (
        ("tenant_id", "= ?", tenant),
        ("action_type", "GLOB ?", action),
        ("at", ">= ?", since),
        ("at", "< ?", until),
    ):
        if value is not None:
            where.append(f"{column} {test}")
            values.append(value)
    if label is not None:
        where.append("label IS ?")
        values.append(None if label == "none" else label)
    if text is not None:
        like = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        where.append(
            r"(intent LIKE ? ESCAPE '\' OR words LIKE ? ESCAPE '\'"
            r" OR decision_id IN (SELECT decision_id FROM decision_events WHERE text LIKE ? ESCAPE '\'))"
        )
        values += [like] * 3
    return " AND ".join(where), values


def _object(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `decisions` as `--json` prints it; `at` stays, `time` is it in ISO 8601."""
    shown = {name: value for name, value in row.items() if name not in _HIDDEN}
    shown["time"] = time_text(shown["at"]).replace(" ", "T")
    for name in _LISTS:
        shown[name] = msgspec.json.decode(shown[name] or "[]")
    return shown


def _print_table(rows: list[dict[str, Any]]) -> None:
    """On a terminal without the columns that are empty all the way down; in a pipe with all of them."""
    on_terminal = sys.stdout.isatty()
    columns = [
        "id",
        "time (UTC)",
        "verdict",
        "tenant",
        "action",
        "amount",
        "label",
        "reasons",
        "intent",
        "mode",
    ]
    lines = [_columns(row, on_terminal) for row in rows]
    always = {"id", "time (UTC)", "verdict", "action", "intent"}
    kept = [
        number
        for number, name in enumerate(columns)
        if not on_terminal
        or name in always
        or (name not in ("reasons", "mode") and any(line[number] for line in lines))
    ]
    if on_terminal:
        kept = _fitting(columns, lines, kept)
    table = Table([columns[number] for number in kept], right=["amount"])
    table.print([line[number] for number in kept] for line in lines)
    if on_terminal and any(row["mode"] != "enforce" for row in rows):
        say("* advisory: recorded, not enforced")


def _fitting(columns: list[str], lines: list[list[str]], kept: list[int]) -> list[int]:
    """The columns that leave room for the intent on this terminal; a tenant of all says nothing."""
    width = shutil.get_terminal_size().columns
    same_tenant = len({line[columns.index("tenant")] for line in lines}) <= 1
    for name in _SPARED:
        taken = sum(
            2 + min(width // 4, max(len(text) for text in (columns[n], *(line[n] for line in lines))))
            for n in kept[:-1]
        )
        if taken + _INTENT_MIN > width or (name == "tenant" and same_tenant):
            kept = [number for number in kept if columns[number] != name]
    return kept


def _columns(row: Mapping[str, Any], on_terminal: bool) -> list[str]:
    shown_id, time = row["decision_id"], time_text(row["at"])
    if on_terminal:
        shown_id = shown_id[: max(ID_CHARACTERS_MIN, _needed(row))]
        time = time[5:16]
    return [
        shown_id,
        time,
        row["verdict"] + ("*" if on_terminal and row["mode"] != "enforce" else ""),
        row["tenant_id"] or "",
        row["action_type"],
        amount_text(row["amount_value"], row["amount_currency"]),
        row["label"] or "",
        " ".join(msgspec.json.decode(row["reason_codes"] or "[]")),
        row["intent"],
        row["mode"],
    ]


def _needed(row: Mapping[str, Any]) -> int:
    """How many characters of an id tell it from every other."""
    longest, own = 0, row["decision_id"]
    for other in (row["id_before"] or "", row["id_after"] or ""):
        shared = next((n for n, pair in enumerate(zip(own, other, strict=False)) if pair[0] != pair[1]), 0)
        longest = max(longest, shared)
    return longest + 1


def amount_text(value: float | None, currency: str | None) -> str:
    """An amount for reading: 19.90 EUR; empty for none."""
    if value is None:
        return ""
    number = f"{value:,.2f}" if abs(value) < 1e12 and round(value, 2) == value else str(value)
    return f"{number.removesuffix('.00')} {currency or ''}".rstrip()


# -- label -------------------------------------------------------------------------------------


@click.command("label", epilog=exit_status("labelled", could_not="could not write"))
@click.argument("decision", metavar="ID")
@click.option("--label", type=click.Choice(LABELS), required=True, help="How it turned out.")
@click.option("--summary", default="", help="What happened, in words; later decisions quote it.")
@ledger_option
@json_option
def label_command(decision: str, label: str, summary: str, path: Path, as_json: bool) -> None:
    """Say how the decision ID turned out; later requests like it are judged by that.

    ID may be the beginning of an id, or the number of the decision's event. The last label counts: it takes
    the place of those before. The same label and summary again adds nothing. The decision itself is never
    changed. To take back what was learned, erase the memory.added event that follows the label, `tally erase
    SEQ`; the label before it counts again.
    """
    with open_to_write(path) as ledger:
        gateway = gateway_of(ledger)
        whole_id = decision_id(ledger, decision)
        before = ledger.head().seq
        entry = gateway.label(whole_id, label, summary)
        seq = int(entry.event_id.removeprefix("evt_"))
        record = gateway.record(whole_id, as_stored=True)
        said = ledger.get(seq)
    if as_json:
        print_json(
            {
                "decision_id": whole_id,
                "label": label,
                "summary": summary,
                "seq": seq,
                "hash": said.hash.hex(),
                "at": said.at,
                "memory_seq": seq + 1,
            }
        )
        return
    if seq <= before:
        say(f"{whole_id} was labelled {label} like this before, by event {seq}; nothing was added")
    else:
        say(f"labelled {whole_id} {label}; {_effect(record, seq)}")
    print(f"{seq}:{said.hash.hex()}")


def _effect(record: DecisionRecord, seq: int) -> str:
    tenant = record.request.tenant_id
    whom = "" if tenant is None else f" for {tenant}"
    return f"{record.request.action.type}{whom} is judged by it from now on (event {seq + 1} remembers it)"
