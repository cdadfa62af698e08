"""The folder or zip file of an incident: whole under its name or not there, and the same bytes each time.

Written under a temporary name beside its own and renamed: a crash leaves nothing under the name that was
asked for. Zip entries have one fixed time, one order and no compression, which would depend on a library's
version.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec

from tallystick.ledger.errors import Unavailable
from tallystick.ledger.event import Row
from tallystick.ledger.portable import export_line
from tallystick.recorders.gateway.pack import zip_entry

REPORT: Final = "report.html"
README: Final = "README.txt"
EVENTS: Final = "events.jsonl"
WHY: Final = "why.jsonl"
CHAIN: Final = "chain.jsonl"
HEAD: Final = "head.txt"
SUMMARY: Final = "summary.json"
REPLAY: Final = "replay.json"
VERIFIER: Final = "verify_ledger.py"
MANIFEST: Final = "manifest.json"
PACKS: Final = "packs"
FILES: Final = frozenset(
    {REPORT, README, EVENTS, WHY, CHAIN, HEAD, SUMMARY, REPLAY, VERIFIER, MANIFEST, PACKS}
)
#: What a zip file has all its files in, so that unpacking it litters nothing.
FOLDER: Final = "incident"

#: What a gateway calls its decisions. Any other id is no name for a file.
_DECISION_ID: Final = re.compile(r"dec_[0-9A-HJKMNP-TV-Z]{26}")


class FileFact(msgspec.Struct, frozen=True):
    """A file that was written: its name in the folder, its size, and the SHA-256 of its bytes in hex."""

    name: str
    bytes: int
    sha256: str


class _Place(Protocol):
    def open(self, name: str) -> IO[bytes]:
        """A new file to write."""


class Bundle:
    """Takes files, and knows what it took."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self.files: list[FileFact] = []

    @contextmanager
    def file(self, name: str) -> Iterator[_Writer]:
        """Write a file piece by piece."""
        with self._place.open(name) as file:
            writer = _Writer(file)
            yield writer
        self.files.append(FileFact(name, writer.bytes, writer.sha256.hexdigest()))

    def put(self, name: str, data: bytes) -> None:
        """Write a file at once."""
        with self.file(name) as writer:
            writer.write(data)


class _Writer:
    """A file that counts and hashes what goes into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)
        self.sha256.update(data)
        self.bytes += len(data)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, name: str) -> IO[bytes]:
        target = self._path / name
        target.parent.mkdir(exist_ok=True)
        return target.open("xb")


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def open(self, name: str) -> IO[bytes]:
        # Of files whose size is not known beforehand.
        is_large = name.endswith(".jsonl")
        return self._archive.open(zip_entry(f"{FOLDER}/{name}"), "w", force_zip64=is_large)


def is_zip(target: Path) -> bool:
    """Whether a name is one of a zip file; else it is one of a folder."""
    return target.suffix.lower() == ".zip"


@contextmanager
def bundle(target: Path, *, force: bool) -> Iterator[Bundle]:
    """A folder, or a zip file if its name ends so, that stands under its name once it is complete.

    force: takes the place of what an earlier incident wrote there. Raises Unavailable, and OSError, which
    names `target`.
    """
    check_target(target, force=force)
    _remove_leftovers(target)
    temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}.tmp")
    try:
        if is_zip(target):
            with temporary.open("xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                    yield Bundle(_Zip(archive))
                file.flush()
                os.fsync(file.fileno())
        else:
            temporary.mkdir()
            with _locked(temporary):
                yield Bundle(_Folder(temporary))
        # Here it comes to stand under its name, whole: a crash before leaves the temporary one alone.
        _rename(temporary, target, force)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock on a file or folder. Raises BlockingIOError if a process that lives holds it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    """Remove what commands that were killed while they wrote `target` left beside it."""
    name = re.compile(re.escape(f".{target.name[:100]}.") + r"([0-9]{1,9})\.tmp")
    for left in target.parent.iterdir():
        found = name.fullmatch(left.name)
        if found is None or left.is_symlink() or _lives(int(found[1])):
            continue
        # OSError: its writer lives where its number means another process, or it is not ours.
        with suppress(OSError), _locked(left):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()


def _lives(process: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def check_target(target: Path, *, force: bool) -> None:
    """Refuse a name that is taken by what must stay. Raises Unavailable."""
    if not target.name or not target.parent.is_dir():
        raise Unavailable(str(target), "its directory does not exist", "make the directory first")
    if not os.path.lexists(target):
        return
    if not force:
        raise Unavailable(
            str(target), "exists already", "name another, or replace it with --force (force=True)"
        )
    if target.is_symlink() or is_zip(target) != target.is_file():
        raise Unavailable(str(target), "is something else than an incident was written to", "name another")
    if target.is_dir() and (others := sorted(set(os.listdir(target)) - FILES)):
        problem = f"holds what no incident has ({others[0]})"
        raise Unavailable(str(target), problem, "name another, or remove that folder")


def _rename(temporary: Path, target: Path, force: bool) -> None:
    taken = Unavailable(
        str(target), "exists already", "name another, or replace it with --force (force=True)"
    )
    if is_zip(target):
        if force:
            temporary.replace(target)
            return
        try:
            os.link(temporary, target)  # unlike a rename, never replaces a file made meanwhile
        except FileExistsError:
            raise taken from None
        return
    before = target.with_name(f".{target.name[:100]}.{os.getpid()}.old")
    if force and target.is_dir():
        target.rename(before)
    try:
        temporary.rename(target)  # refused by the system if a folder with files was made meanwhile
    except OSError:
        if before.is_dir():
            with suppress(OSError):
                before.rename(target)
        if os.path.lexists(target):
            raise taken from None
        raise
    shutil.rmtree(before, ignore_errors=True)


def pack_name(decision_id: str, seq: int) -> str:
    """The file of a decision's pack. An id that no gateway made says nothing about paths here."""
    named = decision_id if _DECISION_ID.fullmatch(decision_id) else f"decision-{seq}"
    return f"{PACKS}/{named}.zip"


def chain_line(row: Row) -> bytes:
    """What the chain needs of an event between those of the incident: all that its hash covers, no body.

    Its salt stays behind as well, so that nothing of the body can be guessed from its hash. Raises
    MalformedEvent.
    """
    whole = msgspec.json.decode(export_line(row._replace(body=None, salt=None)))
    names = ("seq", "at", "kind", "stream", "key", "meta", "body_hash")
    return msgspec.json.encode({name: whole[name] for name in names})


def why_line(row: Row, ring: str, why: str) -> bytes:
    """Why an event belongs, as a line of why.jsonl."""
    return msgspec.json.encode({"seq": row.seq, "kind": row.kind, "ring": ring, "why": why}) + b"\n"
