"""Ledgers from somebody who means harm: whatever a body holds, there is a report or an error with a name."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from forging import Forger
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick import Durability, Ledger, Selection, Session, TallyError, replay_ledger, write_incident
from tallystick.cli import main
from tallystick.events.catalogue import KINDS
from tallystick.ledger.errors import Unavailable
from tallystick.recorders.gateway.errors import InvalidPolicy
from tallystick.recorders.gateway.policy import STARTER_POLICY, Policy
from tallystick.replay.layers import policies
from tallystick.replay.layers.folds import NAMES_MAX, Folds
from tallystick.replay.report import DIFFERENCES_BYTES_MAX, REASONS_MAX, Layer, Notes

RSS_MAX_KIB = 150 * 1024
WORKER = Path(__file__).parent / "workers" / "replay_peak.py"

#: What no recorder writes, as JSON text.
ODD = [
    "null",
    "true",
    "0",
    "-1",
    "1e308",
    "1.5",
    "9007199254740993",
    "-9223372036854775809",
    "1" + "0" * 30,
    "1" * 5000,
    '""',
    '"\\ud800"',
    '"\\u0000"',
    '"' + "x" * 70_000 + '"',
    '"/"',
    '"../../etc/passwd"',
    "[]",
    "{}",
    '{"$omitted":1}',
    "[[[[]]]]",
    "[" * 900 + "]" * 900,
    '{"a":' * 500 + "1" + "}" * 500,
    "[" + ",".join(["1"] * 3000) + "]",
    '["/derived","/psi/name","/output/0"]',
    "[1,2,3]",
    '{"":{"":""}}',
]
VALUES = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
).map(json.dumps)
#: Which event, how far into its body (each number chooses among what is there), and what is put there.
CHANGES = st.lists(
    st.tuples(st.integers(1, 31), st.lists(st.integers(0, 40), max_size=6), VALUES), max_size=3
)


def changed(value: Any, way: list[int], new: str) -> str:
    """JSON text of a value with other text at the end of a way into it."""
    if not way or not isinstance(value, dict | list) or not value:
        return new
    step, rest = way[0], way[1:]
    if isinstance(value, list):
        items = [json.dumps(one) for one in value]
        items[step % len(value)] = changed(value[step % len(value)], rest, new)
        return f"[{','.join(items)}]"
    names = sorted(value)
    name = names[step % len(names)]
    parts = [
        f"{json.dumps(one)}:{changed(value[one], rest, new) if one == name else json.dumps(value[one])}"
        for one in names
    ]
    return "{" + ",".join(parts) + "}"


def replay_forged(template: Path, forge: Callable[[Forger], None]) -> None:
    """Replay a copy that was forged. Anything but a report or a named error fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tally"
        for suffix in ("", ".views", ".head"):
            shutil.copy(f"{template}{suffix}", f"{path}{suffix}")
        with Forger(path, clever=False) as forger:
            forge(forger)
        try:
            with Ledger.open(path, read_only=True) as ledger:
                report = replay_ledger(ledger)
        except TallyError as error:
            assert "\n" not in str(error)
            return
        json.loads(report.to_json())
        assert str(report)


def mutate(template: Path, changes: list[tuple[int, list[int], str]]) -> None:
    def forge(forger: Forger) -> None:
        for seq, way, new in changes:
            body = forger.rows[seq - 1].body
            try:
                value = json.loads(body or b"")
            except (ValueError, RecursionError):
                value = None
            forger.replace(seq, body=changed(value, way, new).encode("utf-8", "surrogatepass"))

    replay_forged(template, forge)


SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(SETTINGS, max_examples=30)
@given(changes=CHANGES)
def test_whatever_a_body_holds_there_is_a_report(
    template: Path, changes: list[tuple[int, list[int], str]]
) -> None:
    mutate(template, changes)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(SETTINGS, max_examples=2000)
@given(changes=CHANGES)
def test_whatever_thousands_of_bodies_hold(template: Path, changes: list[tuple[int, list[int], str]]) -> None:
    mutate(template, changes)


@settings(SETTINGS, max_examples=15)
@given(seq=st.integers(1, 31), place=st.integers(0), new=st.binary(min_size=1, max_size=4))
def test_bytes_that_are_no_json(template: Path, seq: int, place: int, new: bytes) -> None:
    def forge(forger: Forger) -> None:
        body = forger.rows[seq - 1].body or b""
        at = place % (len(body) + 1)
        forger.replace(seq, body=body[:at] + new + body[at + len(new) :])

    replay_forged(template, forge)


@settings(SETTINGS, max_examples=15)
@given(
    seq=st.integers(1, 31),
    kind=st.sampled_from([*sorted(KINDS), "decision.approved", "order.placed"]),
    stream=st.sampled_from(["decision:", "session:", "memory:a:b", "policy:", "ledger", "x" * 500]),
    at=st.sampled_from([0, -1, -(1 << 62), (1 << 62), 253_402_300_800_000_000]),
    meta=st.sampled_from([None, b"[]", b"{", b"\xff", b'{"correlation":7}']),
)
def test_columns_that_fit_no_body(
    template: Path, seq: int, kind: str, stream: str, at: int, meta: bytes | None
) -> None:
    replay_forged(
        template, lambda forger: forger.replace(seq, kind=kind, stream=stream, at=at, meta=meta, key="k")
    )


# -- in bounded space and time -------------------------------------------------------------------


def peak_kib(path: Path, *arguments: str) -> tuple[int, int]:
    """How many checks diverged, and the peak memory of a process that replays the ledger."""
    command = [sys.executable, str(WORKER), str(path), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=110)
    diverged, peak = map(int, done.stdout.split())
    return diverged, peak


def forged_ledger(path: Path, bodies: list[tuple[str, str, bytes]]) -> None:
    """A ledger of these events (kind, stream, body), in a chain that follows."""
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        ledger.append_many({"kind": "order.placed", "body": {}} for _ in bodies)
    with Forger(path, clever=False) as forger:
        for seq, (kind, stream, body) in enumerate(bodies, 2):
            forger.replace(seq, kind=kind, stream=stream, body=body)


def action(number: int, **derived: Any) -> bytes:
    body = {
        "v": 1,
        "derived": {
            "session_id": "s",
            "seq": number,
            "action_type": "a",
            "outcome": "verified",
            "kernel": "ckp://Kernel#K:v1.0",
            "via_edge": None,
            "intent": None,
            "evidence": None,
            "before_state": None,
            "after_state": None,
            "diff_summary": "",
            "attempt": 1,
            "note": "",
            "placeholders": [],
            **derived,
        },
        "observed": {"recorded_at": "2026-01-01T00:00:00.000000Z", "urn": "", "handle": None},
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def execution(**derived: Any) -> bytes:
    body = {
        "v": 1,
        "derived": {
            "psi": {"psi_type": "t", "name": "n", "metadata": {}},
            "arguments": {},
            "arguments_digest": None,
            "success": True,
            "failure_code": "OK",
            "exception_type": None,
            "output": None,
            "output_digest": None,
            "core_digest": "",
            "placeholders": [],
            "capture": "content",
            **derived,
        },
        "observed": {
            **{name: None for name in ("started_at", "finished_at", "runtime_ms", "error", "exception_repr")},
            "run_id": "r",
            "metadata": {},
        },
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def pipeline(executions: list[int]) -> bytes:
    body = {
        "v": 1,
        "executions": executions,
        "derived": {
            "success": True,
            "failure_code": None,
            "steps": len(executions),
            "executed": len(executions),
            "core_digests": [],
        },
        "observed": {"run_ids": [], "failure_message": None, "metadata": {}},
    }
    return json.dumps(body).encode()


S, A = "session:s", "action.recorded"
BOMBS: dict[str, Callable[[], list[tuple[str, str, bytes]]]] = {
    "large_bodies": lambda: [(A, S, action(n, note="x" * (1 << 20))) for n in range(150)],
    "a_kernel_a_mebibyte_long": lambda: [
        (A, S, action(n, kernel=f"ckp://Kernel#{n}" + "k" * (1 << 20))) for n in range(120)
    ],
    "as_many_kernels_as_actions": lambda: [
        (A, S, action(n, kernel=f"ckp://Kernel#{n}:v1.0", outcome=f"o{n}")) for n in range(8000)
    ],
    "differences_everywhere": lambda: [
        (A, S, action(-n, kernel="k" * 1900, outcome="o" * 1900, diff_summary="d" * 1900))
        for n in range(9000)
    ],
    "a_psi_a_mebibyte_long": lambda: [
        (
            "kernel.executed",
            "kernel",
            execution(psi={"psi_type": "t", "name": f"{n}" + "p" * (1 << 20), "metadata": {}}),
        )
        for n in range(120)
    ],
    "pipelines_that_name_everything": lambda: [
        *[("kernel.executed", "kernel", execution(output="x" * 300)) for _ in range(2000)],
        *[("pipeline.completed", "kernel", pipeline(list(range(2, 2002)))) for _ in range(300)],
    ],
    "one_execution_named_a_hundred_thousand_times": lambda: [
        ("kernel.executed", "kernel", execution(output="x" * 100_000)),
        *[("pipeline.completed", "kernel", pipeline([2] * 100_000)) for _ in range(20)],
    ],
    "records_of_expiry_that_name_everything": lambda: [
        *[(A, S, action(n)) for n in range(1, 3000)],
        *[
            (
                "session.expired",
                S,
                json.dumps(
                    {
                        "closed_seq": 2,
                        "erased": list(range(2, 3000)),
                        "retention_hours": 1,
                        "session_id": "s",
                        "v": 1,
                    }
                ).encode(),
            )
            for _ in range(300)
        ],
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
def test_a_bomb_stays_small_and_ends(tmp_path: Path, bomb: Callable[[], Any]) -> None:
    """Under 150 MiB, and well within the time that a test may take."""
    path = tmp_path / "a.tally"
    forged_ledger(path, bomb())
    diverged, peak = peak_kib(path)
    assert diverged > 0
    assert peak < RSS_MAX_KIB, f"{peak / 1024:.0f} MiB"


def test_a_session_with_more_kernels_than_anybody_has(tmp_path: Path) -> None:
    """What its end sums up is then not counted again, and said so."""
    with Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS) as ledger:
        with ledger.batch(), Session.start(ledger, "busy") as session:
            for number in range(NAMES_MAX + 5):
                session.record_action("act", "verified", f"K{number}")
        report = replay_ledger(ledger, layers=["digest"])
    assert report.diverged == 0
    assert {(entry.what, entry.reason) for entry in report.entries} == {
        (what, "the body of an earlier event of the session was erased, or cannot be read")
        for what in ("actions", "kernels", "outcome")
    }


def test_folds_beyond_those_at_hand_come_back_as_they_were() -> None:
    folds = Folds(10)
    for number in range(50):
        fold = folds.new(f"session:{number}")
        fold.started, fold.imported = number, number % 2 == 0
        fold.count("verified")
        fold.count(f"odd {number}")
        for kernel in range(number):
            folds.add_kernel(fold, f"k{kernel}")
    for number in range(50):
        found = folds.get(f"session:{number}")
        assert found is not None
        assert (found.started, found.imported, found.known) == (number, number % 2 == 0, True)
        assert found.outcomes() == {"verified": 1, f"odd {number}": 1}
        assert set(found.kernels) == {f"k{kernel}" for kernel in range(number)}
    assert folds.get("session:50") is None


def test_a_report_has_bounds_whatever_differs() -> None:
    notes = Notes((Layer.DIGEST,))
    from tallystick.replay.differences import differences

    for seq in range(1000):
        values = {f"{n}": "x" * 1900 for n in range(20)}
        notes.diverged(Layer.DIGEST, seq, "w", differences(values, {}), "r" * 9999)
        notes.not_rederivable(Layer.DIGEST, seq, "w", f"reason {seq}")
    data = json.dumps([str(entry) for entry in notes.entries()])
    assert len(data) < 2 * DIFFERENCES_BYTES_MAX
    assert len(notes.reasons()) == REASONS_MAX + 1
    assert notes.reasons()[0].reason == "for other reasons"
    assert notes.entries()[0].differences[0].path == "/0"
    assert notes.entries()[-2].differences[0].expected == {
        "$omitted": "the report holds too many differences"
    }


@pytest.mark.parametrize("text", ["rules: [", STARTER_POLICY.read_text("utf-8")], ids=["bad", "good"])
def test_a_policy_is_parsed_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is none, too: a largest one takes seconds, and thousands of decisions may name it."""
    seen = []
    parse = Policy.parse

    def counted(*arguments: Any) -> Policy:
        seen.append(arguments)
        return parse(*arguments)

    monkeypatch.setattr(Policy, "parse", counted)
    for _ in range(3):
        with suppress(InvalidPolicy):
            policies.parsed(text + "# this once")
    assert len(seen) == 1
    monkeypatch.setattr(policies, "CHARACTERS_MAX", len(text))
    with suppress(InvalidPolicy):
        policies.parsed(text + "# another")
    with suppress(InvalidPolicy):
        policies.parsed(text + "# this once")
    assert len(seen) == 3, "no more are remembered than there is room for"


@pytest.mark.parametrize("body", [b"{", b"[" * 5000, b'{"v":1,"derived":{"output":' + b"9" * 6000 + b"}}"])
def test_the_command_says_so_without_a_traceback(
    filled: Path, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with Forger(filled) as forger:
        seq = forger.seq_of("kernel.executed")
        forger.replace(seq, body=body)
    assert main(["-f", str(filled), "replay"]) == 1
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    assert shown.out.startswith(f"DIVERGED at event {seq}, layer digest: body (malformed body: ")


def test_a_large_file_without_an_index_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at a stream would read the whole file; a small one is read all the same."""
    path = tmp_path / "a.tally"
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        ledger.append_many({"kind": "order.placed", "body": {}} for _ in range(20))
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX events_by_stream")
        db.execute("CREATE INDEX events_by_stream ON events (stream) WHERE stream = 'x'")
    with Ledger.open(path, read_only=True) as ledger:
        assert not replay_ledger(ledger).diverged
        monkeypatch.setattr("tallystick.replay.indexes.WITHOUT_INDEXES_MAX", 10)
        with pytest.raises(Unavailable, match="events_by_stream"):
            replay_ledger(ledger)
        with pytest.raises(Unavailable, match="events_by_stream"):
            write_incident(ledger, Selection(since=0), tmp_path / "incident")
