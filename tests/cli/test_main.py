"""The command as a whole: how errors read, what statuses mean, pipes, what is loaded, completion."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from tallystick import OutcomeUnknown
from tallystick.cli import status_of
from tallystick.cli.app import COMMANDS
from tallystick.ledger import errors
from tallystick.ledger.sqlite.connection import committing

NAMES = [name for group in COMMANDS.values() for name in group]
PRINTING = ["log", "tail", "export", "verify", "log --json", "--help"]

USAGE = {
    "": "Usage: tally [OPTIONS] COMMAND",
    "nosuch": "tally: no such command 'nosuch'; see `tally --help`",
    "--nosuch": "; see `tally --help`",
    "log --nosuch": "; see `tally log --help`",
    "log --kind": "tally: option '--kind' requires an argument; see `tally log --help`",
    "log --range abc": "'abc' is no span of seqs; give A:B, A:, :B or A; see `tally log --help`",
    "log --range 0:3": "they begin at 1",
    "log --range 5:3": "the last is not before the first",
    "log --range :": "no span",
    "log -n -1": "-1 is not in the range x>=0; see `tally log --help`",
    "log --since yesterday": "'yesterday' is no time; give 2026-03-12",
    "log --since 999999999w": "no time",
    "log --since 2h --until 3h": "--since is not before --until",
    "log --json --nl": "exclude each other",
    "log extra": "unexpected extra argument (extra); see `tally log --help`",
    "show": "missing argument 'SEQ|ID'; see `tally show --help`",
    "show 0": "'0' is no seq; give an event's number, from 1",
    "show abc": "'abc' is no seq",
    "show 99": "tally: no event 99: the ledger holds 1 to 6",
    "show 999999999999999999": "no event 999999999999999999: the ledger holds 1 to 6",
    "export --range 7:": "no event 7: the ledger holds 1 to 6",
    "export --range 1:7": "no event 7: the ledger holds 1 to 6",
    "verify --range 7:": "no event 7: the ledger holds 1 to 6",
    "verify --range 2:7": "no event 7: the ledger holds 1 to 6",
    "verify --range 1:2 --stream main": "exclude each other",
    "verify --stream nosuch": "no events in 'nosuch'",
    "verify --expect nosuch": "'nosuch' is no head line, nor a file; a head line is what `tally head` prints",
    "verify --expect .": "Is a directory",
    "verify --jobs 0": "0 is not in the range 1<=x<=64",
    "append": "tally: give a KIND, or --nl FILE; see `tally append --help`",
    "append order": "'order' is no kind; use at least two dotted words",
    "append kernel.executed": "reserved",
    "append a.b --atomic": "--atomic goes with --nl",
    "append a.b {": "tally: body: not JSON",
    "append a.b {} --meta x": "tally: --meta: not JSON",
    "append a.b {} --meta [1]": "meta: expected an object, got list",
    "append a.b {} --expect -1": "-1 is not in the range",
    "append --nl nosuch": "'nosuch' does not exist; see `tally append --help`",
    "append --nl .": "is a directory",
    "append --nl - a.b": "leave out KIND",
    "append --nl - --key k": "leave out --key",
    "import": "missing argument 'SOURCE'",
    "import nosuch x.tally": "'nosuch' does not exist",
    "erase 2": "missing option '--reason'",
    "erase 2 --reason x": "pass --yes to erase without being asked",
    "erase 2 --reason x --yes --file": "option '--file' requires an argument; see `tally erase --help`",
    "erase 1 --reason x --yes": "event 1 cannot be erased",
    "erase 99 --reason x --yes": "no event 99",
    "backup": "missing argument 'TARGET'",
    "backup agents.tally": "tally: agents.tally exists already; name a new file; see `tally backup --help`",
    "backup gone.tally": "gone.tally.head lies there, of a ledger that was moved or lost; name a new file,",
    "import text agents.tally": "agents.tally exists already; name a new file",
    "import text gone.tally": "gone.tally.head lies there",
    "log -f agents.tally -f other.tally": "two ledgers are named, agents.tally and other.tally; name one",
    "-f a.tally -f b.tally log": "two ledgers are named, a.tally and b.tally",
    "-f other.tally log -f agents.tally": "two ledgers are named, other.tally and agents.tally",
    "tail --file agents.tally other.tally": "two ledgers are named, agents.tally and other.tally",
    "-f agents.tally tail other.tally": "two ledgers are named, agents.tally and other.tally",
    "log -f :memory:": "':memory:' is no file, and a ledger of the command is one; name a file",
    "init -f :memory:": "':memory:' is no file",
    "tail :memory:": "':memory:' is no file",
    "backup :memory:": "':memory:' is no file",
    "log --kind Foo": "'Foo' matches no kind: kinds are lower-case words joined by dots; give order.placed",
    "log --kind order": "'order' matches no kind",
    "log --kind [": "'[' matches no kind",
    "log --kind order.[a": "'order.[a' matches no kind",
    "tail --kind *.Placed": "'*.Placed' matches no kind",
    "append a.b [1e999]": "tally: body: not JSON (number out of range at [0])",
    'append a.b {"a":1e999}': "tally: body: not JSON (number out of range); quote it",
    "demo": "holds events of its own, which the demonstration leaves alone",
}

COULD_NOT_LOOK = {
    "log -f nosuch": "tally: nosuch: no such ledger; create it with `tally init`",
    "log -f .": "is a directory; name a file inside it",
    "log -f /dev/null": "is no regular file",
    "log -f text": "tally: text: not a SQLite database; name a ledger file",
    "tail text": "not a SQLite database",
    "append a.b -f nosuch/x.tally": "check that its directory exists",
    "backup nosuch/x": "its directory does not exist",
    "export -o nosuch/x": "tally: nosuch/x: No such file or directory",
    "import text new.tally": "tally: text: is no export",
    "import agents.tally new.tally": "is a ledger and no export; copy it with `tally backup`",
    "import text nosuch/x.tally": "its directory does not exist",
}


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [(*item, 2) for item in USAGE.items()] + [(*item, 3) for item in COULD_NOT_LOOK.items()],
)
def test_an_error_is_one_line_with_the_remedy(
    tally: Callable[..., Any], tmp_path: Path, arguments: str, message: str, status: int
) -> None:
    (tmp_path / "text").write_text("some text that is no ledger\n")
    (tmp_path / "gone.tally.head").write_text("of a ledger that was moved away\n")
    before = names_in(tmp_path)
    result = tally(*arguments.split())
    assert result.status == status, result
    assert message in result.err
    assert result.out == ""
    if arguments:  # else the help page
        *remarks, line = result.err.splitlines()
        assert line.startswith("tally: ")
        assert remarks in ([], ["nothing was appended"])
    assert names_in(tmp_path) == before, "an error leaves nothing behind"


def names_in(folder: Path) -> set[str]:
    """The files in a folder, but for what SQLite keeps beside a database that is open."""
    return {path.name for path in folder.iterdir()} - {"agents.tally-shm", "agents.tally-wal"}


def test_the_ledger_has_a_name(tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert tally("-f", "", "log").status == 2
    assert tally("log", "-f", "").err.startswith("tally: the ledger's name (-f, TALLY_LEDGER) is empty")
    assert "is not UTF-8" in tally("-f", "\udcff", "init").err
    assert tally("-f", "\udcff", "log").status in (2, 3)
    for arguments in (["-f", "a.tally", "init"], ["init", "-f", "b.tally"]):
        assert tally(*arguments).status == 0
        assert Path(arguments[arguments.index("-f") + 1]).is_file()
    monkeypatch.setenv("TALLY_LEDGER", "c.tally")
    assert tally("init").err.startswith("created c.tally\n")
    assert tally("tail", "--file", "a.tally", "--nl").lines[0]["kind"] == "ledger.created"


def test_text_of_others_in_an_error_is_escaped(tally: Callable[..., Any]) -> None:
    tally("init")
    for arguments in (["log", "-f", "x\x1b[31my"], ["verify", "--expect", "\x1b[2J"], ["\x9b2J"]):
        err = tally(*arguments).err
        assert "\x1b" not in err
        assert "\x9b" not in err
    result = tally("append", "--nl", "-", stdin=b'{"kind":"a.b","x\\u001b[31m\\nz":1}\n')
    assert result.err.endswith(
        "line 1: x\\x1b[31m z: unknown field; the fields are kind, body, stream, key, meta, at\n"
    )


def test_what_goes_wrong_inside_is_one_line_too(
    tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("tallystick.cli.check.open_to_read", fail)
    result = tally("head")
    assert result.status == 70
    assert result.err == (
        "tally: internal error, please report it (RuntimeError: first second); TALLY_DEBUG=1 shows more\n"
    )
    monkeypatch.setenv("TALLY_DEBUG", "1")
    debugged = tally("head")
    assert debugged.status == result.status
    assert debugged.err.startswith("Traceback (most recent call last):")
    assert debugged.err.endswith(result.err)


@pytest.mark.usefixtures("orders")
def test_debugging_changes_no_status(tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["log", "-f", "nosuch"], ["show", "99"], ["append", "a.b", "1", "--expect", "99"]):
        monkeypatch.delenv("TALLY_DEBUG", raising=False)
        expected = tally(*arguments)
        assert expected.status > 0
        monkeypatch.setenv("TALLY_DEBUG", "1")
        assert tally(*arguments).status == expected.status


def test_an_environment_variable_names_the_ledger_unless_the_command_line_does(
    tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLY_LEDGER", "a:b.tally")
    assert tally("init").err.startswith("created a:b.tally\n")
    assert tally("init", "-f", "c.tally").status == 0
    assert tally("-f", "d.tally", "init").status == 0
    assert tally("tail", "c.tally").status == 0
    assert tally("-f", "c.tally", "log", "-f", "c.tally").status == 0
    monkeypatch.setenv("TALLY_LEDGER", "")
    assert tally("init").err.startswith("created agents.tally\n")


def test_the_remedy_is_one_that_the_command_has(
    tally: Callable[..., Any], orders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = '{"kind":"a.b","body":"%s"}' % ("x" * (1 << 20))
    Path("large").write_text(large.partition('"body":')[2].removesuffix("}"))
    for result in (
        tally("append", "--nl", "-", stdin=large.encode()),
        tally("append", "a.b", "-", stdin=Path("large").read_bytes()),
    ):
        assert result.status == 2
        assert "1,048,578 bytes of JSON, more than the 1,048,576 allowed" in result.err
        assert result.err.endswith("append a digest of the content instead, or append it from Python\n")

    def damaged(*_: object, **__: object) -> None:
        raise errors.Corrupt("agents.tally", "malformed")

    monkeypatch.setattr("tallystick.ledger.sqlite.SQLiteStore", damaged)
    verified = tally("verify")
    assert verified.status == 3
    assert "the database structure is damaged (malformed); restore a backup" in verified.err
    assert "tally verify" not in verified.err


def test_a_full_disk_is_remedied_by_space(orders: Path) -> None:
    with (
        closing(apsw.Connection(str(orders))) as con,
        pytest.raises(OutcomeUnknown, match="; free some space"),
        committing(con),
    ):
        raise apsw.FullError("database or disk is full")


def test_an_interrupt_is_one_line(tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tallystick.cli.check.open_to_read", interrupt)
    assert tally("head") == (130, "", "tally: interrupted\n")


def test_each_error_has_a_status() -> None:
    refused = errors.BadLine("x", 1, "refused")
    refused.__cause__ = errors.KeyConflict("k", 2, "body")
    assert status_of(refused) == 1
    assert status_of(errors.BadLine("x", 1, "no JSON")) == 2
    assert status_of(errors.PositionConflict("s", 1, 2)) == 1
    assert status_of(errors.TailLost("x", 1, 2, "x.head")) == 1
    assert status_of(errors.MalformedEvent(1, "no JSON")) == 1
    assert status_of(errors.BadHead("x")) == 2
    assert status_of(errors.Locked("x", 30)) == 3
    assert status_of(errors.OutcomeUnknown("x")) == 3


def test_a_lock_is_named_with_a_remedy_for_a_person(
    tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(_: object) -> None:
        raise errors.Locked("a.tally", 30)

    monkeypatch.setattr("tallystick.cli.check.open_to_read", locked)
    result = tally("head")
    assert result.status == 3
    assert result.err == (
        "tally: a.tally: locked by another process for more than 30 s; "
        "wait for it to finish and try again (`fuser` names it)\n"
    )


# -- pipes ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("arguments", PRINTING)
def test_a_reader_that_leaves_is_no_error(process: Callable[..., Any], arguments: str) -> None:
    read, write = os.pipe()
    os.close(read)
    command = process(*arguments.split(), stdout=write)
    os.close(write)
    _, err = command.communicate()
    assert command.returncode == 0, err
    assert b"tally: " not in err
    assert b"Error" not in err


@pytest.mark.usefixtures("orders")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", PRINTING)
def test_a_full_disk_is_one_line(process: Callable[..., Any], arguments: str) -> None:
    with open("/dev/full", "wb") as full:
        command = process(*arguments.split(), stdout=full)
        _, err = command.communicate()
    assert command.returncode == 3
    assert err.decode().splitlines()[-1] == "tally: standard output: No space left on device"
    assert b"Exception" not in err


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize(
    ("closed", "arguments", "status"),
    [
        (">&-", "log", 0),
        ("2>&-", "log --nosuch", 2),
        ("<&-", "append a.b -", 2),
        ("<&-", "erase 2 --reason x", 2),
    ],
)
def test_a_closed_stream_is_no_trouble(closed: str, arguments: str, status: int, tmp_path: Path) -> None:
    script = (
        f'exec "$0" -c "import sys; from tallystick.cli import main; sys.exit(main())" {arguments} {closed}'
    )
    run = subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, text=True, check=False)
    assert run.returncode == status, run.stderr
    assert "internal error" not in run.stderr
    assert run.stdout == ""


@pytest.mark.usefixtures("orders")
def test_output_is_utf_8_whatever_the_locale_says(process: Callable[..., Any]) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    process("append", "a.b", '{"t": "お荷物"}', env=environment).communicate()
    out, _ = process("log", "-n", "1", env=environment).communicate()
    assert "お荷物" in out.decode()


# -- what is loaded ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["--help"], {"apsw", "blake3", "rich", "tallystick.ledger.ledger"}),
        (["--version"], {"apsw", "blake3", "rich", "msgspec", "tallystick.cli.write", "tallystick.cli.demo"}),
        (["head"], {"rich", "tallystick.cli.write", "tallystick.cli.read", "tallystick.cli.demo"}),
        (["verify"], {"rich", "tallystick.cli.write", "tallystick.cli.read", "multiprocessing"}),
    ],
)
@pytest.mark.usefixtures("orders")
def test_only_what_is_used_is_loaded(arguments: list[str], unused: set[str]) -> None:
    script = (
        "import sys; from tallystick.cli import main; status = main(sys.argv[1:]);"
        "print('\\n' + ' '.join(sys.modules)); sys.exit(status)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert unused.isdisjoint(run.stdout.splitlines()[-1].split())


def test_help_lists_every_command_whole(tally: Callable[..., Any]) -> None:
    out = tally("--help").out
    for title, group in COMMANDS.items():
        assert f"\n{title}:\n" in out
        for name in group:
            assert f"\n  {name} " in out
    assert "..." not in out.replace("[ARGS]...", "")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_a_page(tally: Callable[..., Any], name: str) -> None:
    result = tally(name, "--help")
    assert result.status == 0
    assert result.out.startswith(f"Usage: tally {name} ")
    assert tally(name, "-h").out == result.out


def test_the_version(tally: Callable[..., Any]) -> None:
    from tallystick import __version__

    assert tally("--version") == (0, f"tally {__version__}\n", "")


# -- completion ----------------------------------------------------------------------------


def complete(words: str) -> list[str]:
    environment = os.environ | {
        "_TALLY_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    script = "import sys; from tallystick.cli import main; sys.exit(main())"
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    return run.stdout.split()


def test_completion_lists_commands_and_options() -> None:
    assert complete("tally ") == [f"plain,{name}" for name in NAMES]
    assert complete("tally ver") == ["plain,verify"]
    assert complete("tally log --ki") == ["plain,--kind"]
    assert complete("tally log -f agen") == ["file,agen"]
    assert complete("tally import ") == ["file,"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_for_each_shell(shell: str, process: Callable[..., Any]) -> None:
    if shell == "bash" and not Path("/bin/bash").exists():
        pytest.skip("click asks bash for its version")
    command = process(env=os.environ | {"_TALLY_COMPLETE": f"{shell}_source"})
    out, _ = command.communicate()
    assert command.returncode == 0
    assert b"_TALLY_COMPLETE" in out
