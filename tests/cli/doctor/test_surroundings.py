"""What `tally doctor` finds around the ledger file: programs, rights, the disk, what others left there."""

from __future__ import annotations

import gzip
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest

from tallystick.cli import main
from tallystick.ledger.sqlite import doctor, surroundings

Doctor = Callable[..., dict[str, dict[str, str]]]


# -- programs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        ("3.6.23", False),
        ("3.7.0", True),
        ("3.40.1", True),
        ("3.44.5", True),
        ("3.44.6", False),
        ("3.45.0", True),
        ("3.50.6", True),
        ("3.50.7", False),
        ("3.51.0", True),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.53.0", False),
        ("4.0.0", False),
    ],
)
def test_versions_with_the_wal_reset_bug(version: str, has_it: bool) -> None:
    assert surroundings.has_wal_reset_bug(version) is has_it


def test_an_engine_with_the_bug_fails(run: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    assert run()["engine"]["status"] == "fail"
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.52.0")
    assert run()["engine"]["status"] == "warn"


def test_the_interpreters_own_sqlite_is_named(run: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.40.1")
    assert "do not write a ledger with it" in run()["python sqlite3"]["finding"]


# -- the place -----------------------------------------------------------------------------


EXPORTED = b'{"seq":1,"at":2,"kind":"ledger.created","stream":"ledger","key":null,"meta":null,"salt":"00"'


def test_leftovers_are_named_and_work_under_way_is_not(path: Path, run: Doctor) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    folder = path.parent
    (folder / f"agents.tally.head.{gone.pid}.tmp").write_text("x")
    (folder / f"copy.tally.{gone.pid}.tmp").write_bytes(path.read_bytes())
    (folder / f"notes.{gone.pid}.tmp").write_text("somebody else's")
    exports = {
        f"day.jsonl.{gone.pid}.tmp": EXPORTED,
        f"day.jsonl.gz.{gone.pid}.tmp": gzip.compress(EXPORTED)[:60],
    }
    for name, data in exports.items():
        (folder / name).write_bytes(data)
    (folder / f"theirs.jsonl.{gone.pid}.tmp").write_text('{"name": 1}')
    (folder / f"theirs.jsonl.gz.{gone.pid}.tmp").write_bytes(gzip.compress(b"theirs"))
    bench = folder / ".tally-bench-x1y2z3"
    bench.mkdir()
    (bench / "single.tally").write_bytes(bytes(5000))
    assert bench.name not in run()["leftovers"]["finding"], "it may be at work"
    os.utime(bench, (0, 0))
    check = run()["leftovers"]
    assert check["status"] == "warn"
    for name in (*exports, bench.name):
        assert name in check["finding"]
    assert "theirs" not in check["finding"]
    assert f"copy.tally.{gone.pid}.tmp" in check["finding"]
    assert f"agents.tally.head.{gone.pid}.tmp" in check["finding"]
    assert "notes" not in check["finding"]


def test_temporary_files_of_a_living_process_are_work_under_way(path: Path, run: Doctor) -> None:
    temporary = path.with_name(f"agents.tally.{os.getpid()}.tmp")
    temporary.write_text("x")
    assert run()["leftovers"]["finding"] == "1 of work under way"
    os.utime(temporary, (0, 0))
    assert run()["leftovers"]["status"] == "warn"


@pytest.mark.parametrize(("free", "status"), [(2 << 30, "ok"), (500 << 20, "warn"), (1 << 20, "fail")])
def test_free_space(run: Doctor, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10 << 30, free=free))
    assert run()["disk"]["status"] == status


def test_a_slow_disk_is_a_warning(run: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: time.sleep(0.03))
    assert run()["fsync"]["status"] == "warn"


def test_a_directory_that_may_not_be_written_is_not_measured(
    run: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: Path) -> float:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(surroundings, "fsync_time_s", refuse)
    check = run()["fsync"]
    assert check["status"] == "ok"
    assert "not measured" in check["finding"]


def test_a_second_name_is_a_warning(path: Path, run: Doctor) -> None:
    os.link(path, path.with_name("other.tally"))
    assert "2 names" in run()["file"]["finding"]


def test_a_file_that_anyone_may_write_is_a_warning(path: Path, run: Doctor) -> None:
    path.chmod(0o666)
    assert run()["file"]["status"] == "warn"


def test_a_link_is_followed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = path.with_name("link.tally")
    link.symlink_to(path)
    assert main(["doctor", "-f", str(link)]) == 0
    assert f"a link to {path}" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "status"), [("nfs4", "fail"), ("tmpfs", "warn"), ("overlay", "warn")])
def test_file_systems(run: Doctor, monkeypatch: pytest.MonkeyPatch, kind: str, status: str) -> None:
    monkeypatch.setattr(doctor, "filesystem_type", lambda path: kind)
    checks = run()
    assert checks["file system"]["status"] == status
    assert ("structure" in checks) is (kind != "nfs4")  # it is not opened over the network
