"""What can be wrong with a request, a policy or the use of a decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tallystick.ledger.errors import TallyError

if TYPE_CHECKING:
    from .record import DecisionRecord

_PROBLEMS_SHOWN_MAX = 20


class InvalidRequest(TallyError, ValueError):
    """A decision request that cannot be evaluated; nothing was recorded.

    `path` names the offending place (`action.amount.value`, `evidence.scores[2]`). `others` are what else is
    wrong with it, each a line with its path.
    """

    def __init__(self, path: str, problem: str, remedy: str = "", others: Sequence[str] = ()) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        self.others = tuple(others)
        where = path if path == "request" else f"request: {path}"
        more = "".join(f"; {other}" for other in self.others[:_PROBLEMS_SHOWN_MAX])
        super().__init__(f"{where}: {problem}" + (f"; {remedy}" if remedy else "") + more)


class RequestConflict(TallyError):
    """The request id was used before, for another request; nothing was recorded."""

    def __init__(self, request_id: str, decision_id: str | None, seq: int) -> None:
        self.request_id = request_id
        self.decision_id = decision_id
        self.seq = seq
        first = f"decision {decision_id}" if decision_id else "which cannot be compared"
        super().__init__(
            f"request id {request_id!r} was used by event {seq}, {first}, for another request; "
            "nothing was recorded: use a new request_id for a new request"
        )


class PolicyProblem(NamedTuple):
    """One thing that is wrong with a policy. `rule_id` is empty where no rule is at fault."""

    rule_id: str
    path: str
    problem: str

    def __str__(self) -> str:
        where = f"rule {self.rule_id}: {self.path}" if self.rule_id else self.path
        return f"{where}: {self.problem}"


class InvalidPolicy(TallyError, ValueError):
    """A policy with errors: all of them, in `problems`, in the order of the text."""

    def __init__(self, source: str, problems: Sequence[PolicyProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        shown = "; ".join(str(problem) for problem in self.problems[:_PROBLEMS_SHOWN_MAX])
        more = len(self.problems) - _PROBLEMS_SHOWN_MAX
        count = "1 error" if len(self.problems) == 1 else f"{len(self.problems)} errors"
        super().__init__(f"{source}: {count}: {shown}" + (f"; and {more} more" if more > 0 else ""))

    @property
    def errors(self) -> tuple[str, ...]:
        """Each problem in a line."""
        return tuple(str(problem) for problem in self.problems)


class PolicyNotFound(TallyError, LookupError):
    """The policy file cannot be read."""

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(f"{source}: {problem}; name a policy file that can be read")


class PolicyNotAsked(TallyError):
    """The request asks to be decided under another policy than the gateway's."""

    def __init__(self, field: str, asked: str, have: str) -> None:
        self.field = field
        self.asked = asked
        self.have = have
        super().__init__(
            f"the request asks for {field} {asked!r}, and this gateway has {have!r}; "
            "leave `policy` out of the request, or send it to the gateway of that policy"
        )


class NotTrusted(TallyError):
    """The decision is not to go on; `record` says why."""

    def __init__(self, record: DecisionRecord) -> None:
        self.record = record
        reasons = ", ".join(record.reason_codes)
        failure = f" ({record.error})" if record.error else ""
        where = f"decision {record.decision_id}" if record.recorded else "the decision is not recorded"
        super().__init__(f"{record.verdict}: {reasons}{failure}; {where}")


class NoSuchDecision(TallyError, LookupError):
    """No decision with this id in the ledger."""

    def __init__(self, decision_id: str) -> None:
        self.decision_id = decision_id
        super().__init__(f"no decision {decision_id!r} in this ledger; `tally decisions` lists them")


class DecisionErased(TallyError, LookupError):
    """The body of the decision's record was erased."""

    def __init__(self, decision_id: str, seq: int) -> None:
        self.decision_id = decision_id
        self.seq = seq
        super().__init__(
            f"the body of decision {decision_id} (event {seq}) was erased; "
            f"`tally show {seq}` shows what is left"
        )


class DecisionAltered(TallyError):
    """The event of a decision does not match its own hashes; nothing is answered from it or added to it."""

    def __init__(self, decision_id: str, seq: int, problem: str) -> None:
        self.decision_id = decision_id
        self.seq = seq
        self.problem = problem
        super().__init__(
            f"decision {decision_id} (event {seq}) was altered: {problem}; "
            "nothing is answered from it, and nothing was recorded: run `tally verify`"
        )


class EventMissing(TallyError):
    """An event that a decision names is not in the ledger: it was removed, or became another."""

    def __init__(self, seq: int, kind: str, decision_id: str) -> None:
        self.seq = seq
        self.kind = kind
        self.decision_id = decision_id
        super().__init__(
            f"event {seq}, the {kind} that decision {decision_id} names, is not in the ledger; "
            "run `tally verify`"
        )


class InvalidDecisionEvent(TallyError, ValueError):
    """A label, outcome, note or override that cannot be recorded."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class BadPack(TallyError, ValueError):
    """Bytes that are no decision pack; `member` names the part at fault, or is empty."""

    def __init__(self, source: str, member: str, problem: str) -> None:
        self.source = source
        self.member = member
        self.problem = problem
        where = f"{source}: {member}" if member else source
        super().__init__(f"{where}: {problem}; `tally export ID --pack FILE.zip` makes a pack")
