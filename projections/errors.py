"""Errors of the read side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tallystick.ledger.errors import TallyError, Unavailable

_SHOWN_MAX: Final = 5


class BadProjection(TallyError, ValueError):
    """A projection whose definition cannot be built; `where` names the part."""

    def __init__(self, where: str, problem: str) -> None:
        self.where = where
        self.problem = problem
        super().__init__(f"{where}: {problem}")


class BadRow(TallyError, ValueError):
    """A row that does not fit its table, or that is not there to be changed."""

    def __init__(self, table: str, problem: str) -> None:
        self.table = table
        self.problem = problem
        super().__init__(f"table {table}: {problem}")


class ProjectionFailed(TallyError):
    """A projection's `apply` raised; its tables end before that event, those of others are complete."""

    def __init__(self, projection: str, seq: int, cause: str) -> None:
        self.projection = projection
        self.seq = seq
        self.cause = cause
        super().__init__(
            f"projection {projection!r} failed at event {seq} ({cause}); its tables end before that event: "
            "correct its apply and raise its version"
        )


class NotViews(Unavailable):
    """The file where the views would go is something else; it was not touched."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem, "move it away, or name another place with Views(path=…)")


class NoSuchId(TallyError, LookupError):
    """No row has an id that begins so."""

    def __init__(self, what: str, prefix: str) -> None:
        self.what = what
        self.prefix = prefix
        super().__init__(f"no id in {what} begins with {prefix!r}; look it up in a listing")


class AmbiguousPrefix(TallyError, LookupError):
    """Several ids begin so; `candidates` are the first of them, in order."""

    def __init__(self, what: str, prefix: str, candidates: Sequence[str]) -> None:
        self.what = what
        self.prefix = prefix
        self.candidates = tuple(candidates)
        shown = ", ".join(self.candidates[:_SHOWN_MAX])
        more = ", …" if len(self.candidates) > _SHOWN_MAX else ""
        super().__init__(f"{prefix!r} begins several ids in {what}: {shown}{more}; give more of it")


class AlteredViews(TallyError):
    """Stored tables are not what the events say: others wrote to the views, or a projection is at fault."""

    def __init__(self, name: str, seq: int) -> None:
        self.name = name
        self.seq = seq
        super().__init__(
            f"the tables of {name!r}, as of event {seq}, are not what the events say; nothing was sealed: "
            "`tally replay` shows what differs, `tally views rebuild` builds them anew"
        )
