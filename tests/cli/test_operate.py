"""stats and backup."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacker import tamper

from tallystick import Ledger, TailLost


def test_stats(tally: Callable[..., Any], orders: Path) -> None:
    out = tally("stats").out
    assert "events\t6\n" in out
    assert "first event\t2026-01-01 00:01:00.000Z\n" in out
    assert "\n3\torder.placed\n2\torder.shipped\n1\tledger.created\n" in out
    stats = tally("stats", "--json").json
    assert stats["events"] == 6
    assert stats["kinds"] == {"order.placed": 3, "order.shipped": 2, "ledger.created": 1}
    assert stats["head"] == tally("head").out.strip()


def test_stats_on_a_terminal_show_the_head_whole(
    terminal: Callable[..., tuple[int, str]], tally: Callable[..., Any], orders: Path
) -> None:
    head = tally("head").out.strip()
    status, shown = terminal("stats", NO_COLOR="1", columns=60)
    assert status == 0
    assert f"head             {head}\n" in shown
    assert "\nevents  kind\n     3  order.placed\n" in shown


def test_backup_verifies_the_copy(tally: Callable[..., Any], orders: Path) -> None:
    head = tally("head").out
    result = tally("backup", "copy.tally")
    assert (result.status, result.out) == (0, head)
    assert result.err.startswith(
        "copy.tally: UNANCHORED 6 events: every hash derived again, but nothing outside"
    )
    assert result.err.count("\n") == 1, "only a head from outside makes a log VERIFIED"
    assert tally("backup", "second.tally", "--json").json["verdict"] == "UNANCHORED"
    with Ledger.open("copy.tally", read_only=True) as ledger:
        assert f"{ledger.head()}\n" == head
    assert tally("backup", "other.tally", "--no-verify", "--json").json == {
        "target": "other.tally",
        "head": head.strip(),
        "events": 6,
        "verdict": "not verified",
    }
    assert tally("backup", "copy.tally").status == 2


def test_a_backup_of_a_broken_ledger_is_kept_and_said(
    tally: Callable[..., Any], orders: Path, alter: Callable[..., None]
) -> None:
    alter(orders, 4, body=b"{}")
    result = tally("backup", "copy.tally", "--json")
    assert result.status == 1
    assert result.json["verdict"] == "BROKEN"
    assert "BROKEN at event 4: edited" in result.err
    assert "the copy was kept" in result.err
    assert Path("copy.tally").exists()


def lose_the_end(path: Path, after: int) -> None:
    """Cut the log behind event `after` with plain SQLite; the head file stays as it is."""
    tamper(path, f"DELETE FROM events WHERE seq > {after}")


def test_a_ledger_that_lost_its_end_is_not_copied(tally: Callable[..., Any], orders: Path) -> None:
    """A copy with a head file of its own would look whole."""
    lose_the_end(orders, 4)
    for options in ([], ["--no-verify"]):
        result = tally("backup", "copy.tally", *options)
        assert (result.status, result.out) == (1, "")
        assert "the log ends at event 4" in result.err
        assert "event 6" in result.err
        assert not list(Path().glob("copy.tally*"))
    with Ledger.open(orders, read_only=True) as ledger, pytest.raises(TailLost):
        ledger.backup("copy.tally")


def test_a_ledger_with_the_head_file_of_another_is_not_copied(
    tally: Callable[..., Any], orders: Path
) -> None:
    tally("init", "-f", "other.tally")
    Path("agents.tally.head").write_text(Path("other.tally.head").read_text())
    result = tally("backup", "copy.tally")
    assert (result.status, result.out) == (1, "")
    assert not list(Path().glob("copy.tally*"))


@pytest.mark.parametrize(
    ("arguments", "status"),
    [("head", 1), ("head --json", 1), ("stats", 0), ("export", 0), ("log", 0), ("tail", 0)],
)
def test_a_lost_end_is_remarked_on(
    tally: Callable[..., Any], orders: Path, arguments: str, status: int
) -> None:
    assert "tally: " not in tally(*arguments.split()).err
    lose_the_end(orders, 4)
    result = tally(*arguments.split())
    assert result.status == status
    assert result.out
    found = "the log ends at event 4, but agents.tally.head vouches for event 6: its end was lost"
    assert result.err.startswith(f"tally: agents.tally: {found}")
    assert result.err.count("\n") == 1
    Path("agents.tally.head").write_text("nothing of the kind")
    odd = tally(*arguments.split())
    assert odd.status == (3 if "head" in arguments else 0), "whether the end is missing cannot be told"
    assert "agents.tally.head: cannot be read" in odd.err
