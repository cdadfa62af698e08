"""D11, D12: a decision pack is replayed by itself, and a flipped verdict in it is found."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick import Ledger, Row
from tallystick.cli import main
from tallystick.ledger import chain
from tallystick.recorders.gateway.errors import BadPack
from tallystick.recorders.gateway.pack import _README, Pack, read_pack
from tallystick.recorders.gateway.packing import collect
from tallystick.replay.pack import replay_pack
from tallystick.replay.report import Layer, Result

_encode = msgspec.json.Encoder(order="sorted").encode


@pytest.fixture
def pack(filled: Path) -> Pack:
    """The pack of the second decision, which was made with a remembered failure."""
    with Ledger.open(filled, read_only=True) as ledger:
        second = [event for event in ledger.read(kinds=["decision.recorded"])][1]
        made = collect(ledger, second.stream.removeprefix("decision:"))
    return read_pack(made.to_bytes())


def forged(pack: Pack, kind: str, change: Callable[[Any], Any]) -> Pack:
    """The pack with a body changed, and the hashes of its event made to fit."""

    def with_hashes(row: Row) -> Row:
        if row.kind != kind:
            return row
        body = msgspec.json.decode(row.body or b"")
        change(body)
        data = _encode(body)
        body_hash = chain.body_hash(row.salt or b"", data)
        label = chain.label(row.kind, row.stream, row.key, row.meta)
        digest = chain.event_hash(row.prev_hash, row.seq, row.at, body_hash, label)
        return row._replace(body=data, body_hash=body_hash, hash=digest)

    return pack._replace(rows=[with_hashes(row) for row in pack.rows])


def test_a_pack_as_it_was_made_matches(pack: Pack) -> None:
    report = replay_pack(pack)
    assert report.diverged == 0
    assert report.events == len(pack.rows) == 4  # created, policy, memory, decision
    assert report.layers[Layer.CHAIN].match == 4
    assert report.layers[Layer.DECISION].match == 12
    assert {reason.reason for reason in report.reasons} == {"the event that it names is not in the pack"}
    assert replay_pack(pack).to_json() == report.to_json()


def test_a_flipped_verdict_is_found(pack: Pack) -> None:
    def flip(body: Any) -> None:
        body["derived"]["verdict"] = "TRUST" if body["derived"]["verdict"] != "TRUST" else "ABSTAIN"

    report = replay_pack(forged(pack, "decision.recorded", flip))
    found = [(entry.layer, entry.what) for entry in report.entries if entry.result is Result.DIVERGED]
    assert (Layer.DECISION, "verdict") in found
    assert (Layer.DIGEST, "record.json") in found


def test_another_memory_is_found(pack: Pack) -> None:
    report = replay_pack(forged(pack, "memory.added", lambda body: body.update(label="success")))
    found = {entry.what for entry in report.entries if entry.layer is Layer.DECISION}
    assert {"verdict", "risk_signals"} <= found


def test_an_altered_event_is_the_chains(pack: Pack) -> None:
    rows = [row._replace(at=row.at + 1) if row.kind == "policy.registered" else row for row in pack.rows]
    report = replay_pack(pack._replace(rows=rows))
    assert report.first is not None
    assert report.first.layer is Layer.CHAIN


def members_of(pack: Pack) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(pack.to_bytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("member", ["README.txt", "record.json", "request.json", "policy.yaml", "head.txt"])
def test_every_file_of_a_pack_is_held_against_its_events(pack: Pack, member: str) -> None:
    """Somebody who is sent a pack reads its README first."""
    members = members_of(pack)
    edits = {
        "README.txt": (b": ESCALATE (", b": TRUST ("),
        "record.json": (b'"verdict": "ESCALATE"', b'"verdict": "TRUST"'),
        "request.json": (b"T-1", b"T-2"),
        "policy.yaml": (b"policy_version:", b"# the board agrees\npolicy_version:"),
        "head.txt": (f":{pack.head.seq}:".encode(), b":22:"),
    }
    old, new = edits[member]
    assert old in members[member]
    members[member] = members[member].replace(old, new, 1)
    report = replay_pack(read_pack(zipped(members)))
    found = [(entry.layer, entry.what) for entry in report.entries if entry.result is Result.DIVERGED]
    # What the README says follows from the record.
    others = ["README.txt"] if member == "record.json" else []
    assert {what for _, what in found} == {member, *others}
    assert {layer for layer, _ in found} == {Layer.DIGEST}


def test_the_readme_of_another_wording_needs_a_reader_that_knows_it() -> None:
    """Packs that were made before a change of the wording are still to be believed: keep the old one, too."""
    digest = hashlib.sha256(_README.encode()).hexdigest()
    assert digest == "a37245e7ad678ef6e40e48e60abdb807ec2a6e44260ce360d3e76fa1d0346063"


def test_a_file_more_in_a_pack_is_refused(pack: Pack) -> None:
    with pytest.raises(BadPack, match="has 7 members"):
        read_pack(zipped({**members_of(pack), "NOTES.txt": b"all is well"}))


def test_the_command(
    pack: Pack, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("case.zip").write_bytes(pack.to_bytes())
    assert main(["-f", "nowhere.tally", "replay", "case.zip"]) == 0
    assert capsys.readouterr().out.startswith("MATCH 4 events: ")

    def flip(body: Any) -> None:
        body["derived"]["reason_codes"] = ["FINE"]

    Path("bad.zip").write_bytes(forged(pack, "decision.recorded", flip).to_bytes())
    assert main(["replay", "bad.zip", "--json"]) == 1
    assert msgspec.json.decode(capsys.readouterr().out)["diverged"] > 0
    Path("no.zip").write_bytes(b"my notes")
    assert main(["replay", "no.zip"]) == 2
    assert main(["replay", "case.zip", "--up-to", "1"]) == 2
    assert main(["replay", "missing.zip"]) == 3
