"""Which tasks an app registered, and which of them may be run again (contract K8).

A replay loads a kernel (or a registry) by its name, `module:attribute`, and asks it for the task that was
recorded under a psi_type and a name. Whether running it again is safe only the app can know.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..errors import InvalidCall, TaskTaken
from .psi import PsiDefinition


class Registered(NamedTuple):
    """A task that an app registered.

    task: is called with the recorded arguments as keywords. replayable: whether it may be run again.
    """

    psi: PsiDefinition
    task: Callable[..., Any]
    replayable: bool


class Registry:
    """Tasks by the psi_type and name of their psi. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[tuple[str, str], Registered] = {}

    def add(self, psi: PsiDefinition, task: Callable[..., Any], replayable: bool) -> Registered:
        """Register a task; the same one again may change whether it is replayable.

        Raises TaskTaken if another task has the psi's type and name, InvalidCall.
        """
        if not isinstance(psi, PsiDefinition):
            raise InvalidCall("register", "psi", "a PsiDefinition", type(psi).__name__)
        if not callable(task):
            raise InvalidCall("register", "task", "callable", type(task).__name__)
        registered = Registered(psi, task, replayable)
        with self._lock:
            known = self._tasks.setdefault((psi.psi_type, psi.name), registered)
            if known.task is not task:
                raise TaskTaken(psi.psi_type, psi.name)
            self._tasks[psi.psi_type, psi.name] = registered
        return registered

    def find(self, psi_type: str, name: str) -> Registered | None:
        """What is registered under this psi_type and name, or None."""
        return self._tasks.get((psi_type, name))

    def __iter__(self) -> Iterator[Registered]:
        return iter(list(self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)
