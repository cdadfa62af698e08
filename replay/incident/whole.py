"""Whether the ledger that an incident comes from is whole: verified against what vouches for its end."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tallystick.ledger.event import Head
from tallystick.ledger.ledger import Ledger
from tallystick.ledger.verify import Verdict


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """What came of verifying the ledger up to event `last`.

    verdict: VERIFIED if a head from outside vouches for all of it. anchored_to: the last event that it
    vouches for. finding: the first thing wrong, in words; with the verdict BROKEN alone.
    """

    verdict: Verdict
    last: int
    anchored_to: int | None = None
    finding: str | None = None

    def __str__(self) -> str:
        """One line; its first word is the verdict."""
        if self.finding is not None:
            return f"BROKEN {self.finding}"
        line = f"{self.verdict.value}: every hash of events 1 to {self.last:,} follows"
        if self.verdict is Verdict.VERIFIED:
            return f"{line}, and a head that was kept elsewhere vouches for them"
        if self.anchored_to is not None:
            return (
                f"{line}; a head that was kept elsewhere vouches for events 1 to {self.anchored_to:,} alone"
            )
        return f"{line}; no head from elsewhere was given, so nothing vouches for its end"


def whole_ledger(
    ledger: Ledger, head: Head, expect: Head | str | None, progress: Callable[[int], None]
) -> Whole:
    """Verify all of a ledger, against the head file beside it and `expect`; as of `head`.

    Others may append meanwhile: what they append is verified, too, and is no part of what is vouched for.
    Raises BadHead, Unavailable.
    """
    report = ledger.verify(expect, progress=progress)
    finding = None
    if report.finding is not None:
        found = report.finding
        finding = f"event {found.seq}: {found.problem}: {found.detail}"
    elif report.last < head.seq:
        finding = f"event {report.last + 1}: the ledger ends before its head"
    if finding is not None:
        return Whole(verdict=Verdict.BROKEN, last=head.seq, finding=finding)
    anchored = report.anchored_to
    if anchored is not None and anchored >= head.seq:
        return Whole(verdict=Verdict.VERIFIED, last=head.seq, anchored_to=head.seq)
    return Whole(verdict=Verdict.UNANCHORED, last=head.seq, anchored_to=anchored)
