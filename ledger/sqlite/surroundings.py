"""What the doctor finds around a ledger file: programs, the place that it lies in, what others left there.

Nothing here opens the ledger with SQLite; what is inside it is the matter of doctor.py.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import statistics
import tempfile
import time
import zlib
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Final

import apsw

from ..headfile import beside, head_path
from .check import Check, in_bytes, size_of
from .connection import NETWORK_FILESYSTEMS, PAGE_SIZE

FREE_BYTES_WARN: Final = 1 << 30
FREE_BYTES_FAIL: Final = 64 << 20
FSYNC_WARN_S: Final = 0.020
FSYNC_SAMPLES: Final = 20
FSYNC_SAMPLING_S_MAX: Final = 2.0
#: A temporary file older than this was left behind, whoever has its process number now.
LEFTOVER_AGE_S: Final = 86_400
BENCH_PREFIX: Final = ".tally-bench-"
SQLITE_MAGIC: Final = b"SQLite format 3\0"

_PACKAGES: Final = ("tallystick", "apsw", "blake3", "click", "msgspec", "orjson", "rich")
_EXPORT_START: Final = b'{"seq":'
_TEMPORARY: Final = re.compile(r"(?P<base>.+)\.(?P<pid>\d+)\.tmp(-wal|-shm|-journal)?")


# -- programs ------------------------------------------------------------------------------


def has_wal_reset_bug(version: str) -> bool:
    """Whether a SQLite of this version can corrupt a file in WAL mode (sqlite.org/wal.html#walresetbug).

    3.7.0 to 3.51.2, without the corrected 3.44.6 and 3.50.7 and what follows them in their lines.
    """
    number = tuple(int(part) for part in version.split(".")[:3])
    corrected = (3, 44, 6) <= number < (3, 45) or (3, 50, 7) <= number < (3, 51)
    return (3, 7) <= number < (3, 51, 3) and not corrected


def engine() -> Check:
    """The SQLite that opens ledgers."""
    version = apsw.sqlite_lib_version()
    finding = f"SQLite {version} in apsw {apsw.apsw_version()}"
    upgrade = "pip install --upgrade apsw; until then let one process at a time have the ledger open"
    if has_wal_reset_bug(version):
        finding += ": has the WAL-reset bug (3.7.0 to 3.51.2), which can corrupt the file"
        return Check("engine", "fail", finding, upgrade)
    if version == "3.52.0":
        return Check(
            "engine", "warn", f"{finding}: a release that was withdrawn", "pip install --upgrade apsw"
        )
    return Check("engine", "ok", f"{finding}, which has no WAL-reset bug")


def python_sqlite() -> Check:
    """The other SQLite in this interpreter. Tallystick never opens a ledger with it."""
    try:
        from sqlite3 import sqlite_version as version
    except ImportError:
        return Check("python sqlite3", "ok", "this interpreter has none")
    finding = f"SQLite {version}"
    if has_wal_reset_bug(version):
        finding += (
            " has the WAL-reset bug by its number; Tallystick does not use it: do not write a ledger with it"
        )
    return Check("python sqlite3", "ok", finding)


def versions() -> Check:
    """The interpreter and the packages that matter here."""
    found = [f"{platform.python_implementation()} {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} without metadata")
    return Check("versions", "ok", ", ".join(found))


# -- the file and its place ----------------------------------------------------------------


def file_system(found: str | None) -> Check:
    """The file system, by the name that `filesystem_type` gives it."""
    name = "file system"
    if found in NETWORK_FILESYSTEMS:
        finding = f"{found}, over the network: SQLite's locks cannot be trusted there; looked no further"
        return Check(name, "fail", finding, "keep the ledger on a local disk and copy backups to the network")
    if found in ("tmpfs", "ramfs"):
        return Check(
            name, "warn", f"{found}, in memory: the ledger is gone after a restart", "move it to a disk"
        )
    if found == "overlay":
        finding = "overlay, as a container's own layer is: the ledger would be gone with the container"
        return Check(name, "warn", finding, "keep the ledger on a volume")
    return Check(name, "ok", found or "of a type that this system does not tell")


def file(path: Path) -> Check:
    """Size, rights and names of the file and of those beside it."""
    info = path.stat()
    finding = f"{in_bytes(info.st_size)}, {stat.filemode(info.st_mode)}"
    real = os.path.realpath(path)
    if path.is_symlink():
        finding += f", a link to {real}"
    if info.st_nlink > 1:
        finding += (
            f", and {info.st_nlink} names (hard links): opened by two names it has two logs, and is corrupted"
        )
        remedy = f"keep one name; `find {os.path.dirname(real)} -samefile {real}` finds the others"
        return Check("file", "warn", finding, remedy)
    if info.st_mode & stat.S_IWOTH:
        return Check("file", "warn", f"{finding}: anyone on this machine may rewrite it", f"chmod o-w {path}")
    if not os.access(path, os.W_OK):
        return Check("file", "ok", f"{finding}; this user may only read it")
    companions = (beside(path, "-wal"), beside(path, "-shm"), head_path(path))
    denied = [other for other in companions if other.exists() and not os.access(other, os.W_OK)]
    if denied:
        finding += f"; this user may write it, but not {', '.join(other.name for other in denied)}"
        return Check("file", "warn", finding, f"give them the ledger's owner: chown --reference={path}")
    return Check("file", "ok", finding)


def disk(path: Path) -> Check:
    """Whether there is room to append."""
    usage = shutil.disk_usage(Path(os.path.realpath(path)).parent)
    wanted = max(FREE_BYTES_WARN, size_of(path) // 10)
    finding = f"{in_bytes(usage.free)} of {in_bytes(usage.total)} free"
    if usage.free < FREE_BYTES_FAIL:
        return Check("disk", "fail", f"{finding}; appends are about to fail", "free some space")
    if usage.free < wanted:
        return Check("disk", "warn", f"{finding}, less than {in_bytes(wanted)}", "free some space")
    return Check("disk", "ok", finding)


def fsync_time_s(directory: Path) -> float:
    """How long a small write and its fsync take there: the median of several, in seconds.

    Uses a file without a name, so that nothing is left behind. Raises OSError.
    """
    samples: list[float] = []
    begun = time.perf_counter()
    with tempfile.TemporaryFile(dir=directory, prefix=".tally-fsync-", buffering=0) as file:
        for _ in range(FSYNC_SAMPLES):
            start = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            samples.append(time.perf_counter() - start)
            if time.perf_counter() - begun > FSYNC_SAMPLING_S_MAX:
                break
    return statistics.median(samples)


def fsync(path: Path) -> Check:
    """How long the least takes that a durable append does."""
    try:
        duration_s = fsync_time_s(Path(os.path.realpath(path)).parent)
    except OSError as error:
        return Check("fsync", "ok", f"not measured: no file can be made beside the ledger ({error.strerror})")
    finding = f"{duration_s * 1000:.2f} ms, the least that a durable append takes"
    if duration_s <= FSYNC_WARN_S:
        return Check("fsync", "ok", finding)
    remedy = "use a faster disk, append in batches or from several threads (one fsync serves many)"
    return Check("fsync", "warn", finding, remedy)


def leftovers(path: Path) -> Check:
    """What backups, imports, exports, head writes and measurements left when their process was killed."""
    left, busy = [], 0
    try:
        names = sorted(os.listdir(path.parent))
    except OSError as error:
        return Check("leftovers", "ok", f"not looked for: the directory cannot be listed ({error.strerror})")
    for name in names:
        if name.startswith(BENCH_PREFIX):  # tells no process, so its age has to
            if _age_s(path.with_name(name)) >= LEFTOVER_AGE_S:
                left.append(name)
            continue
        match = _TEMPORARY.fullmatch(name)
        if match is None or not _is_ours(path, match):
            continue
        if _in_progress(path.with_name(name), int(match["pid"])):
            busy += 1
        else:
            left.append(name)
    under_way = f"{busy} of work under way" if busy else ""
    if not left:
        return Check("leftovers", "ok", under_way or "none")
    size = in_bytes(sum(_size_within(path.with_name(name)) for name in left))
    finding = f"{size} of interrupted backups, imports, exports, measurements or head writes: "
    finding += ", ".join(left[:5])
    finding += f" and {len(left) - 5} more" if len(left) > 5 else ""
    return Check("leftovers", "warn", finding + (f"; {under_way}" if busy else ""), "delete them")


def _is_ours(path: Path, match: re.Match[str]) -> bool:
    """Named after this ledger; or under another name, as backups, imports and exports are, by its content."""
    base = match["base"]
    if base == path.name or base.startswith(f"{path.name}."):
        return True
    temporary = path.with_name(f"{base}.{match['pid']}.tmp")
    if not temporary.is_file():
        return False
    try:
        with temporary.open("rb") as file:
            start = file.read(512)
    except OSError:
        return False
    if start[68:72] == b"TALY":
        return True
    if start.startswith(SQLITE_MAGIC):  # an import's mark may stand in its log still
        page_size = int.from_bytes(start[16:18], "big")
        return page_size == PAGE_SIZE and beside(temporary, "-wal").exists()
    with suppress(zlib.error):
        start = zlib.decompressobj(wbits=31).decompress(start, len(_EXPORT_START))
    return start.startswith(_EXPORT_START)


def _in_progress(path: Path, pid: int) -> bool:
    has_process = not Path("/proc/self").exists() or Path(f"/proc/{pid}").exists()
    return _age_s(path) < LEFTOVER_AGE_S and has_process


def _age_s(path: Path) -> float:
    """How long ago it was written to; what is gone meanwhile is as new."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _size_within(path: Path) -> int:
    """The size of a file, or of the files in a folder."""
    return sum(map(size_of, path.iterdir())) if path.is_dir() else size_of(path)
