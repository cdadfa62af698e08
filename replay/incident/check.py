"""`check_incident`: an incident that somebody hands over, held against itself and a head from elsewhere.

In this order: the manifest, the hashes of the events, the head, the packs, what belongs, and at last the
files that follow from all of that, which are made again and compared. The ledger is not needed.
docs/incident.md says what each word is worth.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from tallystick._version import __version__
from tallystick.events import gateway
from tallystick.events.catalogue import KINDS
from tallystick.ledger.arguments import expected_head
from tallystick.ledger.errors import BadHead, TallyError
from tallystick.ledger.event import Head, Row
from tallystick.ledger.ledger import Ledger
from tallystick.ledger.verify import Verdict
from tallystick.recorders.gateway.errors import BadPack
from tallystick.recorders.gateway.pack import PACK_BYTES_MAX, read_pack

from ..layers.checks import Past
from ..layers.decision import Decisions
from ..layers.digest import Digests
from ..outcome import Outcome, outcome, verdict_line
from ..pack import replay_pack
from ..rendering.story import chosen_rows, tell
from ..report import Entry, Layer, Notes, ReplayReport, Result
from ..run import Bodies
from ..selection import Selection
from . import files
from .derived import pretty, readme_page, report_page, summary_document
from .errors import BadIncident
from .evidence import Evidence, Unsound, evidence_of
from .files import FileFact, pack_name
from .gather import Gathered, Ring, gather
from .incident import FORMAT, Incident, check_selection, what_of
from .opening import Opened, opened
from .summary import Summary, summarised

_SMALL_BYTES_MAX: Final = 1 << 20
_JSON_BYTES_MAX: Final = 64 << 20
_CHUNK: Final = 1 << 20
#: Findings and notes that are told of; all are counted.
TOLD_MAX: Final = 100
_NOTE_SHOWN: Final = 500
_ASK: Final = "ask for the incident again"


class Word(StrEnum):
    """What the check of an incident ends in."""

    #: Nothing contradicts itself, and a head from elsewhere is the end of the chain that is here.
    VERIFIED = "VERIFIED"
    #: Nothing contradicts itself, but nothing from elsewhere vouches for it.
    UNANCHORED = "UNANCHORED"
    #: The evidence is sound, but something that is said of it does not follow from it.
    DIVERGED = "DIVERGED"
    #: The evidence contradicts itself, the manifest or the head from elsewhere, or is not all there.
    BROKEN = "BROKEN"


class Trouble(msgspec.Struct, frozen=True):
    """Something wrong with an incident: the file that it shows in, and what it is."""

    file: str
    problem: str
    #: Whether the evidence is concerned, and not only what is said of it.
    of_evidence: bool = True

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


class IncidentCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What came of checking an incident.

    manifest: the SHA-256 of manifest.json in hex. head: the head line that it names. anchored_to: the last
    event that a head from outside vouches for. events: how many it holds. says: its own verdict, and of the
    ledger, as whoever made it says. packs: how many decisions were decided again. troubles: what is wrong,
    the evidence first; trouble_count: how many in all. notes: what could not be told.
    """

    verdict: Word
    manifest: str
    head: str
    anchored_to: int | None
    chained: bool
    events: int
    packs: int
    says: str
    troubles: tuple[Trouble, ...]
    trouble_count: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def __str__(self) -> str:
        """One line; its first word is the verdict."""
        if self.troubles:
            more = f" (and {self.trouble_count - 1:,} more)" if self.trouble_count > 1 else ""
            return f"{self.verdict} {self.troubles[0]}{more}"
        packs = f"{self.packs:,} pack{'' if self.packs == 1 else 's'} replayed"
        count = f"{self.events:,} event{'' if self.events == 1 else 's'}, {packs}"
        if self.verdict is Word.VERIFIED:
            return f"VERIFIED {count}: all follows, and the head from elsewhere is the end of the chain"
        if not self.chained:
            return f"UNANCHORED {count}: all follows, but nothing here shows that they stand in the ledger"
        if self.anchored_to is not None:
            vouched = f"the head vouches for events 1 to {self.anchored_to:,} alone"
            return f"UNANCHORED {count}: all follows; {vouched}"
        return f"UNANCHORED {count}: all follows, but no head from elsewhere vouches for it"


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    version: str
    ledger_id: str
    head: str
    selection: Selection
    events: int
    files: list[FileFact]


class _Told(msgspec.Struct, frozen=True):
    """What summary.json says that does not follow from the rest."""

    what: str
    selection: Selection
    ledger_id: str
    head: tuple[int, str]
    ledger_verdict: Verdict
    anchored_to: int | None
    ledger_finding: str | None
    summary: Summary
    notes: tuple[str, ...]
    unreadable: int
    verdict: str


def check_incident(
    path: str | os.PathLike[str], *, expect: Head | str | None = None, manifest: str | None = None
) -> IncidentCheck:
    """Check an incident in a folder or zip file, whoever made it.

    expect: a head of the ledger that was kept elsewhere, or its line. manifest: the SHA-256 in hex that
    manifest.json should have. Reads only; memory is bounded, and what else it takes is on disk while it runs.
    Raises BadIncident, BadHead, Unavailable, OSError.
    """
    anchor = expected_head(expect)
    with opened(Path(path)) as source:
        return _Check(source, anchor, manifest).run()


class _Check:
    """One incident, file by file."""

    def __init__(self, source: Opened, anchor: Head | None, told: str | None) -> None:
        self._source = source
        self._anchor = anchor
        self._told = told
        self._troubles: list[Trouble] = []
        self._count = 0
        self._notes: list[str] = []
        self._packs = 0
        self._anchored: int | None = None
        self._says = ""

    def run(self) -> IncidentCheck:
        data = self._source.read(files.MANIFEST, _SMALL_BYTES_MAX)
        digest = hashlib.sha256(data).hexdigest()
        if self._told is not None and self._told.lower() != digest:
            self._bad(files.MANIFEST, f"its SHA-256 is {digest}, and not what was told")
        self._manifest = manifest = self._decoded(data, files.MANIFEST, _Manifest)
        try:
            head = Head.parse(manifest.head)
        except BadHead as error:
            raise BadIncident(self._source.where, f"{files.MANIFEST}: {error}", _ASK) from None
        self._check_files()
        events, chained = 0, files.CHAIN in self._source.names
        try:
            with evidence_of(self._source, head) as evidence:
                events = evidence.events
                self._check_head(evidence, head)
                self._check_packs(evidence)
                self._check_derived(evidence, head)
        except Unsound as error:
            self._bad(files.EVENTS, str(error))
        except BadIncident as error:
            self._bad("the incident", error.problem)
        return IncidentCheck(
            verdict=self._word(head, chained),
            manifest=digest,
            head=str(head),
            anchored_to=self._anchored,
            chained=chained,
            events=events,
            packs=self._packs,
            says=self._says,
            troubles=tuple(sorted(self._troubles, key=lambda each: not each.of_evidence)),
            trouble_count=self._count,
            notes=tuple(self._notes),
        )

    def _word(self, head: Head, chained: bool) -> Word:
        if any(each.of_evidence for each in self._troubles):
            return Word.BROKEN
        if self._count:
            return Word.DIVERGED
        return Word.VERIFIED if chained and self._anchored == head.seq else Word.UNANCHORED

    def _bad(self, file: str, problem: str, *, of_evidence: bool = True) -> None:
        self._count += 1
        told = sum(each.of_evidence == of_evidence for each in self._troubles)
        if told < TOLD_MAX:
            self._troubles.append(Trouble(file, problem, of_evidence))

    def _note(self, note: str) -> None:
        if len(self._notes) < TOLD_MAX:
            self._notes.append(note)

    def _decoded(self, data: bytes, name: str, type_: Any) -> Any:
        try:
            return msgspec.json.decode(data, type=type_)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadIncident(self._source.where, f"{name}: is not as expected ({error})", _ASK) from None

    # -- the manifest ----------------------------------------------------------------------

    def _check_files(self) -> None:
        """What is there is what the manifest lists, byte for byte."""
        manifest, listed = self._manifest, {file.name: file for file in self._manifest.files}
        if manifest.format != FORMAT:
            problem = f"{files.MANIFEST} has format {manifest.format}; this version knows {FORMAT}"
            raise BadIncident(self._source.where, problem, "use the version that wrote it")
        if len(listed) != len(manifest.files):
            self._bad(files.MANIFEST, "it lists a file twice")
        for name in sorted(self._source.names - listed.keys() - {files.MANIFEST}):
            if name.partition("/")[0] in files.FILES:
                self._bad(name[:80], "is not in the manifest")
            else:
                self._note(f"{name[:80]} is no part of the incident, and was not looked at")
        for name, fact in listed.items():
            if name not in self._source.names:
                self._bad(name[:80], "is in the manifest, and is missing")
                continue
            size, digest = 0, hashlib.sha256()
            try:
                with self._source.file(name) as file:
                    while chunk := file.read(_CHUNK):
                        size += len(chunk)
                        digest.update(chunk)
            except BadIncident as error:
                self._bad(name[:80], error.problem)
                continue
            if (size, digest.hexdigest()) != (fact.bytes, fact.sha256):
                self._bad(name[:80], "is not the file that the manifest lists: its size or SHA-256 differs")

    # -- the events ------------------------------------------------------------------------

    def _check_head(self, evidence: Evidence, head: Head) -> None:
        manifest = self._manifest
        ledger_id = (evidence.ledger_id or b"").hex()
        if (head.ledger_id or b"").hex() != ledger_id or manifest.ledger_id != ledger_id:
            self._bad(files.MANIFEST, "it names another ledger than event 1")
        if self._source.read(files.HEAD, _SMALL_BYTES_MAX) != f"{manifest.head}\n".encode():
            self._bad(files.HEAD, "is not the head in the manifest")
        if evidence.events != manifest.events:
            self._bad(
                files.MANIFEST, f"it lists {manifest.events:,} events, and there are {evidence.events:,}"
            )
        ends = evidence.last == head.seq if evidence.chained else evidence.last <= head.seq
        if not ends:
            self._bad(files.HEAD, f"it names event {head.seq}, and the last event here is {evidence.last}")
        elif evidence.hash_of(head.seq) not in (None, head.hash):
            self._bad(files.HEAD, f"it has another hash for event {head.seq}")
        if self._anchor is not None:
            self._check_anchor(evidence, self._anchor, ledger_id)

    def _check_anchor(self, evidence: Evidence, anchor: Head, ledger_id: str) -> None:
        if anchor.ledger_id is not None and anchor.ledger_id.hex() != ledger_id:
            self._bad(files.EVENTS, "event 1 names another ledger than the expected head")
            return
        found = evidence.hash_of(anchor.seq)
        if found is None:
            where = "lies behind all that is here" if anchor.seq > evidence.last else "is not here"
            self._note(f"the expected head could not be used: it names event {anchor.seq:,}, which {where}")
        elif found != anchor.hash:
            problem = f"every hash follows, but the expected head has another hash for event {anchor.seq}"
            self._bad(files.EVENTS, problem)
        elif evidence.chained:
            self._anchored = anchor.seq
        else:
            self._note(
                f"the expected head names event {anchor.seq:,}, which is here; it says nothing of others"
            )

    # -- the packs -------------------------------------------------------------------------

    def _check_packs(self, evidence: Evidence) -> None:
        """Each event of each pack is in events.jsonl, and each decision comes out as recorded."""
        for name in sorted(self._source.names):
            if not name.startswith(f"{files.PACKS}/"):
                continue
            try:
                pack = read_pack(self._source.read(name, PACK_BYTES_MAX), name)
            except BadPack as error:
                self._bad(name, str(error).removeprefix(name).removeprefix(": "))
                continue
            for row in pack.rows:
                if evidence.row(row.seq) != row:
                    self._bad(name, f"its event {row.seq} is not the one in {files.EVENTS}")
            if str(pack.head) != self._manifest.head:
                self._bad(name, f"its head is not the one in {files.HEAD}")
            seq = next((row.seq for row in pack.rows if row.kind == gateway.RECORDED), 0)
            if pack_name(pack.record.decision_id, seq) != name:
                self._bad(name, f"it holds another decision, {pack.record.decision_id[:80]}")
            report = replay_pack(pack)
            first = report.first
            if first is not None:
                problem = f"replayed, event {first.seq} diverged: {first.what}"
                self._bad(name, problem + (f" ({first.reason})" if first.reason else ""), of_evidence=False)
            elif outcome(report) is Outcome.NOT_REDERIVABLE:
                self._note(f"{name}: {verdict_line(report)}")
            else:
                self._packs += 1

    # -- what follows from them ------------------------------------------------------------

    def _check_derived(self, evidence: Evidence, head: Head) -> None:
        told = self._decoded(self._source.read(files.SUMMARY, _JSON_BYTES_MAX), files.SUMMARY, _Told)
        self._says = f"{told.verdict}; the whole ledger was {told.ledger_verdict}"
        report = self._replay(evidence, head)
        selection = self._manifest.selection
        try:
            check_selection(selection)
        except TallyError as error:
            raise BadIncident(self._source.where, f"{files.MANIFEST}: {error}", _ASK) from None
        # Only rows are asked for; whether a ledger gives them makes no difference.
        with gather(cast("Ledger", evidence), selection, head) as gathered:
            self._check_belonging(evidence, gathered, told)
            pairs = ((member, row) for member, row in gathered.pairs() if evidence.row(row.seq) is not None)
            incident = Incident(
                what=what_of(selection),
                selection=selection,
                ledger_id=self._manifest.ledger_id,
                head=(head.seq, head.hash.hex()),
                ledger_verdict=told.ledger_verdict,
                anchored_to=told.anchored_to,
                ledger_finding=told.ledger_finding,
                summary=summarised(pairs),
                report=report,
                notes=told.notes,
                unreadable=told.unreadable,
                files=(),
            )
            moments = [
                msgspec.structs.replace(moment, why=gathered.why(moment.seq))
                for moment in tell(chosen_rows(evidence.given(), report))
            ]
            try:
                page = report_page(incident, moments)
            except Exception as error:
                # What was never written by a replay can say anything; none of it may end the check.
                self._bad(files.REPLAY, f"cannot be shown ({type(error).__name__})", of_evidence=False)
            else:
                self._same(files.REPORT, page)
        self._same(files.SUMMARY, pretty(summary_document(incident)))
        names = [file.name for file in self._manifest.files]
        self._same(files.README, readme_page(incident, names, evidence.events, self._manifest.head))
        script = resources.files(__package__).joinpath(files.VERIFIER).read_bytes()
        self._same(files.VERIFIER, script)

    def _same(self, name: str, data: bytes) -> None:
        if self._source.read(name, max(len(data), _JSON_BYTES_MAX)) != data:
            problem = "does not say what follows from the evidence: do not believe it"
            if self._manifest.version != __version__:
                problem += f" (or only another version of Tallystick wrote it: this is {__version__})"
            self._bad(name, problem, of_evidence=False)

    def _check_belonging(self, evidence: Evidence, gathered: Gathered, told: _Told) -> None:
        """Nothing that belongs is withheld, and why.jsonl says why."""
        for note in told.notes:  # which excuse what is looked for below
            self._note(f"the incident says of itself: {note[:_NOTE_SHOWN]}")
        unclear = [note for note in told.notes if note.startswith("not followed: ")]
        packed = {name for name in self._source.names if name.startswith(f"{files.PACKS}/")}
        for member, row in gathered.pairs():
            if evidence.row(row.seq) is None:
                where = f"event {row.seq} ({row.kind} in {row.stream[:80]})"
                self._bad(files.CHAIN, f"{where} belongs ({member.why}), and what it holds is withheld")
            elif row.kind == gateway.RECORDED and member.ring != Ring.EVIDENCE:
                decision_id = row.stream.removeprefix(gateway.decision_stream(""))
                name = pack_name(decision_id, row.seq)
                said = any(f"event {row.seq}:" in note or "are packed" in note for note in told.notes)
                if name not in packed and not said:
                    self._bad(name, f"the pack of the decision that event {row.seq} records is missing")
        if self._why_differs(evidence, gathered):
            problem = "does not say what follows from the evidence"
            if unclear:
                self._note(f"{files.WHY} {problem}: {unclear[0]}, which only the ledger can tell")
            else:
                self._bad(files.WHY, problem, of_evidence=False)

    def _why_differs(self, evidence: Evidence, gathered: Gathered) -> bool:
        with self._source.file(files.WHY) as file:
            for member, row in gathered.pairs():
                if evidence.row(row.seq) is None:
                    continue
                line = files.why_line(row, member.ring.name.lower(), member.why)
                if file.readline(len(line) + 1) != line:
                    return True
            return file.read(1) != b""

    def _replay(self, evidence: Evidence, head: Head) -> ReplayReport:
        """The report in replay.json, held against what can be derived again from the events alone."""
        data = self._source.read(files.REPLAY, _JSON_BYTES_MAX)
        report: ReplayReport = self._decoded(data, files.REPLAY, ReplayReport)
        try:
            canonical = pretty(report.to_dict())
        except (ValueError, TypeError, RecursionError):
            canonical = b""
        place = (report.ledger_id, report.selection, report.head, report.events)
        manifest = self._manifest
        if canonical != data or place != (
            *(manifest.ledger_id, manifest.selection),
            *((head.seq, head.hash.hex()), evidence.events),
        ):
            self._bad(files.REPLAY, "is not the report on these events", of_evidence=False)
        if sum(each.result is Result.DIVERGED for each in report.entries) > report.diverged or (
            report.diverged and report.first is None
        ):
            self._bad(files.REPLAY, "its numbers contradict its entries", of_evidence=False)
        said = set(_places(report.entries))
        found = _diverged_in(evidence, head)
        # A report that is full may lack entries; it still counts them.
        quiet = found - said if not report.left_out or report.diverged < len(found) else set()
        for seq, layer, what in sorted(quiet):
            problem = f"it does not say that event {seq} diverged, layer {layer}: {what}"
            self._bad(files.REPLAY, problem, of_evidence=False)
        for seq, layer, what in sorted(said - found):
            self._note(f"{files.REPLAY} says that event {seq} diverged, layer {layer}: {what}; not seen here")
        return report


def _places(entries: tuple[Entry, ...]) -> Iterator[tuple[int, str, str]]:
    return ((each.seq, each.layer, each.what) for each in entries if each.result is Result.DIVERGED)


def _diverged_in(evidence: Evidence, head: Head) -> set[tuple[int, str, str]]:
    """What diverges in the events, with nothing but them at hand."""
    notes = Notes((Layer.DIGEST, Layer.DECISION))
    past = Past(evidence, head, whole=False)
    bodies = Bodies(
        notes,
        {
            Layer.DIGEST: (frozenset(KINDS), Digests(past)),
            Layer.DECISION: (frozenset({gateway.RECORDED}), Decisions(past)),
        },
    )
    bodies.run(_without_own(evidence), lambda _: None)
    return set(_places(notes.entries()))


def _without_own(evidence: Evidence) -> Iterator[Row]:
    """The events, without the ledger's own: the reading checked these."""
    return (row for row in evidence.given() if not row.kind.startswith("ledger."))
