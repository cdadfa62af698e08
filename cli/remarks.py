"""What a command says beside its data: that a log is not the one it was, and how an error is remedied.

`tally verify` derives every hash and holds each event against the one before. `remark_on_end` looks at one
row, so that whoever reads a ledger is told when the head file beside it contradicts it, as after a lost end.
`Altered` looks at the rows that a command reads anyway, each by itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .output import counted, say

if TYPE_CHECKING:
    from tallystick.ledger.event import Row

LOOK_S: Final = 30.0
#: What the arguments of a selection are called at the command line.
_OPTIONS: Final = {
    "layers": "--layer",
    "ids": "decisions",
    **{name: f"--{name.replace('_', '-')}" for name in ("up_to", "stream", "session", "decision", "since")},
    **{name: f"--{name}" for name in ("until", "correlation")},
}
#: Altered events that are named one by one.
NAMED_MAX: Final = 20


class Altered:
    """Says on stderr which of the rows that are read do not match their own hashes; `count` is how many."""

    def __init__(self, meaning: str = "what is shown of it is not what was appended") -> None:
        from tallystick.ledger.walk import OwnHashes

        self.count = 0
        #: What was said, for those who print it elsewhere, too; at most NAMED_MAX.
        self.said: list[str] = []
        self._meaning = meaning
        self._problem = OwnHashes().problem

    def look_at(self, row: Row) -> None:
        """Derive the hashes of a row again."""
        problem = self._problem(row)
        if problem is not None:
            self.remark(f"event {row.seq}: {problem}; {self._meaning}: run `tally verify`")

    def remark(self, problem: str) -> None:
        """Say it, and count it; once many were named, only that there are more."""
        self.count += 1
        if self.count <= NAMED_MAX:
            self.said.append(problem)
            sys.stdout.flush()
            say(f"tally: {problem}")

    def remark_on_rest(self) -> None:
        """Say how many were not named."""
        if self.count > NAMED_MAX:
            say(f"tally: and {counted(self.count - NAMED_MAX, 'event')} more that do not match their hashes")


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
    from tallystick.ledger.errors import BodyTooLarge, Locked, Unavailable
    from tallystick.replay.errors import BadSelection

    if isinstance(error, Locked):
        return f"{error.where}: {error.problem}; wait for it to finish and try again (`fuser` names it)"
    if isinstance(error, BodyTooLarge):
        remedy = "append a digest of the content instead, or append it from Python"
        return f"{error.path}: {error.problem}; {remedy}"
    if isinstance(error, Unavailable) and error.problem == "was opened read-only":
        return f"{error.where}: this user may not write it; run the command as one who may"
    if isinstance(error, BadSelection):  # named after an argument in Python
        remedy = error.remedy.replace("tasks=module:attribute", "--tasks MODULE:ATTRIBUTE")
        return f"{_OPTIONS.get(error.what, error.what)}: {error.problem}; {remedy}"
    return str(error)
