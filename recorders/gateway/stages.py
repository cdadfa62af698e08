"""The words of a decision: verdicts and their strength, stages and their order, the gateway's own reasons."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class DecisionVerdict(StrEnum):
    """What is to be done about a request (D7)."""

    #: Go on.
    TRUST = "TRUST"
    #: A human must approve.
    ESCALATE = "ESCALATE"
    #: More evidence is needed.
    QUERY = "QUERY"
    #: Stop.
    ABSTAIN = "ABSTAIN"


class Label(StrEnum):
    """How a decision turned out (D8)."""

    FAILURE = "failure"
    SUCCESS = "success"
    NEAR_MISS = "near_miss"


#: The strongest of the verdicts that rules ask for holds (D5).
STRENGTH: Final = {"TRUST": 0, "ESCALATE": 1, "QUERY": 2, "ABSTAIN": 3}
#: The stages that rules belong to, in the order of evaluation (D5).
STAGES: Final = ("REQUIREMENTS", "HARD_BLOCKS", "ESCALATIONS", "TRUST_PATHS")
DEFAULT: Final = "DEFAULT"
EVALUATION_ORDER: Final = (*STAGES, DEFAULT)

ENFORCE: Final = "enforce"
ADVISORY: Final = "advisory"

#: Why the gateway itself abstains. No policy may give these as reasons of its own.
STORAGE_UNAVAILABLE: Final = "STORAGE_UNAVAILABLE"
POLICY_UNAVAILABLE: Final = "POLICY_UNAVAILABLE"
MEMORY_UNAVAILABLE: Final = "MEMORY_UNAVAILABLE"
EVALUATION_FAILED: Final = "EVALUATION_FAILED"
GATEWAY_REASONS: Final = frozenset(
    {STORAGE_UNAVAILABLE, POLICY_UNAVAILABLE, MEMORY_UNAVAILABLE, EVALUATION_FAILED}
)
