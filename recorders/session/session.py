"""Sessions: what an agent did, in order, with its outcome (contracts S1 to S3).

    with Session.start(ledger, "nightly refunds", kernel="ckp://Kernel#Refunds:v1.0") as session:
        session.record_action("refund.issue", "verified", evidence={"receipt": "R-81"})

A session is a stream of the ledger, `session:<id>`. `Session` and `AsyncSession` carry out the
procedures of `session_core`; a `Kernel` may record in the same stream.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Final, Self, TextIO, TypeVar

from tallystick.events import session as bodies
from tallystick.ledger.aio import AsyncLedger
from tallystick.ledger.errors import TallyError
from tallystick.ledger.event import Receipt
from tallystick.ledger.ledger import Ledger
from tallystick.projections.errors import NoSuchId

from ..steps import Steps, run, run_async
from . import core
from .core import Clocks, SessionCore
from .inputs import prepared_action, prepared_message
from .live import show_live
from .progress import Progress
from .records import (
    IN_PROGRESS,
    SESSION_FAILED,
    ActionRecord,
    MessageRecord,
    SessionSummary,
    action_of,
)
from .sessions import find_session_id

_CLOCKS: Final = Clocks()
R = TypeVar("R")


class _Handle:
    """What both kinds of session say of themselves."""

    def __init__(self, recording: SessionCore, live: bool, out: TextIO | None) -> None:
        self._core = recording
        self._live = live
        self._out = out

    @property
    def session_id(self) -> str:
        """Short, unique in the ledger."""
        return self._core.about.session_id

    @property
    def urn(self) -> str:
        return self._core.about.urn

    @property
    def label(self) -> str:
        return self._core.about.label

    @property
    def kernel(self) -> str:
        """URN of the kernel that it is associated with."""
        return self._core.about.kernel

    @property
    def action(self) -> str:
        """The action that began it."""
        return self._core.about.action

    @property
    def retention_hours(self) -> int:
        return self._core.about.retention_hours

    @property
    def stream(self) -> str:
        """The stream of its events; a `Kernel` given it records in the session."""
        return self._core.stream

    @property
    def started_at(self) -> dt.datetime:
        return self._core.summary.started_at

    @property
    def ended_at(self) -> dt.datetime | None:
        """None until it is closed."""
        return self._core.summary.ended_at

    @property
    def duration_ms(self) -> float | None:
        """Milliseconds from start to end; None until it is closed."""
        return self._core.summary.duration_ms

    @property
    def outcome(self) -> str:
        """`in_progress`, `complete`, `partial` or `failed`."""
        return self._core.progress.outcome

    @property
    def kernels(self) -> tuple[str, ...]:
        """URNs of the kernels involved so far, sorted."""
        return tuple(sorted(self._core.progress.kernels))

    @property
    def action_count(self) -> int:
        """How many actions were recorded so far."""
        return self._core.progress.actions

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id} {self.outcome}, {self.action_count} actions>"

    def check_open(self) -> None:
        """Raise SessionEnded if nothing more can be recorded."""
        self._core.check_open()

    def check_action(self, action_type: str, kernel: str, via_edge: str | None) -> tuple[str, str]:
        """Action type and kernel's URN as they will be recorded. Raises InvalidEvent, InvalidUrn."""
        return self._core.checked(action_type, kernel, via_edge)

    def _show(self, action: ActionRecord) -> None:
        if self._live:
            show_live(action, self._out)


class Session(_Handle, AbstractContextManager["Session"]):
    """A session being recorded. `Session.start` and `Session.resume` make one; threads may share it.

    Leaving its `with` block closes it; on an exception as failed, with the exception recorded.
    """

    def __init__(self, ledger: Ledger, recording: SessionCore, live: bool, out: TextIO | None) -> None:
        super().__init__(recording, live, out)
        self.ledger = ledger
        self._lock = threading.Lock()

    @classmethod
    def start(
        cls,
        ledger: Ledger,
        label: str,
        kernel: str = core.DEFAULT_KERNEL,
        action: str = "",
        retention_hours: int = core.DEFAULT_RETENTION_HOURS,
        *,
        live: bool = False,
        out: TextIO | None = None,
        clocks: Clocks = _CLOCKS,
    ) -> Self:
        """Start a session; it is in the ledger when this returns.

        kernel: a short name or a URN. action: the action that begins it. retention_hours: how long after
        its end `tally retention` leaves its bodies alone. live: a line per action on `out` (stderr).
        Raises InvalidEvent, InvalidUrn, and what the ledger's `append` raises.
        """
        steps = core.started(clocks, label, kernel, action, retention_hours)
        return cls(ledger, run(steps, lambda request: _perform(ledger, request)), live, out)

    @classmethod
    def resume(
        cls,
        ledger: Ledger,
        session_id: str,
        *,
        live: bool = False,
        out: TextIO | None = None,
        clocks: Clocks = _CLOCKS,
    ) -> Self:
        """Go on with a session in progress, after a crash say: numbers follow those recorded.

        session_id: whole, or as much of it as no other id begins with. Other handles may go on, too;
        nothing is recorded under a number twice. Raises NoSuchId, AmbiguousPrefix, SessionEnded.
        """
        try:
            steps = core.resumed(clocks, session_id)
            return cls(ledger, run(steps, lambda request: _perform(ledger, request)), live, out)
        except NoSuchId:
            steps = core.resumed(clocks, find_session_id(ledger, session_id))
            return cls(ledger, run(steps, lambda request: _perform(ledger, request)), live, out)

    def record_action(
        self,
        action_type: str,
        outcome: str,
        kernel: str = "",
        via_edge: str | None = None,
        intent: Any = None,
        evidence: Any = None,
        before_state: Any = None,
        after_state: Any = None,
        attempt: int = 1,
        note: str = "",
    ) -> ActionRecord:
        """Record what was done and what came of it (contract S2); durable when this returns.

        kernel: a short name or URN; default the session's. intent, evidence and states: any values, kept as
        JSON as far as they are. Raises InvalidEvent, InvalidUrn, SessionEnded; RecordingFailed, whose
        `result` is the ActionRecord that was lost.
        """
        name, kernel_urn = self.check_action(action_type, kernel, via_edge)
        prepared = prepared_action(
            self.session_id,
            name,
            outcome,
            kernel_urn,
            via_edge,
            intent,
            evidence,
            before_state,
            after_state,
            attempt,
            note,
        )
        with self._lock:
            action = self._run(self._core.record_action(prepared))
            self._show(action)
        return action

    def message(
        self,
        role: str,
        content: Any,
        *,
        name: str | None = None,
        tool_calls: Iterable[bodies.ToolCall | Mapping[str, Any]] = (),
        tool_call_id: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> MessageRecord:
        """Record a turn of a conversation, in the session's stream. Raises as `record_action` does."""
        prepared = prepared_message(self.session_id, role, content, name, tool_calls, tool_call_id, extra)
        with self._lock:
            return self._run(self._core.record_message(prepared))

    def close(self, outcome: str = "") -> SessionSummary:
        """End the session as `complete`, `partial` or `failed`; without a word, as its actions say (S3).

        Again with the same outcome, or none: the same summary. Raises InvalidEvent, SessionEnded,
        RecordingFailed.
        """
        with self._lock:
            return self._run(self._core.close(outcome))

    def actions(self) -> list[ActionRecord]:
        """Its actions in order, read from the ledger; not those that wait in a batch, nor erased ones."""
        events = self.ledger.read(stream=self.stream, kinds=[bodies.ACTION_RECORDED])
        return [action_of(event) for event in events if not event.erased]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.outcome != IN_PROGRESS:
            return
        if error is None:
            self.close()
            return
        try:
            with self._lock:
                self._run(self._core.close(SESSION_FAILED, error))
        except TallyError as failed:
            error.add_note(f"session {self.session_id} could not be closed: {failed}")

    def _run(self, steps: Steps[R]) -> R:
        return run(steps, lambda request: _perform(self.ledger, request))


def _perform(ledger: Ledger, request: core.Append | core.ReadOn) -> list[Receipt] | Progress | None:
    if isinstance(request, core.Append):
        return ledger.record([request.event], expect=request.expect, result=request.result)
    progress = request.progress
    for event in ledger.read(progress.position, stream=request.stream):
        progress = progress.after(event)
    return progress


class AsyncSession(_Handle, AbstractAsyncContextManager["AsyncSession"]):
    """`Session` for asyncio; tasks may share it.

    async with await AsyncSession.start(ledger, "nightly refunds") as session: ...
    """

    def __init__(self, ledger: AsyncLedger, recording: SessionCore, live: bool, out: TextIO | None) -> None:
        super().__init__(recording, live, out)
        self.ledger = ledger
        self._lock = asyncio.Lock()

    @classmethod
    async def start(
        cls,
        ledger: AsyncLedger,
        label: str,
        kernel: str = core.DEFAULT_KERNEL,
        action: str = "",
        retention_hours: int = core.DEFAULT_RETENTION_HOURS,
        *,
        live: bool = False,
        out: TextIO | None = None,
        clocks: Clocks = _CLOCKS,
    ) -> Self:
        """See Session.start."""
        steps = core.started(clocks, label, kernel, action, retention_hours)
        recording = await run_async(steps, lambda request: _perform_async(ledger, request))
        return cls(ledger, recording, live, out)

    @classmethod
    async def resume(
        cls,
        ledger: AsyncLedger,
        session_id: str,
        *,
        live: bool = False,
        out: TextIO | None = None,
        clocks: Clocks = _CLOCKS,
    ) -> Self:
        """See Session.resume."""
        try:
            steps = core.resumed(clocks, session_id)
            recording = await run_async(steps, lambda request: _perform_async(ledger, request))
        except NoSuchId:
            whole = await asyncio.to_thread(find_session_id, ledger.ledger, session_id)
            steps = core.resumed(clocks, whole)
            recording = await run_async(steps, lambda request: _perform_async(ledger, request))
        return cls(ledger, recording, live, out)

    async def record_action(
        self,
        action_type: str,
        outcome: str,
        kernel: str = "",
        via_edge: str | None = None,
        intent: Any = None,
        evidence: Any = None,
        before_state: Any = None,
        after_state: Any = None,
        attempt: int = 1,
        note: str = "",
    ) -> ActionRecord:
        """See Session.record_action. If it is cancelled while it waits, the action may be in the ledger."""
        name, kernel_urn = self.check_action(action_type, kernel, via_edge)
        prepared = prepared_action(
            self.session_id,
            name,
            outcome,
            kernel_urn,
            via_edge,
            intent,
            evidence,
            before_state,
            after_state,
            attempt,
            note,
        )
        async with self._lock:
            action = await self._run(self._core.record_action(prepared))
            self._show(action)
        return action

    async def message(
        self,
        role: str,
        content: Any,
        *,
        name: str | None = None,
        tool_calls: Iterable[bodies.ToolCall | Mapping[str, Any]] = (),
        tool_call_id: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> MessageRecord:
        """See Session.message."""
        prepared = prepared_message(self.session_id, role, content, name, tool_calls, tool_call_id, extra)
        async with self._lock:
            return await self._run(self._core.record_message(prepared))

    async def close(self, outcome: str = "") -> SessionSummary:
        """See Session.close."""
        async with self._lock:
            return await self._run(self._core.close(outcome))

    async def actions(self) -> list[ActionRecord]:
        """See Session.actions."""
        events = self.ledger.read(stream=self.stream, kinds=[bodies.ACTION_RECORDED])
        return [action_of(event) async for event in events if not event.erased]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.outcome != IN_PROGRESS:
            return
        if error is None:
            await self.close()
            return
        try:
            async with self._lock:
                await self._run(self._core.close(SESSION_FAILED, error))
        except TallyError as failed:
            error.add_note(f"session {self.session_id} could not be closed: {failed}")

    async def _run(self, steps: Steps[R]) -> R:
        return await run_async(steps, lambda request: _perform_async(self.ledger, request))


async def _perform_async(
    ledger: AsyncLedger, request: core.Append | core.ReadOn
) -> list[Receipt] | Progress | None:
    if isinstance(request, core.Append):
        return await ledger.record([request.event], expect=request.expect, result=request.result)
    progress = request.progress
    async for event in ledger.read(progress.position, stream=request.stream):
        progress = progress.after(event)
    return progress
