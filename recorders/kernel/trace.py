"""The trace of one execution, and its deterministic core (contracts K3, K4, K6).

The core is what running the task again must give again: the psi, whether it succeeded, the failure code
and the type of the exception. The digest covers the core alone; all else was seen once.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

from .frozen import EMPTY, FrozenDict, freeze, jsonable
from .psi import INVALID, PsiDefinition, sorted_json

T = TypeVar("T")


class FailureCode(StrEnum):
    """How an execution ended.

    INVALID_INPUT: the psi was no PsiDefinition or the task not callable; nothing was called.
    KERNEL_ERROR: the task was called, but one of the kernel's providers raised.
    """

    OK = "OK"
    TASK_EXCEPTION = "TASK_EXCEPTION"
    INVALID_INPUT = "INVALID_INPUT"
    KERNEL_ERROR = "KERNEL_ERROR"


@dataclass(frozen=True)
class ExecutionTrace(Generic[T]):
    """What became of one execution.

    output: what the task returned, itself and no copy; None on failure. error, exception_type and
    exception_repr describe what it raised; None on success. Times are in UTC. metadata is a copy of what
    was given to `execute`; it and kernel_meta are deeply frozen: writing to them is a TypeError.
    """

    run_id: str
    psi: PsiDefinition
    started_at: dt.datetime
    finished_at: dt.datetime
    runtime_ms: float
    success: bool
    failure_code: FailureCode
    output: T | None
    error: str | None
    exception_type: str | None
    exception_repr: str | None
    metadata: Mapping[Any, Any] = field(default_factory=lambda: EMPTY)
    kernel_meta: Mapping[str, Any] = field(default_factory=lambda: EMPTY)

    def __post_init__(self) -> None:
        if type(self.metadata) is not FrozenDict:
            object.__setattr__(self, "metadata", freeze(self.metadata))
        if type(self.kernel_meta) is not FrozenDict:
            object.__setattr__(self, "kernel_meta", freeze(self.kernel_meta))

    @classmethod
    def of(cls, fields: dict[str, Any]) -> ExecutionTrace[Any]:
        """A trace that takes over this dict of all its fields, `metadata` and `kernel_meta` frozen already.

        In a third of the time: the constructor of a frozen dataclass sets each field through `object`.
        """
        trace: ExecutionTrace[Any] = object.__new__(cls)
        object.__setattr__(trace, "__dict__", fields)
        return trace

    def to_dict(self, include_observational: bool = True) -> dict[str, Any]:
        """The trace as JSON values; only its core if `include_observational` is false.

        What is no JSON, such as an output that is a generator, is a placeholder that names its type.
        """
        core = {
            "psi": json.loads(self.psi.json),
            "success": self.success,
            "failure_code": str(self.failure_code),
            "exception_type": self.exception_type,
        }
        if not include_observational:
            return core
        observed = {
            name: jsonable(getattr(self, name)) for name in self.__dataclass_fields__ if name not in core
        }
        return core | observed

    def to_json(self, include_observational: bool = True) -> str:
        """`to_dict` as JSON: sorted keys, no spaces, ASCII."""
        if not include_observational:
            return core_json(self.psi.json, self.success, self.failure_code, self.exception_type)
        return sorted_json(self.to_dict())

    def digest(self) -> str:
        """SHA-256 of the core's JSON, in hex."""
        return core_digest(self.psi.json, self.success, self.failure_code, self.exception_type)


#: A core that is longer is not remembered.
_REMEMBERED_CHARACTERS_MAX: Final = 8192


@lru_cache(maxsize=256)
def core_digest(psi_json: str, success: bool, failure_code: str, exception_type: str | None) -> str:
    """SHA-256 of a core's JSON, in hex: the same for every success of one psi, so it is kept."""
    core = core_json(psi_json, success, failure_code, exception_type)
    return hashlib.sha256(core.encode("ascii")).hexdigest()


def core_json(psi_json: str, success: bool, failure_code: str, exception_type: str | None) -> str:
    """The JSON of a core (contract K6); `psi_json` is that of its psi."""
    raised = "null" if exception_type is None else sorted_json(exception_type)
    code = sorted_json(failure_code)
    succeeded = "true" if success else "false"
    return f'{{"exception_type":{raised},"failure_code":{code},"psi":{psi_json},"success":{succeeded}}}'


def recorded_core_digest(execution: Mapping[str, Any]) -> str | None:
    """The core digest derived again from the `derived` part of a `kernel.executed`.

    None if the psi or the exception's type could not be recorded whole, so that nothing can be derived.
    """
    if any(pointer.startswith(("/psi/", "/exception_type")) for pointer in execution["placeholders"]):
        return None
    psi_json = INVALID.json if execution["psi"] is None else sorted_json(execution["psi"])
    # What a ledger from somebody else holds may be large, and is not kept.
    derive = core_digest if len(psi_json) <= _REMEMBERED_CHARACTERS_MAX else core_digest.__wrapped__
    return derive(psi_json, execution["success"], execution["failure_code"], execution["exception_type"])
