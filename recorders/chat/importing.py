"""Conversations in the OpenAI chat format into a ledger, each in one commit, each once.

`conversation` makes the events. A session's id is a digest of its conversation, so one that is there already
is left as it is: an import that was interrupted is completed by running it again. A session that was left in
progress is closed by an import that finds its outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tallystick.events import session
from tallystick.ledger.errors import InvalidEvent, PositionConflict
from tallystick.ledger.ledger import Ledger

from ..errors import SessionTaken
from ..session.core import DEFAULT_RETENTION_HOURS
from ..session.records import COMPLETE, SESSION_FAILED
from ..session.urn import kernel_urn
from .conversation import (
    DEFAULT_KERNEL,
    RETENTION_HOURS_MAX,
    ChatCounts,
    ChatOptions,
    identify,
    session_of,
)


class ChatSummary(msgspec.Struct, kw_only=True):
    """What an import did.

    imported: sessions that were not there before. known: those that were. closed: of those, the ones that an
    earlier import had left in progress and this one could close. complete, failed, in_progress: how the
    imported ones ended, and those closed. counts: what the imported ones held.
    """

    imported: int = 0
    known: int = 0
    closed: int = 0
    complete: int = 0
    failed: int = 0
    in_progress: int = 0
    counts: ChatCounts = msgspec.field(default_factory=ChatCounts)


class ChatImporter:
    """Imports conversations one at a time and keeps count in `summary`."""

    def __init__(self, ledger: Ledger, options: ChatOptions) -> None:
        """Raises InvalidUrn and InvalidEvent for options that cannot be."""
        hours = options.retention_hours
        if type(hours) is not int or not 0 <= hours <= RETENTION_HOURS_MAX:
            raise InvalidEvent("retention_hours", f"{hours!r} is no number of hours", "give 0 or more")
        self.summary = ChatSummary()
        self._ledger = ledger
        self._options = msgspec.structs.replace(options, kernel=kernel_urn(options.kernel))

    def add(self, conversation: Any) -> str:
        """Import a conversation unless it is there already; the session's id.

        Raises BadConversation, SessionTaken and what `Ledger.record` does; nothing of it is recorded then.
        """
        session_id, digest = identify(conversation)
        if self._is_known(session_id, digest):
            self.summary.known += 1
            if self._options.outcome is not None:
                self._close(conversation, session_id, digest)
            return session_id
        made = session_of(conversation, self._options, (session_id, digest))
        try:
            # Durable when this returns, all of the session's events; a crash before leaves none.
            self._ledger.record(made.events, expect=(session.STREAM_PREFIX + session_id, 0))
        except PositionConflict:  # another import of the same conversation came first
            if not self._is_known(session_id, digest):
                raise
            self.summary.known += 1
            return session_id
        self.summary.imported += 1
        self.summary.complete += made.outcome == COMPLETE
        self.summary.failed += made.outcome == SESSION_FAILED
        self.summary.in_progress += made.outcome is None
        self.summary.counts.add(made.counts)
        return session_id

    def _close(self, conversation: Any, session_id: str, digest: str) -> None:
        """Close a session whose outcome an earlier import did not find, unless somebody goes on with it."""
        stream = session.STREAM_PREFIX + session_id
        rows = list(self._ledger.rows(stream=stream))
        if rows[-1].kind == session.CLOSED:
            return
        made = session_of(conversation, self._options, (session_id, digest))
        if made.outcome is None or len(rows) != len(made.events) - 1:
            return
        try:
            self._ledger.record(made.events[-1:], expect=(stream, rows[-1].seq))
        except PositionConflict:  # somebody goes on with it
            return
        self.summary.closed += 1
        self.summary.complete += made.outcome == COMPLETE
        self.summary.failed += made.outcome == SESSION_FAILED

    def _is_known(self, session_id: str, digest: str) -> bool:
        """Whether the ledger holds this conversation; SessionTaken if something else stands in its place."""
        first = next(self._ledger.read(stream=session.STREAM_PREFIX + session_id, limit=1), None)
        if first is None:
            return False
        if first.kind != session.STARTED or not (first.erased or _digest_in(first.body) == digest):
            raise SessionTaken(session_id, first.seq)
        return True


def _digest_in(body: Any) -> Any:
    """The digest that a `session.started` of an import holds; None for any other body."""
    for name in ("derived", "source", "digest"):
        body = body.get(name) if isinstance(body, dict) else None
    return body


def import_chat(
    ledger: Ledger,
    conversations: Iterable[Any],
    *,
    outcome: str | None = None,
    label: str | None = None,
    kernel: str = DEFAULT_KERNEL,
    retention_hours: int = DEFAULT_RETENTION_HOURS,
) -> ChatSummary:
    """Import conversations (objects with `messages` in the OpenAI chat format) as sessions.

    Importing one again adds nothing, but for the end of a session that was left in progress, if `outcome` now
    names a field that tells it. The arguments are those of ChatOptions. On an error the conversations
    before stay imported. Raises BadConversation, SessionTaken and what `Ledger.record` does.
    """
    importer = ChatImporter(
        ledger, ChatOptions(outcome=outcome, label=label, kernel=kernel, retention_hours=retention_hours)
    )
    for conversation in conversations:
        importer.add(conversation)
    return importer.summary
