"""A file that a command writes: which names it may take, and that it comes to be whole or not at all."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, TypeVar, cast

import click

SQLITE_MAGIC: Final = b"SQLite format 3\0"
#: What lies beside a ledger under its name: the head file, SQLite's own, the views and SQLite's of them.
COMPANIONS: Final = (".head", "-wal", "-shm", "-journal", ".views", ".views-wal", ".views-shm")
#: Speed for size: level 9 takes three times as long for a tenth less.
GZIP_LEVEL: Final = 6

F = TypeVar("F", bound=Callable[..., Any])


def force_option(command: F) -> F:
    """`--force`; the command gets `force`."""
    return click.option("--force", is_flag=True, help="Replace the file if it exists.")(command)


def check_output(output: Path, *, force: bool) -> None:
    """Refuse a file that must stay: a database, what belongs to a ledger, any other unless `force`.

    Pipes and devices may be written. To be asked before the ledger is opened: closing a file that
    SQLite has open in this process drops its locks. Raises UsageError.
    """
    real = os.path.realpath(output)
    for suffix in COMPANIONS:
        ledger = Path(real.removesuffix(suffix))
        if real.endswith(suffix) and _is_database(ledger):
            raise click.UsageError(f"{output} belongs to the ledger {ledger.name}; name another file")
    if _is_database(Path(real)):
        raise click.UsageError(f"{output} is a database, and stays; name another file")
    if output.is_file() and not force:
        raise click.UsageError(f"{output} exists already; name another file, or replace it with --force")


def _is_database(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


@contextmanager
def replacing(output: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `output` once it is complete; pipes and devices at once.

    Gzipped if it ends in .gz. Raises OSError, which names `output`.
    """
    try:
        with _replacing(output) as file:
            yield file
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(output)) from None


@contextmanager
def _replacing(output: Path) -> Iterator[IO[bytes]]:
    if output.exists() and not output.is_file():
        with output.open("wb") as file:
            yield file
        return
    temporary = output.with_name(f"{output.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            if output.suffix == ".gz":
                # No name and no time inside: the same log makes the same bytes.
                with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as zipped:
                    yield cast(IO[bytes], zipped)
            else:
                yield file
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
