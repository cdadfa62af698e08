"""Events told for people: headlines, where each value comes from, and whatever a body may hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kind_bodies import body_of
from property_tests import examples

from tallystick import Kernel, Ledger, PsiDefinition, Session, replay_ledger
from tallystick.events.catalogue import KINDS
from tallystick.ledger.event import Row
from tallystick.replay.rendering import story
from tallystick.replay.rendering.story import Moment, Provenance, chosen_rows, moments_of, tell
from tallystick.replay.report import Entry, Layer, ReplayReport, Result
from tallystick.replay.selection import Selection

BLANK = bytes(32)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def row(kind: str, body: Any, *, seq: int = 1, meta: Any = None, stream: str = "main") -> Row:
    """A row as a stranger may have stored it. body: bytes as they are, None if erased, else a value."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    packed = None if meta is None else json.dumps(meta).encode()
    return Row(seq, 0, kind, stream, None, packed, BLANK, data, BLANK, BLANK, BLANK)


def told(kind: str, body: Any, **more: Any) -> Moment:
    [moment] = tell([row(kind, body, **more)])
    return moment


def sources(moment: Moment) -> dict[str, Provenance]:
    return {each.name: each.provenance for each in moment.values}


@pytest.fixture
def moments(filled: Path) -> list[Moment]:
    with Ledger.open(filled, read_only=True) as ledger:
        return list(tell(ledger.rows()))


def of(moments: list[Moment], kind: str, nth: int = 0) -> Moment:
    return [moment for moment in moments if moment.kind == kind][nth]


def test_every_built_in_kind_is_told() -> None:
    assert set(story._TOLD) == set(KINDS)


def test_headlines(moments: list[Moment]) -> None:
    def said(kind: str, nth: int = 0) -> tuple[str, str]:
        moment = of(moments, kind, nth)
        return moment.sign, moment.headline

    assert said("session.started") == ("", "Session “A chipped mug” began, by Desk")
    assert said("action.recorded") == ("+", "look by Desk: verified: a: 1 -> 2 | b: None -> True")
    assert said("action.recorded", 1) == ("x", "refund by Pay: failed")
    assert said("message.recorded") == ("", "user: It is broken")
    assert said("message.recorded", 2) == ("", 'assistant: calls lookup {"order": 81}')
    assert said("session.closed") == ("~", "The session ended: partial, of its actions 1 failed, 1 verified")
    assert said("kernel.executed") == ("+", 'orders total {"cents":[1,2]} returned 3')
    assert said("kernel.executed", 1) == ("x", "orders fail {} failed: ValueError: no such order")
    assert said("pipeline.completed") == (
        "x",
        "A pipeline failed after 2 of 2 steps: TASK_EXCEPTION: no such order",
    )
    assert said("pipeline.completed", 1) == ("+", "A pipeline of 2 steps succeeded")
    assert said("decision.recorded") == (
        "+",
        "support.refund asked for 30 USD: TRUST, rule refund-small (REFUND_SMALL)",
    )
    sign, headline = said("decision.recorded", 1)
    assert sign == "~"
    assert headline.startswith("support.refund asked for 30 USD: ESCALATE, rule ")
    sign, headline = said("decision.labeled")
    assert (sign, headline.endswith("was labelled failure: sent twice")) == ("x", True)
    assert said("memory.added") == ("", "Remembered of support.refund for acme: failure: sent twice")
    assert said("order.placed") == ("", '{"order":81}')


def test_a_moment_says_who_when_and_which(moments: list[Moment], filled: Path) -> None:
    decision = of(moments, "decision.recorded")
    assert decision.actor == "refund-bot"
    with Ledger.open(filled, read_only=True) as ledger:
        event = ledger.get(decision.seq)
    assert (decision.at, decision.hash, decision.stream) == (event.at, event.hash.hex(), event.stream)
    assert told("a.b", {}, meta={"actor": "ops"}).actor == "ops"
    assert told("a.b", {}, meta={"actor": ["ops"]}).actor == '["ops"]'


def test_where_values_come_from(moments: list[Moment]) -> None:
    executed = sources(of(moments, "kernel.executed"))
    assert executed["arguments"] is Provenance.GIVEN
    assert executed["output"] is Provenance.RETURNED
    assert executed["output_digest"] is Provenance.DERIVED
    assert executed["run_id"] is Provenance.OBSERVED
    decision = sources(of(moments, "decision.recorded"))
    assert decision["request"] is Provenance.GIVEN
    assert decision["verdict"] is Provenance.DERIVED
    assert decision["created_at"] is Provenance.OBSERVED
    assert set(sources(of(moments, "memory.added")).values()) == {Provenance.DERIVED}
    assert set(sources(of(moments, "ledger.created")).values()) == {Provenance.OBSERVED}
    assert sources(of(moments, "order.placed")) == {"order": Provenance.GIVEN}
    assert sources(of(moments, "session.closed"))["outcome"] is Provenance.DERIVED


def test_the_words_for_provenance_are_about_fields_that_exist() -> None:
    for kind, names in story._GIVEN.items():
        struct: Any = KINDS[kind]
        fields = {field.name: field.type for field in msgspec.structs.fields(struct)}
        assert names <= {field.name for field in msgspec.structs.fields(fields.get("derived", struct))}, kind
    executed = {field.name for field in msgspec.structs.fields(KINDS["kernel.executed"])}
    assert executed == {"v", "derived", "observed"}


def test_what_was_left_out_and_what_the_caller_said(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "a.tally") as ledger:
        kernel = Kernel(ledger=ledger, capture="digest")
        kernel.execute(psi=PsiDefinition("t", "n"), task=lambda **_: 1, secret="s")
        Kernel(ledger=ledger).execute(psi=PsiDefinition("t", "n"), task=object)
        session = Session.start(ledger, "A case", "Desk")
        session.close("failed")
        ledger.append("order.placed", {"order": 81})
        ledger.erase(ledger.head().seq, reason="asked to")
        found = list(tell(ledger.rows()))
    digest = sources(of(found, "kernel.executed"))
    assert digest["arguments"] is digest["output"] is Provenance.LEFT_OUT
    placeholder = sources(of(found, "kernel.executed", 1))
    assert placeholder["output"] is Provenance.LEFT_OUT
    assert placeholder["arguments"] is Provenance.GIVEN
    closed = of(found, "session.closed")
    assert sources(closed)["outcome"] is Provenance.GIVEN
    assert closed.headline == "The session ended: failed (as its caller said)"
    erased = of(found, "order.placed")
    assert (erased.headline, sources(erased)) == ("its body was erased", {"body": Provenance.ERASED})
    assert of(found, "ledger.body_erased").headline.endswith("was erased: asked to")


def test_a_malformed_body_is_said_to_be_one() -> None:
    for body in (b"\xff\x00", b'{"v":1,"derived":{}}', b'"\\ud800"', b"[" * 5000, b'{"v":"1"}'):
        moment = told("action.recorded", body)
        assert moment.sign == "x"
        assert moment.headline.startswith("malformed body: ")
        assert set(sources(moment).values()) == {Provenance.NOT_READABLE}
    assert sources(told("an.app", b"\xff")) == {"body": Provenance.NOT_READABLE}
    newer = told("memory.added", {"v": 2, "what": "ever"})
    assert newer.headline == "its body is of a newer version than this program knows"
    assert sources(newer) == {"body": Provenance.UNKNOWN}


def test_fields_that_nobody_knows_are_said_to_be_unknown() -> None:
    body = {"v": 1, "seq": 2, "body_hash": "ab", "reason": "r", "and": 1}
    assert sources(told("ledger.body_erased", body)) == {
        "seq": Provenance.DERIVED,
        "body_hash": Provenance.DERIVED,
        "reason": Provenance.GIVEN,
        "and": Provenance.UNKNOWN,
    }


def test_meta_is_among_the_values() -> None:
    meta = {"actor": "a", "correlation": "case-7", "causation": 7, "other": 1}
    assert sources(told("a.b", {}, meta=meta)) == dict.fromkeys(
        ["correlation", "causation"], Provenance.GIVEN
    )


@settings(max_examples=examples(60), deadline=None)
@given(value=JSON, raw=st.binary(max_size=60), text=st.text(), meta=JSON, kind=st.sampled_from([*KINDS]))
def test_telling_never_raises(value: Any, raw: bytes, text: str, meta: Any, kind: str) -> None:
    """Whatever a stranger's ledger holds is told, on one line."""
    fitting = body_of(kind, text, value)
    for body in (raw, value, {"v": 1, "derived": value, "observed": value}, fitting):
        moment = told(kind, body, meta=meta)
        assert "\n" not in moment.headline
        assert len(moment.headline) < 300
    assert Provenance.NOT_READABLE not in sources(moment).values()
    assert Provenance.UNKNOWN not in sources(moment).values()


def test_a_headline_is_cut_and_says_so() -> None:
    moment = told("an.app", "x" * 5000)
    assert moment.headline == "x" * 240 + "… (+4,760 characters)"
    assert moment.values[0].value == "x" * 5000


def test_telling_takes_one_event_at_a_time() -> None:
    taken = 0

    def rows() -> Iterator[Row]:
        nonlocal taken
        while True:
            taken += 1
            yield row("an.app", {}, seq=taken)

    moments = tell(rows())
    assert [next(moments).seq, next(moments).seq] == [1, 2]
    assert taken == 2


# -- which events ------------------------------------------------------------------------------


def a_report(diverged: list[int], events: int = 0) -> ReplayReport:
    entries = tuple(
        Entry(seq=seq, layer=Layer.DIGEST, what="x", result=Result.DIVERGED, reason="so") for seq in diverged
    )
    return ReplayReport(
        ledger_id="00" * 16,
        selection=Selection(),
        head=(events, "00" * 32),
        events=events,
        layers={},
        entries=entries,
        left_out=0,
        reasons=(),
        observed=(),
    )


@given(diverged=st.lists(st.integers(1, 60), max_size=6), count=st.integers(0, 60))
def test_the_first_events_and_those_around_what_diverged(diverged: list[int], count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "MOMENTS_FIRST", 10)
        rows = [row("an.app", {}, seq=seq) for seq in range(1, count + 1)]
        found = [each.seq for each in chosen_rows(rows, a_report(diverged))]
    assert found == [
        seq
        for seq in range(1, count + 1)
        if seq <= 10 or any(abs(seq - other) <= story.MOMENTS_AROUND for other in diverged)
    ]


def test_no_row_is_read_behind_the_last_that_is_told(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "MOMENTS_FIRST", 2)
    rows = iter([row("an.app", {}, seq=seq) for seq in range(1, 100)])
    assert [each.seq for each in chosen_rows(rows, a_report([5]))] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert next(rows).seq == 10


def test_only_so_many_divergences_have_their_neighbours_told() -> None:
    rows = (row("an.app", {}, seq=seq) for seq in range(1, 20_001))
    report = a_report(list(range(3001, 19_000, 10)))
    assert len(list(chosen_rows(rows, report))) == 2000 + story.DIVERGED_TOLD_MAX * 7


def test_a_report_tells_of_its_selection_as_of_its_head(filled: Path) -> None:
    with Ledger.open(filled) as ledger:
        report = replay_ledger(ledger, Selection(stream="order:81"))
        everything = replay_ledger(ledger)
        ledger.append("order.lost", {"order": 81}, stream="order:81")
        assert [moment.kind for moment in moments_of(ledger, report)] == ["order.placed", "order.shipped"]
        assert [moment.seq for moment in moments_of(ledger, everything)] == list(
            range(1, everything.head[0] + 1)
        )
