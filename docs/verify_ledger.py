"""A second verifier for Tallystick ledgers, written from docs/format.md alone.

It shares no code with the package, so that the two can contradict each other. It takes a
ledger (SQLite) or an export (JSON lines, also gzip or on standard input) and prints one line:

    VERIFIED 12 events, head tally1:…      every hash follows and --expect names the last event
    UNANCHORED 12 events, head tally1:…    every hash follows; nothing outside vouches for the end
    BROKEN seq 5: edited: …                the first finding

With --part the file holds some events of a log, such as those of an incident: each is checked by itself and
against its neighbours. With --chain FILE it holds them, too, and FILE what the chain needs of all others:
together they are checked as a whole log, and of each session or decision that the file holds in part it is
said how many events FILE alone has: their bodies are withheld.

Exit status: 0 VERIFIED or UNANCHORED, 1 BROKEN, 2 usage, 3 could not look. Needs Python 3.11
and the package ``blake3``. Section numbers refer to docs/format.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import re
import sqlite3
import stat
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

try:
    from blake3 import blake3
except ImportError as missing:
    print(f"could not look: {missing}: pip install blake3", file=sys.stderr)
    sys.exit(3)

EVENT_TAG = b"tally.event.v1\x00"  # section 4
GENESIS_TAG = b"tally.genesis.v1\x00"  # section 4
FORMAT = 1  # section 5
KIND = re.compile(rb"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")  # section 2
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # section 2
SURROGATE = re.compile("[\ud800-\udfff]")
LOWER_HEX = re.compile(r"([0-9a-f]{2})*")  # section 7
HEAD = re.compile(r"(?:tally1:([0-9a-f]{32}):)?([1-9][0-9]{0,18}):([0-9a-f]{64})")  # section 6
REORDER_DISTANCE_MAX = 100_000  # section 8, step 4
CHAIN_NAMES = ("seq", "at", "kind", "stream", "key", "meta", "body_hash")  # section 7
OF_ONE_THING = (b"session:", b"decision:")  # such a stream belongs together from first to last
STREAMS_NAMED_MAX = 20
LINE_BYTES_MAX = 1 << 30
HEAD_FILE_BYTES_MAX = 1024
SQLITE_MAGIC = b"SQLite format 3\x00"


class Malformed(Exception):
    """What was read is no row of this format; reported at the seq that was due."""


class CannotLook(Exception):
    """The log could not be examined: never a pass, and no finding either."""


class Finding(Exception):
    """The first thing wrong with the log: one of the seven words of section 8, at a seq."""

    def __init__(self, seq: int, word: str, detail: str) -> None:
        super().__init__(f"seq {seq}: {word}: {detail}")
        self.seq, self.word, self.detail = seq, word, detail


class Text(bytes):
    """The bytes of a text column, as told from those of a blob."""


class Row(NamedTuple):
    seq: int
    at: int
    kind: bytes
    stream: bytes
    key: bytes | None
    meta: bytes | None
    salt: bytes | None
    body: bytes | None
    body_hash: bytes
    prev_hash: bytes
    hash: bytes


class Anchor(NamedTuple):
    """A head that this log should contain, and where that claim comes from."""

    source: str
    ledger_id: bytes | None
    seq: int
    hash: bytes


class Withheld(list[object]):
    """Seq, at, kind, stream, key, meta and body_hash of an event whose body, and salt, are not told."""


@dataclass
class Log:
    """What the walk remembers: constant, but for the erased rows and their records."""

    watched: frozenset[int]  # the seqs that anchors name
    part: bool = False  # some events are not here
    events: int = 0  # those that are here in whole
    ledger_id: bytes = b""
    last: int = 0
    last_hash: bytes = b""
    seen: dict[int, bytes] = field(default_factory=dict)  # hashes at the watched seqs
    erased: dict[int, bytes] = field(default_factory=dict)  # seq -> body_hash
    flawed: dict[int, str] = field(default_factory=dict)  # erased, but not as it should be
    recorded: set[int] = field(default_factory=set)  # erased, and a later event says so
    present: set[int] = field(default_factory=set)  # a record says erased, but the body is there
    held: set[bytes] = field(default_factory=set)  # streams of one thing with an event that is here in whole
    withheld: dict[bytes, int] = field(default_factory=dict)  # of such streams: events that are not


def lp(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def event_hash(row: Row, seq: int, prev_hash: bytes) -> bytes:
    """Section 4: the hash that this row has if it is event `seq` and follows `prev_hash`."""
    numbers = seq.to_bytes(8, "big") + row.at.to_bytes(8, "big", signed=True)
    texts = lp(row.kind) + lp(row.stream) + lp(row.key or b"") + lp(row.meta or b"")
    return blake3(EVENT_TAG + prev_hash + numbers + row.body_hash + texts).digest()


def integer(name: str, value: object) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise Malformed(f"{name} is not a 64-bit integer")
    return value


def text(name: str, value: object, bytes_max: int) -> bytes:
    if not isinstance(value, Text):
        raise Malformed(f"{name} is not text")
    if not 1 <= len(value) <= bytes_max:
        raise Malformed(f"{name} has {len(value)} bytes, not 1 to {bytes_max}")
    try:
        if CONTROL.search(value.decode("utf-8")):
            raise Malformed(f"{name} has a control character")
    except UnicodeDecodeError:
        raise Malformed(f"{name} is not UTF-8") from None
    return value


def blob(name: str, value: object, length: int | None = None) -> bytes:
    """Bytes of exactly `length`, or of any length but 0."""
    if not isinstance(value, bytes) or isinstance(value, Text):
        raise Malformed(f"{name} is not a blob")
    if len(value) != (length or len(value)) or not value:
        raise Malformed(f"{name} has {len(value)} bytes, not {length or '1 or more'}")
    return value


def check_columns(values: Sequence[object]) -> Row:
    seq, at, kind, stream, key, meta, salt, body, body_hash, prev_hash, own_hash = values
    row = Row(
        integer("seq", seq),
        integer("at", at),
        text("kind", kind, 128),
        text("stream", stream, 512),
        None if key is None else text("key", key, 512),
        None if meta is None else blob("meta", meta),
        None if salt is None else blob("salt", salt, 16),
        None if body is None else blob("body", body),
        blob("body_hash", body_hash, 32),
        blob("prev_hash", prev_hash, 32),
        blob("hash", own_hash, 32),
    )
    if not KIND.fullmatch(row.kind):
        raise Malformed("kind is not words of a-z, 0-9 and _ joined by dots")
    if row.body is not None and row.salt is None:
        raise Malformed("the body is there but its salt is not")
    return row


def check_withheld(values: Withheld, log: Log) -> Row:
    """The row of an event without its body: that it follows the one before is what gives its hash."""
    seq, at, kind, stream, key, meta, body_hash = values
    previous = log.last_hash
    if not log.last:
        raise Malformed("event 1 is not here with its body, and names the ledger")
    row = check_columns([seq, at, kind, stream, key, meta, None, None, body_hash, previous, previous])
    if row.seq < 1:
        raise Malformed(f"a row with seq {row.seq} stands where event 1 is due")
    return row._replace(hash=event_hash(row, row.seq, previous))


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name comes twice")
    return dict(pairs)


def json_object(data: bytes, what: str) -> dict[str, object]:
    try:  # int() refuses the NaN and Infinity that Python's reader would let through
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=int)
    except (ValueError, RecursionError) as err:
        raise Malformed(f"{what} is not readable JSON: {err}") from None
    if not isinstance(value, dict):
        raise Malformed(f"{what} is not a JSON object")
    return value


def unhex(name: str, value: object) -> bytes:
    if not isinstance(value, str) or not LOWER_HEX.fullmatch(value):
        raise Malformed(f"{name} is not lower-case hex")
    return bytes.fromhex(value)


def read_created(row: Row) -> bytes:
    """The ledger id that event 1 names."""
    if row.kind != b"ledger.created" or row.body is None:
        raise Malformed("event 1 is not ledger.created with its body")
    body = json_object(row.body, "the body of event 1")
    ledger_id = blob("ledger_id", unhex("ledger_id", body.get("ledger_id")), 16)
    version = integer("format", body.get("format"))
    if version != FORMAT:
        raise CannotLook(f"the ledger says format {version}; this verifier knows format {FORMAT}")
    return ledger_id


def check_hashes(row: Row, previous: bytes | None) -> None:
    """Steps 3 and 4: the body, then the row and its link, if the row before it is there."""
    n = row.seq
    previous = row.prev_hash if previous is None else previous
    if row.body is not None and blake3((row.salt or b"") + row.body).digest() != row.body_hash:
        raise Finding(n, "edited", "the body does not match body_hash")
    if event_hash(row, n, row.prev_hash) == row.hash:
        if row.prev_hash != previous:
            raise Finding(n, "link broken", "the row is whole, but it follows another one")
        return
    if event_hash(row, n, previous) == row.hash:
        raise Finding(n, "link broken", "the row is whole, but its prev_hash was altered")
    for distance in range(1, REORDER_DISTANCE_MAX + 1):
        for k in (n - distance, n + distance):
            if k >= 1 and event_hash(row, k, row.prev_hash) == row.hash:
                raise Finding(n, "reordered", f"the row that stands here is event {k}")
    raise Finding(n, "edited", "the row does not match its hash")


def note_erasure(log: Log, row: Row) -> None:
    """Step 5: remember an erased row, or the one that a record names."""
    if row.body is None:
        log.erased[row.seq] = row.body_hash
        if row.salt is not None:
            log.flawed[row.seq] = "the body is erased but its salt is still there"
        elif row.kind.startswith(b"ledger."):
            log.flawed[row.seq] = "the body of a ledger event is never erased"
    elif row.kind == b"ledger.body_erased":
        body = json_object(row.body, "the body of the erasure record")
        named = integer("seq in the erasure record", body.get("seq"))
        body_hash = blob("body_hash", unhex("body_hash in the erasure record", body.get("body_hash")), 32)
        if not 1 <= named < row.seq:
            raise Malformed("the erasure record does not name an earlier event")
        if named not in log.erased:
            log.present.add(named)
        elif log.erased[named] == body_hash:
            log.recorded.add(named)


def check_erasures(log: Log) -> None:
    """What only the end of the log can tell; the lowest seq is reported."""
    why = "the body is gone and no later record says so"
    found = [(seq, "erased without record", why) for seq in log.erased.keys() - log.recorded]
    found += [(seq, "malformed", why) for seq, why in log.flawed.items() if seq in log.recorded]
    found += [(seq, "malformed", "a record says erased, but the body is there") for seq in log.present]
    if found:
        raise Finding(*min(found))


def walk(rows: Iterator[Sequence[object]], watched: frozenset[int], part: bool = False) -> Log:
    """Check every row in order; the first finding is raised. part: rows may be missing."""
    log = Log(watched, part)
    try:
        for values in rows:
            n = log.last + 1
            withheld = isinstance(values, Withheld)
            row = check_withheld(values, log) if isinstance(values, Withheld) else check_columns(values)
            if row.seq < n:
                raise Malformed(f"a row with seq {row.seq} stands where seq {n} is due")
            if row.seq > n and not part:
                raise Finding(n, "gap", f"the next row is event {row.seq}")
            if row.seq == 1:
                log.ledger_id = read_created(row)
                log.last_hash = blake3(GENESIS_TAG + log.ledger_id).digest()
            if not withheld:
                check_hashes(row, log.last_hash if row.seq == n and log.last_hash else None)
                note_erasure(log, row)
                log.events += 1
            if row.stream.startswith(OF_ONE_THING):
                if withheld:
                    log.withheld[row.stream] = log.withheld.get(row.stream, 0) + 1
                else:
                    log.held.add(row.stream)
            log.last, log.last_hash = row.seq, row.hash
            if row.seq in watched:
                log.seen[row.seq] = row.hash
        if not log.last:
            raise Malformed("there are no events")
    except Malformed as err:
        raise Finding(log.last + 1, "malformed", str(err)) from None
    check_erasures(log)
    return log


def check_anchor(log: Log, anchor: Anchor) -> None:
    if anchor.ledger_id not in (None, log.ledger_id) and (log.ledger_id or not log.part):
        raise Finding(1, "edited", f"{anchor.source} names another ledger id")
    if anchor.seq not in log.seen and log.part:
        return
    if anchor.seq > log.last:
        raise Finding(log.last + 1, "truncated", f"{anchor.source} names event {anchor.seq}")
    if log.seen[anchor.seq] != anchor.hash:
        rewritten = "every hash follows, but the log was rewritten at or before it"
        raise Finding(anchor.seq, "edited", f"{rewritten}: {anchor.source} names another hash")


def sound_rows(ledger: sqlite3.Connection, select: str) -> Iterator[Sequence[object]]:
    """The rows in order, each before the damage behind it raises.

    Python's cursor reads a row ahead, so that damage takes the row before along: from there on each
    row is asked for alone.
    """
    ahead: Sequence[object] | None = None
    try:
        for ahead in ledger.execute(f"{select} ORDER BY seq"):
            yield ahead
    except sqlite3.DatabaseError as err:
        if getattr(err, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        last = ahead
        one = f"{select}{'' if last is None else ' WHERE seq > ?'} ORDER BY seq LIMIT 1"
        while row := ledger.execute(one, () if last is None else (last[0],)).fetchone():
            yield row
            if last is None:
                one = f"{select} WHERE seq > ? ORDER BY seq LIMIT 1"
            last = row


def ledger_rows(path: Path) -> Iterator[Sequence[object]]:
    """Read only. Where SQLite cannot lock (read-only media) it must not try, if no journal lies beside."""
    file = path.resolve()
    journal = any(Path(f"{file}{end}").exists() for end in ("-wal", "-journal"))
    option = "" if journal or os.access(file.parent, os.W_OK) else "&immutable=1"
    select, opened = f"SELECT {', '.join(Row._fields)} FROM events", False
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro{option}", uri=True)) as ledger:
            ledger.text_factory = Text
            ledger.execute("PRAGMA trusted_schema=OFF")
            ledger.execute(f"{select} LIMIT 0").fetchall()
            opened = True
            yield from sound_rows(ledger, select)
    except sqlite3.Error as err:
        if opened and getattr(err, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
            raise Malformed(f"SQLite cannot read on: {err}") from None
        raise CannotLook(f"{path}: {err}") from None


def export_values(line: bytes, names: Sequence[str] = Row._fields) -> list[object]:
    """The columns of one line of an export (section 7), as a ledger would give them."""
    found = json_object(line, "the line")
    if set(found) != set(names):
        raise Malformed(f"the line does not have the {len(names)} names of an event")
    for name, value in found.items():
        if value is None or name in ("seq", "at"):
            continue
        if name in ("salt", "body_hash", "prev_hash", "hash"):
            found[name] = unhex(name, value)
        elif isinstance(value, str) and not SURROGATE.search(value):
            found[name] = value.encode() if name in ("meta", "body") else Text(value.encode())
        else:
            raise Malformed(f"{name} is not a string of Unicode characters")
    return [found[name] for name in names]


def lines_of(stream: io.BufferedIOBase) -> Iterator[bytes]:
    try:
        while line := stream.readline(LINE_BYTES_MAX):
            if len(line) == LINE_BYTES_MAX:
                raise CannotLook(f"a line is longer than {LINE_BYTES_MAX} bytes")
            yield line
    except (EOFError, gzip.BadGzipFile, zlib.error) as err:
        raise Malformed(f"the compressed data cannot be read on: {err}") from None


def export_rows(stream: io.BufferedIOBase) -> Iterator[Sequence[object]]:
    return map(export_values, lines_of(stream))


def merged(
    whole: Iterator[Sequence[object]], others: Iterator[Sequence[object]]
) -> Iterator[Sequence[object]]:
    """The rows of both, by seq; what has none comes first, and is found malformed."""
    one, other = next(whole, None), next(others, None)
    while one is not None or other is not None:
        if other is None or (one is not None and place(one) <= place(other)):
            assert one is not None
            yield one
            one = next(whole, None)
        else:
            yield other
            other = next(others, None)


def place(values: Sequence[object]) -> int:
    return values[0] if type(values[0]) is int else 0


def parse_head(source: str, token: str) -> Anchor:
    match = HEAD.fullmatch(token)
    if not match:
        raise CannotLook(f"{source} holds no head line (tally1:<ledger id>:<seq>:<hash>)")
    return Anchor(source, bytes.fromhex(match[1] or "") or None, int(match[2]), bytes.fromhex(match[3]))


def head_file(path: Path) -> Anchor:
    """The head in a file. A pipe, a device or a huge file in its place must not hang or fill memory."""
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise CannotLook(f"{path} is no regular file")
        text = stream.read(HEAD_FILE_BYTES_MAX).decode("utf-8", "replace")
    return parse_head(str(path), text.removesuffix("\n"))


def unpacked(stream: io.BufferedReader, name: str) -> io.BufferedIOBase:
    """An export as it is read, unzipped if need be."""
    first = stream.peek(1)
    if first.startswith(b"\x1f"):
        return gzip.GzipFile(fileobj=stream)
    if first and not first.startswith(b"{"):
        raise CannotLook(f"{name}: neither an export nor a ledger in a file")
    return stream


def verify(name: str, expect: Anchor | None, part: bool = False, chain: str | None = None) -> Log:
    """Walk the log, then hold it against its anchors. The head file is read before the log."""
    anchors = [expect] if expect else []
    with contextlib.ExitStack() as files:
        stream = files.enter_context(open(0 if name == "-" else name, "rb", closefd=name != "-"))
        if stream.peek(len(SQLITE_MAGIC)).startswith(SQLITE_MAGIC) and name != "-":
            if part or chain:
                raise CannotLook(f"{name}: a ledger in a file is no part of a log")
            stream.close()  # before SQLite locks the file: closing it later would drop the locks
            beside = Path(f"{name}.head")
            anchors += [head_file(beside)] if beside.exists() else []
            rows = ledger_rows(Path(name))
        else:
            rows = export_rows(unpacked(stream, name))
        if chain is not None:
            between = unpacked(files.enter_context(open(chain, "rb")), chain)
            others = (Withheld(export_values(line, CHAIN_NAMES)) for line in lines_of(between))
            rows = merged(rows, others)
        log = walk(rows, frozenset(anchor.seq for anchor in anchors), part)
    for anchor in anchors:
        check_anchor(log, anchor)
    return log


def report(log: Log, expect: Anchor | None) -> tuple[dict[str, object], str]:
    if log.part:
        return part_report(log, expect)
    anchored = expect.seq if expect else None
    verdict = "VERIFIED" if anchored == log.last else "UNANCHORED"
    head = f"tally1:{log.ledger_id.hex()}:{log.last}:{log.last_hash.hex()}"
    line = f"{verdict} {log.last} event{'s' if log.last > 1 else ''}"
    line += f" ({log.events} with what they hold)" if log.events < log.last else ""
    line += f", head {head}"
    if verdict == "UNANCHORED":
        line += f", anchored up to seq {anchored}" if anchored else ", nothing outside vouches for its end"
    result = {"verdict": verdict, "events": log.last, "head": head, "anchored": anchored}
    if log.events == log.last:
        return result, line
    torn = {name.decode(): log.withheld[name] for name in sorted(log.held & log.withheld.keys())}
    if torn:
        named = [f"{count} of {name}" for name, count in list(torn.items())[:STREAMS_NAMED_MAX]]
        more = ["and others"] if len(torn) > STREAMS_NAMED_MAX else []
        line += f"; WITHHELD, of streams that are here in part: {', '.join(named + more)}"
    return result | {"whole": log.events, "withheld": torn}, line


def part_report(log: Log, expect: Anchor | None) -> tuple[dict[str, object], str]:
    """What can be said of some events: each is whole, and nothing shows that they stand in the log."""
    named = expect.seq if expect and expect.seq in log.seen else None
    line = f"UNANCHORED part of a log: {log.events} event{'s' if log.events > 1 else ''} up to seq {log.last}"
    line += ", each whole; nothing here shows that they stand in the log"
    line += f", but the head names seq {named}" if named else ""
    if expect and not named:
        line += f"; the head could not be used: it names seq {expect.seq}, which is not here"
    result = {"verdict": "UNANCHORED", "events": log.events, "part": True, "last": log.last, "named": named}
    result["unused"] = expect.seq if expect and not named else None
    return result, line


def main() -> int:
    parser = argparse.ArgumentParser(description="Verify a Tallystick ledger or an export of one.")
    parser.add_argument("file", help="a ledger, an export (.jsonl, .jsonl.gz), or - for an export on stdin")
    parser.add_argument("--expect", metavar="HEAD", help="a head line, <seq>:<hash>, or a file with one")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--part", action="store_true", help="the export holds some of a log's events")
    parts.add_argument("--chain", metavar="FILE", help="the same, and FILE what links them (chain.jsonl)")
    given = parser.parse_args()
    expect: Anchor | None = None
    try:
        if given.expect is not None and not HEAD.fullmatch(given.expect):
            if not Path(given.expect).is_file():
                parser.error("--expect is neither a head line nor a file that holds one")
            expect = head_file(Path(given.expect))
        elif given.expect is not None:
            expect = parse_head("--expect", given.expect)
        result, line = report(verify(given.file, expect, given.part, given.chain), expect)
    except Finding as found:
        line = f"BROKEN {found}"
        result = {"verdict": "BROKEN", "seq": found.seq, "finding": found.word, "detail": found.detail}
    except (CannotLook, OSError) as err:
        return could_not_look(str(err))
    except Exception as err:  # a mistake of this script is no finding
        return could_not_look(f"{type(err).__name__}: {err}")
    try:
        print(json.dumps(result) if given.json else line, flush=True)
    except OSError as err:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is buffered has nowhere to go
        return could_not_look(f"the verdict could not be written: {err}")
    return 1 if result["verdict"] == "BROKEN" else 0


def could_not_look(why: str) -> int:
    try:
        print("could not look:", " ".join(why.split("\n")), file=sys.stderr, flush=True)
    except OSError:  # else the interpreter would try again at its end, and exit with 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return 3


if __name__ == "__main__":
    sys.exit(main())
