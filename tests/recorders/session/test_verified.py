"""Contract S4: verified actions, in threads and in asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wrapped_stores import FullStore

from tallystick import (
    ActionRecord,
    AsyncLedger,
    AsyncSession,
    Durability,
    InvalidEvent,
    InvalidUrn,
    Ledger,
    RecordingFailed,
    Session,
    SessionEnded,
    verified_action,
    verified_action_async,
)


class Script:
    """Functions that answer with one value after the other; an exception is raised. Calls are noted."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, name: str, *answers: Any) -> Callable[[], Any]:
        left = list(answers)

        def call() -> Any:
            self.calls.append(name)
            answer = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture(params=["threads", "asyncio, plain functions", "asyncio, async functions"])
def attempt(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., tuple[bool, list[ActionRecord]]]:
    """Runs a verified action in a new session, in each form; what it gave and the actions recorded."""

    def run(action: Any, verify: Any, capture: Any = None, **options: Any) -> tuple[bool, list[ActionRecord]]:
        options = {"settle_delay": 0, "action_type": "a.b", "kernel": "K", **options}
        path = tmp_path / "a.tally"
        if request.param == "threads":
            with Ledger.open(path, durability=Durability.PROCESS) as ledger, Session.start(ledger, "x") as s:
                done = verified_action(action, verify, s, capture_state_fn=capture, **options)
                return done, s.actions()

        def form(function: Any) -> Any:
            async def call() -> Any:
                await asyncio.sleep(0)
                return function()

            return call if function is not None and request.param.endswith("async functions") else function

        async def main() -> tuple[bool, list[ActionRecord]]:
            async with (
                AsyncLedger.open(path, durability=Durability.PROCESS) as ledger,
                await AsyncSession.start(ledger, "x") as s,
            ):
                done = await verified_action_async(
                    form(action), form(verify), s, capture_state_fn=form(capture), **options
                )
                return done, await s.actions()

        return asyncio.run(main())

    return run


def outcomes(actions: list[ActionRecord]) -> list[tuple[str, int]]:
    return [(action.outcome, action.attempt) for action in actions]


def test_s4_the_order_of_an_attempt(attempt: Any, script: Script) -> None:
    done, actions = attempt(
        script("act", None), script("check", True), script("capture", {"n": 1}, {"n": 2}), intent={"n": 2}
    )
    assert done is True
    assert script.calls == ["capture", "act", "capture", "check"]
    [action] = actions
    assert (action.outcome, action.action_type, action.kernel) == ("verified", "a.b", "ckp://Kernel#K:v1.0")
    assert (action.before_state, action.after_state, action.diff_summary) == ({"n": 1}, {"n": 2}, "n: 1 -> 2")
    assert (action.intent, action.evidence, action.note) == ({"n": 2}, {"verified": True}, "")


def test_s4_a_check_that_fails_is_retried(attempt: Any, script: Script) -> None:
    done, actions = attempt(script("act", None), script("check", False, False, True), via_edge="REQUIRES")
    assert done is True
    assert outcomes(actions) == [("retry", 1), ("retry", 2), ("verified", 3)]
    assert actions[0].evidence == {"verified": False}
    assert {action.via_edge for action in actions} == {"REQUIRES"}


def test_s4_the_last_attempt_is_failed(attempt: Any, script: Script) -> None:
    done, actions = attempt(script("act", None), script("check", False), max_attempts=2)
    assert done is False
    assert outcomes(actions) == [("retry", 1), ("failed", 2)]
    assert script.calls == ["act", "check"] * 2


def test_s4_what_raises_is_failed_and_retried(attempt: Any, script: Script) -> None:
    done, actions = attempt(
        script("act", OSError("no route"), None, None), script("check", LookupError("none"), True)
    )
    assert done is True
    assert outcomes(actions) == [("failed", 1), ("failed", 2), ("verified", 3)]
    assert actions[0].evidence == {
        "error": "no route",
        "exception_type": "OSError",
        "raised_by": "action_fn",
    }
    assert actions[1].evidence == {
        "error": "none",
        "exception_type": "LookupError",
        "raised_by": "verify_fn",
    }


def test_s4_an_action_that_raises_is_neither_looked_at_nor_captured_after(
    attempt: Any, script: Script
) -> None:
    done, actions = attempt(
        script("act", OSError("no")), script("check", True), script("capture", {"n": 1}), max_attempts=1
    )
    assert done is False
    assert script.calls == ["capture", "act"]
    assert (actions[0].before_state, actions[0].after_state, actions[0].diff_summary) == ({"n": 1}, None, "")


def test_s4_a_failing_capture_never_breaks_the_action(attempt: Any, script: Script) -> None:
    capture = script("capture", {"n": 1}, OSError("gone"))
    done, [action] = attempt(script("act", None), script("check", True), capture)
    assert done is True
    assert (action.before_state, action.after_state, action.diff_summary) == ({"n": 1}, None, "")
    assert "after could not be captured (OSError)" in action.note


def test_s4_the_state_before_is_what_it_was_before(attempt: Any) -> None:
    state: dict[str, Any] = {"n": 1, "odd": {1, 2}}
    intent = {"steps": [1]}

    def act() -> None:
        state["n"] += 1
        state["odd"].add(state["n"] + 5)
        intent["steps"].append(2)

    done, actions = attempt(act, lambda: state["n"] > 2, lambda: state, intent=intent)
    assert done is True
    assert [action.diff_summary for action in actions] == [
        "n: 1 -> 2 | odd: changed",
        "n: 2 -> 3 | odd: changed",
    ]
    assert [action.intent for action in actions] == [{"steps": [1]}] * 2


class NoTruth:
    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


@pytest.mark.parametrize(
    ("answer", "outcome", "evidence"),
    [
        (1, "verified", {"verified": True, "result": 1}),
        ({"status": 200}, "verified", {"verified": True, "result": {"status": 200}}),
        (None, "failed", {"verified": False, "result": None}),
        ("", "failed", {"verified": False, "result": ""}),
    ],
)
def test_s4_what_the_check_returns_counts_by_its_truth_and_is_evidence(
    attempt: Any, answer: Any, outcome: str, evidence: Any
) -> None:
    done, [action] = attempt(lambda: None, lambda: answer, max_attempts=1)
    assert done is (outcome == "verified")
    assert (action.outcome, action.evidence) == (outcome, evidence)


def test_s4_an_answer_without_truth_is_a_check_that_raised(attempt: Any) -> None:
    done, [action] = attempt(lambda: None, NoTruth, max_attempts=1)
    assert done is False
    assert action.evidence["exception_type"] == "ValueError"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt("stop"), SystemExit(3)])
@pytest.mark.parametrize("where", ["act", "capture", "check"])
def test_s4_an_interrupt_is_recorded_and_goes_on(
    tmp_path: Path, script: Script, interrupt: BaseException, where: str
) -> None:
    answers = {"act": [None], "capture": [{"n": 1}], "check": [True]}
    answers[where] = [interrupt] if where != "capture" else [{"n": 1}, interrupt]
    with Ledger.open(tmp_path / "a.tally") as ledger:
        with pytest.raises(type(interrupt)) as caught, Session.start(ledger, "x") as session:
            verified_action(
                script("act", *answers["act"]),
                script("check", *answers["check"]),
                session,
                "a",
                "K",
                settle_delay=0,
                capture_state_fn=script("capture", *answers["capture"]),
            )
        assert caught.value is interrupt
        [action] = session.actions()
        assert (action.outcome, action.evidence["exception_type"]) == ("failed", type(interrupt).__name__)
        assert action.note == (
            "interrupted in the action" if where == "act" else "interrupted before it was checked"
        )
        assert session.outcome == "failed"


def test_s4_a_cancellation_is_recorded_and_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncLedger.open(tmp_path / "a.tally") as ledger:
            session = await AsyncSession.start(ledger, "x")
            acting = asyncio.Event()

            async def act() -> None:
                acting.set()

            async def work() -> None:
                async with session:
                    await verified_action_async(act, lambda: True, session, "a", "K", settle_delay=60)

            task = asyncio.create_task(work())
            await acting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            [action] = await session.actions()
            assert (action.outcome, action.evidence["exception_type"]) == ("failed", "CancelledError")
            assert action.note == "interrupted before it was checked"
            assert session.outcome == "failed"

    asyncio.run(main())


def test_s4_a_coroutine_that_is_thrown_away_ends_quietly(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncLedger.open(tmp_path / "a.tally") as ledger:
            session = await AsyncSession.start(ledger, "x")
            call = verified_action_async(lambda: asyncio.sleep(60), lambda: True, session, "a", "K")
            call.send(None)  # type: ignore[arg-type]
            call.close()
            assert await session.actions() == []

    asyncio.run(main())


def test_s4_it_waits_before_it_looks_and_before_it_tries_again(
    tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: script.calls.append(f"wait {seconds}"))
    with Ledger.open(tmp_path / "a.tally") as ledger, Session.start(ledger, "x") as session:
        act = script("act", OSError(), None, None)
        verified_action(act, script("check", False), session, "a", "K", max_attempts=3)
    assert script.calls == [
        "act",
        "wait 0.5",
        *["act", "wait 0.5", "check"],
        "wait 0.5",
        *["act", "wait 0.5", "check"],
    ]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Ledger.open(tmp_path / "a.tally") as ledger, Session.start(ledger, "x") as session:
        yield session


@pytest.mark.parametrize(
    "wrong",
    [
        {"action_type": ""},
        {"kernel": 7},
        {"kernel": "ckp://Action#a/b"},
        {"via_edge": "LIKES"},
        {"max_attempts": 0},
        {"max_attempts": 1.0},
        {"settle_delay": -1},
        {"settle_delay": float("nan")},
        {"session": None},
    ],
)
def test_s4_what_could_not_be_recorded_is_refused_before_anything_is_done(
    session: Session, script: Script, wrong: dict[str, Any]
) -> None:
    arguments: dict[str, Any] = {"session": session, "action_type": "a", "kernel": "K", **wrong}
    with pytest.raises((InvalidEvent, InvalidUrn)):
        verified_action(script("act", None), script("check", True), **arguments)
    session.close()
    with pytest.raises(SessionEnded):
        verified_action(script("act", None), script("check", True), session, "a", "K")
    assert script.calls == []


def test_s4_an_async_function_does_not_pass_for_true(session: Session) -> None:
    async def check() -> bool:
        return False

    assert verified_action(lambda: None, check, session, "a", "K", settle_delay=0) is False
    assert [action.outcome for action in session.actions()] == ["failed"] * 3
    assert "verified_action_async" in session.actions()[0].evidence["error"]


def test_s4_an_action_that_was_done_but_not_recorded_is_handed_back(script: Script) -> None:
    store = FullStore()
    session = Session.start(Ledger.over(store), "x")

    def act() -> None:
        store.full = True

    with pytest.raises(RecordingFailed) as caught:
        verified_action(act, script("check", True), session, "a", "K", settle_delay=0)
    assert isinstance(caught.value.result, ActionRecord)
    assert (caught.value.result.outcome, caught.value.result.evidence) == ("verified", {"verified": True})
    assert script.calls == ["check"]


def test_s4_an_interrupt_is_not_hidden_by_a_store_that_fails() -> None:
    store = FullStore()
    session = Session.start(Ledger.over(store), "x")

    def act() -> None:
        store.full = True
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        verified_action(act, lambda: True, session, "a", "K", settle_delay=0)
    assert "is full" in caught.value.__notes__[0]


def test_s4_a_session_closed_meanwhile_hands_the_action_back(session: Session) -> None:
    other = Session.resume(session.ledger, session.session_id)
    with pytest.raises(RecordingFailed, match="closed as complete") as caught:
        verified_action(other.close, lambda: True, session, "a", "K", settle_delay=0)
    assert isinstance(caught.value.result, ActionRecord)
    assert caught.value.result.outcome == "verified"
