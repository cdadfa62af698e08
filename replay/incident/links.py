"""What ties an event to others: what it shares with them, which it names, and what they may call it.

Values in, values out. Bodies come from whoever wrote the ledger: what cannot be read ties to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from blake3 import blake3

from tallystick.events import gateway, kernel, projection, session
from tallystick.ledger import canonical, records
from tallystick.ledger.event import Row

from ..parts import part

#: An event that names more things than this is a list of them, and is tied to none of them.
NAMES_MAX: Final = 64
#: Longer values tie nothing: no recorder makes one, and a name has at most 512 bytes.
_VALUE_MAX: Final = 512
_SEQ: Final = re.compile(r"[1-9][0-9]{0,17}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_MENTION: Final = re.compile(
    rb'(?P<decision>dec_[0-9A-HJKMNP-TV-Z]{26})(?![0-9A-Za-z])|"decision_id":"(?P<named>[^"\\]{1,200})"'
    rb'|"session:(?P<stream>[^"\\]{1,200})"|"session_id":"(?P<session>[^"\\]{1,200})"'
    rb'|"run_id":"(?P<run>[^"\\]{1,200})"'
)
#: Kinds whose bodies list other events.
_LISTING: Final = frozenset({kernel.PIPELINE_COMPLETED, records.BODY_ERASED})
#: Streams of one thing, which belong together from their first event to their last.
WHOLE: Final = (session.STREAM_PREFIX, gateway.decision_stream(""))
#: Streams that look as if they were of one thing, and hold what has nothing else to do with one another.
GENERAL: Final = (
    gateway.policy_stream(""),
    gateway.memory_stream(None, ""),
    projection.projection_stream(""),
)


class What(StrEnum):
    """What a name is a name of."""

    CORRELATION = "correlation"
    TRACE = "trace"
    EVENT = "event"
    KEY = "key"
    RUN = "run"
    STREAM = "stream"


class Name(NamedTuple):
    """A name that ties events together: the decimal seq of an event, a key, a stream, …"""

    what: What
    value: str

    def token(self) -> bytes:
        """What an index holds for it, 16 bytes whatever its length."""
        return _token(self)


@lru_cache(maxsize=4096)  # the same few correlation ids come again and again
def _token(name: Name) -> bytes:
    return blake3(f"{name.what}\0{name.value}".encode("utf-8", "surrogatepass")).digest(16)


class _Meta(msgspec.Struct):
    """What is looked for in meta."""

    correlation: Any = None
    causation: Any = None
    traceparent: Any = None


_decode_meta: Final = msgspec.json.Decoder(_Meta).decode


class Ties(NamedTuple):
    """The ties of one event.

    shared: ties it to all events that share them. names: other things. known_as: itself.
    """

    shared: list[Name]
    names: list[Name]
    known_as: list[Name]


NO_TIES: Final = Ties([], [], [])


def ties_of(row: Row) -> Ties:
    """What an event shares, names, and is known as, besides its seq and stream."""
    if row.meta is None and row.body is None and row.key is None:
        return NO_TIES
    shared: dict[Name, None] = {}
    names: dict[Name, None] = {}
    known: list[Name] = [] if row.key is None else [Name(What.KEY, row.key)]
    if row.meta is not None:
        _of_meta(row.meta, shared, names)
        _mentioned(row.meta, names)
    if row.body is not None:
        if row.kind == kernel.EXECUTED:
            run_id = part(_decoded(row.body), "observed", "run_id")
            if _is_value(run_id):
                known.append(Name(What.RUN, run_id))
        elif row.kind == gateway.RECORDED:
            _of_decision(_decoded(row.body), shared, names)
        if row.kind != gateway.POLICY_REGISTERED:
            _mentioned(row.body, names)
    if not names and row.kind not in _LISTING:
        return Ties(list(shared), [], known)
    own = (Name(What.STREAM, row.stream), Name(What.EVENT, str(row.seq)), *known)
    found = [name for name in names if name not in own]
    # What the recorders themselves list is bounded by them, and never a mere enumeration.
    listed = list(_listed(row))
    return Ties(list(shared), (found if len(found) <= NAMES_MAX else []) + listed, known)


def _of_meta(meta: bytes, shared: dict[Name, None], names: dict[Name, None]) -> None:
    try:
        said = _decode_meta(meta)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return
    correlation, cause, parent = said.correlation, said.causation, said.traceparent
    if _is_value(correlation):
        shared[Name(What.CORRELATION, correlation)] = None
    if _is_value(cause):
        names[Name(What.KEY, cause)] = None
        if _SEQ.fullmatch(number := cause.removeprefix("event:")):
            names[Name(What.EVENT, number)] = None
    trace = _TRACEPARENT.fullmatch(parent) if isinstance(parent, str) else None
    if trace is not None and trace[1].strip("0"):
        shared[Name(What.TRACE, trace[1])] = None


def _of_decision(body: Any, shared: dict[Name, None], names: dict[Name, None]) -> None:
    request = part(body, "derived", "request")
    correlation, span = (part(request, "trace", name) for name in ("correlation_id", "span_id"))
    if _is_value(correlation):
        shared[Name(What.CORRELATION, correlation)] = None
    if _is_value(span):
        names[Name(What.RUN, span)] = None
    kind, place = (part(request, "context", "ref", name) for name in ("kind", "id"))
    if kind == "event" and isinstance(place, str) and _SEQ.fullmatch(place):
        names[Name(What.EVENT, place)] = None


def _mentioned(text: bytes, names: dict[Name, None]) -> None:
    """Sessions, decisions and runs that JSON names, as a value or in its words."""
    for found in _MENTION.finditer(text):
        try:
            value = found[found.lastindex or 0].decode()
        except UnicodeDecodeError:
            continue
        if found.lastgroup == "run":
            names[Name(What.RUN, value)] = None
        elif found.lastgroup in ("decision", "named"):
            names[Name(What.STREAM, gateway.decision_stream(value))] = None
        else:
            names[Name(What.STREAM, session.STREAM_PREFIX + value)] = None
        if len(names) > NAMES_MAX:
            return


def _listed(row: Row) -> Iterator[Name]:
    """The events that a built-in body lists, by their seqs or run ids."""
    if row.body is None or row.kind not in _LISTING:
        return
    body = _decoded(row.body)
    seqs = [part(body, "seq")] if row.kind == records.BODY_ERASED else part(body, "executions")
    if not isinstance(seqs, list):
        seqs = [None]
    yield from (Name(What.EVENT, str(seq)) for seq in seqs if type(seq) is int and seq > 0)
    run_ids = part(body, "observed", "run_ids")
    if None in seqs and isinstance(run_ids, list):  # recorded in a batch, before there were seqs
        yield from (Name(What.RUN, run_id) for run_id in run_ids if _is_value(run_id))


class Grounds(NamedTuple):
    """What a verdict rests on: the hash of its policy, and the seqs of the memory items that it looked at."""

    policy_hash: str | None
    memories: list[int]


def grounds_of(row: Row) -> Grounds:
    """The grounds of a `decision.recorded`."""
    derived = part(_decoded(row.body), "derived")
    policy_hash = part(derived, "policy", "policy_hash")
    found = part(derived, "risk_signals", "failure_similarity", "top_k")
    memories = []
    for match in found[:NAMES_MAX] if isinstance(found, list) else []:
        memory_id = part(match, "memory_id")
        seq = gateway.memory_seq(memory_id) if isinstance(memory_id, str) else None
        if seq is not None:
            memories.append(seq)
    return Grounds(policy_hash if _is_value(policy_hash) else None, memories)


def learned_from(row: Row) -> int | None:
    """The seq of the decision that a `memory.added` was learned from."""
    seq = part(_decoded(row.body), "decision_seq")
    return seq if type(seq) is int and seq > 0 else None


def is_whole(stream: str) -> bool:
    """Whether a stream is of one session or decision."""
    return stream.startswith(WHOLE)


def is_of_one_thing(stream: str) -> bool:
    """Whether an app's stream is named as one of one thing, such as `order:81`."""
    return ":" in stream and not stream.startswith((*WHOLE, *GENERAL))


def seqs_in(names: Iterable[Name]) -> Iterator[int]:
    """The seqs among names."""
    return (int(name.value) for name in names if name.what is What.EVENT)


def _is_value(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _VALUE_MAX


def _decoded(data: bytes | None) -> Any:
    try:
        return None if data is None else canonical.decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return None
