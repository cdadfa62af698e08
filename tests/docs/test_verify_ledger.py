"""The second verifier, docs/verify_ledger.py: the vector ledger as a file and as an export, and anchors."""

from __future__ import annotations

import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from second_verifier import SCRIPT
from vector_ledger import (
    EXPORT,
    HEAD,
    LEDGER_ID,
    VECTORS,
    dump,
    lines,
    look,
    rehash,
    run,
    sqlite_ledger,
    verdict,
)

from tallystick import Ledger
from tallystick.cli import main

pytestmark = pytest.mark.usefixtures("nearby")


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return sqlite_ledger(tmp_path / "agents.tally", lines())


# ---- the untouched ledger ----


@pytest.mark.parametrize("expect", [HEAD, HEAD.split(":", 2)[2], str(VECTORS / "ledger.head")])
def test_an_anchored_export_is_verified(expect: str) -> None:
    assert run(EXPORT, "--expect", expect) == (0, f"VERIFIED 12 events, head {HEAD}")


def test_without_an_anchor_it_is_unanchored() -> None:
    status, line = run(EXPORT)
    assert status == 0 and line.startswith(f"UNANCHORED 12 events, head {HEAD}")


def test_an_anchor_vouches_only_up_to_itself() -> None:
    status, line = run(EXPORT, "--expect", f"7:{lines()[6]['hash']}")
    assert status == 0 and line.startswith("UNANCHORED 12 events") and line.endswith("anchored up to seq 7")


def test_json_output() -> None:
    status, line = run(EXPORT, "--expect", HEAD, "--json")
    assert status == 0
    assert json.loads(line) == {"verdict": "VERIFIED", "events": 12, "head": HEAD, "anchored": 12}
    status, line = run("-", "--json", stdin=b"")
    assert status == 1
    broken = {"verdict": "BROKEN", "seq": 1, "finding": "malformed", "detail": "there are no events"}
    assert json.loads(line) == broken


def test_gzip_and_standard_input_are_told_by_content(tmp_path: Path) -> None:
    data = EXPORT.read_bytes()
    packed = tmp_path / "no-telling-name"
    packed.write_bytes(gzip.compress(data))
    expected = (0, f"VERIFIED 12 events, head {HEAD}")
    assert run(packed, "--expect", HEAD) == expected
    assert run("-", "--expect", HEAD, stdin=data) == expected
    assert run("-", "--expect", HEAD, stdin=gzip.compress(data)) == expected
    assert run("-", "--expect", HEAD, stdin=data.removesuffix(b"\n")) == expected


# ---- anchors ----


@pytest.mark.parametrize("kept", [11, 1])
def test_a_tail_cut_off_is_seen_by_the_anchor_alone(kept: int) -> None:
    data = dump(lines()[:kept])
    assert run("-", stdin=data)[1].startswith(f"UNANCHORED {kept} event")
    status, line = run("-", "--expect", HEAD, stdin=data)
    assert (status, verdict(line)) == (1, ("BROKEN", kept + 1, "truncated"))


def test_a_rewritten_log_is_seen_by_the_anchor_alone() -> None:
    events = lines()
    events[9]["body"] = '{"order":81,"v":2}'
    rehash(events, 10)
    assert run("-", stdin=dump(events))[1].startswith("UNANCHORED 12 events")
    status, line = run("-", "--expect", HEAD, stdin=dump(events))
    assert (status, verdict(line)) == (1, ("BROKEN", 12, "edited"))
    assert "every hash follows" in line


def test_an_anchor_of_another_ledger_is_edited_at_1() -> None:
    status, line = run(EXPORT, "--expect", HEAD.replace(LEDGER_ID, "0" * 32))
    assert (status, verdict(line)) == (1, ("BROKEN", 1, "edited"))


def test_a_finding_in_the_chain_comes_before_the_anchor() -> None:
    events = lines()[:11]
    events[2]["stream"] = "x"
    status, line = run("-", "--expect", HEAD, stdin=dump(events))
    assert (status, verdict(line)) == (1, ("BROKEN", 3, "edited"))


# ---- ledgers in SQLite ----


def test_a_ledger_is_verified_and_left_as_it_is(ledger: Path) -> None:
    before = ledger.read_bytes()
    assert run(ledger, "--expect", HEAD) == (0, f"VERIFIED 12 events, head {HEAD}")
    assert ledger.read_bytes() == before
    assert [path.name for path in ledger.parent.iterdir()] == [ledger.name]


def test_the_head_file_finds_a_lost_end_but_verifies_nothing(ledger: Path) -> None:
    head_file = Path(f"{ledger}.head")
    head_file.write_text(f"{HEAD}\n")
    assert run(ledger)[1].startswith("UNANCHORED 12 events")
    database = sqlite3.connect(ledger)
    database.execute("DELETE FROM events WHERE seq > 10")
    database.commit()
    database.close()
    status, line = run(ledger)
    assert (status, verdict(line)) == (1, ("BROKEN", 11, "truncated"))
    status, line = run(ledger, "--expect", f"10:{lines()[9]['hash']}")
    assert (status, verdict(line)) == (1, ("BROKEN", 11, "truncated"))


def test_a_head_file_that_cannot_be_read_is_no_pass(ledger: Path) -> None:
    Path(f"{ledger}.head").write_text("tally1:\n")
    assert run(ledger)[0] == 3


@pytest.mark.parametrize(
    ("statement", "word", "seq"),
    [
        ("UPDATE events SET body = x'7bff' WHERE seq = 3", "edited", 3),
        ("UPDATE events SET meta = x'7bff' WHERE seq = 3", "edited", 3),
        ("UPDATE events SET stream = CAST(x'ff' AS TEXT) WHERE seq = 3", "malformed", 3),
        ("UPDATE events SET key = CAST('a' || char(0) || 'b' AS TEXT) WHERE seq = 3", "malformed", 3),
        ("UPDATE events SET kind = CAST(kind AS BLOB) WHERE seq = 3", "malformed", 3),
        ("UPDATE events SET body = CAST(body AS TEXT) WHERE seq = 3", "malformed", 3),
        ("UPDATE events SET at = 1.5 WHERE seq = 3", "malformed", 3),
        ("UPDATE events SET meta = x'' WHERE seq = 2", "malformed", 2),
        ("UPDATE events SET hash = zeroblob(31) WHERE seq = 3", "malformed", 3),
        ("UPDATE events SET seq = 0 WHERE seq = 4", "malformed", 1),
        ("UPDATE events SET seq = -9223372036854775808 WHERE seq = 4", "malformed", 1),
        ("UPDATE events SET seq = seq + 1000 WHERE seq > 3", "gap", 4),
        ("DELETE FROM events WHERE seq = 4", "gap", 4),
        ("DELETE FROM events", "malformed", 1),
        ("UPDATE events SET body = NULL, salt = NULL WHERE seq = 11", "erased without record", 11),
    ],
)
def test_an_altered_row_is_found(ledger: Path, statement: str, word: str, seq: int) -> None:
    database = sqlite3.connect(ledger)
    database.execute(statement)
    database.commit()
    database.close()
    status, line = look(ledger)
    assert (status, verdict(line)) == (1, ("BROKEN", seq, word)), line


def test_events_that_stand_in_the_wal_alone_are_read(ledger: Path) -> None:
    writer = sqlite3.connect(ledger)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("UPDATE events SET at = 7 WHERE seq = 12")
    writer.commit()
    try:
        status, line = run(ledger)
    finally:
        writer.close()
    assert (status, verdict(line)) == (1, ("BROKEN", 12, "edited"))


def test_a_corrupt_page_in_the_middle_is_malformed(tmp_path: Path) -> None:
    events = lines()
    for seq in range(13, 400):
        events.append(events[11] | {"seq": seq})
    rehash(events, 13)
    path = sqlite_ledger(tmp_path / "long.tally", events)
    assert run(path)[1].startswith("UNANCHORED 399 events")
    data = bytearray(path.read_bytes())
    assert len(data) > 15 * 4096
    for page in range(10, 14):
        data[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    path.write_bytes(data)
    status, line = run(path)
    assert status == 1 and verdict(line)[2] == "malformed" and 1 < verdict(line)[1] < 399, line


def test_damage_is_named_at_the_event_that_the_command_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page that cannot be read takes none of the rows before it along."""
    path = tmp_path / "long.tally"
    with Ledger.open(path) as made:
        made.append_many({"kind": "order.placed", "body": {"n": n, "pad": "x" * 300}} for n in range(400))
    whole = path.read_bytes()
    seqs = set()
    for page in range(4, len(whole) // 8192):
        data = bytearray(whole)
        data[page * 8192 : page * 8192 + 100] = b"\xff" * 100
        path.write_bytes(data)
        if main(["verify", "-f", str(path)]) != 1:
            continue  # an index, or a page that the table needs to be found at all
        said = re.match(r"BROKEN at event (\d+): malformed", capsys.readouterr().out)
        assert said
        status, line = look(path)
        assert (status, verdict(line)) == (1, ("BROKEN", int(said[1]), "malformed"))
        seqs.add(int(said[1]))
    assert len(seqs) > 5


# ---- could not look, and usage ----


@pytest.mark.parametrize("kind", ["pipe", "link to /dev/zero", "folder", "huge"])
def test_an_odd_head_file_neither_hangs_nor_fills_memory(ledger: Path, kind: str) -> None:
    head_file = Path(f"{ledger}.head")
    if kind == "pipe":
        os.mkfifo(head_file)
    elif kind == "link to /dev/zero":
        head_file.symlink_to("/dev/zero")
    elif kind == "folder":
        head_file.mkdir()
    else:
        with head_file.open("wb") as file:
            file.truncate(5 << 30)
    command = [sys.executable, "-c", LIMITED, str(SCRIPT), str(ledger)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 3
    assert done.stderr.startswith(b"could not look: ") and done.stderr.count(b"\n") == 1


#: Runs a script with less memory than a huge file would take.
LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_verdict_that_cannot_be_written_is_none(options: list[str]) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "wb") as full:
        command = [sys.executable, str(SCRIPT), str(EXPORT), *options]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=buffered, check=False)
        assert done.returncode == 3
        assert done.stderr.startswith(b"could not look: the verdict could not be written")
        assert done.stderr.count(b"\n") == 1
        command[2:] = [str(EXPORT.parent)]
        assert subprocess.run(command, stdout=full, stderr=full, env=buffered, check=False).returncode == 3


def test_without_blake3_nothing_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "blake3.py").write_text("raise ImportError('no module named blake3')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), str(EXPORT)]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr == b"could not look: no module named blake3: pip install blake3\n"


def test_what_is_no_log_is_no_finding(tmp_path: Path, ledger: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Not a ledger\n")
    other = tmp_path / "other.db"
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE t (a)")
    database.close()
    torn = tmp_path / "torn.tally"
    torn.write_bytes(ledger.read_bytes()[:16] + b"\xff" * 500)
    for path in (readme, other, torn, tmp_path, tmp_path / "missing\nname"):
        status, line = run(path)
        assert status == 3 and line.startswith("could not look: "), line
    assert run("-", stdin=ledger.read_bytes())[0] == 3


def test_another_format_is_no_finding() -> None:
    events = lines()
    events[0]["body"] = events[0]["body"].replace('"format":1', '"format":2')
    assert run("-", stdin=dump(events))[0] == 3


@pytest.mark.parametrize("expect", ["", "12", HEAD[:-1], HEAD.upper(), HEAD.replace(":12:", ":012:")])
def test_an_anchor_that_is_no_head_is_a_usage_error(expect: str) -> None:
    assert run(EXPORT, "--expect", expect)[0] == 2
    assert run()[0] == 2
