"""What the tests of the command share: running it here, in a process of its own, and on a terminal."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from attacker import tamper

from tallystick import Durability, Ledger
from tallystick.cli import main
from tallystick.ledger.headfile import head_path

COMMAND = [sys.executable, "-c", "import sys; from tallystick.cli import main; sys.exit(main())"]
#: Runs the commands of a JSON array, one after another, each between lines that say so.
SEVERAL = """
import json, sys
from tallystick.cli import main
for command in json.loads(sys.argv[1]):
    print("=== begins", flush=True)
    main(command)
    print("=== ended", flush=True)
"""


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TALLY_LEDGER", "TALLY_DEBUG", "NO_COLOR", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tally(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command in this process; gives status, stdout and stderr."""

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin))))
        capsys.readouterr()
        status = main(arguments)
        out, err = capsys.readouterr()
        return Result(status, out, err)

    return run


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the command in a process of its own; whatever still runs is killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen([*COMMAND, *arguments], **(pipes | settings)))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def on_terminal(
    program: Sequence[str], columns: int, after: str, keys: bytes, environment: dict[str, str]
) -> tuple[int, str]:
    """Run a program on a terminal; its status and all that the terminal was sent."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm-256color", "COLUMNS": str(columns)} | environment)
        os.execv(program[0], program)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    shown = b""
    try:
        while True:
            if keys and after.encode() in shown:
                time.sleep(0.2)  # what asks must be reading: Python can lose a ^C just before
                os.write(fd, keys)
                keys = b""
            try:
                piece = os.read(fd, 1 << 16)
            except OSError as error:  # Linux says so when the other side is gone
                assert error.errno == errno.EIO
                break
            if not piece:
                break
            shown += piece
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(fd)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), shown.decode().replace("\r\n", "\n")


@pytest.fixture
def terminal() -> Callable[..., tuple[int, str]]:
    """Run the command on a terminal; gives status and all that the terminal was sent.

    `keys` are typed soon after the text `after` was shown.
    """

    def run(
        *arguments: str, columns: int = 80, after: str = "", keys: bytes = b"", **environment: str
    ) -> tuple[int, str]:
        return on_terminal([*COMMAND, *arguments], columns, after, keys, environment)

    return run


@pytest.fixture
def terminal_for_all() -> Callable[..., dict[str, str]]:
    """Run several commands on one terminal, by one process, which is faster; what each showed."""

    def run(
        commands: Sequence[str], columns: int = 80, after: str = "", keys: bytes = b"", **environment: str
    ) -> dict[str, str]:
        program = [sys.executable, "-c", SEVERAL, json.dumps([command.split() for command in commands])]
        status, shown = on_terminal(program, columns, after, keys, environment)
        assert status == 0, shown
        parts = re.findall(r"=== begins\n(.*?)=== ended\n", shown, re.DOTALL)
        return dict(zip(commands, parts, strict=True))

    return run


@pytest.fixture(scope="session")
def _orders_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `orders` is a copy of."""
    path = tmp_path_factory.mktemp("orders") / "agents.tally"
    at = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
    with Ledger.open(path, durability=Durability.PROCESS) as ledger:
        for number in range(1, 6):
            ledger.append(
                "order.placed" if number % 2 else "order.shipped",
                {"order": number, "note": f"Number {number}"},
                stream=f"order:{number % 2}",
                key=f"key-{number}",
                meta={"actor": "bot"},
                at=at + number * 60_000_000,
            )
    return path


@pytest.fixture
def orders(_orders_made: Path, tmp_path: Path) -> Path:
    """The default ledger, with ledger.created and five orders."""
    for made in (_orders_made, head_path(_orders_made)):
        shutil.copy(made, tmp_path)
    return tmp_path / _orders_made.name


@pytest.fixture
def alter() -> Callable[..., None]:
    """Change a column of an event with plain SQLite, past the guards in the file."""

    def change(path: Path, seq: int, **columns: object) -> None:
        updates = [
            (f"UPDATE events SET {name} = ? WHERE seq = ?", (value, seq)) for name, value in columns.items()
        ]
        tamper(path, *updates)

    return change


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Wait for a condition to hold; gives its value."""

    def wait(condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 20
        while not (value := condition()):
            assert time.monotonic() < deadline, "waited for 20 s"
            time.sleep(0.02)
        return value

    return wait
