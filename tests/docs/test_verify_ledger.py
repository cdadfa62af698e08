"""The second verifier, docs/verify_ledger.py, against the vector ledger and altered copies of it."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from tallystick import Ledger
from tallystick.cli import main

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "docs" / "verify_ledger.py"
VECTORS = ROOT / "tests" / "vectors"
EXPORT = VECTORS / "ledger.jsonl"
HEAD = (VECTORS / "ledger.head").read_text("ascii").strip()
LEDGER_ID = HEAD.split(":")[1]

Line = dict[str, Any]
Alteration = Callable[[list[Line]], None]

SCHEMA = """
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, stream TEXT NOT NULL, key TEXT,
  meta BLOB, salt BLOB, body BLOB, body_hash BLOB NOT NULL, prev_hash BLOB NOT NULL, hash BLOB NOT NULL
)
"""


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


MAKE = load(VECTORS / "make.py")
VERIFIER = load(SCRIPT)


# ---- helpers ----


def run(*arguments: str | Path, stdin: bytes | None = None) -> tuple[int, str]:
    """Run the script as a command: exit status, and the one line that it printed."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err
    if done.returncode != 2:
        assert (out + err).count("\n") == 1 and (out == "") == (done.returncode == 3)
    return done.returncode, (out + err).strip()


def look(path: Path, data: bytes | None = None) -> tuple[int, str]:
    """The same in this process, which is faster; `data` is written to the file first."""
    if data is not None:
        path.write_bytes(data)
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["verify_ledger.py", str(path)])
        status: int = VERIFIER.main()
    return status, out.getvalue().strip()


def verdict(line: str) -> tuple[str, int, str]:
    """What a BROKEN line says: ('BROKEN', seq, word)."""
    match = re.fullmatch(r"(BROKEN) seq (\d+): ([a-z ]+): .+", line)
    assert match, line
    return match[1], int(match[2]), match[3]


def lines() -> list[Line]:
    return [json.loads(line) for line in EXPORT.read_text("utf-8").removesuffix("\n").split("\n")]


def dump(altered: list[Line]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in altered).encode()


def rehash(altered: list[Line], start: int) -> None:
    """Make every hash from event `start` on follow again, as a careful forger would."""
    for at in range(start - 1, len(altered)):
        line = altered[at]
        if at:
            line["prev_hash"] = altered[at - 1]["hash"]
        if line["body"] is not None:
            salt, body = bytes.fromhex(line["salt"]), line["body"].encode()
            line["body_hash"] = blake3(salt + body).hexdigest()
        own_hash(line)


def own_hash(line: Line) -> None:
    """Make the line's hash follow from its other columns, whatever they say."""
    meta = None if line["meta"] is None else line["meta"].encode()
    fixed = (bytes.fromhex(line["body_hash"]), bytes.fromhex(line["prev_hash"]))
    event = MAKE.Event(line["seq"], line["at"], line["kind"], line["stream"], line["key"], meta, *fixed)
    line["hash"] = event.hash().hex()


def column_value(name: str, value: Any) -> Any:
    if value is None or name in ("seq", "at", "kind", "stream", "key"):
        return value
    return value.encode() if name in ("meta", "body") else bytes.fromhex(value)


def sqlite_ledger(path: Path, rows: list[Line]) -> Path:
    database = sqlite3.connect(path)
    database.execute("PRAGMA page_size=4096")
    database.execute(SCHEMA)
    for row in rows:
        values = [column_value(name, value) for name, value in row.items()]
        database.execute("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?,?)", values)
    database.commit()
    database.close()
    return path


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


# ---- alterations of the lines ----

ALTERATIONS: list[tuple[str, int, Alteration]] = []


def altered(word: str, seq: int) -> Callable[[Alteration], Alteration]:
    def remember(alteration: Alteration) -> Alteration:
        ALTERATIONS.append((word, seq, alteration))
        return alteration

    return remember


def setting(word: str, found_at: int, event: int, /, **columns: object) -> None:
    """An alteration that sets columns of one event."""

    def set_columns(events: list[Line]) -> None:
        events[event - 1].update(columns)

    set_columns.__name__ = f"{'_and_'.join(columns)}_of_event_{event}"
    ALTERATIONS.append((word, found_at, set_columns))


setting("edited", 3, 3, body='{"order":81,"parcels":3,"v":1}')
setting("edited", 3, 3, salt="00" * 16)
setting("edited", 3, 3, body_hash="00" * 32)
setting("edited", 5, 5, body_hash="00" * 32)
setting("edited", 3, 3, hash="00" * 32)
setting("edited", 12, 12, hash="00" * 32)
setting("edited", 3, 3, at=1735689602500001)
setting("edited", 3, 3, kind="order.stopped")
setting("edited", 3, 3, stream="order:82")
setting("edited", 3, 3, key=None)
setting("edited", 2, 2, key="req-7f3c")
setting("edited", 3, 3, meta=None)
setting("edited", 2, 2, meta="{}")
setting("edited", 8, 8, body='{"body_hash":"' + "00" * 32 + '","reason":"none","seq":5,"v":1}')
setting("edited", 1, 1, body=lines()[0]["body"].replace(LEDGER_ID, "0" * 32))
setting("link broken", 4, 4, prev_hash="00" * 32)
setting("link broken", 1, 1, prev_hash="00" * 32)
setting("erased without record", 3, 3, body=None, salt=None)
setting("erased without record", 5, 8, body=None, salt=None)
setting("erased without record", 9, 9, body=None)
setting("malformed", 5, 5, salt="00" * 16)
setting("malformed", 5, 5, salt=MAKE.salt_of(5).hex(), body=MAKE.erased_body().decode())
setting("malformed", 3, 3, salt=None)
setting("malformed", 3, 3, salt="00" * 15)
setting("malformed", 3, 3, hash=lines()[2]["hash"].upper())
setting("malformed", 3, 3, hash=lines()[2]["hash"] + " ")
setting("malformed", 3, 3, prev_hash=None)
setting("malformed", 3, 3, body_hash="0" * 63)
setting("malformed", 3, 3, kind="Order.shipped")
setting("malformed", 3, 3, kind="order.shipped\n")
setting("malformed", 3, 3, kind="shipped")
setting("malformed", 3, 3, kind="a." + "b" * 127)
setting("malformed", 3, 3, stream="")
setting("malformed", 3, 3, stream="a\x00b")
setting("malformed", 3, 3, stream="ß" * 257)
setting("malformed", 3, 3, key="")
setting("malformed", 3, 3, key=7)
setting("malformed", 3, 3, meta="")
setting("malformed", 3, 3, meta={"actor": "refund-bot"})
setting("malformed", 3, 3, body="")
setting("malformed", 3, 3, seq=3.0)
setting("malformed", 3, 3, seq="3")
setting("malformed", 3, 3, seq=2)
setting("malformed", 3, 3, at=2**63)
setting("malformed", 3, 3, at=None)
setting("malformed", 3, 3, extra=1)
setting("malformed", 1, 1, seq=0)
setting("malformed", 1, 1, kind="ledger.opened")
setting("malformed", 1, 1, body=None, salt=None)
setting("malformed", 1, 1, body="{}")
setting("malformed", 1, 1, body="[1]")
setting("malformed", 1, 1, body='{"format":1,"ledger_id":"7A')


@altered("gap", 4)
def one_line_is_gone(events: list[Line]) -> None:
    del events[3]


@altered("gap", 1)
def the_first_line_is_gone(events: list[Line]) -> None:
    del events[0]


@altered("gap", 3)
def two_lines_are_swapped(events: list[Line]) -> None:
    events[2], events[3] = events[3], events[2]


@altered("malformed", 5)
def a_line_comes_twice(events: list[Line]) -> None:
    events.insert(4, dict(events[3]))


@altered("malformed", 1)
def no_lines_are_left(events: list[Line]) -> None:
    events.clear()


@altered("malformed", 3)
def a_name_is_missing(events: list[Line]) -> None:
    del events[2]["meta"]


@altered("reordered", 3)
def two_rows_change_places(events: list[Line]) -> None:
    events[2], events[3] = events[3] | {"seq": 3}, events[2] | {"seq": 4}


@altered("reordered", 4)
def a_row_is_taken_out_and_the_rest_renumbered(events: list[Line]) -> None:
    del events[3]
    for seq, line in enumerate(events, 1):
        line["seq"] = seq


@altered("reordered", 12)
def an_early_row_is_put_at_the_end(events: list[Line]) -> None:
    events[11] = events[1] | {"seq": 12}


@altered("link broken", 7)
def a_row_is_forged_whole_in_the_middle(events: list[Line]) -> None:
    events[5]["body"] = '{"v":2}'
    events[5]["body_hash"] = blake3(bytes.fromhex(events[5]["salt"]) + b'{"v":2}').hexdigest()
    own_hash(events[5])


@altered("link broken", 6)
def a_whole_row_follows_another(events: list[Line]) -> None:
    events[5]["prev_hash"] = "11" * 32
    own_hash(events[5])


@altered("link broken", 1)
def the_chain_starts_from_another_genesis(events: list[Line]) -> None:
    events[0]["prev_hash"] = "11" * 32
    rehash(events, 1)


@altered("erased without record", 5)
def the_record_names_another_body_hash(events: list[Line]) -> None:
    events[7]["body"] = json.dumps({"v": 1, "seq": 5, "body_hash": "00" * 32, "reason": "none"})
    rehash(events, 8)


@altered("malformed", 4)
def a_record_names_a_row_that_still_has_its_body(events: list[Line]) -> None:
    record = {"v": 1, "seq": 4, "body_hash": events[3]["body_hash"], "reason": "none"}
    events[8].update(kind="ledger.body_erased", body=json.dumps(record))
    rehash(events, 9)


@altered("malformed", 8)
def the_record_names_no_earlier_event(events: list[Line]) -> None:
    record = {"v": 1, "seq": 9, "body_hash": events[8]["body_hash"], "reason": "none"}
    events[7]["body"] = json.dumps(record)
    rehash(events, 8)


@altered("malformed", 8)
def the_record_cannot_be_read(events: list[Line]) -> None:
    events[7]["body"] = '{"body_hash":"' + "00" * 32 + '","seq":5,"seq":5}'
    rehash(events, 8)


@altered("malformed", 8)
def a_record_is_itself_erased_with_a_record(events: list[Line]) -> None:
    record = {"v": 1, "seq": 8, "body_hash": events[7]["body_hash"], "reason": "none"}
    events[4].update(salt=MAKE.salt_of(5).hex(), body=MAKE.erased_body().decode())
    events[7].update(salt=None, body=None)
    events[8].update(kind="ledger.body_erased", body=json.dumps(record))
    rehash(events, 9)


@altered("edited", 9)
def a_row_finding_comes_before_what_the_end_tells(events: list[Line]) -> None:
    events[2].update(body=None, salt=None)
    events[8]["stream"] = "sensor:2"


@pytest.mark.parametrize(
    ("word", "seq", "alteration"),
    ALTERATIONS,
    ids=[f"{number}-{alteration.__name__}" for number, (_, _, alteration) in enumerate(ALTERATIONS)],
)
def test_an_alteration_is_found(word: str, seq: int, alteration: Alteration, tmp_path: Path) -> None:
    events = lines()
    alteration(events)
    status, line = look(tmp_path / "altered.jsonl", dump(events))
    assert (status, verdict(line)) == (1, ("BROKEN", seq, word)), line


BYTES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("no JSON", lambda line: b"{" + line),
    ("an empty line", lambda line: b"\n" + line),
    ("cut short", lambda line: line[:100] + b"\n"),
    ("not UTF-8", lambda line: line.replace(b"order:81", b"order:\xff1")),
    ("lone surrogate", lambda line: line.replace(b'"order:81"', b'"\\ud83d"')),
    ("lone surrogate in the body", lambda line: line.replace(b'"body":"', b'"body":"\\ud83d')),
    ("name twice", lambda line: line.replace(b'{"seq":3,', b'{"seq":3,"seq":3,')),
    ("an array", lambda line: b"[1]\n"),
    ("too deep", lambda line: b"[" * 100_000 + b"\n"),
    ("too many digits", lambda line: line.replace(b'"seq":3', b'"seq":' + b"3" * 5000)),
]


@pytest.mark.parametrize("alteration", [pair[1] for pair in BYTES], ids=[pair[0] for pair in BYTES])
def test_a_line_that_cannot_be_read_is_malformed(
    alteration: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    data = EXPORT.read_bytes().split(b"\n")
    data[2] = alteration(data[2] + b"\n").removesuffix(b"\n")
    status, line = look(tmp_path / "altered.jsonl", b"\n".join(data))
    assert (status, verdict(line)) == (1, ("BROKEN", 3, "malformed")), line


def test_compressed_data_cut_short_is_malformed(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(EXPORT.read_bytes())[:-200])
    status, line = run(cut)
    assert status == 1 and verdict(line)[2] == "malformed"


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
