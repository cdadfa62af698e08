"""The command `tally`, one module a command group.

`app.py` holds the group and what commands share, `output.py` prints. Each command's module loads
when the command is used, so `tally --help` needs none of them.
"""

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status.

    0 good, 1 a finding (broken, diverged, refused by what the ledger holds), 2 usage or bad
    input, 3 could not look. Errors are one line on stderr with the remedy, never a traceback
    (unless TALLY_DEBUG is set).
    """
    import click

    from tallystick.cli.app import tally
    from tallystick.ledger.errors import TallyError

    try:
        status = tally.main(args=arguments, prog_name="tally", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.Abort:
        return _complain("interrupted", 130)
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except TallyError as error:
        if "TALLY_DEBUG" in os.environ:
            raise
        return _complain(str(error), status_of(error))
    except BrokenPipeError:
        # The reader of our output left, as `head` does; that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if "TALLY_DEBUG" in os.environ:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", 3)
    except Exception as error:
        if "TALLY_DEBUG" in os.environ:
            raise
        what = f"{type(error).__name__}: {error}".replace("\n", " ")
        return _complain(f"internal error, please report it ({what}); TALLY_DEBUG=1 shows more", 70)


def status_of(error: Exception) -> int:
    """The exit status that an error stands for."""
    from tallystick.ledger import errors

    if isinstance(error, (errors.KeyConflict, errors.PositionConflict, errors.TailLost)):
        return 1
    usage = (errors.InvalidEvent, errors.BadLine, errors.BadHead, errors.NoSuchEvent, errors.NotErasable)
    return 2 if isinstance(error, usage) else 3


def _complain(message: str, status: int) -> int:
    print(f"tally: {message}", file=sys.stderr)
    return status
