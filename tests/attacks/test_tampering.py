"""What verification says to each manipulation of a ledger file, and the page that tells it.

The manipulations are done by someone who knows the format, has the file and nothing but the
standard `sqlite3`, and drops the guards first. The tables of manipulations in `tests/support/` are the
one source for the tests and for `docs/tampering.md`, which this command writes anew:

    python tests/attacks/test_tampering.py > docs/tampering.md
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from tallystick import Durability, Head, Ledger, Report, SQLiteStore, TallyError, Verdict
from tallystick.ledger.headfile import head_path, read_head_file
from tallystick.ledger.verify import verify

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # where pytest finds them by itself
import manipulations as M
import manipulations_of_rows
import manipulations_of_the_chain
from attacker import COLUMNS, ERASED, EVENTS, RECORD, TARGET, Plain
from second_verifier import verifier

PAGE = Path(__file__).parent.parent.parent / "docs" / "tampering.md"
#: The large one: three processes walk 1 to 1201, 1202 to 2402 and 2403 to 3604.
LARGE_EVENTS = 3604

TABLE = [*manipulations_of_rows.TABLE, *manipulations_of_the_chain.TABLE]
MANIPULATIONS = [manipulation for group in TABLE for manipulation in group.manipulations]
BY_NAME = {manipulation.name: manipulation for manipulation in MANIPULATIONS}


pytestmark = pytest.mark.usefixtures("nearby")


# -- ledgers to attack --------------------------------------------------------------------------


def fill(path: Path, events: int, seed: bytes) -> Head:
    """A closed ledger of so many events, the same bytes each time; its head."""
    drawn = count()

    def entropy(size: int) -> bytes:
        data: bytes = blake3(seed + next(drawn).to_bytes(8, "big")).digest(length=size)
        return data

    def event(n: int) -> dict[str, Any]:
        names = {} if n % 5 == 0 else {"key": f"key-{n}", "meta": {"actor": "bot"}}
        return {"kind": "order.placed", "body": {"n": n}, "stream": f"order:{n % 3}", **names}

    ticks = count(1_735_689_600_000_000, 1_000_000)
    with Ledger.open(
        path, clock=lambda: next(ticks), entropy=entropy, durability=Durability.PROCESS
    ) as ledger:
        ledger.append_many(event(n) for n in range(2, RECORD))
        M.SALTS[ERASED] = next(ledger._store.read(ERASED - 1, limit=1)).salt or b""
        ledger.erase(ERASED, "request of the data subject")
        ledger.append_many(event(n) for n in range(RECORD + 1, events + 1))
        return ledger.head()


@dataclass(frozen=True)
class Scene:
    """A genuine ledger with its head, and another one like it."""

    path: Path
    head: Head
    other: Path

    def copy(self, path: Path, *, head_file: bool) -> None:
        shutil.copy(self.path, path)
        if head_file:
            shutil.copy(head_path(self.path), head_path(path))

    def attack(self, manipulation: M.Manipulation, path: Path, k: int, *, head_file: bool) -> None:
        """Leave a manipulated copy at `path`."""
        self.copy(path, head_file=head_file)
        plain = Plain(path, self.other)
        try:
            manipulation.do(plain, k)
        finally:
            plain.close()


def scene(folder: Path, events: int) -> Scene:
    other = folder / "other.tally"
    fill(other, events, b"another ledger")
    path = folder / "genuine.tally"
    return Scene(path, fill(path, events, b"the ledger"), other)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return scene(tmp_path_factory.mktemp("small"), EVENTS)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return scene(tmp_path_factory.mktemp("large"), LARGE_EVENTS)


# -- what is said ---------------------------------------------------------------------------------


def look(path: Path, expect: Head | None = None, jobs: int = 1) -> Report | TallyError:
    """Verification of a file, whatever its event 1 is; what could not look is returned."""
    try:
        with closing(SQLiteStore(path, read_only=True)) as store:
            return verify(store, expect=expect, kept=read_head_file(path), jobs=jobs, path=path)
    except TallyError as error:
        return error


def look_as_app(path: Path, expect: Head | None = None) -> Report | TallyError:
    """The same, the way that an app does it."""
    try:
        with Ledger.open(path, read_only=True) as ledger:
            return ledger.verify(expect)
    except TallyError as error:
        return error


def assert_says(answer: Report | TallyError, says: M.Says, k: int, last: int) -> None:
    if says.error is not None:
        assert isinstance(answer, says.error), answer
        return
    assert isinstance(answer, Report), answer
    if says.problem is None:
        assert answer.verdict is Verdict.UNANCHORED, answer
        return
    assert answer.verdict is Verdict.BROKEN
    assert answer.finding is not None
    assert (answer.finding.problem, answer.finding.seq) == (says.problem, says.at(k, last)), answer


def settings(manipulation: M.Manipulation) -> Iterator[tuple[str, M.Says]]:
    yield "alone", manipulation.alone
    yield "kept", manipulation.kept or manipulation.alone
    yield "expected", manipulation.expected or manipulation.alone


CASES = [(manipulation, *pair) for manipulation in MANIPULATIONS for pair in settings(manipulation)]


@pytest.mark.parametrize(
    ("manipulation", "setting", "says"), CASES, ids=[f"{case[0].name}-{case[1]}" for case in CASES]
)
def test_each_manipulation_is_named_at_its_event(
    manipulation: M.Manipulation, setting: str, says: M.Says, small: Scene, tmp_path: Path
) -> None:
    """Invariant: what was altered is found, with the right word at the right event; never VERIFIED."""
    path = tmp_path / "agents.tally"
    small.attack(manipulation, path, TARGET, head_file=setting == "kept")
    expect = small.head if setting == "expected" else None
    answer = look(path, expect)
    assert_says(answer, says, TARGET, EVENTS)
    as_app = look_as_app(path, expect)
    if isinstance(as_app, Report):
        assert as_app == answer
    else:  # an app cannot open what has no readable event 1
        assert isinstance(answer, TallyError) or (answer.finding is not None and answer.finding.seq == 1)


@pytest.mark.parametrize(
    ("manipulation", "setting", "says"), CASES, ids=[f"{case[0].name}-{case[1]}" for case in CASES]
)
def test_the_second_verifier_says_the_same(
    manipulation: M.Manipulation,
    setting: str,
    says: M.Says,
    small: Scene,
    tmp_path: Path,
) -> None:
    """Two verifiers that share no code find the same word at the same event."""
    if manipulation.name in ("view", "doubled", "unmarked", "user_version"):
        pytest.skip("what marks a file as a ledger is no matter of the format's verifier")
    path = tmp_path / "agents.tally"
    second_verifier = verifier()
    small.attack(manipulation, path, TARGET, head_file=setting == "kept")
    anchor = second_verifier.parse_head("expected", str(small.head)) if setting == "expected" else None
    try:
        second_verifier.verify(str(path), anchor)
        found = None
    except second_verifier.Finding as finding:
        found = (finding.word, finding.seq)
    except second_verifier.CannotLook:
        found = ("could not look", 0)
    if says.error is not None:
        assert found == ("could not look", 0)
    else:
        assert found == (says.problem and (says.problem.value, says.at(TARGET, EVENTS)))


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_untouched_copy_is_sound(small: Scene, large: Scene, jobs: int, tmp_path: Path) -> None:
    """No false alarm: the copy as it is gets UNANCHORED alone and VERIFIED with its head."""
    for number, source in enumerate((small, large)):
        path = tmp_path / f"{number}.tally"
        source.copy(path, head_file=True)
        alone, anchored = look(path, jobs=jobs), look(path, source.head, jobs=jobs)
        assert isinstance(alone, Report) and isinstance(anchored, Report)
        assert (alone.verdict, anchored.verdict) == (Verdict.UNANCHORED, Verdict.VERIFIED)
        assert anchored.head == source.head and anchored.erased == 1


# The last event of the first process's span, the first of the second's, one in the middle of it, the
# last but one of all.
PLACES = (1201, 1202, 2001, LARGE_EVENTS - 1)
QUICK_LARGE = [
    ("body", 1201), ("deleted", 1202), ("swapped", 1201), ("nulled", 2001), ("record_uneven", 2001),
    ("seq_highest", 2001), ("erased_properly", 1202), ("record_erased", 2001),
]  # fmt: skip


@pytest.mark.parametrize(("name", "k"), QUICK_LARGE, ids=str)
def test_processes_find_the_same(name: str, k: int, large: Scene, tmp_path: Path) -> None:
    """Invariant: several processes say what one says, also where their spans meet."""
    compare_jobs(BY_NAME[name], k, large, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("k", PLACES)
@pytest.mark.parametrize("manipulation", MANIPULATIONS, ids=lambda manipulation: manipulation.name)
def test_processes_find_the_same_everywhere(
    manipulation: M.Manipulation, k: int, large: Scene, tmp_path: Path
) -> None:
    """The same for every manipulation at every place."""
    compare_jobs(manipulation, k, large, tmp_path)


def compare_jobs(manipulation: M.Manipulation, k: int, large: Scene, tmp_path: Path) -> None:
    path = tmp_path / "agents.tally"
    large.attack(manipulation, path, k, head_file=False)
    one, three = (look(path, large.head, jobs=jobs) for jobs in (1, 3))
    assert_says(one, manipulation.expected or manipulation.alone, k, LARGE_EVENTS)
    if isinstance(one, Report):
        assert isinstance(three, Report), three
        assert three.verdict == one.verdict
        findings = [finding and (finding.seq, finding.problem) for finding in (one.finding, three.finding)]
        assert findings[0] == findings[1]
    else:
        assert isinstance(three, TallyError), three


@pytest.mark.parametrize("name", ["deleted_first", "first_kind", "deleted_all"])
def test_the_command_says_broken_also_at_event_1(name: str, small: Scene, tmp_path: Path) -> None:
    """Invariant: the command ends in the same word as the library, also where event 1 is unreadable."""
    path = tmp_path / "agents.tally"
    small.attack(BY_NAME[name], path, TARGET, head_file=False)
    command = [sys.executable, "-m", "tallystick", "-f", str(path), "verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.startswith("BROKEN at event 1")) == (1, True), done


# -- readers and indexes ------------------------------------------------------------------------------


def test_an_index_cannot_show_what_the_table_does_not_hold(small: Scene, tmp_path: Path) -> None:
    """Invariant: readers get the bytes that verification covers, not an index's copy of others."""
    path = tmp_path / "agents.tally"
    small.copy(path, head_file=False)
    plain = Plain(path, small.other)
    genuine = plain.row(TARGET)
    plain.set(TARGET, body=M.SHADOW)
    others = ", ".join(name for name in COLUMNS if name not in ("stream", "seq", "key"))
    plain.db.execute(f"CREATE INDEX forged ON events (stream, seq, key, {others})")
    plain.db.execute(f"CREATE INDEX forged_too ON events (key, seq, stream, {others})")
    kept = plain.db.execute("SELECT * FROM sqlite_schema WHERE name LIKE 'forged%'").fetchall()
    plain.db.execute("PRAGMA writable_schema = ON")
    plain.db.execute("DELETE FROM sqlite_schema WHERE name LIKE 'forged%'")
    plain.close()
    plain = Plain(path, small.other)  # which does not know of the indexes, nor keep them up to date
    plain.set(TARGET, body=genuine["body"])
    plain.db.execute("PRAGMA writable_schema = ON")
    plain.db.executemany("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", kept)
    plain.close()
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.verify(small.head).verdict is Verdict.VERIFIED
        streamed = [event for event in ledger.read(stream=genuine["stream"]) if event.seq == TARGET]
        assert [event.body for event in streamed] == [{"n": TARGET}]
        by_key = ledger._store.find_key(genuine["key"])
        assert by_key is not None and by_key.body == genuine["body"]
        assert [event.body for event in ledger.read(kinds=["order.*"]) if event.seq == TARGET] == [
            {"n": TARGET}
        ]


def test_an_index_can_hide_an_event_from_a_search(small: Scene, tmp_path: Path) -> None:
    """What the page says of indexes: a forged one hides an event from searches, and nothing else."""
    path = tmp_path / "agents.tally"
    small.copy(path, head_file=False)
    plain = Plain(path, small.other)
    genuine = plain.row(TARGET)
    plain.set(TARGET, stream="hidden")
    index = plain.db.execute("SELECT * FROM sqlite_schema WHERE name = 'events_by_stream'").fetchall()
    plain.db.execute("PRAGMA writable_schema = ON")
    plain.db.execute("DELETE FROM sqlite_schema WHERE name = 'events_by_stream'")
    plain.close()
    plain = Plain(path, small.other)
    plain.set(TARGET, stream=genuine["stream"])
    plain.db.execute("PRAGMA writable_schema = ON")
    plain.db.executemany("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", index)
    plain.close()

    def found() -> tuple[bool, bool]:
        with Ledger.open(path, read_only=True) as ledger:
            assert ledger.verify(small.head).verdict is Verdict.VERIFIED
            assert not list(ledger.read(stream="hidden"))
            searched, read = ledger.read(stream=genuine["stream"]), ledger.read()
            return any(e.seq == TARGET for e in searched), any(e.seq == TARGET for e in read)

    assert found() == (False, True)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]
        db.execute("REINDEX")
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert found() == (True, True)


# -- the guards -----------------------------------------------------------------------------------------

FOLLOWS = (
    "INSERT INTO events SELECT {seq}, at, kind, stream, {key}, meta, salt, body, body_hash, {prev}, hash "
    "FROM events WHERE seq = {of}"
)
REPLACES = (
    "INSERT OR REPLACE INTO events SELECT seq, at, 'a.b', stream, NULL, meta, salt, body, body_hash, "
    "prev_hash, hash FROM events WHERE seq = {of}"
)
LAST_HASH = f"(SELECT hash FROM events WHERE seq = {EVENTS})"
GUARDED = {
    "update of a body": "UPDATE events SET body = x'7b7d' WHERE seq = 7",
    "update of a time": "UPDATE events SET at = at + 1 WHERE seq = 7",
    "update of every row": "UPDATE events SET kind = 'a.b'",
    "update or replace": "UPDATE OR REPLACE events SET seq = 8 WHERE seq = 7",
    "renumbering": "UPDATE events SET seq = 99 WHERE seq = 12",
    "delete": "DELETE FROM events WHERE seq = 7",
    "delete of the last": "DELETE FROM events WHERE seq = 12",
    "delete of all": "DELETE FROM events",
    "replacing the last": REPLACES.format(of=12),
    "replacing one in the middle": REPLACES.format(of=7),
    "replacing the first": "REPLACE INTO events SELECT * FROM events WHERE seq = 1",
    "replacing by key": "INSERT OR REPLACE INTO events SELECT 13, at, kind, stream, key, meta, salt, body, "
    f"body_hash, {LAST_HASH}, hash FROM events WHERE seq = 7",
    "upsert": "INSERT INTO events SELECT * FROM events WHERE seq = 12 ON CONFLICT DO UPDATE SET kind = 'a.b'",
    "insert or ignore after a gap": FOLLOWS.format(seq=14, key="NULL", prev=LAST_HASH, of=12),
    "insert in the past": FOLLOWS.format(seq=0, key="NULL", prev=LAST_HASH, of=12),
    "insert with the wrong link": FOLLOWS.format(seq=13, key="NULL", prev="prev_hash", of=12),
    "insert without a link": FOLLOWS.format(seq=13, key="NULL", prev="zeroblob(32)", of=12),
    "insert with a used key": FOLLOWS.format(seq=13, key="key", prev=LAST_HASH, of=7),
    "emptying a body without record": "UPDATE events SET body = NULL, salt = NULL WHERE seq = 7",
    "emptying a body and leaving the salt": "UPDATE events SET body = NULL WHERE seq = 7",
    "emptying the record": "UPDATE events SET body = NULL, salt = NULL WHERE seq = 8",
    "emptying event 1": "UPDATE events SET body = NULL, salt = NULL WHERE seq = 1",
    "putting a body back": "UPDATE events SET body = x'7b7d', salt = zeroblob(16) WHERE seq = 4",
}


@pytest.mark.parametrize("sql", GUARDED.values(), ids=GUARDED)
def test_the_guards_refuse_it(sql: str, small: Scene, tmp_path: Path) -> None:
    """Invariant: with the guards in place, other programs cannot do it by accident."""
    path = tmp_path / "agents.tally"
    small.copy(path, head_file=True)
    for recursive in ("OFF", "ON"):  # REPLACE fires DELETE triggers only with ON
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA recursive_triggers = {recursive}")
            with pytest.raises(sqlite3.IntegrityError):
                db.execute(sql)
            db.rollback()
    answer = look(path, small.head)
    assert isinstance(answer, Report) and answer.verdict is Verdict.VERIFIED


# -- the page ---------------------------------------------------------------------------------------------

INTRO = """\
# What a manipulated ledger looks like

<!-- Written by tests/attacks/test_tampering.py, which does all of this to a ledger. Do not edit. -->

This page is for whoever holds a ledger that does not verify, or wonders what a green answer is worth.
It lists manipulations and what verification says to each: a word, and the first event that is wrong.
The tests do every one of them to a real ledger with plain SQL, after dropping the guards, and check
the answer of this page, with one process and with several, and with a second verifier that was
written from the format alone.

## First things first

1. **Copy before you look.** Copy the ledger, its `-wal` file and its `.head` file together, while no
   program has it open, and work on the copy. SQLite tidies up files that it opens.
2. **Verify the copy with a head from outside**: one that was sent to a ticket, a mail, another
   machine or a print-out before the incident. Without one the best possible answer is UNANCHORED.
3. **Read the first finding.** Verification stops there; what comes after it was not judged. The events
   before it are in order, and with an expected head of before the incident they are proven.
4. **Compare with a backup** from the event of the finding on, to see what it said before.

## The words

{words}

A flipped bit or a damaged page shows as `edited` or `malformed`, or as an error that says that the file
could not be read. *Could not look* is never a pass.

## The manipulations

"""

OUTSIDE = """\
## What nothing but an outside anchor can show

The chain has no secret in it. Whoever can write the file can also compute hashes, and the head file
lies beside the ledger where the same hand reaches it. So these leave a file that is in order, and the
answer is UNANCHORED, which says no more than that: nothing was found, nothing vouches for the end.

{rows}

An anchor is a head line kept where those who can write the ledger cannot change it. It proves every
event up to the one that it names. What came after it rests on whoever could write since, so take one
as often as the loss of that stretch would matter.

Two things no anchor shows, because they are what a ledger is for: an event appended after the anchor
by somebody who had access, and an erasure with its record. Both are there to be read.

## What the guards refuse

Triggers in the file refuse these statements of other programs. They are rails against accidents:
whoever means it drops them first, and everything above was done without them.

{guards}

## What verification does not look at

- **Indexes.** Readers take every column from the table that verification covers, so an index cannot
  show a reader another content. A damaged or forged index can still *hide* an event from a search by
  stream or by key. `PRAGMA integrity_check` finds that, `REINDEX` mends it, and a full read of the
  ledger never uses an index.
- **Triggers of other programs.** They are no events, and what one of them keeps from being stored
  leaves no gap. The append notices: an event that is dropped or altered on its way into the file gets
  no receipt but an error, `Interfered`. `tally doctor` names every trigger that does not belong here.
- **A file taken from under its writer**, moved, removed or replaced: what is at the path verifies, or
  not, as what it is. The writer looks once a second, while it appends, whether its file is still there,
  and when it closes; then it stops with `LedgerMoved`, which names the events that may be nowhere else.
  Likewise for the write-ahead log beside the file (`LogRemoved`); closing saves what was in it where nobody
  else has written since.
- **Whether the record is true**, who wrote it, and when. `at` is what the writer's clock said.
"""


WORDS = [
    (M.EDITED, "this event does not match its own hashes, or a head names another hash for it",
        "an UPDATE; with a head: a log computed anew, here or before"),
    (M.GAP, "this event is missing and a later one is there", "a DELETE"),
    (M.REORDERED, "a genuine event stands in another's place", "rows renumbered after a DELETE or an INSERT"),
    (M.LINK, "this event is whole in itself and does not follow the one before",
        "this one or the one before replaced; rows of another ledger"),
    (M.ERASED_WITHOUT, "the body is gone and no later event says that it was erased",
        "a body emptied by hand"),
    (M.TRUNCATED, "the log ends before an event that a head names",
        "its end cut off; a lost `-wal` file; an old backup put back"),
    (M.MALFORMED, "no row of this format stands here, or row and erasure record contradict each other",
        "another program's INSERT; a damaged disk page; a body put back"),
]  # fmt: skip


def render() -> str:
    """The page, from the table."""
    words = [f"| `{word.value}` | {tells} | {suspects} |" for word, tells, suspects in WORDS]
    head = "| word | what it tells you | usual suspects |\n|---|---|---|\n"
    parts = [INTRO.format(words=head + "\n".join(words))]
    parts.append(
        f"The examples are about event {TARGET} of a ledger of {EVENTS} events, in which event "
        f"{ERASED} was erased\nand event {RECORD} is the record of that. Where it matters, the answer "
        "is given three times:\n"
        "*alone*, with the *head file* of before, and with the *expected head* of before, kept elsewhere.\n\n"
    )
    for group in TABLE:
        parts.append(
            f"### {group.title}\n\n{group.intro}\n\n| what was done | answer | why |\n|---|---|---|\n"
        )
        parts += [f"| {each.done} | {answer(each)} | {each.why} |\n" for each in group.manipulations]
        parts.append("\n")
    hidden = [each for each in MANIPULATIONS if each.alone == M.NOTHING]
    rows = "\n".join(f"- {each.done}: {with_head(each)}" for each in hidden)
    guards = "\n".join(
        f"- {name}: `{sql}`" if len(sql) < 90 else f"- {name}" for name, sql in GUARDED.items()
    )
    parts.append(OUTSIDE.format(rows=rows, guards=guards))
    return "".join(parts)


def phrase(says: M.Says) -> str:
    if says.error is not None:
        return f"could not look (`{says.error.__name__}`)"
    if says.problem is None:
        return "UNANCHORED"
    return f"`{says.problem.value}` at {says.at(TARGET, EVENTS)}"


def answer(manipulation: M.Manipulation) -> str:
    phrases = [phrase(says) for _, says in settings(manipulation)]
    if len(set(phrases)) == 1:
        return phrases[0]
    names = ("alone", "head file", "expected head")
    return "<br>".join(f"{name}: {said}" for name, said in zip(names, phrases, strict=True))


def with_head(manipulation: M.Manipulation) -> str:
    said = [phrase(says) for _, says in settings(manipulation)]
    if said[2] == "UNANCHORED":
        return "UNANCHORED also then; the answer says up to which event the anchor vouches."
    alone = " The head file says so, too." if said[1] == said[2] else " The head file was altered as well."
    return f"an expected head says {said[2]}.{alone}"


def test_the_page_is_up_to_date() -> None:
    """`docs/tampering.md` says what the table above says, which the tests hold true."""
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run: python tests/attacks/test_tampering.py > docs/tampering.md"
    )


if __name__ == "__main__":
    sys.stdout.write(render())
