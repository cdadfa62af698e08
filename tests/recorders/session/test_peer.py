"""Contracts S2 to S4 against the peer `conceptkernel` 1.0.0: the same outcomes, summaries and attempts."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples

from tallystick import Ledger, MemoryStore, Session, verified_action

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cklib") is None, reason="the peer conceptkernel is not installed"
)

KERNEL = "ckp://Kernel#Main:v1.0"
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab |:é", max_size=4)
)
# An empty state counts as none with the peer; here it is a state.
STATES = st.none() | st.dictionaries(
    st.text("abc", min_size=1, max_size=2),
    # An object of one member: where one is shown beside a scalar, the order of its members is its own
    # with the peer, and sorted here.
    SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text("ab", max_size=1), SCALARS, max_size=1),
    min_size=1,
    max_size=4,
)
ACTIONS = st.fixed_dictionaries(
    {
        "action_type": st.sampled_from(["a.b", "deploy", "task.create"]),
        "outcome": st.sampled_from(["verified", "failed", "retry", "skipped"]),
        "kernel": st.sampled_from(["", "Mail", "CK.Task"]),
        "via_edge": st.sampled_from([None, "COMPOSES", "EXTENDS", "REQUIRES"]),
        "before_state": STATES,
        "after_state": STATES,
        "attempt": st.integers(1, 5),
        "note": st.text("ab ", max_size=5),
    }
)


def peer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cklib.prov
    return cklib.prov


def peer_records(record: Callable[[Any], Any]) -> dict[str, Any]:
    """What the peer has in its file once `record` was called with a new session and that was closed."""
    with tempfile.TemporaryDirectory() as folder:
        chain = peer().ProvChain(folder, "x", KERNEL)
        record(chain)
        chain.close()
        found: dict[str, Any] = json.loads(Path(chain.file_path).read_text("utf-8"))
        return found


def our_records(record: Callable[[Session], Any]) -> tuple[Session, list[dict[str, Any]]]:
    session = Session.start(Ledger.over(MemoryStore()), "x", kernel=KERNEL)
    record(session)
    session.close()
    return session, [
        {
            "seq": action.seq,
            "action_type": action.action_type,
            "outcome": action.outcome,
            "kernel": action.kernel,
            "via_edge": action.via_edge,
            "diff_summary": action.diff_summary or None,
            "attempt": action.attempt,
        }
        for action in session.actions()
    ]


def as_ours(action: dict[str, Any]) -> dict[str, Any]:
    fields = ("seq", "action_type", "outcome", "kernel", "via_edge", "diff_summary", "attempt")
    return {field: action.get(field) for field in fields}


@settings(max_examples=examples(60))
@given(st.lists(ACTIONS, max_size=5))
def test_the_same_actions_summaries_and_outcome(actions: list[dict[str, Any]]) -> None:
    theirs = peer_records(lambda chain: [chain.record_action(**action) for action in actions])
    session, ours = our_records(lambda session: [session.record_action(**action) for action in actions])
    assert ours == [as_ours(action) for action in theirs["actions"]]
    assert session.outcome == theirs["outcome"]
    names = sorted(urn.removeprefix("ckp://Kernel#").removesuffix(":v1.0") for urn in session.kernels)
    assert names == theirs["kernels_involved"]


class Flaky:
    """An action, a check and a capture that go wrong at the calls that a plan says."""

    def __init__(self, plan: tuple[list[bool], list[str], list[bool]]) -> None:
        act, check, capture = plan
        self.calls: list[str] = []
        self.state = itertools.count()
        self._act = itertools.chain(act, itertools.repeat(False))
        self._check = itertools.chain(check, itertools.repeat("no"))
        self._capture = itertools.chain(capture, itertools.repeat(False))

    def act(self) -> None:
        self.calls.append("act")
        if next(self._act):
            raise OSError("the action raised")

    def check(self) -> bool:
        self.calls.append("check")
        answer = next(self._check)
        if answer == "raise":
            raise LookupError("the check raised")
        return answer == "yes"

    def capture(self) -> dict[str, int]:
        self.calls.append("capture")
        if next(self._capture):
            raise RuntimeError("the capture raised")
        return {"n": math.floor(next(self.state) / 3)}


@settings(max_examples=examples(60))
@given(
    st.tuples(
        st.lists(st.booleans(), max_size=4),
        st.lists(st.sampled_from(["yes", "no", "raise"]), max_size=4),
        st.lists(st.booleans(), max_size=8),
    ),
    st.integers(1, 4),
    st.booleans(),
)
def test_the_same_attempts_for_flaky_actions(
    plan: tuple[list[bool], list[str], list[bool]], max_attempts: int, captures: bool
) -> None:
    answers: list[bool] = []
    calls: list[list[str]] = []

    def attempts(function: Callable[..., bool]) -> Callable[[Any], None]:
        def run(session: Any) -> None:
            flaky = Flaky(plan)
            capture = flaky.capture if captures else None
            options: dict[str, Any] = {"max_attempts": max_attempts, "settle_delay": 0}
            answers.append(
                function(
                    flaky.act,
                    flaky.check,
                    session,
                    "a.b",
                    "Mail",
                    "EXTENDS",
                    capture_state_fn=capture,
                    **options,
                )
            )
            calls.append(flaky.calls)

        return run

    theirs = peer_records(attempts(peer().verified_action))
    session, ours = our_records(attempts(verified_action))
    assert ours == [as_ours(action) for action in theirs["actions"]]
    assert session.outcome == theirs["outcome"]
    assert answers[0] == answers[1]
    assert calls[0] == calls[1]
    for action, record in zip(theirs["actions"], session.actions(), strict=True):
        assert action["evidence"].get("verified") == record.evidence.get("verified")
        error = action["evidence"].get("error") or action["evidence"].get("verify_error")
        assert error == record.evidence.get("error")
