"""What is written of an incident, how it comes to be whole, and that it can be checked without us."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forging import Forger
from incidents import checked, lines_in, seqs_in, tree, written

from tallystick import (
    Gateway,
    Ledger,
    MemoryStore,
    Selection,
    Unavailable,
    replay_ledger,
    write_incident,
)
from tallystick.ledger.portable import parse_line
from tallystick.recorders.gateway.pack import read_pack
from tallystick.recorders.gateway.policy import STARTER_POLICY
from tallystick.replay.incident import incident, verify_ledger
from tallystick.replay.incident.files import FILES
from tallystick.replay.pack import replay_pack

ROOT = Path(__file__).parents[3]


@pytest.fixture
def memory() -> Iterator[Ledger]:
    with Ledger.over(MemoryStore()) as ledger:
        yield ledger


@pytest.fixture
def alter() -> Callable[..., None]:
    """Change a column of an event, past the guards in the file."""

    def change(path: Path, seq: int, **columns: object) -> None:
        with contextlib.closing(sqlite3.connect(path)) as con:
            con.execute("DROP TRIGGER IF EXISTS events_no_update")
            for name, value in columns.items():
                con.execute(f"UPDATE events SET {name} = ? WHERE seq = ?", (value, seq))
            con.commit()

    return change


# -- what is written -------------------------------------------------------------------------


def test_a_decision_of_which_too_much_was_said_is_not_packed(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident, "_PACK_BODIES_MAX", 5000)
    with Ledger.open(filled) as ledger:
        first, second = (event.seq for event in ledger.read(kinds=["decision.recorded"]))
        gateway = Gateway(ledger, STARTER_POLICY)
        gateway.add_event(ledger.get(first).stream.removeprefix("decision:"), "note", {"text": "x" * 5000})
    made = written(filled, tmp_path / "i", Selection(correlation="case-7"))
    assert f"no pack of event {first}: what was said of the decision is too large" in made.notes
    assert not [note for note in made.notes if f"event {second}:" in note]


def test_decisions_that_are_evidence_alone_are_not_packed(filled: Path, tmp_path: Path) -> None:
    """The second decision looked at what the first one taught, which comes along as evidence."""
    with Ledger.open(filled, read_only=True) as ledger:
        first, second = ledger.read(kinds=["decision.recorded"])
    with Forger(filled) as forger:
        for seq in (first.seq, second.seq):
            forger.replace(seq, meta=None)
        forger.put(second.seq, {"correlation_id": "case-9"}, "derived", "request", "trace")
    written(filled, tmp_path / "i", Selection(correlation="case-9"))
    assert first.seq in seqs_in(tmp_path / "i")
    packs = [name for name in tree(tmp_path / "i") if name.startswith("packs/")]
    assert packs == [f"packs/{second.stream.removeprefix('decision:')}.zip"]


def test_the_folder_holds_the_evidence_and_how_to_check_it(filled: Path, tmp_path: Path) -> None:
    made = written(filled, tmp_path / "i", Selection(correlation="case-7"))
    files = tree(tmp_path / "i")
    assert {name.partition("/")[0] for name in files} == FILES - {"chain.jsonl"}
    assert made.sound and made.verdict.startswith("MATCH ")
    assert seqs_in(tmp_path / "i") == [json.loads(line)["seq"] for line in files["why.jsonl"].splitlines()]
    manifest = json.loads(files["manifest.json"])
    listed = {file["name"]: (file["bytes"], file["sha256"]) for file in manifest["files"]}
    assert listed == {
        name: (len(data), hashlib.sha256(data).hexdigest())
        for name, data in files.items()
        if name != "manifest.json"
    }
    assert files["verify_ledger.py"] == (ROOT / "docs" / "verify_ledger.py").read_bytes()
    assert f"{manifest['head']}\n".encode() == files["head.txt"]
    assert len([name for name in files if name.startswith("packs/dec_")]) == 2
    report = files["report.html"].decode()
    for told in ("sent twice", "same correlation case-7", "refund by Pay: failed", "A chipped mug"):
        assert told in report
    summary = json.loads(files["summary.json"])["summary"]
    assert [session["outcome"] for session in summary["sessions"]] == ["partial"]
    assert summary["counts"]["decisions"] == 2 and summary["failures"][0]["text"].startswith("refund by Pay")


def test_each_line_is_as_the_ledger_has_it(filled: Path, tmp_path: Path) -> None:
    written(filled, tmp_path / "i", Selection(correlation="case-7"))
    with Ledger.open(filled, read_only=True) as ledger:
        for line in (tmp_path / "i" / "events.jsonl").read_bytes().splitlines():
            row = parse_line(line)
            assert [row] == list(ledger.rows(row.seq - 1, before=row.seq + 1))


@pytest.mark.parametrize("name", ["i", "i.zip"])
def test_it_is_the_same_twice_and_elsewhere(filled: Path, tmp_path: Path, name: str) -> None:
    selection = Selection(correlation="case-7")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(filled, elsewhere / "copy.tally")  # without its views and its head file
    written(filled, tmp_path / name, selection, with_chain=True)
    written(elsewhere / "copy.tally", elsewhere / f"other-{name}", selection, with_chain=True)
    one, other = tmp_path / name, elsewhere / f"other-{name}"
    if name == "i":
        assert tree(one) == tree(other)
    else:
        assert one.read_bytes() == other.read_bytes()
        with zipfile.ZipFile(one) as archive:
            assert archive.testzip() is None
            assert all(info.date_time[0] == 1980 for info in archive.infolist())
            assert {name.partition("/")[0] for name in archive.namelist()} == {"incident"}


def test_a_pack_replays_and_is_as_of_the_same_head(filled: Path, tmp_path: Path) -> None:
    made = written(filled, tmp_path / "i", Selection(correlation="case-7"))
    for path in (tmp_path / "i" / "packs").iterdir():
        pack = read_pack(path.read_bytes())
        assert replay_pack(pack).diverged == 0
        assert (pack.head.seq, pack.head.hash.hex()) == made.head


def test_what_diverged_is_said(filled: Path, tmp_path: Path) -> None:
    with Forger(filled) as forger:
        forger.put(forger.seq_of("session.closed"), "complete", "derived", "outcome")
    made = written(filled, tmp_path / "i", Selection(correlation="case-7"))
    assert not made.sound
    assert made.verdict == "DIVERGED at event 6, layer digest: outcome (from the actions)"
    assert b"DIVERGED" in (tmp_path / "i" / "report.html").read_bytes()


def test_the_instructions_name_what_is_there(filled: Path, tmp_path: Path) -> None:
    written(filled, tmp_path / "i", Selection(correlation="case-7"), with_chain=True)
    readme = (tmp_path / "i" / "README.txt").read_text("utf-8")
    assert "packs/            each of the 2 decisions" in readme
    assert "tally incident --check FOLDER_OR_ZIP --manifest SHA256 --expect HEAD" in readme
    assert "head.txt if there is none" not in readme and "head.txt is no substitute" in readme
    with Ledger.open(filled) as ledger:
        ledger.append("app.noted", meta={"correlation": "alone"})
    written(filled, tmp_path / "j", Selection(correlation="alone"))
    assert not (tmp_path / "j" / "packs").exists()
    assert "packs/            " not in (tmp_path / "j" / "README.txt").read_text("utf-8")


def test_a_break_elsewhere_in_the_ledger_is_said(filled: Path, tmp_path: Path, alter: Any) -> None:
    alter(filled, 30, body=b'{"order":82}')
    made = written(filled, tmp_path / "i", Selection(correlation="case-7"))
    assert made.report.diverged == 0 and not made.sound
    assert made.verdict.startswith("BROKEN event 30: edited")


def test_the_report_tells_of_exactly_the_gathered_events(filled: Path) -> None:
    with Ledger.open(filled, read_only=True) as ledger:
        rows = [row for row in ledger.rows() if row.seq in (1, 2, 7, 30)]
        report = replay_ledger(ledger, Selection(correlation="case-7"), only=lambda: iter(rows))
    assert report.events == 4
    assert report.layers["chain"].match == 4


# -- checked without us ----------------------------------------------------------------------


def test_the_verifier_finds_the_evidence_sound(filled: Path, tmp_path: Path) -> None:
    made = written(filled, tmp_path / "i", Selection(correlation="case-7"), with_chain=True)
    events, chain, head = (tmp_path / "i" / name for name in ("events.jsonl", "chain.jsonl", "head.txt"))
    status, line = checked("--part", events)
    assert status == 0
    assert line.startswith(f"UNANCHORED part of a log: {made.summary.events} events up to seq ")
    status, line = checked(events, "--chain", chain, "--expect", head)
    assert (status, line.split()[:3]) == (0, ["VERIFIED", "31", "events"])
    assert checked(events, "--chain", chain)[1].startswith("UNANCHORED 31 events")
    assert checked(events)[1].startswith("BROKEN seq ")
    held = [json.loads(line) for line in chain.read_bytes().splitlines()]
    assert not any({"body", "salt"} & line.keys() for line in held)


def test_another_head_is_found(filled: Path, tmp_path: Path) -> None:
    written(filled, tmp_path / "i", Selection(correlation="case-7"), with_chain=True)
    events, chain = (tmp_path / "i" / name for name in ("events.jsonl", "chain.jsonl"))
    line = next(line for line in lines_in(tmp_path / "i") if line["seq"] == 2)
    wrong = f"2:{'0' * 64}"
    assert checked(events, "--part", "--expect", f"2:{line['hash']}")[0] == 0
    beyond = checked(events, "--part", "--expect", f"99:{'0' * 64}")
    assert beyond[0] == 0
    assert beyond[1].endswith("; the head could not be used: it names seq 99, which is not here")
    assert checked(events, "--part", "--expect", wrong)[1].startswith("BROKEN seq 2: edited")
    assert checked(events, "--chain", chain, "--expect", wrong)[1].startswith("BROKEN seq 2: edited")
    assert checked(events, "--chain", chain, "--expect", f"99:{'0' * 64}")[1].startswith(
        "BROKEN seq 32: trunc"
    )


@pytest.mark.parametrize("chained", [False, True], ids=["part", "chain"])
def test_each_byte_that_is_changed_is_found_or_says_the_same(
    memory: Ledger, tmp_path: Path, chained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_ledger, "REORDER_DISTANCE_MAX", 4)
    for number in range(4):
        meta = {"correlation": "c"} if number % 2 else None
        memory.append("app.noted", {"n": number}, key=f"k{number}", meta=meta)
    memory.erase(3, "why")
    write_incident(memory, Selection(correlation="c"), tmp_path / "i", with_chain=True)
    events, chain, head = (tmp_path / "i" / name for name in ("events.jsonl", "chain.jsonl", "head.txt"))
    look = ("--chain", chain, "--expect", head) if chained else ("--part",)
    assert checked(events, *look)[0] == 0
    altered = chain if chained else events
    sound = altered.read_bytes()
    lines = [json.loads(line) for line in sound.splitlines()]
    for at in range(len(sound)):
        changed = bytearray(sound)
        changed[at] ^= 1 << at % 6
        altered.write_bytes(changed)
        status, _ = checked(events, *look)
        if status == 0:  # as where an escaped letter is written in another way
            assert [json.loads(line) for line in bytes(changed).splitlines()] == lines
        else:
            assert status in (1, 3)


def test_a_line_that_is_missing_from_the_chain_is_found(filled: Path, tmp_path: Path) -> None:
    written(filled, tmp_path / "i", Selection(correlation="case-7"), with_chain=True)
    events, chain, head = (tmp_path / "i" / name for name in ("events.jsonl", "chain.jsonl", "head.txt"))
    whole = {path: path.read_bytes().splitlines(keepends=True) for path in (events, chain)}
    for path, lines in whole.items():
        for at in range(len(lines)):
            path.write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
            assert checked(events, "--chain", chain, "--expect", head)[0] == 1
            path.write_bytes(b"".join([*lines[: at + 1], *lines[at:]]))
            assert checked(events, "--chain", chain, "--expect", head)[0] == 1
        path.write_bytes(b"".join(lines))
    chain.write_bytes(whole[events][0])
    assert checked(events, "--chain", chain)[1].startswith("BROKEN seq 1: malformed")


# -- interference ----------------------------------------------------------------------------


def test_it_does_not_take_a_name_that_is_in_use(filled: Path, tmp_path: Path) -> None:
    selection = Selection(correlation="case-7")
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "mine.txt").write_text("keep")
    for force in (False, True):
        with pytest.raises(Unavailable, match=r"exists already|holds what no incident has"):
            written(filled, tmp_path / "i", selection, force=force)
    (tmp_path / "i" / "mine.txt").unlink()
    written(filled, tmp_path / "i", selection, force=True, with_chain=True)
    before = tree(tmp_path / "i")
    with pytest.raises(Unavailable, match="exists already"):
        written(filled, tmp_path / "i", selection)
    assert tree(tmp_path / "i") == before
    written(filled, tmp_path / "i", selection, force=True)
    assert "chain.jsonl" not in tree(tmp_path / "i")
    with pytest.raises(Unavailable, match="its directory does not exist"):
        written(filled, tmp_path / "nowhere" / "i", selection)
    (tmp_path / "link.zip").symlink_to(filled)
    with pytest.raises(Unavailable, match="something else"):
        written(filled, tmp_path / "link.zip", selection, force=True)
    assert [name for name in os.listdir(tmp_path) if name.endswith((".tmp", ".old"))] == []


WRITE = """
import sys, time
from tallystick import Ledger, Selection, write_incident
from tallystick.replay.incident import files as incident_files
stall, path, target = sys.argv[1:]
opened = incident_files.Bundle.file
def file(self, name):
    if name == stall:
        print("here", flush=True)
        time.sleep(60)
    return opened(self, name)
incident_files.Bundle.file = file
with Ledger.open(path, read_only=True) as ledger:
    write_incident(ledger, Selection(correlation="case-7"), target)
"""


@pytest.mark.parametrize(("stall", "name"), [("manifest.json", "i.zip"), ("report.html", "i")])
def test_killed_while_writing_it_leaves_nothing_under_its_name(
    filled: Path, tmp_path: Path, stall: str, name: str
) -> None:
    command = [sys.executable, "-c", WRITE, stall, str(filled), str(tmp_path / name)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"here\n"
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert not (tmp_path / name).exists()
    assert [left for left in os.listdir(tmp_path) if left.endswith(".tmp")]
    other = tmp_path / f".{name}.1.tmp"  # of a process that lives
    other.mkdir()
    written(filled, tmp_path / name, Selection(correlation="case-7"))
    assert [left for left in os.listdir(tmp_path) if left.endswith(".tmp")] == [other.name]


def test_while_another_process_writes_it_is_as_of_one_head(tmp_path: Path) -> None:
    path = tmp_path / "a.tally"
    with Ledger.open(path) as ledger:
        ledger.append_many({"kind": "app.noted", "meta": {"correlation": "c"}} for _ in range(50))
        stop = threading.Event()

        def go_on() -> None:
            with Ledger.open(path) as other:
                while not stop.is_set():
                    other.append("app.noted", meta={"correlation": "c"})

        writer = threading.Thread(target=go_on)
        writer.start()
        try:
            for number in range(5):
                target = tmp_path / f"i{number}"
                made = written(path, target, Selection(correlation="c"), with_chain=True)
                assert made.sound
                events = target / "events.jsonl"
                found = seqs_in(target)
                assert found == list(range(1, made.head[0] + 1))
                look = checked(events, "--chain", target / "chain.jsonl", "--expect", target / "head.txt")
                assert look[1].startswith("VERIFIED")
        finally:
            stop.set()
            writer.join()


def test_what_is_erased_meanwhile_is_not_handed_on(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.open(filled) as ledger:

        def erasing(*arguments: Any) -> bytes:
            ledger.erase(3, "now")
            return b"report"

        monkeypatch.setattr(incident, "report_page", erasing)
        with pytest.raises(Unavailable, match="event 3: was erased meanwhile"):
            write_incident(ledger, Selection(correlation="case-7"), tmp_path / "i")
    assert not (tmp_path / "i").exists()


AS_NOBODY = """
import encodings.ascii, encodings.utf_8, os, sys, sqlite3, tempfile, zipfile
from tallystick import Ledger, Selection, write_incident
from tallystick.replay.incident import incident
verifier = incident.resources.files("tallystick.replay.incident").joinpath("verify_ledger.py").read_bytes()
class Kept:
    def files(self, name): return self
    def joinpath(self, name): return self
    def read_bytes(self): return verifier
# Loads every module and file that is needed, from a ledger in another place.
with Ledger.open(sys.argv[3], read_only=True) as ledger:
    write_incident(ledger, Selection(correlation="case-7"), sys.argv[2] + "-as-root")
incident.resources = Kept()
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
with Ledger.open(sys.argv[1], read_only=True) as ledger:
    print(write_incident(ledger, Selection(correlation="case-7"), sys.argv[2]).verdict)
"""


def test_a_ledger_in_a_directory_that_cannot_be_written(filled: Path) -> None:
    """A user without rights reads it there, and leaves nothing beside it."""
    folder = Path("/tmp") / f"tallystick-incident-{os.getpid()}"
    (folder / "ledger").mkdir(parents=True)
    (folder / "out").mkdir()
    try:
        folder.chmod(0o755)
        (folder / "out").chmod(0o777)
        path = folder / "ledger" / "a.tally"
        shutil.copy(filled, path)
        path.chmod(0o444)
        (folder / "ledger").chmod(0o555)
        command = [sys.executable, "-c", AS_NOBODY, str(path), str(folder / "out" / "i"), str(filled)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.startswith("MATCH "), done.stderr
        assert tree(folder / "out" / "i") == tree(folder / "out" / "i-as-root")
        assert os.listdir(folder / "ledger") == ["a.tally"]
    finally:
        (folder / "ledger").chmod(0o755)
        shutil.rmtree(folder)


def test_what_the_page_shows_runs(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "incident.md").read_text("utf-8")
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(filled.parent)
    filled.rename("agents.tally")
    names: dict[str, Any] = {}
    exec(block.replace("case-118", "case-7"), names)
    assert names["incident"].summary.failures[0].seq == 4
    assert Path("case.zip").exists()


def test_progress_goes_through_every_part_and_never_back(tmp_path: Path) -> None:
    """Each part counts as much as the ledger has events; verifying so few is told of at its end, or never."""
    path = tmp_path / "a.tally"
    with Ledger.open(path) as ledger:
        ledger.append_many({"kind": "order.placed", "body": {"n": n}} for n in range(3000))
        told: list[int] = []
        write_incident(ledger, Selection(since=0), tmp_path / "i", progress=told.append)
        size = ledger.head().seq
    assert told == sorted(told)
    assert {(count - 1) // size for count in told} - {1} == {0, 2, 3}
    assert told[-1] <= incident.PARTS * size
