"""Several agents at once under asyncio, in one ledger.

    python examples/async_agents.py [LEDGER]

Three agents look up orders side by side. Each has a session of its own; the calls of their tools, which
are awaited, are recorded in it, among them one that fails. The event loop is never blocked: a single thread
commits what all of them append, a group at a time.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tallystick import AsyncLedger, AsyncSession, Kernel, PsiDefinition

PRICES = {8813: 4790, 8811: 8900}
LOOK_UP = PsiDefinition("orders", "price")


async def price(order: int) -> int:
    """A tool, as an agent calls it: cents."""
    await asyncio.sleep(0.01)
    return PRICES[order]


async def agent(ledger: AsyncLedger, order: int) -> str:
    """Look up one order; what became of it."""
    async with await AsyncSession.start(ledger, f"price of order {order}", kernel="Orders") as session:
        kernel = Kernel(ledger=ledger.ledger, stream=session.stream)
        trace = await kernel.execute_async(psi=LOOK_UP, task=price, order=order)
        found = "verified" if trace.success else "failed"
        await session.record_action("order.look_up", found, evidence={"run_id": trace.run_id})
    return f"{order}: {trace.output if trace.success else trace.exception_repr}"


async def main(path: Path) -> None:
    """Three agents, then what was recorded."""
    async with AsyncLedger.open(path) as ledger:
        for line in await asyncio.gather(*(agent(ledger, order) for order in (8811, 8813, 8831))):
            print(line)
        kinds = [event.kind async for event in ledger.read()]
        print(*(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))), sep="\n")
        print((await ledger.verify()).verdict)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(Path(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(Path(folder, "agents.tally")))
