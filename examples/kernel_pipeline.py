"""A pipeline over a day's orders, recorded: read, check, add up, write a report; once with a corrupt file.

Run it: `python examples/kernel_pipeline.py`. Everything happens in a temporary directory.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

from tallystick import CAEL, CaelResult, Kernel, Ledger, PsiDefinition, Verdict

GOOD = "order,currency,cents\n8811,EUR,8900\n8812,EUR,1250\n8813,GBP,4790\n"
CORRUPT = "order,currency,cents\n8814,EUR,2000\n8815,EUR,twelve\n"

Order = dict[str, str]


def read(path: str) -> list[Order]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def validate(path: str) -> int:
    """The number of orders; a bad one ends the pipeline."""
    orders = read(path)
    for order in orders:
        if not order["cents"].isdecimal():
            raise ValueError(f"order {order['order']}: {order['cents']!r} is no amount in cents")
    return len(orders)


def totals(path: str) -> dict[str, int]:
    """Cents by currency."""
    sums: dict[str, int] = {}
    for order in read(path):
        sums[order["currency"]] = sums.get(order["currency"], 0) + int(order["cents"])
    return sums


def report(path: str, to: str) -> str:
    lines = [f"{currency} {cents / 100:.2f}" for currency, cents in sorted(totals(path).items())]
    Path(to).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return to


def close_day(kernel: Kernel, orders: Path) -> CaelResult[str]:
    """Run the pipeline over one file of orders."""
    path = {"path": str(orders)}
    return CAEL(kernel).run(
        [
            (PsiDefinition("orders", "validate"), validate, path),
            (PsiDefinition("orders", "totals"), totals, path),
            (PsiDefinition("orders", "report"), report, path | {"to": str(orders.with_suffix(".txt"))}),
        ],
        metadata={"file": orders.name},
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder, "orders.tally")) as ledger:
        kernel = Kernel(ledger=ledger, stream="orders")
        for name, content in {"monday.csv": GOOD, "tuesday.csv": CORRUPT}.items():
            orders = Path(folder, name)
            orders.write_text(content, encoding="utf-8")
            result = close_day(kernel, orders)
            if result.success and result.final_output:
                print(f"{name}: {Path(result.final_output).read_text(encoding='utf-8').split()}")
            else:
                print(f"{name}: {result.failure_code}: {result.failure_message}")

        print("\nrecorded:")
        for event in ledger.read(stream="orders"):
            told = event.body["derived"]
            if event.kind == "kernel.executed":
                outcome = told["output"] if told["success"] else told["exception_type"]
                what = f"{told['psi']['name']} -> {outcome}"
            else:
                what = f"{told['executed']} of {told['steps']} steps, events {event.body['executions']}"
            print(f"  {event.seq} {event.kind}: {what}".replace(folder, "."))

        verification = ledger.verify()
        print(f"\nverified: {verification.verdict is not Verdict.BROKEN}, {verification.events} events")


if __name__ == "__main__":
    main()
