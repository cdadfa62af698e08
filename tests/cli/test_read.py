"""log, show, tail and export."""

import gzip
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick import Ledger
from tallystick.cli import read

#: What a terminal might act on: escape sequences of both kinds, a bell, a carriage return, direction marks.
HOSTILE = "\x1b[2J\x1b]0;title\x07\r\x9b31m\x7f\u202e\u2066\u200f\u2028\x00end"


def seqs(result: Any) -> list[int]:
    """The seqs of a listing in a pipe."""
    assert result.status == 0, result
    return [int(line.split("\t")[0]) for line in result.out.splitlines()]


# -- log -----------------------------------------------------------------------------------


def test_log_in_a_pipe_is_separated_by_tabs_and_whole(tally: Callable[..., Any], orders: Path) -> None:
    result = tally("log", "-n", "2")
    assert result.out == (
        '6\t2026-01-01 00:05:00.000Z\torder.placed\torder:1\t{"note":"Number 5","order":5}\n'
        '5\t2026-01-01 00:04:00.000Z\torder.shipped\torder:0\t{"note":"Number 4","order":4}\n'
    )
    assert result.err == "… and more; -n 0 lists all, -n N the first N (now 2)\n"
    with Ledger.open(orders) as ledger:
        ledger.append_many({"kind": "a.b"} for _ in range(100))
    assert seqs(tally("log")) == list(range(106, 0, -1))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--oldest-first", [1, 2, 3, 4, 5, 6]),
        ("-n 0", [6, 5, 4, 3, 2, 1]),
        ("--kind order.placed", [6, 4, 2]),
        ("--kind order.* --kind ledger.*", [6, 5, 4, 3, 2, 1]),
        ("--kind no.such", []),
        ("--kind *", [6, 5, 4, 3, 2, 1]),
        ("--kind order.[p-s]*", [6, 5, 4, 3, 2]),
        ("--kind ?rder.[^p]*", [5, 3]),
        ("--stream order:0", [5, 3]),
        ("--stream order:0 --kind order.placed", []),
        ("--stream nosuch", []),
        ("--range 2:3", [3, 2]),
        ("--range 4", [4]),
        ("--range :2", [2, 1]),
        ("--range 5:", [6, 5]),
        ("--range 5:99999", [6, 5]),
        ("--range 999999999999999999:", []),
        ("--text NUMBER --oldest-first", [2, 3, 4, 5, 6]),
        ("--text BOT --range 2", [2]),
        ("--text nosuch", []),
        ("--since 2026-01-01T00:03Z --until 2026-01-01T00:05Z", [5, 4]),
        ("--until 2026-01-01T01:02+01:00", [2]),
        ("--since 1h", [1]),
    ],
)
@pytest.mark.usefixtures("orders")
def test_log_shows_what_was_asked_for(tally: Callable[..., Any], arguments: str, expected: list[int]) -> None:
    assert seqs(tally("log", *arguments.split())) == expected


@pytest.mark.usefixtures("orders")
def test_a_kind_that_is_empty_is_refused(tally: Callable[..., Any]) -> None:
    result = tally("log", "--kind", "")
    assert result.status == 2
    assert "'' matches no kind" in result.err


def test_log_as_json(tally: Callable[..., Any], orders: Path) -> None:
    events = tally("log", "--nl").lines
    assert [event["seq"] for event in events] == [6, 5, 4, 3, 2, 1]
    assert tally("log", "--json").json == events
    assert tally("log", "--json", "-n", "2").json == events[:2]
    assert tally("log", "--json", "--kind", "no.such").out == "[]\n"
    assert tally("show", "3", "--json").json == events[3]
    assert list(tally("tail", "--nl").lines) == events[::-1]
    with Ledger.open(orders, read_only=True) as ledger:
        event = ledger.get(3)
    assert events[3] == {
        "seq": 3,
        "time": "2026-01-01T00:02:00.000Z",
        "at": event.at,
        "kind": "order.shipped",
        "stream": "order:0",
        "key": "key-2",
        "meta": {"actor": "bot"},
        "body": {"order": 2, "note": "Number 2"},
        "erased": False,
        "body_hash": event.body_hash.hex(),
        "prev_hash": event.prev_hash.hex(),
        "hash": event.hash.hex(),
    }


def test_a_time_that_no_calendar_has(tally: Callable[..., Any], orders: Path) -> None:
    with Ledger.open(orders) as ledger:
        ledger.append("a.b", at=1 << 62)
        ledger.append("a.b", at=-62_135_596_800_000_000)
    assert tally("log", "--range", "7").out.split("\t")[1] == "4611686018427387904 µs"
    assert tally("show", "7", "--json").json["time"] is None
    assert tally("show", "8", "--json").json["time"] == "0001-01-01T00:00:00.000Z"


def test_log_on_a_terminal(terminal: Callable[..., tuple[int, str]], orders: Path) -> None:
    with Ledger.open(orders) as ledger:
        ledger.append_many(
            {"kind": "wide.text", "stream": "注文" * 20, "body": {"t": "荷" * 99}} for _ in range(40)
        )
    status, shown = terminal("log", NO_COLOR="1")
    assert status == 0
    heading, *rows, remark = shown.splitlines()
    assert heading == "seq  time (UTC)           kind       stream                body"
    assert len(rows) == 30
    assert rows[0].startswith(" 46  20")
    assert all("  wide.text  注文注文注文注文注…" in row and row.endswith("…") for row in rows)
    assert remark == "… and more; -n 0 lists all, -n N the first N (now 30)"
    for columns in (80, 200):
        _, shown = terminal("log", "-n", "0", NO_COLOR="1", columns=columns)
        widths = [sum(2 if ord(c) > 0x2FFF else 1 for c in line) for line in shown.splitlines()]
        assert len(widths) == 47
        assert max(widths) <= columns
    assert re.search(r"\n  2  2026-01-01 00:01:00  order.placed    order:1 +\{", shown)
    for columns, time in ((60, "01-01 00:01:00"), (40, "01-01 00:01:00")):
        _, shown = terminal("log", "--range", "2", NO_COLOR="1", columns=columns)
        assert re.search(rf"\n +2  {time}  order\.", shown), "a time is never cut"
        assert max(map(len, shown.splitlines())) <= columns
    _, shown = terminal("log", "-n", "1")
    assert shown.startswith("\x1b[1mseq  time (UTC)")
    assert "\x1b" not in terminal("log", "-n", "1", TERM="dumb")[1]


# -- hostile text --------------------------------------------------------------------------


@pytest.fixture
def hostile(orders: Path, alter: Callable[..., None]) -> Path:
    """A ledger with hostile text everywhere: in a body and meta by an app, elsewhere by a tamperer."""
    with Ledger.open(orders) as ledger:
        ledger.append("a.b", {HOSTILE: [HOSTILE]}, meta={HOSTILE: HOSTILE, "actor": HOSTILE})
        ledger.erase(3, HOSTILE)
    alter(orders, 2, kind=f"a.{HOSTILE}", stream=HOSTILE, key=HOSTILE)
    alter(orders, 4, body=HOSTILE.encode())
    return orders


COMMANDS = [
    "log",
    "log --json",
    "log --nl",
    "tail",
    "tail --nl",
    "show 2",
    "show 4",
    "show 7",
    "show 8",
    "show 7 --json",
    "show 4 --json",
    "stats",
    "stats --json",
    "export",
    "verify",
    "erase 2 --reason x",
]


def test_nothing_in_a_ledger_moves_the_cursor(
    terminal_for_all: Callable[..., dict[str, str]], tally: Callable[..., Any], hostile: Path
) -> None:
    everything = terminal_for_all(COMMANDS, NO_COLOR="1", columns=2000, after="[y/N]", keys=b"n\n")
    for arguments, shown in everything.items():
        shown = shown.replace("\x1b[?25h", "")
        assert "end" in shown or arguments in ("verify", "log --json")
        assert [c for c in shown if not c.isprintable() and c != "\n"] == [], arguments
        piped = tally(*arguments.split())
        assert [c for c in piped.out + piped.err if not c.isprintable() and c not in "\n\t"] == [], arguments


def test_json_says_the_same_though_escaped(tally: Callable[..., Any], orders: Path) -> None:
    with Ledger.open(orders) as ledger:
        ledger.append("a.b", {HOSTILE: "\U000e0041 é 日 \xa0 \u3000"})
    assert tally("show", "7", "--json").json["body"] == {HOSTILE: "\U000e0041 é 日 \xa0 \u3000"}
    out = tally("log", "--range", "7", "--nl").out
    assert json.loads(out)["body"] == {HOSTILE: "\U000e0041 é 日 \xa0 \u3000"}
    assert "\\udb40\\udc41 é 日 \xa0 \u3000" in out, "spaces and letters stay as they are"


# -- events that were altered --------------------------------------------------------------


@pytest.fixture
def altered(orders: Path, alter: Callable[..., None]) -> Path:
    """Events 3 and 6 cannot be decoded: one is no JSON, one no UTF-8."""
    alter(orders, 3, body=b"no JSON")
    alter(orders, 6, meta=b"\xff")
    return orders


@pytest.mark.usefixtures("altered")
@pytest.mark.parametrize("options", [["--nl"], []])
def test_an_altered_event_does_not_end_a_listing(tally: Callable[..., Any], options: list[str]) -> None:
    result = tally("log", *options)
    assert result.status == 1
    rows = [line["seq"] for line in result.lines] if options else [int(x[0]) for x in result.out.splitlines()]
    assert rows == [5, 4, 2, 1]
    six, three = result.err.splitlines()
    assert six.startswith("tally: event 6 cannot be decoded (")
    assert three.startswith("tally: event 3 cannot be decoded (JSON is malformed")
    assert "run `tally verify`" in result.err
    assert tally("log", "--range", "4:5").status == 0
    assert [event["seq"] for event in json.loads(tally("log", "--json").out)] == [5, 4, 2, 1]


@pytest.mark.usefixtures("altered")
def test_tail_names_an_altered_event(tally: Callable[..., Any]) -> None:
    last = tally("tail", "-n", "1")
    assert (last.status, last.out) == (1, "")
    assert "event 6 cannot be decoded" in last.err
    assert last.err.count("\n") == 1
    four = tally("tail", "-n", "4", "--nl")
    assert four.status == 1
    assert [event["seq"] for event in four.lines] == [4, 5]


@pytest.mark.usefixtures("altered")
def test_show_an_altered_event_as_it_is_stored(tally: Callable[..., Any]) -> None:
    result = tally("show", "3")
    assert result.status == 1
    assert "body\tno JSON\n" in result.out
    assert "key\tkey-2\n" in result.out
    assert "event 3 cannot be decoded" in result.err
    as_json = tally("show", "3", "--json")
    assert as_json.status == 1
    assert as_json.json["body"] == "no JSON"
    unreadable = tally("show", "6")
    assert unreadable.status == 1
    assert unreadable.err.startswith("tally: event 6 cannot be decoded (")


def test_meta_that_became_no_object(
    tally: Callable[..., Any], orders: Path, alter: Callable[..., None]
) -> None:
    alter(orders, 3, meta=b"[1]")
    assert "meta\t[1]\n" in tally("show", "3").out


@pytest.mark.usefixtures("altered")
def test_an_export_of_what_is_no_text_ends_there(tally: Callable[..., Any], tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    result = tally("export", "-o", "out.jsonl")
    assert result.status == 1
    assert "event 6 cannot be decoded" in result.err
    assert {path.name for path in tmp_path.iterdir()} - before <= {"agents.tally-shm", "agents.tally-wal"}
    assert tally("export", "-o", "out.jsonl", "--range", "1:5").status == 0


# -- what does not match its hashes ------------------------------------------------------------

EDITED = b'{"note":"Number 2","order":99}'


@pytest.mark.parametrize(
    "command",
    [
        ["log"],
        ["log", "--json"],
        ["log", "--nl", "--oldest-first"],
        ["log", "--text", "nowhere"],
        ["tail"],
        ["show", "3"],
        ["show", "3", "--json"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"body": EDITED}, "its body or salt does not match its body hash"),
        ({"at": 5}, "its columns do not match its hash"),
        ({"stream": "order:1"}, "its columns do not match its hash"),
        ({"key": "other"}, "its columns do not match its hash"),
        ({"meta": b'{"actor":"nobody"}'}, "its columns do not match its hash"),
        ({"body_hash": bytes(32)}, "its body or salt does not match its body hash"),
        ({"prev_hash": bytes(32)}, "its columns do not match its hash"),
    ],
    ids=str,
)
def test_an_altered_event_is_remarked_on(
    tally: Callable[..., Any],
    orders: Path,
    alter: Callable[..., None],
    command: list[str],
    columns: dict[str, Any],
    problem: str,
) -> None:
    sound = tally(*command)
    assert sound.status == 0
    alter(orders, 3, **columns)
    result = tally(*command)
    assert result.status == 1
    [said] = result.err.splitlines()
    assert said.startswith(f"tally: event 3: {problem}; ")
    assert said.endswith(": run `tally verify`")
    assert len(result.out.splitlines()) == len(sound.out.splitlines())


def test_an_erased_event_is_no_altered_one(tally: Callable[..., Any], orders: Path) -> None:
    tally("erase", "3", "--reason", "x", "--yes")
    for command in (["log"], ["show", "3"], ["tail"]):
        assert tally(*command)[::2] == (0, "")


def test_of_many_altered_events_some_are_named(
    tally: Callable[..., Any], tmp_path: Path, alter: Callable[..., None]
) -> None:
    path = tmp_path / "agents.tally"
    with Ledger.open(path) as ledger:
        ledger.append_many({"kind": "order.placed", "body": {"n": n}} for n in range(30))
    for seq in range(2, 32):
        alter(path, seq, body=EDITED)
    for command in (["log", "-n", "0"], ["tail", "-n", "40"]):
        result = tally(*command)
        assert (result.status, len(result.err.splitlines())) == (1, 21)
        assert result.err.splitlines()[-1] == "tally: and 10 events more that do not match their hashes"


# -- show ----------------------------------------------------------------------------------


def test_show_on_a_terminal_is_aligned(terminal: Callable[..., tuple[int, str]], orders: Path) -> None:
    status, shown = terminal("show", "3", NO_COLOR="1")
    assert status == 0
    assert shown.startswith(
        "event       3\ntime        2026-01-01 00:02:00.000Z\nkind        order.shipped\n"
        "stream      order:0\nkey         key-2\nmeta.actor  bot\nhash        "
    )
    assert shown.endswith('\n\n{\n  "note": "Number 2",\n  "order": 2\n}\n')
    assert terminal("show", "3")[1].startswith("\x1b[2mevent     \x1b[0m  3\n")


@pytest.mark.usefixtures("orders")
def test_show_an_erased_event(tally: Callable[..., Any]) -> None:
    tally("erase", "3", "--reason", "x", "--yes")
    assert tally("show", "3").out.endswith("\n\n(the body was erased)\n")
    assert tally("show", "3", "--json").json["erased"] is True
    assert tally("log", "--range", "3").out.endswith("\t(erased)\n")


# -- tail ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("orders")
def test_tail_shows_the_last_events(tally: Callable[..., Any]) -> None:
    assert seqs(tally("tail")) == [1, 2, 3, 4, 5, 6]
    assert seqs(tally("tail", "-n", "2")) == [5, 6]
    assert seqs(tally("tail", "-n", "0")) == []
    assert seqs(tally("tail", "-n", "99", "agents.tally")) == [1, 2, 3, 4, 5, 6]
    assert seqs(tally("tail", "-n", "2", "--kind", "order.placed")) == [4, 6]
    assert seqs(tally("tail", "-n", "1", "--stream", "order:0")) == [5]
    assert tally("tail", "-f", "nosuch").status == 3, "-f follows; the file is an argument"


def test_tail_follows(
    process: Callable[..., subprocess.Popen[bytes]], tally: Callable[..., Any], orders: Path
) -> None:
    command = process("tail", "-f", "agents.tally", "-n", "1", "--kind", "order.*")
    assert command.stdout is not None
    assert command.stdout.readline().startswith(b"6\t")
    process("append", "order.returned").communicate()
    assert b"\torder.returned\t" in command.stdout.readline()
    tally("append", "other.thing")
    tally("append", "order.lost")
    assert command.stdout.readline().startswith(b"9\t")
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=20)
    assert (command.returncode, out, err) == (130, b"", b"")


def test_tail_follows_on_after_an_altered_event(orders: Path, alter: Callable[..., None]) -> None:
    alter(orders, 3, body=b"no JSON")
    with Ledger.open(orders, read_only=True) as ledger:
        following = read._Follow(ledger, orders, 0, None, None)
        assert [next(following).seq for _ in range(5)] == [1, 2, 4, 5, 6]
    assert following.altered.count == 1


def test_tail_ends_when_its_reader_left(
    process: Callable[..., subprocess.Popen[bytes]], orders: Path
) -> None:
    reading, writing = os.pipe()
    command = process("tail", "-f", "-n", "0", stdout=writing)
    os.close(writing)
    os.close(reading)
    _, err = command.communicate(timeout=20)
    assert (command.returncode, err) == (0, b"")


def test_tail_ends_when_the_ledger_is_replaced(
    process: Callable[..., subprocess.Popen[bytes]], orders: Path
) -> None:
    command = process("tail", "-f", "-n", "1")
    assert command.stdout is not None
    assert command.stdout.readline().startswith(b"6\t")
    orders.rename("elsewhere.tally")
    _, err = command.communicate(timeout=20)
    assert command.returncode == 3
    assert err == b"tally: agents.tally: was removed or replaced meanwhile; run `tally tail -f` again\n"


# -- export --------------------------------------------------------------------------------


def test_export_to_stdout_and_to_a_file(tally: Callable[..., Any], orders: Path) -> None:
    with Ledger.open(orders) as ledger:
        expected = b"".join(line + b"\n" for line in ledger.export())
    assert tally("export").out.encode() == expected
    assert tally("export", "-o", "-").out.encode() == expected
    result = tally("export", "-o", "out.jsonl")
    assert (result.out, result.err) == ("", "out.jsonl: 6 events\n")
    assert Path("out.jsonl").read_bytes() == expected
    part = b"".join(expected.splitlines(keepends=True)[1:3])
    again = tally("export", "--range", "2:3", "-o", "out.jsonl")
    assert again.status == 2
    assert again.err.startswith(
        "tally: out.jsonl exists already; name another file, or replace it with --force"
    )
    assert Path("out.jsonl").read_bytes() == expected
    assert tally("export", "--range", "2:3", "-o", "out.jsonl", "--force").err == "out.jsonl: 2 events\n"
    assert Path("out.jsonl").read_bytes() == part


@pytest.mark.usefixtures("orders")
def test_a_zipped_export_is_the_same_each_time(tally: Callable[..., Any]) -> None:
    tally("export", "-o", "a.jsonl.gz")
    tally("export", "-o", "b.jsonl.gz")
    zipped = Path("a.jsonl.gz").read_bytes()
    assert zipped == Path("b.jsonl.gz").read_bytes()
    assert zipped[3:8] == bytes(5), "neither a name nor a time (RFC 1952, section 2.3)"
    assert gzip.decompress(zipped).decode() == tally("export").out


def test_an_export_replaces_no_ledger(tally: Callable[..., Any], orders: Path) -> None:
    before = orders.read_bytes()
    for options in ([], ["--force"]):
        result = tally("export", "-o", str(orders), *options)
        assert result.status == 2
        assert "is a database, and stays" in result.err
        assert orders.read_bytes() == before


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("there", [True, False], ids=["there", "not there"])
@pytest.mark.parametrize("name", ["agents.tally", "other.tally", "link.tally"])
def test_an_export_replaces_nothing_that_belongs_to_a_ledger(
    tally: Callable[..., Any], tmp_path: Path, name: str, there: bool
) -> None:
    """A head file that is an export makes every append fail; a -wal that is one loses events."""
    tally("init", "-f", "other.tally")
    Path("link.tally").symlink_to("agents.tally")
    real = "agents.tally" if name == "link.tally" else name
    for suffix in (".head", "-wal", "-shm", ".views"):
        Path(f"{real}{suffix}").unlink(missing_ok=True)
        if there:
            Path(f"{real}{suffix}").write_text("theirs")
        Path(f"link{suffix}").unlink(missing_ok=True)
        Path(f"link{suffix}").symlink_to(f"{real}{suffix}")
        for output in (f"{real}{suffix}", f"./{real}{suffix}", f"link{suffix}"):
            result = tally("export", "-f", "other.tally", "-o", output, "--force")
            assert result.status == 2, output
            assert f"belongs to the ledger {real}; name another file" in result.err
        assert Path(f"{real}{suffix}").exists() == there
        if there:
            assert Path(f"{real}{suffix}").read_text() == "theirs"
            Path(f"{real}{suffix}").unlink()


@pytest.mark.usefixtures("orders")
def test_an_export_to_a_pipe_does_not_replace_it(process: Callable[..., subprocess.Popen[bytes]]) -> None:
    os.mkfifo("pipe")
    command = process("export", "-o", "pipe")
    with open("pipe", "rb") as pipe:
        assert len(pipe.readlines()) == 6
    command.communicate()
    assert command.returncode == 0
    assert Path("pipe").is_fifo()


def test_characters_that_move_the_cursor_are_escaped_in_exports() -> None:
    from tallystick.ledger.portable import export_line, parse_line

    with Ledger.open("x.tally") as ledger:
        ledger.append("a.b", HOSTILE, stream="注文 \u202e")
        [line] = ledger.export(2)
    assert line.decode().isprintable()
    assert "注文" in line.decode()
    row = parse_line(line)
    assert row.body == json.dumps(HOSTILE, ensure_ascii=False).replace("\\u007f", "\x7f").encode()
    assert export_line(row) == line
