"""Which other processes have a ledger file open, and what they do, where /proc tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from ..headfile import beside

#: Process number -> what it does with the ledger: open, reading, writing, checkpointing.
Holders: TypeAlias = dict[int, set[str]]
#: Bytes of the -shm file that a lock covers while its holder does this (wal-index locks,
#: sqlite.org/walformat.html#wal_locks).
_SHM_LOCKS: Final = {120: "writing", 121: "checkpointing", **dict.fromkeys(range(123, 128), "reading")}


def holders(path: Path) -> Holders | None:
    """The other processes that have the ledger open, and what they do; None where /proc does not tell.

    Those of other users are seen by their locks alone, and those of other containers not at all.
    """
    if not Path("/proc/self/fd").exists():
        return None
    inodes: dict[tuple[int, int], str] = {}
    for file in (Path(os.path.realpath(path)), beside(path, "-wal"), beside(path, "-shm")):
        try:
            info = file.stat()
        except OSError:
            continue
        inodes[info.st_dev, info.st_ino] = file.name
    found: Holders = {}
    for directory in Path("/proc").glob("[0-9]*/fd"):
        pid = int(directory.parent.name)
        try:
            for link in directory.iterdir():
                info = link.stat()
                if (info.st_dev, info.st_ino) in inodes:
                    found.setdefault(pid, set()).add("open")
                    break
        except OSError:
            continue
    for pid, device, inode, first, last in _system_locks():
        # Some file systems give locks another device number: then an open descriptor must agree.
        known = (device, inode) in inodes or (pid in found and any(inode == other for _, other in inodes))
        if known:
            does = found.setdefault(pid, set())
            does.add("open")
            does.update(what for byte, what in _SHM_LOCKS.items() if first <= byte <= last)
    found.pop(os.getpid(), None)
    return found


def _system_locks() -> Iterator[tuple[int, int, int, int, float]]:
    """Locks held now (proc_locks(5)): process, device, inode, first and last byte."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if "->" in fields or len(fields) != 8 or fields[1] != "POSIX":
            continue
        major, minor, inode = fields[5].split(":")
        last = float("inf") if fields[7] == "EOF" else int(fields[7])
        yield int(fields[4]), os.makedev(int(major, 16), int(minor, 16)), int(inode), int(fields[6]), last


def named(found: Holders | None, doing: str) -> str:
    """The processes that do it, each with what it does: `4711 (python3), 4712 (tally, writing)`."""
    names = []
    for pid, does in sorted((found or {}).items()):
        if doing not in does:
            continue
        try:
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            name = "gone since"
        names.append(f"{pid} ({', '.join([name, *sorted(does - {'open'})])})")
    return ", ".join(names)
