"""D1: whatever goes wrong, the answer is ABSTAIN with the reason; never TRUST of what is not recorded."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick import Head, KeyConflict, Ledger, MemoryStore, OutcomeUnknown, Unavailable
from tallystick.projections.memory import Memory
from tallystick.recorders.gateway import gateway as module
from tallystick.recorders.gateway.errors import InvalidPolicy, NotTrusted
from tallystick.recorders.gateway.gateway import Gateway, decide
from tallystick.recorders.gateway.policy import STARTER_POLICY
from tallystick.recorders.gateway.record import DecisionRecord

Make = Callable[..., dict[str, Any]]
MakePolicy = Callable[..., str]


def check_abstained(record: DecisionRecord, reason: str, *, recorded: bool) -> None:
    assert (record.verdict, record.reason_codes) == ("ABSTAIN", [reason])
    assert (record.trusted, record.enforced, record.recorded) == (False, True, recorded)
    assert record.error
    assert record.cause is not None
    assert record.extensions["error"]["type"] == type(record.cause).__name__
    assert record.matched_rules == record.obligations == []


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Failing(MemoryStore):
    """A store that can be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.on_append: Exception | None = None
        self.on_read: Exception | None = None

    def append(self, build: Any) -> Head:
        if self.on_append is not None:
            raise self.on_append
        return super().append(build)

    def head(self) -> Head:
        if self.on_read is not None:
            raise self.on_read
        return super().head()


@pytest.fixture
def failing() -> Failing:
    return Failing()


# -- the store -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [Unavailable("disk", "full"), OutcomeUnknown("?"), OSError("io"), MemoryError(), Mute()],
)
def test_what_cannot_be_recorded_is_an_abstention(
    failing: Failing, starter: Path, make_request: Make, error: Exception
) -> None:
    ledger = Ledger.over(failing)
    ledger.committer._patience_s = 0.0
    gateway = Gateway(ledger, starter)
    assert gateway.guard(make_request()).trusted
    failing.on_append = error
    failing.on_read = error if isinstance(error, OutcomeUnknown) else None
    check_abstained(gateway.decide(make_request()), "STORAGE_UNAVAILABLE", recorded=False)
    with pytest.raises(NotTrusted, match="STORAGE_UNAVAILABLE"):
        gateway.guard(make_request())
    failing.on_append = failing.on_read = None
    assert gateway.guard(make_request()).trusted


def test_a_ledger_locked_by_another_process(ledger: Ledger, starter: Path, make_request: Make) -> None:
    assert ledger.path is not None
    code = textwrap.dedent(
        """
        import sqlite3, sys
        sqlite3.connect(sys.argv[1]).execute("BEGIN IMMEDIATE")
        print("locked", flush=True)
        input()
        """
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(ledger.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        record = Gateway(ledger, starter).decide(make_request())
        check_abstained(record, "STORAGE_UNAVAILABLE", recorded=False)
        assert record.error is not None
        assert "locked" in record.error.lower()
    finally:
        holder.communicate("\n")
    assert Gateway(ledger, starter).decide(make_request()).trusted


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the write-ahead log cannot grow."""
    code = textwrap.dedent(
        """
        import json, resource, signal, sys
        from tallystick import Ledger
        from tallystick.recorders.gateway.gateway import Gateway
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        request = json.loads(sys.argv[2])
        with Ledger.open(sys.argv[1]) as ledger:
            gateway = Gateway(ledger, "# starter\\n" + open(sys.argv[3]).read())
            assert gateway.decide(request).trusted
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            record = gateway.decide(request)
            print(record.verdict, record.reason_codes, record.recorded)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            print(gateway.decide(request).verdict)
        """
    )
    request = {
        "schema_version": "decision_request.v0",
        "subject": {"type": "agent", "id": "a"},
        "action": {"type": "support.update_ticket", "intent": "x"},
        "evidence": {"ticket_id": "T"},
        "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.tally"), json.dumps(request), str(STARTER_POLICY)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == ["ABSTAIN ['STORAGE_UNAVAILABLE'] False", "TRUST"], done.stderr


def test_closed_read_only_and_missing_ledgers(
    ledger: Ledger, starter: Path, make_request: Make, tmp_path: Path
) -> None:
    gateway = Gateway(ledger, starter)
    ledger.close()
    check_abstained(gateway.decide(make_request()), "STORAGE_UNAVAILABLE", recorded=False)
    check_abstained(gateway.decide(make_request(request_id="r")), "STORAGE_UNAVAILABLE", recorded=False)
    with Ledger.open(tmp_path / "a.tally", read_only=True) as reading:
        check_abstained(
            Gateway(reading, starter).decide(make_request()), "STORAGE_UNAVAILABLE", recorded=False
        )
    missing = tmp_path / "none.tally"
    check_abstained(
        decide(make_request(), ledger=missing, policy=starter), "STORAGE_UNAVAILABLE", recorded=False
    )
    assert not missing.exists()


def test_a_clock_or_entropy_that_fails(ledger: Ledger, starter: Path, make_request: Make) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("no clock")

    for options in ({"clock": broken}, {"entropy": broken}):
        record = Gateway(ledger, starter, **options).decide(make_request())
        check_abstained(record, "STORAGE_UNAVAILABLE", recorded=False)


def test_a_key_that_an_app_took_is_no_first_record(ledger: Ledger, starter: Path, make_request: Make) -> None:
    request = make_request(request_id="r-1")
    key = module.request_key(module.check_request(request).request)
    ledger.append("app.did", {}, key=key)
    with pytest.raises(module.RequestConflict, match="cannot be compared"):
        Gateway(ledger, starter).decide(request)


def test_a_conflict_over_any_other_key_is_no_answer(
    ledger: Ledger, starter: Path, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conflict(*args: Any, **options: Any) -> Any:
        raise KeyConflict("another", 1, "body")

    monkeypatch.setattr(Ledger, "record", conflict)
    check_abstained(Gateway(ledger, starter).decide(make_request()), "STORAGE_UNAVAILABLE", recorded=False)


# -- the policy --------------------------------------------------------------------------------


def test_no_policy_or_a_broken_one(
    ledger: Ledger, tmp_path: Path, make_policy: MakePolicy, make_request: Make
) -> None:
    path = tmp_path / "p.yaml"
    gateway = Gateway(ledger, path)
    check_abstained(gateway.decide(make_request(request_id="r")), "POLICY_UNAVAILABLE", recorded=True)
    path.write_text(make_policy(more="surprise: 1"))
    record = gateway.decide(make_request(request_id="r"))
    check_abstained(record, "POLICY_UNAVAILABLE", recorded=True)
    assert isinstance(record.cause, InvalidPolicy)
    assert (record.policy.policy_id, record.policy.policy_hash) == (None, None)
    assert gateway.record(record.decision_id).error == record.error
    path.write_text(make_policy(default="TRUST"))
    assert gateway.decide(
        make_request(request_id="r")
    ).trusted  # an abstention of the gateway's does not stick
    path.unlink()
    assert gateway.decide(make_request(request_id="r")).trusted  # the first record does
    check_abstained(gateway.decide(make_request()), "POLICY_UNAVAILABLE", recorded=True)


def test_an_advisory_policy_that_breaks_is_enforced(
    ledger: Ledger, make_policy: MakePolicy, make_request: Make
) -> None:
    text = make_policy(more="surprise: 1").replace("mode: enforce", "mode: advisory")
    with pytest.raises(NotTrusted, match="POLICY_UNAVAILABLE"):
        Gateway(ledger, text).guard(make_request())


@pytest.mark.parametrize("asked", [{"policy_id": "other"}, {"policy_id": "small", "policy_version": "2"}])
def test_a_request_for_another_policy(
    ledger: Ledger, make_policy: MakePolicy, make_request: Make, asked: dict[str, str]
) -> None:
    gateway = Gateway(ledger, make_policy(default="TRUST"))
    assert gateway.decide(make_request(policy={"policy_id": "small", "policy_version": "1"})).trusted
    check_abstained(gateway.decide(make_request(policy=asked)), "POLICY_UNAVAILABLE", recorded=True)


# -- memory and evaluation -----------------------------------------------------------------------


def test_memory_that_cannot_be_read(
    ledger: Ledger, starter: Path, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(Memory, "recall", broken)
    check_abstained(Gateway(ledger, starter).decide(make_request()), "MEMORY_UNAVAILABLE", recorded=True)


def test_memory_whose_body_was_altered(
    ledger: Ledger, starter: Path, make_request: Make, tmp_path: Path
) -> None:
    gateway = Gateway(ledger, starter)
    gateway.label(gateway.decide(make_request()).decision_id, "failure")
    seq = next(ledger.read(kinds=["memory.added"])).seq
    ledger.close()
    con = sqlite3.connect(tmp_path / "a.tally")
    triggers = [name for (name,) in con.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    for name in triggers:
        con.execute(f"DROP TRIGGER {name}")
    altered = "CAST(replace(CAST(body AS TEXT), ?, ?) AS BLOB)"
    con.execute(f"UPDATE events SET body = {altered} WHERE seq = ?", ("failure", "success", seq))
    con.commit()
    con.close()
    with Ledger.open(tmp_path / "a.tally") as again:
        record = Gateway(again, starter).decide(make_request())
        check_abstained(record, "MEMORY_UNAVAILABLE", recorded=True)
        assert "altered" in str(record.error)


def test_an_evaluation_that_fails(
    ledger: Ledger, starter: Path, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise RecursionError("broken")

    monkeypatch.setattr(module, "decide_purely", broken)
    check_abstained(Gateway(ledger, starter).decide(make_request()), "EVALUATION_FAILED", recorded=True)


# -- a crash -------------------------------------------------------------------------------------


def test_what_was_answered_before_a_kill_is_in_the_ledger(
    tmp_path: Path, starter: Path, make_request: Make
) -> None:
    """`kill -9` while deciding: every decision that was told is there, and the chain is whole."""
    code = textwrap.dedent(
        """
        import json, sys
        from tallystick import Ledger
        from tallystick.recorders.gateway.gateway import Gateway
        gateway = Gateway(Ledger.open(sys.argv[1]), sys.argv[3])
        while True:
            print(gateway.decide(json.loads(sys.argv[2])).decision_id, flush=True)
        """
    )
    path = tmp_path / "k.tally"
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(path), json.dumps(make_request()), str(starter)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    told = [worker.stdout.readline().strip() for _ in range(20)]
    os.kill(worker.pid, signal.SIGKILL)
    told += [line.strip() for line in worker.communicate()[0].splitlines() if len(line.strip()) == 30]
    with Ledger.open(path) as ledger:
        gateway = Gateway(ledger, starter)
        assert all(gateway.record(decision_id).trusted for decision_id in told)
        assert ledger.verify().verdict.name == "UNANCHORED"


def test_an_unrecorded_stop_names_no_id_that_no_ledger_has(tmp_path: Path, make_request: Any) -> None:
    with Ledger.open(tmp_path / "closed.tally") as ledger:
        gateway = Gateway(ledger, STARTER_POLICY)
    with pytest.raises(NotTrusted) as caught:
        gateway.guard(make_request())
    assert str(caught.value).endswith("; the decision is not recorded")
    assert "dec_" not in str(caught.value)
