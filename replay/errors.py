"""Errors of replay: what was asked makes no sense, or cannot be loaded."""

from __future__ import annotations

from tallystick.ledger.errors import TallyError


class BadSelection(TallyError, ValueError):
    """A selection of events, or of layers, that cannot be replayed."""

    def __init__(self, what: str, problem: str, remedy: str) -> None:
        self.what = what
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{what}: {problem}; {remedy}")


class MalformedDecision(TallyError, LookupError):
    """The body of a decision's record is none that a gateway would write."""

    def __init__(self, decision_id: str, seq: int, problem: str) -> None:
        self.decision_id = decision_id
        self.seq = seq
        self.problem = problem
        super().__init__(
            f"decision {decision_id} (event {seq}): {problem}; `tally replay` and `tally verify` say more"
        )


class TasksNotFound(TallyError, LookupError):
    """The name of a kernel or a registry that cannot be loaded."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        super().__init__(
            f"tasks {name!r}: {problem}; give module:attribute of a Kernel, or of its registry, as Python "
            "would import it"
        )
