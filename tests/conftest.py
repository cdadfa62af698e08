"""What holds for all tests."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import second_verifier
from hypothesis import settings

from tallystick import Durability, Ledger

#: A slow test without a time-out of its own gets this, in seconds; machines differ, and others work on them.
SLOW_TIMEOUT_S = 900

#: How far from its place a row is looked for with the fixture `nearby`, in events.
REACH = 500

# How many examples a property test draws that names no number. `HYPOTHESIS_PROFILE=full` set is for
# whoever has the time: `.ci/run` does. Examples are drawn at random, so quick runs add up.
settings.register_profile("quick", max_examples=30, deadline=None)
settings.register_profile("full", max_examples=100, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hundreds of processes compile a module once, and not each, where Python may write no bytecode."""
    if sys.dont_write_bytecode:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(tmp_path_factory.getbasetemp() / "pycache")


@pytest.fixture
def nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both verifiers look for misplaced rows in a smaller reach: it makes `edited` quick to find."""
    monkeypatch.setattr("tallystick.ledger.walk.REORDER_SEARCH", REACH)
    monkeypatch.setattr(second_verifier.verifier(), "REORDER_DISTANCE_MAX", REACH)


@pytest.fixture
def open_ledger(tmp_path: Path) -> Iterator[Callable[..., Ledger]]:
    """Opens `a.tally`, or another name, in the test's folder; closed when the test ends."""
    opened: list[Ledger] = []

    def open_ledger(name: str = "a.tally", **options: Any) -> Ledger:
        options = {"durability": Durability.PROCESS, "timeout_s": 10.0, **options}
        opened.append(Ledger.open(tmp_path / name, **options))
        return opened[-1]

    yield open_ledger
    for ledger in reversed(opened):
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger]) -> Ledger:
    return open_ledger()


@pytest.fixture
def reproducible() -> Callable[..., dict[str, Any]]:
    """Options of `Ledger.open` that make the same bytes again; another seed makes another ledger."""

    def options(seed: int = 1) -> dict[str, Any]:
        ticks = itertools.count(1_700_000_000_000_000, 1000)
        return {"clock": lambda: next(ticks), "entropy": random.Random(seed).randbytes}

    return options


@pytest.fixture
def start_worker(request: pytest.FixtureRequest) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a script of `workers/` beside the test in a process; what still runs at its end is killed."""
    started: list[subprocess.Popen[str]] = []
    workers = request.path.with_name("workers")

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-X", "faulthandler", str(workers / script), *map(str, arguments)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
