"""The layer `digest`: what a body says of itself, and of the events that it names, derived again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from tallystick.events import gateway, kernel, session
from tallystick.events import projection as projections
from tallystick.ledger import records
from tallystick.ledger.event import Row
from tallystick.ledger.kinds import RESERVED_AREAS

from .checks import ERASED, Body, Checks, Past, Unreadable, check_form
from .digest_gateway import check_decision, check_labeled, check_memory, check_policy, check_said
from .digest_kernel import check_execution, check_pipeline
from .digest_session import Sessions

_Check = Callable[[Checks, Row, Body, Past], None]


def _check_created(checks: Checks, row: Row, body: Body, past: Past) -> None:
    checks.true("place", row.seq == 1, 1, row.seq, "event 1 alone is ledger.created")
    checks.equal("stream", records.STREAM, row.stream)


def _check_erased(checks: Checks, row: Row, body: Body, past: Past) -> None:
    """The record of an erasure against the event that it names."""
    struct: records.BodyErased = body.struct
    checks.equal("stream", records.STREAM, row.stream)
    named = past.row(struct.seq) if struct.seq < row.seq else None
    if named is None:
        checks.wrong("seq", f"there is no earlier event {struct.seq}")
        return
    checks.equal("body_hash", named.body_hash.hex(), struct.body_hash, f"of event {struct.seq}")
    checks.true("erased", named.body is None, "no body", "a body", f"event {struct.seq}")


def _check_sealed(checks: Checks, row: Row, body: Body, past: Past) -> None:
    """What a seal says of itself; its digest is for the layer `view`."""
    struct: projections.ProjectionSealed = body.struct
    checks.equal("stream", projections.projection_stream(struct.name), row.stream)
    checks.true("seq", 0 <= struct.seq < row.seq, "an earlier event", struct.seq)


_CHECKS: Final[Mapping[str, _Check]] = {
    records.CREATED: _check_created,
    records.BODY_ERASED: _check_erased,
    kernel.EXECUTED: check_execution,
    kernel.PIPELINE_COMPLETED: check_pipeline,
    gateway.POLICY_REGISTERED: check_policy,
    gateway.RECORDED: check_decision,
    gateway.LABELED: check_labeled,
    gateway.OUTCOME: check_said,
    gateway.NOTED: check_said,
    gateway.OVERRIDDEN: check_said,
    gateway.MEMORY_ADDED: check_memory,
    projections.SEALED: _check_sealed,
}
UNKNOWN_KIND: Final = "it is of a built-in kind that this program does not know"
_SESSIONS: Final = frozenset(
    {session.STARTED, session.CLOSED, session.EXPIRED, session.ACTION_RECORDED, session.MESSAGE_RECORDED}
)


class Digests:
    """Derives again what the bodies of the built-in kinds hold."""

    def __init__(self, past: Past) -> None:
        self._past = past
        self._sessions = Sessions(past)

    def check(self, checks: Checks, row: Row, body: Body | Unreadable) -> None:
        """Check one event of a built-in kind."""
        if isinstance(body, Unreadable):
            if body.malformed:
                checks.wrong("body", body.reason)
            else:
                checks.cannot("body", body.reason)
            if body.reason == ERASED:
                check_form(checks, row, None)
        else:
            check_form(checks, row, body)
        if row.kind in _SESSIONS:
            self._sessions.check(checks, row, body)
        elif isinstance(body, Body):
            _CHECKS[row.kind](checks, row, body, self._past)


def check_other(checks: Checks, row: Row) -> None:
    """What can be said of an event whose kind is an app's own, or a later program's."""
    if row.kind.partition(".")[0] in RESERVED_AREAS:
        checks.cannot("body", UNKNOWN_KIND)
    check_form(checks, row, None)


def observed_fields(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """The fields of the `observed` half of a body; empty if it has none."""
    for field in msgspec.structs.fields(struct):
        if field.name == "observed":
            inner: type[msgspec.Struct] = field.type
            return inner.__struct_fields__
    return ()
