"""The report, selections and layers of a replay; that it only reads, and takes whatever a body holds."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from forging import Forger, edit_views
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_tests import examples

from tallystick import (
    AmbiguousPrefix,
    BadSelection,
    Durability,
    Kernel,
    Ledger,
    MemoryStore,
    NewEvent,
    NoSuchId,
    Projection,
    PsiDefinition,
    Selection,
    Session,
    Table,
    TasksNotFound,
    Views,
    replay_ledger,
    seal_projections,
    views_of,
)
from tallystick.events.catalogue import KINDS
from tallystick.replay.differences import DIFFERENCES_MAX, differences
from tallystick.replay.rendering.text import report_text
from tallystick.replay.report import LAYERS, Layer, Notes, ReplayReport, Result


def replayed(path: Path, *arguments: Any, **options: Any) -> ReplayReport:
    with Ledger.open(path, read_only=True) as ledger:
        return replay_ledger(ledger, *arguments, **options)


def diverged(report: ReplayReport) -> list[tuple[int, str, str]]:
    return [(e.seq, e.layer, e.what) for e in report.entries if e.result is Result.DIVERGED]


def selected(path: Path, **selection: Any) -> list[int]:
    """The seqs that a selection replays."""
    with Ledger.open(path, read_only=True) as ledger:
        head = ledger.head()
        return [row.seq for row in Selection(**selection).resolved(ledger, head).rows(ledger, head)]


# -- the report ------------------------------------------------------------------------------


def test_the_report_is_the_same_twice_and_elsewhere(filled: Path, tmp_path: Path) -> None:
    report = replayed(filled)
    copy = tmp_path / "elsewhere" / "b.tally"
    copy.parent.mkdir()
    shutil.copy(filled, copy)
    shutil.copy(f"{filled}.views", f"{copy}.views")
    assert replayed(filled).to_json() == report.to_json() == replayed(copy).to_json()


def test_the_report_says_what_was_asked_and_what_was_found(filled: Path) -> None:
    report = replayed(filled, Selection(up_to=9))
    said = json.loads(report.to_json())
    assert said["selection"] == {"up_to": 9}
    assert said["events"] == 9
    assert list(said["layers"]) == ["chain", "decision", "digest", "view"]  # keys are sorted
    assert said["layers"]["chain"] == {"match": 9, "diverged": 0, "not_rederivable": 0}
    assert (said["diverged"], said["first"]) == (0, None)
    with Ledger.open(filled, read_only=True) as ledger:
        head = ledger.head()
    assert said["head"] == [head.seq, head.hash.hex()]


def test_observed_values_are_left_out_and_listed(filled: Path) -> None:
    with Forger(filled) as forger:
        seq = forger.seq_of("kernel.executed")
        forger.put(seq, 99.5, "observed", "runtime_ms")
    report = replayed(filled, layers=["digest"])
    assert report.diverged == 0
    listed = {one.kind: one for one in report.observed}
    assert "runtime_ms" in listed["kernel.executed"].fields
    assert listed["kernel.executed"].events == 5
    assert "policy.registered" not in listed  # all of it is derived


def test_entries_beyond_the_limit_are_counted(filled: Path) -> None:
    edit_views(filled, "UPDATE streams SET events = events + 1")
    report = replayed(filled, entries_max=2)
    kept = [entry for entry in report.entries if entry.result is Result.DIVERGED]
    assert len(kept) == 2
    assert report.diverged > 2
    assert report.left_out == report.diverged - 2
    assert f"… and {report.diverged - 2} more that diverged" in report_text(report)


def test_the_text_begins_with_the_verdict(filled: Path) -> None:
    assert str(replayed(filled)).startswith("MATCH 31 events: ")
    with Forger(filled) as forger:
        forger.put(forger.seq_of("session.closed"), "complete", "derived", "outcome")
    lines = str(replayed(filled)).split("\n")
    assert lines[0] == "DIVERGED at event 6, layer digest: outcome (from the actions)"
    assert '  expected "partial", recorded "complete"' in lines


@given(st.recursive(st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=2),
       lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
       max_leaves=8))  # fmt: skip
def test_a_value_does_not_differ_from_itself_and_does_from_another(value: Any) -> None:
    assert differences(value, json.loads(json.dumps(value))) == ()
    assert differences(value, [value])


def test_differences_are_named_by_their_place_and_bounded() -> None:
    [one] = differences({"a": [1, {"b/c": True}]}, {"a": [1, {"b/c": 1}]})
    assert (one.path, one.expected, one.actual) == ("/a/1/b~1c", True, 1)
    [gone] = differences({"a": 1}, {})
    assert gone.actual == {"$absent": True}
    assert len(differences(list(range(99)), list(range(1, 100)))) == DIFFERENCES_MAX + 1
    [large] = differences("x" * 9999, "y")
    assert large.expected["$omitted"] == "too large"


def test_the_first_of_many_is_kept_whatever_order_they_come_in() -> None:
    notes = Notes((Layer.VIEW,), 3)
    for seq in (9, 5, 7, 5, 1, 8):
        notes.diverged(Layer.VIEW, seq, f"row {seq}", ())
    assert [entry.seq for entry in notes.entries()] == [1, 5, 5]
    assert (notes.left_out, notes.counts()[Layer.VIEW].diverged) == (3, 6)
    other = Notes((Layer.VIEW,), 2)
    other.absorb(notes)
    assert [entry.seq for entry in other.entries()] == [1, 5]
    assert other.left_out == 4


def test_what_the_page_shows_runs(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "replay.md").read_text("utf-8")
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(filled.parent)
    filled.rename("agents.tally")
    exec(block.replace("case-118", "case-7"), names := {})
    assert names["report"].events == 7


# -- selections ------------------------------------------------------------------------------


def test_selections(filled: Path) -> None:
    everything = list(range(1, 32))
    assert selected(filled) == everything
    assert selected(filled, first=3, last=5) == [3, 4, 5]
    assert selected(filled, first=30) == [30, 31]
    assert selected(filled, up_to=2) == [1, 2]
    assert selected(filled, stream="order:81") == [25, 31]
    assert selected(filled, stream="order:81", up_to=30) == [25]
    assert selected(filled, correlation="case-7") == [2, 3, 4, 5, 6, 20, 23]
    with Ledger.open(filled, read_only=True) as ledger:
        events = list(ledger.read())
    session_id = events[1].stream.removeprefix("session:")
    assert selected(filled, session=session_id) == [2, 3, 4, 5, 6]
    assert selected(filled, session=session_id[:7]) == [2, 3, 4, 5, 6]
    decision_id = events[19].stream.removeprefix("decision:")
    assert selected(filled, decision=decision_id) == [20, 21, 24]
    middle = events[15].at
    assert selected(filled, since=middle) == [e.seq for e in events if e.at >= middle]
    assert selected(filled, until=middle) == [e.seq for e in events if e.at < middle]


@pytest.mark.parametrize(
    ("selection", "error"),
    [
        ({"session": "nobody"}, NoSuchId),
        ({"session": ""}, AmbiguousPrefix),
        ({"decision": "dec_x"}, NoSuchId),
        ({"stream": "order:99"}, BadSelection),
        ({"stream": "order:81", "session": "x"}, BadSelection),
        ({"first": 0}, BadSelection),
        ({"first": 5, "last": 4}, BadSelection),
        ({"up_to": 99}, BadSelection),
        ({"since": 5, "until": 5}, BadSelection),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(
    filled: Path, selection: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        replayed(filled, Selection(**selection))


@pytest.mark.parametrize(
    "options",
    [
        {"entries_max": 0},
        {"layers": ["moon"]},
        {"layers": []},
        {"layers": ["execution"]},
        {"layers": ["view"], "selection": Selection(first=1, last=3)},
    ],
)
def test_layers_that_make_no_sense_are_refused(filled: Path, options: dict[str, Any]) -> None:
    with pytest.raises(BadSelection):
        replayed(filled, **options)


@pytest.mark.parametrize("selection", [{"first": 4, "last": 6}, {"stream": "?"}, {"correlation": "case-7"}])
def test_a_part_of_a_session_is_held_against_the_whole(filled: Path, selection: dict[str, Any]) -> None:
    """What the selection leaves out is read all the same, and not reported."""
    with Ledger.open(filled, read_only=True) as ledger:
        stream = ledger.get(2).stream
    selection = {name: stream if value == "?" else value for name, value in selection.items()}
    assert replayed(filled, Selection(**selection)).diverged == 0
    with Forger(filled) as forger:
        forger.put(6, {"failed": 2}, "derived", "actions")
        forger.put(7, 4, "derived", "output")
    assert diverged(replayed(filled, Selection(**selection), layers=["chain", "digest"])) == [
        (6, "digest", "actions")
    ]


def test_the_chain_of_a_selection_is_held_against_its_neighbours(filled: Path) -> None:
    with Forger(filled) as forger:
        forger._db.execute("UPDATE events SET prev_hash = zeroblob(32) WHERE seq = 26")
        forger._write = lambda: None  # type: ignore[method-assign]
    report = replayed(filled, Selection(stream="order:81"))
    assert diverged(report) == [(26, "chain", "hash")]  # the event behind order.placed follows another one
    assert replayed(filled, Selection(first=2, last=24)).diverged == 0


def test_up_to_a_seq_the_views_are_too_far(filled: Path) -> None:
    report = replayed(filled, Selection(up_to=26))
    assert report.diverged == 0
    with closing(sqlite3.connect(f"{filled}.views")) as db:
        db.execute("UPDATE sessions SET outcome = 'failed'")
        db.commit()
    assert replayed(filled, Selection(up_to=26)) == report  # of the tables, only how they are defined
    assert "its tables are further than the replay goes" in {reason.reason for reason in report.reasons}


def test_sessions_side_by_side_beyond_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds that were let go are read again from their start."""
    with Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS) as ledger:
        sessions = [Session.start(ledger, f"s{n}") for n in range(5)]
        for n in range(3):
            for session in sessions:
                session.record_action("do", "verified" if n else "failed")
        for session in sessions:
            session.close()
        whole = replay_ledger(ledger)
        monkeypatch.setattr("tallystick.replay.layers.digest_session.Sessions.__init__.__defaults__", (2,))
        assert replay_ledger(ledger).to_json() == whole.to_json()
    assert whole.diverged == 0


# -- layers ----------------------------------------------------------------------------------


def test_nothing_is_executed_unless_tasks_are_given(filled: Path) -> None:
    report = replayed(filled)
    assert Layer.EXECUTION not in report.layers
    assert list(report.layers) == [layer for layer in LAYERS if layer is not Layer.EXECUTION]


def test_what_cannot_be_run_again_says_why(tmp_path: Path) -> None:
    kernel = Kernel()
    called: list[str] = []
    names = ("unsafe", "unknown", "digest", "generator", "invalid", "fine")
    psis = {name: PsiDefinition("t", name) for name in names}
    for name, psi in psis.items():
        if name != "unknown":
            kernel.register(psi, lambda x, name=name: called.append(name), replayable=name != "unsafe")
    with Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS) as ledger:
        recorder = Kernel(ledger=ledger)
        for name in ("unsafe", "unknown", "fine"):
            recorder.execute(psi=psis[name], task=lambda x: None, x=1)
        recorder.execute(psi=psis["generator"], task=lambda x: None, x=(n for n in range(3)))
        recorder.execute(psi=psis["invalid"], task="no task", x=1)  # type: ignore[arg-type]
        Kernel(ledger=ledger, capture="digest").execute(psi=psis["digest"], task=lambda x: None, x=1)
        report = replay_ledger(ledger, layers=["execution"], tasks=kernel)
    assert called == ["fine"]
    assert {entry.seq: entry.reason for entry in report.entries} == {
        2: "its task is registered, but not as replayable",
        3: "no task is registered under its psi_type and name",
        5: "its arguments have a placeholder for what was no JSON or too large",
        6: "its task was not called, or the kernel failed",
        7: "its content was not captured (capture='digest')",
    }


def test_asynchronous_and_decorated_tasks_run_again(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS) as ledger:
        kernel = Kernel(ledger=ledger)

        @kernel.task("t", "double", replayable=True)
        async def double(n: int) -> int:
            await asyncio.sleep(0)
            return 2 * n

        @kernel.task("t", "gather", replayable=True)
        def gather(*parts: int, **named: int) -> list[Any]:
            return [*parts, named]

        async def record() -> ReplayReport:
            await double(4)
            gather(1, 2, a=3)
            return replay_ledger(ledger, tasks=kernel)  # inside a running event loop, too

        report = asyncio.run(record())
        events = ledger.head().seq
    assert report.layers[Layer.EXECUTION].match == 4
    assert report.diverged == 0
    assert events == 3, "running them again records nothing"


def test_tasks_by_name(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_tasks.py").write_text(
        "from tallystick import Kernel, PsiDefinition\nkernel = Kernel()\n"
        "kernel.register(PsiDefinition('orders', 'total'), lambda cents: sum(cents), replayable=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("shop_tasks:kernel", "shop_tasks:kernel.registry"):
        assert replayed(filled, tasks=name).layers[Layer.EXECUTION].match == 6
    for wrong in ("shop_tasks", "shop_tasks:nothing", "no_such_module:kernel", "shop_tasks:PsiDefinition"):
        with pytest.raises(TasksNotFound):
            replayed(filled, tasks=wrong)
    monkeypatch.delitem(sys.modules, "shop_tasks")


def test_a_memory_that_was_erased_since_cannot_be_decided_with(filled: Path) -> None:
    with Ledger.open(filled) as ledger:
        [item] = ledger.read(kinds=["memory.added"])
        ledger.erase(item.seq, "forget it")
    report = replayed(filled)
    assert report.diverged == 0
    why = {(entry.layer, entry.seq): entry.reason for entry in report.entries}
    assert why[Layer.DECISION, 23] == "something that it was decided with was erased from memory since"


@pytest.mark.parametrize("profile", ["default", "strict", "off"])
@pytest.mark.parametrize("inline", [{"note": "hi"}, {"note": "hi", "email": "a@b.c"}])
@pytest.mark.parametrize("asked", [None, {"profile": "off"}, {"profile": "default", "fields_removed": []}])
def test_redacted_decisions_are_decided_again(
    tmp_path: Path, profile: str, inline: dict[str, Any], asked: dict[str, Any] | None
) -> None:
    """D9: digests are of what was evaluated; where nothing was removed they can be derived again."""
    from tallystick import Gateway
    from tallystick.recorders.gateway.digests import digest
    from tallystick.recorders.gateway.policy import STARTER_POLICY

    context = {"mode": "inline", "inline": inline, "digest": digest(inline)}
    request: dict[str, Any] = {
        "schema_version": "decision_request.v0",
        "subject": {"type": "agent", "id": "bot"},
        "action": {"type": "support.refund", "intent": "x"},
        "context": context if asked is None else {**context, "redaction": asked},
    }
    with Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS) as ledger:
        record = Gateway(ledger, STARTER_POLICY, redaction=profile).decide(request)
        report = replay_ledger(ledger, layers=["digest", "decision"])
    assert record.error is None
    assert report.diverged == 0
    removed = profile == "strict" or ((profile == "default" or asked is not None) and "email" in inline)
    if profile == "off" and asked != {"profile": "default", "fields_removed": []}:
        removed = False
    whats = {entry.what for entry in report.entries}
    assert ("request_digest" in whats) is removed
    assert report.layers[Layer.DECISION].match == (9 if removed else 12)


class Orders(Projection):
    name = "orders"
    version = 3
    kinds = ("order.*",)
    tables = {"orders": Table(columns={"id": int, "state": str, "raw": bytes}, pk="id")}  # noqa: RUF012

    def apply(self, event: Any, tables: Any) -> None:
        tables["orders"].put({"id": event.body["order"], "state": event.kind, "raw": event.hash})


def test_projections_of_apps_are_compared_if_they_are_given(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "orders.views"
    with Ledger.open(filled) as ledger, Views(ledger, path=path, projections=[Orders()]) as views:
        [sealed] = seal_projections(ledger, views=views)
        assert (sealed.name, sealed.version, sealed.seq) == ("orders", 3, 31)
    assert replayed(filled, views=path, projections=[Orders()]).diverged == 0
    unknown = replayed(filled)
    assert unknown.diverged == 0
    assert "its definition is not known here" in {reason.reason for reason in unknown.reasons}
    edit_views(tmp_path / "orders", "UPDATE orders SET raw = x'00'")
    assert diverged(replayed(filled, views=path, projections=[Orders()])) == [(31, "view", "orders[81]")]


def test_without_views_there_is_nothing_to_compare(filled: Path) -> None:
    os.remove(f"{filled}.views")
    report = replayed(filled)
    assert report.diverged == 0
    assert report.layers[Layer.VIEW].match == 5  # the seals
    assert "there is no views file beside the ledger" in {reason.reason for reason in report.reasons}
    with Ledger.over(MemoryStore()) as ledger:
        assert replay_ledger(ledger).diverged == 0


def test_what_is_no_views_file_is_left_alone(filled: Path) -> None:
    Path(f"{filled}.views").write_bytes(b"my notes")
    report = replayed(filled)
    assert "what lies in the place of the views file is something else" in {r.reason for r in report.reasons}
    assert Path(f"{filled}.views").read_bytes() == b"my notes"


def test_views_of_another_ledger_say_so(filled: Path, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "b.tally", durability=Durability.PROCESS) as ledger:
        views_of(ledger).catch_up()
    shutil.copy(tmp_path / "b.tally.views", f"{filled}.views")
    report = replayed(filled)
    assert "the views are of another ledger" in {reason.reason for reason in report.reasons}
    assert report.diverged == 0


def test_a_row_that_cannot_be_read_is_the_chains(filled: Path) -> None:
    """Text that is not UTF-8: no layer passes over it, and none ends the replay."""
    with Forger(filled) as forger:
        forger._db.execute("UPDATE events SET stream = CAST(x'ff' AS TEXT) WHERE seq = 25")
        forger._write = lambda: None  # type: ignore[method-assign]
    report = replayed(filled)
    assert report.first is not None
    assert (report.first.seq, report.first.layer) == (25, Layer.CHAIN)
    assert "the log cannot be read to its end" in str(report)
    unread = [entry.seq for entry in report.entries if entry.what == "events"]
    assert unread and min(unread) >= 1, "an event's number"
    part = replayed(filled, Selection(correlation="case-7"))
    assert part.layers[Layer.CHAIN].not_rederivable


# -- it only reads -----------------------------------------------------------------------------


def everything_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())}


def test_it_touches_nothing(filled: Path) -> None:
    before = everything_in(filled.parent)
    assert replayed(filled).diverged == 0
    after = everything_in(filled.parent)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if not name.startswith("a.tally-")} == set(before)


def test_a_log_of_the_views_that_was_left_behind_is_read(filled: Path, tmp_path: Path) -> None:
    """As after a crash of the machine: the views' last rows are in the log beside them alone."""
    with Ledger.open(filled) as ledger, Views(ledger) as views:
        views.catch_up()
        ledger.append("order.placed", {"order": 82}, stream="order:82")
        views.catch_up()
        copy = tmp_path / "copy"
        copy.mkdir()
        for suffix in (".views", ".views-wal"):
            shutil.copy(f"{filled}{suffix}", copy / f"a.tally{suffix}")
    shutil.copy(filled, copy / "a.tally")
    assert (copy / "a.tally.views-wal").stat().st_size > 0
    report = replayed(copy / "a.tally")
    assert report.diverged == 0
    assert report.layers[Layer.VIEW].match > 30
    assert not (copy / "a.tally.views-shm").exists()


def test_while_others_write_and_read(filled: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        with Ledger.open(filled, durability=Durability.PROCESS) as ledger:
            while not stop.is_set():
                with Session.start(ledger, "busy") as session:
                    session.record_action("do", "verified")
                views_of(ledger).catch_up()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        reports = [replayed(filled) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert [diverged(report) for report in reports] == [[]] * 5
    assert reports[-1].events > 31


# -- hostile bodies ----------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def shaped(annotation: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values of the type that a field has, or anything: bodies that are right almost everywhere."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        fields = msgspec.structs.fields(annotation)
        return st.fixed_dictionaries({one.encode_name: shaped(one.type, depth + 1) for one in fields})
    arguments = getattr(annotation, "__args__", ())
    if getattr(annotation, "__origin__", None) is list:
        return st.lists(shaped(arguments[0], depth + 1), max_size=3)
    if getattr(annotation, "__origin__", None) is dict:
        return st.dictionaries(st.text(max_size=5), shaped(arguments[1], depth + 1), max_size=3)
    if arguments:
        return st.one_of([shaped(one, depth + 1) for one in arguments])
    plain: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-3, 40) | st.integers(-(2**53) + 1, 2**53 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        type(None): st.none(),
        str: st.text(max_size=6)
        | st.sampled_from(["OK", "TASK_EXCEPTION", "content", "verified", "failed", "gateway.v0", "/output"]),
    }
    return plain.get(annotation, JSON)


@st.composite
def hostile(draw: Callable[[Any], Any]) -> list[NewEvent]:
    events = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(sorted(set(KINDS) - {"ledger.created", "ledger.body_erased"})))
        body = draw(JSON | shaped(KINDS[kind]))
        if isinstance(body, dict) and draw(st.booleans()):
            body["v"] = 1
        stream = draw(st.sampled_from(["session:x", "decision:d", "main", "policy:p", "memory:a.b"]))
        events.append(NewEvent(kind=kind, body=body, stream=stream))
    return events


HOSTILE = settings(deadline=None, suppress_health_check=list(HealthCheck))


def check_hostile(events: list[NewEvent]) -> None:
    with Ledger.over(MemoryStore()) as ledger:
        ledger.record(events)
        report = replay_ledger(ledger, tasks=Kernel())
        assert report.events == len(events) + 1
        assert report.layers[Layer.CHAIN].diverged == 0
        assert replay_ledger(ledger, tasks=Kernel()).to_json() == report.to_json()
        assert str(report)


@settings(HOSTILE, max_examples=examples(60))
@given(hostile())
def test_hostile_bodies_never_raise(events: list[NewEvent]) -> None:
    check_hostile(events)


@pytest.mark.slow
@settings(HOSTILE, max_examples=3000)
@given(hostile())
def test_many_hostile_bodies_never_raise(events: list[NewEvent]) -> None:
    check_hostile(events)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"ledger.created"}))
def test_a_malformed_body_of_any_kind_diverges_in_the_digest_layer(filled: Path, kind: str) -> None:
    with Forger(filled) as forger:
        seq = forger.seq_of("order.shipped")
        forger.replace(seq, kind=kind, body=b'{"v":1,"derived":"nothing"}')
    first = replayed(filled, layers=["digest"]).first
    assert first is not None
    assert (first.seq, first.layer, first.what) == (seq, Layer.DIGEST, "body")
    assert first.reason is not None
    assert first.reason.startswith("malformed body: ")
