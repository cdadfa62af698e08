"""The same ledger gives the same report, byte for byte, wherever it is replayed; and nothing is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forging import Forger

from tallystick import Durability, Ledger, Selection, replay_ledger, views_of

NOBODY = 65534
#: Replays a ledger and writes the report's JSON; as another user, with the modules loaded before.
SCRIPT = """
import encodings.ascii, encodings.idna, os, sqlite_utils, sys, tempfile
from tallystick import Ledger, replay_ledger, TallyError
import tallystick.replay.rendering.text, tallystick.replay.layers.stored_indexes
import tallystick.recorders.gateway.schemas
sqlite_utils.Database(memory=True).close()
if os.getuid() == 0 and sys.argv[2] == "nobody":
    os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
try:
    with Ledger.open(sys.argv[1], read_only=True) as ledger:
        sys.stdout.buffer.write(replay_ledger(ledger).to_json())
except TallyError as error:
    print(type(error).__name__)
""".replace("{nobody}", str(NOBODY))
WRITER = """
import sys
from tallystick import Durability, Gateway, Ledger, Session
from tallystick.recorders.gateway.policy import STARTER_POLICY
with Ledger.open(sys.argv[1], durability=Durability.PROCESS) as ledger:
    print("ready", flush=True)
    for number in range(100_000):
        with Session.start(ledger, f"busy {number}") as session:
            session.record_action("do", "verified")
"""


def report_of(path: Path, *, user: str = "me", **environment: str) -> bytes:
    """The report that a process of its own gives."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), user],
        check=False,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Names, times and contents of what lies in a folder."""
    return {one.name: (one.stat().st_mtime_ns, one.read_bytes()) for one in folder.iterdir()}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="tallystick-replay-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("fault", [False, True], ids=["sound", "forged"])
def test_another_place_process_hash_seed_locale_and_time_zone(
    filled: Path, tmp_path: Path, fault: bool
) -> None:
    if fault:
        with Forger(filled) as forger:
            forger.put(6, {"failed": 2, "odd": 1, "even": 2}, "derived", "actions")
            forger.put(23, "TRUST", "derived", "verdict")
    first = report_of(filled, PYTHONHASHSEED="1", TZ="UTC", LC_ALL="C")
    assert (json.loads(first)["diverged"] > 0) is fault
    there = tmp_path / "elsewhere"
    there.mkdir()
    for suffix in ("", ".views", ".head"):
        shutil.copy(f"{filled}{suffix}", f"{there / 'other.tally'}{suffix}")
    odd = {
        "PYTHONHASHSEED": "4711",
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "tr_TR.UTF-8",
        "LANG": "tr_TR.UTF-8",
    }
    assert report_of(there / "other.tally", **odd) == first


def test_without_the_views_the_other_layers_say_the_same(filled: Path) -> None:
    """A copy that someone sent, without its views, is enough."""
    whole = json.loads(report_of(filled))
    os.remove(f"{filled}.views")
    alone = json.loads(report_of(filled))
    assert alone["layers"].pop("view") != whole["layers"].pop("view")
    for part in ("entries", "reasons"):
        for report in (alone, whole):
            report[part] = [one for one in report[part] if one["layer"] != "view"]
    assert alone == whole


def test_a_directory_that_may_only_be_read(filled: Path, open_folder: Path) -> None:
    for suffix in ("", ".views", ".head"):
        shutil.copy(f"{filled}{suffix}", f"{open_folder / 'a.tally'}{suffix}")
        os.chmod(f"{open_folder / 'a.tally'}{suffix}", 0o444)
    open_folder.chmod(0o555)
    before = listing(open_folder)
    assert report_of(open_folder / "a.tally", user="nobody") == report_of(filled)
    assert listing(open_folder) == before


def test_a_log_in_a_directory_that_may_only_be_read(filled: Path, open_folder: Path) -> None:
    """What stands in a log that cannot be read in is not left out in silence."""
    there = open_folder / "a.tally"
    with Ledger.open(filled, durability=Durability.PROCESS) as ledger:
        ledger.append("order.placed", {"order": 82})
        assert Path(f"{filled}-wal").stat().st_size > 0
        for suffix in ("", "-wal"):
            shutil.copy(f"{filled}{suffix}", f"{there}{suffix}")
    open_folder.chmod(0o555)
    before = listing(open_folder)
    assert report_of(there, user="nobody") == b"Unavailable\n"
    assert listing(open_folder) == before


def test_a_log_of_the_views_in_a_directory_that_may_only_be_read(filled: Path, open_folder: Path) -> None:
    there = open_folder / "a.tally"
    with Ledger.open(filled, durability=Durability.PROCESS) as ledger:
        ledger.append("order.placed", {"order": 82})
        views_of(ledger).catch_up()
        assert Path(f"{filled}.views-wal").stat().st_size > 0
        for suffix in (".views", ".views-wal"):
            shutil.copy(f"{filled}{suffix}", f"{there}{suffix}")
    shutil.copy(filled, there)
    for one in open_folder.iterdir():
        one.chmod(0o444)
    open_folder.chmod(0o555)
    before = listing(open_folder)
    report = json.loads(report_of(there, user="nobody"))
    assert report["diverged"] == 0
    assert report["layers"]["view"]["not_rederivable"] == 0
    assert report["events"] == 32
    assert listing(open_folder) == before


def test_while_a_process_appends_it_is_as_of_the_head_when_it_began(filled: Path) -> None:
    """And said again later, as if the log had ended there, it is the same."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(filled)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    layers = ["chain", "digest", "decision"]
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        reports = []
        with Ledger.open(filled, read_only=True) as ledger:
            while len(reports) < 4:
                head = ledger.head()
                report = replay_ledger(ledger, layers=layers)
                assert report.diverged == 0
                assert report.head[0] >= head.seq
                assert report.events == report.head[0]
                reports.append(report)
                time.sleep(0.05)
    finally:
        writer.kill()
        writer.wait()
        assert writer.stdout is not None
        writer.stdout.close()
    assert reports[-1].head[0] > reports[0].head[0]
    with Ledger.open(filled, read_only=True) as ledger:
        for report in reports:
            # Up to there but for the last session, whose end came later.
            again = replay_ledger(ledger, Selection(up_to=report.head[0]), layers=layers)
            assert again.layers == report.layers
            assert (again.entries, again.observed) == (report.entries, report.observed)
