"""The report as HTML: nothing escapes into its markup, everything is on it, and it is the same every time."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from forging import Forger
from hypothesis import given, settings
from hypothesis import strategies as st
from kind_bodies import body_of
from property_tests import examples

from tallystick import Ledger, replay_ledger
from tallystick.events.catalogue import KINDS
from tallystick.ledger.event import Row
from tallystick.replay.differences import ABSENT
from tallystick.replay.rendering import html, html_values
from tallystick.replay.rendering.html import replay_options, report_html, selection_text
from tallystick.replay.rendering.html_values import side_by_side, value_markup
from tallystick.replay.rendering.markup import element, escaped, joined, visible
from tallystick.replay.rendering.story import Moment, Provenance, Value, moments_of, tell
from tallystick.replay.report import (
    Counts,
    Difference,
    Entry,
    Layer,
    Observed,
    Reason,
    ReplayReport,
    Result,
)
from tallystick.replay.selection import Selection

BLANK = bytes(32)
ATTRIBUTES: Final = {
    "html": {"lang"},
    "meta": {"charset", "http-equiv", "content", "name"},
    "section": {"id"},
    "article": {"id"},
    "li": {"id", "class"},
    "a": {"href"},
    "th": {"scope", "class"},
    "nav": {"aria-label"},
    "details": {"open"},
    "summary": frozenset[str](),
    **dict.fromkeys("td table div p span strong ol".split(), frozenset({"class"})),
    **dict.fromkeys(
        "head title style body header main h1 h2 h3 h4 ul thead tbody tr caption code pre i mark".split(),
        frozenset[str](),
    ),
}
HOSTILE = st.sampled_from(
    [
        "</style><script>alert(1)</script>",
        "</title></details></table><img src=x onerror=alert(1)>",
        "\"><svg onload='alert(1)'>",
        "javascript:alert(1)",
        "a\x00b\r\n\x0c\x1b[31m",
        "\u202ereversed\u2066 \u200b\u2028\ufeff",
        "<!--",
        "]]>",
        "&lt;script&gt;&amp;#60;",
        "{{7*7}} ${x} %s \\u003cscript\\u003e",
        "\ud800 lonely",
        "style=x:expression(alert(1))",
        "`'\"",
        "\U000e0041\ue000\uffff",
    ]
)
TEXT = HOSTILE | st.text(max_size=40)


class Page(HTMLParser):
    """A page taken apart: refuses whatever is not on the list; keeps texts, ids and links."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text = ""
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.policy = ""
        self.style = ""
        self.feed(page)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ATTRIBUTES, f"<{tag}>"
        assert {name for name, _ in attrs} <= ATTRIBUTES[tag], f"<{tag} {attrs}>"
        found = dict(attrs)
        assert len(found) == len(attrs)
        if href := found.get("href"):
            assert re.fullmatch("#[a-z0-9-]+", href)
            self.links.append(href)
        if name := found.get("id"):
            assert re.fullmatch("[a-z0-9-]+", name)
            self.ids.append(name)
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data
        else:
            self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"a processing instruction: {data!r}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data!r}")


def shows(parsed: Page, text: str) -> bool:
    """Whether the text is on the page, as it is or put on one line."""
    shown = " ".join(parsed.text.split())
    return visible(" ".join(text.split())) in shown or " ".join(visible(text).split()) in shown


def a_report(text: str = "x", value: Any = None, **changed: Any) -> ReplayReport:
    """A report with the text in every place that holds text."""
    entries = tuple(
        Entry(
            seq=seq,
            layer=layer,
            what=f"what {text}",
            result=result,
            reason=f"reason {text}",
            differences=(Difference(f"/path {text}", text, value), Difference("", ABSENT, [text])),
        )
        for seq, layer in enumerate(Layer, 1)
        for result in (Result.DIVERGED, Result.NOT_REDERIVABLE)
    )
    report = ReplayReport(
        ledger_id=f"id {text}",
        selection=Selection(session=f"session {text}", since=1, up_to=7),
        head=(7, f"hash {text}"),
        events=5,
        layers=dict.fromkeys(Layer, Counts(3, 1, 1)),
        entries=entries,
        left_out=0,
        reasons=(Reason(Layer.DIGEST, f"why {text}", 5, 1),),
        observed=(Observed(f"kind {text}", (f"field {text}",), 3),),
    )
    return msgspec.structs.replace(report, **changed)


def a_moment(seq: int = 1, text: str = "x", value: Any = None) -> Moment:
    return Moment(
        seq=seq,
        at=0,
        kind=f"kind {text}",
        stream=f"stream {text}",
        actor=f"actor {text}",
        sign=text,
        headline=f"headline {text}",
        values=tuple(Value(f"name {text}", one, Provenance.GIVEN) for one in (text, value, {text: [text]})),
        hash="ab" * 32,
        why=f"why {text}",
    )


def a_row(kind: str, body: bytes, seq: int = 1, text: str = "x") -> Row:
    meta = msgspec.json.encode({"actor": text, "correlation": [text]}) if _is_text(text) else None
    return Row(seq, -(10**18), kind, f"stream {text}", text, meta, BLANK, body, BLANK, BLANK, BLANK)


def _is_text(text: str) -> bool:
    return not re.search("[\ud800-\udfff]", text)


# -- nothing escapes ---------------------------------------------------------------------------


@settings(max_examples=examples(50), deadline=None)
@given(text=TEXT)
def test_text_in_any_field_of_the_report_stays_text(text: str) -> None:
    value = {"key": text, text: text} if _is_text(text) else text
    page = report_html(
        a_report(text, value),
        [a_moment(1, text, value), a_moment(1, text, value), a_moment(7, text)],
        title=f"title {text}",
        facts=[(f"fact {text}", f"is {text}")],
    )
    page.encode()
    parsed = Page(page)
    assert re.search("<title>[^<>]*</title>", page)
    for (
        where
    ) in "what reason kind field why id hash session fact is title path headline actor stream".split():
        assert shows(parsed, f"{where} {text}"), where
    assert parsed.tags.count("style") == 1
    assert set(parsed.links) <= {f"#{name}" for name in parsed.ids}
    assert len(set(parsed.ids)) == len(parsed.ids)


@settings(max_examples=examples(120), deadline=None)
@given(text=TEXT, kind=st.sampled_from([*KINDS]), raw=st.binary(max_size=40))
def test_text_in_any_field_of_a_body_stays_text(text: str, kind: str, raw: bytes) -> None:
    plain = json.dumps(body_of(kind, text, text)).encode()  # lone surrogates as escapes
    odd = json.dumps({"v": 1, "derived": {text: text}, text: [text]}).encode()
    rows = [a_row(kind, plain, 1, text), a_row(kind, raw, 2), a_row(f"app.{text}", odd, 3, text)]
    parsed = Page(report_html(a_report(), tell(rows)))
    assert shows(parsed, f"stream {text}")
    if _is_text(text) and text.strip():
        assert visible(text) in parsed.text or visible(json.dumps(text)) in parsed.text


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_elements_escape_what_is_no_markup(texts: list[str]) -> None:
    made = element("p", *texts, class_="".join(texts))
    assert re.fullmatch(
        r'<p class="[^"<>]*">([^<>]|<span class="unseen">[^<>]*</span>)*</p>', made, re.DOTALL
    )
    # Markup stays as it is; a piece of it is text again.
    assert joined([made, made[1:]]) == made + escaped(made[1:])


def test_what_nobody_would_see_is_written_out() -> None:
    assert escaped("a\u202eb\x00") == 'a<span class="unseen">\\u202e</span>b<span class="unseen">\\x00</span>'
    assert escaped("tab\tline\nwide\u3000é") == "tab\tline\nwide\u3000é"


# -- the frame ---------------------------------------------------------------------------------


def test_the_page_loads_nothing_and_allows_nothing_but_its_style() -> None:
    parsed = Page(report_html(a_report(), [a_moment()]))
    digest = base64.b64encode(hashlib.sha256(parsed.style.encode()).digest()).decode()
    assert parsed.policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    for loading in ("url(", "@import", "@font-face", "image-set", "expression"):
        assert loading not in parsed.style


def test_headings_go_down_step_by_step_and_tables_name_their_rows_and_columns() -> None:
    page = report_html(a_report(), [a_moment()])
    levels = [int(level) for level in re.findall("<h([1-6])", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.count("<th") - page.count("<thead") == page.count("<th scope=")


def test_paths_and_clocks_are_not_on_the_page(filled: Path) -> None:
    with Ledger.open(filled, read_only=True) as ledger:
        report = replay_ledger(ledger)
        page = report_html(report, moments_of(ledger, report))
    assert str(filled.parent) not in page
    assert filled.name not in page


# -- what is on it -----------------------------------------------------------------------------


def replayed(path: Path, selection: Selection | None = None) -> Page:
    with Ledger.open(path, read_only=True) as ledger:
        report = replay_ledger(ledger, selection)
        return Page(report_html(report, moments_of(ledger, report)))


def test_a_match_is_said_at_the_top(filled: Path) -> None:
    with Ledger.open(filled, read_only=True) as ledger:
        head = ledger.head()
    parsed = replayed(filled)
    assert f"MATCH {head.seq} events" in parsed.text
    assert str(head) in parsed.text
    assert "Nothing: whatever could be derived again came out as recorded." in parsed.text
    assert "orders fail {} failed: ValueError: no such order" in parsed.text
    assert [name for name in parsed.ids if name.startswith("event-")] == [
        f"event-{seq}" for seq in range(1, head.seq + 1)
    ]


def test_a_divergence_shows_both_sides(filled: Path) -> None:
    with Forger(filled) as forger:
        seq = forger.seq_of("decision.recorded", 1)
        forger.put(seq, "TRUST", "derived", "verdict")
    with Ledger.open(filled, read_only=True) as ledger:
        report = replay_ledger(ledger, Selection(first=seq, last=seq))
        page = report_html(report, moments_of(ledger, report))
    parsed = Page(page)
    assert f"DIVERGED at event {seq}, layer decision: verdict" in parsed.text
    assert "#first-divergence" in parsed.links
    assert (
        "<tr><td><code>&quot;<mark>ESCALATE</mark>&quot;</code></td>"
        "<td><code>&quot;<mark>TRUST</mark>&quot;</code></td></tr>"
    ) in page
    assert f"#event-{seq}" in parsed.links
    assert "<details open>" in page


def test_what_could_not_be_derived_again_and_what_was_observed_are_listed(filled: Path) -> None:
    Path(f"{filled}.views").unlink()
    parsed = replayed(filled)
    assert "there is no views file beside the ledger" in parsed.text
    assert "runtime_ms" in parsed.text
    assert "Never compared." in parsed.text


def test_lines_are_held_against_lines() -> None:
    before = {"amount": 30, "currency": "USD", "note": "x" * 40, "tags": ["a", "b"]}
    made = side_by_side(Difference("/request", before, before | {"amount": 31}))
    assert made.count("<mark>") == 2
    assert "<mark>30</mark>" in made
    assert "<mark>31</mark>" in made
    assert made.count("<td><code>  &quot;currency&quot;: &quot;USD&quot;,</code></td>") == 2
    missing = side_by_side(Difference("", before, {k: v for k, v in before.items() if k != "note"}))
    assert f"<mark>  &quot;note&quot;: &quot;{'x' * 40}&quot;,</mark></code></td><td></td>" in missing


@pytest.mark.parametrize(
    ("ours", "theirs", "marked"),
    [
        ("LIKE_A_FAILURE", "LOOKS_FINE", ["LIKE_A_FAILURE", "LOOKS_FINE"]),
        ("a: 1 -> 2", "a: 1 -> 3", ["2", "3"]),
        ("one two three", "one three", ["two "]),
        ("aaa", "aaaa", ["aaa", "aaaa"]),
        ("same<", "same>", ["<", ">"]),
    ],
)
def test_whole_words_are_marked(ours: str, theirs: str, marked: list[str]) -> None:
    made = side_by_side(Difference("", ours, theirs))
    assert re.findall("<mark>(.*?)</mark>", made) == [escaped(text) for text in marked]


@given(ours=st.text('ab _"<', max_size=12), theirs=st.text('ab _"<', max_size=12))
def test_both_sides_are_whole(ours: str, theirs: str) -> None:
    parsed = Page(side_by_side(Difference("", ours, theirs)))
    heads = "expected: derived againrecorded"
    assert parsed.text == heads + json.dumps(ours) + json.dumps(theirs)


def test_texts_that_look_like_other_values_stand_in_quotes() -> None:
    assert value_markup("plain: text") == "<code>plain: text</code>"
    assert value_markup("12") == "<code>&quot;12&quot;</code>"
    assert value_markup(12) == "<code>12</code>"
    assert value_markup(None) == "<code>null</code>"


def test_empty_values_are_named_with_where_they_come_from() -> None:
    values = (
        Value("note", "", Provenance.GIVEN),
        Value("intent", None, Provenance.GIVEN),
        Value("pointers", [], Provenance.DERIVED),
        Value("amount", 0, Provenance.GIVEN),
    )
    moment = msgspec.structs.replace(a_moment(), values=values)
    page = report_html(a_report(), [moment])
    assert "4 values" in page
    assert "empty: note, intent (given); pointers (derived)" in page
    assert '<th scope="row">amount</th><td><code>0</code></td><td>given</td>' in page


def test_how_to_make_it_again_is_said() -> None:
    assert "<code>tally replay --up-to 3</code>" in report_html(a_report(selection=Selection(up_to=3)))
    assert "<code>tally incident</code>" in report_html(a_report(), command="tally incident")


def test_facts_stand_first_and_the_selection_in_words() -> None:
    selection = Selection(session="abc", since=0, first=2, last=9)
    assert selection_text(selection) == (
        "session abc, from event 2, up to event 9, not before 1970-01-01 00:00:00.000000Z"
    )
    assert " ".join(replay_options(selection)) == (
        "--range 2:9 --session abc --since 1970-01-01T00:00:00.000000Z"
    )
    assert list(replay_options(Selection(stream="a b; rm"))) == ["--stream 'a b; rm'"]
    page = report_html(a_report(), facts=[("What went wrong", "a refund")])
    assert page.index("What went wrong") < page.index("Selected")


# -- bounds ------------------------------------------------------------------------------------


def test_large_values_are_cut_and_the_number_of_characters_is_said() -> None:
    assert value_markup("x" * 2500) == f"<code>{'x' * 2000}<i>… and 500 characters more</i></code>"
    made = side_by_side(Difference("", "x" * 5000, "y" * 5000))
    assert len(made) < 5000
    assert "3,002 characters more" in made


def test_a_million_events_of_a_megabyte_give_a_page_of_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "VALUES_CHARACTERS_MAX", 100_000)
    monkeypatch.setattr(html, "MOMENTS_SHOWN", 300)
    large = "<\x00" * 500_000
    moments = (a_moment(seq, "m", large if seq < 50 else None) for seq in range(1, 2001))
    page = report_html(a_report("m", events=1_000_000), moments)
    assert len(page) < 600_000
    assert "999,700 more events that were selected are not written out here." in page
    assert html._NO_MORE_VALUES in page
    assert "#event-300" not in Page(page).links
    assert "event-300" in Page(page).ids


def test_many_divergences_with_many_differences_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "DIFFERENCES_CHARACTERS_MAX", 50_000)
    differences = tuple(Difference(f"/{n}", "x" * 2000, "y" * 2000) for n in range(20))
    entries = tuple(
        Entry(seq=seq, layer=Layer.VIEW, what="w" * 5000, result=Result.DIVERGED, differences=differences)
        for seq in range(1, 1001)
    )
    layers = {Layer.VIEW: Counts(0, 70_000, 0)}
    page = report_html(a_report(entries=entries, layers=layers))
    assert len(page) < 300_000
    assert f"{70_000 - html.ENTRIES_SHOWN:,} more diverged and are not written out here." in page
    assert "20 more differences left out here." in page


def test_escapes_count_as_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOMENTS_CHARACTERS_MAX", 100_000)
    monkeypatch.setattr(html, "VALUES_CHARACTERS_MAX", 10_000)
    text = "<\x00" * 1000
    moments = (a_moment(seq, text) for seq in range(1, 2001))
    page = report_html(a_report(text[:300], events=2000), moments, title=text)
    assert len(page) < 700_000
    shown = page.count('<li id="event-')
    assert 0 < shown < 50
    assert f"{2000 - shown:,} more events that were selected are not written out here." in page


def test_an_event_with_very_many_values_is_bounded() -> None:
    body = {f"name {n}": n for n in range(5000)}
    page = report_html(a_report(), tell([a_row("an.app", json.dumps(body).encode())]))
    assert "5,001 values" in page
    assert "4,941 more values left out here." in page  # and the correlation
    assert len(page) < 60_000


def test_events_that_are_left_out_are_counted() -> None:
    def said(left_out: int, events: int) -> bool:
        page = report_html(a_report(events=events), [a_moment(1), a_moment(5)], left_out=left_out)
        assert "3 events between" in page
        return "3 more events that were selected" in page

    assert said(3, 2)
    assert said(0, 5)
    assert not said(0, 2)


# -- always the same ---------------------------------------------------------------------------

RENDER: Final = """
import sys
from tallystick import Ledger, replay_ledger
from tallystick.replay.rendering.html import report_html
from tallystick.replay.rendering.story import moments_of
with Ledger.open(sys.argv[1], read_only=True) as ledger:
    report = replay_ledger(ledger)
    sys.stdout.buffer.write(report_html(report, moments_of(ledger, report)).encode())
"""


def test_the_same_ledger_gives_the_same_bytes_elsewhere(filled: Path, tmp_path: Path) -> None:
    with Forger(filled) as forger:
        forger.put(forger.seq_of("session.closed"), "complete", "derived", "outcome")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for suffix in ("", ".views", ".head"):
        (elsewhere / f"b.tally{suffix}").write_bytes(Path(f"{filled}{suffix}").read_bytes())

    def rendered(path: Path, seed: str, zone: str) -> bytes:
        surroundings = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"}
        command = [sys.executable, "-c", RENDER, str(path)]
        return subprocess.run(command, env=surroundings, check=True, capture_output=True).stdout

    first = rendered(filled, "1", "UTC")
    assert first == rendered(elsewhere / "b.tally", "2", "Asia/Tokyo")
    assert b"DIVERGED" in first


def test_moments_are_taken_one_at_a_time() -> None:
    alive = 0

    class Counted(Moment, frozen=True):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def moments() -> Iterable[Moment]:
        nonlocal alive
        for seq in range(1, 50):
            alive += 1
            assert alive <= 3
            yield Counted(**msgspec.structs.asdict(a_moment(seq)))

    assert "event-49" in Page(report_html(a_report(), moments())).ids


def test_a_value_that_was_never_json_is_shown_all_the_same() -> None:
    assert html_values.pretty("\ud800") == "'\\ud800'"
