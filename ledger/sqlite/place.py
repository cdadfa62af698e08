"""Whether the files that a writer has open are still the ones at their paths.

SQLite finds a ledger's write-ahead log by its name. If the file is moved, or the log removed, the connection
goes on writing to what it has open, acknowledges every commit, and nobody else will ever read it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from ..headfile import beside

NO_FILE: Final = "no file"


class Missing(NamedTuple):
    """What is not in its place. log: the write-ahead log, else the file. found: what is there instead."""

    log: bool
    found: str


class Place:
    """The identities of a file and its log, as they were when they were opened for writing."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where they cannot be looked at."""
        self._file = os.path.abspath(path)  # which a change of directory does not move
        self._log = beside(self._file, "-wal")
        self._file_id = _identity(self._file)
        self._log_id = _identity(self._log)

    def missing(self) -> Missing | None:
        """What is not there any more, or is another; None if all is in place, as far as can be told."""
        try:
            file_id, log_id = _identity(self._file), _identity(self._log)
        except OSError:  # a right withdrawn, say: no sign that it was moved
            return None
        for log, opened, now in ((False, self._file_id, file_id), (True, self._log_id, log_id)):
            if opened is not None and now != opened:
                return Missing(log, NO_FILE if now is None else "another file")
        self._log_id = log_id
        return None


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Device and inode; None if there is no file. Raises OSError where it cannot be told."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
