"""`tally import chat`: where conversations may stand in a file, what is said, what becomes of bad ones."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick import Ledger
from tallystick.cli import conversations
from tallystick.recorders.chat.conversation import identify

AIRLINE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "airline_agent_sessions.jsonl.gz"


def chat(number: int, **fields: Any) -> dict[str, Any]:
    text = f'question {number}: "[{{\\é'
    return {**fields, "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "…"}]}


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def imported(path: str = "agents.tally") -> list[str]:
    """The ids of the sessions in a ledger, in order."""
    if not Path(path).exists():
        return []
    with Ledger.open(path, create=False, read_only=True) as ledger:
        return [event.body["derived"]["session_id"] for event in ledger.read(kinds=["session.started"])]


def ids(*values: Any) -> list[str]:
    return [identify(value)[0] for value in values]


# -- what a user sees --------------------------------------------------------------------------


def test_a_first_import_and_a_second(tally: Callable[..., Any]) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    odd = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
    messages = [
        {"role": "assistant", "tool_calls": [call, odd, call, None]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
        {"role": "tool", "tool_call_id": "c", "content": 2**60},
        {"role": "tool", "tool_call_id": "x", "content": "?"},
    ]
    data = lines(chat(1, ok=True), {"messages": messages, "ok": False}, chat(2))
    first = tally("import", "chat", "-", "--outcome", "ok", stdin=data)
    assert first.status == 0
    assert first.err == (
        "created agents.tally\n"
        "imported 3 sessions with 8 messages\n"
        "4 tool calls: 2 executed, 1 unanswered, 1 malformed\n"
        "  of those executed, 1 with arguments that are no JSON object\n"
        "  2 with an id used before in their session; each answer went to the earliest call with its id that "
        "waited for one\n"
        "1 answer to no open call, kept as messages alone\n"
        "2 values left out, too large or beyond canonical JSON\n"
        "outcomes: 1 complete, 1 failed, 1 in progress\n"
    )
    assert first.out == tally("head").out
    again = tally("import", "chat", "-", stdin=data)
    assert again.err == "nothing was imported; 3 sessions were there already\n"
    assert (again.status, again.out) == (0, first.out)
    more = tally("import", "chat", "-", stdin=data + lines(chat(3)))
    assert more.err.startswith("imported 1 session with 2 messages; 3 sessions were there already\n")


def test_the_summary_as_json(tally: Callable[..., Any]) -> None:
    result = tally("import", "chat", "-", "--json", stdin=lines(chat(1), chat(1), chat(2)))
    assert result.err == "created agents.tally\n"
    assert result.json == {
        "imported": 2,
        "known": 1,
        "closed": 0,
        "outcomes": {"complete": 2, "failed": 0, "in_progress": 0},
        "messages": 4,
        "calls": 0,
        "executed": 0,
        "unanswered": 0,
        "malformed": 0,
        "bad_arguments": 0,
        "reused_ids": 0,
        "stray_answers": 0,
        "left_out": 0,
        "skipped": 0,
        "head": tally("head").out.strip(),
    }


def test_an_import_with_the_right_field_closes_what_a_typo_left_open(tally: Callable[..., Any]) -> None:
    data = lines(chat(1, reward=1), chat(2, reward=0))
    assert tally("import", "chat", "-", "--outcome", "rewrd", stdin=data).status == 1
    found = tally("import", "chat", "-", "--outcome", "reward", stdin=data)
    assert found.err == (
        "nothing was imported; 2 sessions were there already, 2 of them left in progress and closed now\n"
        "outcomes: 1 complete, 1 failed\n"
    )
    assert found.status == 0
    assert tally("replay").status == 0


def test_a_transcript_is_no_export(tally: Callable[..., Any]) -> None:
    Path("chats.jsonl").write_bytes(lines(chat(1), chat(2)))
    found = tally("import", "chats.jsonl", "new.tally")
    assert (found.status, found.out) == (3, "")
    assert found.err == (
        "tally: chats.jsonl: holds conversations and is no export; import it with `tally import chat`\n"
    )
    assert not Path("new.tally").exists()


def test_options_reach_the_session(tally: Callable[..., Any]) -> None:
    arguments = ["--label", "task", "--kernel", "Desk", "--retention-hours", "9"]
    assert tally("import", "chat", "-", *arguments, stdin=lines(chat(1, task="T-7"))).status == 0
    with Ledger.open("agents.tally", read_only=True) as ledger:
        started = next(ledger.read(kinds=["session.started"])).body["derived"]
    assert (started["label"], started["kernel"], started["retention_hours"]) == (
        "T-7",
        "ckp://Kernel#Desk:v1.0",
        9,
    )
    bad = tally("import", "chat", "-", "--kernel", "ckp://Action#x", stdin=lines(chat(1)))
    assert bad.status == 2
    assert bad.err.startswith("tally: --kernel: ")
    assert bad.err.endswith("see `tally import chat --help`\n")


@pytest.mark.skipif(not AIRLINE.exists(), reason="the recorded agent sessions are not here")
def test_real_transcripts(tally: Callable[..., Any]) -> None:
    first = tally("import", "chat", str(AIRLINE), "--outcome", "reward")
    assert first.err == (
        "created agents.tally\n"
        "imported 100 sessions with 2,658 messages\n"
        "572 tool calls: 572 executed, 0 unanswered, 0 malformed\n"
        "  38 with an id used before in their session; each answer went to the earliest call with its id "
        "that waited for one\n"
        "outcomes: 43 complete, 57 failed\n"
    )
    again = tally("import", "chat", str(AIRLINE), "--outcome", "reward")
    assert again.err == "nothing was imported; 100 sessions were there already\n"
    assert again.out == first.out
    assert tally("verify", "--expect", first.out.strip()).status == 0


def test_progress_and_summary_on_a_terminal(terminal: Callable[..., tuple[int, str]]) -> None:
    Path("chats.jsonl").write_bytes(lines(*map(chat, range(1500))))
    status, shown = terminal("import", "chat", "chats.jsonl")
    assert status == 0
    assert "importing" in shown
    assert "imported 1,500 sessions with 3,000 messages\n" in shown


# -- an export beside it -----------------------------------------------------------------------


def test_chat_is_a_word_and_a_file_of_that_name_has_a_path(tally: Callable[..., Any], orders: Path) -> None:
    assert tally("export", "-o", "chat").status == 0
    assert tally("import", "./chat", "copy.tally").status == 0
    assert tally("import", "--expect", tally("head").out.strip(), "./chat", "again.tally").status == 0
    missing = tally("import", "chat")
    assert missing.status == 2
    assert missing.err == "tally: missing argument 'SOURCE'; see `tally import chat --help`\n"


@pytest.mark.parametrize("place", ["before", "between", "behind"])
def test_the_ledger_may_be_named_anywhere(tally: Callable[..., Any], place: str) -> None:
    named = ["-f", "x.tally"]
    words = {
        "before": [*named, "import", "chat", "-"],
        "between": ["import", *named, "chat", "-"],
        "behind": ["import", "chat", "-", "--file=x.tally"],
    }
    assert tally(*words[place], stdin=lines(chat(1))).status == 0
    assert imported("x.tally") == ids(chat(1))


def test_help_names_both(tally: Callable[..., Any]) -> None:
    assert "\nSubcommands:\n  chat  Import transcripts" in tally("import", "--help").out
    assert tally("import", "chat", "--help").out.startswith("Usage: tally import chat [OPTIONS] SOURCE\n")


# -- where conversations may stand -------------------------------------------------------------

THREE = [chat(1), chat(2, reward=1.5), chat(3)]
BARE = [one["messages"] for one in THREE]
FORMS: dict[str, tuple[bytes, list[Any]]] = {
    "lines": (lines(*THREE), THREE),
    "lines without an end": (lines(*THREE).rstrip(), THREE),
    "CRLF and blank lines": (b"\r\n\n" + lines(*THREE).replace(b"\n", b"\r\n\r\n  \n"), THREE),
    "a BOM": (b"\xef\xbb\xbf" + lines(*THREE), THREE),
    "UTF-8 as it is": ("\n".join(json.dumps(one, ensure_ascii=False) for one in THREE).encode(), THREE),
    "messages a line": (lines(*BARE), [{"messages": one} for one in BARE]),
    "an array on a line": (lines(THREE), THREE),
    "an array over many lines": (json.dumps(THREE, indent=2).encode(), THREE),
    "an array, an item a line": (b"[" + b",\n".join(lines(one).strip() for one in THREE) + b"]\n", THREE),
    "an array, commas in front": (b"[\n" + b"\n, ".join(lines(one).strip() for one in THREE) + b"\n]", THREE),
    "an array of arrays": (json.dumps(BARE, indent=1).encode(), [{"messages": one} for one in BARE]),
    "one object": (json.dumps(THREE[0]).encode(), THREE[:1]),
    "one object over many lines": (json.dumps(THREE[0], indent=4).encode(), THREE[:1]),
    "objects over many lines": (
        b"\n".join(json.dumps(one, indent="\t").encode() for one in THREE),
        THREE,
    ),
    "one conversation's messages": (json.dumps(BARE[0], indent=2).encode(), [{"messages": BARE[0]}]),
    "nothing": (b"", []),
    "blank": (b"\n \n", []),
    "an empty array": (b"[]", []),
    "an empty array over lines": (b"[\n]\n", []),
    "a conversation without messages": (b'{"messages": []}', [{"messages": []}]),
}


@pytest.mark.parametrize("block", [1 << 20, 64, 3], ids=["at once", "in pieces", "in crumbs"])
@pytest.mark.parametrize("form", FORMS)
def test_a_conversation_may_stand_anywhere(
    tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, form: str, block: int
) -> None:
    monkeypatch.setattr(conversations, "READ_BYTES", block)
    text, expected = FORMS[form]
    result = tally("import", "chat", "-", stdin=text)
    assert result.status == 0, result
    assert imported() == ids(*expected)
    if not expected:
        assert result.err == "created agents.tally\nnothing was imported\n"


@pytest.mark.parametrize("form", ["lines", "an array over many lines", "nothing"])
def test_gzipped_whatever_its_name(tally: Callable[..., Any], form: str) -> None:
    text, expected = FORMS[form]
    Path("chats").write_bytes(gzip.compress(text))
    assert tally("import", "chat", "chats").status == 0
    assert imported() == ids(*expected)


def test_an_array_is_larger_than_a_conversation_may_be(
    tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "CONVERSATION_BYTES_MAX", 500)
    monkeypatch.setattr(conversations, "READ_BYTES", 100)
    many = [chat(n) for n in range(40)]
    for text in (lines(many), json.dumps(many, indent=1).encode(), lines(*many)):
        Path("agents.tally").unlink(missing_ok=True)
        Path("agents.tally.head").unlink(missing_ok=True)
        assert tally("import", "chat", "-", stdin=text).status == 0
        assert imported() == ids(*many)
    large = chat(50, notes="x" * 5000)
    for text in (lines(chat(60), large), lines([chat(61), large]), json.dumps(large, indent=1).encode()):
        result = tally("import", "chat", "-", "--skip-bad", stdin=text)
        assert result.status == 2
        assert "a conversation of more than 0 MiB; give one a line, or an array of them\n" in result.err
    assert imported()[40:] == ids(chat(60), chat(61))
    messages = [{"role": "user", "content": "x" * 30}] * 40
    result = tally("import", "chat", "-", stdin=json.dumps(messages, indent=1).encode())
    assert "a conversation of more than 0 MiB" in result.err


# -- bad ones ----------------------------------------------------------------------------------

BAD: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"nonsense\n", "line 2: not JSON ("),
    "cut": (lines(chat(9))[:40] + b"\n", "line 2: not JSON ("),
    "a name twice": (b'{"messages": [], "a": 1, "a": 2}\n', "line 2: not JSON (the name 'a' comes twice"),
    "a bomb": (b"[" * 100_000 + b"\n", "line 2: not JSON (nested too deeply)"),
    "no UTF-8": (b'{"messages": [{"role": "\xff"}]}\n', "line 2: not JSON ("),
    "half a surrogate pair": (b'{"messages": [{"role": "\\ud800 "}]}\n', "line 2: not JSON ("),
    "a number": (b"7\n", "line 2: expected an object with `messages`, got a number"),
    "an event": (b'{"kind": "a.b"}\n', "line 2: messages: expected an array of messages, found none"),
    "messages as text": (
        b'{"messages": "hi"}\n',
        "line 2: messages: expected an array of messages, found a str",
    ),
    "no role": (b'{"messages": [{"role": "user"}, {}]}\n', "line 2: messages[1].role: expected a string, fo"),
    "in an array": (
        lines([chat(9), {"x": 1}]),
        "line 2: conversation 2: messages: expected an array of messages, found none",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_conversation_is_named_and_those_before_stay(tally: Callable[..., Any], kind: str) -> None:
    text, message = BAD[kind]
    result = tally("import", "chat", "-", stdin=lines(chat(1)) + text + lines(chat(2)))
    assert result.status == 2
    *said, last = result.err.splitlines()
    assert said[1].startswith(f"imported {2 if kind == 'in an array' else 1} session")
    assert last.startswith(f"tally: standard input, {message}")
    assert imported()[0] == ids(chat(1))[0]
    assert ids(chat(2))[0] not in imported()


@pytest.mark.parametrize("kind", BAD)
def test_bad_conversations_may_be_skipped(tally: Callable[..., Any], kind: str) -> None:
    text, message = BAD[kind]
    result = tally(
        "import", "chat", "-", "--skip-bad", "--json", stdin=lines(chat(1)) + text + lines(chat(2))
    )
    assert result.status == 1
    assert result.err.splitlines()[1].startswith(f"skipped standard input, {message}")
    assert result.json["skipped"] == 1
    assert set(ids(chat(1), chat(2))) <= set(imported())


def test_a_bad_first_conversation_makes_no_ledger(tally: Callable[..., Any]) -> None:
    for text in (b"nonsense", b"{}", lines([{}])):
        result = tally("import", "chat", "-", stdin=text)
        assert result.status == 2
        assert result.err.startswith("tally: standard input, line 1: ")
        assert not Path("agents.tally").exists()


def test_only_some_bad_conversations_are_named(tally: Callable[..., Any]) -> None:
    result = tally("import", "chat", "-", "--skip-bad", stdin=b"{}\n" * 30)
    assert result.status == 1
    assert result.err.count("skipped standard input") == 20
    assert "… and 10 more were skipped\nnothing was imported\n" in result.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'[{"messages": []}\n', "line 2: expected , or ] after item 1, found the end"),
        (b'[\n{"messages": []}\n{"messages": []}]', "line 3: expected , or ] after item 1, found '{'"),
        (b'[\n{"messages": []}]\n[]', "line 3: expected nothing behind the end of the array"),
        (b'[\n{"messages": []},\n]', "line 3: not JSON ("),
        (b'[\n{"messages": []},,\n]', "line 2: not JSON ("),
        (b'[\n{"messages": [}', "line 2: not JSON ("),
        (
            b'[\n{"messages": []}, 7 ]',
            "line 2: conversation 2: expected an object with `messages`, got a number",
        ),
        (b'{\n"messages": []}\n}', "line 3: not JSON ("),
        (b'[\n{"role": "user"}, nonsense]', "line 2: not JSON ("),
        (b"[\n" + b'{"a":' * 20_000, "line 2: nested too deeply"),
    ],
)
def test_a_damaged_array_is_named(tally: Callable[..., Any], text: bytes, message: str) -> None:
    result = tally("import", "chat", "-", stdin=text)
    assert result.status == 2
    assert f"tally: standard input, {message}" in result.err


def test_damaged_gzip_is_named(tally: Callable[..., Any]) -> None:
    whole = gzip.compress(lines(*map(chat, range(300))))
    for damaged in (whole[: len(whole) // 2], whole[:-4] + bytes(4)):
        Path("in.gz").write_bytes(damaged)
        result = tally("import", "chat", "in.gz")
        assert result.status == 2
        assert ": the gzipped data is damaged here (" in result.err


def test_another_session_under_the_id_is_a_finding(tally: Callable[..., Any]) -> None:
    with Ledger.open("agents.tally") as ledger:
        ledger.append("message.user", 1, stream=f"session:{ids(chat(1))[0]}")
    result = tally("import", "chat", "-", stdin=lines(chat(1)))
    assert result.status == 1
    assert "is not this conversation" in result.err


def test_an_export_is_no_chat(tally: Callable[..., Any], orders: Path) -> None:
    tally("export", "-o", "log.jsonl")
    result = tally("import", "chat", "log.jsonl")
    assert result.err.endswith("line 1: messages: expected an array of messages, found none\n")


# -- pipes and interrupts ----------------------------------------------------------------------


def test_conversations_are_imported_as_they_arrive(
    process: Callable[..., subprocess.Popen[bytes]], until: Callable[..., Any]
) -> None:
    command = process("import", "chat", "-")
    assert command.stdin is not None
    for number in (1, 2):
        command.stdin.write(lines(chat(number)))
        command.stdin.flush()
        until(lambda: Path("agents.tally.head").exists() and len(imported()) == number)  # noqa: B023
    command.send_signal(signal.SIGINT)
    command.wait(20)
    assert command.stderr is not None
    said = command.stderr.read().decode()
    assert "imported 2 sessions with 4 messages\n" in said
    assert said.endswith("tally: interrupted\n")
    assert command.returncode == 130


def test_an_outcome_that_no_conversation_has_is_a_finding(tally: Any, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "hello"}], "reward": 1}\n')
    done = tally("import", "chat", str(chats), "--outcome", "rewrad")
    assert done.status == 1
    assert "no conversation says an outcome in its field 'rewrad'" in done.err
