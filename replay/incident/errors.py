"""Errors of incidents."""

from __future__ import annotations

from tallystick.ledger.errors import TallyError


class BadIncident(TallyError, ValueError):
    """A folder or zip file that cannot be looked at as an incident."""

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        self.where = where
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{where}: {problem}; {remedy}")
