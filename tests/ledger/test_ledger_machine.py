"""A ledger file against a plain list: any sequence of calls, by three handles in two processes.

After every step the chain verifies against the head, and the ledger reads as the model says.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tallystick import (
    Durability,
    InvalidEvent,
    KeyConflict,
    Ledger,
    NoSuchEvent,
    NotErasable,
    PositionConflict,
    Receipt,
    Verdict,
)

HELPER = """
import json, sys
from tallystick import Durability, Ledger

def told(receipt):
    return [receipt.seq, receipt.hash.hex(), receipt.at]

ledger = None
for line in sys.stdin:
    what, argument = json.loads(line)
    try:
        if what == "open":
            ledger = Ledger.open(argument, durability=Durability.PROCESS)
            answer = ledger.head().seq
        elif what == "append":
            answer = list(map(told, ledger.append_many(argument)))
        elif what == "erase":
            answer = told(ledger.erase(argument, "by another process"))
        else:
            answer = ledger.close()
    except Exception as error:
        answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
"""


class Helper:
    """A second process with the ledger open."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HELPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str, argument: Any = None) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([what, argument]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert not isinstance(answer, dict), answer["error"]
        return answer

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


class Known(NamedTuple):
    """What the model knows of an event."""

    receipt: Receipt
    kind: str
    stream: str
    key: str | None
    body: Any
    erased: bool


streams = st.sampled_from(["main", "s:1", "s:2", "ü"])
kinds = st.sampled_from(["order.placed", "order.shipped", "mail.sent"])
bodies = st.sampled_from([None, {}, [1, None], "text", "x" * 3000, "y" * 20_000, {"é": {"b": 1, "a": -0.0}}])
events = st.fixed_dictionaries({"kind": kinds, "stream": streams, "body": bodies})
places = st.integers(0, 1000)


class LedgerMachine(RuleBasedStateMachine):
    helper: Helper
    folder: Path
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1
        self.place = self.folder / str(self.runs)
        self.place.mkdir()
        self.path = self.place / "a.tally"
        self.opened: list[Ledger] = []
        self.model: list[Known] = []

    @initialize()
    def create(self) -> None:
        self.ledger = self.open()
        self.other = self.open()
        assert self.helper.ask("open", str(self.path)) == 1
        first = self.ledger.get(1)
        receipt = Receipt(1, first.hash, first.at)
        self.model = [Known(receipt, "ledger.created", "ledger", None, first.body, False)]

    def open(self, **options: Any) -> Ledger:
        self.opened.append(Ledger.open(self.path, durability=Durability.PROCESS, **options))
        return self.opened[-1]

    def teardown(self) -> None:
        if self.model:
            self.helper.ask("close")
        for ledger in self.opened:
            ledger.close()
        shutil.rmtree(self.place)

    # ---- the model's part ----

    def note(self, receipt: Receipt, event: dict[str, Any]) -> None:
        assert receipt.seq == len(self.model) + 1
        self.model.append(
            Known(receipt, event["kind"], event["stream"], event.get("key"), event["body"], False)
        )

    def note_erased(self, seq: int, receipt: Receipt, reason: str) -> None:
        body_hash = self.ledger.get(seq).body_hash.hex()
        body = {"v": 1, "seq": seq, "body_hash": body_hash, "reason": reason}
        self.note(receipt, {"kind": "ledger.body_erased", "stream": "ledger", "body": body})
        self.model[seq - 1] = self.model[seq - 1]._replace(body=None, erased=True)

    def last_of(self, stream: str) -> int:
        return max((known.receipt.seq for known in self.model if known.stream == stream), default=0)

    def pick(self, place: int, wanted: list[Known]) -> Known:
        return wanted[place % len(wanted)]

    @property
    def keyed(self) -> list[Known]:
        return [known for known in self.model if known.key is not None]

    @property
    def erasable(self) -> list[Known]:
        return [known for known in self.model if not known.kind.startswith("ledger.") and not known.erased]

    @property
    def erased(self) -> list[Known]:
        return [known for known in self.model if known.erased]

    # ---- appending ----

    @rule(event=events, keyed=st.booleans())
    def append(self, event: dict[str, Any], keyed: bool) -> None:
        key = f"key {len(self.model)}" if keyed else None
        self.note(self.ledger.append(**event, key=key), {**event, "key": key})

    @rule(batch=st.lists(events, max_size=5), chunk=st.integers(1, 3), atomic=st.booleans())
    def append_many(self, batch: list[dict[str, Any]], chunk: int, atomic: bool) -> None:
        receipts = self.ledger.append_many(batch, chunk=chunk, atomic=atomic)
        for receipt, event in zip(receipts, batch, strict=True):
            self.note(receipt, event)

    @rule(
        batch=st.lists(events, min_size=1, max_size=6),
        bad=st.integers(0, 5),
        chunk=st.integers(1, 3),
        atomic=st.booleans(),
        trouble=st.sampled_from([{"body": float("nan")}, {"kind": "bad"}, {"stream": ""}]),
    )
    def append_many_with_a_bad_one(
        self, batch: list[dict[str, Any]], bad: int, chunk: int, atomic: bool, trouble: dict[str, Any]
    ) -> None:
        bad %= len(batch)
        events = [{**event, **trouble} if n == bad else event for n, event in enumerate(batch)]
        stored = 0 if atomic else bad - bad % chunk
        with pytest.raises(InvalidEvent) as caught:
            self.ledger.append_many(events, chunk=chunk, atomic=atomic)
        assert caught.value.path.startswith(f"events[{bad}].")
        assert caught.value.appended == stored
        for event in batch[:stored]:
            found = self.ledger.get(len(self.model) + 1)
            self.note(Receipt(found.seq, found.hash, found.at), event)

    @precondition(lambda self: self.keyed)
    @rule(place=places, handle=st.sampled_from(["ledger", "other"]))
    def retry_with_the_same_body(self, place: int, handle: str) -> None:
        known = self.pick(place, self.keyed)

        def retry() -> Receipt:
            ledger: Ledger = getattr(self, handle)
            return ledger.append(known.kind, known.body, stream=known.stream, key=known.key, expect=12345)

        if known.erased:
            with pytest.raises(KeyConflict):
                retry()
        else:
            assert retry() == known.receipt

    @precondition(lambda self: self.keyed)
    @rule(place=places)
    def retry_with_another_body(self, place: int) -> None:
        known = self.pick(place, self.keyed)
        with pytest.raises(KeyConflict) as caught:
            self.ledger.append(known.kind, "another", stream=known.stream, key=known.key)
        assert caught.value.seq == known.receipt.seq

    @precondition(lambda self: self.keyed)
    @rule(place=places, batch=st.lists(events, min_size=1, max_size=3))
    def atomic_batch_with_a_conflict(self, place: int, batch: list[dict[str, Any]]) -> None:
        conflict = {"kind": "order.placed", "body": "another", "key": self.pick(place, self.keyed).key}
        with pytest.raises(KeyConflict):
            self.ledger.append_many([*batch, conflict], atomic=True)

    @rule(event=events)
    def expect_the_right_position(self, event: dict[str, Any]) -> None:
        self.note(self.ledger.append(**event, expect=self.last_of(event["stream"])), event)

    @rule(event=events, expect=places)
    def expect_a_wrong_position(self, event: dict[str, Any], expect: int) -> None:
        actual = self.last_of(event["stream"])
        if expect != actual:
            with pytest.raises(PositionConflict) as caught:
                self.ledger.append(**event, expect=expect)
            assert (caught.value.expected, caught.value.actual) == (expect, actual)

    @rule(event=events)
    def append_by_another_handle(self, event: dict[str, Any]) -> None:
        self.note(self.other.append(**event), event)

    @rule(batch=st.lists(events, min_size=1, max_size=3))
    def append_by_another_process(self, batch: list[dict[str, Any]]) -> None:
        receipts = self.helper.ask("append", batch)
        for (seq, digest, at), event in zip(receipts, batch, strict=True):
            self.note(Receipt(seq, bytes.fromhex(digest), at), event)

    # ---- erasing ----

    @precondition(lambda self: self.erasable)
    @rule(place=places, handle=st.sampled_from(["ledger", "other"]))
    def erase(self, place: int, handle: str) -> None:
        seq = self.pick(place, self.erasable).receipt.seq
        self.note_erased(seq, getattr(self, handle).erase(seq, "asked to"), "asked to")

    @precondition(lambda self: self.erasable)
    @rule(place=places)
    def erase_by_another_process(self, place: int) -> None:
        seq = self.pick(place, self.erasable).receipt.seq
        at_seq, digest, at = self.helper.ask("erase", seq)
        self.note_erased(seq, Receipt(at_seq, bytes.fromhex(digest), at), "by another process")

    @precondition(lambda self: self.erased)
    @rule(place=places)
    def erase_again(self, place: int) -> None:
        seq = self.pick(place, self.erased).receipt.seq
        receipt = self.ledger.erase(seq, "again")
        record = self.model[receipt.seq - 1]
        assert (record.receipt, record.body["seq"]) == (receipt, seq)

    @rule(place=places)
    def erase_what_must_stay(self, place: int) -> None:
        own = [known for known in self.model if known.kind.startswith("ledger.")]
        with pytest.raises(NotErasable):
            self.ledger.erase(self.pick(place, own).receipt.seq, "why")
        with pytest.raises(NoSuchEvent):
            self.ledger.erase(len(self.model) + 1 + place, "why")

    # ---- the file ----

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.opened.remove(self.ledger)
        self.ledger = self.open()

    @rule()
    def backup(self) -> None:
        path = self.place / "copy.tally"
        head = self.ledger.backup(path)
        assert head == self.ledger.head()
        with Ledger.open(path, read_only=True) as copy:
            assert copy.verify(head).verdict is Verdict.VERIFIED
            self.reads_as_the_model(copy)
        for file in self.place.glob("copy.tally*"):
            file.unlink()

    # ---- reading ----

    @rule(
        after=st.integers(-1, 30),
        before=st.none() | st.integers(-1, 40),
        stream=st.none() | streams | st.just("ledger"),
        asked=st.none()
        | st.lists(st.sampled_from(["order.*", "order.placed", "mail.sent", "ledger.*"]), max_size=2),
        limit=st.none() | st.integers(0, 10),
        reverse=st.booleans(),
    )
    def read(
        self,
        after: int,
        before: int | None,
        stream: str | None,
        asked: list[str] | None,
        limit: int | None,
        reverse: bool,
    ) -> None:
        def fits(known: Known) -> bool:
            seq = known.receipt.seq
            return (
                seq > after
                and (before is None or seq < before)
                and (stream is None or known.stream == stream)
                and (
                    asked is None
                    or any(
                        known.kind.startswith(kind[:-1]) if kind.endswith("*") else known.kind == kind
                        for kind in asked
                    )
                )
            )

        wanted = [known.receipt.seq for known in self.model if fits(known)]
        found = self.ledger.read(
            after, before=before, stream=stream, kinds=asked, limit=limit, reverse=reverse
        )
        assert [event.seq for event in found] == (wanted[::-1] if reverse else wanted)[:limit]

    @invariant()
    def it_verifies(self) -> None:
        if not self.model:
            return
        head = self.ledger.head()
        assert (head.seq, head.hash) == (len(self.model), self.model[-1].receipt.hash)
        report = self.ledger.verify(head)
        assert report.verdict is Verdict.VERIFIED, report
        assert (report.events, report.erased) == (len(self.model), len(self.erased))

    @invariant()
    def it_reads_as_the_model_says(self) -> None:
        if self.model:
            self.reads_as_the_model(self.ledger)
            assert self.other.head() == self.ledger.head()

    def reads_as_the_model(self, ledger: Ledger) -> None:
        found = [
            Known(
                Receipt(event.seq, event.hash, event.at),
                event.kind,
                event.stream,
                event.key,
                event.body,
                event.erased,
            )
            for event in ledger.read()
        ]
        assert found == self.model


@pytest.fixture
def helper() -> Iterator[Helper]:
    helper = Helper()
    yield helper
    helper.end()


@pytest.mark.parametrize(
    "examples", [12, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_any_sequence_of_calls(helper: Helper, tmp_path: Path, examples: int) -> None:
    machine = type("Machine", (LedgerMachine,), {"helper": helper, "folder": tmp_path})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=25, deadline=None)
    )
