"""Progress on a terminal: how far, and about how long still."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import Durability, Ledger
from tallystick.cli import output
from tallystick.cli.output import ESTIMATE_AFTER_S, TimeLeft, progress, progress_text


def steady(total: int, costs: list[float], rate: float, until_s: float) -> tuple[TimeLeft, int]:
    """Work that goes on at a steady rate, in units of cost a second; and how far it has come by then."""
    left = TimeLeft(total, costs, 0.0)
    part, count, now_s = total / len(costs), 0.0, 0.0
    while now_s < until_s:
        now_s += 0.1
        count = min(total, count + 0.1 * rate / costs[min(int(count // part), len(costs) - 1)])
        left.note(int(count), now_s)
    return left, int(count)


def test_it_says_how_far_and_how_long() -> None:
    left, count = steady(3_000_000, [1], 49_600, 25)
    assert progress_text("replaying", count, left, 25.0).startswith("replaying 1,2")
    assert progress_text("replaying", 1_240_000, left, 25.0) == (
        "replaying 1,240,000 of 3,000,000 (41 %), about 35 s left"
    )


def test_there_is_no_estimate_at_first() -> None:
    left, count = steady(1000, [1], 10, ESTIMATE_AFTER_S - 0.5)
    assert progress_text("verifying", count, left, ESTIMATE_AFTER_S - 0.5) == "verifying 15 of 1,000 (1 %)"
    assert progress_text("importing", 12_345, None, 99.0) == "importing 12,345"
    assert progress_text("verifying", 0, TimeLeft(0, [1], 0.0), 99.0) == "verifying 0"
    assert TimeLeft(100, [1], 0.0).seconds(0, 99.0) is None  # nothing was done yet


def test_passes_that_cost_more_are_reckoned_with() -> None:
    """Ten seconds into a cheap first pass, the dear ones are still to come."""
    left, count = steady(3000, [1, 12, 6], 100, 8)
    seconds = left.seconds(count, 8.0)
    assert seconds is not None
    assert seconds == pytest.approx((19_000 - 800) / 100, rel=0.1)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "less than 1 s left"),
        (4.4, "about 4 s left"),
        (24, "about 25 s left"),
        (59, "about 60 s left"),
        (61, "about 1 min left"),
        (3599, "about 1 h 00 min left"),
        (9000, "about 2 h 30 min left"),
    ],
)
def test_how_long_is_said_no_finer_than_it_is_known(seconds: float, said: str) -> None:
    assert output._left_text(seconds) == said


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.integers(-5, 2000), st.floats(0, 3)), max_size=20),
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
)
def test_an_estimate_is_never_negative(
    total: int, steps: list[tuple[int, float]], costs: list[float]
) -> None:
    """Whatever counts are told: too many, fewer than before."""
    left, now_s = TimeLeft(total, costs, 0.0), 0.0
    for count, passed_s in steps:
        now_s += passed_s
        left.note(count, now_s)
        seconds = left.seconds(count, now_s)
        assert seconds is None or seconds >= 0
        assert "-" not in progress_text("at", max(count, 0), left, now_s)


def test_nothing_is_said_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress("replaying", 10) as report:
        assert report is None


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger whose replay takes longer than the half second after which progress is shown."""
    path = tmp_path_factory.mktemp("long") / "agents.tally"
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        ledger.append_many({"kind": "order.placed", "body": {"order": n}} for n in range(200_000))
    return path


@pytest.mark.parametrize("columns", [60, 120])
def test_it_stays_on_one_line(
    columns: int, long_log: Path, terminal: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    status, shown = terminal("replay", "-f", str(long_log))
    assert status == 0
    lines = [line for line in shown.replace("\r", "\n").split("\n") if "replaying" in line]
    assert lines, "it takes longer than half a second"
    assert all(len(line) < columns + 30 for line in lines)  # with the codes that clear it
    assert "replaying" not in shown.split("MATCH")[1]
