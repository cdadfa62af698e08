"""stats and backup."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tallystick import Ledger


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
    assert (result.status, result.out, result.err) == (0, head, "copy.tally: 6 events, VERIFIED\n")
    with Ledger.open("copy.tally", read_only=True) as ledger:
        assert f"{ledger.head()}\n" == head
    assert tally("backup", "other.tally", "--no-verify", "--json").json == {
        "target": "other.tally",
        "head": head.strip(),
        "events": 6,
        "verdict": "not verified",
    }
    assert tally("backup", "copy.tally").status == 3


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
