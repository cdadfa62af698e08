"""The ledger: append events, read them back, verify the chain, erase bodies, copy the file.

An append goes: draft (drafting.py: check, encode, salt) -> request (committer.py: queue, place in
the chain) -> store (one transaction) -> receipt. `docs/architecture.md` follows one all the way.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar, cast

import msgspec

from .._version import __version__
from . import chain, records, verify
from .arguments import check_chunk, check_seq, expected_head, note_appended
from .backup import back_up
from .canonical import MAX_BYTES
from .committer import Committer
from .drafting import DEFAULT_STREAM, Drafter, wall_clock
from .erasing import Erasure
from .errors import Closed, InvalidEvent, LedgerMoved, NotALedger, TallyError, Unavailable
from .event import Draft, Event, Head, NewEvent, Receipt, Row
from .headfile import HeadFile, read_head_file
from .portable import export_line
from .recording import Batch, Recording
from .sqlite import Durability, SQLiteStore
from .sqlite.connection import in_place_of_a_ledger
from .sqlite.tail import refuse_lost_tail
from .store import Store, row_at
from .walk import ledger_id_of

CHUNK_EVENTS: Final = 1000
FOLLOW_POLL_S: Final = 0.1
PROGRAM: Final = f"tallystick {__version__}"


class Closable(Protocol):
    """What has to be closed."""

    def close(self) -> None:
        """Release everything."""


C = TypeVar("C", bound=Closable)


class Ledger:
    """An append-only, hash-chained log of events. Safe to share between threads.

    Make one with `Ledger.open` (a file) or `Ledger.over` (any store); use it as a context
    manager or call `close`.
    """

    def __init__(
        self,
        store: Store,
        *,
        path: Path | None = None,
        read_only: bool = False,
        max_body_bytes: int = MAX_BYTES,
        clock: Callable[[], int] = wall_clock,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._store = store
        self._path = path
        self._read_only = read_only
        self._closed = False
        self._pid = os.getpid()
        self._entropy = entropy
        self._drafter = Drafter(clock, entropy, max_body_bytes)
        self._head_file = HeadFile(path) if path is not None and not read_only else None
        self.committer = Committer(store, self._note_head)
        self._recording = Recording(self._drafter, self._submit_recorded)
        self._attached: dict[Callable[[Ledger], Closable], Closable] = {}
        self._attach_lock = threading.Lock()
        self._ledger_id = self._begin()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        read_only: bool = False,
        durability: Durability = Durability.POWER,
        timeout_s: float = 30.0,
        max_body_bytes: int = MAX_BYTES,
        clock: Callable[[], int] = wall_clock,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> Self:
        """Open the ledger file at `path`; it is created if missing, unless `create` is false.

        timeout_s: how long to wait for another process's lock. clock: microseconds since 1970
        UTC. entropy: n to n random bytes; the same clock and entropy make the same bytes.
        Raises LedgerNotFound, NotALedger, NewerFormat, Locked, TailLost and other Unavailable.
        """
        if not read_only:
            refuse_lost_tail(Path(path), timeout_s=timeout_s)
        store = SQLiteStore(
            path, create=create, read_only=read_only, durability=durability, timeout_s=timeout_s
        )
        try:
            return cls(
                store,
                path=Path(path),
                read_only=read_only,
                max_body_bytes=max_body_bytes,
                clock=clock,
                entropy=entropy,
            )
        except BaseException:
            store.close()
            raise

    @classmethod
    def over(
        cls,
        store: Store,
        *,
        max_body_bytes: int = MAX_BYTES,
        clock: Callable[[], int] = wall_clock,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> Self:
        """A ledger over any store; event 1 is appended if the store is empty."""
        return cls(store, max_body_bytes=max_body_bytes, clock=clock, entropy=entropy)

    def _begin(self) -> bytes:
        """The ledger id, from event 1, which is appended first where there is none."""
        first = next(self._store.read(limit=1), None)
        if first is None and not self._read_only:
            self._store.append(self._genesis)
            first = next(self._store.read(limit=1))
        if first is None:
            assert self._path is not None
            unfinished = "open it for writing once to finish creating it"
            empty = NotALedger(str(self._path), "holds no events", unfinished)
            raise in_place_of_a_ledger(self._path, empty, lambda: not self._store.head().seq)
        ledger_id = ledger_id_of(first)
        if ledger_id is None:
            raise NotALedger(str(self._path), "its event 1 is no ledger.created", "run `tally verify`")
        return ledger_id

    def _genesis(self, head: Head) -> list[Row]:
        if head.seq:
            return []  # another process created it a moment ago
        ledger_id = self._entropy(chain.LEDGER_ID_BYTES)
        created = records.LedgerCreated(
            ledger_id=ledger_id.hex(),
            format=records.FORMAT_VERSION,
            program=PROGRAM,
            engine=self._store.engine(),
        )
        draft = self._drafter.own(records.CREATED, created, records.STREAM)
        return [draft.place(1, chain.genesis_hash(ledger_id))]

    # -- appending -----------------------------------------------------------------------

    def append(
        self,
        kind: str,
        body: Any = msgspec.UNSET,
        *,
        stream: str = DEFAULT_STREAM,
        key: str | None = None,
        meta: Mapping[str, Any] | None = None,
        at: int | None = None,
        expect: int | None = None,
    ) -> Receipt:
        """Append one event; when this returns, it is as durable as the ledger promises.

        body: any JSON value, or a msgspec.Struct; default {}. key: the same key with the same
        kind, stream and body gives the first receipt again and appends nothing. expect: the
        seq of the stream's last event (0: none yet), else PositionConflict. at: microseconds
        since 1970 UTC, default the ledger's clock.
        Raises InvalidEvent, KeyConflict, PositionConflict, Unavailable, OutcomeUnknown.
        """
        draft, position = self.prepare(kind, body, stream=stream, key=key, meta=meta, at=at, expect=expect)
        return self.committer.submit((draft,), position)[0]

    def prepare(
        self,
        kind: str,
        body: Any,
        *,
        stream: str,
        key: str | None,
        meta: Mapping[str, Any] | None,
        at: int | None,
        expect: int | None,
    ) -> tuple[Draft, tuple[str, int] | None]:
        """The draft and expected position for the arguments of `append`; touches no store."""
        self._check_writable()
        if expect is not None and (type(expect) is not int or expect < 0):
            raise InvalidEvent(
                "expect", f"{expect!r} is no seq", "give the stream's last seq, or 0 for a new stream"
            )
        event = NewEvent(
            kind=kind, body={} if body is msgspec.UNSET else body, stream=stream, key=key, meta=meta, at=at
        )
        return self._drafter.draft(event), None if expect is None else (stream, expect)

    def append_many(
        self,
        events: Iterable[NewEvent | Mapping[str, Any]],
        *,
        chunk: int = CHUNK_EVENTS,
        atomic: bool = False,
    ) -> list[Receipt]:
        """Append any iterable of events, one commit a chunk; a receipt for each, in order.

        An event is a NewEvent or a mapping with its fields. Each chunk is stored whole or not
        at all; with `atomic` everything is one chunk. On an error the chunks before stay
        stored; the error's `appended` says how many events that is (an exception of the iterable's
        own has a note that says so), and the path of an InvalidEvent begins with `events[i]`.
        """
        check_chunk(chunk)
        self._check_writable()
        receipts: list[Receipt] = []
        source = iter(events)
        try:
            while batch := list(source) if atomic else list(islice(source, chunk)):
                receipts += self.committer.submit(self.prepare_many(batch, len(receipts)))
        except TallyError as error:
            raise error.after(len(receipts)) from None
        except Exception as error:
            note_appended(error, len(receipts))
            raise
        return receipts

    def prepare_many(self, batch: Sequence[NewEvent | Mapping[str, Any]], offset: int = 0) -> list[Draft]:
        """The drafts of a batch, whose first event is number `offset` in errors; touches no store."""
        draft, hasher = self._drafter.draft, chain.Hasher()
        drafts: list[Draft] = []
        try:
            for event, salt in zip(batch, self._drafter.salts(len(batch)), strict=True):
                drafts.append(draft(event, salt, hasher))
        except InvalidEvent as error:
            error.index = len(drafts)
            raise error.inside(f"events[{offset + error.index}]") from None
        return drafts

    # -- for recorders -------------------------------------------------------------------

    def record(
        self,
        events: Sequence[NewEvent],
        *,
        expect: tuple[str, int] | None = None,
        result: Any = msgspec.UNSET,
    ) -> list[Receipt] | None:
        """Append events of the built-in kinds in one commit; a recorder calls this, apps call `append`.

        expect: (stream, seq of its last event), as in `append`. result: what the recorded work gave;
        with it every failure is RecordingFailed, which hands it back. None instead of receipts inside
        `batch`, where events without `expect` wait for their commit. Raises as `append_many` does.
        """
        return self._recording.record(events, expect, result)

    def batch(self, *, chunk: int = CHUNK_EVENTS) -> AbstractContextManager[Batch]:
        """Commit what recorders write inside the `with` block a chunk at a time, the rest at its end.

        Far faster than a commit a record, and less durable: a crash loses the records that wait. Holds
        for this ledger in the current thread or asyncio task; `append` and `append_many` commit at
        once, as always. Leaving the block, by an exception too, stores the rest; RecordingFailed if
        that fails.
        """
        check_chunk(chunk)
        return self._recording.batch(chunk)

    def prepare_records(self, events: Sequence[NewEvent]) -> list[Draft]:
        """The drafts of a recorder's events; touches no store."""
        self._check_writable()
        return self._recording.drafts(events)

    def _submit_recorded(
        self, drafts: Sequence[Draft], expect: tuple[str, int] | None = None
    ) -> list[Receipt]:
        self._check_writable()
        return self.committer.submit(drafts, expect)

    def register(self, kind: str, body: type[msgspec.Struct]) -> None:
        """Validate later bodies of `kind` against a struct; see `json_schemas`. Raises InvalidEvent."""
        self._drafter.registry.register(kind, body)

    def json_schemas(self) -> dict[str, dict[str, Any]]:
        """JSON Schema (2020-12) of the body of each registered kind."""
        return self._drafter.registry.json_schemas()

    def context(
        self,
        *,
        actor: str | None = None,
        correlation: str | None = None,
        causation: str | None = None,
        traceparent: str | None = None,
        **extra: Any,
    ) -> AbstractContextManager[None]:
        """Put these into the meta of every event appended inside the `with` block.

        Holds for this ledger in the current thread or asyncio task; blocks nest, and an
        event's own meta wins.
        """
        named = {
            "actor": actor,
            "correlation": correlation,
            "causation": causation,
            "traceparent": traceparent,
        }
        return self._drafter.context({**named, **extra})

    def erase(self, seq: int, reason: str) -> Receipt:
        """Erase the body of an event for good; the chain still verifies.

        Appends `ledger.body_erased` and nulls body and salt in the same transaction, then
        scrubs the old bytes from the file and its log. Erasing an erased event again repeats
        the scrubbing only and returns the first record's receipt. Backups, exports and copies
        made earlier keep the body. Raises NoSuchEvent, NotErasable, InvalidEvent, TracesRemain.
        """
        return self.erase_many([seq], reason)[0]

    def erase_many(
        self, seqs: Sequence[int], reason: str, *, record: Sequence[NewEvent] = ()
    ) -> list[Receipt]:
        """`erase` for many events in one transaction: all are erased or none; a receipt for each.

        record: a recorder's own events about it, appended behind the erasures in the same transaction.
        """
        self._check_writable()
        erasure = Erasure(self._store, self._drafter, seqs, reason)
        about = self._recording.drafts(record)
        self._note_head(self._store.erase(erasure.seqs, lambda head: erasure.rows(head, about)))
        return erasure.receipts

    # -- reading -------------------------------------------------------------------------

    def read(
        self,
        after: int = 0,
        *,
        before: int | None = None,
        stream: str | None = None,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Event]:
        """Events with `after < seq < before`, oldest first, newest first with `reverse`.

        kinds: exact kinds or glob patterns such as `message.*`. Constant memory; no lock is
        held between pages. Raises InvalidEvent, MalformedEvent, Unavailable.
        """
        if isinstance(kinds, str):
            raise InvalidEvent("kinds", f"{kinds!r} is one string", "give a list of kinds or patterns")
        check_seq(after, "after")
        check_seq(before, "before", optional=True)
        check_seq(limit, "limit", optional=True)
        rows = self._store.read(
            after, before=before, stream=stream, kinds=kinds, limit=limit, reverse=reverse
        )
        return map(Event.from_row, rows)

    def rows(
        self,
        after: int = 0,
        *,
        before: int | None = None,
        stream: str | None = None,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Row]:
        """As `read`, but rows as stored, bodies undecoded: for what reads far more than it decodes."""
        return self._store.read(
            after, before=before, stream=stream, kinds=kinds, limit=limit, reverse=reverse
        )

    def get(self, seq: int) -> Event:
        """The event with this seq. Raises NoSuchEvent, InvalidEvent, MalformedEvent, Unavailable."""
        check_seq(seq, "seq")
        return Event.from_row(row_at(self._store, seq))

    def find(self, key: str) -> Event | None:
        """The event with this idempotency key, or None. Raises MalformedEvent, Unavailable."""
        row = self._store.find_key(key)
        return None if row is None else Event.from_row(row)

    def follow(
        self,
        after: int | None = None,
        *,
        stream: str | None = None,
        kinds: Sequence[str] | None = None,
        poll_s: float = FOLLOW_POLL_S,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """A live tail: every event after `after` (default: those appended from now on), for ever.

        Never misses or repeats an event, whoever appends it. Between events it asks the store
        for its head every `poll_s` seconds, and ends once `stop()` is true.
        """
        check_seq(after, "after", optional=True)
        seen = self.head().seq if after is None else after
        return self._follow(seen, stream, kinds, poll_s, stop)

    def _follow(
        self,
        seen: int,
        stream: str | None,
        kinds: Sequence[str] | None,
        poll_s: float,
        stop: Callable[[], bool],
    ) -> Iterator[Event]:
        while not stop():
            head = self._store.head()
            if head.seq <= seen:
                time.sleep(poll_s)
                continue
            yield from self.read(seen, before=head.seq + 1, stream=stream, kinds=kinds)
            seen = head.seq

    def head(self) -> Head:
        """The last event's seq and hash as of now, with the ledger id; `str(head)` is its line."""
        head = self._store.head()
        return Head(head.seq, head.hash, self._ledger_id)

    def stats(self) -> dict[str, Any]:
        """Counts and sizes: events, streams, erased bodies, bytes, kinds, first and last time."""
        return {"ledger_id": self._ledger_id.hex(), **self._store.summary()}

    def verify(
        self,
        expect: Head | str | None = None,
        *,
        span: tuple[int, int] | None = None,
        stream: str | None = None,
        jobs: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> verify.Report:
        """Derive every hash again; see `tallystick.ledger.verify.verify`.

        expect: a head kept elsewhere, or its line. Raises BadHead, InvalidEvent, Unavailable.
        """
        expect = expected_head(expect)
        if self._head_file is not None:
            self._keep_head()
        return verify.verify(
            self._store,
            expect=expect,
            kept=read_head_file(self._path) if self._path is not None else None,
            span=span,
            stream=stream,
            jobs=jobs,
            path=self._path,
            progress=progress,
        )

    def export(self, first: int = 1, last: int | None = None) -> Iterator[bytes]:
        """The events `first` to `last` (default: to the head as of now), each a line of JSON.

        docs/format.md defines the line; `tallystick.import_lines` is the inverse.
        """
        end = self._store.head().seq if last is None else last
        return map(export_line, self._store.read(first - 1, before=end + 1))

    # -- the file ------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """The file that `open` was given; None for a ledger over another store."""
        return self._path

    def attached(self, make: Callable[[Ledger], C]) -> C:
        """What `make(ledger)` gives, made once for this handle and closed with it."""
        with self._attach_lock:
            if make not in self._attached:
                self._attached[make] = make(self)
            return cast(C, self._attached[make])

    def backup(self, path: str | os.PathLike[str]) -> Head:
        """Copy the ledger, consistently, to a path that does not exist, while writers go on.

        The copy is compact, is durable when this returns, and gets a head file of its own.
        A crash leaves the whole copy or none (perhaps a `.tmp` file). The copy's head. Raises TailLost
        where the head file contradicts the log, and other Unavailable.
        """
        return back_up(self._store, Path(path), self._ledger_id)

    def _note_head(self, head: Head) -> None:
        """Keep the durable head beside the file, at most once a second."""
        if self._head_file is not None and self._head_file.due():
            self._keep_head(head)

    def _keep_head(self, head: Head | None = None) -> None:
        assert self._head_file is not None
        head = head or self._store.head()
        # The events are stored: trouble with this file must not look like trouble with them.
        with suppress(OSError):
            if isinstance(self._store, SQLiteStore):
                if not self._store.is_in_place():
                    return  # whatever is there now, this head is not its own
                self._store.sync()
            self._head_file.write(Head(head.seq, head.hash, self._ledger_id))

    def _check_writable(self) -> None:
        where = self._path or "the ledger"
        if self._closed:
            raise Closed(f"{where} was closed", "open it again")
        if os.getpid() != self._pid:  # another thread's lead may have been copied with its locks
            raise Closed(f"{where} was opened before a fork", "open the ledger again in the child process")
        if self._read_only:
            raise Unavailable(str(self._path), "was opened read-only", "open it without read_only to append")

    def close(self) -> None:
        """Keep the head, fold the log into the file, release everything. Safe to call twice.

        Raises LedgerMoved, with everything released, if the file was moved, removed or replaced
        since the last events were appended.
        """
        if self._closed:
            return
        self._closed = True
        try:
            for attached in self._attached.values():
                attached.close()
            if self._head_file is not None:
                self._keep_head()
        except Closed:
            pass  # carried across a fork: the head is the parent's to keep
        finally:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except LedgerMoved as moved:
            if error is None:
                raise
            if not isinstance(error, LedgerMoved):
                error.add_note(str(moved))
