"""Checks that nothing else makes good: each test fails if that one check is left out or a little off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attacker import tamper
from faults import diverged, replayed
from forging import Forger
from requests_to_decide import refund

from tallystick import (
    CAEL,
    Durability,
    Gateway,
    Kernel,
    Ledger,
    PsiDefinition,
    Session,
    backtest,
    expire,
    expired_sessions,
    replay_ledger,
)
from tallystick.ledger.event import Event, Head, Row
from tallystick.recorders.gateway.digests import context_digest
from tallystick.recorders.gateway.policy import STARTER_POLICY, Policy
from tallystick.replay.backtest.policy_reads import Reads, overlap
from tallystick.replay.layers.chain import BREAKS_MAX
from tallystick.replay.layers.checks import Past
from tallystick.replay.report import Layer, Notes

POLICY = STARTER_POLICY.read_text("utf-8")
REQUEST = refund()
REQUIRING = """
schema_version: policy.v0
policy_id: requiring
policy_version: "1"
defaults: {mode: enforce, default_verdict: TRUST, default_reason_code: NO_RULE}
required_evidence: {shop.refund: [ticket]}
rules:
  - {id: evidence, stage: REQUIREMENTS, then: {verdict: QUERY, reason_codes: [MISSING]}}
"""
TOTAL = PsiDefinition("orders", "total")


def total(cents: list[int]) -> int:
    return sum(cents)


def found(path: Path, **options: Any) -> list[tuple[int, str]]:
    """What diverged: seq and field."""
    return [(entry.seq, entry.what) for entry in diverged(replayed(path, **options))]


def opened(path: Path) -> Ledger:
    return Ledger.open(path, durability=Durability.PROCESS)


# -- executions and pipelines (K7, K8) ---------------------------------------------------------


def test_two_pipelines_that_name_the_same_execution(tmp_path: Path) -> None:
    """All that the second says of it agrees; that the first names it, too, is all that shows."""
    path = tmp_path / "a.tally"
    with opened(path) as ledger:
        kernel = Kernel(ledger=ledger)
        for _ in range(2):
            CAEL(kernel).run([(TOTAL, total, {"cents": [1]})])
    with Forger(path) as forger:
        first, second = (forger.seq_of("pipeline.completed", nth) for nth in (0, 1))
        other = forger.body(first)
        forger.put(second, other["executions"], "executions")
        forger.put(second, other["observed"]["run_ids"], "observed", "run_ids")
    [entry] = diverged(replayed(path, layers=["digest"]))
    assert (entry.seq, entry.what) == (second, "executions/0")
    assert entry.reason == f"another pipeline names event {other['executions'][0]}, too"


def test_a_placeholder_under_a_name_that_a_pointer_has_to_escape(tmp_path: Path) -> None:
    """RFC 6901, section 4: `~01` is `~1`, and no slash."""
    path = tmp_path / "a.tally"
    with opened(path) as ledger:
        for name in ("~1", "/", "~0", "a~1/b"):
            Kernel(ledger=ledger).execute(psi=TOTAL, task=dict, **{name: object()})
    assert found(path, layers=["digest"]) == []


def test_the_message_that_an_imported_call_says_it_is_answered_in(filled: Path) -> None:
    with Forger(filled) as forger:
        seq = forger.seq_of("kernel.executed", -1)
        answered_in = forger.body(seq)["observed"]["metadata"]["answered_in"]
        forger.put(seq, answered_in + 1, "observed", "metadata", "answered_in")
    assert found(filled, layers=["digest"]) == [(seq, "answered_in")]


# -- sessions (S2, S7) -------------------------------------------------------------------------


def test_an_action_that_was_removed_is_told_once(tmp_path: Path) -> None:
    """What stands behind the gap goes on from the number that its key says."""
    path = tmp_path / "a.tally"
    with opened(path) as ledger, Session.start(ledger, "Four", "Desk") as session:
        for _ in range(4):
            session.record_action("look", "verified")
    with Forger(path) as forger:
        removed = forger.seq_of("action.recorded", 1)
        forger.delete(removed)
    keys = [seq for seq, what in found(path, layers=["digest"]) if what == "key"]
    assert keys == [removed]


def test_an_expiry_that_begins_where_the_one_before_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.tally"
    now = datetime.now(UTC) + timedelta(days=9)
    with opened(path) as ledger:
        with Session.start(ledger, "Short", "Desk") as session:
            session.record_action("look", "verified")
        for each in expired_sessions(ledger, now):
            expire(ledger, each, now)
    with Forger(path) as forger:
        seq = forger.seq_of("session.expired")
        again = {**forger.body(seq), "erased": forger.body(seq)["erased"][-1:]}
        stream = forger.rows[seq - 1].stream
        forger.insert(seq + 1, "session.expired", stream, again)
        forger.replace(seq + 1, key=f"{stream}:expired:{again['erased'][0]}")
    [entry] = diverged(replayed(path, layers=["digest"]))
    assert (entry.seq, entry.what) == (seq + 1, "erased")
    assert "stands before what an earlier record names" in str(entry.reason)


# -- decisions (D4, D8, D9, D12) ---------------------------------------------------------------


def test_a_policy_that_was_registered_after_the_decision(tmp_path: Path) -> None:
    path = tmp_path / "a.tally"
    with opened(path) as ledger:
        Gateway(ledger, POLICY).decide(REQUEST)
        Gateway(ledger, POLICY.replace("policy_id: ", "policy_id: later-")).decide(REQUEST)
    with Forger(path) as forger:
        first, second = (forger.seq_of("decision.recorded", nth) for nth in (0, 1))
        forger.put(first, forger.body(second)["derived"]["policy"], "derived", "policy")
    [entry] = diverged(replayed(path, layers=["digest"]))
    assert (entry.seq, entry.what) == (first, "policy")
    assert entry.reason == "no policy with this hash was registered before"


def test_something_sensitive_that_was_put_back_into_a_redacted_request(tmp_path: Path) -> None:
    path = tmp_path / "a.tally"
    context: dict[str, Any] = {"mode": "inline", "inline": {"password": "p", "note": "n"}}
    context["digest"] = str(context_digest(context))
    with opened(path) as ledger:
        Gateway(ledger, POLICY).decide(refund(context=context))
    assert found(path, layers=["digest"]) == []
    with Forger(path) as forger:
        seq = forger.seq_of("decision.recorded")
        forger.put(seq, "who@example.org", "derived", "request", "context", "inline", "email")
    assert found(path, layers=["digest"]) == [(seq, "redacted")]


def test_a_memory_item_behind_the_like_label_of_another_decision(tmp_path: Path) -> None:
    """Two decisions labelled alike: what was learned from each has to stand behind its own label."""
    path = tmp_path / "a.tally"
    with opened(path) as ledger:
        gateway = Gateway(ledger, POLICY)
        ids = [gateway.decide(REQUEST).decision_id for _ in range(2)]
        for decision_id in ids:
            gateway.label(decision_id, "failure", "sent twice")
    with Forger(path) as forger:
        items = [forger.seq_of("memory.added", nth) for nth in (0, 1)]
        bodies = [forger.rows[seq - 1].body for seq in items]
        for seq, body in zip(items, reversed(bodies), strict=True):
            forger.replace(seq, body=body)
    shown = found(path, layers=["digest"])
    assert [(seq, what) for seq, what in shown if what == "label"] == [(seq, "label") for seq in items]


def test_an_abstention_for_a_reason_that_never_gets_recorded(tmp_path: Path) -> None:
    """D1: where storage is unavailable, there is no record to say so."""
    path = tmp_path / "a.tally"
    with opened(path) as ledger:
        assert Gateway(ledger, tmp_path / "none.yml").decide(REQUEST).recorded
    with Forger(path) as forger:
        seq = forger.seq_of("decision.recorded")
        forger.put(seq, ["STORAGE_UNAVAILABLE"], "derived", "reason_codes")
    assert found(path, layers=["decision"]) == [(seq, "reason_codes")]


def test_what_was_erased_from_memory_in_another_order_than_it_was_learned(tmp_path: Path) -> None:
    """The later item was erased before the decision, the earlier one after it: nobody can tell any more."""
    path = tmp_path / "a.tally"
    with opened(path) as ledger:
        gateway = Gateway(ledger, POLICY)
        ids = [gateway.decide(REQUEST).decision_id for _ in range(2)]
        for decision_id in ids:
            gateway.label(decision_id, "failure")
        earlier, later = (event.seq for event in ledger.read(kinds=["memory.added"]))
        ledger.erase(later, "asked to")
        gateway.decide(REQUEST)
        ledger.erase(earlier, "asked to")
        report = replay_ledger(ledger, layers=["decision"])
    assert diverged(report) == []
    assert [reason.reason for reason in report.reasons] == [
        "something that it was decided with was erased from memory since"
    ]


# -- the chain ---------------------------------------------------------------------------------


def test_every_event_is_counted_once_however_many_breaks_there_are(tmp_path: Path) -> None:
    path = tmp_path / "a.tally"
    with opened(path) as ledger:
        ledger.append_many([{"kind": "order.placed", "body": {"order": number}} for number in range(99)])
    tamper(path, "UPDATE events SET body = CAST('{}' AS BLOB) WHERE seq % 3 = 0")
    counts = replayed(path, layers=["chain"]).layers[Layer.CHAIN]
    assert counts.diverged == BREAKS_MAX
    assert counts.match + counts.diverged + counts.not_rederivable == 100


# -- what a back-test looks at -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/a", "/a/b", True),
        ("", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/ab", False),
    ],
)
def test_pointers_that_overlap(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is expected


def test_a_policy_reads_the_evidence_that_it_requires() -> None:
    reads = Reads(Policy.parse(REQUIRING))
    assert reads.pointers("shop.refund") == {"/action/type", "/evidence/ticket"}
    assert reads.pointers("shop.credit") == {"/action/type"}


def test_a_rule_that_asks_for_another_verdict_now_decides_now(tmp_path: Path) -> None:
    with opened(tmp_path / "a.tally") as ledger:
        Gateway(ledger, POLICY).decide(REQUEST)
        head, rule, rest = POLICY.partition("  - id: refund-small\n")
        now = head + rule + rest.replace("verdict: TRUST", "verdict: ESCALATE", 1)
        report = backtest(ledger, now)
    assert report.changed == 1
    assert [(each.rule_id, each.side) for each in report.rules] == [("refund-small", "new")]


# -- what a replay keeps -----------------------------------------------------------------------


class Counted:
    """Events of one size each, made when they are asked for; and how often that was."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.read = 0

    def head(self) -> Head:
        return Head(99, b"")

    def rows(
        self,
        after: int = 0,
        *,
        before: int | None = None,
        stream: str | None = None,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Row]:
        self.read += 1
        empty = bytes(32)
        yield Row(
            after + 1, 0, "order.placed", "main", None, None, b"", b"x" * self.size, empty, empty, empty
        )

    def find(self, key: str) -> Event | None:
        return None


@pytest.mark.parametrize(("size", "read_again"), [(1 << 10, 0), (7 << 20, 1)])
def test_events_that_are_kept_are_bounded_by_their_bytes(size: int, read_again: int) -> None:
    """Of three large bodies the first is let go, and read again; small ones all stay."""
    events = Counted(size)
    past = Past(events, events.head())
    for seq in (1, 2, 3):
        past.keep(next(events.rows(seq - 1)))
    events.read = 0
    rows = [past.row(seq) for seq in (1, 2, 3)]
    assert [row.seq for row in rows if row is not None] == [1, 2, 3]
    assert events.read == read_again


def test_notes_that_are_taken_over_keep_the_first_event_of_a_reason() -> None:
    notes, others = Notes((Layer.VIEW,)), Notes((Layer.VIEW,))
    notes.not_rederivable(Layer.VIEW, 7, "views", "why")
    others.not_rederivable(Layer.VIEW, 3, "views", "why", 2)
    notes.absorb(others)
    assert [(reason.count, reason.first_seq) for reason in notes.reasons()] == [(3, 3)]
    assert [entry.seq for entry in notes.entries()] == [3, 7]
