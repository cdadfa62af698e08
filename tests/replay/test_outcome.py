"""The first line of a replay, and its exit status: what was not decided again is no silent MATCH."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from faults import diverged, replayed
from forging import Forger

from tallystick import Gateway, Ledger, Selection
from tallystick.cli import main
from tallystick.recorders.gateway.digests import context_digest
from tallystick.recorders.gateway.packing import collect
from tallystick.recorders.gateway.policy import STARTER_POLICY
from tallystick.replay.outcome import Outcome, not_rederivable, outcome, undecided, verdict_line

RECORDED = "decision.recorded"


class Said(NamedTuple):
    status: int
    out: str
    err: str


Tally = Callable[..., Said]


@pytest.fixture
def tally(capsys: pytest.CaptureFixture[str]) -> Tally:
    """The command in this process."""

    def run(*arguments: str) -> Said:
        status = main(list(arguments))
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return run


def another_engine(body: Any) -> None:
    body["derived"]["determinism"]["engine_version"] = "gateway.v1"


def flipped(body: Any) -> None:
    another_engine(body)
    body["derived"]["verdict"] = "ABSTAIN"


def newer(body: Any) -> None:
    body["v"] = 2


def forged(path: Path, change: Callable[[Any], None] | None = None, **columns: Any) -> int:
    with Forger(path) as forger:
        seq = forger.seq_of(RECORDED, 1)
        if change is not None:
            forger.change(seq, change)
        if columns:
            forger.replace(seq, **columns)
    return seq


def decision_at(path: Path, seq: int) -> str:
    with Ledger.open(path, read_only=True) as ledger:
        return ledger.get(seq).stream.removeprefix("decision:")


def test_a_flipped_verdict_dressed_as_another_engines_contradicts_its_rules(filled: Path) -> None:
    """Verdict and reasons follow from the rules that fired, whatever the engine."""
    seq = forged(filled, flipped)
    found = diverged(replayed(filled, layers=["digest", "decision"]))
    assert [(entry.seq, entry.layer.value, entry.what) for entry in found] == [(seq, "digest", "verdict")]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda half: half.update(reason_codes=["OTHER"]), "reason_codes"),
        (lambda half: half["matched_rules"][0].update(stage="LATER"), "matched_rules"),
        (lambda half: half["matched_rules"][0].update(effect="ALLOW"), "matched_rules"),
        (lambda half: half.update(matched_rules=[]), "verdict"),
    ],
)
def test_what_else_follows_from_the_rules_without_an_engine(
    filled: Path, change: Callable[[Any], None], what: str
) -> None:
    def edit(body: Any) -> None:
        another_engine(body)
        change(body["derived"])

    forged(filled, edit)
    assert [entry.what for entry in diverged(replayed(filled, layers=["digest"]))] == [what]


@pytest.mark.parametrize("change", [another_engine, newer])
def test_a_match_names_the_verdicts_that_were_not_decided_again(
    filled: Path, change: Callable[[Any], None]
) -> None:
    forged(filled, change)
    report = replayed(filled, layers=["digest", "decision"])
    assert (outcome(report), undecided(report)) == (Outcome.MATCH, 1)
    assert "; 1 verdict NOT DECIDED AGAIN" in verdict_line(report)
    assert report.to_dict()["undecided"] == 1


def test_an_unknown_engine_is_named(filled: Path) -> None:
    forged(filled, another_engine)
    [reason] = [one.reason for one in replayed(filled, layers=["decision"]).reasons]
    assert reason == "unknown engine 'gateway.v1': this program has 'gateway.v0'"


def test_a_match_names_events_of_an_unknown_kind(filled: Path) -> None:
    forged(filled, kind="decision.recordedx", key=None)
    report = replayed(filled, layers=["digest", "decision"])
    assert "; 1 event of an UNKNOWN kind or version" in verdict_line(report)


def test_one_decision_that_was_not_decided_again_is_no_match(filled: Path, tally: Tally) -> None:
    seq = forged(filled, another_engine)
    found = replayed(filled, selection=Selection(decision=decision_at(filled, seq)))
    assert outcome(found) is Outcome.NOT_REDERIVABLE
    assert "unknown engine 'gateway.v1'" in verdict_line(found)
    result = tally("replay", "-f", str(filled), "--decision", str(seq))
    assert result.status == 3
    assert result.out.startswith("NOT RE-DERIVABLE decision dec_")
    asked = tally("replay", "-f", str(filled), "--decision", str(seq), "--json")
    assert (asked.status, json.loads(asked.out)["outcome"]) == (3, "NOT RE-DERIVABLE")


@pytest.mark.parametrize("change", [another_engine, newer])
def test_a_pack_whose_verdict_was_not_decided_is_no_match(
    filled: Path, tmp_path: Path, tally: Tally, change: Callable[[Any], None]
) -> None:
    seq = forged(filled, change)
    decision_id = decision_at(filled, seq)
    with Ledger.open(filled, read_only=True) as ledger:
        data = collect(ledger, decision_id).to_bytes()
    pack = tmp_path / "one.zip"
    pack.write_bytes(data)
    result = tally("replay", str(pack))
    assert result.status == 3
    assert result.out.startswith("NOT RE-DERIVABLE decision dec_")
    assert tally("replay", str(pack), "--strict").status == 1


def test_strict_makes_a_finding_of_what_cannot_be_derived_again(filled: Path, tally: Tally) -> None:
    asked = ("replay", "-f", str(filled), "--layer", "digest", "--layer", "decision")
    assert tally(*asked, "--strict").status == 0
    forged(filled, another_engine)
    assert tally(*asked).status == 0
    result = tally(*asked, "--strict")
    assert result.status == 1
    assert "1 check could not be derived again" in result.err


def test_a_redaction_is_no_finding_however_strict(filled: Path) -> None:
    """The verdict is decided again; the digests of the request cannot be made again."""
    with Ledger.open(filled) as ledger:
        recorded = next(ledger.read(kinds=[RECORDED])).body
        assert recorded is not None
        inline: dict[str, Any] = {"mode": "inline", "inline": {"email": "a@example.org"}}
        inline["digest"] = context_digest(inline)
        Gateway(ledger, STARTER_POLICY).decide({**recorded["derived"]["request"], "context": inline})
    report = replayed(filled, layers=["digest", "decision"])
    assert not_rederivable(report, strict=True) == 0 < not_rederivable(report)
    assert (outcome(report), undecided(report)) == (Outcome.MATCH, 0)


def test_what_follows_from_one_alteration_is_said_once(filled: Path) -> None:
    """Hashes made anew, and what later decisions say of them left: each names a hash that is gone."""
    with Ledger.open(filled) as ledger:
        gateway = Gateway(ledger, STARTER_POLICY)
        recorded = next(ledger.read(kinds=[RECORDED])).body
        assert recorded is not None
        for _ in range(5):
            gateway.decide(recorded["derived"]["request"])
    with Forger(filled, clever=False) as forger:
        forger.put(forger.seq_of("action.recorded"), "failed", "derived", "outcome")
    lines = str(replayed(filled, layers=["digest"])).splitlines()
    assert len([line for line in lines if ", digest: memory_snapshot" in line]) == 1
    [once] = [line for line in lines if "more follow from it" in line]
    assert once.startswith("6 more follow from it: ")
