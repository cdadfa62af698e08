"""Tallystick: a tamper-evident, replayable event ledger.

The names in `__all__` are the public API. Each loads its module on first use, so that
`import tallystick` costs next to nothing. A new name goes in three places here, which a
test holds together: the imports that type checkers read, `__all__`, and `_EXPORTS`.
"""

from importlib import import_module

TYPE_CHECKING = False  # known to type checkers by its name; loading `typing` for it would cost the most here

if TYPE_CHECKING:
    from tallystick._version import __version__
    from tallystick.ledger.aio import AsyncLedger
    from tallystick.ledger.errors import (
        BadHead,
        BadLine,
        BodyTooLarge,
        Closed,
        Conflict,
        Corrupt,
        HistoryReplaced,
        Interfered,
        InvalidEvent,
        KeyConflict,
        LedgerMoved,
        LedgerNotFound,
        Locked,
        LogRemoved,
        MalformedEvent,
        NewerFormat,
        NoSuchEvent,
        NotALedger,
        NotCanonical,
        NotErasable,
        OutcomeUnknown,
        PositionConflict,
        RecordingFailed,
        ReservedKind,
        StoreError,
        TailLost,
        TallyError,
        TracesRemain,
        Unavailable,
        WrongHeadFile,
    )
    from tallystick.ledger.event import Event, Head, NewEvent, Receipt, Row
    from tallystick.ledger.ledger import Ledger
    from tallystick.ledger.memory import MemoryStore
    from tallystick.ledger.portable import import_lines
    from tallystick.ledger.sqlite.store import Durability, SQLiteStore
    from tallystick.ledger.store import Store
    from tallystick.ledger.verify import Report, Verdict
    from tallystick.ledger.walk import Finding, Problem
    from tallystick.projections.builtin import BUILT_IN
    from tallystick.projections.digest import ProjectionDigest
    from tallystick.projections.engine import ViewStatus
    from tallystick.projections.errors import (
        AlteredViews,
        AmbiguousPrefix,
        BadProjection,
        BadRow,
        NoSuchId,
        NotViews,
        ProjectionFailed,
    )
    from tallystick.projections.projection import Projection, Table
    from tallystick.projections.sealing import seal_projections
    from tallystick.projections.search import SearchHit
    from tallystick.projections.tables import Tables
    from tallystick.projections.views import Views, views_of
    from tallystick.recorders.chat.conversation import ChatCounts
    from tallystick.recorders.chat.importing import ChatSummary, import_chat
    from tallystick.recorders.errors import (
        BadConversation,
        FrozenMetadata,
        InvalidCall,
        InvalidPsi,
        InvalidUrn,
        SessionEnded,
        SessionNotExpirable,
        SessionTaken,
        TaskTaken,
    )
    from tallystick.recorders.gateway.errors import (
        DecisionAltered,
        DecisionErased,
        InvalidDecisionEvent,
        InvalidPolicy,
        InvalidRequest,
        NoSuchDecision,
        NotTrusted,
        PolicyNotFound,
        RequestConflict,
    )
    from tallystick.recorders.gateway.gateway import Gateway, decide
    from tallystick.recorders.gateway.policy import Policy
    from tallystick.recorders.gateway.record import DecisionRecord
    from tallystick.recorders.gateway.request import DecisionRequest
    from tallystick.recorders.gateway.stages import DecisionVerdict
    from tallystick.recorders.kernel.cael import CAEL, CaelResult
    from tallystick.recorders.kernel.kernel import Kernel
    from tallystick.recorders.kernel.psi import PsiDefinition
    from tallystick.recorders.kernel.trace import ExecutionTrace, FailureCode
    from tallystick.recorders.session.records import (
        ActionRecord,
        MessageRecord,
        SessionRecord,
        SessionSummary,
    )
    from tallystick.recorders.session.retention import expire, expired_sessions
    from tallystick.recorders.session.session import AsyncSession, Session
    from tallystick.recorders.session.sessions import get_session, list_sessions
    from tallystick.recorders.session.verified import verified_action, verified_action_async
    from tallystick.replay.backtest.backtest import backtest
    from tallystick.replay.backtest.report import BacktestReport
    from tallystick.replay.backtest.where import Where
    from tallystick.replay.diff.decisions import DecisionDiff, diff_decisions
    from tallystick.replay.errors import BadSelection, MalformedDecision, TasksNotFound
    from tallystick.replay.incident.check import IncidentCheck, check_incident
    from tallystick.replay.incident.errors import BadIncident
    from tallystick.replay.incident.incident import Incident, write_incident
    from tallystick.replay.rendering.html import report_html
    from tallystick.replay.rendering.story import Moment, moments_of
    from tallystick.replay.report import ReplayReport
    from tallystick.replay.run import replay_ledger
    from tallystick.replay.selection import Selection

__all__ = [
    "BUILT_IN",
    "CAEL",
    "ActionRecord",
    "AlteredViews",
    "AmbiguousPrefix",
    "AsyncLedger",
    "AsyncSession",
    "BacktestReport",
    "BadConversation",
    "BadHead",
    "BadIncident",
    "BadLine",
    "BadProjection",
    "BadRow",
    "BadSelection",
    "BodyTooLarge",
    "CaelResult",
    "ChatCounts",
    "ChatSummary",
    "Closed",
    "Conflict",
    "Corrupt",
    "DecisionAltered",
    "DecisionDiff",
    "DecisionErased",
    "DecisionRecord",
    "DecisionRequest",
    "DecisionVerdict",
    "Durability",
    "Event",
    "ExecutionTrace",
    "FailureCode",
    "Finding",
    "FrozenMetadata",
    "Gateway",
    "Head",
    "HistoryReplaced",
    "Incident",
    "IncidentCheck",
    "Interfered",
    "InvalidCall",
    "InvalidDecisionEvent",
    "InvalidEvent",
    "InvalidPolicy",
    "InvalidPsi",
    "InvalidRequest",
    "InvalidUrn",
    "Kernel",
    "KeyConflict",
    "Ledger",
    "LedgerMoved",
    "LedgerNotFound",
    "Locked",
    "LogRemoved",
    "MalformedDecision",
    "MalformedEvent",
    "MemoryStore",
    "MessageRecord",
    "Moment",
    "NewEvent",
    "NewerFormat",
    "NoSuchDecision",
    "NoSuchEvent",
    "NoSuchId",
    "NotALedger",
    "NotCanonical",
    "NotErasable",
    "NotTrusted",
    "NotViews",
    "OutcomeUnknown",
    "Policy",
    "PolicyNotFound",
    "PositionConflict",
    "Problem",
    "Projection",
    "ProjectionDigest",
    "ProjectionFailed",
    "PsiDefinition",
    "Receipt",
    "RecordingFailed",
    "ReplayReport",
    "Report",
    "RequestConflict",
    "ReservedKind",
    "Row",
    "SQLiteStore",
    "SearchHit",
    "Selection",
    "Session",
    "SessionEnded",
    "SessionNotExpirable",
    "SessionRecord",
    "SessionSummary",
    "SessionTaken",
    "Store",
    "StoreError",
    "Table",
    "Tables",
    "TailLost",
    "TallyError",
    "TaskTaken",
    "TasksNotFound",
    "TracesRemain",
    "Unavailable",
    "Verdict",
    "ViewStatus",
    "Views",
    "Where",
    "WrongHeadFile",
    "__version__",
    "backtest",
    "check_incident",
    "decide",
    "diff_decisions",
    "expire",
    "expired_sessions",
    "get_session",
    "import_chat",
    "import_lines",
    "list_sessions",
    "moments_of",
    "replay_ledger",
    "report_html",
    "seal_projections",
    "verified_action",
    "verified_action_async",
    "views_of",
    "write_incident",
]

# Public name -> the module that defines it.
_EXPORTS: dict[str, str] = {
    "__version__": "tallystick._version",
    "AsyncLedger": "tallystick.ledger.aio",
    "BadHead": "tallystick.ledger.errors",
    "BadLine": "tallystick.ledger.errors",
    "BodyTooLarge": "tallystick.ledger.errors",
    "Closed": "tallystick.ledger.errors",
    "Conflict": "tallystick.ledger.errors",
    "Corrupt": "tallystick.ledger.errors",
    "HistoryReplaced": "tallystick.ledger.errors",
    "Interfered": "tallystick.ledger.errors",
    "InvalidEvent": "tallystick.ledger.errors",
    "KeyConflict": "tallystick.ledger.errors",
    "LedgerMoved": "tallystick.ledger.errors",
    "LogRemoved": "tallystick.ledger.errors",
    "LedgerNotFound": "tallystick.ledger.errors",
    "Locked": "tallystick.ledger.errors",
    "MalformedEvent": "tallystick.ledger.errors",
    "NewerFormat": "tallystick.ledger.errors",
    "NoSuchEvent": "tallystick.ledger.errors",
    "NotALedger": "tallystick.ledger.errors",
    "NotCanonical": "tallystick.ledger.errors",
    "NotErasable": "tallystick.ledger.errors",
    "OutcomeUnknown": "tallystick.ledger.errors",
    "PositionConflict": "tallystick.ledger.errors",
    "RecordingFailed": "tallystick.ledger.errors",
    "ReservedKind": "tallystick.ledger.errors",
    "StoreError": "tallystick.ledger.errors",
    "TailLost": "tallystick.ledger.errors",
    "TallyError": "tallystick.ledger.errors",
    "TracesRemain": "tallystick.ledger.errors",
    "Unavailable": "tallystick.ledger.errors",
    "WrongHeadFile": "tallystick.ledger.errors",
    "Event": "tallystick.ledger.event",
    "Head": "tallystick.ledger.event",
    "NewEvent": "tallystick.ledger.event",
    "Receipt": "tallystick.ledger.event",
    "Row": "tallystick.ledger.event",
    "Ledger": "tallystick.ledger.ledger",
    "MemoryStore": "tallystick.ledger.memory",
    "Durability": "tallystick.ledger.sqlite.store",
    "SQLiteStore": "tallystick.ledger.sqlite.store",
    "import_lines": "tallystick.ledger.portable",
    "Store": "tallystick.ledger.store",
    "Finding": "tallystick.ledger.walk",
    "Problem": "tallystick.ledger.walk",
    "Report": "tallystick.ledger.verify",
    "Verdict": "tallystick.ledger.verify",
    "ChatCounts": "tallystick.recorders.chat.conversation",
    "ChatSummary": "tallystick.recorders.chat.importing",
    "import_chat": "tallystick.recorders.chat.importing",
    "BadConversation": "tallystick.recorders.errors",
    "SessionTaken": "tallystick.recorders.errors",
    "Session": "tallystick.recorders.session.session",
    "AsyncSession": "tallystick.recorders.session.session",
    "ActionRecord": "tallystick.recorders.session.records",
    "MessageRecord": "tallystick.recorders.session.records",
    "SessionRecord": "tallystick.recorders.session.records",
    "SessionSummary": "tallystick.recorders.session.records",
    "verified_action": "tallystick.recorders.session.verified",
    "verified_action_async": "tallystick.recorders.session.verified",
    "InvalidUrn": "tallystick.recorders.errors",
    "SessionEnded": "tallystick.recorders.errors",
    "SessionNotExpirable": "tallystick.recorders.errors",
    "CAEL": "tallystick.recorders.kernel.cael",
    "CaelResult": "tallystick.recorders.kernel.cael",
    "Kernel": "tallystick.recorders.kernel.kernel",
    "PsiDefinition": "tallystick.recorders.kernel.psi",
    "ExecutionTrace": "tallystick.recorders.kernel.trace",
    "FailureCode": "tallystick.recorders.kernel.trace",
    "FrozenMetadata": "tallystick.recorders.errors",
    "InvalidCall": "tallystick.recorders.errors",
    "InvalidPsi": "tallystick.recorders.errors",
    "TaskTaken": "tallystick.recorders.errors",
    "list_sessions": "tallystick.recorders.session.sessions",
    "get_session": "tallystick.recorders.session.sessions",
    "expired_sessions": "tallystick.recorders.session.retention",
    "expire": "tallystick.recorders.session.retention",
    "BUILT_IN": "tallystick.projections.builtin",
    "ViewStatus": "tallystick.projections.engine",
    "ProjectionDigest": "tallystick.projections.digest",
    "seal_projections": "tallystick.projections.sealing",
    "BacktestReport": "tallystick.replay.backtest.report",
    "DecisionDiff": "tallystick.replay.diff.decisions",
    "MalformedDecision": "tallystick.replay.errors",
    "Where": "tallystick.replay.backtest.where",
    "backtest": "tallystick.replay.backtest.backtest",
    "diff_decisions": "tallystick.replay.diff.decisions",
    "BadSelection": "tallystick.replay.errors",
    "TasksNotFound": "tallystick.replay.errors",
    "ReplayReport": "tallystick.replay.report",
    "Incident": "tallystick.replay.incident.incident",
    "IncidentCheck": "tallystick.replay.incident.check",
    "BadIncident": "tallystick.replay.incident.errors",
    "check_incident": "tallystick.replay.incident.check",
    "write_incident": "tallystick.replay.incident.incident",
    "replay_ledger": "tallystick.replay.run",
    "Selection": "tallystick.replay.selection",
    "Moment": "tallystick.replay.rendering.story",
    "moments_of": "tallystick.replay.rendering.story",
    "report_html": "tallystick.replay.rendering.html",
    "AlteredViews": "tallystick.projections.errors",
    "AmbiguousPrefix": "tallystick.projections.errors",
    "BadProjection": "tallystick.projections.errors",
    "BadRow": "tallystick.projections.errors",
    "NoSuchId": "tallystick.projections.errors",
    "NotViews": "tallystick.projections.errors",
    "ProjectionFailed": "tallystick.projections.errors",
    "Projection": "tallystick.projections.projection",
    "Table": "tallystick.projections.projection",
    "SearchHit": "tallystick.projections.search",
    "Tables": "tallystick.projections.tables",
    "Views": "tallystick.projections.views",
    "views_of": "tallystick.projections.views",
    "DecisionAltered": "tallystick.recorders.gateway.errors",
    "DecisionErased": "tallystick.recorders.gateway.errors",
    "InvalidDecisionEvent": "tallystick.recorders.gateway.errors",
    "InvalidPolicy": "tallystick.recorders.gateway.errors",
    "InvalidRequest": "tallystick.recorders.gateway.errors",
    "NoSuchDecision": "tallystick.recorders.gateway.errors",
    "NotTrusted": "tallystick.recorders.gateway.errors",
    "PolicyNotFound": "tallystick.recorders.gateway.errors",
    "RequestConflict": "tallystick.recorders.gateway.errors",
    "Gateway": "tallystick.recorders.gateway.gateway",
    "decide": "tallystick.recorders.gateway.gateway",
    "Policy": "tallystick.recorders.gateway.policy",
    "DecisionRecord": "tallystick.recorders.gateway.record",
    "DecisionRequest": "tallystick.recorders.gateway.request",
    "DecisionVerdict": "tallystick.recorders.gateway.stages",
}

# Hidden from type checkers, to which a module with `__getattr__` has every name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        module = _EXPORTS.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(module), name)
        globals()[name] = value  # the next use finds it without coming here
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
