"""Every error Tallystick raises on purpose, under one root.

Each error builds its message from its fields: what was expected, what was found, what to
do. Callers branch on types and fields, never on text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self


class TallyError(Exception):
    """Root of every error that Tallystick raises on purpose."""

    #: Set by `append_many`: how many events were stored before the error.
    appended: int | None = None
    #: Set where one of many events is at fault: its index among those given.
    index: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # What `copy` and `pickle` would do, calling the class with `args`, fails: the constructors
        # take fields, and `args` holds the message.
        return _restore, (type(self), self.args, self.__dict__)

    def after(self, stored: int) -> Self:
        """The same error, of a batch that came after `stored` events."""
        self.appended = stored
        if self.index is not None:
            self.index += stored
        return self


def _restore(error_type: type[TallyError], args: tuple[Any, ...], fields: dict[str, Any]) -> TallyError:
    error = error_type.__new__(error_type)
    error.args = args
    error.__dict__.update(fields)
    return error


# -- bad input: nothing was sent to the store ----------------------------------------------


class InvalidEvent(TallyError, ValueError):
    """An event that may not be appended.

    `path` names the offending place (`body.items[2].price`, `kind`, `stream`).
    """

    def __init__(self, path: str, problem: str, remedy: str = "") -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem}" + (f"; {remedy}" if remedy else ""))

    def inside(self, outer: str) -> Self:
        """The same error with the path of what holds the event put before its own."""
        self.path = f"{outer}.{self.path}"
        self.args = (f"{outer}.{self.args[0]}",)
        return self


class NotCanonical(InvalidEvent):
    """A value that canonical JSON cannot hold without loss."""


class BodyTooLarge(InvalidEvent):
    """A body or meta over the ledger's size limit."""

    def __init__(self, path: str, size_bytes: int, limit_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            path,
            f"{size_bytes:,} bytes of JSON, more than the {limit_bytes:,} allowed",
            "append a digest of the content instead, or open the ledger with a larger max_body_bytes",
        )


class ReservedKind(InvalidEvent):
    """A kind that belongs to one of Tallystick's own recorders."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(
            "kind",
            f"{kind!r} is reserved for Tallystick's own recorders",
            "choose another first word, such as your app's name",
        )


# -- what the caller expected is not so: nothing was stored --------------------------------


class KeyConflict(TallyError):
    """The idempotency key was used before, for something else.

    `difference` names what is not the same: kind, stream or body. With `erased` nobody can tell,
    for the first body is gone.
    """

    def __init__(self, key: str, seq: int, difference: str, erased: bool = False) -> None:
        self.key = key
        self.seq = seq
        self.difference = difference
        self.erased = erased
        what = f"by event {seq} with another {difference}"
        if erased:
            what = f"by event {seq}, whose {difference} was erased since, so it cannot be compared"
        super().__init__(f"key {key!r} was used {what}; nothing was appended: use a new key for a new event")


class PositionConflict(TallyError):
    """The stream's last event is not the one that the caller expected."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        self.stream = stream
        self.expected = expected
        self.actual = actual
        super().__init__(
            f"stream {stream!r}: expected its last event to be seq {expected}, found {actual}; "
            "nothing was appended: read the stream again and decide anew"
        )


class NotErasable(TallyError):
    """An event whose body must stay, or that does not exist."""

    def __init__(self, seq: int, problem: str) -> None:
        self.seq = seq
        self.problem = problem
        super().__init__(f"event {seq} cannot be erased: {problem}")


class TracesRemain(TallyError):
    """The erasure is recorded, but old pages could not be scrubbed from the file yet.

    `reason` says what kept the old pages in the write-ahead log.
    """

    def __init__(
        self,
        path: str,
        seqs: tuple[int, ...],
        reason: str = "a reader holds on to them",
        remedy: str = "close other readers",
    ) -> None:
        self.path = path
        self.seqs = seqs
        self.reason = reason
        self.remedy = remedy
        super().__init__(
            f"{path}: the erasure is recorded and the body can no longer be read, but its old pages are in "
            f"the write-ahead log still ({reason}); {remedy} and erase the same event again to finish"
        )


class NoSuchEvent(TallyError, LookupError):
    """A seq outside the log."""

    def __init__(self, seq: int, last: int) -> None:
        self.seq = seq
        self.last = last
        super().__init__(f"no event {seq}: the ledger holds 1 to {last}")


# -- the store -----------------------------------------------------------------------------


class StoreError(TallyError):
    """Trouble with the place where rows are kept."""


class Conflict(StoreError):
    """Another writer came first and the store gave up trying again; nothing was stored."""


class Unavailable(StoreError):
    """The store could not be used; nothing was stored."""

    def __init__(self, where: str, problem: str, remedy: str = "") -> None:
        self.where = where
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{where}: {problem}" + (f"; {remedy}" if remedy else ""))


class LedgerNotFound(Unavailable):
    """No file at the path given."""

    def __init__(self, where: str) -> None:
        super().__init__(where, "no such ledger", "create it with `tally init`, or name another with -f FILE")


class NotALedger(Unavailable):
    """The file exists and is something else; it was not touched."""


class NewerFormat(Unavailable):
    """The ledger was written by a newer version of Tallystick."""

    def __init__(self, where: str, found: int, known: int) -> None:
        self.found = found
        self.known = known
        super().__init__(
            where, f"ledger format {found}; this version reads formats up to {known}", "upgrade tallystick"
        )


class Locked(Unavailable):
    """Another process held the lock longer than the time-out."""

    def __init__(self, where: str, waited_s: float) -> None:
        self.waited_s = waited_s
        super().__init__(
            where,
            f"locked by another process for more than {waited_s:g} s",
            "wait for it to finish, or open with a larger timeout_s",
        )


class Corrupt(Unavailable):
    """SQLite found the file's structure damaged."""

    def __init__(self, where: str, detail: str) -> None:
        super().__init__(
            where,
            f"the database structure is damaged ({detail})",
            "run `tally verify`, then restore a backup",
        )


class TailLost(Unavailable):
    """The log ends before the head that was last known to be durable.

    Appending would hide the loss, so a ledger in this state opens for reading only. Nothing was
    written. `last`: where the log ends (0: it is empty, or gone). `expected`: the seq that the head
    file vouches for.
    """

    def __init__(self, where: str, last: int, expected: int, head_file: str) -> None:
        self.last = last
        self.expected = expected
        self.head_file = head_file
        found, lost = (f"the log ends at event {last}", "its end") if last else ("there are no events", "all")
        super().__init__(
            where,
            f"{found}, but {head_file} vouches for event {expected}: {lost} was lost",
            "restore a backup; or, to go on from what is left, keep that head file under another name",
        )


class HistoryReplaced(TailLost):
    """The log holds another event where the head file vouches for one, or none: another history.

    `found`: the hash that stands there; None if no event does.
    """

    def __init__(
        self, where: str, last: int, expected: int, head_file: str, found: bytes | None = None
    ) -> None:
        self.last = last
        self.expected = expected
        self.head_file = head_file
        self.found = found
        is_what = "is missing" if found is None else "is another"
        Unavailable.__init__(
            self,
            where,
            f"event {expected}, for which {head_file} vouches, {is_what}: history was replaced",
            "run `tally verify`, then restore a backup",
        )


class WrongHeadFile(TailLost):
    """The head file beside the log names another ledger; either of the two is not the right one.

    `ledger_id`: of the log, `named`: of the head file (None: it names none).
    """

    def __init__(
        self, where: str, last: int, expected: int, head_file: str, ledger_id: bytes, named: bytes | None
    ) -> None:
        self.last = last
        self.expected = expected
        self.head_file = head_file
        self.ledger_id = ledger_id
        self.named = named
        other = "no ledger" if named is None else f"another ledger, {named.hex()}"
        Unavailable.__init__(
            self,
            where,
            f"this is ledger {ledger_id.hex()}, but {head_file} names {other}",
            "put the right file back, or keep that head file under another name",
        )


class LedgerMoved(Unavailable):
    """The file that was opened for writing is not at its path any more: moved, removed or replaced.

    `found`: what is there now. `last`: the last event in the file that was opened; those after `seen`,
    when the file was last known to be in its place, may be nowhere else.
    """

    def __init__(self, where: str, found: str, last: int, seen: int) -> None:
        self.found = found
        self.last = last
        self.seen = seen
        lately = f"events {seen + 1} to {last} were appended" if last > seen else "nothing was appended"
        super().__init__(
            where,
            f"there is {found} where the ledger was opened; since it was last seen here {lately} to the file "
            "that was opened, which was moved, removed or replaced",
            "find that file and put it back, or restore a backup, and open the ledger again",
        )


class LogRemoved(LedgerMoved):
    """The write-ahead log of the file that was opened for writing was removed or replaced under its writer.

    Fields as of LedgerMoved. Where nobody else wrote since, closing the ledger saves the events.
    """

    def __init__(self, where: str, found: str, last: int, seen: int) -> None:
        self.found = found
        self.last = last
        self.seen = seen
        lately = f"events {seen + 1} to {last} were appended" if last > seen else "nothing was appended"
        Unavailable.__init__(
            self,
            where,
            f"there is {found} where its write-ahead log was opened ({where}-wal); since it was last seen "
            f"{lately}",
            "close the ledger everywhere (which saves them if nobody else wrote) and run `tally verify`",
        )


class Interfered(StoreError):
    """The file did not keep events as they were sent, without an error: a trigger, as a rule.

    `events`: how many were sent. `kept`: whether something else than what was sent is stored now;
    else nothing is. `triggers`: those in the file that are not the ledger's own.
    """

    def __init__(self, where: str, events: int, kept: bool, triggers: tuple[str, ...]) -> None:
        self.where = where
        self.events = events
        self.kept = kept
        self.triggers = triggers
        by = f" (foreign triggers: {', '.join(triggers)})" if triggers else ""
        became = "what is stored is not what was sent" if kept else "nothing was stored"
        sent = "an event" if events == 1 else f"{events:,} events"
        super().__init__(
            f"{where}: the file did not take {sent} as sent{by}; {became}: "
            "another program changed the file; run `tally doctor`"
        )


class OutcomeUnknown(StoreError):
    """The store may or may not have the rows; the head must be asked."""


class RecordingFailed(TallyError):
    """The work was done, but its record could not be stored; `cause` says why.

    `results` holds what the work gave (an ExecutionTrace, an ActionRecord, …), one for each call whose
    record was lost, in order; `result` is the last.
    """

    def __init__(self, cause: TallyError, results: Sequence[Any]) -> None:
        self.cause = cause
        self.results = tuple(results)
        self.result = self.results[-1] if self.results else None
        what = "its record" if len(self.results) == 1 else f"the records of {len(self.results)} calls"
        super().__init__(
            f"the work was done but {what} could not be stored ({cause}); "
            "what it gave is in `.results`: keep it, do not simply run it again"
        )


class Closed(TallyError):
    """The handle was closed, or belongs to the process that forked this one."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")


# -- looking at a ledger -------------------------------------------------------------------


class MalformedEvent(TallyError):
    """A stored event that cannot be decoded: it was altered."""

    def __init__(self, seq: int, problem: str) -> None:
        self.seq = seq
        self.problem = problem
        super().__init__(f"event {seq} cannot be decoded ({problem}); run `tally verify`")


class BadHead(TallyError, ValueError):
    """A head line that cannot be read."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(
            f"{text[:120]!r} is no head: expected tally1:<ledger id>:<seq>:<hash> as `tally head` prints it, "
            "or <seq>:<hash>"
        )


class BadLine(TallyError, ValueError):
    """A line of input that is no event. `line` counts from 1."""

    def __init__(self, source: str, line: int, problem: str) -> None:
        self.source = source
        self.line = line
        self.problem = problem
        super().__init__(f"{source}, line {line}: {problem}")
