"""Opening an incident that anybody may have made: its files by name, within bounds; no link is followed."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from .errors import BadIncident
from .files import FOLDER, MANIFEST, PACKS

ENTRIES_MAX: Final = 1100
_NAME_MAX: Final = 200
#: The end of a zip file's directory (APPNOTE 4.3.16), and what stands before it in the 64-bit form (4.3.15).
_END: Final = struct.Struct("<4s4H2LH")
_END_TAG: Final = b"PK\x05\x06"
_ZIP64_TAG: Final = b"PK\x06\x07"
_ZIP64_BYTES: Final = 20
_DIRECTORY_BYTES_MAX: Final = 1 << 20
_LOCAL_HEADER: Final = 30
_ENCRYPTED: Final = 0x1
_REMEDY: Final = "ask for the incident again"


class Opened:
    """The files of an incident: `names`, and how to read them."""

    def __init__(self, where: str, names: set[str], opener: Callable[[str], IO[bytes]]) -> None:
        self.where = where
        self.names = names
        self._opener = opener

    @contextmanager
    def file(self, name: str) -> Iterator[IO[bytes]]:
        """A file to read. Raises BadIncident if it is not there or cannot be read."""
        if name not in self.names:
            raise BadIncident(self.where, f"{name} is missing", _REMEDY)
        try:
            with self._opener(name) as file:
                yield file
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise BadIncident(self.where, f"{name} cannot be read ({why})", _REMEDY) from None

    def read(self, name: str, bytes_max: int) -> bytes:
        """A whole file. Raises BadIncident for a larger one."""
        with self.file(name) as file:
            data = file.read(bytes_max + 1)
        if len(data) > bytes_max:
            raise BadIncident(self.where, f"{name} has more than {bytes_max:,} bytes", _REMEDY)
        return data


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """The incident in a folder or zip file. Raises BadIncident, OSError."""
    if path.is_dir():
        yield Opened(str(path), _names_in(path), lambda name: _regular(path / name))
        return
    with path.open("rb") as file:
        _check_directory(str(path), file)
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise BadIncident(str(path), f"cannot be unpacked ({error})", _REMEDY) from None
        with archive:
            members = _members(str(path), archive)
            yield Opened(str(path), set(members), lambda name: archive.open(members[name]))


def is_incident(path: Path) -> bool:
    """Whether a folder or file looks as if it was one."""
    if path.is_dir():
        return (path / MANIFEST).is_file()
    with path.open("rb") as file:
        start = file.read(_LOCAL_HEADER + len(FOLDER) + 1)
    return start.startswith(b"PK") and start[_LOCAL_HEADER:] == f"{FOLDER}/".encode()


def _names_in(folder: Path) -> set[str]:
    names: set[str] = set()
    for place, prefix in ((folder, ""), (folder / PACKS, f"{PACKS}/")):
        if prefix and (place.is_symlink() or not place.is_dir()):
            continue
        with os.scandir(place) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False) or prefix:
                    names.add(prefix + entry.name)
                elif entry.name != PACKS:
                    names.add(f"{entry.name}/")
                if len(names) > ENTRIES_MAX:
                    raise BadIncident(str(folder), f"has more than {ENTRIES_MAX:,} files", _REMEDY)
    return names


def _regular(path: Path) -> IO[bytes]:
    """A regular file, open: no link, no pipe that would never end."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(0, "no regular file")
    return file


def _check_directory(where: str, file: IO[bytes]) -> None:
    """Look at the end of a zip file first: a directory of a million entries is refused unread."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise BadIncident(
            where, "is no regular file", "name a folder or zip file that `tally incident` wrote"
        )
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size - _ZIP64_BYTES))
    tail = file.read()
    end = tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(_END_TAG):
        problem = "is no zip file, or not as an incident is written"
        raise BadIncident(where, problem, "name a folder or zip file that `tally incident` wrote")
    if tail.startswith(_ZIP64_TAG) and len(tail) == _END.size + _ZIP64_BYTES:
        raise BadIncident(where, "is a zip file of the 64-bit form", "unpack it and name the folder")
    _, _, _, _, entries, bytes_, _, comment = _END.unpack(end)
    if comment or entries > ENTRIES_MAX or bytes_ > _DIRECTORY_BYTES_MAX:
        raise BadIncident(where, f"has {entries:,} files or a comment, which no incident has", _REMEDY)
    file.seek(0)


def _members(where: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.orig_filename
        if not name.startswith(f"{FOLDER}/") or len(name) > _NAME_MAX:
            raise BadIncident(where, f"{name[:80]!r} is no part of an incident", _REMEDY)
        if info.flag_bits & _ENCRYPTED or info.compress_type != zipfile.ZIP_STORED:
            problem = f"{name[:80]!r} is encrypted or compressed, which nothing in an incident is"
            raise BadIncident(where, problem, "unpack it and name the folder")
        name = name.removeprefix(f"{FOLDER}/")
        if name in members:
            raise BadIncident(where, f"{name!r} is in it twice", _REMEDY)
        if name and name != f"{PACKS}/":
            members[name] = info
    return members
