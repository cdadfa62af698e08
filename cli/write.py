"""Commands that write: init, append, erase."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from tallystick.ledger import canonical
from tallystick.ledger.errors import InvalidEvent, MalformedEvent

from .app import SeqType, exit_status, ledger_option, open_to_write
from .decide import policy_beside
from .lines import SOURCE, append_lines, open_source, source_name, why_not_json
from .output import body_text, json_option, path_text, print_json, printable, say
from .views import forget_in_views

if TYPE_CHECKING:
    from tallystick.ledger.ledger import Ledger


@click.command("init", epilog=exit_status("created, or a ledger already"))
@ledger_option
@json_option
def init_command(path: Path, as_json: bool) -> None:
    """Create an empty ledger, and beside it a policy to start from.

    The policy, policy.yml, is what `tally decide` decides under unless it is told otherwise. One that is
    there already is left as it is.
    """
    if path.exists() and path.stat().st_size:
        with open_to_write(path) as ledger:  # says so if it is something else
            head = ledger.head()
        say(f"{path} is a ledger already; nothing was changed")
    else:
        with open_to_write(path, create=True) as ledger:
            head = ledger.head()
        say(f"created {path}")
    policy = policy_beside(path)
    written = write_starter_policy(policy)
    if as_json:
        print_json(
            {
                "path": path_text(path),
                "head": str(head),
                "policy": path_text(policy),
                "policy_written": written,
            }
        )
    else:
        print(head)


def write_starter_policy(policy: Path) -> bool:
    """Write the starter policy to a file, whole or not at all, unless there is one; says which."""
    from tallystick.recorders.gateway.policy import STARTER_POLICY

    temporary = policy.with_name(f"{policy.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(STARTER_POLICY.read_bytes())
        try:
            os.link(temporary, policy)  # never over another, as a rename would
        except OSError:  # FileExistsError, or no links on this file system
            if policy.exists():
                say(f"{policy} is there already; it was left as it is")
                return False
            temporary.rename(policy)
    finally:
        temporary.unlink(missing_ok=True)
    say(f"wrote {policy}, a policy to start from")
    return True


@click.command(
    "append",
    epilog=exit_status(
        "appended, or there already by its key",
        "refused by what the ledger holds (key, --expect, lost end)",
        "could not write",
    ),
)
@click.argument("kind", required=False)
@click.argument("body", required=False)
@click.option(
    "--nl",
    "source",
    type=SOURCE,
    metavar="FILE",
    help="Append JSON lines from FILE (also gzipped); - is stdin.",
)
@click.option("--atomic", is_flag=True, help="With --nl: append all lines or none.")
@click.option("--stream", help="What the event belongs to (default main).")
@click.option("--key", help="Idempotency key: the same event again appends nothing.")
@click.option("--meta", help="A JSON object of meta.")
@click.option("--actor", help="Who or what did it; goes into meta.")
@click.option("--correlation", help="The case it belongs to; goes into meta.")
@click.option(
    "--expect", type=click.IntRange(0), help="Only if the stream's last event is this seq (0: none yet)."
)
@ledger_option
@json_option
def append_command(
    kind: str | None,
    body: str | None,
    source: Path | None,
    atomic: bool,
    stream: str | None,
    key: str | None,
    meta: str | None,
    actor: str | None,
    correlation: str | None,
    expect: int | None,
    path: Path,
    as_json: bool,
) -> None:
    """Append one event, or many as JSON lines; the ledger is created if missing.

    \b
    tally append order.shipped '{"order": 81}' --stream order:81
    tally append --nl events.jsonl

    KIND is dotted lower-case words; BODY is JSON (default {}), - reads it from stdin. A line for
    --nl is an object with kind, body, and if wanted stream, key, meta and at (ISO 8601 with its time
    zone, or microseconds since 1970). Lines are appended as they arrive, many at once. When one is bad, the
    lines before it stay appended and its number is said; with --atomic nothing is appended.

    The first words ledger, kernel, pipeline, session, action, policy, decision, memory, flow, infer,
    compute, refine, consensus, budget, review, plan and projection are for Tallystick's own recorders,
    as is the kind message.recorded.
    """
    single = {"BODY": body, "--stream": stream, "--key": key, "--meta": meta, "--expect": expect}
    context = {"actor": actor, "correlation": correlation}
    for name, value in context.items():
        if value == "":
            raise click.UsageError(f"--{name} is empty")
    if source is not None:
        given = [name for name, value in {"KIND": kind, **single}.items() if value is not None]
        if given:
            raise click.UsageError(f"--nl takes events from lines; leave out {given[0]}")
        with ExitStack() as stack:
            file = open_source(source, stack)
            ledger = open_to_append(path, stack, context)
            append_lines(ledger, file, source_name(source), atomic, as_json)
        return
    if kind is None:
        raise click.UsageError("give a KIND, or --nl FILE")
    if atomic:
        raise click.UsageError("--atomic goes with --nl")
    event = {
        "kind": kind,
        "body": {} if body is None else _json(body, "body"),
        "stream": "main" if stream is None else stream,
        "key": key,
        "meta": None if meta is None else _json(meta, "--meta"),
    }
    if not path.exists():
        _check(event)
    with ExitStack() as stack:
        ledger = open_to_append(path, stack, context)
        before = ledger.head().seq if key else 0
        receipt = ledger.append(**event, expect=expect)
    if key and receipt.seq <= before:
        say(f"key {key!r} was used for this very event before; nothing was appended")
    if as_json:
        print_json({"seq": receipt.seq, "hash": receipt.hash.hex(), "at": receipt.at})
    else:
        print(f"{receipt.seq}:{receipt.hash.hex()}")


def open_to_append(path: Path, stack: ExitStack, context: dict[str, str | None]) -> Ledger:
    """The ledger, made if missing, which is said: its name may be a slip."""
    is_new = not path.exists()
    ledger = stack.enter_context(open_to_write(path, create=True))
    if is_new:
        say(f"created {path}")
    stack.enter_context(ledger.context(**context))
    return ledger


def _check(event: dict[str, Any]) -> None:
    """Refuse a bad event before a ledger is made for it."""
    from tallystick.ledger.ledger import Ledger
    from tallystick.ledger.memory import MemoryStore

    Ledger.over(MemoryStore()).prepare(**event, at=None, expect=None)


def _json(text: str, what: str) -> Any:
    data = sys.stdin.buffer.read() if text == "-" else text.encode(errors="surrogateescape")
    try:
        return canonical.parse(data)
    except (msgspec.MsgspecError, ValueError) as error:
        remedy = "send one JSON value" if text == "-" else "quote it for the shell, e.g. '{\"order\": 81}'"
        raise InvalidEvent(what, f"not JSON ({why_not_json(error)})", remedy) from None


# -- erase ----------------------------------------------------------------------------------


@click.command("erase", epilog=exit_status("erased, or erased before"))
@click.argument("seq", type=SeqType())
@click.option("--reason", required=True, help="Why; recorded in the ledger.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@ledger_option
@json_option
@click.pass_context
def erase_command(ctx: click.Context, seq: int, reason: str, yes: bool, path: Path, as_json: bool) -> None:
    """Erase the body of event SEQ for good; the chain still verifies.

    A ledger.body_erased event records it, and the views are caught up, so that they forget it, too. Backups,
    exports and copies made earlier keep the body.
    """
    with open_to_write(path) as ledger:
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError("this cannot be undone: pass --yes to erase without being asked")
            say(_described(ledger, seq))
            if not click.confirm("Erase this body? This cannot be undone.", err=True):
                say("nothing was erased")
                ctx.exit(2)
        before = ledger.head().seq
        receipt = ledger.erase(seq, reason)
        remembered = forget_in_views(ledger)
    if as_json:
        print_json({"erased": seq, "seq": receipt.seq, "hash": receipt.hash.hex(), "at": receipt.at})
    else:
        again = receipt.seq <= before
        what = f"the body of event {seq} was erased before" if again else f"erased the body of event {seq}"
        say(f"{what}; event {receipt.seq} records it")
        print(f"{receipt.seq}:{receipt.hash.hex()}")
    if remembered is not None:
        say(f"the views may still hold what was erased: {remembered}")
        ctx.exit(3)


def _described(ledger: Ledger, seq: int) -> str:
    try:
        event = ledger.get(seq)
    except MalformedEvent as error:
        return str(error)
    return f"{seq}  {event.kind}  {event.stream}  {printable(body_text(event))[:200]}"
