"""Decision packs: what is in them, that they check out, and that hostile ones are refused (D11, D12)."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick import DecisionErased, Gateway, Ledger, NoSuchDecision
from tallystick.recorders.gateway.errors import BadPack
from tallystick.recorders.gateway.pack import MEMBERS_BYTES_MAX, Pack, check_pack, read_pack
from tallystick.recorders.gateway.packing import collect, registered_text
from tallystick.recorders.gateway.policy import STARTER_POLICY

MakeRequest = Callable[..., dict[str, Any]]


@pytest.fixture
def pack(ledger: Ledger, make_request: MakeRequest) -> Pack:
    """Of a decision with one similar failure behind it and a note after it, among others."""
    gateway = Gateway(ledger, STARTER_POLICY)
    first = gateway.decide(make_request())
    gateway.label(first.decision_id, "failure", "never sent back")
    gateway.decide(make_request(tenant={"tenant_id": "another"}))
    record = gateway.decide(make_request())
    ledger.append("order.shipped", {"order": 81})
    gateway.add_event(record.decision_id, "note", {"text": "seen"})
    return collect(ledger, record.decision_id)


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


# -- what is in it -------------------------------------------------------------------------


def test_it_holds_the_record_the_policy_the_request_and_the_events(pack: Pack, ledger: Ledger) -> None:
    members = unzipped(pack.to_bytes())
    assert set(members) == set(MEMBERS_BYTES_MAX)
    assert members["policy.yaml"] == STARTER_POLICY.read_bytes()
    assert json.loads(members["record.json"])["verdict"] == "ESCALATE"
    assert json.loads(members["record.json"])["decision_event_log"][0]["data"] == {"text": "seen"}
    assert json.loads(members["request.json"])["subject"]["id"] == "refund-bot"
    assert [row.kind for row in pack.rows] == [
        "ledger.created",
        "policy.registered",
        "memory.added",
        "decision.recorded",
        "decision.noted",
    ]
    for row in pack.rows:
        assert row.hash == ledger.get(row.seq).hash
        assert row.hash.hex() in members["README.txt"].decode()
    assert members["head.txt"].decode().strip() == str(ledger.head())
    assert "tally replay FILE.zip" in members["README.txt"].decode()


def test_reading_is_the_inverse_of_writing(pack: Pack) -> None:
    data = pack.to_bytes()
    assert read_pack(data) == pack
    assert read_pack(data).to_bytes() == data
    assert check_pack(read_pack(data)) == []


def test_a_deflated_pack_is_read_as_well(pack: Pack) -> None:
    assert read_pack(zipped(unzipped(pack.to_bytes()), zipfile.ZIP_DEFLATED)) == pack


def test_the_same_log_makes_the_same_bytes(pack: Pack, ledger: Ledger) -> None:
    decision_id = pack.record.decision_id
    assert ledger.path is not None
    with Ledger.open(ledger.path, read_only=True) as again:
        assert collect(again, decision_id).to_bytes() == pack.to_bytes()


def test_the_failure_that_counted_is_in_it_even_if_five_others_are_closer(
    ledger: Ledger, make_request: MakeRequest
) -> None:
    """The similarity that a rule saw may be to none of the best five (D8)."""
    gateway = Gateway(ledger, STARTER_POLICY)
    far = gateway.decide(make_request(action={"tags": ["damaged", "x", "y", "z"]}))
    gateway.label(far.decision_id, "failure", "far")
    for _ in range(5):
        gateway.label(gateway.decide(make_request()).decision_id, "success", "near")
    record = gateway.decide(make_request())
    similarity = record.risk_signals.failure_similarity
    assert similarity.numerator > 0
    assert {match.label for match in similarity.top_k} == {"success"}
    found = [
        json.loads(row.body or b"")["label"]
        for row in collect(ledger, record.decision_id).rows
        if "memory" in row.kind
    ]
    assert sorted(found) == ["failure"] + ["success"] * 5


def test_a_decision_without_a_policy(ledger: Ledger, make_request: MakeRequest, tmp_path: Path) -> None:
    record = Gateway(ledger, tmp_path / "none.yml").decide(make_request())
    pack = collect(ledger, record.decision_id)
    assert pack.policy_text is None
    assert "policy.yaml" not in unzipped(pack.to_bytes())
    assert check_pack(read_pack(pack.to_bytes())) == []


def test_erased_events_stay_with_their_hashes(pack: Pack, ledger: Ledger) -> None:
    decision_id = pack.record.decision_id
    for row in pack.rows:
        if row.kind in ("policy.registered", "memory.added", "decision.noted"):
            ledger.erase(row.seq, "privacy")
    again = collect(ledger, decision_id)
    assert [row.seq for row in again.rows if row.body is None] == [pack.rows[n].seq for n in (1, 2, 4)]
    assert again.policy_text is None
    assert check_pack(read_pack(again.to_bytes())) == []
    assert registered_text(ledger, again.record.policy.policy_hash) is None
    ledger.erase(pack.rows[3].seq, "privacy")
    with pytest.raises(DecisionErased):
        collect(ledger, decision_id)
    with pytest.raises(NoSuchDecision):
        collect(ledger, "dec_none")


# -- what contradicts itself ------------------------------------------------------------------


def altered(pack: Pack, member: str, old: str, new: str) -> list[str]:
    members = unzipped(pack.to_bytes())
    text = members[member].decode()
    assert old in text
    members[member] = text.replace(old, new, 1).encode()
    return [str(one) for one in check_pack(read_pack(zipped(members)))]


@pytest.mark.parametrize(
    ("member", "old", "new", "problem"),
    [
        (
            "record.json",
            '"verdict": "ESCALATE"',
            '"verdict": "TRUST"',
            "record.json: verdict is not what event",
        ),
        ("record.json", '"text": "seen"', '"text": "gone"', "record.json: decision_event_log is not what"),
        ("request.json", "refund-bot", "other-bot", "request.json: is not what event"),
        (
            "policy.yaml",
            "refund_alone_max_usd: 50",
            "refund_alone_max_usd: 5",
            "policy.yaml: is not the text",
        ),
        ("policy.yaml", "policy_id: support", "nothing: support", "policy.yaml: is no valid policy"),
        ("events.jsonl", "never sent back", "always sent back", "its body or salt does not match"),
        (
            "events.jsonl",
            '"kind":"memory.added"',
            '"kind":"memory.gone"',
            "its columns do not match its hash",
        ),
        ("events.jsonl", "decision.recorded", "decision.deleted", "there is not one decision.recorded"),
        ("head.txt", "tally1:", "tally1:" + "0" * 32 + ":", ""),
    ],
)
def test_an_alteration_is_found(pack: Pack, member: str, old: str, new: str, problem: str) -> None:
    """A flipped verdict in a pack is found (D12)."""
    if member == "head.txt":
        old, new = str(pack.head), f"tally1:{'0' * 32}:{pack.head.seq}:{pack.head.hash.hex()}"
        problem = "event 1 belongs to another ledger than the head line"
    assert any(problem in found for found in altered(pack, member, old, new))


def test_a_head_that_ends_too_early(pack: Pack) -> None:
    found = altered(pack, "head.txt", f":{pack.head.seq}:", ":2:")
    assert any("ends before event" in one for one in found)
    assert any("names another hash for event 2" in one for one in found)


# -- hostile packs -----------------------------------------------------------------------------


def refused(data: bytes) -> str:
    with pytest.raises(BadPack) as raised:
        read_pack(data, "case.zip")
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a/record.json", "..\\evil", "x" * 3000, "Record.json"]
)
def test_other_names_are_refused(pack: Pack, name: str) -> None:
    """No path that a pack names is ever used, so nothing can slip out of a folder."""
    members = unzipped(pack.to_bytes())
    del members["head.txt"]
    message = refused(zipped({**members, name: b"x"}))
    assert "is no part of a pack" in message or "which no pack has" in message


def test_a_bomb_is_refused_before_it_is_large(pack: Pack) -> None:
    members = unzipped(pack.to_bytes())
    members["request.json"] = b" " * (MEMBERS_BYTES_MAX["request.json"] + 1)
    data = zipped(members, zipfile.ZIP_DEFLATED)
    assert len(data) < 100_000
    assert "request.json: more than the 4,194,304 bytes allowed" in refused(data)


def test_a_size_that_lies_is_no_way_around(pack: Pack) -> None:
    members = unzipped(pack.to_bytes())
    members["request.json"] = b" " * (MEMBERS_BYTES_MAX["request.json"] + 1)
    data = bytearray(zipped(members, zipfile.ZIP_DEFLATED))
    true_size = struct.pack("<L", len(members["request.json"]))
    assert data.count(true_size) == 2, "in the member's header and in the directory"
    assert refused(bytes(data.replace(true_size, struct.pack("<L", 10))))


def test_a_directory_of_many_entries_is_not_read(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    data = zipped({f"{number}": b"" for number in range(2_000)})
    end = pack.to_bytes()[-22:]
    large = pack.to_bytes()[:-22] + b"PK\x06\x07" + bytes(16) + end
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert "has 2,000 members" in refused(data)
    assert "is a zip file of the 64-bit form" in refused(large)


def test_twice_missing_encrypted(pack: Pack) -> None:
    members = unzipped(pack.to_bytes())
    for name in members:
        rest = {other: data for other, data in members.items() if other != name}
        if name != "policy.yaml":
            assert f"{name}: is missing" in refused(zipped(rest))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("head.txt", "a")
        archive.writestr("head.txt", "b")
    assert "head.txt: is in it twice" in refused(buffer.getvalue())
    data = bytearray(pack.to_bytes())
    place = data.index(b"PK\x01\x02")
    data[place + 8] |= 1
    assert "is encrypted" in refused(bytes(data))


@pytest.mark.parametrize(
    ("member", "content", "problem"),
    [
        ("record.json", b"{", "record.json: is not as expected"),
        ("record.json", b'{"schema_version": "decision_record.v0"}', "missing required field"),
        ("request.json", b"[]", "request.json: is not as expected"),
        ("request.json", b"[" * 100_000, "request.json: is not as expected"),
        ("policy.yaml", b"\xff", "policy.yaml: byte 1 is no UTF-8 text"),
        ("events.jsonl", b"{}\n", "events.jsonl: line 1: no exported event"),
        ("head.txt", b"head", "head.txt: "),
    ],
)
def test_members_that_are_not_as_expected(pack: Pack, member: str, content: bytes, problem: str) -> None:
    assert problem in refused(zipped({**unzipped(pack.to_bytes()), member: content}))


def test_events_out_of_order(pack: Pack) -> None:
    members = unzipped(pack.to_bytes())
    first, second, *rest = members["events.jsonl"].splitlines(keepends=True)
    for lines in ([second, first, *rest], [first, second, second, *rest]):
        assert "not in the order" in refused(zipped({**members, "events.jsonl": b"".join(lines)}))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_are_a_pack_and_none_raise_anything_else(data: bytes) -> None:
    refused(data)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0), byte=st.integers(0, 255), cut=st.integers(0, 60))
def test_a_damaged_pack_is_refused_or_read(made: bytes, place: int, byte: int, cut: int) -> None:
    data = bytearray(made[: len(made) - cut] if cut > 50 else made)
    data[place % len(data)] = byte
    with suppress(BadPack):
        check_pack(read_pack(bytes(data)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_request: MakeRequest) -> bytes:
    with Ledger.open(tmp_path_factory.mktemp("made") / "a.tally") as ledger:
        record = Gateway(ledger, STARTER_POLICY).decide(make_request())
        return collect(ledger, record.decision_id).to_bytes()
