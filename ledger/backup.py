"""Copying a ledger file while writers go on: the whole copy or none, with a head file of its own."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import Unavailable
from .event import Head
from .headfile import HeadFile, head_path, sync_directory
from .sqlite import SQLiteStore
from .store import Store


def back_up(store: Store, target: Path, ledger_id: bytes) -> Head:
    """See `Ledger.backup`: copy the store's file to `target`, which does not exist; the copy's head."""
    if not isinstance(store, SQLiteStore):
        raise Unavailable(str(target), "this store has no file to copy", "export its events instead")
    if target.exists() or head_path(target).exists():
        raise Unavailable(str(target), "exists already", "name a new file")
    if not target.parent.is_dir():
        raise Unavailable(str(target), "its directory does not exist", "make the directory first")
    store.check_tail()  # the copy's own head file would hide the loss
    temporary = Path(f"{target}.{os.getpid()}.tmp")
    try:
        store.copy_to(temporary)
        copy = SQLiteStore(temporary, read_only=True)
        try:
            head = copy.head()
        finally:
            copy.close()
        os.link(temporary, target)  # unlike a rename, never replaces a file made meanwhile
        sync_directory(target)
    except FileExistsError:
        raise Unavailable(str(target), "exists already", "name a new file") from None
    finally:
        for leftover in (temporary, Path(f"{temporary}-wal"), Path(f"{temporary}-shm")):
            leftover.unlink(missing_ok=True)
    head = Head(head.seq, head.hash, ledger_id)
    HeadFile(target).write(head)
    return head
