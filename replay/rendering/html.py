"""A report as one HTML file for people: the verdict, what diverged, the events, where each value comes from.

The file loads nothing and runs nothing: no script, no link out of it, one style sheet inside, and a policy
that forbids the rest. All text goes through `markup`. The same report and events give the same bytes.
"""

from __future__ import annotations

import shlex
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, Final

import msgspec

from ..outcome import Outcome, verdict_line
from ..parts import time_text
from ..report import LAYERS, Entry, Layer, ReplayReport, Result
from ..selection import Selection
from .html_values import side_by_side, value_markup
from .markup import Markup, closing, element, joined, opening, page, visible
from .story import Moment, Provenance, cut

#: Entries that are written out; of each section, and for the rest their number.
ENTRIES_SHOWN: Final = 200
#: Events that are written out, whatever was given, and characters of HTML for them without their values.
MOMENTS_SHOWN: Final = 10_000
MOMENTS_CHARACTERS_MAX: Final = 6_000_000
#: Characters of HTML for the values of all events, and for all differences; what comes behind has none.
VALUES_CHARACTERS_MAX: Final = 4_000_000
DIFFERENCES_CHARACTERS_MAX: Final = 2_000_000
#: Values of one event that are written out.
_VALUES_SHOWN: Final = 60
_CELL_CHARACTERS_MAX: Final = 400
#: Values that are named and not written out, and of which sources.
_EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})
_SOURCES: Final = (Provenance.GIVEN, Provenance.RETURNED, Provenance.DERIVED, Provenance.OBSERVED)
_NO_MORE_VALUES: Final = "Its values are left out here, since this file would become too large."

#: What each layer derives again, and what a difference in it means.
MEANING: Final = {
    Layer.CHAIN: (
        "Each event's hash, and its link to the event before it.",
        "The record was altered after it was written.",
    ),
    Layer.DIGEST: (
        "Every digest, number and count in a body that follows from the body or from events that it names.",
        "The body contradicts itself.",
    ),
    Layer.DECISION: (
        "The decision on the recorded request, under the recorded policy, with what was remembered then.",
        "The engine, or the record, changed.",
    ),
    Layer.EXECUTION: (
        "The task, run again with its recorded arguments.",
        "The code changed, or was never deterministic.",
    ),
    Layer.VIEW: (
        "The tables made of the events, built anew, against the stored ones and against sealed digests.",
        "An index was altered, or a projection has a bug.",
    ),
}
#: What each word for where a value comes from says.
WORTH: Final = {
    Provenance.GIVEN: "An app, a person or an imported file passed it in. Nothing to derive it from.",
    Provenance.RETURNED: "A task returned or raised it. It is derived again by running the task.",
    Provenance.DERIVED: "It follows from other recorded values. Replay derives it again and compares.",
    Provenance.OBSERVED: "Seen once: a clock, a duration, a random name, an error's text. Never compared.",
    Provenance.LEFT_OUT: "Left out when it was recorded: only a digest or a placeholder is there.",
    Provenance.ERASED: "The body was erased since. Its hash stays in the chain.",
    Provenance.NOT_READABLE: "The body is not as bodies of its kind are.",
    Provenance.UNKNOWN: "It stands in a place that this version of the program knows nothing of.",
}
_SELECTED: Final = {
    "session": "session",
    "decision": "decision",
    "stream": "stream",
    "correlation": "correlation id",
    "first": "from event",
    "last": "up to event",
    "since": "not before",
    "until": "before",
    "up_to": "as if the log ended with event",
}


def report_html(
    report: ReplayReport,
    moments: Iterable[Moment] = (),
    *,
    title: str = "Replay report",
    facts: Sequence[tuple[str, str]] = (),
    left_out: int = 0,
    command: str | None = None,
    verdict: str | None = None,
) -> str:
    """The report as one HTML page; see `report_pieces`, which makes it with less memory."""
    return "".join(
        report_pieces(
            report,
            moments,
            title=title,
            facts=facts,
            left_out=left_out,
            command=command,
            verdict=verdict,
        )
    )


def report_pieces(
    report: ReplayReport,
    moments: Iterable[Moment] = (),
    *,
    title: str = "Replay report",
    facts: Sequence[tuple[str, str]] = (),
    left_out: int = 0,
    command: str | None = None,
    verdict: str | None = None,
) -> Iterator[str]:
    """The report as one HTML page, piece by piece.

    moments: the events to tell of, in order; all are taken, one at a time, before the first piece comes.
    facts: names and values that stand first. left_out: how many of the selected events are not among the
    moments; the report may know of more. command: what makes the same report again; default `tally replay`.
    verdict: the line at the top, where more was looked at than what was replayed; its first word is MATCH if
    nothing is wrong.
    """
    title = cut(title, _CELL_CHARACTERS_MAX)
    timeline = _Timeline(report)
    told = timeline.items(moments)
    missing = max(left_out, report.events - timeline.given) + timeline.given - timeline.shown
    body = chain(
        [_header(report, title, bool(told), verdict or verdict_line(report)), opening("main")],
        _section("facts", "What was looked at", [_facts(report, facts)]),
        _section("layers", "What was derived again", [_layers(report)]),
        _section("diverged", "What diverged", _diverged(report, timeline)),
        _section("not-rederivable", "What could not be derived again", _not_rederivable(report, timeline)),
        _section("events", "What happened", _events(told, missing)) if told else [],
        _section("observed", "What was seen once", _observed(report)),
        _section("words", "What the words mean", _glossary()),
        _section("check", "How to check this without trusting it", _how_to_check(report, command)),
        [closing("main")],
    )
    yield from page(_head(title), body, _style())


# -- the frame ---------------------------------------------------------------------------------


@cache
def _style() -> str:
    return files(__package__).joinpath("report.css").read_text("utf-8")


def _head(title: str) -> Iterator[Markup]:
    digest = b64encode(sha256(_style().encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    yield element("meta", charset="utf-8")
    yield element("meta", http_equiv="Content-Security-Policy", content=policy)
    yield element("meta", name="viewport", content="width=device-width, initial-scale=1")
    yield element("meta", name="referrer", content="no-referrer")
    yield element("title", visible(title))  # a title holds text only


def _header(report: ReplayReport, title: str, has_events: bool, verdict: str) -> Markup:
    word = next((str(one) for one in Outcome if verdict.startswith(one)), verdict.partition(" ")[0])
    rest = verdict.removeprefix(word).lstrip()
    first = report.first
    line = element(
        "p",
        element("strong", word),
        " ",
        rest if first is None else element("a", cut(rest, _CELL_CHARACTERS_MAX), href="#first-divergence"),
        class_="verdict good" if word == Outcome.MATCH and not report.diverged else "verdict bad",
    )
    unsure = sum(counts.not_rederivable for counts in report.layers.values())
    places = [
        ("#diverged", f"{report.diverged:,} diverged"),
        ("#not-rederivable", f"{unsure:,} not re-derivable"),
        *([("#events", "what happened")] if has_events else []),
        ("#check", "how to check this"),
    ]
    links = (element("li", element("a", text, href=href)) for href, text in places)
    return element(
        "header", element("h1", title), line, element("nav", element("ul", *links), aria_label="Sections")
    )


def _section(name: str, title: str, content: Iterable[Markup]) -> Iterator[Markup]:
    yield opening("section", id=name)
    yield element("h2", title)
    yield from content
    yield closing("section")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, class_: str | None = None) -> Markup:
    """A table. The first cell of a row names it; columns of numbers begin with `#`."""
    numbers = [head.startswith("#") for head in heads]
    top = (
        element("th", head.removeprefix("#"), scope="col", class_="number" if number else None)
        for head, number in zip(heads, numbers, strict=True)
    )
    body = (
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(
                element("td", cell, class_="number" if number else None)
                for cell, number in zip(row[1:], numbers[1:], strict=True)
            ),
        )
        for row in rows
    )
    table = element("table", element("thead", element("tr", *top)), element("tbody", *body), class_=class_)
    return element("div", table, class_="wide")


def _paragraph(*content: str, class_: str | None = None) -> Markup:
    return element("p", *content, class_=class_)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# -- at the top --------------------------------------------------------------------------------


def _facts(report: ReplayReport, facts: Sequence[tuple[str, str]]) -> Markup:
    seq, digest = report.head
    own = [
        ("Selected", selection_text(report.selection)),
        ("Events", f"{report.events:,}"),
        ("Ledger", element("code", report.ledger_id)),
        ("Its head then", joined([f"event {seq:,}, hash ", element("code", digest)])),
    ]
    rows = (
        element("tr", element("th", name, scope="row"), element("td", _cut(value)))
        for name, value in (*facts, *own)
    )
    return element("table", element("tbody", *rows), class_="facts")


def _cut(text: str) -> str:
    """Text for a cell; markup as it is."""
    if isinstance(text, Markup) or len(text) <= _CELL_CHARACTERS_MAX:
        return text
    return f"{text[:_CELL_CHARACTERS_MAX]}… and {len(text) - _CELL_CHARACTERS_MAX:,} characters more"


def selection_text(selection: Selection) -> str:
    """What was selected, in words."""
    given: dict[str, Any] = msgspec.to_builtins(selection)
    if not given:
        return "everything"
    said = []
    for name, value in given.items():
        words = time_text(value, "microseconds") if name in ("since", "until") else str(value)
        said.append(f"{_SELECTED.get(name, name)} {words}")
    return ", ".join(said)


def _layers(report: ReplayReport) -> Markup:
    rows = []
    for layer in LAYERS:
        counts = report.layers.get(layer)
        if counts is None:
            rows.append([layer, *(element("i", word) for word in ("–", "–", "not looked at"))])
            continue
        diverged = f"{counts.diverged:,}"
        rows.append(
            [
                layer,
                f"{counts.match:,}",
                element("strong", diverged, class_="bad") if counts.diverged else diverged,
                f"{counts.not_rederivable:,}",
            ]
        )
    return _table(["layer", "#match", "#diverged", "#not re-derivable"], rows, class_="counts")


# -- entries -----------------------------------------------------------------------------------


def _diverged(report: ReplayReport, timeline: _Timeline) -> Iterator[Markup]:
    found = [entry for entry in report.entries if entry.result is Result.DIVERGED]
    if not report.diverged:
        yield _paragraph("Nothing: whatever could be derived again came out as recorded.")
        return
    yield _paragraph(
        "The first is what to look at: what comes behind may follow from it. On the left stands what was "
        "derived again, on the right what the ledger says."
    )
    room = DIFFERENCES_CHARACTERS_MAX
    shown = found[:ENTRIES_SHOWN]
    for seq, entries in groupby(shown, attrgetter("seq")):
        blocks = []
        for entry in entries:
            blocks.append(_block(entry, room))
            room -= len(blocks[-1])
        yield element(
            "article",
            element("h3", timeline.link(seq)),
            _paragraph(timeline.headlines[seq], class_="headline") if seq in timeline.headlines else "",
            *blocks,
            id=None if seq != shown[0].seq else "first-divergence",
        )
    if report.diverged > len(shown):
        rest = report.diverged - len(shown)
        yield _paragraph(f"{rest:,} more diverged and are not written out here.", class_="aside")


def _block(entry: Entry, room: int) -> Markup:
    """What an entry says: layer, field, reason, and its differences as long as there is room."""
    tables: list[Markup] = []
    for difference in entry.differences:
        if room <= 0:
            break
        tables.append(element("div", side_by_side(difference), class_="wide"))
        room -= len(tables[-1])
    more = len(entry.differences) - len(tables)
    return element(
        "div",
        element(
            "h4", element("span", entry.layer, class_="layer"), " ", cut(entry.what, _CELL_CHARACTERS_MAX)
        ),
        _paragraph(_cut(entry.reason)) if entry.reason else "",
        *tables,
        _paragraph(f"{_counted(more, 'more difference')} left out here.", class_="aside") if more else "",
        class_="finding",
    )


def _not_rederivable(report: ReplayReport, timeline: _Timeline) -> Iterator[Markup]:
    if not report.reasons:
        yield _paragraph("Nothing.")
        return
    yield _paragraph("Neither a match nor a finding: there is not enough recorded to tell.")
    rows = (
        [reason.layer, _cut(reason.reason), f"{reason.count:,}", timeline.link(reason.first_seq)]
        for reason in report.reasons[:ENTRIES_SHOWN]
    )
    yield _table(["layer", "why", "#checks", "first"], rows)
    found = [entry for entry in report.entries if entry.result is Result.NOT_REDERIVABLE]
    if len(found) > len(report.reasons):
        shown = found[:ENTRIES_SHOWN]
        said = (
            "All of them"
            if len(shown) == sum(each.count for each in report.reasons)
            else f"The first {len(shown):,}"
        )
        table = _table(["event", "layer", "what", "why"], (_entry_row(entry, timeline) for entry in shown))
        yield element("details", element("summary", said), table)


def _entry_row(entry: Entry, timeline: _Timeline) -> list[str]:
    return [timeline.link(entry.seq), entry.layer, _cut(entry.what), _cut(entry.reason or "")]


def _observed(report: ReplayReport) -> Iterator[Markup]:
    if not report.observed:
        yield _paragraph("Nothing that was left out of the comparison.")
        return
    yield _paragraph(
        "Clock times, durations, names drawn at random and texts of errors would not come out the same "
        "again. They are recorded, and never compared:"
    )
    rows = ([each.kind, _cut(", ".join(each.fields)), f"{each.events:,}"] for each in report.observed)
    yield _table(["kind", "fields", "#events"], rows)


# -- events ------------------------------------------------------------------------------------


class _Timeline:
    """Writes the events, and remembers which, so that entries can point at them."""

    def __init__(self, report: ReplayReport) -> None:
        found = [entry.seq for entry in report.entries if entry.result is Result.DIVERGED]
        self._diverged = frozenset(found[:ENTRIES_SHOWN])
        self._room = VALUES_CHARACTERS_MAX
        self._lines_room = MOMENTS_CHARACTERS_MAX
        self._seqs: set[int] = set()
        #: What the events say of which something diverged.
        self.headlines: dict[int, str] = {}
        self.given = 0
        self.shown = 0

    def link(self, seq: int) -> Markup:
        """`event 12`, which leads there if it is written out."""
        text = f"event {seq:,}"
        return element("a", text, href=f"#event-{seq}") if seq in self._seqs else element("span", text)

    def items(self, moments: Iterable[Moment]) -> list[Markup]:
        """A list item an event; those behind the last that are written out are counted."""
        items = []
        before = 0
        for moment in moments:
            self.given += 1
            if self.shown >= MOMENTS_SHOWN or self._lines_room <= 0:
                continue
            self.shown += 1
            if before and moment.seq > before + 1:
                items.append(_gap(moment.seq - before - 1))
            before = moment.seq
            items.append(self._item(moment))
        return items

    def _item(self, moment: Moment) -> Markup:
        bad = moment.seq in self._diverged
        if bad:
            self.headlines[moment.seq] = cut(moment.headline, _CELL_CHARACTERS_MAX)
        known = moment.seq in self._seqs
        self._seqs.add(moment.seq)
        values = self._values(moment, bad)
        item = element(
            "li",
            element(
                "div",
                element("span", f"{moment.seq:,}", class_="seq"),
                element(
                    "span",
                    _SIGNS.get(moment.sign, moment.sign[:2]),
                    class_=f"sign {_TONES.get(moment.sign, '')}".rstrip(),
                ),
                element("span", cut(moment.headline or moment.kind, _CELL_CHARACTERS_MAX), class_="headline"),
                element("strong", "diverged", class_="bad") if bad else "",
                class_="line",
            ),
            element("div", *_about(moment), class_="about"),
            values,
            id=None if known else f"event-{moment.seq}",
            class_="bad" if bad else None,
        )
        self._lines_room -= len(item) - len(values)
        return item

    def _values(self, moment: Moment, is_open: bool) -> Markup:
        if self._room <= 0:
            return _paragraph(_NO_MORE_VALUES, class_="aside")
        rows: list[Sequence[str]] = []
        empty: dict[Provenance, list[str]] = {}
        for each in moment.values[:_VALUES_SHOWN]:
            name = cut(each.name, 100)
            if each.value in _EMPTY and each.provenance in _SOURCES:
                empty.setdefault(each.provenance, []).append(name)
                continue
            shown = "" if each.provenance is Provenance.ERASED else value_markup(each.value)
            rows.append([name, shown, each.provenance])
        nothing = [f"{', '.join(names)} ({source})" for source, names in empty.items()]
        more = len(moment.values) - _VALUES_SHOWN
        table = _table(["name", "value", "where it comes from"], rows, class_="values") if rows else Markup()
        count = _counted(len(moment.values), "value")
        details = element(
            "details",
            element("summary", count),
            table,
            _paragraph(f"{_counted(more, 'more value')} left out here.", class_="aside") if more > 0 else "",
            _paragraph(f"empty: {'; '.join(nothing)}", class_="aside") if nothing else "",
            _paragraph("hash ", element("code", moment.hash), class_="aside"),
            open=is_open,
        )
        self._room -= len(details)
        return details


_SIGNS: Final = {"+": "✓", "x": "✗", "~": "≈", "-": "–"}
_TONES: Final = {"+": "good", "x": "bad", "~": "doubtful"}


def _about(moment: Moment) -> Iterator[Markup]:
    """When, what, where, who, and why it belongs."""
    yield element("span", time_text(moment.at), class_="time")
    yield element("code", moment.kind)
    yield element("span", "in ", element("code", cut(moment.stream, 120)))
    if moment.actor:
        yield element("span", "by ", element("code", cut(moment.actor, 120)))
    if moment.why:
        yield element("span", cut(moment.why, 200), class_="why")


def _gap(events: int) -> Markup:
    return element("li", f"{_counted(events, 'event')} between", class_="gap")


def _events(items: list[Markup], missing: int) -> Iterator[Markup]:
    yield _paragraph(
        "In the order in which it was recorded; times are those of the clock then, in UTC. "
        "Each event opens to its values and where they come from."
    )
    yield opening("ol", class_="events")
    yield from items
    yield closing("ol")
    if missing > 0:
        yield _paragraph(
            f"{missing:,} more events that were selected are not written out here.", class_="aside"
        )


# -- at the end --------------------------------------------------------------------------------


def _glossary() -> Iterator[Markup]:
    yield element("h3", "The layers")
    rows = ([layer, *MEANING[layer]] for layer in LAYERS)
    yield _table(["layer", "what is derived again", "a difference means"], rows)
    yield element("h3", "Where values come from")
    yield _table(["word", "what it says"], WORTH.items())


def _how_to_check(report: ReplayReport, command: str | None) -> Iterator[Markup]:
    seq, digest = report.head
    own = f"tally replay {' '.join(replay_options(report.selection))}".rstrip()
    yield _paragraph(
        "This file is a rendering and proves nothing: anybody can write one. What counts is the ledger, "
        "and a head of it that was kept somewhere else. With both at hand:"
    )
    steps = [
        (
            "Verify the ledger against the head that you kept, not against the one that stands here. "
            "VERIFIED means that nothing was altered and nothing is missing at its end.",
            "tally verify --expect HEAD",
        ),
        (
            "Replay it yourself. The same ledger gives the same report, byte for byte, on any machine.",
            own if command is None else command,
        ),
        (
            "Or trust none of our code: the format is written down in docs/format.md, and "
            "docs/verify_ledger.py, one file for Python with the package blake3, checks every hash without "
            "Tallystick.",
            "python verify_ledger.py LEDGER --expect HEAD",
        ),
    ]
    items = (element("li", text, element("pre", element("code", line))) for text, line in steps)
    yield element("ol", *items)
    yield _paragraph("The head that this report saw, to compare with the one that you kept:")
    yield element("pre", element("code", f"tally1:{report.ledger_id}:{seq}:{digest}"))


def replay_options(selection: Selection) -> Iterator[str]:
    """The options of `tally replay` that make this selection, quoted for a shell."""
    if selection.first is not None or selection.last is not None:
        yield f"--range {selection.first or ''}:{selection.last or ''}"
    for name in ("session", "decision", "stream", "correlation", "since", "until", "up_to"):
        value = getattr(selection, name)
        if value is not None:
            is_time = name in ("since", "until")
            text = time_text(value, "microseconds").replace(" ", "T") if is_time else str(value)
            yield f"--{name.replace('_', '-')} {shlex.quote(text)}"
