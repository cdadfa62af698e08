"""What a command says beside its data: that a log is not the one it was, and how an error is remedied.

`tally verify` derives every hash. `remark_on_end` looks at one row, so that whoever reads a ledger is
told when the head file beside it contradicts it, as after a lost end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .output import say

LOOK_S: Final = 30.0


def remark_on_end(path: Path) -> int:
    """Say on stderr if the head file contradicts the log; the exit status that it stands for.

    0 if it does not or there is none, 1 if it does, 3 if that cannot be told.
    """
    from tallystick.ledger.errors import TailLost, Unavailable
    from tallystick.ledger.sqlite.tail import refuse_lost_tail

    try:
        refuse_lost_tail(path, timeout_s=LOOK_S)
    except TailLost as error:
        say(f"tally: {error}")
        return 1
    except Unavailable as error:
        say(f"tally: {error}")
        return 3
    return 0


def remedied(error: Exception) -> str:
    """The error's message, with a remedy that a person at the command line can use."""
    from tallystick.ledger.errors import BodyTooLarge, Locked

    if isinstance(error, Locked):
        return f"{error.where}: {error.problem}; wait for it to finish and try again (`fuser` names it)"
    if isinstance(error, BodyTooLarge):
        remedy = "append a digest of the content instead, or append it from Python"
        return f"{error.path}: {error.problem}; {remedy}"
    return str(error)
