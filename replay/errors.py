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


class TasksNotFound(TallyError, LookupError):
    """The name of a kernel or a registry that cannot be loaded."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        super().__init__(
            f"tasks {name!r}: {problem}; give module:attribute of a Kernel, or of its registry, as Python "
            "would import it"
        )
