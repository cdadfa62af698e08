"""The recorders' own errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tallystick.ledger.errors import TallyError

if TYPE_CHECKING:
    from .session.records import ActionRecord


# -- names ---------------------------------------------------------------------------------


class InvalidUrn(TallyError, ValueError):
    """A text that is no URN, or not of the kind that is needed."""

    def __init__(self, text: Any, problem: str) -> None:
        self.text = text
        self.problem = problem
        super().__init__(f"{str(text)[:120]!r} is no URN that can be used here: {problem}")


# -- sessions ------------------------------------------------------------------------------


class SessionEnded(TallyError):
    """A session takes no more: it was closed, by this handle or by another process, or has expired.

    `record` is the action that was to be recorded and was not, or None.
    """

    def __init__(self, session_id: str, outcome: str, record: ActionRecord | None = None) -> None:
        self.session_id = session_id
        self.outcome = outcome
        self.record = record
        super().__init__(
            f"session {session_id} was closed as {outcome} and nothing more was recorded in it; "
            "start another with Session.start"
        )


class SessionNotExpirable(TallyError):
    """A session whose bodies must stay for now."""

    def __init__(self, session_id: str, problem: str, remedy: str = "") -> None:
        self.session_id = session_id
        self.problem = problem
        self.remedy = remedy
        super().__init__(
            f"session {session_id} cannot be expired: {problem}" + (f"; {remedy}" if remedy else "")
        )


# -- imported conversations ----------------------------------------------------------------


class BadConversation(TallyError, ValueError):
    """A conversation that cannot be imported; nothing of it was recorded.

    `path` names the offending place (`messages[3].role`); empty for the whole.
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}" if path else problem)


class SessionTaken(TallyError):
    """The ledger holds another session under the id that a conversation's content gives."""

    def __init__(self, session_id: str, seq: int) -> None:
        self.session_id = session_id
        self.seq = seq
        super().__init__(
            f"session {session_id} (event {seq}) is not this conversation, though its id says so; "
            "nothing was imported: look at it with `tally show`, and import into another ledger"
        )


# -- kernels -------------------------------------------------------------------------------


class KernelError(TallyError):
    """Why the kernel could not execute as asked; it is written into the trace and never raised.

    `part` is what was at fault: `psi`, `task` or one of the kernel's providers.
    """

    def __init__(self, part: str, problem: str) -> None:
        self.part = part
        self.problem = problem
        super().__init__(f"{part}: {problem}")


class InvalidPsi(TallyError, TypeError):
    """A field of a PsiDefinition that is of another type than it must be."""

    def __init__(self, field: str, expected: str, found: str) -> None:
        self.field = field
        self.expected = expected
        self.found = found
        super().__init__(f"PsiDefinition.{field} must be {expected}, got {found}")


class InvalidCall(TallyError, TypeError):
    """An argument of a call that is of another type than it must be; nothing was executed."""

    def __init__(self, call: str, argument: str, expected: str, found: str) -> None:
        self.call = call
        self.argument = argument
        self.expected = expected
        self.found = found
        super().__init__(f"{call}: {argument} must be {expected}, got {found}; nothing was executed")


class FrozenMetadata(TallyError, TypeError):
    """Metadata of a psi or trace cannot be written to, at any depth."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name
        super().__init__(
            f"a {type_name} cannot be written to; copy it with dict() or list() and write to that"
        )


class TaskTaken(TallyError, ValueError):
    """Another task is registered under the same psi_type and name."""

    def __init__(self, psi_type: str, name: str) -> None:
        self.psi_type = psi_type
        self.name = name
        super().__init__(
            f"another task is registered as {psi_type!r}, {name!r}; a replay could not tell them apart: "
            "give this one another name"
        )
