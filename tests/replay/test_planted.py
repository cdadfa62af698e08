"""Planted faults: each is found in its layer, at its event, and before anything that follows from it.

The ledger is rewritten with every later hash made anew (`tests/support/forging.py`), so that verification
alone finds nothing.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from faults import Fault, Forge, check_found, derived, diverged, put, replayed, text
from forging import Forger, edit_views

from tallystick import Kernel, Ledger
from tallystick.replay.report import Layer, Result

EXECUTED, PIPELINE = "kernel.executed", "pipeline.completed"
STARTED, CLOSED, ACTION, MESSAGE = "session.started", "session.closed", "action.recorded", "message.recorded"
DECISION, POLICY, MEMORY = "decision.recorded", "policy.registered", "memory.added"


def other_action_removed(forger: Forger, seq: int) -> None:
    """The session's first action goes: the numbers of the others no longer follow."""
    forger.replace(seq - 1, kind="order.placed", stream="order:1", body=b"{}", key=None)


def output_with_its_digest(forger: Forger, seq: int) -> None:
    forger.put(seq, 4, "derived", "output")
    forger.put(seq, f"blake3:{blake3(b'4').hexdigest()}", "derived", "output_digest")


def arguments_with_their_digest(forger: Forger, seq: int) -> None:
    forger.put(seq, {"cents": [7]}, "derived", "arguments")
    digest = blake3(b'{"cents":[7]}').hexdigest()
    forger.put(seq, f"blake3:{digest}", "derived", "arguments_digest")


def hidden_behind_a_placeholder(forger: Forger, seq: int) -> None:
    forger.put(seq, 99, "derived", "output")
    forger.put(seq, ["/output"], "derived", "placeholders")


def swapped_executions(forger: Forger, seq: int) -> None:
    forger.put(seq, list(reversed(forger.body(seq)["executions"])), "executions")


def executions_of_the_other_pipeline(forger: Forger, seq: int) -> None:
    forger.put(seq, forger.body(forger.seq_of(PIPELINE, 1))["executions"], "executions")


def not_an_execution(forger: Forger, seq: int) -> None:
    forger.put(seq, forger.seq_of(CLOSED), "executions", 0)


def raised_at_one_place(forger: Forger, seq: int) -> None:
    """The request's amount, with the digest of the request made to fit."""

    def change(body: Any) -> None:
        body["derived"]["request"]["action"]["amount"]["value"] = 3000
        form = json.dumps(body["derived"]["request"], sort_keys=True, separators=(",", ":")).encode()
        body["derived"]["request_digest"] = f"sha256:{hashlib.sha256(form).hexdigest()}"

    forger.change(seq, change)


FAULTS = [
    # sessions
    Fault("outcome_of_a_session", CLOSED, 0, "outcome", derived("complete", "outcome")),
    Fault("counts_of_a_session", CLOSED, 0, "actions", derived({"failed": 2}, "actions")),
    Fault("kernels_of_a_session", CLOSED, 0, "kernels", derived(["ckp://Kernel#X:v1.0"], "kernels")),
    Fault("outcome_that_is_none", CLOSED, 1, "outcome", derived("splendid", "outcome")),
    Fault("action_counted_otherwise", CLOSED, 0, "actions", derived({"verified": 2}, "actions")),
    Fault("start_of_another_session", STARTED, 0, "session_id", derived("nobody", "session_id")),
    Fault("digest_of_an_import", STARTED, 1, "session_id", derived("blake3:" + "0" * 64, "source", "digest")),
    Fault("action_renumbered", ACTION, 1, "seq", derived(7, "seq")),
    Fault("action_removed", ACTION, 1, "seq", other_action_removed),
    Fault("action_of_another_session", ACTION, 0, "session_id", derived("nobody", "session_id")),
    Fault("diff_summary", ACTION, 0, "diff_summary", derived("a: 1 -> 3", "diff_summary")),
    Fault("state_before", ACTION, 0, "diff_summary", derived({"a": 9}, "before_state")),
    Fault("state_after", ACTION, 0, "diff_summary", derived({"a": 1}, "after_state")),
    Fault("summary_without_states", ACTION, 1, "diff_summary", derived("x: 1 -> 2", "diff_summary")),
    Fault("outcome_of_an_action", ACTION, 0, "outcome", derived("fine", "outcome")),
    Fault("edge_of_an_action", ACTION, 1, "via_edge", derived("KNOWS", "via_edge")),
    Fault("attempt_of_an_action", ACTION, 1, "attempt", derived(0, "attempt")),
    Fault("message_renumbered", MESSAGE, 2, "index", derived(9, "index")),
    Fault("placeholder_astray", MESSAGE, 0, "placeholders", derived(["/content"], "placeholders")),
    Fault("message_of_another_session", MESSAGE, 1, "session_id", derived("nobody", "session_id")),
    # executions and pipelines
    Fault("output", EXECUTED, 0, "output_digest", derived(4, "output")),
    Fault("output_digest", EXECUTED, 0, "output_digest", derived("blake3:" + "0" * 64, "output_digest")),
    Fault("output_digest_removed", EXECUTED, 0, "output_digest", derived(None, "output_digest")),
    Fault("arguments", EXECUTED, 0, "arguments_digest", derived({"cents": [9]}, "arguments")),
    Fault("arguments_digest", EXECUTED, 0, "arguments_digest", derived("blake3:00", "arguments_digest")),
    Fault("core_digest", EXECUTED, 0, "core_digest", derived("0" * 64, "core_digest")),
    Fault("psi", EXECUTED, 2, "core_digest", derived("refund", "psi", "name")),
    Fault("psi_metadata", EXECUTED, 2, "core_digest", derived("USD", "psi", "metadata", "currency")),
    Fault("success", EXECUTED, 1, "core_digest", derived(True, "success")),
    Fault("failure_code", EXECUTED, 1, "core_digest", derived("OK", "failure_code")),
    Fault("failure_code_unknown", EXECUTED, 1, "core_digest", derived("SAD", "failure_code")),
    Fault("exception_type", EXECUTED, 1, "core_digest", derived("KeyError", "exception_type")),
    Fault("output_of_a_failure", EXECUTED, 1, "output_digest", derived(1, "output")),
    Fault("hidden_output", EXECUTED, 0, "placeholders", hidden_behind_a_placeholder),
    Fault("capture_denied", EXECUTED, 0, "capture", derived("digest", "capture")),
    Fault("output_of_a_tool_call", EXECUTED, 4, "output_digest", derived("lost", "output")),
    Fault("pipeline_succeeded", PIPELINE, 0, "success", derived(True, "success")),
    Fault("pipeline_failure_code", PIPELINE, 0, "executions/1", derived("KERNEL_ERROR", "failure_code")),
    Fault("pipeline_steps", PIPELINE, 1, "executed", derived(3, "steps")),
    Fault("pipeline_executed", PIPELINE, 1, "executed", derived(1, "executed")),
    Fault("pipeline_core_digest", PIPELINE, 1, "executions/0", derived("0" * 64, "core_digests", 0)),
    Fault("pipeline_order", PIPELINE, 1, "executions", swapped_executions),
    Fault("pipeline_of_other_executions", PIPELINE, 0, "executions", executions_of_the_other_pipeline),
    Fault("pipeline_of_no_execution", PIPELINE, 0, "executions/0", not_an_execution),
    Fault("pipeline_run_ids", PIPELINE, 1, "executions/0", put("run-77", "observed", "run_ids", 0)),
    # decisions and memory
    Fault("policy_text", POLICY, 0, "policy_hash", text(lambda t: t.replace("ABSTAIN", "TRUST"), "text")),
    Fault("policy_hash", POLICY, 0, "stream", put("sha256:" + "0" * 64, "policy_hash")),
    Fault("policy_version", POLICY, 0, "policy_version", put("99", "policy_version")),
    Fault("policy_broken", POLICY, 0, "text", put("rules: [", "text")),
    Fault(
        "request_amount", DECISION, 0, "request_digest", derived(9, "request", "action", "amount", "value")
    ),
    Fault("request_digest", DECISION, 0, "request_digest", derived("sha256:" + "0" * 64, "request_digest")),
    Fault("request_with_its_digest", DECISION, 0, "inputs_digest", raised_at_one_place),
    Fault("features", DECISION, 1, "inputs_digest", derived(1, "features", "amount_usd")),
    Fault("decision_id", DECISION, 0, "decision_id", put("dec_0", "observed", "decision_id")),
    Fault(
        "memory_snapshot",
        DECISION,
        1,
        "risk_signals",
        derived(2, "determinism", "memory_snapshot", "seq"),
        Layer.DECISION,
    ),
    Fault(
        "memory_of_the_future",
        DECISION,
        0,
        "memory_snapshot",
        derived(25, "determinism", "memory_snapshot", "seq"),
    ),
    Fault("policy_of_a_decision", DECISION, 0, "policy", derived("2", "policy", "policy_version")),
    Fault("no_such_policy", DECISION, 0, "policy", derived("sha256:" + "0" * 64, "policy", "policy_hash")),
    Fault("verdict", DECISION, 0, "verdict", derived("ABSTAIN", "verdict"), Layer.DECISION),
    Fault("verdict_of_the_second", DECISION, 1, "verdict", derived("QUERY", "verdict"), Layer.DECISION),
    Fault("reason_codes", DECISION, 0, "reason_codes", derived(["FINE"], "reason_codes"), Layer.DECISION),
    Fault("matched_rules", DECISION, 0, "matched_rules", derived([], "matched_rules"), Layer.DECISION),
    Fault("obligations", DECISION, 0, "obligations", derived([{"a": 1}], "obligations"), Layer.DECISION),
    Fault("mode", DECISION, 0, "policy", derived("advisory", "policy", "mode"), Layer.DECISION),
    Fault(
        "uncertainty",
        DECISION,
        1,
        "risk_signals",
        derived(0.2, "risk_signals", "uncertainty_score"),
        Layer.DECISION,
    ),
    Fault("memory_label", MEMORY, 0, "label", put("success", "label")),
    Fault("memory_tokens", MEMORY, 0, "tokens", put([], "tokens")),
    Fault("memory_of_another_tenant", MEMORY, 0, "stream", put("other", "tenant_id")),
    Fault("label_of_no_decision", "decision.labeled", 0, "decision_seq", put(2, "decision_seq")),
    Fault("note_on_another_decision", "decision.noted", 0, "decision_id", put("dec_0", "decision_id")),
    # seals
    Fault("seal", "projection.sealed", 0, "digest", put("blake3:" + "0" * 64, "digest"), Layer.VIEW),
    Fault("seal_of_later", "projection.sealed", 0, "seq", put(99, "seq")),
    # bodies that are none
    Fault("malformed", ACTION, 0, "body", put(7, "derived")),
    Fault("version_of_a_body", ACTION, 0, "body", put("one", "v")),
]


def test_nothing_is_wrong_before(filled: Path) -> None:
    report = replayed(filled)
    assert diverged(report) == []
    assert all(counts.match for counts in report.layers.values())


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_found_in_its_layer_at_its_event(filled: Path, fault: Fault) -> None:
    check_found(filled, fault)


def test_a_forger_who_forgets_what_decisions_say_of_hashes_is_found_there(filled: Path) -> None:
    """A decision holds the hash of an earlier event: anchors inside the log."""
    with Forger(filled, clever=False) as forger:
        forger.replace(2, at=1)
        decision = forger.seq_of(DECISION)
    report = replayed(filled, layers=["chain", "digest"])
    first = report.first
    assert first is not None
    assert (first.seq, first.layer, first.what) == (decision, Layer.DIGEST, "memory_snapshot")


def test_a_changed_row_whose_hashes_were_left_is_the_chains(filled: Path) -> None:
    with Forger(filled) as forger:
        seq = forger.seq_of("order.placed")
        forger._db.execute("UPDATE events SET body = ? WHERE seq = ?", (b'{"order":82}', seq))
        forger._db.execute("UPDATE events SET at = at + 1 WHERE seq = ?", (2,))
        forger._write = lambda: None  # type: ignore[method-assign]
    report = replayed(filled)
    found = [(entry.seq, entry.layer) for entry in diverged(report) if entry.layer is not Layer.VIEW]
    assert found == [(2, Layer.CHAIN), (seq, Layer.CHAIN)]
    assert report.layers[Layer.CHAIN].match == report.events - 2


def test_a_cut_tail_is_the_chains(filled: Path) -> None:
    with Forger(filled) as forger:
        last = len(forger.rows)
        forger._db.execute("DELETE FROM events WHERE seq = ?", (last,))
        forger._write = lambda: None  # type: ignore[method-assign]
    report = replayed(filled)
    found = [(entry.seq, entry.layer) for entry in diverged(report)]
    assert (last, Layer.CHAIN) in found
    assert {layer for _, layer in found} == {Layer.CHAIN, Layer.VIEW}  # the views know of the lost event


def test_an_erased_body_is_not_rederivable_and_said_so(filled: Path) -> None:
    with Ledger.open(filled) as ledger:
        seq = next(event.seq for event in ledger.read(kinds=[ACTION]))
        ledger.erase(seq, "asked to")
    report = replayed(filled)
    assert diverged(report) == []
    why = {(entry.seq, entry.what): entry.reason for entry in report.entries}
    assert why[seq, "body"] == "its body was erased"
    closed = next(entry for entry in report.entries if entry.what == "kernels")
    assert closed.result is Result.NOT_REDERIVABLE


def test_a_body_erased_without_a_record_is_the_chains(filled: Path) -> None:
    with Forger(filled) as forger:
        seq = forger.seq_of("order.placed")
        forger._db.execute("UPDATE events SET body = NULL, salt = NULL WHERE seq = ?", (seq,))
        forger._write = lambda: None  # type: ignore[method-assign]
    report = replayed(filled)
    assert [(entry.seq, entry.layer) for entry in diverged(report)] == [(seq, Layer.CHAIN)]


def test_an_erasure_of_another_event_is_found(filled: Path) -> None:
    with Ledger.open(filled) as ledger:
        seq = next(event.seq for event in ledger.read(kinds=["order.placed"]))
        ledger.erase(seq, "asked to")
    with Forger(filled) as forger:
        record = forger.seq_of("ledger.body_erased")
        forger.put(record, seq - 1, "seq")
    report = replayed(filled, layers=["digest"])
    assert [(entry.seq, entry.what) for entry in diverged(report)] == [
        (record, "body_hash"),
        (record, "erased"),
    ]


def test_an_expiry_that_names_other_events_is_found(filled: Path) -> None:
    with Ledger.open(filled) as ledger:
        from datetime import UTC, datetime, timedelta

        from tallystick import expire, expired_sessions

        now = datetime.now(UTC) + timedelta(days=9)
        for session in expired_sessions(ledger, now):
            expire(ledger, session, now)
    assert diverged(replayed(filled)) == []
    with Forger(filled) as forger:
        seq = forger.seq_of("session.expired")
        forger.put(seq, [1, 2], "erased")
    report = replayed(filled, layers=["digest"])
    assert [(entry.seq, entry.what) for entry in diverged(report)] == [(seq, "key"), (seq, "erased")]


# -- views -----------------------------------------------------------------------------------


VIEW_FAULTS = {
    "outcome_in_the_views": (
        "UPDATE sessions SET outcome = 'complete' WHERE outcome = 'partial'",
        "sessions[",
    ),
    "row_removed": ("DELETE FROM actions WHERE number = 1", "actions["),
    "row_added": ("INSERT INTO streams (stream, events) VALUES ('order:99', 1)", "streams[order:99]"),
    "other_type": ("UPDATE executions SET success = 'true' WHERE name = 'fail'", "executions["),
    "text_of_a_message": ("UPDATE messages SET text = 'all is well' WHERE position = 0", "messages["),
    "label_of_memory": ("UPDATE memory_items SET label = 'success'", "memory_items["),
    "verdict_in_the_views": ("UPDATE decisions SET verdict = 'TRUST', subject_id = 'x'", "decisions["),
    "table_dropped": ("DROP TABLE pipelines", "pipelines"),
    "history": ("UPDATE tally_projections SET hash = 'ab' WHERE name = 'streams'", "streams"),
    "further_than_the_log": ("UPDATE tally_projections SET seq = 999 WHERE name = 'streams'", "streams"),
    "key_of_another_type": ("UPDATE streams SET stream = x'00' WHERE stream = 'order:81'", "streams["),
    "states_unreadable": ("UPDATE tally_projections SET tables = '{'", "views"),
}


@pytest.mark.parametrize(("sql", "what"), VIEW_FAULTS.values(), ids=list(VIEW_FAULTS))
def test_an_altered_view_is_found_in_its_row(filled: Path, sql: str, what: str) -> None:
    edit_views(filled, sql)
    report = replayed(filled)
    found = diverged(report)
    assert found
    assert all(entry.layer is Layer.VIEW for entry in found)
    assert any(entry.what.startswith(what) for entry in found)


INDEX_FAULTS = {
    "word_hidden": (
        "INSERT INTO messages_fts (messages_fts, rowid, text)"
        " SELECT 'delete', rowid, text FROM messages WHERE position = 0",
        "its full text index does not say what its rows say",
    ),
    "emptied": (
        "INSERT INTO messages_fts (messages_fts) VALUES ('delete-all')",
        "its full text index does not say what its rows say",
    ),
    "damaged": (
        "UPDATE messages_fts_data SET block = x'00'",
        "its full text index does not say what its rows say",
    ),
    "lengths": (
        "UPDATE messages_fts_docsize SET sz = x'07'",
        "its full text index does not say what its rows say",
    ),
    "dropped": ("DROP TABLE messages_fts", "its full text index is missing"),
}


@pytest.mark.parametrize(("sql", "reason"), INDEX_FAULTS.values(), ids=list(INDEX_FAULTS))
def test_an_altered_full_text_index_is_found(filled: Path, sql: str, reason: str) -> None:
    """It would hide rows from a search, though every row is as it should be."""
    before = Path(f"{filled}.views").stat().st_ino
    edit_views(filled, sql)
    altered = Path(f"{filled}.views").read_bytes()
    report = replayed(filled)
    assert [(entry.layer, entry.what, entry.reason) for entry in diverged(report)] == [
        (Layer.VIEW, "messages_fts", reason)
    ]
    assert (Path(f"{filled}.views").stat().st_ino, Path(f"{filled}.views").read_bytes()) == (before, altered)


def test_an_index_over_another_table_is_found(filled: Path) -> None:
    with closing(sqlite3.connect(f"{filled}.views")) as db:
        db.execute("DROP TABLE messages_fts")
        db.execute('CREATE VIRTUAL TABLE messages_fts USING FTS5 ("text", content="actions")')
    assert [(entry.what, entry.reason) for entry in diverged(replayed(filled))] == [
        ("messages_fts", "its full text index is defined otherwise")
    ]


def test_a_row_of_the_views_is_named_with_its_event(filled: Path) -> None:
    edit_views(filled, "UPDATE actions SET outcome = 'verified' WHERE number = 2")
    report = replayed(filled)
    [entry] = diverged(report)
    with Ledger.open(filled, read_only=True) as ledger:
        seq = [event.seq for event in ledger.read(kinds=[ACTION])][1]
    assert (entry.seq, entry.what) == (seq, f"actions[{seq}]")
    [difference] = entry.differences
    assert (difference.path, difference.expected, difference.actual) == ("/outcome", "failed", "verified")


def test_a_seal_no_longer_holds_when_an_event_was_forged(filled: Path) -> None:
    """An app's own event has no digest of its own to betray it, but its stream was sealed."""
    with Forger(filled) as forger:
        seq = forger.seq_of("order.placed")
        forger.replace(seq, stream="order:82")
    found = diverged(replayed(filled))
    assert {entry.what for entry in found} == {
        "digest",
        *"decisions executions memory sessions streams".split(),
    }
    assert {entry.layer for entry in found} == {Layer.VIEW}


# -- tasks -----------------------------------------------------------------------------------


def test_tasks_that_give_the_same_again_match(filled: Path, tasks: Kernel) -> None:
    report = replayed(filled, tasks=tasks)
    counts = report.layers[Layer.EXECUTION]
    assert counts.diverged == 0
    assert counts.match == 7  # success of four, output of three
    assert counts.not_rederivable == 1  # the tool call of a transcript


@pytest.mark.parametrize(
    ("forge", "nth", "what"),
    [
        (output_with_its_digest, 0, "output"),
        (arguments_with_their_digest, 0, "output"),
    ],
    ids=["output", "arguments"],
)
def test_a_forged_execution_comes_out_otherwise(
    filled: Path, tasks: Kernel, forge: Forge, nth: int, what: str
) -> None:
    """The body agrees with itself; only running the task shows it."""
    with Forger(filled) as forger:
        seq = forger.seq_of(EXECUTED, nth)
        forge(forger, seq)
    report = replayed(filled, tasks=tasks, layers=["digest", "execution"])
    assert [(entry.seq, entry.layer, entry.what) for entry in diverged(report)] == [
        (seq, Layer.EXECUTION, what)
    ]


def test_a_task_that_is_not_deterministic_diverges(filled: Path) -> None:
    from tallystick import PsiDefinition

    outputs = iter(range(100))
    kernel = Kernel()
    kernel.register(PsiDefinition("orders", "total"), lambda cents: next(outputs), replayable=True)
    report = replayed(filled, tasks=kernel, layers=["execution"])
    assert {entry.what for entry in diverged(report)} == {"output"}
    assert report.first is not None and report.first.differences[0].actual == 3


def test_a_task_that_fails_now_diverges(filled: Path) -> None:
    from tallystick import PsiDefinition

    def total(cents: list[int]) -> int:
        raise KeyError("cents")

    kernel = Kernel()
    kernel.register(PsiDefinition("orders", "total"), total, replayable=True)
    report = replayed(filled, tasks=kernel, layers=["execution"])
    first = report.first
    assert first is not None
    assert {difference.path for difference in first.differences} == {
        "/success",
        "/failure_code",
        "/exception_type",
    }
