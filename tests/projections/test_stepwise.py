"""Views built step by step equal views built at once, wherever the steps end.

Sessions, messages, actions, executions, events of an app and erasures in any order; catch-ups, rebuilds and
reopenings between them, in chunks so small that every boundary is met.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from property_tests import examples

from tallystick import (
    BUILT_IN,
    Durability,
    Event,
    Ledger,
    MemoryStore,
    NewEvent,
    Projection,
    Table,
    Tables,
    Views,
)
from tallystick.projections import engine, tables


class Orders(Projection):
    """Reads and changes rows, has lists, deletes; is built anew when a body that it read is erased."""

    name = "orders"
    kinds = ("order.*",)
    tables: ClassVar[Mapping[str, Table]] = {
        "orders": Table({"stream": str, "texts": list, "total": int}, pk="stream"),
        "order_words": Table(
            {"word": str, "stream": str, "note": str}, pk=("word", "stream"), search=("note",)
        ),
    }

    def apply(self, event: Event, tables: Tables) -> None:
        if event.kind == "order.removed":
            tables["orders"].delete(event.stream)
            tables["order_words"].delete_where(stream=event.stream)
            return
        row = tables["orders"].get(event.stream) or {"stream": event.stream, "texts": [], "total": 0}
        row["texts"].append(event.body["text"])
        row["total"] += event.seq
        tables["orders"].put(row)
        for word in event.body["text"].split():
            tables["order_words"].put({"word": word, "stream": event.stream, "note": event.body["text"]})


PROJECTIONS = (*BUILT_IN, Orders())

ids = st.sampled_from(["01A", "01B", "02C"])
texts = st.sampled_from(["", "blue mug", "mug", "café noir", "a 'quoted' \"thing\"", "line\nbreak", "İı ß"])
outcomes = st.sampled_from(["verified", "failed", "retry", "skipped"])


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    step = st.one_of(
        st.tuples(st.just("started"), ids, texts),
        st.tuples(st.just("order"), ids, texts),
        st.tuples(st.just("message"), ids, texts),
        st.tuples(st.just("action"), ids, texts, outcomes),
        st.tuples(st.just("executed"), ids, texts),
        st.tuples(st.just("closed"), ids),
        st.tuples(st.just("expired"), ids),
        st.tuples(st.just("malformed"), ids),
        st.tuples(st.just("order"), ids, texts),
        st.tuples(st.just("removed"), ids),
        st.tuples(st.just("erase"), st.integers(0, 40)),
        st.tuples(st.just("catch up")),
        st.tuples(st.just("catch up")),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("rebuild"), st.sampled_from([None, ["sessions"], ["orders", "streams"]])),
    )
    return draw(st.lists(step, min_size=5, max_size=30))


def take(step: tuple[Any, ...], ledger: Ledger, make: Any) -> None:
    match step:
        case ("started", session_id, text):
            ledger.record([make.started(session_id, text)])
        case ("message", session_id, text):
            ledger.record([make.message(text, session_id)])
        case ("action", session_id, text, outcome):
            ledger.record([make.action(text, session_id, outcome, kernel=f"k {text}")])
        case ("executed", session_id, text):
            ledger.record([make.executed(f"session:{session_id}", text), make.executed("main", text)])
        case ("closed", session_id):
            ledger.record([make.closed(session_id)])
        case ("expired", session_id):
            events = list(ledger.read(stream=f"session:{session_id}"))
            seqs = [event.seq for event in events if not event.erased]
            if seqs:
                ledger.erase_many(seqs, "retention", record=[make.expired(session_id, seqs[-1], seqs)])
        case ("malformed", session_id):
            ledger.record([NewEvent(kind="action.recorded", stream=f"session:{session_id}", body={})])
        case ("order", stream, text):
            ledger.append("order.placed", {"text": text}, stream=f"session:{stream}")
        case ("removed", stream):
            ledger.append("order.removed", stream=f"session:{stream}")
        case ("erase", number):
            seqs = [event.seq for event in ledger.read(1) if event.kind != "ledger.body_erased"]
            if seqs:
                ledger.erase(seqs[number % len(seqs)], "asked for")


def check(steps: list[tuple[Any, ...]], make: Any, dump: Callable[..., Any], *, in_a_file: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "step.views")

        def open_views() -> Views:
            return Views(ledger, path=path, projections=PROJECTIONS)

        if in_a_file:
            ledger = Ledger.open(Path(folder, "a.tally"), durability=Durability.PROCESS)
        else:
            ledger = Ledger.over(MemoryStore())
        with ledger:
            views = open_views()
            for step in steps:
                if step[0] == "catch up":
                    views.catch_up()
                elif step[0] == "rebuild":
                    views.rebuild(step[1])
                elif step[0] == "reopen":
                    views.close()
                    views = open_views()
                else:
                    take(step, ledger, make)
            by_step = dump(views, PROJECTIONS)
            views.close()
            with Views(ledger, path=Path(folder, "once.views"), projections=PROJECTIONS) as once:
                assert by_step == dump(once, PROJECTIONS)


@pytest.fixture(params=[1, 3], autouse=True)
def _small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHUNK_EVENTS", request.param)
    monkeypatch.setattr(tables, "KEPT_ROWS", request.param)


FIXTURES_ARE_CONSTANT = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=examples(20), deadline=None, suppress_health_check=FIXTURES_ARE_CONSTANT)
@given(steps())
@example([("order", "01A", "mug"), ("catch up",), ("erase", 0)])
@example([("started", "01A", "mug"), ("action", "01A", "x", "failed"), ("catch up",), ("expired", "01A")])
def test_step_by_step_equals_at_once(make: Any, dump: Callable[..., Any], steps: list[Any]) -> None:
    check(steps, make, dump, in_a_file=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=400, deadline=None, suppress_health_check=FIXTURES_ARE_CONSTANT)
@given(steps())
def test_step_by_step_equals_at_once_many_times(
    make: Any, dump: Callable[..., Any], steps: list[Any]
) -> None:
    check(steps, make, dump, in_a_file=True)
