"""The small file beside a ledger that holds its last durable head, `agents.tally.head`.

It is no anchor against people, who can alter both files, and never makes a log VERIFIED. But
a log that ends before it has lost its end, as a write-ahead log can in silence.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from .errors import BadHead, Unavailable
from .event import Head

WRITE_EVERY_S: Final = 1.0
#: No head line is longer; a file that is gets read no further.
LINE_BYTES_MAX: Final = 256


def head_path(ledger: str | os.PathLike[str]) -> Path:
    """Where a ledger's head file lies: beside the real file, whatever link led to it."""
    return beside(ledger, ".head")


def beside(ledger: str | os.PathLike[str], suffix: str) -> Path:
    """A file beside the ledger's, where SQLite, too, puts its own."""
    path = os.fspath(ledger)
    return Path((os.path.realpath(path) if os.path.islink(path) else path) + suffix)


def read_head_file(ledger: str | os.PathLike[str]) -> Head | None:
    """The head kept beside a ledger; None if there is no such file.

    Raises Unavailable when the file is there and cannot be read or understood: then nobody
    knows what it would have said.
    """
    path = head_path(ledger)
    try:
        return Head.parse(_read_line(path).decode("ascii"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, BadHead) as error:
        why = error.strerror if isinstance(error, OSError) else "not a head line"
        raise Unavailable(
            str(path),
            f"cannot be read ({why})",
            "restore it, or keep it under another name and go on without",
        ) from None


def _read_line(path: Path) -> bytes:
    """What a file that can be a head file holds; OSError for a pipe, a device, a directory, a large file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe opens at once, too
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        if found.st_size > LINE_BYTES_MAX:
            raise OSError(errno.EFBIG, "Far longer than a head line")
        return os.read(descriptor, LINE_BYTES_MAX)
    finally:
        os.close(descriptor)


def sync_directory(file: Path) -> None:
    """Make a new name in a directory durable against a power cut."""
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class HeadFile:
    """Keeps a ledger's head file: at most one write a second, each an atomic replacement."""

    def __init__(self, ledger: str | os.PathLike[str]) -> None:
        self.path = head_path(ledger)
        self._ledger = ledger
        self._written_s = -WRITE_EVERY_S

    def due(self) -> bool:
        """Whether a second has passed since this object wrote the file."""
        return time.monotonic() - self._written_s >= WRITE_EVERY_S

    def write(self, head: Head) -> None:
        """Replace the file, unless it already names a later head of the same ledger.

        The head must be durable. A crash leaves the old file or the new one, each whole.
        """
        assert head.ledger_id is not None, "a head that stands alone names its ledger"
        self._written_s = time.monotonic()
        try:
            kept = read_head_file(self._ledger)
        except Unavailable:
            kept = None
        if kept is not None and kept.ledger_id == head.ledger_id and kept.seq >= head.seq:
            return
        # A name of the thread's own: others may be keeping a head of this ledger at the same time.
        temporary = Path(f"{self.path}.{threading.get_ident()}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="ascii") as file:
                file.write(f"{head}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError:  # a full disk, as a rule, where such files would pile up
            with suppress(OSError):
                temporary.unlink()
            raise
