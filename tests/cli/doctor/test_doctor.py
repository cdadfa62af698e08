"""`tally doctor`: every finding, provoked for real where a test can; nothing in the ledger changed."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tallystick.cli import main
from tallystick.ledger.errors import TallyError
from tallystick.ledger.event import Head
from tallystick.ledger.headfile import head_path
from tallystick.ledger.ledger import Ledger
from tallystick.ledger.sqlite import SQLiteStore, doctor

Doctor = Callable[..., dict[str, dict[str, str]]]

#: What these say depends on the machine that runs the tests.
OF_THE_MACHINE = {"disk", "fsync", "file system", "python sqlite3", "versions"}
linux_only = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs /proc")


def altered(path: Path, *statements: str) -> None:
    """Statements run by another program, past every guard."""
    with closing(sqlite3.connect(path, isolation_level=None)) as con:
        for statement in statements:
            con.execute(statement)


@contextmanager
def another_process(script: str, path: Path) -> Iterator[int]:
    """A process that runs the script on the file, says so, and then waits; its number."""
    script = f"import sys\nname = sys.argv[1]\n{script}\nprint('ready', flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


def with_apsw(statement: str) -> str:
    return f"import apsw\ncon = apsw.Connection(name)\ncon.execute({statement!r}).fetchall()"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}


# -- a sound ledger, and how it is told ----------------------------------------------------


def test_a_sound_ledger_is_well_and_left_as_it_was(path: Path, run: Doctor) -> None:
    before = contents(path.parent)
    checks = run()
    assert {name for name, check in checks.items() if check["status"] != "ok"} <= OF_THE_MACHINE
    assert contents(path.parent) == before
    assert sorted(os.listdir(path.parent)) == ["agents.tally", "agents.tally.head"]
    assert "31 events" in checks["ledger"]["finding"]
    assert "journal_mode wal, page_size 8192, auto_vacuum 0" in checks["settings"]["finding"]
    assert "application_id 0x54414c59, user_version 1" in checks["settings"]["finding"]
    assert "3 triggers and 2 indexes" in checks["guards"]["finding"]
    assert "indexes agree" in checks["structure"]["finding"]
    assert checks["head file"]["finding"] == "vouches for event 31 of 31"


def test_a_pipe_gets_a_line_a_check(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    altered(path, "DROP TRIGGER events_no_delete")
    assert main(["doctor", "-f", str(path)]) == 1
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert {len(row) for row in rows} == {4}
    assert [row[:2] for row in rows if row[0] == "fail"] == [["fail", "guards"]]
    assert err.startswith(f"{path}: {len(rows)} checks, 1 failed, ")


def test_a_terminal_gets_whole_findings_and_remedies(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    altered(path, "DROP TRIGGER events_no_delete")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["doctor", "-f", str(path)]) == 1
    words = " ".join(capsys.readouterr().out.split())
    assert "trigger events_no_delete is missing: another program changed the file" in words
    assert "→ run `tally verify --expect` with a" in words


def test_progress_is_told(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append_many({"kind": "a.b", "body": {"n": n}} for n in range(3000))
    seen: list[int] = []
    doctor.examine(path, progress=seen.append)
    assert seen
    assert seen == sorted(seen)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_ledger_in_a_read_only_directory_is_well(path: Path, run: Doctor) -> None:
    path.parent.chmod(0o500)
    try:
        checks = run()
    finally:
        path.parent.chmod(0o700)
    assert {name for name, check in checks.items() if check["status"] != "ok"} <= OF_THE_MACHINE


# -- guards, settings, structure -----------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "status", "said"),
    [
        (["DROP TRIGGER events_follow"], "fail", "trigger events_follow is missing"),
        (["DROP INDEX events_by_key"], "fail", "index events_by_key is missing"),
        (
            [
                "DROP TRIGGER events_no_update",
                "CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT 1; END",
            ],
            "fail",
            "trigger events_no_update is another",
        ),
        (
            ["CREATE TRIGGER mine AFTER INSERT ON events BEGIN SELECT 1; END"],
            "fail",
            "trigger mine does not belong here",
        ),
        (["CREATE TABLE notes (text)"], "warn", "table notes"),
    ],
    ids=["no trigger", "no index", "another trigger", "one trigger more", "a table more"],
)
def test_guards(path: Path, run: Doctor, statements: list[str], status: str, said: str) -> None:
    altered(path, *statements)
    check = run()["guards"]
    assert check["status"] == status
    assert said in check["finding"]


def test_analyze_leaves_the_guards_as_they_are(path: Path, run: Doctor) -> None:
    altered(path, "ANALYZE")
    assert run()["guards"]["status"] == "ok"


def test_a_backup_is_well(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = path.with_name("copy.tally")
    with Ledger.open(path) as ledger:
        ledger.backup(copy)
    for expected in ("journal_mode delete, as a backup has it", "journal_mode wal"):
        assert main(["doctor", "-f", str(copy), "--json"]) == 0
        checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
        assert checks["settings"]["status"] == "ok"
        assert expected in checks["settings"]["finding"]
        with Ledger.open(copy) as ledger:
            ledger.append("order.shipped")


def test_another_page_size_is_a_warning(path: Path, run: Doctor) -> None:
    altered(
        path,
        "PRAGMA journal_mode=DELETE",
        "PRAGMA page_size=4096",
        "PRAGMA auto_vacuum=FULL",
        "VACUUM",
        "PRAGMA journal_mode=WAL",
    )
    check = run()["settings"]
    assert check["status"] == "warn"
    assert "page_size 4096, auto_vacuum 1" in check["finding"]


def test_a_row_missing_from_an_index_is_found_unless_quick(path: Path, run: Doctor) -> None:
    by_stream = "UPDATE sqlite_schema SET sql = '{}' WHERE name = 'events_by_stream'"
    whole = "CREATE INDEX events_by_stream ON events (stream)"
    altered(
        path, "PRAGMA writable_schema=ON", by_stream.format("CREATE INDEX events_by_stream ON events (kind)")
    )
    with Ledger.open(path) as ledger:
        ledger.append("order.shipped", stream="order:1")  # enters the index under its kind
    altered(path, "PRAGMA writable_schema=ON", by_stream.format(whole))
    checks = run()
    assert checks["guards"]["status"] == "ok"
    assert checks["structure"]["status"] == "fail"
    assert "row 32 missing from index events_by_stream" in checks["structure"]["finding"]
    assert "tally export" in checks["structure"]["remedy"]
    quick = run("--quick")["structure"]
    assert quick["status"] == "ok"
    assert "not compared" in quick["finding"]


def test_a_quick_look_does_not_read_a_large_file(run: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "QUICK_BYTES_MAX", 8192)
    assert run("--quick")["structure"]["finding"].startswith("not looked at")


def test_a_damaged_page_is_found(path: Path, run: Doctor) -> None:
    page = root_page(path, "events")
    data = bytearray(path.read_bytes())
    data[(page - 1) * 8192 : (page - 1) * 8192 + 200] = bytes(200)
    path.write_bytes(data)
    check = run()["structure"]
    assert check["status"] == "fail"
    assert "restore a backup" in check["remedy"]


def root_page(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as con:
        return int(con.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()[0])


def test_a_ledger_without_events_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SQLiteStore(tmp_path / "cut.tally").close()
    assert main(["doctor", "-f", str(tmp_path / "cut.tally")]) == 1
    assert "fail\tledger\tholds no events" in capsys.readouterr().out


def test_a_first_event_of_another_kind_is_found(path: Path, run: Doctor) -> None:
    altered(path, "DROP TRIGGER events_no_update", "UPDATE events SET kind = 'order.shipped' WHERE seq = 1")
    assert run()["ledger"]["status"] == "fail"


# -- the head file -------------------------------------------------------------------------


def kept_head(path: Path) -> Head:
    return Head.parse(head_path(path).read_text())


def test_no_head_file_is_a_warning(path: Path, run: Doctor) -> None:
    head_path(path).unlink()
    assert run()["head file"]["status"] == "warn"


def test_a_log_that_lost_its_end_fails(path: Path, run: Doctor) -> None:
    altered(path, "DROP TRIGGER events_no_delete", "DELETE FROM events WHERE seq > 29")
    check = run()["head file"]
    assert check["status"] == "fail"
    assert "ends at event 29" in check["finding"]
    assert "event 31" in check["finding"]


def test_a_head_file_behind_the_log_is_well(path: Path, run: Doctor) -> None:
    before = head_path(path).read_text()
    with Ledger.open(path) as ledger:
        ledger.append("order.shipped")
    head_path(path).write_text(before)
    assert run()["head file"]["finding"] == "vouches for event 31 of 32"


def test_a_head_of_another_history_fails(path: Path, run: Doctor) -> None:
    head = kept_head(path)
    head_path(path).write_text(str(Head(head.seq - 1, head.hash, head.ledger_id)))
    check = run()["head file"]
    assert check["status"] == "fail"
    assert "history was replaced" in check["finding"]


def test_a_head_of_another_ledger_fails(path: Path, run: Doctor) -> None:
    head_path(path).write_text(str(Head(1, bytes(32), bytes(16))))
    assert "another ledger" in run()["head file"]["finding"]


def test_a_head_file_that_cannot_be_understood_fails(path: Path, run: Doctor) -> None:
    head_path(path).write_bytes(b"\xff\x00 no head")
    check = run()["head file"]
    assert check["status"] == "fail"
    assert "appends are refused" in check["finding"]


# -- the log and other processes -----------------------------------------------------------


@linux_only
def test_a_log_left_by_a_killed_process_is_told_and_left(path: Path, run: Doctor) -> None:
    script = (
        "from tallystick import Ledger\nledger = Ledger.open(name)\nfor n in range(5): ledger.append('a.b')"
    )
    with another_process(script, path):
        assert "not yet in the file" in run()["log"]["finding"]
    before = contents(path.parent)
    checks = run()
    assert checks["log"]["status"] == "warn"
    assert "left by a process that was killed" in checks["log"]["finding"]
    assert contents(path.parent) == before
    with Ledger.open(path) as ledger:
        assert ledger.head().seq == 36
    assert run()["log"]["status"] == "ok"


@linux_only
def test_a_reader_that_pins_the_log_is_named(
    path: Path, run: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "WAL_PAGES_WARN", 5)
    with another_process(with_apsw("BEGIN; SELECT count(*) FROM events"), path) as pid:
        with Ledger.open(path) as ledger:
            for _ in range(8):
                ledger.append("order.shipped")
        check = run()["log"]
    assert check["status"] == "warn"
    assert f"Readers that pin it: {pid} (" in check["finding"]


@linux_only
def test_the_holder_of_the_write_lock_is_named(path: Path, run: Doctor) -> None:
    with another_process(with_apsw("BEGIN IMMEDIATE"), path) as pid:
        check = run()["locks"]
        assert check["status"] == "warn"
        assert "another process has held the write lock" in check["finding"]
        assert f"{pid} (" in check["finding"]
        assert "writing" in check["finding"]
    assert run()["locks"]["status"] == "ok"


@linux_only
def test_others_that_have_it_open_are_named(path: Path, run: Doctor) -> None:
    with another_process("file = open(name)", path) as pid:
        check = run()["locks"]
    assert check["status"] == "ok"
    assert f"open in {pid} (" in check["finding"]


def test_a_file_locked_against_reading_fails(path: Path, run: Doctor) -> None:
    script = with_apsw("PRAGMA locking_mode=EXCLUSIVE; BEGIN IMMEDIATE; CREATE TABLE t (x); COMMIT")
    with another_process(script, path) as pid:
        checks = run()
    assert checks["locks"]["status"] == "fail"
    assert "structure" not in checks
    if Path("/proc/locks").exists():
        assert f"{pid} (" in checks["locks"]["finding"]


def test_without_proc_the_lock_is_tried_all_the_same(run: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "holders", lambda path: None)
    assert run()["locks"]["finding"].startswith("the write lock was free")


# -- the clock -----------------------------------------------------------------------------


def test_an_event_from_the_future_is_a_warning(path: Path, run: Doctor) -> None:
    with Ledger.open(path) as ledger:
        ledger.append("order.shipped", at=int((time.time() + 86_400 * 3) * 1e6))
    check = run()["clock"]
    assert check["status"] == "warn"
    assert "3 days in the future" in check["finding"]


# -- what cannot be looked at --------------------------------------------------------------


def make_database(path: Path) -> None:
    altered(path, "CREATE TABLE notes (text)")


def make_newer(path: Path) -> None:
    with Ledger.open(path):
        pass
    altered(path, "PRAGMA user_version=99")


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such ledger"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "no such ledger"),
    "directory": (Path.mkdir, "is a directory"),
    "pipe": (os.mkfifo, "is no regular file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (lambda path: path.write_text("one\ntwo\n" * 500), "not a SQLite database"),
    "another database": (make_database, "no Tallystick ledger"),
    "newer format": (make_newer, "upgrade tallystick"),
}


@pytest.mark.parametrize("make", UNREADABLE)
def test_what_cannot_be_looked_at(make: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maker, said = UNREADABLE[make]
    maker(tmp_path / "it")
    assert main(["doctor", "-f", str(tmp_path / "it")]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_ledger_that_is_no_database_any_more_fails(path: Path, run: Doctor) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])
    check = run()["structure"]
    assert check["status"] == "fail"
    assert "it was a ledger" in check["finding"]


@pytest.mark.parametrize("seed", range(6))
def test_damage_of_any_kind_is_survived(path: Path, seed: int) -> None:
    """Overwritten bytes, pages and cut ends: checks or a named error, and the file as it was."""
    rng = random.Random(seed)
    sound = path.read_bytes()
    damaged = path.with_name("damaged.tally")
    for _ in range(10):
        data: Any = bytearray(sound)
        for _ in range(rng.randrange(1, 4)):
            at = rng.choice((rng.randrange(len(data)), rng.randrange(8192)))
            data[at : at + rng.choice((1, 1, 40, 8192))] = rng.randbytes(rng.choice((1, 1, 40)))
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        for file in path.parent.glob("damaged.tally*"):
            file.unlink()
        damaged.write_bytes(data)
        with suppress(TallyError):
            assert doctor.examine(damaged)
        assert damaged.read_bytes() == data


# -- the policy beside the ledger ---------------------------------------------------------------


def test_the_policy_is_looked_at(tally: Callable[..., Any]) -> None:
    """D11."""
    tally("init")
    checks = {check["name"]: check for check in tally("doctor", "--json").json["checks"]}
    assert checks["policy"]["status"] == "ok"
    assert checks["policy"]["finding"].startswith("policy.yml: support-starter 1, ")
    Path("policy.yml").write_text("rules: 1")
    broken = tally("doctor", "--json")
    check = next(check for check in broken.json["checks"] if check["name"] == "policy")
    assert (broken.status, check["status"]) == (1, "fail")
    assert check["remedy"] == "run `tally policy validate policy.yml`"
    Path("policy.yml").unlink()
    assert "policy" not in {check["name"] for check in tally("doctor", "--json").json["checks"]}
