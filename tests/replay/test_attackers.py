"""What somebody would try who owns the file and makes every hash anew, and that replay finds.

The first part are the faults that replay was built to find, by their names; then the ones that somebody who
has read how it finds those would try next. `test_unknowable.py` has what no replay can find.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faults import Fault, check_found, column, derived, diverged, put, replayed, text
from forging import Forger, edit_views

from tallystick import Ledger
from tallystick.recorders.gateway import decision as deciding
from tallystick.recorders.gateway.evaluate import evaluate
from tallystick.recorders.gateway.policy import Policy
from tallystick.replay.report import Layer, Result

EXECUTED, PIPELINE = "kernel.executed", "pipeline.completed"
STARTED, CLOSED, ACTION, MESSAGE = "session.started", "session.closed", "action.recorded", "message.recorded"
DECISION, POLICY, MEMORY, LABELED = (
    *("decision.recorded", "policy.registered", "memory.added"),
    "decision.labeled",
)
ZEROS = "sha256:" + "0" * 64


def digest(value: Any) -> str:
    """The digest of JSON without odd numbers, as the gateway's are."""
    form = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return f"sha256:{hashlib.sha256(form).hexdigest()}"


def change_decision(change: Any) -> Any:
    """Change the derived half of a decision, and make its two digests of the request follow."""

    def forge(forger: Forger, seq: int) -> None:
        def edit(body: Any) -> None:
            half = body["derived"]
            change(half)
            half["request_digest"] = digest(half["request"])
            if half["features"] is not None:
                inputs = {"request": half["request"], "derived": half["features"]}
                half["determinism"]["inputs_digest"] = digest(inputs)

        forger.change(seq, edit)

    return forge


def abstain(half: Any) -> None:
    """As if the gateway could not have decided, but with the verdict that is wanted."""
    half.update(features=None, verdict="TRUST", matched_rules=[], obligations=[])
    half["determinism"].update(inputs_digest=None, memory_snapshot=None)


def column_of(name: str, change: Any) -> Any:
    """A column from what it holds."""
    return lambda forger, seq: forger.replace(seq, **{name: change(getattr(forger.rows[seq - 1], name))})


def copied(to: str, nth: int = 0) -> Any:
    """What an event of the same kind says, again in this place."""

    def forge(forger: Forger, seq: int) -> None:
        other = forger.rows[forger.seq_of(to, nth) - 1]
        forger.replace(seq, kind=other.kind, stream=other.stream, body=other.body, salt=other.salt, key=None)

    return forge


def bytes_of(old: bytes, new: bytes) -> Any:
    """Other bytes in a body."""

    def forge(forger: Forger, seq: int) -> None:
        body = forger.rows[seq - 1].body or b""
        assert old in body
        forger.replace(seq, body=body.replace(old, new, 1))

    return forge


# -- the faults that replay was built to find ---------------------------------------------------


NAMED = [
    Fault(
        "a_verdict_flipped_with_all_hashes_recomputed",
        DECISION,
        1,
        "verdict",
        derived("TRUST", "verdict"),
        Layer.DECISION,
    ),
    Fault(
        "a_reason_removed",
        DECISION,
        1,
        "reason_codes",
        lambda forger, seq: forger.put(
            seq, forger.body(seq)["derived"]["reason_codes"][1:], "derived", "reason_codes"
        ),
        Layer.DECISION,
    ),
    Fault(
        "a_policy_text_swapped_under_the_same_hash",
        POLICY,
        0,
        "policy_hash",
        text(lambda old: old.replace("ESCALATE", "TRUST"), "text"),
    ),
    Fault(
        "an_inputs_digest_altered",
        DECISION,
        0,
        "inputs_digest",
        derived(ZEROS, "determinism", "inputs_digest"),
    ),
    Fault("a_kernel_output_altered", EXECUTED, 0, "output_digest", derived(4, "output")),
    Fault("a_trace_digest_altered", EXECUTED, 0, "core_digest", derived("0" * 64, "core_digest")),
]


@pytest.mark.parametrize("fault", NAMED, ids=lambda fault: fault.name)
def test_a_named_fault_is_found(filled: Path, fault: Fault) -> None:
    check_found(filled, fault)


def test_a_memory_item_inserted_after_the_fact_with_an_earlier_time(filled: Path) -> None:
    """D8: memory is learned from a label, which stands right before it."""
    with Forger(filled) as forger:
        seq = forger.seq_of("order.placed")
        item = forger.rows[forger.seq_of(MEMORY) - 1]
        forger.replace(seq, kind=MEMORY, stream=item.stream, body=item.body, salt=item.salt, at=item.at - 1)
    first = replayed(filled).first
    assert first is not None
    assert (first.seq, first.layer, first.what) == (seq, Layer.DIGEST, "label")
    assert first.reason == "what stands before it is no label of the decision"


def test_a_memory_item_inserted_before_a_decision_changes_it(filled: Path) -> None:
    """A whole label, before the second decision, in place of what stood there."""
    with Forger(filled) as forger:
        forger.insert(23, MEMORY, forger.rows[21].stream, {**forger.body(22), "summary": "made up"})
        forger.insert(23, LABELED, forger.rows[20].stream, {**forger.body(21), "summary": "made up"})
        decision = forger.seq_of(DECISION, 1)
        forger.change(
            decision, lambda body: body["derived"]["determinism"]["memory_snapshot"].update(seq=decision - 1)
        )
    found = [(entry.seq, entry.what) for entry in diverged(replayed(filled, layers=["decision"]))]
    assert found == [(decision, "risk_signals")]


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("DELETE FROM memory_items", "memory_items["),
        ("DELETE FROM decision_events WHERE type = 'label'", "decision_events["),
        ("UPDATE sessions SET outcome = 'complete' WHERE outcome = 'partial'", "sessions["),
    ],
    ids=["a_label_removed_from_memory", "a_label_removed", "the_outcome_of_a_session_changed"],
)
def test_a_fault_in_the_views_is_found(filled: Path, sql: str, what: str) -> None:
    assert edit_views(filled, sql) == 1
    found = diverged(replayed(filled))
    assert {entry.layer for entry in found} == {Layer.VIEW}
    assert found[0].what.startswith(what)


def test_an_engine_whose_rule_order_was_changed_is_found(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is sound: it is the program that decides otherwise now."""

    def backwards(policy: Policy, *arguments: Any) -> Any:
        outcome = evaluate(policy, *arguments)
        return outcome._replace(
            reason_codes=outcome.reason_codes[::-1], matched_rules=outcome.matched_rules[::-1]
        )

    monkeypatch.setattr(deciding, "evaluate", backwards)
    report = replayed(filled)
    found = [(entry.seq, entry.layer, entry.what) for entry in diverged(report)]
    assert found == [(23, Layer.DECISION, "reason_codes"), (23, Layer.DECISION, "matched_rules")]


_TASKS = """\
import random, time
from tallystick import Kernel, PsiDefinition

kernel = Kernel()

def clock(): return time.time()
def chance(): return random.random()
def order(words): return list(set(words))
def steady(words): return sorted(set(words))

for task in (clock, chance, order, steady):
    kernel.register(PsiDefinition("t", task.__name__), task, replayable=True)
"""
_RECORD = """\
from tallystick import Kernel, Ledger, PsiDefinition
import unsteady
with Ledger.open("a.tally") as ledger:
    kernel = Kernel(ledger=ledger)
    words = [f"word {n}" for n in range(50)]
    for task in (unsteady.clock, unsteady.chance):
        kernel.execute(psi=PsiDefinition("t", task.__name__), task=task)
    for task in (unsteady.order, unsteady.steady):
        kernel.execute(psi=PsiDefinition("t", task.__name__), task=task, words=words)
"""


def test_a_task_that_is_not_deterministic_is_found(tmp_path: Path) -> None:
    """Time, chance and the order of a set differ in another process; what is sorted does not."""
    (tmp_path / "unsteady.py").write_text(_TASKS)
    (tmp_path / "record.py").write_text(_RECORD)
    replay = [sys.executable, "-m", "tallystick", "-f", "a.tally", "replay", "--json"]
    for number, command in enumerate(
        ([sys.executable, "record.py"], [*replay, "--tasks", "unsteady:kernel"])
    ):
        environment = {**os.environ, "PYTHONHASHSEED": str(number + 1)}
        done = subprocess.run(
            command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == number, done.stderr
    report = json.loads(done.stdout)
    found = [
        (entry["seq"], entry["layer"], entry["what"])
        for entry in report["entries"]
        if entry["result"] == "diverged"
    ]
    assert found == [(seq, "execution", "output") for seq in (2, 3, 4)]


def test_a_body_that_was_erased_is_not_rederivable_and_said_so(filled: Path) -> None:
    with Ledger.open(filled) as ledger:
        ledger.erase(23, "asked to")
    report = replayed(filled)
    assert diverged(report) == []
    assert {(entry.layer, entry.reason) for entry in report.entries if entry.seq == 23} == {
        (Layer.DIGEST, "its body was erased"),
        (Layer.DECISION, "its body was erased"),
    }


# -- what an attacker would try next ------------------------------------------------------------


FAULTS = [
    # order and place
    Fault("actions_swapped", ACTION, 0, "seq", lambda forger, seq: swap(forger, seq, seq + 1)),
    Fault("messages_swapped", MESSAGE, 1, "index", lambda forger, seq: swap(forger, seq, seq + 1)),
    Fault("action_moved_to_another_session", ACTION, 0, "session_id", column(stream="session:b82wh6")),
    Fault(
        "stream_without_its_area",
        STARTED,
        0,
        "session_id",
        column_of("stream", lambda old: old.partition(":")[2]),
    ),
    Fault("execution_moved_out_of_its_pipeline", PIPELINE, 0, "executions/0", column(stream="elsewhere")),
    Fault("decision_on_a_foreign_stream", DECISION, 1, "decision_id", column(stream="decision:dec_0")),
    Fault("decision_recorded_twice", "order.placed", 0, "place", copied(DECISION)),
    Fault("note_on_a_foreign_stream", "decision.noted", 0, "decision_id", column(stream="order:81")),
    Fault("policy_registered_twice", "order.placed", 0, "place", copied(POLICY)),
    Fault("session_started_twice", "order.placed", 0, "place", copied(STARTED)),
    Fault("session_closed_twice", "order.placed", 0, "place", copied(CLOSED)),
    Fault("action_behind_the_end", "order.placed", 0, "place", copied(ACTION)),
    Fault("ledger_created_twice", "order.placed", 0, "place", copied("ledger.created")),
    Fault(
        "execution_in_two_pipelines",
        PIPELINE,
        1,
        "executions/0",
        lambda forger, seq: forger.put(seq, [7, 8], "executions"),
    ),
    # keys
    Fault("key_of_an_action", ACTION, 1, "key", column(key=None)),
    Fault("key_of_another_number", ACTION, 1, "key", column_of("key", lambda old: old[:-1] + "9")),
    Fault("key_of_a_policy", POLICY, 0, "key", column(key="policy:mine")),
    Fault("key_of_no_request", DECISION, 0, "key", column(key="decision:mine")),
    Fault(
        "request_id_without_its_key",
        DECISION,
        0,
        "key",
        change_decision(lambda half: half["request"].update(request_id="r-1")),
    ),
    # times and ids
    Fault(
        "decision_backdated",
        DECISION,
        1,
        "created_at",
        put("2020-01-01T00:00:00.000000Z", "observed", "created_at"),
    ),
    Fault("event_backdated", DECISION, 1, "created_at", column(at=1_577_836_800_000_000)),
    Fault(
        "ulid_of_another_time",
        DECISION,
        1,
        "created_at",
        lambda forger, seq: rename(forger, seq, "dec_01AAAAAAAA0000000000000000"),
    ),
    Fault(
        "action_backdated", ACTION, 0, "urn", put("2020-01-01T00:00:00.000000Z", "observed", "recorded_at")
    ),
    Fault("urn_of_a_session", STARTED, 0, "urn", put("ckp://Session#other", "observed", "urn")),
    # decisions
    Fault(
        "a_decision_as_if_it_could_not_be_made",
        DECISION,
        1,
        "reason_codes",
        change_decision(abstain),
        Layer.DECISION,
    ),
    Fault(
        "a_decision_without_a_snapshot",
        DECISION,
        1,
        "memory_snapshot",
        derived(None, "determinism", "memory_snapshot"),
        Layer.DECISION,
    ),
    Fault("a_decision_without_a_policy", DECISION, 1, "policy", derived(None, "policy", "policy_hash")),
    Fault(
        "an_error_beside_a_verdict",
        DECISION,
        1,
        "error",
        put({"type": "OSError", "message": "full"}, "observed", "error"),
    ),
    Fault(
        "features_with_their_digest",
        DECISION,
        1,
        "features",
        change_decision(lambda half: half["features"].update(amount_usd=1)),
        Layer.DECISION,
    ),
    Fault(
        "request_with_its_digests",
        DECISION,
        1,
        "reason_codes",
        change_decision(lambda half: half["request"]["action"].update(type="support.other")),
        Layer.DECISION,
    ),
    Fault(
        "amount_with_its_digests",
        DECISION,
        0,
        "features",
        change_decision(lambda half: half["request"]["action"]["amount"].update(value=3000)),
        Layer.DECISION,
    ),
    Fault(
        "similarity_made_small",
        DECISION,
        1,
        "features",
        change_decision(
            lambda half: half["features"].update(failure_similarity={"numerator": 0, "denominator": 1})
        ),
        Layer.DECISION,
    ),
    Fault(
        "a_match_forgotten",
        DECISION,
        1,
        "risk_signals",
        derived([], "risk_signals", "failure_similarity", "top_k"),
        Layer.DECISION,
    ),
    Fault(
        "a_score_rounded",
        DECISION,
        1,
        "risk_signals",
        derived(0.99, "risk_signals", "failure_similarity", "score"),
        Layer.DECISION,
    ),
    Fault("an_obligation_removed", DECISION, 1, "obligations", derived([], "obligations"), Layer.DECISION),
    Fault(
        "a_question_added",
        DECISION,
        1,
        "queries",
        derived([{"field": "evidence.x", "question": "?"}], "queries"),
        Layer.DECISION,
    ),
    Fault("not_enforced", DECISION, 1, "policy", derived("advisory", "policy", "mode"), Layer.DECISION),
    Fault("another_policy_version", DECISION, 1, "policy", derived("2", "policy", "policy_version")),
    Fault(
        "evaluation_order",
        DECISION,
        1,
        "determinism",
        derived(["DEFAULT"], "determinism", "evaluation_order"),
        Layer.DECISION,
    ),
    Fault("redaction_pointers_made_up", DECISION, 1, "redacted", derived(["/action/amount"], "redacted")),
    # memory and labels
    Fault("label_that_is_none", LABELED, 0, "label", put("splendid", "label")),
    Fault(
        "label_without_what_was_learned",
        LABELED,
        0,
        "memory.added",
        lambda forger, seq: forger.replace(seq + 1, kind="order.placed", stream="order:1", body=b"{}"),
    ),
    Fault(
        "label_for_another_tenant",
        MEMORY,
        0,
        "tokens",
        lambda forger, seq: (
            forger.put(seq, "globex", "tenant_id"),
            forger.replace(seq, stream="memory:support.refund:globex"),
        )[0],
    ),
    Fault("memory_that_says_otherwise_than_its_label", MEMORY, 0, "label", put("success", "label")),
    Fault(
        "memory_tokens_added",
        MEMORY,
        0,
        "tokens",
        lambda forger, seq: forger.put(seq, [*forger.body(seq)["tokens"], "z=1"], "tokens"),
    ),
    Fault(
        "memory_without_its_label",
        MEMORY,
        0,
        "label",
        lambda forger, seq: forger.replace(seq - 1, kind="order.placed", stream="order:1", body=b"{}"),
    ),
    # executions and sessions
    Fault(
        "a_name_hidden_behind_a_pointer",
        EXECUTED,
        0,
        "placeholders",
        lambda forger, seq: (
            forger.put(seq, "refund", "derived", "psi", "name"),
            forger.put(seq, ["/psi/name"], "derived", "placeholders"),
        )[0],
    ),
    Fault(
        "a_tool_answer_rewritten",
        EXECUTED,
        4,
        "output",
        lambda forger, seq: forger.put(seq - 1, "delivered", "derived", "content"),
    ),
    Fault(
        "a_session_ended_by_an_error_and_complete",
        CLOSED,
        0,
        "outcome",
        lambda forger, seq: (
            forger.put(seq, "KeyError", "observed", "error_type"),
            forger.put(seq, True, "derived", "given"),
        )[0],
    ),
    Fault("a_kernel_that_is_no_urn", ACTION, 0, "kernel", derived("the boss", "kernel")),
    Fault("retention_of_less_than_nothing", STARTED, 0, "retention_hours", derived(-1, "retention_hours")),
    # the form of a body
    Fault("a_field_that_nothing_reads", DECISION, 0, "body", derived("the CEO", "approved_by")),
    Fault("a_field_deeper_down", PIPELINE, 0, "body", put("yes", "observed", "approved")),
    Fault(
        "a_name_that_stands_twice",
        CLOSED,
        0,
        "body",
        bytes_of(b'"outcome":"partial"', b'"outcome":"complete","outcome":"partial"'),
    ),
    Fault("white_space_in_a_body", "order.placed", 0, "body", column(body=b'{"order": 81}')),
    Fault("a_name_twice_in_an_app_s_body", "order.placed", 0, "body", column(body=b'{"order":1,"order":81}')),
    Fault("a_meta_that_is_none", "order.placed", 0, "meta", column(meta=b'{ "actor":"x"}')),
]


def swap(forger: Forger, one: int, other: int) -> None:
    """Two events in each other's place."""
    rows = forger.rows
    rows[one - 1], rows[other - 1] = rows[other - 1], rows[one - 1]


def rename(forger: Forger, seq: int, decision_id: str) -> None:
    """Give a decision another id, in all that names it in its own event."""
    forger.put(seq, decision_id, "observed", "decision_id")
    forger.replace(seq, stream=f"decision:{decision_id}")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_an_attack_is_found(filled: Path, fault: Fault) -> None:
    with Forger(filled) as forger:
        seq = forger.seq_of(fault.kind, fault.nth)
        fault.forge(forger, seq)
        if fault.name == "execution_moved_out_of_its_pipeline":
            forger.replace(seq, stream="kernel")
            forger.replace(seq - 2, stream="elsewhere")
    report = replayed(filled)
    assert report.layers[Layer.CHAIN].diverged == 0, "the forger made every hash follow"
    assert (seq, fault.layer, fault.what) in {(e.seq, e.layer, e.what) for e in diverged(report)}


def test_a_request_id_that_was_used_twice_is_found(filled: Path) -> None:
    """D2: the same request id again gives the first record, so that there is only one."""
    with Forger(filled) as forger:
        forger._db.execute("DROP INDEX events_by_key")
        for nth in (0, 1):
            seq = forger.seq_of(DECISION, nth)
            change_decision(lambda half: half["request"].update(request_id="r-1"))(forger, seq)
            name = json.dumps(["acme", "r-1"], separators=(",", ":")).encode()
            forger.replace(seq, key=f"decision:{hashlib.sha256(name).hexdigest()}")
    found = {(entry.seq, entry.what) for entry in diverged(replayed(filled, layers=["digest"]))}
    assert found == {(23, "key")}


def test_an_erasure_is_no_cover_for_a_verdict(filled: Path) -> None:
    """Memory that was erased explains other risks, but no verdict that does not follow from those."""
    with Ledger.open(filled) as ledger:
        ledger.erase(22, "forget it")
    with Forger(filled) as forger:
        seq = forger.seq_of(DECISION, 1)
        forger.put(seq, "TRUST", "derived", "verdict")
    report = replayed(filled, layers=["decision"])
    assert [(entry.seq, entry.what) for entry in diverged(report)] == [(seq, "verdict")]
    assert {entry.reason for entry in report.entries if entry.result is Result.NOT_REDERIVABLE} == {
        "something that it was decided with was erased from memory since"
    }


def test_a_kind_of_a_built_in_area_that_nobody_knows_is_said_so(filled: Path) -> None:
    with Forger(filled) as forger:
        seq = forger.seq_of("order.placed")
        forger.replace(seq, kind="decision.approved")
    report = replayed(filled, layers=["digest"])
    assert diverged(report) == []
    assert [(entry.seq, entry.reason) for entry in report.entries if entry.seq == seq] == [
        (seq, "it is of a built-in kind that this program does not know")
    ]
