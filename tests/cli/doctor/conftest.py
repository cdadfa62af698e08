"""What the tests of `tally doctor` share: a ledger, and its checks by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick.cli import main
from tallystick.ledger.ledger import Ledger
from tallystick.ledger.sqlite import Durability, doctor, surroundings

Doctor = Callable[..., dict[str, dict[str, str]]]


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOCK_WAIT_S", 0.05)
    monkeypatch.setattr(surroundings, "FSYNC_SAMPLES", 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of 31 events on several streams, most of them with keys."""
    path = tmp_path / "agents.tally"
    events: list[dict[str, Any]] = [
        {
            "kind": "order.shipped",
            "stream": f"order:{number % 4}",
            "key": f"key-{number}" if number % 3 else None,
        }
        for number in range(30)
    ]
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        ledger.append_many(events)
    return path


@pytest.fixture
def run(path: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run it on the ledger; its checks by name, after the exit status was seen to fit them."""

    def run(*options: str) -> dict[str, dict[str, str]]:
        status = main(["doctor", "-f", str(path), "--json", *options])
        printed = json.loads(capsys.readouterr().out)
        checks = {check["name"]: check for check in printed["checks"]}
        worst = max((check["status"] for check in checks.values()), key=["ok", "warn", "fail"].index)
        assert printed["path"] == str(path)
        assert printed["status"] == worst
        assert status == (1 if worst == "fail" else 0)
        unwell = [check for check in checks.values() if check["status"] != "ok"]
        assert all(check["finding"] and check["remedy"] for check in unwell)
        return checks

    return run
