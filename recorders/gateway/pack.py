"""A decision pack: one decision in a zip file, with what is needed to check it and to decide it again (D11).

`Pack.to_bytes` writes one and `read_pack` reads it back, whoever made it; `check_pack` says what in it
contradicts itself. Bytes in, values out, no I/O; `packing` collects a pack from a ledger.

Members: `record.json` (decision_record.v0), `request.json` (as recorded), `policy.yaml` (the exact text; none
if the gateway had no policy), `events.jsonl` (lines of an export, docs/format.md section 8), `head.txt` (the
ledger's head line when the pack was made), `README.txt`.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger import chain
from tallystick.ledger.errors import BadHead, BadLine, TallyError
from tallystick.ledger.event import Event, Head, Row
from tallystick.ledger.portable import export_line, parse_line
from tallystick.ledger.walk import OwnHashes

from .errors import BadPack, InvalidPolicy
from .policy import parse_cached
from .record import DecisionRecord, log_of, record_of

RECORD: Final = "record.json"
REQUEST: Final = "request.json"
POLICY: Final = "policy.yaml"
EVENTS: Final = "events.jsonl"
HEAD: Final = "head.txt"
README: Final = "README.txt"
#: The members of a pack and the most bytes that each may have, unpacked.
MEMBERS_BYTES_MAX: Final = {
    README: 64 << 10,
    RECORD: 8 << 20,
    REQUEST: 4 << 20,
    POLICY: 2 << 20,
    EVENTS: 24 << 20,
    HEAD: 1 << 10,
}
_REQUIRED: Final = tuple(name for name in MEMBERS_BYTES_MAX if name != POLICY)
PACK_BYTES_MAX: Final = 40 << 20
EVENTS_MAX: Final = 100_000

#: The earliest time that a zip file can hold.
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_REGULAR_FILE: Final = 0o100644 << 16
_UNIX: Final = 3
#: The end of a zip file's directory, without a comment (APPNOTE 4.3.16): signature, disk, directory's disk,
#: entries here, entries, bytes of the directory, its offset, length of the comment.
_END: Final = struct.Struct("<4s4H2LH")
_ENTRIES: Final = 4
_END_TAG: Final = b"PK\x05\x06"
_ZIP64_TAG: Final = b"PK\x06\x07"
_ZIP64_BYTES: Final = 20
_DIRECTORY_BYTES_MAX: Final = 4096
_ENCRYPTED: Final = 0x1

#: Packs hold it word for word, and one that differs is not believed: a reader of another wording would have
#: to know this one, too.
_README: Final = """\
Decision {decision_id}: {verdict} ({reasons})

What is in this pack
  record.json    the decision as it was answered, and what was said of it since
  request.json   the request, as recorded ({redacted})
  policy.yaml    the exact text of the policy, {policy}
  events.jsonl   the ledger's events that prove it, with every column, hashes in hex
  head.txt       the ledger's head when the pack was made

How to check it
  tally replay FILE.zip
      evaluates the recorded request under the policy again, with the memory in the pack, and says
      whether the verdict comes out the same.
  Without Tallystick: each line of events.jsonl can be hashed again, as docs/format.md says in sections
      2 to 4. body_hash is BLAKE3(salt || body), and hash covers it with seq, at, kind, stream, key, meta
      and prev_hash. policy.yaml is the text in the body of policy.registered, and request.json stands
      in the body of decision.recorded under derived.request.
  Against the ledger that it came from: `tally show {seq}` there has the hash
      {hash}
      and `tally verify --expect head.txt` says VERIFIED, or that events came after it.

What it cannot show
  The events are some of a log, not all of it: that they stand in the ledger, and that nothing is missing
  beside them, only the ledger can show, with a head that was kept outside it.

Events
{events}
"""

_HOW: Final = "How to check it\n"
#: Stands before that only where something was erased.
_ERASED: Final = """\
Erased since
  The bodies of these events: {erased}. What follows from them cannot be derived again, and a replay says so.
  Each ledger.body_erased among the events records that a body was erased, and why.

"""


class Pack(NamedTuple):
    """One decision and what proves it. `rows` are in the order of their seqs; `head` names the ledger.

    readme: the text for people as it was found; None where it is what follows from the rest.
    """

    record: DecisionRecord
    request: dict[str, Any]
    policy_text: str | None
    rows: list[Row]
    head: Head
    readme: bytes | None = None

    def to_bytes(self) -> bytes:
        """The zip file; the same pack is the same bytes."""
        readme = self.readme_text().encode() if self.readme is None else self.readme
        members = {README: readme, RECORD: _json(self.record), REQUEST: _json(self.request)}
        if self.policy_text is not None:
            members[POLICY] = self.policy_text.encode()
        members[EVENTS] = b"".join(export_line(row) + b"\n" for row in self.rows)
        members[HEAD] = f"{self.head}\n".encode()
        buffer = io.BytesIO()
        # Not deflated: what that gives depends on the library's version.
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                archive.writestr(zip_entry(name), data)
        return buffer.getvalue()

    def document(self) -> dict[str, Any]:
        """The pack as one JSON document; the events as lines of an export have them."""
        return {
            "record": self.record.to_dict(),
            "request": self.request,
            "policy": self.policy_text,
            "events": [msgspec.json.decode(export_line(row)) for row in self.rows],
            "head": str(self.head),
        }

    def readme_text(self) -> str:
        """What the pack says to people, from its parts. Raises msgspec.MsgspecError without a decision."""
        record = self.record
        recorded = next((row for row in self.rows if row.kind == events.RECORDED), None)
        if recorded is None:
            raise msgspec.ValidationError("there is no decision among the events")
        policy = record.policy
        body = msgspec.json.decode(recorded.body or b"", type=events.DecisionRecorded)
        removed = ", ".join(body.derived.redacted)
        erased = [str(row.seq) for row in self.rows if row.body is None]
        wording = _README.replace(_HOW, _ERASED + _HOW) if erased else _README
        return wording.format(
            decision_id=record.decision_id,
            verdict=record.verdict.value,
            reasons=", ".join(record.reason_codes),
            redacted=f"redaction removed {removed}" if removed else "whole: nothing was redacted",
            policy=f"{policy.policy_id} {policy.policy_version}"
            if policy.policy_id
            else "which it had none of",
            seq=recorded.seq,
            hash=recorded.hash.hex(),
            erased=", ".join(erased),
            events="\n".join(f"  {row.seq:>10}  {row.hash.hex()}  {row.kind}" for row in self.rows),
        )


def zip_entry(name: str) -> zipfile.ZipInfo:
    """An entry of a zip file that is the same whenever, and on whatever system, it is made."""
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system = _UNIX
    info.external_attr = _REGULAR_FILE
    return info


class Contradiction(NamedTuple):
    """Something in a pack that cannot be true together with the rest of it."""

    member: str
    problem: str

    def __str__(self) -> str:
        return f"{self.member}: {self.problem}"


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


# -- reading -----------------------------------------------------------------------------


def read_pack(data: bytes, source: str = "pack") -> Pack:
    """The pack in a zip file that anybody may have made. Raises BadPack.

    Whether its parts agree with one another is for `check_pack` to say.
    """
    members = _members(data, source)
    pack = Pack(
        record=_decoded(members, RECORD, DecisionRecord, source),
        request=_decoded(members, REQUEST, dict[str, Any], source),
        policy_text=_text(members[POLICY], source, POLICY) if POLICY in members else None,
        rows=_rows(members[EVENTS], source),
        head=_head(members[HEAD], source),
        readme=members[README],
    )
    return pack._replace(readme=None) if _derived_readme(pack) == pack.readme else pack


def _derived_readme(pack: Pack) -> bytes | None:
    """The text for people as it follows from the rest; None if nothing follows."""
    try:
        return pack.readme_text().encode()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _members(data: bytes, source: str) -> dict[str, bytes]:
    """The members by name, each within its bound; nothing is ever written to a path that a pack names."""
    _check_directory(data, source)
    members: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                name = info.orig_filename  # of which `filename` may be the part before a NUL
                if name not in MEMBERS_BYTES_MAX:
                    raise BadPack(source, "", f"{name[:80]!r} is no part of a pack")
                if name in members:
                    raise BadPack(source, name, "is in it twice")
                if info.flag_bits & _ENCRYPTED:
                    raise BadPack(source, name, "is encrypted")
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise BadPack(source, name, "is compressed in a way that no pack is")
                members[name] = _member(archive, info, source)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError) as error:
        if isinstance(error, BadPack):
            raise
        raise BadPack(source, "", f"cannot be unpacked ({error})") from None
    for name in _REQUIRED:
        if name not in members:
            raise BadPack(source, name, "is missing")
    if len(members) != _END.unpack(data[-_END.size :])[_ENTRIES]:
        raise BadPack(source, "", "its directory ends otherwise than it says")
    return members


def _check_directory(data: bytes, source: str) -> None:
    """Look at the end of the zip file first: a directory of a million entries is refused unread."""
    if len(data) > PACK_BYTES_MAX:
        raise BadPack(source, "", f"{len(data):,} bytes, more than the {PACK_BYTES_MAX:,} allowed")
    end = data[-_END.size :]
    if len(end) < _END.size or not end.startswith(_END_TAG):
        raise BadPack(source, "", "is no zip file, or not as a pack is written")
    _, _, _, _, entries, size, offset, comment = _END.unpack(end)
    if comment:
        raise BadPack(source, "", "has a comment, which no pack has")
    if entries > len(MEMBERS_BYTES_MAX) or size > _DIRECTORY_BYTES_MAX:
        problem = f"has {entries:,} members, and a pack at most {len(MEMBERS_BYTES_MAX)}"
        raise BadPack(source, "", problem)
    if data[-_END.size - _ZIP64_BYTES :].startswith(_ZIP64_TAG):
        raise BadPack(source, "", "is a zip file of the 64-bit form, which no pack needs")
    if offset + size + _END.size != len(data):
        raise BadPack(source, "", "has bytes that its zip directory does not cover, which no pack has")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: str) -> bytes:
    """The bytes of a member, whatever size it claims to have. Raises BadPack."""
    limit = MEMBERS_BYTES_MAX[info.filename]
    with archive.open(info) as file:
        data = file.read(limit + 1)
    if len(data) > limit or info.file_size > limit:
        raise BadPack(source, info.filename, f"more than the {limit:,} bytes allowed")
    return data


def _decoded(members: dict[str, bytes], member: str, type_: Any, source: str) -> Any:
    try:
        return msgspec.json.decode(members[member], type=type_)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadPack(source, member, f"is not as expected ({error})") from None


def _text(data: bytes, source: str, member: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadPack(source, member, f"byte {error.start + 1} is no UTF-8 text") from None


def _rows(data: bytes, source: str) -> list[Row]:
    count = data.count(b"\n")
    if count > EVENTS_MAX:
        raise BadPack(source, EVENTS, f"{count:,} lines, more than the {EVENTS_MAX:,} events allowed")
    try:
        lines = enumerate(io.BytesIO(data), start=1)
        rows = [parse_line(line.rstrip(b"\r\n"), EVENTS, number) for number, line in lines]
    except BadLine as error:
        raise BadPack(source, EVENTS, f"line {error.line}: {error.problem}") from None
    if any(later.seq <= row.seq for row, later in pairwise(rows)):
        raise BadPack(source, EVENTS, "its events are not in the order of their seqs")
    return rows


def _head(data: bytes, source: str) -> Head:
    try:
        return Head.parse(_text(data, source, HEAD))
    except BadHead as error:
        raise BadPack(source, HEAD, str(error)) from None


# -- checking ----------------------------------------------------------------------------


def check_pack(pack: Pack) -> list[Contradiction]:
    """What in a pack contradicts itself: hashes that do not come out, parts that differ from the events."""
    return list(_contradictions(pack))


def _contradictions(pack: Pack) -> Iterator[Contradiction]:
    for row in pack.rows:
        yield from check_row(row)
        if row.seq == pack.head.seq and row.hash != pack.head.hash:
            yield Contradiction(HEAD, f"names another hash for event {row.seq}")
        if row.seq > pack.head.seq:
            yield Contradiction(HEAD, f"ends before event {row.seq}")
    yield from _of_ledger(pack)
    yield from _of_decision(pack)
    yield from _of_policy(pack)
    if pack.readme is not None and pack.readme != _derived_readme(pack):
        yield Contradiction(README, "is not what follows from the rest of the pack: do not believe it")


def check_row(row: Row) -> Iterator[Contradiction]:
    """What in an event contradicts its own hashes; whether it stands in the chain, only the log can show."""
    problem = OwnHashes().problem(row)
    if problem is not None:
        yield Contradiction(EVENTS, f"event {row.seq}: {problem}")


def _of_ledger(pack: Pack) -> Iterator[Contradiction]:
    first = pack.rows[0] if pack.rows else None
    ledger_id = pack.head.ledger_id
    if first is None or first.seq != 1 or ledger_id is None:
        yield Contradiction(EVENTS, "ledger.created, or the id in the head line, is missing")
    elif first.prev_hash != chain.genesis_hash(ledger_id):
        yield Contradiction(EVENTS, "event 1 belongs to another ledger than the head line")


def _of_decision(pack: Pack) -> Iterator[Contradiction]:
    recorded = [row for row in pack.rows if row.kind == events.RECORDED]
    if len(recorded) != 1 or recorded[0].body is None:
        yield Contradiction(EVENTS, "there is not one decision.recorded with its body")
        return
    try:
        body = msgspec.json.decode(recorded[0].body, type=events.DecisionRecorded)
        since = (row for row in pack.rows if row.seq > recorded[0].seq and row.stream == recorded[0].stream)
        expected = record_of(body, log_of(map(Event.from_row, since)))
    except (msgspec.MsgspecError, TallyError, KeyError, TypeError, ValueError) as error:
        yield Contradiction(EVENTS, f"event {recorded[0].seq}: its body is not as expected ({error})")
        return
    if recorded[0].stream != events.decision_stream(body.observed.decision_id):
        yield Contradiction(EVENTS, f"event {recorded[0].seq}: it does not belong in its stream")
    have, wanted = pack.record.to_dict(), expected.to_dict()
    for name in sorted({name for name in have.keys() | wanted.keys() if have.get(name) != wanted.get(name)}):
        yield Contradiction(RECORD, f"{name} is not what event {recorded[0].seq} recorded")
    if pack.request != body.derived.request:
        yield Contradiction(REQUEST, f"is not what event {recorded[0].seq} recorded")


def _of_policy(pack: Pack) -> Iterator[Contradiction]:
    wanted = pack.record.policy.policy_hash
    if pack.policy_text is None:
        erased = any(row.kind == events.POLICY_REGISTERED and row.body is None for row in pack.rows)
        if wanted is not None and not erased:
            yield Contradiction(POLICY, "is missing")
        return
    bodies = [row.body for row in pack.rows if row.kind == events.POLICY_REGISTERED and row.body is not None]
    try:
        texts = [msgspec.json.decode(body, type=events.PolicyRegistered).text for body in bodies]
    except msgspec.MsgspecError:
        texts = []
    if texts != [pack.policy_text]:
        yield Contradiction(POLICY, "is not the text that policy.registered holds")
    try:
        found = parse_cached(pack.policy_text, POLICY).policy_hash
    except InvalidPolicy as error:
        yield Contradiction(POLICY, f"is no valid policy ({error})")
        return
    if found != wanted:
        yield Contradiction(POLICY, f"has the hash {found}, and the decision was made under {wanted}")
