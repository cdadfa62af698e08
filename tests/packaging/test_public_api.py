"""The public API is the names listed here: a name comes or goes on purpose, and the changelog says so."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import tallystick

PUBLIC = [
    "ActionRecord",
    "AlteredViews",
    "AmbiguousPrefix",
    "AsyncLedger",
    "AsyncSession",
    "BUILT_IN",
    "BacktestReport",
    "BadConversation",
    "BadHead",
    "BadIncident",
    "BadLine",
    "BadProjection",
    "BadRow",
    "BadSelection",
    "BodyTooLarge",
    "CAEL",
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


def test_the_public_names() -> None:
    assert sorted(tallystick.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_what_its_module_defines(name: str) -> None:
    module = import_module(tallystick._EXPORTS[name])
    assert getattr(tallystick, name) is getattr(module, name)


def test_type_checkers_see_the_names_that_are_loaded_on_use() -> None:
    """The imports under TYPE_CHECKING, `_EXPORTS` and `__all__` say the same."""
    tree = ast.parse(Path(tallystick.__file__).read_text("utf-8"))
    static = {
        alias.asname or alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert static == tallystick._EXPORTS
    assert sorted(static) == sorted(tallystick.__all__)


def test_no_public_name_is_also_a_subpackage() -> None:
    """Importing a subpackage would put it in the place of the public name."""
    here = Path(tallystick.__file__).parent
    modules = {path.stem for path in here.glob("*.py")} | {
        path.parent.name for path in here.glob("*/__init__.py")
    }
    assert modules.isdisjoint(tallystick.__all__)


def test_dir_lists_the_public_names() -> None:
    assert set(PUBLIC) <= set(dir(tallystick))


def test_a_star_import_brings_the_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from tallystick import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(PUBLIC)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tallystick' has no attribute 'Ledgre'"):
        _ = tallystick.Ledgre
