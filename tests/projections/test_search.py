"""Full text search: what is found, in which order, and that no text of a query can break it."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_tests import examples

from tallystick import BUILT_IN, Event, Ledger, Projection, Table, Tables, Views, views_of


@pytest.fixture
def views(ledger: Ledger, make: Any) -> Views:
    ledger.record(
        [
            make.started("01A", "Chipped mug for Renée"),
            make.message("The blue mug arrived chipped.", "01A", 0),
            make.message("We send another one; note: it is green", "01A", 1),
            make.action(
                "refund agreed", "01A", action_type="refund.issue", evidence={"parcel": "XK-4711", "n": 1}
            ),
            make.executed("session:01A", {"tracking": "parcel lost"}),
            make.executed("main", None, error="ConnectionError: carrier unreachable"),
            make.started("02B", "Straße nach Łódź"),
            make.message("Größe M, bitte — ΑΒΓ 漢字", "02B"),
        ]
    )
    return views_of(ledger)


def places(views: Views, text: str, limit: int = 20) -> list[tuple[str, int | None]]:
    return sorted((hit.table, hit.seq) for hit in views.search(text, limit))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mug", [("messages", 3), ("sessions", 2)]),
        ("MUG chipped", [("messages", 3), ("sessions", 2)]),
        ("chipped mug", [("messages", 3), ("sessions", 2)]),
        ('"blue mug"', [("messages", 3)]),
        ('"mug blue"', []),
        ("arriv*", [("messages", 3)]),
        ("arriv", []),
        ("mug NOT blue", [("sessions", 2)]),
        ("blue OR green", [("messages", 3), ("messages", 4)]),
        ("renee", [("sessions", 2)]),
        ("grosse", []),
        ("grÖsse OR große OR grosse OR groSSe OR GRÖßE", [("messages", 9)]),
        ("grose OR größe", [("messages", 9)]),
        ("ΑΒΓ", [("messages", 9)]),
        ("漢字", [("messages", 9)]),
        ("refund.issue", [("actions", 5)]),
        ("XK-4711", [("actions", 5)]),
        ("parcel", [("actions", 5), ("executions", 6)]),
        ("ConnectionError: carrier", [("executions", 7)]),
        ("lookup", [("executions", 6), ("executions", 7)]),
        ("note: it", [("messages", 4)]),
        ("text: mug", []),
        ("what's (missing", []),
        ("mug AND", []),
        ('"mug', [("messages", 3), ("sessions", 2)]),
        ('"', []),
        ("*", []),
        ("()", []),
        ("", []),
        (" \t\n", []),
        ("mug\0", [("messages", 3), ("sessions", 2)]),
        ("\ud800", []),
        ("NEAR(blue chipped, 2)", [("messages", 3)]),
        ("^the", [("messages", 3)]),
    ],
)
def test_what_is_found(views: Views, text: str, found: list[tuple[str, int]]) -> None:
    assert places(views, text) == found


def test_a_hit_says_where_and_when(views: Views, ledger: Ledger) -> None:
    [hit] = views.search("blue")
    assert (hit.table, hit.key, hit.seq, hit.session) == ("messages", 3, 3, "01A")
    assert hit.at == ledger.get(3).at
    assert hit.snippet == "The [blue] mug arrived chipped."
    [label] = views.search("renée")
    assert (label.table, label.key, label.seq, label.session) == ("sessions", "01A", 2, "01A")
    [alone] = views.search("unreachable")
    assert (alone.table, alone.session) == ("executions", None)


def test_a_long_text_is_shown_around_the_match(ledger: Ledger, make: Any) -> None:
    ledger.record([make.message("before " * 200 + "needle" + " after" * 200)])
    [hit] = views_of(ledger).search("needle")
    assert "[needle]" in hit.snippet and len(hit.snippet) < 200
    assert hit.snippet.startswith("…") and hit.snippet.endswith("…")


def test_the_best_of_each_table_come_first(ledger: Ledger, make: Any) -> None:
    ledger.record([make.message("filler " * 40 + "needle", index=index) for index in range(5)])
    ledger.record([make.message("needle needle needle"), make.action("a needle")])
    hits = views_of(ledger).search("needle")
    assert {hit.table for hit in hits[:2]} == {"messages", "actions"}
    assert next(hit.seq for hit in hits if hit.table == "messages") == 7
    assert len(hits) == 7


@pytest.mark.parametrize("limit", [0, 1, 3, 100])
def test_no_more_than_the_limit(ledger: Ledger, make: Any, limit: int) -> None:
    ledger.record([make.message("needle", index=index) for index in range(10)])
    ledger.record([make.action("needle")])
    assert len(views_of(ledger).search("needle", limit)) == min(limit, 11)


def test_projections_of_an_app_are_searched_too(ledger: Ledger) -> None:
    class Tickets(Projection):
        name = "tickets"
        kinds = ("ticket.*",)
        tables: ClassVar[Mapping[str, Table]] = {
            "tickets": Table(
                {"team": str, "number": int, "title": str, "opened": int, "event": int},
                pk=("team", "number"),
                search=("title",),
                seq="event",
                at="opened",
            )
        }

        def apply(self, event: Event, tables: Tables) -> None:
            tables["tickets"].put({**event.body, "opened": event.at, "event": event.seq})

    ledger.append("ticket.opened", {"team": "desk", "number": 7, "title": "the kettle leaks"}, at=123)
    with Views(ledger, projections=[*BUILT_IN, Tickets()]) as views:
        [hit] = views.search("kettle")
        assert (hit.table, hit.key, hit.seq, hit.at, hit.session) == ("tickets", ["desk", 7], 2, 123, None)
        ledger.append("ticket.opened", {"team": "desk", "number": 7, "title": "the kettle is mended"})
        assert views.search("leaks") == []
        assert len(views.search("mended")) == 1


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(max_size=30),
        st.text(alphabet='"*()^:+-{}.,\\ abNOTADR\0', max_size=40),
        st.lists(st.sampled_from(["AND", "OR", "NOT", "NEAR", '"', "(", ")", "mug", "*", ":", "text"])).map(
            " ".join
        ),
    )
)
def test_no_query_raises(views: Views, text: str) -> None:
    assert isinstance(views.search(text), list)


@pytest.mark.parametrize(
    "text", ["mug " * 20_000, "(" * 5000, '"' * 5001, "mug" * 50_000, "a AND " * 3000 + "a"]
)
def test_long_queries_do_not_raise(views: Views, text: str) -> None:
    assert isinstance(views.search(text), list)


def has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=string.printable + "éßИ漢", min_size=1, max_size=20).filter(has_words))
def test_what_was_written_is_found_as_a_phrase(make: Any, ledger: Ledger, text: str) -> None:
    """Whatever signs stand between the words, in the text and in the query."""
    ledger.record([make.message(f"before {text} after", index=1)])
    quoted = '"' + text.replace('"', '""') + '"'
    assert ledger.head().seq in {hit.seq for hit in views_of(ledger).search(quoted, 1000)}
