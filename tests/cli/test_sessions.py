"""`tally sessions`, `tally session ID` and `tally retention` (contracts S1 to S8)."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import CAEL, Kernel, Ledger, NewEvent, PsiDefinition, Session, import_chat
from tallystick.cli import timeline
from tallystick.cli.sessions import duration_text
from tallystick.events.catalogue import KINDS
from tallystick.ledger.event import Event

HOUR_US = 3_600_000_000
LONG = "first words " + "and so on " * 100


class Clock:
    """Microseconds since 1970 UTC, a second more at each reading."""

    def __init__(self, start: str) -> None:
        self.now = int(dt.datetime.fromisoformat(start).timestamp()) * 1_000_000

    def __call__(self) -> int:
        self.now += 1_000_000
        return self.now


def transcript(number: int, **fields: Any) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"id": 7}'}}
    messages = [
        {"role": "user", "content": f"Question {number}"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": LONG},
        {"role": "assistant", "content": [{"type": "text", "text": "Sent."}, {"type": "image_url"}]},
    ]
    return {"messages": messages, **fields}


@pytest.fixture
def ledger() -> str:
    """The default ledger with four sessions; gives the id of the one that was recorded live."""
    with Ledger.open("agents.tally", clock=Clock("2026-03-01T00:00Z")) as ledger:
        import_chat(ledger, [transcript(1, ok=True), transcript(2, ok=False)], outcome="ok")
        with Session.start(ledger, "nightly refunds", kernel="Refunds", action="cron") as session:
            session.record_action(
                "refund.check",
                "verified",
                intent="refund order 81",
                evidence={"receipt": "R-81"},
                before_state={"balance": 10},
                after_state={"balance": 0},
            )
            session.record_action("refund.issue", "retry", kernel="Billing", note="timed out")
            session.record_action(
                "refund.issue",
                "failed",
                kernel="Billing",
                attempt=2,
                via_edge="REQUIRES",
                evidence={"error": LONG},
            )
            session.record_action("mail.send", "skipped")
        Session.start(ledger, "left open", kernel="Watch")
    return session.session_id


def labels(result: Any) -> list[str]:
    assert result.status == 0, result
    return [row["label"] for row in result.json]


# -- sessions ----------------------------------------------------------------------------------


def test_sessions_newest_first(tally: Callable[..., Any], ledger: str) -> None:
    result = tally("sessions")
    rows = [line.split("\t") for line in result.out.splitlines()]
    assert [row[2:6] for row in rows] == [
        ["… in progress", "", "0", "0"],
        ["~ partial", "+1 x1 ~1 -1", "0", "0"],
        ["x failed", "", "4", "1"],
        ["+ complete", "", "4", "1"],
    ]
    assert [row[7] for row in rows] == ["left open", "nightly refunds", "Question 2", "Question 1"]
    assert rows[1][0] == ledger
    assert result.err == ""


def test_sessions_as_json(tally: Callable[..., Any], ledger: str) -> None:
    row = tally("sessions", "--json").json[1]
    assert {
        name: row[name] for name in ("id", "outcome", "actions", "verified", "retried", "kernels", "action")
    } == {
        "id": ledger,
        "outcome": "partial",
        "actions": 4,
        "verified": 1,
        "retried": 1,
        "kernels": ["ckp://Kernel#Billing:v1.0", "ckp://Kernel#Refunds:v1.0"],
        "action": "cron",
    }
    assert dt.datetime.fromisoformat(row["started_at"]) < dt.datetime.fromisoformat(row["ended_at"])
    assert tally("sessions", "--nl").lines == tally("sessions", "--json").json
    assert tally("sessions", "--json", "--nl").status == 2
    assert "id_before" not in row


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--outcome", "failed"], ["Question 2"]),
        (["--outcome", "failed", "--outcome", "complete"], ["Question 2", "Question 1"]),
        (["--kernel", "Billing"], ["nightly refunds"]),
        (["--kernel", "[RW]*"], ["left open", "nightly refunds"]),
        (["--kernel", "ckp://Kernel#Chat:v1.0"], ["Question 2", "Question 1"]),
        (["--kernel", "bill"], []),
        (["--text", "QUESTION 2"], ["Question 2"]),
        (["--text", "so on"], ["Question 2", "Question 1"]),
        (["--text", "timed"], ["nightly refunds"]),
        (["--text", "mail.send"], ["nightly refunds"]),
        (["--text", "100%"], []),
        (["--text", "_ail"], []),
        (["--stale"], ["left open"]),
        (["--stale", "1d"], ["left open"]),
        (["--stale", "2026-03-01T00:00Z"], []),
        (["--limit", "2"], ["left open", "nightly refunds"]),
        (["--outcome", "expired"], []),
        (["--until", "2026-03-01T00:00Z"], []),
        (["--until", "2026-03-02T00:00Z", "-n", "1"], ["Question 2"]),
    ],
)
def test_filters(tally: Callable[..., Any], options: list[str], found: list[str]) -> None:
    assert labels(tally("sessions", *options, "--json")) == found


@pytest.mark.usefixtures("ledger")
def test_spans_of_time(tally: Callable[..., Any]) -> None:
    started = [row["started_at"] for row in tally("sessions", "--json").json]
    assert labels(tally("sessions", "--since", started[2], "--json")) == [
        "left open",
        "nightly refunds",
        "Question 2",
    ]
    assert labels(tally("sessions", "--until", started[2], "--json")) == ["Question 1"]
    assert tally("sessions", "--since", "1h", "--until", "2h").status == 2


def test_a_session_that_goes_on_is_not_stale(tally: Callable[..., Any]) -> None:
    """S3: what died stays in progress, and only that is found."""
    with Ledger.open("agents.tally") as ledger:
        Session.start(ledger, "just now")
    assert labels(tally("sessions", "--stale", "--json")) == []
    assert labels(tally("sessions", "--outcome", "in_progress", "--json")) == ["just now"]


def test_more_than_the_limit_is_said(tally: Callable[..., Any], ledger: str) -> None:
    assert tally("sessions", "-n", "2").err == "… and more; -n 0 lists all, -n N the first N (now 2)\n"
    assert tally("sessions", "-n", "4").err == ""


def test_a_table_on_a_terminal(terminal: Callable[..., tuple[int, str]], ledger: str) -> None:
    status, shown = terminal("sessions", columns=100, NO_COLOR="1")
    assert status == 0
    heading, *rows = shown.splitlines()
    assert heading.split() == [
        "id",
        "started",
        "(UTC)",
        "outcome",
        "actions",
        "msgs",
        "calls",
        "took",
        "label",
    ]
    assert rows[1].startswith(ledger[:8] + "  2026-")
    assert rows[1].endswith("  nightly refunds")
    assert max(map(len, rows)) <= 100
    _, narrow = terminal("sessions", "--text", "question", columns=60, NO_COLOR="1")
    assert narrow.splitlines()[0].split() == ["id", "started", "(UTC)", "outcome", "msgs", "calls", "label"]


def test_as_much_of_an_id_as_it_takes(terminal: Callable[..., tuple[int, str]]) -> None:
    with Ledger.open("agents.tally") as ledger:
        for session_id in ("aaaaaaaaaa", "aaaaaaaaab", "b"):
            start(ledger, session_id)
    _, shown = terminal("sessions", NO_COLOR="1")
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["b", "aaaaaaaaab", "aaaaaaaaaa"]


def start(ledger: Ledger, session_id: str, **about: Any) -> None:
    derived = {
        "session_id": session_id,
        "label": "",
        "kernel": "",
        "action": "",
        "retention_hours": 1,
        **about,
    }
    body = {"v": 1, "derived": derived, "observed": {"started_at": None, "urn": "?"}}
    ledger.record([NewEvent(kind="session.started", body=body, stream=f"session:{session_id}")])


def test_no_sessions_and_no_ledger(tally: Callable[..., Any]) -> None:
    assert tally("sessions").status == 3
    tally("init")
    assert tally("sessions") == (0, "", "")
    assert tally("sessions", "--json").json == []
    assert tally("session", "abc").status == 2


def test_a_ledger_that_cannot_be_written(tally: Callable[..., Any], ledger: str, tmp_path: Path) -> None:
    before = tally("sessions").out
    for path in tmp_path.glob("agents.tally*"):
        path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert tally("sessions").out == before
        assert tally("session", ledger).status == 0
    finally:
        tmp_path.chmod(0o755)


# -- one session -------------------------------------------------------------------------------


def test_a_session_with_actions(tally: Callable[..., Any], ledger: str) -> None:
    result = tally("session", ledger[:6])
    assert (result.status, result.err) == (0, "")
    header, events = result.out.split("\n\n")
    pairs = dict(line.split("\t") for line in header.splitlines())
    assert {
        name: pairs[name] for name in ("session", "label", "outcome", "kernels", "begun by", "actions")
    } == {
        "session": ledger,
        "label": "nightly refunds",
        "outcome": "~ partial",
        "kernels": "Billing, Refunds",
        "begun by": "cron",
        "actions": "4: +1 x1 ~1 -1",
    }
    assert [line[14:].rstrip() for line in events.splitlines()] == [
        "  start      cron",
        "+ action     refund.check (verified) by Refunds",
        "  change     balance: 10 -> 0",
        "  intent     refund order 81",
        '  before     {"balance":10}',
        '  after      {"balance":0}',
        '  evidence   {"receipt":"R-81"}',
        "~ action     refund.issue (retry) by Billing",
        "  note       timed out",
        "x action     refund.issue (failed) attempt 2 by Billing via REQUIRES",
        events.splitlines()[10][14:],
        "- action     mail.send (skipped) by Refunds",
        "~ end        partial",
    ]
    assert events.splitlines()[10].endswith("… (+913)")


def test_a_transcript_is_folded(tally: Callable[..., Any], ledger: str) -> None:
    session_id = tally("sessions", "--json").json[-1]["id"]
    folded = tally("session", session_id).out
    header, events = folded.split("\n\n")
    assert "\nimported\t2026-03-01" in header
    assert 'source\topenai-chat {"ok":true}' in header
    assert "\nended" not in header
    lines = [line[3:].rstrip() for line in events.splitlines()]
    assert lines[:3] == [
        "  start      Question 1",
        "  user       Question 1",
        '  assistant  → look_up {"id": 7}',
    ]
    assert lines[3].startswith("  tool       first words and so on")
    assert lines[3].endswith("(+901)")
    assert lines[4].startswith('+ call       look_up {"id":7} → first words and so on')
    assert lines[5:] == ["  assistant  Sent. [image_url]", "+ end        complete"]
    assert LONG.strip() not in folded
    full = tally("session", session_id, "--full").out
    assert full.count(LONG.strip()) == 2


def test_a_session_as_json(tally: Callable[..., Any], ledger: str) -> None:
    shown = tally("session", f"session:{ledger}", "--json").json
    assert shown["id"] == ledger
    assert [event["kind"] for event in shown["events"]] == [
        "session.started",
        *["action.recorded"] * 4,
        "session.closed",
    ]
    assert shown["events"][1]["body"]["derived"]["evidence"] == {"receipt": "R-81"}
    assert tally("session", f"ckp://Session#{ledger}", "--json").json == shown


def test_prefixes(tally: Callable[..., Any]) -> None:
    with Ledger.open("agents.tally") as ledger:
        for session_id in ("abc1", "abc2", "abc"):
            start(ledger, session_id)
    several = tally("session", "ab")
    assert several.status == 2
    assert "abc, abc1, abc2" in several.err
    none = tally("session", "x")
    assert none.status == 2
    assert "'x'" in none.err
    assert tally("session", "abc").out.startswith("session\tabc\n")
    assert tally("session", "abc2").status == 0


def test_lines_fit_the_terminal(terminal: Callable[..., tuple[int, str]], ledger: str) -> None:
    for columns in (60, 100):
        status, shown = terminal("session", ledger, columns=columns, NO_COLOR="1")
        assert status == 0
        assert max(map(len, shown.splitlines())) <= columns
        assert "(+" in shown
    _, coloured = terminal("session", ledger)
    assert "\x1b[31mx\x1b[0m \x1b[1maction" in coloured


def test_an_exception_that_ended_it(tally: Callable[..., Any]) -> None:
    with (
        Ledger.open("agents.tally") as ledger,
        pytest.raises(ValueError),
        Session.start(ledger, "x") as session,
    ):
        raise ValueError("no such order")
    out = tally("session", session.session_id).out
    assert "error\tno such order\n" in out
    assert "error      ValueError: no such order\n" in out


def test_erased_bodies_are_said(tally: Callable[..., Any], ledger: str) -> None:
    seq = tally("session", ledger, "--json").json["events"][2]["seq"]
    tally("erase", str(seq), "--reason", "x", "--yes")
    assert f"\n{seq}              action     (the body was erased)\n" in tally("session", ledger).out


def test_an_altered_event_is_named(
    tally: Callable[..., Any], alter: Callable[..., None], ledger: str
) -> None:
    seq = tally("session", ledger, "--json").json["events"][2]["seq"]
    alter(Path("agents.tally"), seq, body=b"no JSON")
    result = tally("session", ledger)
    assert result.status == 1
    assert result.err.startswith(f"tally: event {seq} cannot be decoded")
    assert "mail.send" in result.out


def test_nothing_moves_the_cursor(terminal: Callable[..., tuple[int, str]]) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\u202e\r\x9b8m"
    with Ledger.open("agents.tally") as ledger:
        import_chat(
            ledger,
            [
                {
                    "messages": [
                        {"role": evil, "content": evil, "name": evil, "x": evil},
                        {"role": "user", "content": evil},
                        {
                            "role": "a",
                            "tool_calls": [{"id": evil, "function": {"name": evil, "arguments": evil}}],
                        },
                        {"role": "tool", "tool_call_id": evil, "content": evil},
                    ],
                    evil: evil,
                }
            ],
        )
    _, listed = terminal("sessions", "--text", "", NO_COLOR="1")
    session_id = listed.splitlines()[1].split()[0]
    shown = listed
    for options in ([], ["--full"], ["--json"]):
        status, text = terminal("session", session_id, *options, NO_COLOR="1")
        assert status == 0
        shown += text
    assert not set("\x1b\x07\u202e\r\x9b") & set(shown)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "derived observed psi role content tool_calls arguments success output outcome attempt "
                "evidence started_at recorded_at erased type text error source fields".split()
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*KINDS, "app.own"]), anything, st.booleans())
def test_any_body_can_be_shown(capsys: pytest.CaptureFixture[str], kind: str, body: Any, full: bool) -> None:
    event = Event(7, 0, kind, "session:x", None, None, body, False, b"", b"", b"")
    timeline.Timeline(7, full).print([event])
    shown = capsys.readouterr().out
    assert shown.startswith("7  ")
    assert full or len(shown.split("\n")[0]) < 200


def test_hostile_bodies_in_a_ledger(tally: Callable[..., Any]) -> None:
    with Ledger.open("agents.tally") as ledger:
        start(ledger, "s", label="x" * 100_000, kernel="\x1b[2J")
        for kind in KINDS:
            if not kind.startswith("ledger."):
                for body in (
                    None,
                    [],
                    7,
                    "x",
                    {},
                    {"derived": []},
                    {"derived": {"outcome": {}}, "observed": 1},
                ):
                    ledger.record([NewEvent(kind=kind, body=body, stream="session:s")])
    assert tally("sessions").status == 0
    for options in ([], ["--full"], ["--json"]):
        assert tally("session", "s", *options).status == 0
    assert len(tally("session", "s").out) < 40_000


# -- texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "columns", "folded"),
    [
        ("short", 20, "short"),
        ("two\nlines\tand  more", 20, "two lines and more"),
        ("x" * 30, 20, "x" * 13 + "… (+17)"),
        ("日本語" * 10, 20, "日本語日本語" + "… (+24)"),
        ("x" * 100_000, 20, "x" * 9 + "… (+99,991)"),
        ("", 20, ""),
        ("\x1b" * 3, 20, "\\x1b\\x1b\\x1b"),
    ],
)
def test_fold(text: str, columns: int, folded: str) -> None:
    assert timeline.fold(text, columns) == folded


@given(st.text(), st.integers(12, 60))
def test_a_folded_text_fits(text: str, columns: int) -> None:
    from rich.cells import cell_len

    folded = timeline.fold(text, columns)
    assert cell_len(folded) <= columns
    assert folded.isprintable() or " " in folded


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [
        (None, ""),
        (0.4, "0 ms"),
        (999.0, "999 ms"),
        (1500.0, "1.5 s"),
        (119_000.0, "119 s"),
        (600_000.0, "10 min"),
        (9_000_000.0, "2.5 h"),
    ],
)
def test_durations(duration_ms: float | None, text: str) -> None:
    assert duration_text(duration_ms) == text


# -- retention ---------------------------------------------------------------------------------


@pytest.fixture
def due() -> None:
    """The default ledger with a session that is due since long ago, one that is not, one in progress."""
    with Ledger.open("agents.tally", clock=Clock("2026-03-01T00:00Z")) as ledger:
        import_chat(ledger, [transcript(1)], retention_hours=5)
        import_chat(ledger, [transcript(2)], retention_hours=24 * 366 * 1000)
        Session.start(ledger, "left open", retention_hours=0)


@pytest.mark.usefixtures("due")
def test_retention_lists_and_erases_nothing(tally: Callable[..., Any]) -> None:
    head = tally("head").out
    result = tally("retention")
    assert result.status == 0
    [line] = result.out.splitlines()
    session_id, closed, kept, events, size, label = line.split("\t")
    assert (closed[:10], kept, events, label) == ("2026-03-01", "5 h", "7", "Question 1")
    assert result.err == f"1 session is due, {size}; nothing was erased: --expire does it\n"
    assert tally("head").out == head
    assert tally("retention", "--at", "2026-03-01T04:00Z").err == "no session is due\n"
    assert len(tally("retention", "--at", "5000-01-01", "--json").json) == 2
    assert tally("retention", "--at", "5000-01-01", "--expire").status == 2
    assert tally("session", session_id).status == 0


def test_a_pipeline_that_failed_says_why(tally: Callable[..., Any]) -> None:
    """K7: the message is in the observed half of `pipeline.completed`."""

    def fail() -> None:
        raise ValueError("no such order")

    with Ledger.open("agents.tally") as ledger, Session.start(ledger, "steps", "Desk") as session:
        kernel = Kernel(ledger=ledger, stream=session.stream)
        CAEL(kernel).run([(PsiDefinition("orders", "fail"), fail, {})])
    shown = tally("session", session.session_id).out
    [line] = [line for line in shown.splitlines() if "pipeline" in line]
    assert "1 steps; TASK_EXCEPTION: " in line
    assert "no such order" in line


@pytest.mark.usefixtures("due")
def test_retention_expires(tally: Callable[..., Any]) -> None:
    """S7: the bodies are gone, the chain verifies, and `session.expired` says so."""
    [listed] = tally("retention", "--json").json
    assert listed["closed_at"].startswith("2026-03-01T")
    assert (listed["retention_hours"], listed["events"], listed["erased"]) == (5, 7, 0)
    result = tally("retention", "--expire")
    assert (result.status, result.err) == (0, "expired 1 session, erasing what 7 events held\n")
    assert tally("verify").status == 0
    shown = tally("session", listed["id"]).out
    assert "outcome\t- expired\n" in shown
    assert shown.count("(the body was erased)") == 7
    assert "- expired    7 bodies were erased, 5 hours after its end\n" in shown
    assert LONG not in tally("session", listed["id"], "--full").out
    again = tally("retention", "--expire", "--json")
    assert (again.status, again.json) == (0, [])
    assert tally("sessions", "--outcome", "expired", "--json").json[0]["id"] == listed["id"]


@pytest.mark.usefixtures("due")
def test_an_expired_transcript_is_not_imported_again(tally: Callable[..., Any]) -> None:
    assert tally("retention", "--expire", "--json").json[0]["erased"] == 7
    result = tally("import", "chat", "-", stdin=json.dumps(transcript(1)).encode())
    assert result.err == "nothing was imported; 1 session was there already\n"


def test_retention_makes_no_ledger(tally: Callable[..., Any]) -> None:
    assert tally("retention", "--expire").status == 3
    assert not Path("agents.tally").exists()
