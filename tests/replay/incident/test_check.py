"""Incidents that were doctored before they were handed over, and ledgers cut before one was made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forging import Forger
from incidents import checked, lines_in, tree, written

from tallystick import BadIncident, IncidentCheck, Ledger, Selection, check_incident
from tallystick.replay.incident.files import FOLDER

CASE = Selection(correlation="case-7")


def listed_again(folder: Path) -> None:
    """A manifest of the files as they are now, as whoever doctors one would write it."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"] = [
        {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in sorted(tree(folder).items())
        if name != "manifest.json"
    ]
    manifest["events"] = len((folder / "events.jsonl").read_bytes().splitlines())
    (folder / "manifest.json").write_text(json.dumps(manifest))


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def troubles(found: IncidentCheck) -> str:
    return "\n".join(map(str, found.troubles))


@pytest.fixture
def case(filled: Path, tmp_path: Path) -> Path:
    """A sound incident with its chain, in a folder."""
    written(filled, tmp_path / "i", CASE, with_chain=True)
    return tmp_path / "i"


def cut(path: Path, seq: int) -> None:
    """Take the end of a ledger away, past the guards in the file; the head file stays."""
    with contextlib.closing(sqlite3.connect(path)) as con:
        for (name,) in con.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            con.execute(f'DROP TRIGGER "{name}"')
        con.execute("DELETE FROM events WHERE seq > ?", (seq,))
        con.commit()


# -- the ledger that it comes from -----------------------------------------------------------


def test_an_incident_of_a_ledger_that_lost_its_end_says_so_everywhere(filled: Path, tmp_path: Path) -> None:
    cut(filled, 15)
    made = written(filled, tmp_path / "i", CASE)
    assert made.verdict.startswith("BROKEN event 16: truncated") and not made.sound
    plain = json.loads((tmp_path / "i" / "summary.json").read_bytes())
    assert (plain["ledger_verdict"], plain["sound"]) == ("BROKEN", False)
    assert plain["ledger_finding"].startswith("event 16: truncated")
    readme = (tmp_path / "i" / "README.txt").read_text("utf-8").splitlines()
    assert readme[1].startswith("BROKEN event 16: truncated")
    page = (tmp_path / "i" / "report.html").read_text("utf-8")
    assert '<p class="verdict bad"><strong>BROKEN</strong>' in page
    assert "every hash of events" not in page and "verdict good" not in page
    found = check_incident(tmp_path / "i")
    assert not found.troubles and "BROKEN event 16: truncated" in found.says


def test_a_ledger_that_was_rewritten_under_its_head_file(filled: Path, tmp_path: Path) -> None:
    kept = Path(f"{filled}.head").read_bytes()
    with Forger(filled) as forger:
        forger.put(forger.seq_of("session.closed"), "complete", "derived", "outcome")
    Path(f"{filled}.head").write_bytes(kept)
    made = written(filled, tmp_path / "i", Selection(session=_session(filled)))
    assert made.ledger_verdict == "BROKEN" and "the log was rewritten" in str(made.ledger_finding)
    assert "; the ledger is BROKEN event 31: edited" in made.verdict


def _session(path: Path) -> str:
    with Ledger.open(path, read_only=True) as ledger:
        return next(ledger.read(kinds=["session.started"])).stream.removeprefix("session:")


def test_a_head_from_elsewhere_vouches_for_the_ledger(filled: Path, tmp_path: Path) -> None:
    with Ledger.open(filled, read_only=True) as ledger:
        head, early = ledger.head(), next(ledger.rows(9))
    made = written(filled, tmp_path / "i", CASE, expect=str(head))
    assert (made.ledger_verdict, made.anchored_to) == ("VERIFIED", head.seq)
    assert "says: VERIFIED: every hash" in (tmp_path / "i" / "README.txt").read_text("utf-8")
    made = written(filled, tmp_path / "j", CASE, expect=f"10:{early.hash.hex()}")
    assert (made.ledger_verdict, made.anchored_to) == ("UNANCHORED", 10)
    made = written(filled, tmp_path / "k", CASE, expect=f"10:{'0' * 64}")
    assert made.verdict.startswith("BROKEN event 10: edited")


def test_the_banner_says_what_the_verdict_says(filled: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(filled)) as con:
        con.execute("DROP TRIGGER IF EXISTS events_no_update")
        con.execute("UPDATE events SET at = 5 WHERE seq = 30")
        con.commit()
    made = written(filled, tmp_path / "i", CASE)
    assert made.report.diverged == 0
    page = (tmp_path / "i" / "report.html").read_text("utf-8")
    assert made.verdict in (tmp_path / "i" / "README.txt").read_text("utf-8")
    assert '<p class="verdict bad"><strong>BROKEN</strong> event 30: edited' in page


def test_the_report_leads_from_a_decision_to_its_event(case: Path, filled: Path) -> None:
    with Ledger.open(filled, read_only=True) as ledger:
        seq = next(ledger.read(kinds=["decision.recorded"])).seq
    page = (case / "report.html").read_text("utf-8")
    assert f'Decision, <a href="#event-{seq}">event {seq}</a>' in page
    assert f'id="event-{seq}"' in page


# -- a sound incident --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["i", "i.zip"])
@pytest.mark.parametrize("with_chain", [False, True])
def test_a_sound_incident_passes(filled: Path, tmp_path: Path, name: str, with_chain: bool) -> None:
    target = tmp_path / "new" / name
    target.parent.mkdir()
    made = written(filled, target, CASE, with_chain=with_chain)
    with Ledger.open(filled, read_only=True) as ledger:
        head = str(ledger.head())
    told = next(file.sha256 for file in made.files if file.name == "manifest.json")
    found = check_incident(target, expect=head, manifest=told)
    assert found.verdict == ("VERIFIED" if with_chain else "UNANCHORED"), troubles(found)
    assert (found.packs, found.events, found.manifest) == (2, made.summary.events, told)
    assert check_incident(target).verdict == "UNANCHORED"  # its own head.txt vouches for nothing
    wrong = check_incident(target, manifest="0" * 64)
    assert wrong.verdict == "BROKEN" and "not what was told" in str(wrong)


def test_each_way_to_ask_for_a_case_passes(filled: Path, tmp_path: Path) -> None:
    with Ledger.open(filled, read_only=True) as ledger:
        decision = next(ledger.read(kinds=["decision.recorded"])).stream.removeprefix("decision:")
    for number, selection in enumerate(
        (Selection(session=_session(filled)), Selection(decision=decision), Selection(since=0))
    ):
        written(filled, tmp_path / str(number), selection, with_chain=True)
        assert troubles(check_incident(tmp_path / str(number))) == ""


def test_with_erased_events_or_a_divergence_it_still_passes(filled: Path, tmp_path: Path) -> None:
    with Ledger.open(filled) as ledger:
        ledger.erase(3, "asked for")
    written(filled, tmp_path / "i", CASE, with_chain=True)
    assert troubles(check_incident(tmp_path / "i")) == ""
    with Forger(filled) as forger:
        forger.put(forger.seq_of("decision.recorded"), 7, "derived", "determinism", "schema")
    written(filled, tmp_path / "j", CASE, with_chain=True)
    found = check_incident(tmp_path / "j")
    assert found.says.startswith("DIVERGED at event ")
    assert [each for each in found.troubles if not each.file.startswith("packs/")] == []


def test_another_head_is_found_and_a_later_one_is_said_to_be_of_no_use(case: Path) -> None:
    assert check_incident(case, expect=f"2:{'0' * 64}").verdict == "BROKEN"
    later = check_incident(case, expect=f"99:{'0' * 64}")
    assert later.verdict == "UNANCHORED"
    assert later.notes == (
        "the expected head could not be used: it names event 99, which lies behind all that is here",
    )
    other = check_incident(case, expect=f"tally1:{'0' * 32}:2:{'0' * 64}")
    assert other.verdict == "BROKEN" and "another ledger" in str(other)


# -- doctored ones -----------------------------------------------------------------------------


def test_a_swapped_pack_is_found(case: Path, filled: Path, tmp_path: Path) -> None:
    """The pack of the same decision of a forged ledger, with another verdict and hashes that follow."""
    forged = tmp_path / "forged.tally"
    shutil.copy(filled, forged)
    with Forger(forged) as forger:
        forger.put(forger.seq_of("decision.recorded"), 99, "observed", "latency_ms")
    written(forged, tmp_path / "f", CASE)
    [first, _] = sorted(path.name for path in (case / "packs").iterdir())
    shutil.copy(tmp_path / "f" / "packs" / first, case / "packs" / first)
    found = check_incident(case)
    assert found.verdict == "BROKEN" and "is not the file that the manifest lists" in str(found)
    listed_again(case)
    found = check_incident(case)
    assert found.verdict == "BROKEN"
    assert f"packs/{first}: its event" in str(found) and "is not the one in events.jsonl" in str(found)


def test_events_that_were_moved_to_the_chain_are_named(case: Path) -> None:
    events = lines_in(case)
    hidden = [line for line in events if line["seq"] in (3, 4)]
    assert hidden
    rest = [line for line in events if line not in hidden]
    (case / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rest))
    names = ("seq", "at", "kind", "stream", "key", "meta", "body_hash")
    chain = [json.loads(line) for line in (case / "chain.jsonl").read_bytes().splitlines()]
    chain += [{name: line[name] for name in names} for line in hidden]
    chain.sort(key=lambda line: line["seq"])
    compact = [json.dumps(line, separators=(",", ":"), ensure_ascii=False) for line in chain]
    (case / "chain.jsonl").write_text("".join(f"{line}\n" for line in compact), "utf-8")
    listed_again(case)
    found = check_incident(case, expect=(case / "head.txt").read_text().strip())
    assert found.verdict == "BROKEN"
    for line in hidden:
        assert f"event {line['seq']} ({line['kind']} in session:" in troubles(found)
    status, said = checked(
        case / "events.jsonl", "--chain", case / "chain.jsonl", "--expect", case / "head.txt"
    )
    assert status == 0
    assert f"WITHHELD, of streams that are here in part: {len(hidden)} of session:" in said


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("report.html", b"refund", b"return"),
        ("README.txt", b"MATCH", b"FINE!"),
        ("summary.json", b'"partial"', b'"success"'),
        ("why.jsonl", b"same correlation", b"some correlation"),
        ("replay.json", b'"diverged": 0', b'"diverged": 7'),
        ("verify_ledger.py", b"BROKEN", b"BRAKEN"),
    ],
)
def test_a_conclusion_that_does_not_follow_is_found(case: Path, name: str, old: bytes, new: bytes) -> None:
    data = (case / name).read_bytes()
    assert old in data
    (case / name).write_bytes(data.replace(old, new, 1))
    listed_again(case)
    found = check_incident(case)
    assert found.verdict == "DIVERGED"
    assert name in troubles(found)


@pytest.mark.parametrize("left_out", [0, 7])
def test_a_divergence_that_is_kept_quiet_is_found(filled: Path, tmp_path: Path, left_out: int) -> None:
    """The reports of the sound ledger over the events of one in which an outcome was forged."""
    forged = tmp_path / "forged.tally"
    shutil.copy(filled, forged)
    with Forger(forged) as forger:
        forger.put(forger.seq_of("session.closed"), "complete", "derived", "outcome")
    written(forged, tmp_path / "i", CASE)
    replay = json.loads((tmp_path / "i" / "replay.json").read_bytes())
    replay.update(entries=[], diverged=0, first=None, left_out=left_out)
    replay["layers"]["digest"]["diverged"] = 0
    (tmp_path / "i" / "replay.json").write_text(json.dumps(replay, sort_keys=True, indent=2) + "\n")
    listed_again(tmp_path / "i")
    found = check_incident(tmp_path / "i")
    assert found.verdict == "DIVERGED"
    assert "it does not say that event 6 diverged, layer digest: outcome" in troubles(found)


def test_an_altered_event_is_found(case: Path) -> None:
    sound = (case / "events.jsonl").read_bytes()
    lines = sound.splitlines(keepends=True)
    for at in range(len(lines)):
        changed = lines[at].replace(b'"at":1', b'"at":2', 1)
        (case / "events.jsonl").write_bytes(b"".join([*lines[:at], changed, *lines[at + 1 :]]))
        listed_again(case)
        assert check_incident(case).verdict == "BROKEN", at
        (case / "events.jsonl").write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
        listed_again(case)
        assert check_incident(case).verdict == "BROKEN", at


def test_a_missing_pack_is_found(case: Path) -> None:
    gone = next((case / "packs").iterdir())
    gone.unlink()
    assert "is in the manifest, and is missing" in str(check_incident(case))
    listed_again(case)
    assert f"packs/{gone.name}: the pack of the decision that event" in troubles(check_incident(case))


# -- what is no incident -----------------------------------------------------------------------


def _link(folder: Path) -> None:
    (folder / "events.jsonl").rename(folder.parent / "elsewhere")
    (folder / "events.jsonl").symlink_to(folder.parent / "elsewhere")


def _pipe(folder: Path) -> None:
    (folder / "summary.json").unlink()
    os.mkfifo(folder / "summary.json")


def _deep(folder: Path) -> None:
    (folder / "replay.json").write_text("[" * 100_000)
    listed_again(folder)


def _huge_numbers(folder: Path) -> None:
    lines = (folder / "events.jsonl").read_text("utf-8").replace('"seq":2,', f'"seq":{1 << 63},')
    (folder / "events.jsonl").write_text(lines, "utf-8")
    listed_again(folder)


def _no_events(folder: Path) -> None:
    (folder / "events.jsonl").write_bytes(b"")
    listed_again(folder)


@pytest.mark.parametrize("hostile", [_link, _pipe, _deep, _huge_numbers, _no_events])
def test_hostile_files_are_a_finding(case: Path, hostile: Callable[[Path], None]) -> None:
    hostile(case)
    assert check_incident(case).verdict == "BROKEN"


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        (b"", "is not as expected"),
        (b"[]", "is not as expected"),
        (b"[" * 100_000, "is not as expected"),
        (b" " * (2 << 20), "has more than"),
    ],
)
def test_what_has_no_manifest_is_refused(case: Path, manifest: bytes, problem: str) -> None:
    (case / "manifest.json").write_bytes(manifest)
    with pytest.raises(BadIncident, match=problem):
        check_incident(case)
    (case / "manifest.json").unlink()
    with pytest.raises(BadIncident, match=r"manifest\.json is missing"):
        check_incident(case)


def test_zip_files_that_no_incident_is_are_refused(case: Path, tmp_path: Path) -> None:
    def zipped(names: list[str], **options: Any) -> Path:
        with zipfile.ZipFile(tmp_path / "z.zip", "w", **options) as archive:
            for name in names:
                archive.writestr(name, b"x" * 1000)
        return tmp_path / "z.zip"

    many = [f"{FOLDER}/{number}" for number in range(1200)]
    for names, problem in ((["../manifest.json"], "is no part of an incident"), (many, "has 1,200 files")):
        with pytest.raises(BadIncident, match=problem):
            check_incident(zipped(names))
    zipped([f"{FOLDER}/manifest.json"], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BadIncident, match="unpack it and name the folder"):
        check_incident(tmp_path / "z.zip")
    (tmp_path / "z.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(BadIncident, match="is no zip file"):
        check_incident(tmp_path / "z.zip")


def test_a_zip_file_that_is_damaged_anywhere_never_ends_in_another_error(
    filled: Path, tmp_path: Path
) -> None:
    written(filled, tmp_path / "i.zip", Selection(session=_session(filled)))
    sound = (tmp_path / "i.zip").read_bytes()
    for at in range(0, len(sound), len(sound) // 60):
        changed = bytearray(sound)
        changed[at] ^= 0xFF
        (tmp_path / "j.zip").write_bytes(changed)
        with contextlib.suppress(BadIncident):
            if not check_incident(tmp_path / "j.zip").troubles:  # a time or a right, as a zip file has them
                assert contents(tmp_path / "j.zip") == contents(tmp_path / "i.zip")
