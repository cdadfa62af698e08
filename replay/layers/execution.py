"""The layer `execution`: tasks run again with recorded arguments, where the app allows it (contract K8).

Nothing is run unless tasks are given, and of those only what was registered with `replayable=True`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, Final

from tallystick.events import kernel as events
from tallystick.ledger.event import Row
from tallystick.recorders.capture import capture
from tallystick.recorders.kernel.execution import Called, Providers, Run, call
from tallystick.recorders.kernel.kernel import Kernel
from tallystick.recorders.kernel.registry import Registered, Registry
from tallystick.recorders.kernel.trace import ExecutionTrace, FailureCode

from ..errors import TasksNotFound
from .checks import Body, Checks, Unreadable, inside
from .digest_kernel import ONLY_DIGEST

NOT_REGISTERED: Final = "no task is registered under its psi_type and name"
NOT_REPLAYABLE: Final = "its task is registered, but not as replayable"
PLACEHOLDER: Final = "its arguments have a placeholder for what was no JSON or too large"
NOT_CALLED: Final = "its task was not called, or the kernel failed"
INTERRUPTED: Final = "it was interrupted from outside"
NO_OUTPUT: Final = "its output was left out when it was recorded, or is no JSON now"
_INTERRUPTS: Final = frozenset({"KeyboardInterrupt", "SystemExit", "CancelledError", "GeneratorExit"})
_PROVIDERS: Final = Providers.chosen(None, None, None, deterministic=True)


class Executions:
    """Runs tasks again."""

    def __init__(self, tasks: Registry) -> None:
        self._tasks = tasks

    def check(self, checks: Checks, row: Row, body: Body | Unreadable) -> None:
        """Run the task of a `kernel.executed` again, if that can be done, and compare what came of it."""
        if isinstance(body, Unreadable):
            checks.cannot("success", "its body is malformed" if body.malformed else body.reason)
            return
        derived: events.Execution = body.struct.derived
        found = self._task(derived)
        if isinstance(found, str):
            checks.cannot("success", found)
            return
        trace = _run(found, derived.arguments)
        recorded = [derived.success, derived.failure_code, derived.exception_type]
        again = [trace.success, str(trace.failure_code), trace.exception_type]
        names = ("success", "failure_code", "exception_type")
        expected, actual = (dict(zip(names, values, strict=True)) for values in (again, recorded))
        if checks.equal("success", expected, actual) and trace.success:
            self._compare_output(checks, derived, trace)

    def _compare_output(self, checks: Checks, derived: events.Execution, trace: ExecutionTrace[Any]) -> None:
        output = capture(trace.output, "/output")
        if output.digest is None or derived.output_digest is None:
            checks.cannot("output", NO_OUTPUT)
        elif output.digest == derived.output_digest:
            checks.true("output", True, None, None)
        elif derived.capture == "content" and not inside(derived.placeholders, "/output"):
            # Values that are the same have the same digest, unless the record contradicts itself.
            if checks.equal("output", output.value, derived.output):
                checks.equal("output_digest", output.digest, derived.output_digest)
        else:
            checks.equal("output_digest", output.digest, derived.output_digest)

    def _task(self, derived: events.Execution) -> Registered | str:
        """The task to run, or why there is none."""
        if derived.failure_code not in (FailureCode.OK, FailureCode.TASK_EXCEPTION) or derived.psi is None:
            return NOT_CALLED
        if derived.exception_type in _INTERRUPTS:
            return INTERRUPTED
        found = self._tasks.find(derived.psi.psi_type, derived.psi.name)
        if found is None:
            return NOT_REGISTERED
        if not found.replayable:
            return NOT_REPLAYABLE
        if derived.capture != "content":
            return ONLY_DIGEST
        if inside(derived.placeholders, "/arguments"):
            return PLACEHOLDER
        return found if isinstance(derived.arguments, dict) else "its arguments are no JSON object"


def _run(found: Registered, arguments: dict[str, Any]) -> ExecutionTrace[Any]:
    """Call a task once, and await what it gives if that can be awaited."""
    run = Run(_PROVIDERS, found.psi, found.task, None)
    called = call(found.task, arguments)
    if called.error is None and inspect.isawaitable(called.output):
        called = _awaited(called.output)
    if isinstance(called.error, KeyboardInterrupt):
        raise called.error
    return run.finish(called).trace


def _awaited(awaitable: Any) -> Called:
    """What an awaitable gives, in an event loop and a thread of its own: the caller's may be running one."""

    async def wait() -> Any:
        return await awaitable

    def run() -> Called:
        try:
            return Called(asyncio.run(wait()), None)
        except BaseException as error:
            return Called(None, error)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def load_tasks(name: str) -> Registry:
    """The registry named `module:attribute`, or of the Kernel named so. Raises TasksNotFound.

    The module is imported as a script in the working directory would import it.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise TasksNotFound(name, "is no module:attribute")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module_name)
    except Exception as error:
        raise TasksNotFound(
            name, f"importing {module_name} failed ({type(error).__name__}: {error})"
        ) from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise TasksNotFound(name, f"there is no attribute {part!r}") from None
    return registry_of(found, name)


def registry_of(tasks: Any, name: str = "tasks") -> Registry:
    """The registry that is given, or that a kernel has. Raises TasksNotFound."""
    if isinstance(tasks, Kernel):
        return tasks.registry
    if isinstance(tasks, Registry):
        return tasks
    raise TasksNotFound(name, f"is a {type(tasks).__name__}")
