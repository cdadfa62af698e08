"""Ledgers as recorders make them give no false alarm, whatever was recorded and in whatever order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_tests import examples

from tallystick import (
    CAEL,
    Durability,
    Gateway,
    Kernel,
    Ledger,
    PsiDefinition,
    Session,
    TallyError,
    expire,
    expired_sessions,
    import_chat,
    replay_ledger,
    seal_projections,
    views_of,
)
from tallystick.recorders.gateway.policy import STARTER_POLICY
from tallystick.replay.report import Layer, Result

NAMES = st.text(max_size=6)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([-0.0, 1e16, 1e-7, 2**53, "\ud800", "\x00\u2028", "é", "𝄞"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
#: What apps hand over, JSON or not.
ANYTHING = JSON | st.builds(object) | st.binary(max_size=3) | st.sets(st.integers(), max_size=2)
STATES = st.none() | st.dictionaries(NAMES, ANYTHING, max_size=3) | ANYTHING
AMOUNTS = st.none() | st.sampled_from([0, 30, 49.99, 250, 1e15, 0.1])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.none() | st.sampled_from("ab"),
            "function": st.fixed_dictionaries({"name": TEXTS, "arguments": TEXTS | st.just('{"a":[1,2.5]}')}),
        }
    ),
    max_size=2,
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]), "content": TEXTS | st.none()},
    optional={"tool_calls": CALLS, "tool_call_id": st.sampled_from("ab"), "name": TEXTS, "extra": TEXTS},
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), TEXTS),
        st.tuples(
            st.just("action"), st.integers(0, 3), st.sampled_from(["verified", "failed", "retry", "skipped"]),
            STATES, STATES, st.sampled_from(["", "Pay", "Desk"]), ANYTHING,
        ),
        st.tuples(st.just("message"), st.integers(0, 3), ANYTHING, CALLS),
        st.tuples(st.just("close"), st.integers(0, 3), st.sampled_from(["", "", "partial", "failed"])),
        st.tuples(
            st.just("execute"), TEXTS, st.dictionaries(NAMES, ANYTHING, max_size=2), ANYTHING,
            st.sampled_from([None, ValueError("no"), KeyError("k")]), st.booleans(),
        ),
        st.tuples(st.just("pipeline"), st.lists(st.booleans(), max_size=3), st.booleans()),
        st.tuples(
            st.just("chat"), st.lists(TURNS, max_size=5),
            st.sampled_from([None, "label"]), st.sampled_from([None, 1, 0.5, "failed", "x"]),
        ),
        st.tuples(st.just("decide"), AMOUNTS, st.sampled_from(["USD", "EUR"]), JSON, st.booleans()),
        st.tuples(st.just("label"), st.integers(0, 5), st.sampled_from(["failure", "success", "near_miss"])),
        st.tuples(st.just("erase"), st.integers(0, 60)),
        st.tuples(st.just("app"), NAMES, TEXTS),
        st.tuples(st.sampled_from(["seal", "views", "expire", "batch"])),
    ),
    max_size=14,
)  # fmt: skip


class Recorder:
    """Does what the steps say to one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.sessions: list[Session] = []
        self.gateway = Gateway(ledger, STARTER_POLICY)
        self.decisions: list[str] = []

    def do(self, steps: list[tuple[Any, ...]]) -> None:
        for name, *arguments in steps:
            getattr(self, name)(*arguments)

    def session(self, which: int) -> Session | None:
        return self.sessions[which % len(self.sessions)] if self.sessions else None

    def start(self, label: str) -> None:
        self.sessions.append(Session.start(self.ledger, label, retention_hours=1))

    def action(self, which: int, outcome: str, before: Any, after: Any, kernel: str, evidence: Any) -> None:
        if session := self.session(which):
            with suppress(TallyError):  # it may have ended
                session.record_action(
                    "act", outcome, kernel, before_state=before, after_state=after, evidence=evidence
                )

    def message(self, which: int, content: Any, calls: list[Any]) -> None:
        if session := self.session(which):
            with suppress(TallyError):
                session.message("user", content, tool_calls=calls)

    def close(self, which: int, outcome: str) -> None:
        if session := self.session(which):
            with suppress(TallyError):
                session.close(outcome)

    def execute(
        self, name: str, arguments: dict[str, Any], output: Any, error: Exception | None, content: bool
    ) -> None:
        def task(**_: Any) -> Any:
            if error is not None:
                raise error
            return output

        kernel = Kernel(ledger=self.ledger, capture="content" if content else "digest")
        psi = PsiDefinition("t", name, {"given": output})
        arguments = {key: value for key, value in arguments.items() if key not in ("psi", "task", "metadata")}
        kernel.execute(psi=psi, task=task, **arguments)

    def pipeline(self, outcomes: list[bool], bad: bool) -> None:
        steps: list[Any] = [(PsiDefinition("p", str(n)), _step, {"good": g}) for n, g in enumerate(outcomes)]
        CAEL(Kernel(ledger=self.ledger)).run([*steps, *(["bad"] if bad else [])])

    def chat(self, turns: list[Any], field: str | None, value: Any) -> None:
        import_chat(self.ledger, [{"messages": turns, "label": value, "n": len(turns)}], outcome=field)

    def decide(self, amount: float | None, currency: str, evidence: Any, inline: bool) -> None:
        action: dict[str, Any] = {"type": "support.refund", "intent": "x", "tags": ["t"]}
        if amount is not None:
            action["amount"] = {"value": amount, "currency": currency}
        context: dict[str, Any] = {"mode": "digest_only", "digest": "sha256:" + "0" * 64}
        request = {
            "schema_version": "decision_request.v0",
            "subject": {"type": "agent", "id": "bot"},
            "action": action,
            "evidence": {"ticket_id": evidence},
            "context": context,
        }
        with suppress(TallyError):  # not everything is evidence
            self.decisions.append(self.gateway.decide(request).decision_id)

    def label(self, which: int, label: str) -> None:
        if self.decisions:
            with suppress(TallyError):
                self.gateway.label(self.decisions[which % len(self.decisions)], label, "said")

    def erase(self, seq: int) -> None:
        with suppress(TallyError):
            self.ledger.erase(seq, "asked to")

    def app(self, stream: str, text: str) -> None:
        with suppress(TallyError):
            self.ledger.append("order.placed", {"text": text}, stream=f"session:{stream}", meta={"a": text})

    def seal(self) -> None:
        seal_projections(self.ledger)

    def views(self) -> None:
        views_of(self.ledger).catch_up()

    def batch(self) -> None:
        with self.ledger.batch(), Session.start(self.ledger, "batched") as session:
            session.record_action("a", "verified")
            self.pipeline([True, False], False)
            session.record_action("b", "failed")

    def expire(self) -> None:
        now = datetime.now(UTC) + timedelta(days=1)
        for session in expired_sessions(self.ledger, now):
            expire(self.ledger, session, now)


def _step(good: bool) -> str:
    if not good:
        raise ValueError("bad")
    return "done"


def check_clean(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tally"
        with Ledger.open(path, durability=Durability.PROCESS) as ledger:
            Recorder(ledger).do(steps)
            last = ledger.head().seq
        with Ledger.open(path, read_only=True) as ledger:
            report = replay_ledger(ledger)
            assert [entry for entry in report.entries if entry.result is Result.DIVERGED] == []
            assert report.layers[Layer.CHAIN].match == last
            assert replay_ledger(ledger).to_json() == report.to_json()


SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(SETTINGS, max_examples=examples(100))
@given(STEPS)
def test_a_ledger_as_recorded_gives_no_false_alarm(steps: list[tuple[Any, ...]]) -> None:
    check_clean(steps)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(SETTINGS, max_examples=1000)
@given(STEPS)
def test_a_thousand_ledgers_give_no_false_alarm(steps: list[tuple[Any, ...]]) -> None:
    check_clean(steps)


@pytest.mark.parametrize("change", [lambda ledger: None, seal_projections], ids=["plain", "sealed"])
def test_a_ledger_that_was_just_made(tmp_path: Path, change: Callable[[Ledger], object]) -> None:
    with Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS) as ledger:
        change(ledger)
        assert replay_ledger(ledger).diverged == 0
