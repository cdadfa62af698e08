"""Executes tasks for ever, reporting each once it is recorded; one is under way when it is killed.

    kernel_kill.py LEDGER

Prints `done N` after each execution, and `working N` from inside a task that then never returns.
"""

from __future__ import annotations

import signal
import sys

from tallystick import Durability, Kernel, Ledger, PsiDefinition

EXECUTIONS = 20


def work(number: int) -> int:
    if number == EXECUTIONS:
        print(f"working {number}", flush=True)
        signal.pause()  # the work is done, as far as the world can tell; its record will never be
    return number * number


with Ledger.open(sys.argv[1], durability=Durability.PROCESS) as ledger:
    kernel = Kernel(ledger=ledger)
    for number in range(EXECUTIONS + 1):
        kernel.execute(psi=PsiDefinition("kill", "square"), task=work, number=number)
        print(f"done {number}", flush=True)
