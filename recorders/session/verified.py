"""Verified actions: act, look whether it worked, record each attempt, try again (contract S4).

    verified_action(send, arrived, session, "mail.send", "Mail", capture_state_fn=outbox)

An action that was done is recorded, whatever happens next: if the process is told to stop between
the action and the look at it, the attempt is recorded as failed, and the interrupt goes on.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from tallystick.ledger.errors import InvalidEvent, RecordingFailed, TallyError

from ..capture import capture, text_of
from ..errors import SessionEnded
from ..steps import Steps, run, run_async
from . import records
from .session import AsyncSession, Session


class Call(Enum):
    """Asks to call one of the caller's functions; the answer is what it returns."""

    CAPTURE = "capture_state_fn"
    ACT = "action_fn"
    CHECK = "verify_fn"


class Wait(NamedTuple):
    """Asks to wait."""

    seconds: float


class Attempt(NamedTuple):
    """Asks to record an attempt."""

    outcome: str
    evidence: dict[str, Any]
    before_state: Any
    after_state: Any
    attempt: int
    note: str


def verified_action(
    action_fn: Callable[[], Any],
    verify_fn: Callable[[], Any],
    session: Session,
    action_type: str,
    kernel: str,
    via_edge: str | None = None,
    intent: Any = None,
    max_attempts: int = 3,
    settle_delay: float = 0.5,
    capture_state_fn: Callable[[], Any] | None = None,
) -> bool:
    """Do something until a look at it says that it worked; whether it did, within `max_attempts`.

    Each attempt: capture the state, act, wait `settle_delay` seconds, capture the state, check; recorded as
    `verified`, `retry` (the check said no, attempts remain) or `failed` (the last attempt, or something
    raised, which is tried again, too). Before another attempt it waits as long again. What `verify_fn`
    returns counts by its truth, and stands in the evidence if it is not plain true or false. A capture that
    raises leaves the state out. Raises InvalidEvent, InvalidUrn and SessionEnded before anything is done;
    RecordingFailed with the ActionRecord if an attempt could not be recorded.
    """
    _check_session(session, Session, "verified_action_async")
    name, kernel_urn = _check(session, action_type, kernel, via_edge, max_attempts, settle_delay)
    meant = _detached(intent)

    def perform(request: Call | Wait | Attempt) -> Any:
        match request:
            case Wait(seconds):
                time.sleep(seconds)
            case Attempt():
                try:
                    session.record_action(
                        name, kernel=kernel_urn, via_edge=via_edge, intent=meant, **request._asdict()
                    )
                except SessionEnded as ended:  # closed by someone else meanwhile
                    raise RecordingFailed(ended, [ended.record]) from ended
            case Call.CAPTURE:
                return None if capture_state_fn is None else _not_awaitable(capture_state_fn())
            case Call.ACT:
                return _not_awaitable(action_fn())
            case Call.CHECK:
                return _not_awaitable(verify_fn())
        return None

    return run(_attempts(max_attempts, settle_delay), perform)


async def verified_action_async(
    action_fn: Callable[[], Any],
    verify_fn: Callable[[], Any],
    session: AsyncSession,
    action_type: str,
    kernel: str,
    via_edge: str | None = None,
    intent: Any = None,
    max_attempts: int = 3,
    settle_delay: float = 0.5,
    capture_state_fn: Callable[[], Any] | None = None,
) -> bool:
    """`verified_action` for asyncio; each function may be async or not. A cancellation is recorded, too."""
    _check_session(session, AsyncSession, "verified_action")
    name, kernel_urn = _check(session, action_type, kernel, via_edge, max_attempts, settle_delay)
    meant = _detached(intent)

    async def perform(request: Call | Wait | Attempt) -> Any:
        match request:
            case Wait(seconds):
                await asyncio.sleep(seconds)
            case Attempt():
                try:
                    await session.record_action(
                        name, kernel=kernel_urn, via_edge=via_edge, intent=meant, **request._asdict()
                    )
                except SessionEnded as ended:
                    raise RecordingFailed(ended, [ended.record]) from ended
            case Call.CAPTURE:
                return None if capture_state_fn is None else await _awaited(capture_state_fn())
            case Call.ACT:
                return await _awaited(action_fn())
            case Call.CHECK:
                return await _awaited(verify_fn())
        return None

    return await run_async(_attempts(max_attempts, settle_delay), perform)


def _not_awaitable(value: Any) -> Any:
    """Refuse what only `await` would carry out, and what would count as true because it is an object."""
    if not inspect.isawaitable(value):
        return value
    if inspect.iscoroutine(value):
        value.close()
    raise TypeError("the function is async: use verified_action_async, with an AsyncSession")


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _check_session(session: object, wanted: type, other: str) -> None:
    if not isinstance(session, wanted):
        raise InvalidEvent(
            "session", f"expected a {wanted.__name__}, got {type(session).__name__}", f"or use {other}"
        )


def _check(
    session: Session | AsyncSession,
    action_type: str,
    kernel: str,
    via_edge: str | None,
    max_attempts: int,
    settle_delay: float,
) -> tuple[str, str]:
    """Refuse, before anything is done, what could not be recorded afterwards; name and kernel's URN."""
    if type(max_attempts) is not int or max_attempts < 1:
        raise InvalidEvent("max_attempts", f"{max_attempts!r} is no number of attempts", "give 1 or more")
    if not isinstance(settle_delay, (int, float)) or not 0 <= settle_delay < float("inf"):
        raise InvalidEvent("settle_delay", f"{settle_delay!r} is no number of seconds", "give 0 or more")
    session.check_open()
    return session.check_action(action_type, kernel, via_edge)


# -- the attempts --------------------------------------------------------------------------


def _attempts(max_attempts: int, settle_delay: float) -> Steps[bool]:
    for attempt in range(1, max_attempts + 1):
        if attempt > 1 and settle_delay:
            yield Wait(settle_delay)
        if (yield from _attempt(attempt, attempt == max_attempts, settle_delay)):
            return True
    return False


def _attempt(attempt: int, last: bool, settle_delay: float) -> Steps[bool]:
    """One attempt and its record; whether it was verified."""
    states = _States()
    yield from states.capture("before")
    doing = Call.ACT
    try:
        yield Call.ACT
        doing = Call.CHECK
        if settle_delay:
            yield Wait(settle_delay)
        yield from states.capture("after")
        answer = yield Call.CHECK
        verified = bool(answer)
    except GeneratorExit:  # the coroutine is thrown away; nothing can be awaited any more
        raise
    except Exception as error:
        evidence = _error(error, doing)
        what = "the action raised" if doing is Call.ACT else "the check raised after the action was done"
        note = f"{what}: {evidence['exception_type']}: {evidence['error']}"
        yield states.attempt(records.FAILED, evidence, attempt, note)
        return False
    except BaseException as error:  # an interrupt or a cancellation goes on, once what was done is recorded
        what = "interrupted in the action" if doing is Call.ACT else "interrupted before it was checked"
        try:
            yield states.attempt(records.FAILED, _error(error, doing), attempt, what)
        except TallyError as lost:
            error.add_note(str(lost))
        raise
    evidence = {"verified": verified} | ({} if isinstance(answer, bool) else {"result": answer})
    if verified:
        yield states.attempt(records.VERIFIED, evidence, attempt, "")
    elif last:
        yield states.attempt(records.FAILED, evidence, attempt, "the check said no on the last attempt")
    else:
        yield states.attempt(records.RETRY, evidence, attempt, "the check said no, trying again")
    return verified


def _error(error: BaseException, raised_by: Call) -> dict[str, Any]:
    """The evidence of an attempt in which something raised."""
    return {
        "error": text_of(lambda: str(error), "?"),
        "exception_type": type(error).__name__,
        "raised_by": raised_by.value,
    }


class _States:
    """What was captured around one attempt."""

    def __init__(self) -> None:
        self._captured: dict[str, Any] = {}
        self._trouble: list[str] = []

    def capture(self, when: str) -> Steps[None]:
        try:
            state = yield Call.CAPTURE
        except Exception as error:
            self._trouble.append(f"the state {when} could not be captured ({type(error).__name__})")
        else:
            self._captured[when] = _detached(state)

    def attempt(self, outcome: str, evidence: dict[str, Any], attempt: int, note: str) -> Attempt:
        """The attempt, to be recorded."""
        before, after = self._captured.get("before"), self._captured.get("after")
        return Attempt(
            outcome, evidence, before, after, attempt, "; ".join(filter(None, [note, *self._trouble]))
        )


def _detached(value: Any) -> Any:
    """The value as it is now, whatever the action does to it: its JSON snapshot, or else a copy if it can."""
    if value is None:
        return None
    kept = capture(value)
    if not kept.placeholders:
        return kept.value
    try:
        return copy.deepcopy(value)
    except Exception:
        return value
