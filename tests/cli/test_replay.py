"""`tally replay`, `tally views digest` and `tally views seal`."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forging import Forger, edit_views

from tallystick import Kernel, Ledger, PsiDefinition, Session
from tallystick.cli.replay import LAYERS
from tallystick.replay import report

Tally = Callable[..., Any]
TASKS = """
from tallystick import Kernel, PsiDefinition

kernel = Kernel()

@kernel.task("orders", "total", replayable=True)
def total(cents):
    print("adding up")
    return sum(cents) {more}
"""


def total(cents: list[int]) -> int:
    return sum(cents)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The default ledger: a session of two actions, an execution."""
    path = tmp_path / "agents.tally"
    with Ledger.open(path) as ledger:
        with Session.start(ledger, "A chipped mug", "Desk") as session:
            session.record_action("look", "verified")
            session.record_action("refund", "failed", "Pay")
        psi = PsiDefinition("orders", "total")
        Kernel(ledger=ledger).execute(psi=psi, task=total, cents=[1, 2])
    return path


def test_everything_matches(tally: Tally, desk: Path) -> None:
    result = tally("replay")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith("MATCH 6 events: ")
    assert [line.split()[0] for line in lines[2:7]] == ["layer", "chain", "digest", "decision", "view"]
    assert lines[3].split()[:4] == ["chain", "6", "0", "0"]


def test_json_is_the_report(tally: Tally, desk: Path) -> None:
    said = tally("replay", "--json").json
    assert said["diverged"] == 0
    assert said["first"] is None
    assert said["layers"]["chain"] == {"match": 6, "diverged": 0, "not_rederivable": 0}
    [entry] = said["entries"]
    assert entry["reason"] == "there is no views file beside the ledger"


def test_a_divergence_is_named_and_is_a_finding(tally: Tally, desk: Path) -> None:
    with Forger(desk) as forger:
        forger.put(5, "complete", "derived", "outcome")
    result = tally("replay")
    assert result.status == 1
    assert result.out.startswith("DIVERGED at event 5, layer digest: outcome (from the actions)\n")
    assert '  expected "partial", recorded "complete"' in result.out
    said = tally("replay", "--json")
    assert said.status == 1
    assert said.json["first"]["seq"] == 5
    assert said.json["first"]["differences"] == [{"path": "", "expected": "partial", "actual": "complete"}]
    assert tally("replay", "--up-to", "4").status == 0
    assert tally("replay", "--layer", "chain").status == 0


def test_text_of_a_ledger_does_not_reach_the_terminal_as_it_is(tally: Tally, desk: Path) -> None:
    with Forger(desk) as forger:
        forger.put(5, "\x1b[31mred\n", "derived", "outcome")
    result = tally("replay")
    assert result.status == 1
    assert "\x1b" not in result.out


@pytest.mark.parametrize(
    ("arguments", "events"),
    [
        (["--range", "2:3"], 2),
        (["--stream", "kernel"], 1),
        (["--up-to", "3"], 3),
        (["--since", "2h"], 6),
    ],
)
def test_selections(tally: Tally, desk: Path, arguments: list[str], events: int) -> None:
    result = tally("replay", *arguments, "--json")
    assert result.status == 0
    assert result.json["events"] == events


def test_a_session_by_the_beginning_of_its_id(tally: Tally, desk: Path) -> None:
    with Ledger.open(desk, read_only=True) as ledger:
        session_id = ledger.get(2).stream.removeprefix("session:")
    said = tally("replay", "--session", session_id[:6], "--json").json
    assert said["selection"] == {"session": session_id}
    assert said["events"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--session", "nobody"], "no id in sessions begins with 'nobody'"),
        (["--up-to", "99"], "the log ends at event 6"),
        (["--layer", "execution"], "execution needs to know the tasks"),
        (["--layer", "view", "--stream", "kernel"], "view compares whole tables"),
        (["--layer", "moon"], "'moon' is not one of"),
        (["--tasks", "nowhere"], "is no module:attribute"),
        (["--tasks", "no_such_module:x"], "importing no_such_module failed"),
        (["--stream", "a", "--session", "b"], "exclude each other"),
        (["--range", "5:9"], "the log ends at event 6"),
    ],
)
def test_usage(tally: Tally, desk: Path, arguments: list[str], message: str) -> None:
    result = tally("replay", *arguments)
    assert result.status == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_no_ledger_is_no_pass(tally: Tally, tmp_path: Path) -> None:
    assert tally("replay").status == 3
    (tmp_path / "agents.tally").write_text("my notes")
    assert tally("replay").status == 3


def test_tasks_are_run_again(tally: Tally, desk: Path, process: Callable[..., Any]) -> None:
    """In a process of its own, where the module of tasks lies in the working directory."""
    Path("shop.py").write_text(TASKS.format(more=""))
    running = process("replay", "--tasks", "shop:kernel", "--json")
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert json.loads(out)["layers"]["execution"] == {"match": 2, "diverged": 0, "not_rederivable": 0}
    assert err == b"adding up\n", "what tasks print is no data"
    Path("shop.py").write_text(TASKS.format(more="+ 1"))
    running = process("replay", "--tasks", "shop:kernel")
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    assert b"DIVERGED at event 6, layer execution: output" in out


def times(folder: Path) -> dict[str, int]:
    """When each file was changed, but for the index that SQLite's readers share in memory."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix != ".tally-shm"}


def test_in_a_directory_that_cannot_be_written(tally: Tally, desk: Path) -> None:
    tally("views", "rebuild")
    before = times(desk.parent)
    for path in desk.parent.iterdir():
        path.chmod(stat.S_IRUSR)
    desk.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        result = tally("replay", "--json")
    finally:
        desk.parent.chmod(stat.S_IRWXU)
    assert result.status == 0, result.err
    assert result.json["layers"]["view"]["match"] > 4
    assert times(desk.parent) == before


def test_an_altered_view(tally: Tally, desk: Path) -> None:
    tally("views", "rebuild")
    edit_views(desk, "UPDATE actions SET outcome = 'verified'")
    result = tally("replay")
    assert result.status == 1
    assert result.out.startswith("DIVERGED at event 4, layer view: actions[4]\n")
    assert '  at /outcome: expected "failed", recorded "verified"' in result.out
    tally("views", "rebuild")
    assert tally("replay").status == 0


def test_progress_is_shown_on_a_terminal_and_the_verdict_in_colour(
    desk: Path, terminal: Callable[..., tuple[int, str]]
) -> None:
    status, shown = terminal("replay")
    assert status == 0
    assert "\x1b[32m\x1b[1mMATCH\x1b[0m 6 events" in shown


def test_the_layers_are_those_of_the_library() -> None:
    assert LAYERS == report.LAYERS


# -- seals -------------------------------------------------------------------------------------


def test_digests_are_the_same_wherever_they_are_built(tally: Tally, desk: Path) -> None:
    first = tally("views", "digest", "--json")
    assert first.status == 0
    assert [one["name"] for one in first.json] == ["sessions", "executions", "decisions", "memory", "streams"]
    assert {one["seq"] for one in first.json} == {6}
    os.remove(f"{desk}.views")
    assert tally("views", "digest", "--json").json == first.json
    [one] = tally("views", "digest", "streams", "--json").json
    assert one == first.json[-1]
    assert tally("views", "digest", "moon").status == 2


def test_altered_tables_are_not_sealed(tally: Tally, desk: Path) -> None:
    assert tally("views", "rebuild").status == 0
    with Ledger.open(desk, read_only=True) as ledger:
        head = ledger.head()
    edit_views(desk, "UPDATE streams SET events = events + 1")
    done = tally("views", "seal")
    assert (done.status, done.out) == (1, "")
    assert "the tables of 'streams', as of event" in done.err
    with Ledger.open(desk, read_only=True) as ledger:
        assert ledger.head() == head
    assert tally("views", "rebuild").status == 0
    assert tally("views", "seal").status == 0
    assert tally("replay").status == 0


def test_a_seal_is_an_event_that_holds(tally: Tally, desk: Path) -> None:
    result = tally("views", "seal", "sessions", "streams")
    assert result.status == 0
    assert [line.split("\t")[0] for line in result.out.splitlines()] == ["sessions", "streams"]
    with Ledger.open(desk, read_only=True) as ledger:
        sealed = list(ledger.read(kinds=["projection.sealed"]))
    assert [event.stream for event in sealed] == ["projection:sessions", "projection:streams"]
    assert sealed[0].body == {
        "v": 1,
        "name": "sessions",
        "version": sealed[0].body["version"],
        "seq": 6,
        "digest": result.out.splitlines()[0].split("\t")[3],
    }
    assert tally("replay").status == 0
    with Forger(desk) as forger:
        forger.put(7, "blake3:" + "0" * 64, "digest")
    result = tally("replay", "--layer", "view")
    assert result.status == 1
    assert "event 7, view: digest (sessions as of event 6)" in result.out


@pytest.mark.parametrize("nothing", [["--correlation", "nope"], ["--since", "2030-01-01"]])
def test_nothing_selected_is_no_match(tally: Any, nothing: list[str]) -> None:
    with Ledger.open("agents.tally") as ledger:
        ledger.append("note.kept", {"text": "x"})
    done = tally("replay", *nothing)
    assert (done.status, done.out) == (2, "")
    assert "nothing was selected" in done.err
