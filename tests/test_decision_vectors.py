"""D4 to D8: decisions come out the same, byte for byte, on every machine and every Python.

`python tests/vectors/make_decisions.py --check` is the same comparison for an interpreter without pytest.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from tallystick import Head, replay_ledger
from tallystick.events import gateway as events
from tallystick.ledger import canonical
from tallystick.projections.memory import memory_of
from tallystick.recorders.gateway.decision import decide_purely, question_of, recall
from tallystick.recorders.gateway.policy import Policy
from tallystick.recorders.gateway.request import check_request
from tallystick.replay.report import Layer

MAKE = Path(__file__).parent / "vectors" / "make_decisions.py"
FILE = MAKE.with_name("decisions.jsonl")


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_decisions", MAKE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_file_is_what_is_decided_now(seed: str) -> None:
    """In fresh interpreters that hash texts differently: no order of a set or dict comes into it."""
    command = [sys.executable, str(MAKE), "--check"]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_request_in_the_file_is_decided_again_byte_for_byte(make: ModuleType) -> None:
    """From the file alone: its policies, its requests, its memory as of each decision."""
    with make.load(FILE.read_bytes()) as ledger:
        policies = {
            event.body["policy_hash"]: Policy.parse(event.body["text"])
            for event in ledger.read(kinds=[events.POLICY_REGISTERED])
        }
        compared = 0
        for event in ledger.read(kinds=[events.RECORDED]):
            body = msgspec.convert(event.body, events.DecisionRecorded)
            derived = body.derived
            if derived.features is None or "inline" in derived.request["context"] or derived.redacted:
                continue  # what redaction looked at is not all kept
            policy = policies[derived.policy.policy_hash]
            checked = check_request(derived.request)
            snapshot = derived.determinism.memory_snapshot
            assert snapshot is not None
            question = question_of(policy, checked.plain)
            head = Head(snapshot.seq, bytes.fromhex(snapshot.hash))
            found = recall(policy, question, checked.request.tenant_id, memory_of(ledger), head)
            again = decide_purely(policy, question, found, snapshot, redaction="default")
            assert canonical.encode(msgspec.to_builtins(again)) == canonical.encode(event.body["derived"])
            compared += 1
        assert compared == 26
        report = replay_ledger(ledger)
        assert report.diverged == 0
        assert report.layers[Layer.DECISION].match > 300


def test_what_was_worked_out_by_hand(make: ModuleType) -> None:
    """Verdict, reasons and similarity of some, as the contracts give them with paper and pencil."""
    with make.load(FILE.read_bytes()) as ledger:
        derived: list[Any] = [event.body["derived"] for event in ledger.read(kinds=[events.RECORDED])]
    found = [
        (
            number,
            derived[number]["verdict"],
            derived[number]["reason_codes"],
            derived[number]["risk_signals"]["failure_similarity"]["numerator"],
            derived[number]["risk_signals"]["failure_similarity"]["denominator"],
            derived[number]["risk_signals"]["uncertainty_score"],
        )
        for number in (0, 1, 2, 3, 5, 8, 9, 19, 20, 21, 24, 28)
    ]
    assert found == [
        (0, "TRUST", ["SMALL"], 0, 1, 0.2),
        (1, "QUERY", ["EVIDENCE_MISSING", "SMALL"], 0, 1, 0.4),
        (2, "ESCALATE", ["NO_RULE"], 0, 1, 0.2),  # 2000.5 is not over 2000.5
        (3, "ABSTAIN", ["FAR_TOO_MUCH"], 0, 1, 0.2),
        (5, "TRUST", ["SMALL", "EUROS"], 0, 1, 0.2),  # 45.5 EUR are 49.999… dollars
        (8, "ESCALATE", ["EXACT", "SMALL"], 0, 1, 0.2),  # 0.1 + 0.2 is the threshold, to the last bit
        (9, "TRUST", ["SMALL"], 0, 1, 0.2),  # 0.3 is not, and true is not 1
        # action 1, currency 1, bucket 2, tag 3, four parts of the order 4, risk 5
        (19, "ESCALATE", ["LIKE_A_FAILURE", "SMALL"], 16, 16, 0.5),
        # the bucket differs (2 each), and a tag more (3)
        (20, "ESCALATE", ["LIKE_A_FAILURE"], 14, 21, 0.5),
        (21, "TRUST", ["SMALL"], 0, 1, 0.2),  # another tenant
        (24, "ABSTAIN", ["EVIDENCE_MISSING", "LIKE_A_FAILURE", "TOO_UNSURE", "SMALL"], 16, 16, 0.7),
        # the failure like it became a success; the one left differs in risk (5 each)
        (28, "TRUST", ["SMALL"], 11, 21, 0.5),
    ]
