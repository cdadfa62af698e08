"""`tally incident`: naming the case and the place, what it prints, and its exit status."""

from __future__ import annotations

import errno
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forging import Forger
from requests_to_decide import refund

from tallystick import Gateway, Ledger, Selection, Session
from tallystick.cli.incident import name_of
from tallystick.recorders.gateway.policy import STARTER_POLICY
from tallystick.replay.incident import files as incident_files

Tally = Callable[..., Any]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The default ledger: a session and a decision of one case, and an event of another."""
    path = tmp_path / "agents.tally"
    with Ledger.open(path) as ledger:
        with ledger.context(correlation="case-7"), Session.start(ledger, "A mug", "Desk") as session:
            session.record_action("refund", "failed", "Pay")
        Gateway(ledger, STARTER_POLICY).decide(refund(trace={"correlation_id": "case-7"}))
        ledger.append("app.noted", meta={"correlation": "case-8"})
    return path


def ids(path: Path) -> tuple[str, str]:
    """The session's id and the decision's."""
    with Ledger.open(path, read_only=True) as ledger:
        streams = [
            next(ledger.read(kinds=[kind])).stream for kind in ("session.started", "decision.recorded")
        ]
    return streams[0].removeprefix("session:"), streams[1].removeprefix("decision:")


def test_a_folder_is_named_after_the_case(tally: Tally, desk: Path) -> None:
    result = tally("incident", "--correlation", "case-7")
    assert result.status == 0
    verdict, where = result.out.splitlines()
    assert verdict.startswith("MATCH 6 events: ")
    assert where == "incident-case-7"
    assert "correlation case-7: 4 events, 2 more as evidence, 1 session, 1 decision\n" in result.err
    manifest = re.search(r"has the SHA-256 ([0-9a-f]{64})", result.err)
    assert manifest is not None
    assert sorted(os.listdir("incident-case-7")) == [
        *("README.txt", "events.jsonl", "head.txt", "manifest.json", "packs", "replay.json", "report.html"),
        *("summary.json", "verify_ledger.py", "why.jsonl"),
    ]


def test_each_way_to_name_a_case(tally: Tally, desk: Path) -> None:
    session, decision = ids(desk)
    for arguments, folder in (
        (("--session", session[:6]), f"incident-{session}"),
        (("--decision", decision[:12]), f"incident-{decision.lower()}"),
        (("--since", "1h", "-o", "span"), "span"),
        (("--since", "2020-01-01", "--until", "2999-01-01", "-o", "both"), "both"),
    ):
        result = tally("incident", *arguments)
        assert (result.status, result.out.splitlines()[1]) == (0, folder), result.err
        assert (Path(folder) / "report.html").exists()
    assert len(Path("both/events.jsonl").read_bytes().splitlines()) == 7


def test_json_is_the_summary(tally: Tally, desk: Path) -> None:
    said = tally("incident", "--correlation", "case-7", "--json", "-o", "i.zip").json
    assert (said["path"], said["sound"], said["ledger_finding"]) == ("i.zip", True, None)
    assert said["summary"]["sessions"][0]["outcome"] == "failed"
    assert said["summary"]["counts"] == {"sessions": 1, "failures": 1, "decisions": 1}
    assert "report" not in said
    with zipfile.ZipFile("i.zip") as archive:
        assert json.loads(archive.read("incident/manifest.json"))["events"] == 6
    assert zipfile.is_zipfile("i.zip")


def test_a_pack_of_the_incident_replays(tally: Tally, desk: Path) -> None:
    tally("incident", "--correlation", "case-7", "-o", "i")
    [pack] = Path("i/packs").iterdir()
    assert tally("replay", str(pack)).status == 0


def test_the_head_can_be_compared_with_the_ledger(tally: Tally, desk: Path) -> None:
    tally("incident", "--correlation", "case-7", "-o", "i")
    assert tally("verify", "--expect", "i/head.txt").out.startswith("VERIFIED ")


def test_a_divergence_is_a_finding(tally: Tally, desk: Path) -> None:
    with Forger(desk) as forger:
        forger.put(forger.seq_of("session.closed"), "complete", "derived", "outcome")
    result = tally("incident", "--correlation", "case-7", "-o", "i")
    assert result.status == 1
    assert result.out.startswith("DIVERGED at event 4, layer digest: outcome")
    assert tally("incident", "--correlation", "case-8", "-o", "j").status == 0


def test_a_broken_ledger_is_a_finding(tally: Tally, desk: Path, alter: Callable[..., None]) -> None:
    alter(desk, 7, at=5)
    result = tally("incident", "--correlation", "case-7", "-o", "i")
    assert result.status == 1
    assert result.out.startswith("BROKEN event 7: edited")
    assert "BROKEN event 7: edited" in Path("i/report.html").read_text("utf-8")


def test_a_lost_end_is_a_finding(tally: Tally, desk: Path) -> None:
    line = Path("agents.tally.head").read_text("ascii").split(":")
    Path("agents.tally.head").write_text(f"{line[0]}:{line[1]}:99:{line[3]}")
    result = tally("incident", "--correlation", "case-7", "-o", "i")
    assert result.status == 1
    assert "vouches for event 99" in result.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "name the case"),
        (("--session", "a", "--correlation", "b"), "do not go together"),
        (("--session", "a", "--since", "1h"), "do not go together"),
        (("--since", "2026-02-01", "--until", "2026-01-01"), "until"),
        (("--session", "nothing"), "nothing"),
        (("--correlation", "nothing"), "no event is correlation nothing"),
        (("--correlation", ""), "no event"),
        (("--correlation", "case-7", "-o", "agents.tally"), "is a database"),
        (("--correlation", "case-7", "-o", "agents.tally", "--force"), "is a database"),
        (("--correlation", "case-7", "-o", "agents.tally.views"), "belongs to the ledger"),
        (("--correlation", "case-7", "-o", "agents.tally.head", "--force"), "belongs to the ledger"),
        (("--correlation", "case-7", "-o", "nowhere/i"), "its directory does not exist"),
        (("--correlation", "case-7", "-o", "mine", "--force"), "holds what no incident has (my.txt)"),
        (("--correlation", "case-7", "-o", "file.txt", "--force"), "something else"),
    ],
)
def test_what_is_refused(tally: Tally, desk: Path, arguments: tuple[str, ...], problem: str) -> None:
    Path("mine").mkdir()
    Path("mine/my.txt").write_text("mine")
    Path("file.txt").write_text("mine")
    before = sorted(os.listdir())
    result = tally("incident", *arguments)
    assert (result.status, result.out) == (2, "")
    assert problem in result.err and result.err.count("\n") == 1
    assert [name for name in sorted(os.listdir()) if not name.endswith(("-shm", "-wal"))] == before
    assert Path("mine/my.txt").read_text() == Path("file.txt").read_text() == "mine"


def test_a_taken_name_is_refused_unless_forced(tally: Tally, desk: Path) -> None:
    for name in ("i", "i.zip"):
        assert tally("incident", "--correlation", "case-7", "-o", name).status == 0
        refused = tally("incident", "--correlation", "case-7", "-o", name)
        assert refused.status == 2 and "--force" in refused.err
        assert tally("incident", "--correlation", "case-8", "-o", name, "--force").status == 0
    assert len(Path("i/events.jsonl").read_bytes().splitlines()) == 2


def test_a_full_disk_leaves_nothing_and_is_no_look(
    tally: Tally, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(incident_files.Bundle, "put", full)
    for name in ("i", "i.zip"):
        result = tally("incident", "--correlation", "case-7", "-o", name)
        assert (result.status, result.out) == (3, "")
        assert result.err.endswith(f"tally: {name}: No space left on device\n")
    assert [name for name in os.listdir() if "i" in name.partition(".")[0] or "tmp" in name] == []


def test_no_ledger_is_no_look(tally: Tally) -> None:
    assert tally("incident", "--correlation", "a").status == 3
    assert os.listdir() == []


def test_names_of_folders() -> None:
    hostile = [
        "../../x",
        "/etc",
        "a b",
        "A b",
        "CON",
        "x" * 400,
        "é",
        "\u202e",
        "",
        "a/b",
        "a\\b",
        "~",
        "-o",
        ".",
    ]
    names = [name_of(Selection(correlation=text)) for text in hostile]
    assert len({name.lower() for name in names}) == len(hostile)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,70}", name) for name in names), names
    assert name_of(Selection(correlation="case-7")) == "case-7"


def test_text_of_a_ledger_does_not_move_the_cursor(tally: Tally, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "agents.tally") as ledger:
        ledger.append("app.noted", meta={"correlation": "a\x1b[31m\u202eb"})
    result = tally("incident", "--correlation", "a\x1b[31m\u202eb", "-o", "i")
    assert result.status == 0
    assert "\x1b" not in result.out + result.err and "\u202e" not in result.out + result.err
    assert "\x1b" not in Path("i/README.txt").read_text("utf-8")


# -- checking one that was handed over ---------------------------------------------------------


def test_a_check_of_a_folder_and_a_zip_file(tally: Tally, desk: Path) -> None:
    head = tally("head").out.strip()
    for name in ("i", "i.zip"):
        made = tally("incident", "--correlation", "case-7", "-o", name, "--with-chain", "--expect", head)
        assert "the whole ledger: VERIFIED: every hash of events 1 to 7 follows" in made.err
        told = re.search(r"has the SHA-256 ([0-9a-f]{64})", made.err)
        assert told is not None
        found = tally("incident", "--check", name, "--expect", head, "--manifest", told[1])
        assert found.status == 0 and found.out.startswith("VERIFIED 6 events, 1 pack replayed")
        assert "it says of itself: MATCH 6 events" in found.out
        alone = tally("incident", "--check", name)
        assert alone.status == 0 and alone.out.startswith("UNANCHORED ")
        assert tally("incident", "--check", name, "--json").json["verdict"] == "UNANCHORED"
        assert tally("incident", "--check", name, "--manifest", "0" * 64).status == 1
        refused = tally("replay", name)
        assert refused.status == 2 and f"`tally incident --check {name}` checks it" in refused.err


def test_a_check_finds_what_was_altered(tally: Tally, desk: Path) -> None:
    tally("incident", "--correlation", "case-7", "-o", "i")
    Path("i/report.html").write_text("all is well")
    found = tally("incident", "--check", "i")
    assert found.status == 1
    assert found.out.startswith("BROKEN report.html: is not the file that the manifest lists")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--check", "i", "--session", "a"), "leave out --session"),
        (("--check", "i", "-o", "a"), "leave out --output"),
        (("--check", "i", "--manifest", "a"), "no SHA-256"),
        (("--correlation", "case-7", "--manifest", "0" * 64), "give --check"),
        (("--check", "agents.tally"), "is no zip file"),
        (("--check", "empty"), "manifest.json is missing"),
    ],
)
def test_what_a_check_refuses(tally: Tally, desk: Path, arguments: tuple[str, ...], problem: str) -> None:
    Path("empty").mkdir()
    result = tally("incident", *arguments)
    assert (result.status, result.out) == (2, "")
    assert problem in result.err and result.err.count("\n") == 1


def test_a_check_of_nothing_could_not_look(tally: Tally, desk: Path) -> None:
    assert tally("incident", "--check", "nowhere").status == 3
