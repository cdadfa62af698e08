"""Every built-in kind and the struct of its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from . import gateway, kernel, ledger, projection, session

KINDS: Final[Mapping[str, type[msgspec.Struct]]] = {
    ledger.CREATED: ledger.LedgerCreated,
    ledger.BODY_ERASED: ledger.BodyErased,
    kernel.EXECUTED: kernel.KernelExecuted,
    kernel.PIPELINE_COMPLETED: kernel.PipelineCompleted,
    session.STARTED: session.SessionStarted,
    session.CLOSED: session.SessionClosed,
    session.EXPIRED: session.SessionExpired,
    session.ACTION_RECORDED: session.ActionRecorded,
    session.MESSAGE_RECORDED: session.MessageRecorded,
    gateway.POLICY_REGISTERED: gateway.PolicyRegistered,
    gateway.RECORDED: gateway.DecisionRecorded,
    gateway.LABELED: gateway.DecisionLabeled,
    gateway.OUTCOME: gateway.DecisionOutcome,
    gateway.NOTED: gateway.DecisionNoted,
    gateway.OVERRIDDEN: gateway.DecisionOverridden,
    gateway.MEMORY_ADDED: gateway.MemoryAdded,
    projection.SEALED: projection.ProjectionSealed,
}
