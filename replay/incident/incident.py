"""An incident: everything that belongs to a case, replayed, and put together for somebody else to judge.

`write_incident` gathers the events (`gather`), replays exactly those (`run`), says what happened (`summary`)
and writes a folder or zip file (`files`) with the evidence and how to check it.
docs/incident.md says what belongs and what is proved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from tallystick._version import __version__
from tallystick.events import gateway
from tallystick.ledger import records
from tallystick.ledger.arguments import expected_head
from tallystick.ledger.errors import MalformedEvent, StoreError, TallyError, Unavailable
from tallystick.ledger.event import Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.ledger.portable import export_line
from tallystick.ledger.verify import Verdict
from tallystick.recorders.gateway.packing import collect

from ..errors import BadSelection
from ..indexes import refuse_without_indexes
from ..outcome import verdict_line
from ..parts import time_text
from ..rendering.story import Moment, chosen_rows, tell
from ..report import ReplayReport
from ..run import replay_ledger
from ..selection import Selection
from . import files
from .derived import pretty, readme_page, report_page, summary_document
from .files import Bundle, FileFact, bundle, chain_line, pack_name
from .gather import Gathered, Ring, erased_by, gather
from .summary import Summary, summarised
from .whole import Whole, whole_ledger

#: Decisions that are packed; of an incident with more, the others are packed with `tally export ID --pack`.
PACKS_MAX: Final = 1000
#: The bodies of a decision's stream that go into a pack, which is made in memory.
_PACK_BODIES_MAX: Final = 32 << 20
_NOTES_MAX: Final = 100
#: Of the manifest.
FORMAT: Final = 1
#: Parts of the work that progress is told of: gathering, verifying, replaying, writing.
PARTS: Final = 4
_PROGRESS_EVERY: Final = 1000

Progress = Callable[[int], None]


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """An incident as it was written.

    what: what was asked for, in words. selection: the same, for programs. ledger_id: hex. head: seq and hash
    (hex) of the ledger when it was gathered. ledger_verdict: of the whole ledger, VERIFIED, UNANCHORED or
    BROKEN. anchored_to: the last event that a head from outside vouches for. ledger_finding: the first thing
    wrong with the whole ledger, or null. summary: what happened. report: the replay of exactly
    these events. notes: what was not followed, packed or exported, and why. files: what was written.
    """

    what: str
    selection: Selection
    ledger_id: str
    head: tuple[int, str]
    ledger_verdict: Verdict
    anchored_to: int | None
    ledger_finding: str | None
    summary: Summary
    report: ReplayReport
    notes: tuple[str, ...]
    unreadable: int
    files: tuple[FileFact, ...]

    @property
    def whole(self) -> Whole:
        """What came of verifying the whole ledger."""
        return Whole(
            verdict=self.ledger_verdict,
            last=self.head[0],
            anchored_to=self.anchored_to,
            finding=self.ledger_finding,
        )

    @property
    def sound(self) -> bool:
        """Whether everything matches and nothing is broken."""
        return not self.report.diverged and self.ledger_finding is None and not self.unreadable

    @property
    def verdict(self) -> str:
        """What came of it, in a line; the first word is MATCH, DIVERGED or BROKEN, or as a replay says."""
        line = verdict_line(self.report)
        if self.sound:
            return line
        if self.report.diverged:
            return (
                line if self.ledger_finding is None else f"{line}; the ledger is BROKEN {self.ledger_finding}"
            )
        if self.ledger_finding is not None:
            return f"BROKEN {self.ledger_finding}"
        return f"BROKEN {self.unreadable:,} events cannot be exported: they were altered"

    def to_dict(self) -> dict[str, Any]:
        """The summary and what surrounds it, without the replay's own report, as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        del plain["report"]
        layers = msgspec.to_builtins(self.report.layers)
        return {**plain, "verdict": self.verdict, "sound": self.sound, "layers": layers}


def write_incident(
    ledger: Ledger,
    selection: Selection,
    target: str | os.PathLike[str],
    *,
    expect: Head | str | None = None,
    with_chain: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Incident:
    """Gather what belongs to a session, a decision, a correlation id or a span of time, and write it down.

    selection: with exactly one of `session`, `decision`, `correlation`, or with `since`, `until` or both.
    target: a zip file if its name ends in .zip, else a folder; it is whole or not there. expect: a head of
    the ledger that was kept elsewhere, or its line, to hold the ledger against. with_chain: also of
    every other event what the chain needs, which discloses their kinds, streams, keys and meta. force: take
    the place of an earlier incident. progress: called with how much is done, of PARTS times the ledger's
    events: gathering, verifying, replaying and writing are a part each, however many belong. Reads only;
    memory is bounded whatever the ledger's size. Raises BadSelection, NoSuchId,
    AmbiguousPrefix, BadHead, Unavailable, MalformedEvent, OSError.
    """
    path = Path(target)
    expect = expected_head(expect)
    files.check_target(path, force=force)
    check_selection(selection)
    head = ledger.head()
    refuse_without_indexes(ledger, head)
    found = selection.resolved(ledger, head)
    part = partial(_part, progress, head.seq)
    with gather(ledger, found, head, part(0, head.seq)) as gathered:
        if not len(gathered):
            raise BadSelection("the incident", f"no event is {what_of(found)}", "see `tally log`")
        whole = whole_ledger(ledger, head, expect, part(1, head.seq))
        of_replay = part(2, 2 * len(gathered))  # the chain, then the bodies
        report = replay_ledger(ledger, found, only=gathered.rows, head=head, progress=of_replay)
        summary = summarised(gathered.pairs())
        with bundle(path, force=force) as out:
            writing = _Writing(ledger, gathered, report, summary, whole, part(3, 2 * len(gathered)))
            return writing.write(out, with_chain)


def _part(progress: Progress | None, size: int, number: int, total: int) -> Progress:
    """What to call with how much of a total is done, in a part that counts for `size`; parts begin with 0."""

    def report(count: int) -> None:
        if progress is not None:
            progress(size * number + size * min(count, total) // max(total, 1))

    return report


def check_selection(selection: Selection) -> None:
    """One thing, and nothing that narrows it. Raises BadSelection."""
    given = [name for name in selection.__struct_fields__ if getattr(selection, name) is not None]
    one = len(given) == 1 and given[0] in ("session", "decision", "correlation")
    if not one and not (given and set(given) <= {"since", "until"}):
        ways = "a session, a decision, a correlation id or a span of time"
        raise BadSelection(
            "the incident", f"it is about {', '.join(given) or 'nothing'}", f"give one of {ways}"
        )


def what_of(found: Selection) -> str:
    """What was asked for, in words."""
    if found.session is not None:
        return f"session {found.session}"
    if found.decision is not None:
        return f"decision {found.decision}"
    if found.correlation is not None:
        return f"correlation {found.correlation}"
    since = "" if found.since is None else f"from {time_text(found.since)} "
    until = "" if found.until is None else f"until {time_text(found.until)}"
    return f"what happened {since}{until}".strip()


class _Writing:
    """Writes what was found, file by file."""

    def __init__(
        self,
        ledger: Ledger,
        gathered: Gathered,
        report: ReplayReport,
        summary: Summary,
        whole: Whole,
        progress: Progress,
    ) -> None:
        self._ledger = ledger
        self._gathered = gathered
        self._head = gathered.head
        self._report = report
        self._summary = summary
        self._whole = whole
        self._progress = progress
        self._notes = [f"not followed: {what}" for what in gathered.general]
        self._unreadable = 0

    def write(self, out: Bundle, with_chain: bool) -> Incident:
        """Everything, the manifest last."""
        self._events(out)
        if with_chain:
            self._chain(out)
        self._packs(out)
        out.put(files.HEAD, f"{self._head}\n".encode())
        out.put(files.VERIFIER, resources.files(__package__).joinpath(files.VERIFIER).read_bytes())
        incident = self._incident(out)
        out.put(files.REPORT, report_page(incident, self._moments()))
        out.put(files.REPLAY, pretty(self._report.to_dict()))
        out.put(files.SUMMARY, pretty(summary_document(incident)))
        names = [file.name for file in out.files]
        out.put(files.README, readme_page(incident, names, self._exported, str(self._head)))
        self._refuse_erased_meanwhile()
        manifest = {
            "format": FORMAT,
            "version": __version__,
            "ledger_id": incident.ledger_id,
            "head": str(self._head),
            "selection": incident.selection,
            "events": self._exported,
            "files": sorted(out.files, key=lambda file: file.name),
        }
        out.put(files.MANIFEST, pretty(manifest))
        return self._incident(out)

    def _incident(self, out: Bundle) -> Incident:
        assert self._head.ledger_id is not None, "a ledger's own head names it"
        return Incident(
            what=what_of(self._gathered.selection),
            selection=self._gathered.selection,
            ledger_id=self._head.ledger_id.hex(),
            head=(self._head.seq, self._head.hash.hex()),
            ledger_verdict=self._whole.verdict,
            anchored_to=self._whole.anchored_to,
            ledger_finding=self._whole.finding,
            summary=self._summary,
            report=self._report,
            notes=tuple(self._notes),
            unreadable=self._unreadable,
            files=tuple(out.files),
        )

    def _note(self, note: str) -> None:
        if len(self._notes) < _NOTES_MAX:
            self._notes.append(note)

    @property
    def _exported(self) -> int:
        return self._summary.events - self._unreadable

    def _events(self, out: Bundle) -> None:
        with out.file(files.EVENTS) as file:
            for count, row in enumerate(self._gathered.rows(), 1):
                if count % _PROGRESS_EVERY == 0:
                    self._progress(count)
                try:
                    file.write(export_line(row) + b"\n")
                except MalformedEvent as error:
                    self._unreadable += 1
                    self._note(f"not exported: {error}")
        with out.file(files.WHY) as file:
            for count, (member, row) in enumerate(self._gathered.pairs(), 1):
                if count % _PROGRESS_EVERY == 0:
                    self._progress(self._summary.events + count)
                ring = member.ring.name.lower()
                file.write(files.why_line(row, ring, member.why))

    def _chain(self, out: Bundle) -> None:
        """Every event that is not of the incident, without its body."""
        members = self._gathered.members()
        member = next(members, None)
        with out.file(files.CHAIN) as file:
            for row in self._ledger.rows(before=self._head.seq + 1):
                while member is not None and member.seq < row.seq:
                    member = next(members, None)
                if member is None or member.seq != row.seq:
                    file.write(chain_line(row) + b"\n")

    def _packs(self, out: Bundle) -> None:
        """A pack of each decision that belongs. One that cannot be made is said."""
        packed = 0
        taken: set[str] = set()
        for member, row in self._gathered.pairs():
            if row.kind != gateway.RECORDED or member.ring == Ring.EVIDENCE:
                continue
            decision_id = row.stream.removeprefix(gateway.decision_stream(""))
            name = pack_name(decision_id, row.seq)
            if name in taken:
                continue
            if packed == PACKS_MAX:
                self._note(f"only the first {PACKS_MAX:,} decisions are packed")
                return
            taken.add(name)
            data = self._pack(decision_id, row)
            if data is not None:
                out.put(name, data)
                packed += 1

    def _pack(self, decision_id: str, row: Row) -> bytes | None:
        try:
            stream = self._ledger.rows(before=self._head.seq + 1, stream=row.stream)
            if sum(len(one.body or b"") for one in stream) > _PACK_BODIES_MAX:
                self._note(f"no pack of event {row.seq}: what was said of the decision is too large")
                return None
            return collect(self._ledger, decision_id, self._head).to_bytes()
        except StoreError:
            raise
        except TallyError as error:
            self._note(f"no pack of event {row.seq}: {error}")
        except Exception as error:
            # A body can say things that no recorder would; none of them may end an incident.
            self._note(f"no pack of event {row.seq}: it is malformed ({type(error).__name__})")
        return None

    def _moments(self) -> Iterator[Moment]:
        for moment in tell(chosen_rows(self._gathered.rows(), self._report)):
            yield msgspec.structs.replace(moment, why=self._gathered.why(moment.seq))

    def _refuse_erased_meanwhile(self) -> None:
        """What was just erased must not be handed on, nor look as if it had been lost. Raises Unavailable."""
        kinds = [records.BODY_ERASED]
        for record in self._ledger.rows(self._head.seq, stream=records.STREAM, kinds=kinds):
            for seq in erased_by(record):
                if self._gathered.holds(seq):
                    raise Unavailable(f"event {seq}", "was erased meanwhile", "gather the incident again")
