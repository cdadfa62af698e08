"""D11, D12: a decision pack is replayed by itself, and a flipped verdict in it is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick import Ledger, Row
from tallystick.cli import main
from tallystick.ledger import chain
from tallystick.recorders.gateway.pack import Pack, read_pack
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
