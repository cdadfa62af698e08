"""What a gateway would have stopped in a hundred recorded sessions of an airline's agent.

    tally import chat airline_agent_sessions.jsonl.gz --outcome reward
    python examples/airline/run.py [LEDGER]

Asks the gateway, under policy.yml, about every call in the imported sessions that changes data, with the
evidence that there was at that moment (adapter.py). The decisions go into the same ledger, where `tally
decisions` lists them; asking again adds nothing as long as the policy stays the same. LEDGER defaults to
agents.tally.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from adapter import CHANGING, Call, requests_of

from tallystick import DecisionRecord, Gateway, Ledger, Policy, list_sessions

POLICY = Path(__file__).with_name("policy.yml")
OUTCOMES = {"failed": "failed sessions", "complete": "successful sessions"}


class Decided(NamedTuple):
    """A call, how its session ended, and what the gateway says to it."""

    session_id: str
    outcome: str
    call: Call
    record: DecisionRecord

    @property
    def stopped(self) -> bool:
        return not self.record.trusted

    @property
    def refused(self) -> bool:
        """Whether the tool itself refused the call when it was made."""
        return isinstance(self.call.answer, str) and self.call.answer.startswith("Error")

    @property
    def reason(self) -> str:
        """The first reason of the rule that decided."""
        record = self.record
        return next(rule.reason_codes[0] for rule in record.matched_rules if rule.effect == record.verdict)


def decide_all(ledger: Ledger) -> list[Decided]:
    """The decisions on all data-changing calls, in the order of the sessions."""
    gateway = Gateway(ledger, POLICY)
    version = Policy.load(POLICY).policy_hash.removeprefix("sha256:")[:12]
    decided = []
    for session in reversed(list_sessions(ledger)):
        if session.outcome in OUTCOMES:
            for call, request in requests_of(ledger, session.stream):
                run_id = call.event.body["observed"]["run_id"]
                record = gateway.decide({**request, "request_id": f"{version}/{run_id}"})
                decided.append(Decided(session.session_id, session.outcome, call, record))
    return decided


def print_counts(decided: list[Decided]) -> None:
    """Calls and how many would have been stopped, by tool and by how the session ended."""
    stopped = sum(each.stopped for each in decided)
    sessions = len({each.session_id for each in decided})
    print(
        f"{len(decided)} calls that change data, in {sessions} sessions; {stopped} would have been stopped.\n"
    )
    print(f"{'':<30}" + "".join(f"{title:>24}" for title in OUTCOMES.values()))
    print(f"{'':<30}" + f"{'calls':>12}{'stopped':>12}" * len(OUTCOMES))
    for tool in CHANGING:
        print_row(tool, decided, lambda each, tool=tool: each.call.tool == tool)  # type: ignore[misc]
    print_row("all", decided, lambda each: True)
    print_row("  that the tool refused, too", decided, lambda each: each.refused)
    print_row("  that changed data", decided, lambda each: not each.refused)
    cells = ""
    for outcome in OUTCOMES:
        whole = {each.session_id for each in decided if each.outcome == outcome}
        some = {each.session_id for each in decided if each.outcome == outcome and each.stopped}
        cells += f"{len(whole):>12}{share(len(some), len(whole)):>12}"
    print(f"{'sessions':<30}{cells}")


def print_row(name: str, decided: list[Decided], wanted: Callable[[Decided], bool]) -> None:
    cells = ""
    for outcome in OUTCOMES:
        calls = [each for each in decided if each.outcome == outcome and wanted(each)]
        cells += f"{len(calls):>12}{share(sum(each.stopped for each in calls), len(calls)):>12}"
    print(f"{name:<30}{cells}")


def share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.0%})" if whole else "-"


def print_reasons(decided: list[Decided]) -> None:
    """What decided, and how often."""
    print("\nWhat stopped them")
    counts = Counter((each.record.verdict.value, each.reason) for each in decided if each.stopped)
    for (verdict, reason), _ in counts.most_common():
        cells = "".join(
            f"{sum(e.stopped and e.reason == reason and e.outcome == outcome for e in decided):>{width}}"
            for width, outcome in zip((20, 24), OUTCOMES, strict=True)
        )
        print(f"{verdict:<9} {reason:<24}{cells}")


def print_cases(decided: list[Decided], path: str) -> None:
    """Three cases as `tally explain` tells them: a stop, a question, and one where the session went well."""
    cases = (
        ("Stopped, in a session that failed", "failed", {"ABSTAIN"}),
        ("Asked for more, in a session that failed", "failed", {"QUERY"}),
        ("Stopped, although the session counts as a success", "complete", {"ABSTAIN", "ESCALATE"}),
    )
    for title, outcome, verdicts in cases:
        fitting = [e for e in decided if e.outcome == outcome and e.record.verdict in verdicts]
        if fitting:
            # Rather one that changed data than one that the tool refused anyway.
            case = min(fitting, key=lambda each: each.refused)
            print(f"\n{'-' * 80}\n{title} (tally session {case.session_id})\n", flush=True)
            explain = ["-m", "tallystick", "-f", path, "explain", case.record.decision_id]
            subprocess.run([sys.executable, *explain], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Decide the imported sessions of an airline's agents again.")
    help = "the ledger that `tally import chat FILE --outcome reward` wrote (default agents.tally)"
    parser.add_argument("ledger", nargs="?", default="agents.tally", help=help)
    path = parser.parse_args().ledger
    if not Path(path).exists():
        sys.exit(f"there is no {path}; make it with: tally import chat FILE --outcome reward")
    with Ledger.open(path, create=False) as ledger:
        decided = decide_all(ledger)
    if not decided:
        sys.exit(f"no session in {path} changes data; tally import chat FILE --outcome reward adds some")
    print_counts(decided)
    print_reasons(decided)
    print_cases(decided, path)


if __name__ == "__main__":
    main()
