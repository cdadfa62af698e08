"""init and append."""

import gzip
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ledger_files import bodies

from tallystick import Ledger
from tallystick.cli import lines
from tallystick.ledger.kinds import RESERVED_AREAS


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
    os.set_blocking(parent, False)
    assert command.stdin is not None
    shown, number = "", 0
    while "appending" not in shown:
        assert number < 500, shown
        command.stdin.write(numbered(number))
        command.stdin.flush()
        number += 1
        time.sleep(0.05)
        shown += sent_to(parent)
    out, _ = command.communicate()
    shown += sent_to(parent)
    os.close(parent)
    assert out.startswith(b"tally1:")
    assert shown.endswith(f"appended {number} events\r\n")


def sent_to(terminal: int) -> str:
    """What the terminal was sent since the last look."""
    sent = b""
    with suppress(OSError):  # nothing waits, or the other side is gone
        while piece := os.read(terminal, 1 << 16):
            sent += piece
    return sent.decode()
