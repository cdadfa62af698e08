"""`tally bench`: what it measures and prints, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick.cli import bench, main
from tallystick.ledger.errors import Unavailable
from tallystick.ledger.ledger import Ledger

ROWS = ["append", "append, 4 threads", "append, 16 threads", "append_many", "verify", "verify --jobs 2"]
SMALL = ["--events", "2100", "--rounds", "2"]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SINGLES_S", 0.02)


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = tmp_path / "agents.tally"
    assert main(["bench", "-f", str(ledger), "--json", *SMALL]) == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert err == ""
    assert printed["directory"] == str(tmp_path)
    assert (printed["events"], printed["body_bytes"], printed["rounds"]) == (2100, 300, 2)
    assert printed["fsync_ms"] > 0
    assert [result["what"] for result in printed["results"]] == ROWS
    for result in printed["results"]:
        assert len(result["rounds_us_per_event"]) == 2
        assert result["events_per_s"] == pytest.approx(1e6 / result["us_per_event"])
    assert os.listdir(tmp_path) == []  # no ledger made, no directory left


def test_table_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--dir", str(tmp_path), "--rounds", "1", "--events", "1"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == ["write and fsync", *ROWS]
    assert {len(row) for row in rows} == {4}
    assert " × append" in rows[2][3]
    assert str(tmp_path) in err
    assert os.listdir(tmp_path) == []


def test_the_ledger_beside_it_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agents.tally"
    with Ledger.open(path) as ledger:
        ledger.append("order.shipped")
    before = path.read_bytes()
    assert main(["bench", "-f", str(path), "--rounds", "1", "--events", "10"]) == 0
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["agents.tally", "agents.tally.head"]


@pytest.mark.parametrize("size", [32, 33, 300, 5000])
def test_bodies_have_the_size_asked_for(size: int) -> None:
    events = bench._events(size)
    assert {len(msgspec.json.encode(event["body"])) for event in events} == {size}
    assert events == bench._events(size)


def test_an_error_in_a_thread_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Unavailable("it", "the disk is full; nothing was stored", "free some space and try again")

    monkeypatch.setattr(Ledger, "append", refuse)
    assert main(["bench", "--dir", str(tmp_path), *SMALL]) == 3
    assert capsys.readouterr().err == (
        "tally: it: the disk is full; nothing was stored; free some space and try again\n"
    )
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--dir", str(tmp_path / "none")]) == 3
    err = capsys.readouterr().err
    assert "No such file or directory" in err
    assert err.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tallystick", "bench", "--dir", str(tmp_path), "--rounds", "500"]
    with subprocess.Popen(
        [*command, "--events", "2100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob(".tally-bench-*/single.tally")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []
