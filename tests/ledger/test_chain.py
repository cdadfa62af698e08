"""The hashes, against byte-exact vectors and against their definition spelled out."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tallystick import Head, MemoryStore, Verdict
from tallystick.ledger import chain
from tallystick.ledger.event import Draft
from tallystick.ledger.portable import export_line, parse_line
from tallystick.ledger.verify import verify

text = st.text(min_size=1, max_size=20)


@pytest.fixture
def hashes(vectors: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((vectors / "hashes.json").read_text("utf-8"))
    return loaded


def test_the_genesis_vectors(hashes: dict[str, Any]) -> None:
    for vector in hashes["genesis"]:
        assert chain.genesis_hash(bytes.fromhex(vector["ledger_id"])).hex() == vector["hash"]


def test_the_body_hash_vectors(hashes: dict[str, Any]) -> None:
    for vector in hashes["body_hash"]:
        digest = chain.body_hash(bytes.fromhex(vector["salt"]), vector["body"].encode())
        assert digest.hex() == vector["body_hash"], vector["name"]


def test_the_event_hash_vectors(hashes: dict[str, Any]) -> None:
    assert len(hashes["event_hash"]) > 10
    for vector in hashes["event_hash"]:
        meta = None if vector["meta"] is None else vector["meta"].encode()
        label = chain.label(vector["kind"], vector["stream"], vector["key"], meta)
        digest = chain.event_hash(
            bytes.fromhex(vector["prev_hash"]),
            int(vector["seq"]),
            int(vector["at"]),
            bytes.fromhex(vector["body_hash"]),
            label,
        )
        assert digest.hex() == vector["hash"], vector["name"]
        assert bytes.fromhex(vector["preimage"]).endswith(label), vector["name"]


def test_the_vector_ledger_is_made_again_from_its_columns(vectors: Path) -> None:
    prev_hash = None
    for line in (vectors / "ledger.jsonl").read_bytes().splitlines():
        row = parse_line(line)
        if prev_hash is None:
            assert row.body is not None
            prev_hash = chain.genesis_hash(bytes.fromhex(json.loads(row.body)["ledger_id"]))
        if row.body is not None:
            assert row.salt is not None
            assert chain.body_hash(row.salt, row.body) == row.body_hash
        label = chain.label(row.kind, row.stream, row.key, row.meta)
        draft = Draft(
            row.at, row.kind, row.stream, row.key, row.meta, b"", row.body or b"", row.body_hash, label
        )
        again = draft.place(row.seq, prev_hash)
        assert (again.prev_hash, again.hash) == (row.prev_hash, row.hash)
        assert json.loads(export_line(row)) == json.loads(line)
        prev_hash = row.hash


def test_the_vector_ledger_verifies_against_its_head(vectors: Path) -> None:
    rows = [parse_line(line) for line in (vectors / "ledger.jsonl").read_bytes().splitlines()]
    head = Head.parse((vectors / "ledger.head").read_text("ascii"))
    store = MemoryStore()
    store.append(lambda _: rows)
    report = verify(store, expect=head)
    assert (report.verdict, report.events, report.head) == (Verdict.VERIFIED, len(rows), head)


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(min_size=32, max_size=32),
    text,
    text,
    st.none() | text,
    st.none() | st.binary(min_size=1),
)
def test_the_event_hash_covers_every_part_in_its_place(
    prev: bytes, seq: int, at: int, body: bytes, kind: str, stream: str, key: str | None, meta: bytes | None
) -> None:
    preimage = b"tally.event.v1\0" + prev + struct.pack(">Qq", seq, at) + body
    for part in (kind.encode(), stream.encode(), (key or "").encode(), meta or b""):
        preimage += len(part).to_bytes(4, "big") + part
    label = chain.label(kind, stream, key, meta)
    assert chain.event_hash(prev, seq, at, body, label) == blake3(preimage).digest()


@given(st.lists(text, min_size=2, max_size=2), st.none() | text, st.none() | st.binary(min_size=1))
def test_labels_cannot_run_into_one_another(names: list[str], key: str | None, meta: bytes | None) -> None:
    """Read back from its bytes, a label gives the very parts that went in."""
    data = chain.label(names[0], names[1], key, meta)
    parts = []
    while data:
        size = int.from_bytes(data[:4], "big")
        parts.append(data[4 : 4 + size])
        data = data[4 + size :]
    assert parts == [names[0].encode(), names[1].encode(), (key or "").encode(), meta or b""]


@given(st.binary(max_size=300))
def test_a_length_prefix_is_four_big_endian_bytes(data: bytes) -> None:
    assert chain.lp(data) == len(data).to_bytes(4, "big") + data


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=2000))
def test_a_body_hash_is_of_the_salt_and_then_the_body(salt: bytes, body: bytes) -> None:
    assert chain.body_hash(salt, body) == blake3(salt + body).digest()
