"""D1, D2, D8, D9, D10: what is decided is recorded, once, and can be read back, labelled and learned from."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick import Head, Ledger, MemoryStore
from tallystick.events import gateway as events
from tallystick.projections.memory import Memory
from tallystick.recorders.gateway.decision import decide_purely, question_of, recall
from tallystick.recorders.gateway.digests import digest
from tallystick.recorders.gateway.errors import (
    DecisionErased,
    InvalidDecisionEvent,
    InvalidRequest,
    NoSuchDecision,
    NotTrusted,
    RequestConflict,
)
from tallystick.recorders.gateway.gateway import Gateway, decide
from tallystick.recorders.gateway.policy import Policy
from tallystick.recorders.gateway.record import DecisionRecord
from tallystick.recorders.gateway.request import DecisionRequest
from tallystick.recorders.gateway.stages import DecisionVerdict

Make = Callable[..., dict[str, Any]]
MakePolicy = Callable[..., str]


def kinds(ledger: Ledger) -> list[str]:
    return [event.kind for event in ledger.read(1)]


@pytest.fixture
def gateway(ledger: Ledger, starter: Path) -> Gateway:
    return Gateway(ledger, starter)


def test_a_decision_is_recorded_before_it_is_answered(
    gateway: Gateway, make_request: Make, starter: Path
) -> None:
    request = make_request(trace={"correlation_id": "case-7"})
    record = gateway.decide(request)
    assert (record.verdict, record.reason_codes) == (DecisionVerdict.TRUST, ["REFUND_SMALL"])
    assert record.verdict == "TRUST"
    assert (record.trusted, record.recorded, record.enforced, record.error) == (True, True, True, None)
    assert record.decision_id.startswith("dec_")
    assert len(record.decision_id) == 30
    assert record.trace.correlation_id == "case-7"
    assert record.request.to_dict() == request
    assert record.obligations == [{"log": "refunds"}]
    assert record.determinism.evaluation_order == [
        "REQUIREMENTS",
        "HARD_BLOCKS",
        "ESCALATIONS",
        "TRUST_PATHS",
        "DEFAULT",
    ]
    assert record.receipt is not None
    event = gateway.ledger.get(record.receipt.seq)
    assert (event.kind, event.stream) == ("decision.recorded", f"decision:{record.decision_id}")
    registered = gateway.ledger.get(record.receipt.seq - 1)
    assert registered.body["text"] == starter.read_text("utf-8")
    assert registered.body["policy_hash"] == record.policy.policy_hash == Policy.load(starter).policy_hash


def test_the_memory_snapshot_is_the_head_that_memory_was_read_at(
    gateway: Gateway, make_request: Make
) -> None:
    head = gateway.ledger.head()
    snapshot = gateway.decide(make_request()).determinism.memory_snapshot
    assert snapshot == events.Snapshot(seq=head.seq, hash=head.hash.hex())


def test_a_record_is_read_back_as_it_was_answered(gateway: Gateway, make_request: Make) -> None:
    record = gateway.decide(make_request())
    again = gateway.record(record.decision_id)
    assert again.decision_event_log == []
    assert msgspec.structs.replace(again, decision_event_log=msgspec.UNSET) == record
    assert again.receipt == record.receipt
    plain = record.to_dict()
    assert json.loads(record.to_json()) == plain
    assert msgspec.convert(plain, DecisionRecord) == record
    assert "decision_event_log" not in plain


def test_a_bad_request_is_an_error_and_nothing_is_recorded(gateway: Gateway, make_request: Make) -> None:
    with pytest.raises(InvalidRequest, match=r"action\.amount\.value"):
        gateway.decide(make_request(action={"amount": {"value": True}}))
    with pytest.raises(InvalidRequest, match=r"context\.digest"):
        gateway.decide(make_request(context={"mode": "inline", "inline": {"a": 1}}))
    assert kinds(gateway.ledger) == []


# -- idempotency (D2) ----------------------------------------------------------------------


def test_the_same_request_id_with_the_same_request_gives_the_first_record(
    gateway: Gateway, make_request: Make
) -> None:
    request = make_request(request_id="r-1")
    first = gateway.decide(request)
    gateway.label(first.decision_id, "failure")
    assert gateway.decide(copy.deepcopy(request)) == first
    assert gateway.decide(request).receipt == first.receipt
    assert kinds(gateway.ledger).count("decision.recorded") == 1
    assert gateway.decide(make_request()).verdict == "ESCALATE"


def test_the_same_request_id_with_another_request_is_an_error(gateway: Gateway, make_request: Make) -> None:
    first = gateway.decide(make_request(request_id="r-1"))
    with pytest.raises(RequestConflict) as caught:
        gateway.decide(make_request(request_id="r-1", action={"amount": {"value": 31}}))
    assert (caught.value.request_id, caught.value.decision_id) == ("r-1", first.decision_id)
    assert kinds(gateway.ledger).count("decision.recorded") == 1
    assert pickle.loads(pickle.dumps(caught.value)).seq == caught.value.seq


def test_request_ids_belong_to_their_tenant(gateway: Gateway, make_request: Make) -> None:
    ours = gateway.decide(make_request(request_id="r-1"))
    theirs = gateway.decide(make_request(request_id="r-1", tenant={"tenant_id": "other"}))
    nobodys = gateway.decide(make_request(request_id="r-1", tenant=None))
    assert len({ours.decision_id, theirs.decision_id, nobodys.decision_id}) == 3


def test_callers_that_ask_at_once_with_one_request_id_get_one_record(
    ledger: Ledger, starter: Path, make_request: Make
) -> None:
    request = make_request(request_id="r-1")
    records: list[DecisionRecord] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        gateway = Gateway(ledger, starter)
        barrier.wait()
        records.append(gateway.decide(request))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.decision_id for record in records}) == 1
    assert len(records) == 8
    assert kinds(ledger).count("decision.recorded") == 1
    assert kinds(ledger).count("policy.registered") == 1
    assert ledger.verify().verdict.name != "BROKEN"


# -- policies ------------------------------------------------------------------------------


def test_a_policy_is_registered_once_per_hash(
    ledger: Ledger, make_policy: MakePolicy, make_request: Make
) -> None:
    text = make_policy()
    for policy in (text, "# only a comment\n" + text, Policy.parse(text), text.replace("small", "other")):
        assert Gateway(ledger, policy).decide(make_request()).error is None
    assert kinds(ledger).count("policy.registered") == 2


def test_a_registration_by_another_process_in_between_is_no_conflict(
    ledger: Ledger, make_policy: MakePolicy, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = make_policy()
    Gateway(ledger, "# another layout\n" + text).decide(make_request())
    monkeypatch.setattr(Ledger, "rows", lambda *args, **options: iter(()))  # it looked a moment too early
    record = Gateway(ledger, text).decide(make_request())
    assert (record.error, record.recorded) == (None, True)
    assert kinds(ledger).count("policy.registered") == 1


def test_a_changed_file_counts_for_the_next_decision(
    ledger: Ledger, tmp_path: Path, make_policy: MakePolicy, make_request: Make
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(make_policy(default="TRUST"))
    gateway = Gateway(ledger, path)
    assert gateway.decide(make_request()).verdict == "TRUST"
    path.write_text(make_policy(default="QUERY"))
    assert gateway.decide(make_request()).verdict == "QUERY"
    assert gateway.policy.defaults.default_verdict == "QUERY"


# -- guard (D7) ------------------------------------------------------------------------------


def test_guard_lets_pass_what_is_trusted_alone(gateway: Gateway, make_request: Make) -> None:
    assert gateway.guard(make_request()).trusted
    with pytest.raises(NotTrusted) as caught:
        gateway.guard(make_request(evidence={"fraud_score": 0.9}))
    assert caught.value.record.verdict == "ABSTAIN"
    assert str(caught.value).startswith("ABSTAIN: FRAUD_TOO_LIKELY; decision dec_")
    assert pickle.loads(pickle.dumps(caught.value)).record == caught.value.record


def test_advisory_verdicts_are_recorded_and_not_enforced(
    ledger: Ledger, make_policy: MakePolicy, make_request: Make
) -> None:
    text = make_policy(default="ABSTAIN").replace("mode: enforce", "mode: advisory")
    record = Gateway(ledger, text).guard(make_request())
    assert (record.verdict, record.policy.mode, record.enforced, record.trusted) == (
        "ABSTAIN",
        "advisory",
        False,
        False,
    )
    with pytest.raises(NotTrusted):
        Gateway(ledger, text).guard(make_request(policy={"mode": "enforce"}))


# -- memory (D8) -------------------------------------------------------------------------------


def test_one_labelled_failure_changes_a_later_verdict(gateway: Gateway, make_request: Make) -> None:
    first = gateway.decide(make_request())
    gateway.label(first.decision_id, "failure", "it was fraud after all")
    second = gateway.decide(make_request())
    assert second.verdict == "ESCALATE"
    assert second.reason_codes == ["LIKE_AN_EARLIER_FAILURE", "REFUND_SMALL"]
    similar = second.risk_signals.failure_similarity
    assert (similar.score, similar.numerator, similar.denominator) == (1.0, 9, 9)
    assert [match.summary for match in similar.top_k] == ["it was fraud after all"]
    assert second.risk_signals.uncertainty_score == 0.5
    assert gateway.record(first.decision_id).verdict == "TRUST"


def test_likeness_to_a_failure_makes_larger_amounts_too_uncertain(
    gateway: Gateway, make_request: Make
) -> None:
    gateway.label(gateway.decide(make_request()).decision_id, "failure")
    like = make_request(action={"amount": {"value": 60}, "tags": ["late"]})
    record = gateway.decide(like)
    similar = record.risk_signals.failure_similarity
    assert (similar.numerator, similar.denominator) == (5, 13)
    assert (record.verdict, record.reason_codes) == ("ESCALATE", ["TOO_UNCERTAIN"])


def test_the_best_failure_counts_even_behind_five_better_successes(
    ledger: Ledger, make_policy: MakePolicy, make_request: Make
) -> None:
    gateway = Gateway(ledger, make_policy(default="TRUST"))
    failed = gateway.decide(make_request(action={"tags": ["lost"]}))
    gateway.label(failed.decision_id, "failure")
    for _ in range(6):
        gateway.label(gateway.decide(make_request()).decision_id, "success")
    similar = gateway.decide(make_request()).risk_signals.failure_similarity
    assert {match.label for match in similar.top_k} == {"success"}
    assert (similar.numerator, similar.denominator) == (3, 5)


def test_tenants_and_action_types_have_no_influence_on_one_another(
    gateway: Gateway, make_request: Make
) -> None:
    gateway.label(gateway.decide(make_request()).decision_id, "failure")
    for changes in (
        {"tenant": {"tenant_id": "other"}},
        {"tenant": None},
        {"tenant": {"tenant_id": "acme:support.refund"}},
        {"action": {"type": "support.refund2"}},
    ):
        assert gateway.decide(make_request(**changes)).risk_signals.failure_similarity.top_k == []
    by_subject = make_request(tenant=None, subject={"tenant_id": "acme"})
    assert gateway.decide(by_subject).verdict == "ESCALATE"


def test_labels_of_another_process_count_at_once(tmp_path: Path, starter: Path, make_request: Make) -> None:
    with Ledger.open(tmp_path / "x.tally") as one, Ledger.open(tmp_path / "x.tally") as other:
        mine, theirs = Gateway(one, starter), Gateway(other, starter)
        first = mine.decide(make_request())
        theirs.label(first.decision_id, "failure")
        assert mine.decide(make_request()).verdict == "ESCALATE"


def test_erasing_what_was_learned_takes_it_back(gateway: Gateway, make_request: Make) -> None:
    gateway.label(gateway.decide(make_request()).decision_id, "failure", "by mistake")
    assert gateway.decide(make_request()).verdict == "ESCALATE"
    learned = next(gateway.ledger.read(kinds=["memory.added"]))
    gateway.ledger.erase(learned.seq, "labelled by mistake")
    after = gateway.decide(make_request())
    assert (after.verdict, after.risk_signals.failure_similarity.top_k) == ("TRUST", [])


def test_an_abstention_can_be_labelled_too(
    ledger: Ledger, tmp_path: Path, starter: Path, make_request: Make
) -> None:
    abstained = Gateway(ledger, tmp_path / "none.yaml").decide(make_request())
    gateway = Gateway(ledger, starter)
    gateway.label(abstained.decision_id, "near_miss")
    assert [m.label for m in gateway.decide(make_request()).risk_signals.failure_similarity.top_k] == [
        "near_miss"
    ]


@pytest.mark.parametrize("label", ["bad", "", "FAILURE", None, 5])
def test_other_labels_are_refused(gateway: Gateway, make_request: Make, label: Any) -> None:
    record = gateway.decide(make_request())
    with pytest.raises(InvalidDecisionEvent, match="label"):
        gateway.label(record.decision_id, label)


# -- what is said afterwards (D10) -----------------------------------------------------------


def test_what_was_said_of_a_decision_is_read_back_with_it(gateway: Gateway, make_request: Make) -> None:
    record = gateway.decide(make_request())
    said = [
        gateway.add_event(record.decision_id, "outcome", {"refunded": True}),
        gateway.add_event(record.decision_id, "note", {"text": "customer called"}),
        gateway.add_event(record.decision_id, "override", {"by": "sam", "to": "ESCALATE"}),
        gateway.add_event(record.decision_id, "label", {"label": "near_miss", "summary": "close"}),
        gateway.label(record.decision_id, "success"),
    ]
    log = gateway.record(record.decision_id).decision_event_log
    assert log == said
    assert isinstance(log, list)
    assert [(entry.type, entry.data) for entry in log] == [
        ("outcome", {"refunded": True}),
        ("note", {"text": "customer called"}),
        ("override", {"by": "sam", "to": "ESCALATE"}),
        ("label", {"label": "near_miss", "summary": "close"}),
        ("label", {"label": "success", "summary": ""}),
    ]
    assert kinds(gateway.ledger).count("memory.added") == 2


@pytest.mark.parametrize(
    ("type_", "data", "path"),
    [
        ("rumour", {}, "type"),
        ("note", ["x"], "data"),
        ("note", {"x": float("nan")}, "data.x"),
        ("note", {"x": "y" * 100_000}, "data"),
        ("label", {"label": "bad"}, "label"),
        ("label", {"label": "failure", "why": 1}, "data.why"),
        ("label", {"label": "failure", "summary": "x" * 3000}, "summary"),
        ("label", {"label": "failure", "summary": 4}, "summary"),
    ],
)
def test_what_cannot_be_said_is_refused(
    gateway: Gateway, make_request: Make, type_: str, data: Any, path: str
) -> None:
    record = gateway.decide(make_request())
    before = gateway.ledger.head()
    with pytest.raises(InvalidDecisionEvent) as caught:
        gateway.add_event(record.decision_id, type_, data)
    assert caught.value.path == path
    assert gateway.ledger.head() == before


def test_decisions_that_are_not_there(gateway: Gateway, make_request: Make) -> None:
    for use in (
        gateway.record,
        lambda i: gateway.label(i, "failure"),
        lambda i: gateway.add_event(i, "note", {}),
    ):
        with pytest.raises(NoSuchDecision):
            use("dec_none")
    record = gateway.decide(make_request())
    assert record.receipt is not None
    gateway.ledger.erase(record.receipt.seq, "asked to")
    with pytest.raises(DecisionErased):
        gateway.record(record.decision_id)


def test_inside_a_batch_a_decision_is_committed_at_once(gateway: Gateway, make_request: Make) -> None:
    with gateway.ledger.batch():
        record = gateway.decide(make_request())
        assert record.recorded
        assert "decision.recorded" in kinds(gateway.ledger)
        assert gateway.add_event(record.decision_id, "note", {"waits": True}) is None
        assert kinds(gateway.ledger)[-1] == "decision.recorded"
        entry = gateway.label(record.decision_id, "failure")
        assert kinds(gateway.ledger)[-3:] == ["decision.noted", "decision.labeled", "memory.added"]
        assert gateway.label(record.decision_id, "failure") == entry


# -- redaction (D9) ------------------------------------------------------------------------------


def inline(make_request: Make, **redaction: Any) -> dict[str, Any]:
    content = {"user": {"Email": "who@example.org", "plan": "gold"}}
    return make_request(context={"mode": "inline", "inline": content, "digest": digest(content), **redaction})


def test_redacted_content_never_reaches_the_ledger(gateway: Gateway, make_request: Make) -> None:
    request = inline(make_request)
    record = gateway.decide(request)
    assert record.receipt is not None
    stored = gateway.ledger.get(record.receipt.seq).body
    assert "who@example.org" not in json.dumps(stored)
    assert stored["derived"]["redacted"] == ["/context/inline/user/Email"]
    assert stored["derived"]["request_digest"] == digest(request)
    features = stored["derived"]["features"]
    assert record.determinism.inputs_digest == digest({"request": request, "derived": features})
    assert record.request.context.inline == {"user": {"plan": "gold"}}
    assert gateway.record(record.decision_id).request == record.request


@pytest.mark.parametrize(
    ("least", "asked", "in_force"),
    [
        (None, None, "default"),
        (None, "off", "off"),
        (None, "strict", "strict"),
        ("strict", "off", "strict"),
        ("off", "default", "default"),
        ("off", None, "off"),
    ],
)
def test_the_stricter_profile_holds(
    ledger: Ledger, starter: Path, make_request: Make, least: Any, asked: Any, in_force: str
) -> None:
    request = inline(make_request, **({"redaction": {"profile": asked}} if asked else {}))
    context = Gateway(ledger, starter, redaction=least).decide(request).request.context
    assert context.redaction.profile == in_force  # type: ignore[union-attr]
    assert (context.inline is msgspec.UNSET) is (in_force == "strict")
    with pytest.raises(ValueError, match="redaction"):
        Gateway(ledger, starter, redaction="some")


# -- elsewhere -----------------------------------------------------------------------------------


def test_deciding_without_a_gateway(
    ledger: Ledger, starter: Path, make_request: Make, tmp_path: Path
) -> None:
    assert decide(make_request(), ledger=ledger, policy=starter).trusted
    ledger.close()
    assert decide(json.dumps(make_request()), ledger=tmp_path / "a.tally", policy=starter.read_text()).trusted


def test_a_gateway_over_another_store(starter: Path, make_request: Make) -> None:
    with Ledger.over(MemoryStore()) as ledger:
        gateway = Gateway(ledger, str(starter))
        gateway.label(gateway.decide(make_request()).decision_id, "failure")
        assert gateway.decide(make_request()).verdict == "ESCALATE"


def test_the_same_clock_and_entropy_make_the_same_bytes(
    starter: Path, make_request: Make, tmp_path: Path
) -> None:
    def run(name: str) -> list[bytes]:
        ticks = itertools.count(1_700_000_000_000_000, 1000)
        chance = random.Random(1).randbytes
        options: Any = {"clock": lambda: next(ticks), "entropy": chance}
        with Ledger.open(tmp_path / name, **options) as ledger:
            gateway = Gateway(ledger, starter, **options)
            gateway.label(gateway.decide(make_request()).decision_id, "failure")
            gateway.decide(make_request())
            return list(ledger.export(2))

    assert run("a.tally") == run("b.tally")


def test_bodies_are_what_the_structs_say(gateway: Gateway, make_request: Make) -> None:
    """Each event decodes as the struct that docs/events.md describes."""
    from tallystick.events.catalogue import KINDS

    record = gateway.decide(inline(make_request))
    for type_ in ("outcome", "note", "override"):
        gateway.add_event(record.decision_id, type_, {"a": 1})
    gateway.label(record.decision_id, "failure")
    seen = set()
    for event in gateway.ledger.read(1):
        body = msgspec.convert(event.body, KINDS[event.kind], strict=True)
        assert msgspec.to_builtins(body) == event.body
        seen.add(event.kind)
    assert len(seen) == 7


def derived_again(ledger: Ledger, event: Any) -> events.Decision:
    """A recorded decision, derived from its request, its policy's text and the memory as of its snapshot."""
    derived = msgspec.convert(event.body, events.DecisionRecorded).derived
    assert derived.policy.policy_hash is not None
    stream = events.policy_stream(derived.policy.policy_hash)
    policy = Policy.parse(next(ledger.read(stream=stream)).body["text"])
    snapshot = derived.determinism.memory_snapshot
    assert snapshot is not None
    head = Head(snapshot.seq, bytes.fromhex(snapshot.hash))
    assert ledger.get(head.seq).hash == head.hash
    question = question_of(policy, derived.request)
    tenant_id = msgspec.convert(derived.request, DecisionRequest).tenant_id
    remembered = recall(policy, question, tenant_id, Memory(ledger), head)
    return decide_purely(policy, question, remembered, snapshot, redaction="default")


def test_every_decision_of_busy_threads_can_be_derived_again(
    ledger: Ledger, starter: Path, make_request: Make
) -> None:
    """D8, D12: whoever labels meanwhile, a decision follows from the memory as of its snapshot."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        gateway = Gateway(ledger, starter)
        try:
            for _ in range(15):
                tags = chance.sample(["damaged", "late", "lost"], 2)
                amount = {"value": chance.choice([10, 60, 300])}
                tenant = {"tenant_id": chance.choice("ab")}
                record = gateway.decide(make_request(tenant=tenant, action={"amount": amount, "tags": tags}))
                if chance.random() < 0.5:
                    gateway.label(record.decision_id, chance.choice(["failure", "success"]))
                ledger.append("app.did", {})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    decisions = list(ledger.read(kinds=[events.RECORDED]))
    assert len(decisions) == 90
    for event in decisions:
        assert msgspec.to_builtins(derived_again(ledger, event)) == event.body["derived"]
    assert len({event.body["derived"]["verdict"] for event in decisions}) > 1
