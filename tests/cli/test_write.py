"""init, append, import and erase."""

import gzip
import importlib.util
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick import Ledger, Session, Views
from tallystick.cli import lines
from tallystick.ledger.kinds import RESERVED_AREAS

SCRIPT = Path(__file__).parents[2] / "docs" / "verify_ledger.py"


@pytest.fixture
def second_verifier(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[int, str]]:
    """What docs/verify_ledger.py says of a file, and with which status."""
    spec = importlib.util.spec_from_file_location("second_verifier", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)

    def look(name: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), name])
        capsys.readouterr()
        return module.main(), capsys.readouterr().out

    return look


def bodies(path: str | Path = "agents.tally") -> list[Any]:
    """The bodies of all events but ledger.created."""
    with Ledger.open(path, create=False, read_only=True) as ledger:
        return [event.body for event in ledger.read(1)]


def numbered(*numbers: int) -> bytes:
    return b"".join(b'{"kind":"a.b","body":%d}\n' % number for number in numbers)


# -- init ----------------------------------------------------------------------------------


def test_init_makes_a_ledger_once(tally: Callable[..., Any]) -> None:
    first = tally("init")
    assert first.status == 0
    assert first.err == "created agents.tally\nwrote policy.yml, a policy to start from\n"
    assert first.out.startswith("tally1:")
    again = tally("init", "--json")
    assert again.err == (
        "agents.tally is a ledger already; nothing was changed\n"
        "policy.yml is there already; it was left as it is\n"
    )
    assert again.json == {
        "path": "agents.tally",
        "head": first.out.strip(),
        "policy": "policy.yml",
        "policy_written": False,
    }


def test_init_writes_a_policy_to_start_from_and_never_over_another(tally: Callable[..., Any]) -> None:
    """D11."""
    tally("init")
    assert tally("policy", "validate", "policy.yml").status == 0
    Path("policy.yml").write_text("mine")
    assert tally("init", "-f", "other.tally").status == 0
    assert Path("policy.yml").read_text() == "mine"
    Path("policy.yml").unlink()
    assert tally("init", "--json").json["policy_written"] is True
    assert not list(Path().glob("*.tmp"))


def test_init_takes_an_empty_file_and_no_other(tally: Callable[..., Any]) -> None:
    Path("empty").touch()
    assert tally("init", "-f", "empty").status == 0
    Path("text").write_text("not a ledger")
    assert tally("init", "-f", "text").status == 3
    assert Path("text").read_text() == "not a ledger"


# -- append one ----------------------------------------------------------------------------


def test_append_prints_the_receipt(tally: Callable[..., Any]) -> None:
    first = tally("append", "order.shipped", '{"order": 81}', "--stream", "order:81", "--meta", '{"x": 1}')
    assert first.err == "created agents.tally\n"
    second = tally("append", "order.paid", "--actor", "bot", "--correlation", "case-1", "--json")
    assert (second.status, second.err) == (0, "")
    with Ledger.open("agents.tally", read_only=True) as ledger:
        shipped, paid = ledger.read(1)
        assert first.out == f"2:{shipped.hash.hex()}\n"
        assert second.json == {"seq": 3, "hash": paid.hash.hex(), "at": paid.at}
    assert (shipped.kind, shipped.stream, shipped.body, shipped.meta) == (
        "order.shipped",
        "order:81",
        {"order": 81},
        {"x": 1},
    )
    assert (paid.stream, paid.body, paid.meta) == ("main", {}, {"actor": "bot", "correlation": "case-1"})


@pytest.mark.usefixtures("orders")
def test_a_body_from_stdin(tally: Callable[..., Any]) -> None:
    assert tally("append", "a.b", "-", stdin=b'{"a": "\xc3\xa9"}\n').status == 0
    assert bodies()[-1] == {"a": "é"}
    bad = tally("append", "a.b", "-", stdin=b"\xff\xfe\x00")
    assert bad.status == 2
    assert bad.err.endswith("; send one JSON value\n")
    assert tally("append", "a.b", "-", stdin=b"").status == 2


@pytest.mark.usefixtures("orders")
def test_a_key_used_again(tally: Callable[..., Any]) -> None:
    first = tally("append", "a.b", "1", "--key", "k")
    again = tally("append", "a.b", "1", "--key", "k")
    assert again.out == first.out
    assert again.err == "key 'k' was used for this very event before; nothing was appended\n"
    other = tally("append", "a.b", "2", "--key", "k")
    assert other.status == 1
    assert "key 'k' was used by event 7 with another body" in other.err
    assert len(bodies()) == 6


@pytest.mark.usefixtures("orders")
def test_expect_holds_or_nothing_is_appended(tally: Callable[..., Any]) -> None:
    assert tally("append", "a.b", "--stream", "s", "--expect", "0").status == 0
    refused = tally("append", "a.b", "--stream", "s", "--expect", "0")
    assert refused.status == 1
    assert "expected its last event to be seq 0, found 7; nothing was appended" in refused.err
    assert tally("append", "a.b", "--stream", "s", "--expect", "7").status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["order"],
        ["a.b", "{"],
        ["a.b", "12345678901234567890"],
        ["a.b", "[" * 100 + "]" * 100],
        ["a.b", f'"{"x" * (1 << 20)}"'],
        ["a.b", "{}", "--stream", ""],
        ["a.b", "{}", "--stream", "x\x1b"],
        ["a.b", "{}", "--key", ""],
        ["a.b", "{}", "--actor", ""],
        ["a.b", "{}", "--correlation", ""],
        ["a.b", "{}", "--meta", ""],
        ["a.b", "{}", "--meta", "[]"],
        ["a.b", ""],
        ["\udcff.b"],
    ],
)
def test_a_bad_event_makes_no_ledger(tally: Callable[..., Any], tmp_path: Path, arguments: list[str]) -> None:
    result = tally("append", *arguments)
    assert result.status == 2
    assert result.err.startswith("tally: ")
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_the_words_that_are_reserved(tally: Callable[..., Any]) -> None:
    text = " ".join(tally("append", "--help").out.split())
    named = re.search(r"The first words (.+?) are for Tallystick's own recorders", text)
    assert named
    assert set(re.findall("[a-z]+", named[1])) - {"and"} == RESERVED_AREAS


# -- append many ---------------------------------------------------------------------------


def test_lines_with_every_field(tally: Callable[..., Any]) -> None:
    text = (
        '{"kind":"a.b","body":{"n":1},"stream":"s","key":"k","meta":{"m":1},"at":"2026-03-12T08:00:00Z"}\r\n'
        "\r\n   \n"
        '{"kind":"a.b","at":1773302400000001}\n'
        '{"at":"2026-03-12T09:00:00+01:00","kind":"a.b","body":null}'
    )
    result = tally("append", "--nl", "-", "--actor", "bot", stdin=text.encode())
    assert result.err == "created agents.tally\nappended 3 events\n"
    with Ledger.open("agents.tally", read_only=True) as ledger:
        assert result.out == f"{ledger.head()}\n"
        one, two, three = ledger.read(1)
    assert (one.body, one.stream, one.key, one.meta) == ({"n": 1}, "s", "k", {"m": 1, "actor": "bot"})
    assert (one.at, two.at, three.at) == (1773302400000000, 1773302400000001, 1773302400000000)
    assert (two.body, two.meta, three.body) == ({}, {"actor": "bot"}, None)


@pytest.mark.parametrize("source", ["plain", "zipped", "stdin", "with a byte order mark"])
def test_lines_from_anywhere(tally: Callable[..., Any], source: str) -> None:
    text = numbered(1, 2)
    stdin = text if source == "stdin" else b""
    if source == "with a byte order mark":
        text = b"\xef\xbb\xbf" + text
    Path("lines").write_bytes(gzip.compress(text) if source == "zipped" else text)
    result = tally("append", "--nl", "-" if stdin else "lines", "--json", stdin=stdin)
    assert result.status == 0, result
    assert bodies() == [1, 2]
    assert result.json["appended"] == 2
    assert result.json["known"] == 0


def test_no_lines_at_all(tally: Callable[..., Any]) -> None:
    assert tally("append", "--nl", "-", stdin=b"\n").err == "created agents.tally\nnothing was appended\n"


BAD = {
    "no JSON": (b'{"kind":"a.b"', "not JSON ("),
    "no UTF-8": (b'{"kind":"a.b","body":"\xff"}', "not JSON ("),
    "binary": (bytes(range(256)).replace(b"\n", b""), "not JSON ("),
    "too deep": (b'{"kind":"a.b","body":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON ("),
    "an array": (b"[1]", "expected an object with kind and body, got list"),
    "no kind": (b'{"body":1}', "kind: missing"),
    "a bad kind": (b'{"kind":"A"}', "kind: 'A' is no kind"),
    "a reserved kind": (b'{"kind":"ledger.created"}', "reserved"),
    "an unknown field": (b'{"kind":"a.b","bdy":1}', "bdy: unknown field"),
    "a bad body": (b'{"kind":"a.b","body":{"a":[1,12345678901234567890]}}', "body.a[1]: the integer"),
    "a large body": (b'{"kind":"a.b","body":"%b"}' % (b"x" * (1 << 20)), "body: 1,048,578 bytes of JSON"),
    "a bad time": (b'{"kind":"a.b","at":"2026-13-01"}', "at: '2026-13-01' is no ISO 8601 time"),
    "a time without a zone": (
        b'{"kind":"a.b","at":"2026-03-12T08:00:00"}',
        "at: '2026-03-12T08:00:00' names no time zone; add Z for UTC, or +01:00",
    ),
    "a date": (b'{"kind":"a.b","at":"2026-03-12"}', "at: '2026-03-12' names no time zone"),
    "a number out of range": (b'{"kind":"a.b","body":[1e999]}', "not JSON (number out of range)"),
    "a time out of range": (b'{"kind":"a.b","at":9223372036854775808}', "at: "),
    "a bad key": (b'{"kind":"a.b","key":"\\u001b"}', "key: '\\x1b' has a control character"),
    "bad meta": (b'{"kind":"a.b","meta":{"actor":1}}', "meta.actor: expected a string"),
}
#: Where the bad line stands among 2,500 lines, in chunks of 1,000.
PLACES = {"first": 1, "middle": 1500, "last of a chunk": 1000, "first of a chunk": 1001, "last": 2500}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_is_named(tally: Callable[..., Any], bad: str) -> None:
    line, problem = BAD[bad]
    result = tally("append", "--nl", "-", stdin=numbered(1, 2) + b"\n" + line + b"\n" + numbered(5))
    assert result.status == 2
    remark, error = result.err.splitlines()[-2:]
    assert remark == "appended 2 events, from the lines before the bad one"
    assert error.startswith("tally: standard input, line 4: ")
    assert problem in error
    assert len(error) < 500
    assert bodies() == [1, 2]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("bad", [b"{", b'{"kind":"a.b","key":"used","body":0}'], ids=["no JSON", "conflict"])
def test_the_lines_before_a_bad_one_are_appended(tally: Callable[..., Any], place: str, bad: bytes) -> None:
    tally("append", "other.thing", "--key", "used")
    at = PLACES[place]
    all_lines = numbered(*range(1, 2501)).splitlines()
    all_lines[at - 1] = bad
    Path("in.jsonl").write_bytes(b"\n".join(all_lines))
    result = tally("append", "--nl", "in.jsonl")
    assert result.status == (2 if bad == b"{" else 1)
    remark, error = result.err.splitlines()
    count = f"appended {at - 1:,} events, from the lines before the bad one"
    assert remark == ("nothing was appended" if at == 1 else count)
    assert error.startswith(f"tally: in.jsonl, line {at}: ")
    if bad != b"{":
        assert error.endswith("key 'used' was used by event 2 with another kind")
    assert bodies()[1:] == list(range(1, at))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("bad", [b"{", b'{"kind":"a.b","key":"used","body":0}'], ids=["no JSON", "conflict"])
def test_atomic_appends_all_or_nothing(tally: Callable[..., Any], place: str, bad: bytes) -> None:
    tally("append", "other.thing", "--key", "used")
    all_lines = numbered(*range(1, 2501)).splitlines()
    all_lines[PLACES[place] - 1] = bad
    result = tally("append", "--nl", "-", "--atomic", stdin=b"\n".join(all_lines))
    assert result.status == (2 if bad == b"{" else 1)
    remark, error = result.err.splitlines()
    assert remark == "nothing was appended"
    assert error.startswith(f"tally: standard input, line {PLACES[place]}: ")
    assert bodies() == [{}]
    assert tally("append", "--nl", "-", "--atomic", stdin=numbered(*range(2500))).status == 0
    assert bodies() == [{}, *range(2500)]


def test_keyed_lines_twice_in_a_row(tally: Callable[..., Any]) -> None:
    line = b'{"kind":"a.b","key":"k%d"}\n'
    text = line % 1 + line % 1 + line % 2 + line % 1 + line % 3
    assert tally("append", "--nl", "-", stdin=text).err.endswith("appended 3 events; 2 were there already\n")
    again = tally("append", "--nl", "-", stdin=text)
    assert again.err == "nothing was appended; 5 were there already\n"
    assert len(bodies()) == 3
    differing = line % 4 + b'{"kind":"a.b","key":"k4","body":1}\n'
    result = tally("append", "--nl", "-", stdin=differing)
    assert result.status == 1
    assert "line 2: key 'k4' was used by event 5 with another body" in result.err


def test_an_endless_line_is_refused(tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "EVENT_LINE_BYTES_MAX", 1000)
    monkeypatch.setattr(lines, "READ_BYTES", 100)
    result = tally("append", "--nl", "-", stdin=numbered(1) + b"x" * 5000)
    assert result.status == 2
    assert "line 2: longer than 0 MiB; one event a line" in result.err
    assert bodies() == [1]


@pytest.mark.parametrize("atomic", [[], ["--atomic"]])
def test_damaged_gzip_is_named(tally: Callable[..., Any], atomic: list[str]) -> None:
    whole = gzip.compress(numbered(*range(5000)))
    for damaged in (whole[: len(whole) // 2], whole[:-4] + bytes(4), whole[:1000] + bytes(99) + whole[1099:]):
        Path("in.gz").write_bytes(damaged)
        result = tally("append", "--nl", "in.gz", *atomic)
        assert result.status == 2
        assert ": the gzipped data is damaged here (" in result.err or "not JSON" in result.err
        if atomic:
            assert bodies() == []


def test_trouble_with_the_store_tells_what_is_in_it(
    tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tallystick.ledger.errors import Locked

    append_many = Ledger.append_many
    calls: list[int] = []

    def locked_later(self: Ledger, events: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise Locked("agents.tally", 30)
        return append_many(self, events, **options)

    monkeypatch.setattr(Ledger, "append_many", locked_later)
    result = tally("append", "--nl", "-", stdin=numbered(*range(2500)))
    assert result.status == 3
    stored = len(bodies())
    assert stored > 100
    assert result.err.splitlines()[-2] == f"appended {stored:,} events"
    assert "locked by another process" in result.err.splitlines()[-1]


def test_lines_are_appended_as_they_arrive(
    process: Callable[..., subprocess.Popen[bytes]], until: Callable[..., Any]
) -> None:
    command = process("append", "--nl", "-")
    assert command.stdin is not None
    command.stdin.write(numbered(1) + b'{"kind":"a.b",')
    command.stdin.flush()
    until(lambda: Path("agents.tally.head").exists() and bodies() == [1])
    command.stdin.write(b'"body":2}\n')
    command.stdin.flush()
    until(lambda: bodies() == [1, 2])
    _, err = command.communicate()
    assert command.returncode == 0
    assert err == b"created agents.tally\nappended 2 events\n"


def test_an_interrupt_keeps_and_counts_what_was_appended(
    process: Callable[..., subprocess.Popen[bytes]], until: Callable[..., Any]
) -> None:
    command = process("append", "--nl", "-")
    assert command.stdin is not None
    command.stdin.write(numbered(*range(3)))
    command.stdin.flush()
    until(lambda: Path("agents.tally.head").exists() and len(bodies()) == 3)
    command.send_signal(signal.SIGINT)
    command.wait(20)
    assert command.stderr is not None
    assert command.stderr.read() == b"created agents.tally\nappended 3 events\ntally: interrupted\n"
    assert command.returncode == 130


def test_progress_on_a_terminal_while_a_pipe_delivers() -> None:
    parent, child = pty.openpty()
    script = "import sys; from tallystick.cli import main; sys.exit(main())"
    command = subprocess.Popen(
        [sys.executable, "-c", script, "append", "--nl", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=child,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(child)
    assert command.stdin is not None
    for number in range(8):
        command.stdin.write(numbered(number))
        command.stdin.flush()
        time.sleep(0.15)
    out, _ = command.communicate()
    shown = os.read(parent, 1 << 16).decode()
    os.close(parent)
    assert out.startswith(b"tally1:")
    assert "appending" in shown
    assert shown.endswith("appended 8 events\r\n")


# -- import --------------------------------------------------------------------------------


@pytest.fixture
def exported(orders: Path) -> bytes:
    """An export with an erased body, meta, keys, text beyond ASCII and characters that are escaped."""
    with Ledger.open(orders) as ledger:
        ledger.append("a.b", {"t": "é 日本 \x1b[2J \x7f \x9b \u202e \u2028 😀 \U000e0041"}, stream="注文")
        ledger.erase(3, "asked for")
        return b"".join(line + b"\n" for line in ledger.export())


def test_export_and_import_are_inverses(tally: Callable[..., Any], exported: bytes) -> None:
    Path("log.jsonl").write_bytes(exported)
    result = tally("import", "log.jsonl", "copy.tally")
    assert result.status == 0, result
    assert result.err == "copy.tally: imported 8 events\n"
    head = tally("head").out
    assert result.out == head
    assert tally("export", "-f", "copy.tally", "-o", "again.jsonl").status == 0
    assert Path("again.jsonl").read_bytes() == exported
    assert tally("verify", "-f", "copy.tally", "--expect", head.strip()).status == 0
    assert exported.isascii() or b"\xc2\x9b" not in exported


@pytest.mark.parametrize(
    "source", ["zipped", "stdin", "stdin, zipped", "CRLF", "no newline at its end", "other program"]
)
def test_an_import_from_anywhere(tally: Callable[..., Any], exported: bytes, source: str) -> None:
    text = exported
    if source == "CRLF":
        text = exported.replace(b"\n", b"\r\n")
    elif source == "no newline at its end":
        text = exported.removesuffix(b"\n")
    elif source == "other program":
        events = [dict(reversed(json.loads(line).items())) for line in exported.splitlines()]
        text = "\n".join(
            json.dumps(event, indent=None, separators=(" , ", " : ")) for event in events
        ).encode()
    if "zipped" in source:
        text = gzip.compress(text)
    Path("log").write_bytes(text)
    name = "-" if "stdin" in source else "log"
    result = tally("import", name, "-f", "copy.tally", "--json", stdin=text)
    assert result.status == 0, result
    assert result.json["verdict"] == "UNANCHORED"
    assert result.json["events"] == 8
    assert result.json["head"] == tally("head").out.strip()
    tally("export", "-f", "copy.tally", "-o", "again.jsonl")
    assert Path("again.jsonl").read_bytes() == exported


def changed(line: bytes, **fields: Any) -> bytes:
    return json.dumps(json.loads(line) | fields).encode()


NO_EVENT = "BROKEN at event 4: malformed: line 4: no exported event ("
EMPTY = "BROKEN at event 4: malformed: line 4: is empty"
#: How line 4 of an export may be damaged, the status of the import, and what it says.
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "cut": (lambda line: line[:-10], 1, NO_EVENT),
    "no JSON": (lambda line: b"nonsense", 1, NO_EVENT),
    "no UTF-8": (lambda line: line.replace(b"order", b"\xff", 1), 1, NO_EVENT),
    "an array": (lambda line: b"[]", 1, NO_EVENT),
    "a name missing": (lambda line: line.replace(b'"meta"', b'"mate"'), 1, NO_EVENT),
    "a name twice": (
        lambda line: line[:-1] + b',"seq":4}',
        1,
        f"{NO_EVENT}a name stands in it",
    ),
    "a name too many": (lambda line: changed(line, more=1), 1, NO_EVENT),
    "a string for seq": (lambda line: changed(line, seq="4"), 1, NO_EVENT),
    "upper-case hex": (
        lambda line: changed(line, hash=json.loads(line)["hash"].upper()),
        1,
        f"{NO_EVENT}hash is not lower-case hex)",
    ),
    "odd hex": (lambda line: changed(line, salt="abc"), 1, NO_EVENT),
    "a short hash": (lambda line: changed(line, hash="ab"), 1, "BROKEN at event 4: malformed"),
    "half a surrogate": (lambda line: line.replace(b"Number", b"\\ud800"), 1, NO_EVENT),
    "body edited": (lambda line: line.replace(b"Number 3", b"Number 9"), 1, "BROKEN at event 4: edited"),
    "salt edited": (lambda line: changed(line, salt="00" * 16), 1, "BROKEN at event 4: edited"),
    "kind edited": (lambda line: changed(line, kind="a.c"), 1, "BROKEN at event 4: edited"),
    "stream edited": (lambda line: changed(line, stream="x"), 1, "BROKEN at event 4: edited"),
    "key edited": (lambda line: changed(line, key=None), 1, "BROKEN at event 4: edited"),
    "meta edited": (lambda line: changed(line, meta=None), 1, "BROKEN at event 4: edited"),
    "at edited": (lambda line: changed(line, at=1), 1, "BROKEN at event 4: edited"),
    "at too large": (lambda line: changed(line, at=1 << 70), 1, NO_EVENT),
    "seq too large": (lambda line: changed(line, seq=1 << 63), 1, NO_EVENT),
    "seq negative": (lambda line: changed(line, seq=-4), 1, "BROKEN at event 4: malformed"),
    "a bad kind": (lambda line: changed(line, kind="X"), 1, "BROKEN at event 4: malformed"),
    "link edited": (lambda line: changed(line, prev_hash="00" * 32), 1, "BROKEN at event 4: link broken"),
    "body erased without record": (
        lambda line: changed(line, body=None, salt=None),
        1,
        "BROKEN at event 4: erased without record",
    ),
    "an empty line": (lambda line: b"", 1, EMPTY),
    "an empty line too many": (lambda line: b" \r\n" + line, 1, EMPTY),
    "there twice": (lambda line: line + b"\n" + line, 1, "BROKEN at event 5: malformed"),
    "a nul after it": (lambda line: line + b"\0", 1, NO_EVENT),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_a_damaged_export_leaves_nothing(
    tally: Callable[..., Any],
    second_verifier: Callable[[str], tuple[int, str]],
    tmp_path: Path,
    orders: Path,
    damage: str,
    as_json: list[str],
) -> None:
    with Ledger.open(orders) as ledger:
        export = list(ledger.export())
    spoil, status, message = DAMAGE[damage]
    export[3] = spoil(export[3])
    Path("log.jsonl").write_bytes(b"\n".join(export))
    before = set(tmp_path.iterdir())
    result = tally("import", "log.jsonl", "copy.tally", *as_json)
    assert result.status == status, result
    assert result.err.startswith("tally: log.jsonl")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert set(tmp_path.iterdir()) == before
    assert result.err.endswith("; nothing was imported\n")
    assert (result.json["verdict"] if as_json else "BROKEN") == "BROKEN"
    found = re.search(r"BROKEN at event (\d+): ([a-z ]+): ", result.err)
    assert found
    said_status, said = second_verifier("log.jsonl")
    assert said_status == status
    assert said.startswith(f"BROKEN seq {found[1]}: {found[2]}: "), "both say the same"


def test_an_import_must_begin_at_the_beginning(tally: Callable[..., Any], exported: bytes) -> None:
    later = b"\n".join(exported.splitlines()[2:])
    for text, message in (
        (later, "BROKEN at event 1: gap: events 1 to 2 are missing"),
        (b"", "the log is empty"),
    ):
        result = tally("import", "-", "copy.tally", stdin=text)
        assert result.status == 1
        assert message in result.err
        assert not Path("copy.tally").exists()


def test_an_import_of_a_damaged_gzip_leaves_nothing(
    tally: Callable[..., Any],
    second_verifier: Callable[[str], tuple[int, str]],
    exported: bytes,
    tmp_path: Path,
) -> None:
    whole = gzip.compress(exported)
    before = set(tmp_path.iterdir()) | {tmp_path / "log.gz"}
    for damaged in (whole[:-100], whole[:-8] + bytes(8), whole[:200] + b"\xff" * 20 + whole[220:]):
        Path("log.gz").write_bytes(damaged)
        result = tally("import", "log.gz", "copy.tally")
        assert result.status == 1
        assert result.err.startswith("tally: log.gz: BROKEN at event ")
        assert result.err.endswith("; nothing was imported\n")
        assert second_verifier("log.gz")[0] == 1
        assert set(tmp_path.iterdir()) == before


def test_import_expects_a_head(tally: Callable[..., Any], orders: Path) -> None:
    head = tally("head").out.strip()
    with Ledger.open(orders) as ledger:
        whole = b"\n".join(ledger.export())
    cut = whole.rpartition(b"\n")[0]
    assert tally("import", "-", "part.tally", stdin=cut).status == 0
    result = tally("import", "-", "cut.tally", "--expect", head, stdin=cut)
    assert result.status == 1
    assert "BROKEN at event 6: truncated" in result.err
    wrong = head[:-64] + "0" * 64
    result = tally("import", "-", "wrong.tally", "--expect", wrong, stdin=whole)
    assert result.status == 1
    assert "BROKEN at event 6: edited" in result.err
    assert not list(Path().glob("cut.*")) + list(Path().glob("wrong.*"))
    result = tally("import", "-", "good.tally", "--expect", head, "--json", stdin=whole)
    assert result.json["verdict"] == "VERIFIED"


def test_an_import_never_replaces(tally: Callable[..., Any], exported: bytes) -> None:
    Path("mine").write_text("mine")
    assert tally("import", "-", "mine", stdin=exported).status == 2
    assert tally("import", "-", stdin=exported).status == 2  # agents.tally
    assert Path("mine").read_text() == "mine"
    os.symlink("nowhere", "dangling")
    result = tally("import", "-", "dangling", stdin=exported)
    assert result.status == 2
    assert result.err == "tally: dangling exists already; name a new file; see `tally import --help`\n"
    Path("x.tally.head").write_text("of a ledger that was moved away")
    assert tally("import", "-", "x.tally", stdin=exported).status == 2


def test_a_line_longer_than_any_is_no_finding(
    tally: Callable[..., Any], exported: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "EXPORT_LINE_BYTES_MAX", 200)
    result = tally("import", "-", "copy.tally", stdin=exported)
    assert result.status == 3
    assert "line 1 is longer than" in result.err
    assert not Path("copy.tally").exists()


def test_an_interrupted_import_leaves_nothing(
    process: Callable[..., subprocess.Popen[bytes]],
    exported: bytes,
    until: Callable[..., Any],
    tmp_path: Path,
) -> None:
    before = set(tmp_path.glob("*.tally*"))
    command = process("import", "-", "copy.tally")
    assert command.stdin is not None
    command.stdin.write(exported)
    command.stdin.flush()
    until(lambda: list(tmp_path.glob("copy.tally.*.tmp")))
    command.send_signal(signal.SIGINT)
    command.wait(20)
    assert command.returncode == 130
    assert set(tmp_path.glob("*.tally*")) == before


# -- erase ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("orders")
def test_erase_and_erase_again(tally: Callable[..., Any]) -> None:
    first = tally("erase", "3", "--reason", "asked for", "--yes")
    assert first.err == "erased the body of event 3; event 7 records it\n"
    again = tally("erase", "3", "--reason", "asked for", "--yes")
    assert again.err == "the body of event 3 was erased before; event 7 records it\n"
    assert again.out == first.out
    assert tally("erase", "4", "--reason", "x", "--yes", "--json").json["seq"] == 8
    assert bodies()[1] is None
    assert tally("verify").status == 0
    assert tally("erase", "2", "--reason", " ", "--yes").status == 2


def test_erase_is_forgotten_by_the_views_at_once(tally: Callable[..., Any]) -> None:
    with Ledger.open("agents.tally") as ledger, Session.start(ledger, label="a call") as session:
        session.message("user", "my pin is quetzalcoatl")
        seq = ledger.head().seq
    assert "quetzalcoatl" in tally("search", "pin").out.replace("[", "").replace("]", "")
    assert any(b"quetzalcoatl" in file.read_bytes() for file in Path().glob("agents.tally.views*"))
    assert tally("erase", str(seq), "--reason", "asked for", "--yes").status == 0
    assert not any(b"quetzalcoatl" in file.read_bytes() for file in Path().glob("agents.tally*"))


def test_erase_says_if_the_views_could_not_forget(tally: Callable[..., Any]) -> None:
    with Ledger.open("agents.tally") as ledger:
        ledger.append("note.kept", {"text": "x"})
    Path("agents.tally.views").write_text("something else")
    done = tally("erase", "2", "--reason", "asked for", "--yes")
    assert (done.status, done.out[:2]) == (3, "3:")
    assert "the views may still hold what was erased" in done.err


def test_erase_says_if_a_reader_keeps_the_text_in_the_views(tally: Callable[..., Any]) -> None:
    with Ledger.open("agents.tally") as ledger, Session.start(ledger, label="a call") as session:
        session.message("user", "my pin is quetzalcoatl")
        seq = ledger.head().seq
    tally("sessions")
    reader = sqlite3.connect("agents.tally.views", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM messages").fetchall()
    done = tally("erase", str(seq), "--reason", "asked for", "--yes")
    reader.close()
    assert (done.status, done.err.splitlines()[0]) == (
        3,
        f"erased the body of event {seq}; event {seq + 2} records it",
    )
    assert "another program is reading" in done.err.splitlines()[1]
    tally("sessions")
    assert not any(b"quetzalcoatl" in file.read_bytes() for file in Path().glob("agents.tally*"))


def test_erase_removes_the_copy_of_the_views_in_the_cache(
    tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
    with Ledger.open("agents.tally") as ledger:
        ledger.append("note.kept", {"text": "x"})
        ledger_id = ledger.head().ledger_id
        assert ledger_id is not None
        copy = Path("cache/tallystick") / f"{ledger_id.hex()}.views"
        copy.parent.mkdir(parents=True)
        with Views(ledger, path=copy) as views:
            views.catch_up()
    assert copy.exists()
    assert tally("erase", "2", "--reason", "asked for", "--yes").status == 0
    assert list(copy.parent.glob("*.views*")) == []


@pytest.mark.usefixtures("orders")
def test_erase_of_what_cannot_be_decoded(
    tally: Callable[..., Any], orders: Path, alter: Callable[..., None]
) -> None:
    alter(orders, 4, meta=b"no JSON")
    assert tally("erase", "4", "--reason", "x", "--yes").status == 0


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize(
    ("keys", "status", "said"),
    [(b"y\n", 0, "erased the body"), (b"n\n", 2, "nothing was erased"), (b"\x03", 130, "tally: interrupted")],
)
def test_erase_asks_on_a_terminal(
    terminal: Callable[..., tuple[int, str]], keys: bytes, status: int, said: str
) -> None:
    result, shown = terminal("erase", "3", "--reason", "x", after="[y/N]: ", keys=keys)
    assert result == status, shown
    assert "3  order.shipped  order:0  {" in shown
    assert f"\n{said}" in shown
    assert (bodies()[1] is None) == (status == 0)
