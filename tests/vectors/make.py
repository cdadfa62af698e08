"""Make the vector files of this folder, or with --check compare them with what they should be.

    python make.py            write canonical.json, hashes.json, ledger.jsonl and ledger.head
    python make.py --check    write nothing; exit 1 and name the files that differ

Written from docs/format.md, whose sections the comments name. It imports nothing of the
package. Canonical JSON is made twice, by the rules of section 3 spelled out here and by
msgspec, and the two must agree. README.md in this folder says what each field is.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import msgspec
from blake3 import blake3

FOLDER = Path(__file__).parent
EVENT_TAG = b"tally.event.v1\x00"  # section 4
GENESIS_TAG = b"tally.genesis.v1\x00"  # section 4
INTEGER_MAX = 2**53 - 1  # section 3
DEPTH_MAX = 64  # section 3
ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
ENCODER = msgspec.json.Encoder(order="sorted")
LEDGER_ID = bytes.fromhex("7a11e5c0ffee4a5e8bd2f0e1d2c3b4a5")


# ---- canonical JSON (section 3), by its rules ----


def canonical_string(text: str) -> str:
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ValueError("a lone surrogate")
    escaped = (ESCAPES.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in text)
    return '"' + "".join(escaped) + '"'


def canonical_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    sign = "-" if math.copysign(1, value) < 0 else ""
    if value == 0:
        return f"{sign}0.0"
    shortest = Decimal(repr(abs(value)))  # the digits of the shortest decimal that reads back the same
    digits = "".join(map(str, shortest.as_tuple().digits)).rstrip("0")
    exponent = shortest.adjusted()  # value = d.ddd * 10^exponent
    if not -5 <= exponent <= 15:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{fraction}e{exponent}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    return f"{sign}{whole}.{digits[exponent + 1 :] or '0'}"


def canonical_text(value: object, depth: int = 0) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return canonical_string(value)
    if isinstance(value, int):
        if abs(value) > INTEGER_MAX:
            raise ValueError("an integer beyond ±(2^53 - 1)")
        return str(value)
    if isinstance(value, float):
        return canonical_float(value)
    if depth == DEPTH_MAX:
        raise ValueError("nested deeper than 64")
    if isinstance(value, list):
        return "[" + ",".join(canonical_text(item, depth + 1) for item in value) + "]"
    if isinstance(value, dict):
        ordered = sorted(value.items())  # Python compares strings by code point
        members = (f"{canonical_string(name)}:{canonical_text(item, depth + 1)}" for name, item in ordered)
        return "{" + ",".join(members) + "}"
    raise ValueError(f"{type(value).__name__} is not a JSON value")


def canonical(value: object) -> bytes:
    data = canonical_text(value).encode("utf-8")
    assert data == ENCODER.encode(value), value
    return data


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name comes twice")
    return dict(pairs)


def read_json(text: str) -> object:
    value: object = json.loads(text, object_pairs_hook=unique)
    return value


# ---- hashes (section 4) ----


def lp(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def body_hash(salt: bytes, body: bytes) -> bytes:
    return blake3(salt + body).digest()


def genesis(ledger_id: bytes) -> bytes:
    return blake3(GENESIS_TAG + ledger_id).digest()


@dataclass(frozen=True)
class Event:
    seq: int
    at: int
    kind: str
    stream: str
    key: str | None
    meta: bytes | None
    body_hash: bytes
    prev_hash: bytes

    def preimage(self) -> bytes:
        numbers = self.seq.to_bytes(8, "big") + self.at.to_bytes(8, "big", signed=True)
        texts = lp(self.kind.encode()) + lp(self.stream.encode())
        options = lp((self.key or "").encode()) + lp(self.meta or b"")
        return EVENT_TAG + self.prev_hash + numbers + self.body_hash + texts + options

    def hash(self) -> bytes:
        return blake3(self.preimage()).digest()


# ---- canonical.json ----

# name, JSON text of the value
ACCEPTED: list[tuple[str, str]] = [
    ("null", "null"),
    ("true", "true"),
    ("false", "false"),
    ("empty object", "{}"),
    ("empty array", "[]"),
    ("empty string", '""'),
    ("white space goes", '\n{ "a" : [ 1 , 2 ] ,\t"b" : { } }\r\n'),
    ("names are sorted", '{"b":1,"a":2,"aa":3,"A":4,"10":5,"9":6,"":7}'),
    (
        "nested names are sorted, arrays keep their order",
        '{"z":[{"y":1,"x":2},{"b":3,"a":4}],"a":{"d":5,"c":6}}',
    ),
    ("by code point, not by UTF-16 unit", '{"\\ud83d\\ude00":1,"\\uffff":2,"\\ue000":3,"\\u00e9":4,"z":5}'),
    ("names need escapes too", '{"\\"":1,"\\\\":2,"\\n":3,"\\u0000":4}'),
    ("names are not normalised", '{"\\u00e9":1,"e\\u0301":2}'),
    ("short escapes", '"\\"\\\\\\b\\t\\n\\f\\r"'),
    ("other control characters", '"\\u0000\\u0001\\u000b\\u001b\\u001F"'),
    ("delete and C1 controls stand as they are", '"\\u007f\\u0080\\u009f"'),
    ("the solidus is not escaped", '"<\\/script>"'),
    ("line separators stand as they are", '"\\u2028\\u2029"'),
    ("unneeded escapes go", '"\\u0041\\u00e9\\u20ac"'),
    ("a surrogate pair is one character", '"\\ud83e\\uddfe"'),
    ("noncharacters and the byte order mark stand as they are", '"\\ufeff\\ufffe\\uffff"'),
    ("integer zero", "0"),
    ("integer", "-17"),
    ("largest integer", "9007199254740991"),
    ("smallest integer", "-9007199254740991"),
    ("float zero", "0.0"),
    ("float minus zero", "-0.0"),
    ("a whole float keeps its point", "1.0"),
    ("negative whole float", "-100.0"),
    ("exponent form of a middling number", "1E2"),
    ("trailing zeros go", "1.500"),
    ("tenth", "0.1"),
    ("sum with an error", "0.30000000000000004"),
    ("digits beyond binary64", "3.14159265358979323846264338327950288"),
    ("smallest in plain form", "0.00001"),
    ("several digits, smallest plain exponent", "0.000012345"),
    ("just below plain form", "0.00000999"),
    ("small, exponent form", "1e-6"),
    ("small, several digits", "1.5E-7"),
    ("largest power in plain form", "1e15"),
    ("largest in plain form", "9999999999999998.0"),
    ("smallest large in exponent form", "1e16"),
    ("no plus sign, no leading zero", "1.25E+020"),
    ("2^53 as a float", "9007199254740992.0"),
    ("2^53 + 1 is not a binary64", "9007199254740993.0"),
    ("a float has no integer's bound", "-1.2345678901234567e19"),
    ("halfway case", "5e22"),
    ("largest binary64", "1.7976931348623157e308"),
    ("smallest normal binary64", "2.2250738585072014e-308"),
    ("smallest subnormal binary64", "5e-324"),
    ("underflow reads as zero", "1e-400"),
    ("64 arrays deep", "[" * 64 + "]" * 64),
    ("64 objects deep", '{"a":' * 63 + "{}" + "}" * 63),
    ("a body", '{"v": 1, "order": 81, "total": {"amount": "19.90", "currency": "EUR"}, "to": "Zoë"}'),
]

# name, description, JSON text of the value where it has one
REFUSED: list[tuple[str, str, str | None]] = [
    ("not a number", "the float NaN", None),
    ("positive infinity", "the float +infinity", None),
    ("negative infinity", "the float -infinity", None),
    ("too large a number", "a number that overflows binary64, so that it would read as infinity", "1e400"),
    ("2^53", "an integer above 2^53 - 1; send it as a string", "9007199254740992"),
    ("-2^53", "an integer below -(2^53 - 1); send it as a string", "-9007199254740992"),
    ("large integer inside", "the same anywhere in the value", '{"a":[{"id":18446744073709551615}]}'),
    ("lone high surrogate", "a string with an unpaired surrogate", '"\\ud83d"'),
    ("lone low surrogate", "a string with an unpaired surrogate", '"\\ude00x"'),
    ("surrogates in the wrong order", "two unpaired surrogates are no character", '"\\ude00\\ud83d"'),
    ("lone surrogate in a name", "the same in the name of a member", '{"\\ud83d":1}'),
    ("name twice", "an object with two members of one name", '{"a":1,"a":1}'),
    ("name twice after escapes", "names are compared as characters", '{"a":1,"\\u0061":2}'),
    ("65 arrays deep", "arrays or objects nested deeper than 64", "[" * 65 + "]" * 65),
    ("65 objects deep", "arrays or objects nested deeper than 64", '{"a":' * 64 + "{}" + "}" * 64),
    ("name that is no string", "an object (map) with the integer 1 as a name", None),
    ("bytes", "a byte string; encode it as a string first", None),
]


def canonical_vectors() -> dict[str, object]:
    accepted: list[dict[str, str]] = []
    for name, text in ACCEPTED:
        out = canonical(read_json(text))
        assert canonical(read_json(out.decode())) == out, f"{name}: not stable"
        accepted.append({"name": name, "in": text, "out": out.decode(), "out_hex": out.hex()})
    for name, _, refused in REFUSED:
        if refused is not None:
            try:
                canonical_text(read_json(refused))
            except ValueError:
                continue
            raise AssertionError(f"{name}: not refused")
    return {
        "version": 1,
        "accepted": accepted,
        "refused": [{"name": name, "description": why, "in": text} for name, why, text in REFUSED],
    }


# ---- hashes.json ----

SALT = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
BODIES: list[tuple[str, bytes, bytes]] = [
    ("object", SALT, b'{"order":81,"v":1}'),
    ("empty object", SALT, b"{}"),
    ("JSON null is a body", SALT, b"null"),
    ("non-ASCII", SALT, '{"to":"Zoë 🧾"}'.encode()),
    ("another salt", bytes(16), b'{"order":81,"v":1}'),
    ("longer than one BLAKE3 chunk", SALT, b'"' + b"tally" * 500 + b'"'),
]
BODY_HASH = body_hash(SALT, b'{"order":81,"v":1}')
META = b'{"actor":"refund-bot","correlation":"case-118"}'
PREVIOUS = genesis(LEDGER_ID)
AT = 1_735_689_600_000_000  # 2025-01-01T00:00:00Z
EVENTS: list[tuple[str, Event]] = [
    ("plain", Event(2, AT, "order.shipped", "order:81", "req-7f3a", META, BODY_HASH, PREVIOUS)),
    ("key absent", Event(2, AT, "order.shipped", "order:81", None, META, BODY_HASH, PREVIOUS)),
    ("meta absent", Event(2, AT, "order.shipped", "order:81", "req-7f3a", None, BODY_HASH, PREVIOUS)),
    ("key and meta absent", Event(2, AT, "order.shipped", "order:81", None, None, BODY_HASH, PREVIOUS)),
    (
        "non-ASCII stream and key",
        Event(3, AT, "order.noted", "größe:日本🧾", "clé", None, BODY_HASH, PREVIOUS),
    ),
    ("at before 1970", Event(4, -1, "clock.read", "clock", None, None, BODY_HASH, PREVIOUS)),
    ("smallest at", Event(4, -(2**63), "clock.read", "clock", None, None, BODY_HASH, PREVIOUS)),
    ("largest at", Event(4, 2**63 - 1, "clock.read", "clock", None, None, BODY_HASH, PREVIOUS)),
    ("at zero", Event(4, 0, "clock.read", "clock", None, None, BODY_HASH, PREVIOUS)),
    ("seq beyond 32 bits", Event(2**32 + 1, AT, "order.shipped", "s", None, None, BODY_HASH, PREVIOUS)),
    ("seq beyond 53 bits", Event(2**53 + 1, AT, "order.shipped", "s", None, None, BODY_HASH, PREVIOUS)),
    ("largest seq", Event(2**63 - 1, AT, "order.shipped", "s", None, None, BODY_HASH, PREVIOUS)),
    (
        "longest kind, stream and key",
        Event(5, AT, "a." + "b" * 126, "s" * 512, "k" * 512, b"{}", BODY_HASH, PREVIOUS),
    ),
    (
        "previous hash and body hash all zero",
        Event(6, AT, "order.shipped", "s", None, None, bytes(32), bytes(32)),
    ),
]


def event_vector(name: str, event: Event) -> dict[str, str | None]:
    return {
        "name": name,
        "seq": str(event.seq),
        "at": str(event.at),
        "kind": event.kind,
        "stream": event.stream,
        "key": event.key,
        "meta": None if event.meta is None else event.meta.decode(),
        "body_hash": event.body_hash.hex(),
        "prev_hash": event.prev_hash.hex(),
        "preimage": event.preimage().hex(),
        "hash": event.hash().hex(),
    }


def hash_vectors() -> dict[str, object]:
    ids = (LEDGER_ID, bytes(16), b"\xff" * 16)
    bodies = [
        {"name": name, "salt": salt.hex(), "body": body.decode(), "body_hash": body_hash(salt, body).hex()}
        for name, salt, body in BODIES
    ]
    return {
        "version": 1,
        "genesis": [{"ledger_id": one.hex(), "hash": genesis(one).hex()} for one in ids],
        "body_hash": bodies,
        "event_hash": [event_vector(name, event) for name, event in EVENTS],
    }


# ---- ledger.jsonl, ledger.head ----

ERASED = 5
ENGINE = {
    "name": "sqlite",
    "version": "3.54.1",
    "pragmas": {"journal_mode": "wal", "page_size": 8192, "synchronous": "full", "wal_autocheckpoint": 2000},
}
CREATED = {"v": 1, "ledger_id": LEDGER_ID.hex(), "format": 1, "program": "tallystick 0.1.0", "engine": ENGINE}
ACTOR: dict[str, object] = {"actor": "refund-bot", "correlation": "case-118"}


@dataclass(frozen=True)
class Draft:
    at: int  # microseconds after AT
    kind: str
    stream: str
    body: object
    key: str | None = None
    meta: dict[str, object] | None = None


def drafts(erased_hash: str) -> list[Draft]:
    """The events of the small ledger; only the erasure record depends on another event."""
    record = {"v": 1, "seq": ERASED, "body_hash": erased_hash, "reason": "request of the data subject"}
    flow = {"causation": "3", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    return [
        Draft(0, "ledger.created", "ledger", CREATED),
        Draft(1_000_000, "order.placed", "order:81", {"v": 1, "order": 81, "total": "19.90"}, "req-7f3a"),
        Draft(2_500_000, "order.shipped", "order:81", {"v": 1, "order": 81, "parcels": 2}, "req-7f3b", ACTOR),
        Draft(
            2_500_000, "order.noted", "größe:日本🧾", {"note": "zerbrechlich — 取扱注意", "weight_kg": 1.0}
        ),
        Draft(3_000_000, "customer.wrote", "customer:7", {"v": 1, "text": "my card is 4000 0000 0000 0002"}),
        Draft(-AT - 1, "clock.read", "clock", {"v": 1, "says": "1969-12-31T23:59:59.999999Z"}),
        Draft(4_000_000, "probe.answered", "probe", None, meta={}),
        Draft(5_000_000, "ledger.body_erased", "ledger", record, meta={"actor": "privacy-desk"}),
        Draft(4_999_999, "reading.taken", "sensor:1", [0.1, -0.0, 1e16, 1e-7, 0.00001, 9007199254740991]),
        Draft(6_000_000, "order.refunded", "order:81", {"v": 1, "order": 81}, "clé-81", {**ACTOR, **flow}),
        Draft(7_000_000, "text.kept", "notes", 'a "quoted" line\nand \\ another\u2028'),
        Draft(8_000_000, "order.closed", "order:81", {}),
    ]


def salt_of(seq: int) -> bytes:
    return blake3(f"tallystick vector salt {seq}".encode()).digest()[:16]


def erased_body() -> bytes:
    """The body that event 5 had; the ledger below no longer holds it."""
    return canonical(drafts("")[ERASED - 1].body)


def ledger_lines() -> list[dict[str, object]]:
    """The export lines of section 7, as objects, in order."""
    lines: list[dict[str, object]] = []
    previous = genesis(LEDGER_ID)
    for seq, draft in enumerate(drafts(body_hash(salt_of(ERASED), erased_body()).hex()), 1):
        salt, body = salt_of(seq), canonical(draft.body)
        meta = None if draft.meta is None else canonical(draft.meta)
        digest = body_hash(salt, body)
        event = Event(seq, AT + draft.at, draft.kind, draft.stream, draft.key, meta, digest, previous)
        kept = seq != ERASED
        lines.append(
            {
                "seq": seq,
                "at": event.at,
                "kind": event.kind,
                "stream": event.stream,
                "key": event.key,
                "meta": None if meta is None else meta.decode(),
                "salt": salt.hex() if kept else None,
                "body": body.decode() if kept else None,
                "body_hash": digest.hex(),
                "prev_hash": previous.hex(),
                "hash": event.hash().hex(),
            }
        )
        previous = event.hash()
    return lines


def head_line(lines: list[dict[str, object]]) -> str:
    return f"tally1:{LEDGER_ID.hex()}:{lines[-1]['seq']}:{lines[-1]['hash']}"


# ---- the command ----


def files() -> dict[str, str]:
    lines = ledger_lines()
    return {
        "canonical.json": json.dumps(canonical_vectors(), indent=1) + "\n",
        "hashes.json": json.dumps(hash_vectors(), indent=1) + "\n",
        "ledger.jsonl": "".join(ENCODE_LINE.encode(line).decode() + "\n" for line in lines),
        "ledger.head": head_line(lines) + "\n",
    }


ENCODE_LINE = msgspec.json.Encoder()  # not sorted: section 7 gives the order of the names


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the vector files of this folder.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if a file differs")
    check: bool = parser.parse_args().check
    differing = []
    for name, text in files().items():
        path, data = FOLDER / name, text.encode("utf-8")
        if check and (not path.exists() or path.read_bytes() != data):
            differing.append(name)
        elif not check:
            path.write_bytes(data)
    for name in differing:
        print(f"{name} is not what make.py makes", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
