"""Every row runs at a tiny size and measures what it says; no figure is asserted."""

from __future__ import annotations

import gc
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = (
    "append_many recorder application threads singles verify jobs memory growth catch_up kernel sessions "
    "decide sqlite_utils"
).split()


#: Those that run by default: one of each kind.
QUICK_ROWS = {"append_many", "singles", "verify", "kernel"}


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    # What makes figures steady takes time, and no figure counts here.
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
    monkeypatch.setattr(importlib.import_module("benchmarks.harness"), "FSYNC_SAMPLES", 5)
    return importlib.import_module("benchmarks.__main__")


@pytest.fixture
def tiny(benchmarks: Any, tmp_path: Path) -> Any:
    scale = benchmarks.QUICK.__class__(
        chunks=2,
        chunk_events=20,
        thread_appends=3,
        single_appends=10,
        verify_events=200,
        jobs_events=2500,
        memory_events=300,
        small_events=50,
        big_events=400,
        growth_singles=5,
        growth_chunks=2,
        session_actions=20,
        decisions=10,
        memory_items=30,
    )
    return benchmarks.Bench(tmp_path, rounds=2, scale=scale, big=True)


def test_these_are_all_rows(benchmarks: Any) -> None:
    assert list(benchmarks.ROWS) == ROWS


@pytest.mark.parametrize(
    "row", [row if row in QUICK_ROWS else pytest.param(row, marks=pytest.mark.slow) for row in ROWS]
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_row_measures(benchmarks: Any, tiny: Any, row: str) -> None:
    try:
        figures = benchmarks.ROWS[row](tiny)
    except benchmarks.Skipped as why:
        pytest.skip(str(why))
    assert figures
    for figure in figures:
        assert figure.row == row
        assert 0 < figure.low <= figure.value <= figure.high or figure.unit == "×"
    for timing in tiny.timings.get(row, []):
        assert len(timing.seconds) == tiny.rounds and timing.median_s > 0
    assert not list(tiny.directory.iterdir()), "a round left files behind"


def test_the_command_prints_tables_and_writes_json(
    benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(bench: Any) -> list[Any]:
        """Two contenders that take turns."""
        harness = importlib.import_module("benchmarks.harness")
        slow, fast = bench.race("fake", [("slow", lambda place: 0.2), ("fast", lambda place: 0.1)], 10)
        return [harness.times_as_fast("fake", "against the slow one", slow, fast, must=3, aim=4)]

    def missing(bench: Any) -> list[Any]:
        raise benchmarks.Skipped("the peer is not installed")

    monkeypatch.setattr(benchmarks, "ROWS", {"fake": row, "missing": missing})
    target = tmp_path / "out.json"
    assert benchmarks.main(["--rounds", "5", "--dir", str(tmp_path), "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "| against the slow one | 2.00 " in printed and " miss |" in printed
    assert "missing: skipped: the peer is not installed" in printed
    result = json.loads(target.read_text())
    assert result["timings"]["fake"][0]["seconds"] == [0.2] * 5
    assert result["figures"][0]["verdict"] == "miss"


def test_too_few_rounds_are_refused(benchmarks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmarks.main(["--rounds", "4"])
    assert "at least 5" in capsys.readouterr().err
