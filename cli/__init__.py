"""The command `tally`, one module a command group.

`app.py` holds the group and what commands share, `output.py` prints, `page.py` writes
docs/commands.md. Each command's module loads when the command is used or described, and the ledger
only when a command runs, so `tally --help` needs neither SQLite nor BLAKE3.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status.

    0 good, 1 a finding (broken, diverged, refused by what the ledger holds), 2 usage or bad
    input, 3 could not look. Errors are one line on stderr with the remedy, never a traceback
    (unless TALLY_DEBUG is set, which prints one before that line).
    """
    _settle_streams()
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)


def _run(arguments: Sequence[str] | None) -> int:
    import click

    from tallystick.cli.app import ReaderLeft, tally
    from tallystick.ledger.errors import TallyError

    try:
        status = tally.main(args=arguments, prog_name="tally", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0  # from shell completion
    except click.Abort:
        return _complain("interrupted", INTERRUPTED)
    except click.ClickException as error:
        return _complain(_one_line(error), error.exit_code)
    except (ReaderLeft, BrokenPipeError):  # no error of ours
        _let_go_of_stdout()
        return 0
    except Exception as error:
        if "TALLY_DEBUG" in os.environ:
            traceback.print_exc()
        if isinstance(error, TallyError):
            from tallystick.cli.remarks import remedied

            return _complain(remedied(error), status_of(error))
        if isinstance(error, UnicodeEncodeError):  # only names that are no text cannot be encoded
            return _complain(f"{error.object!r} is not UTF-8; use another name", 2)
        if isinstance(error, OSError):
            return _complain(_os_error(error), 3)
        what = f"{type(error).__name__}: {error}".replace("\n", " ")
        return _complain(f"internal error, please report it ({what}); TALLY_DEBUG=1 shows more", 70)


def status_of(error: BaseException) -> int:
    """The exit status that an error stands for."""
    from tallystick.ledger import errors
    from tallystick.projections import errors as views
    from tallystick.recorders import errors as recorders
    from tallystick.recorders.gateway import errors as gateway
    from tallystick.replay import errors as replay
    from tallystick.replay.incident import errors as incident

    if isinstance(error, errors.BadLine) and isinstance(error.__cause__, errors.TallyError):
        return status_of(error.__cause__)  # an event on that line was refused
    findings: tuple[type[BaseException], ...] = (
        *(errors.KeyConflict, errors.PositionConflict, errors.TailLost, errors.MalformedEvent),
        *(recorders.SessionTaken, recorders.SessionNotExpirable, views.ProjectionFailed, views.AlteredViews),
        *(gateway.RequestConflict, gateway.DecisionErased, gateway.DecisionAltered, gateway.EventMissing),
        replay.MalformedDecision,
    )
    if isinstance(error, findings):
        return 1
    usage: tuple[type[BaseException], ...] = (
        *(errors.InvalidEvent, errors.BadLine, errors.BadHead, errors.NoSuchEvent, errors.NotErasable),
        *(
            recorders.BadConversation,
            recorders.InvalidUrn,
            views.NoSuchId,
            views.AmbiguousPrefix,
            views.BadProjection,
            replay.BadSelection,
            replay.TasksNotFound,
            incident.BadIncident,
        ),
        *(gateway.InvalidRequest, gateway.InvalidPolicy, gateway.PolicyNotFound, gateway.BadPack),
        *(gateway.NoSuchDecision, gateway.InvalidDecisionEvent),
    )
    return 2 if isinstance(error, usage) else 3


def _settle_streams() -> None:
    """Give streams that were closed a place to go, and write UTF-8 whatever the locale says.

    A file opened later must not get the number of a standard stream, least of all the ledger.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _one_line(error: click.ClickException) -> str:
    """A usage error in the form of our own: what, where, and the page that helps."""
    message = error.format_message().rstrip(".").replace("\n\t", " ")
    if not message.startswith("-"):
        message = message[:1].lower() + message[1:]
    ctx = getattr(error, "ctx", None)
    page = f"{ctx.command_path} --help" if ctx is not None else "tally --help"
    return f"{message}; see `{page}`"


def _os_error(error: OSError) -> str:
    written = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
    where = error.filename or ("standard output" if written else "")
    if written and not error.filename:
        _let_go_of_stdout()
    return f"{os.fsdecode(where)}: {error.strerror}" if where else f"{error.strerror or error}"


def _let_go_of_stdout() -> None:
    """What is still buffered has nowhere to go; without this, Python says so at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, status: int) -> int:
    from tallystick.cli.output import say

    say(f"tally: {message}".replace("\n", " "))
    return status
