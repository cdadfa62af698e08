"""A million events pass through the command in constant memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EVENTS = 1_000_000
LIMIT_MIB = 150
SUPPORT = Path(__file__).resolve().parents[1] / "support"
#: Runs the command and prints the most memory that it held, in MiB.
SCRIPT = f"""
import sys
sys.path.insert(0, {str(SUPPORT)!r})
from memory_peak import peak_kib
from tallystick.cli import main
status = main(sys.argv[1:])
print(peak_kib() / 1024, file=sys.stderr)
sys.exit(status)
"""


def peak_mib(*arguments: str, **settings: object) -> float:
    """The most memory that a command held; it must succeed."""
    command = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        **settings,  # type: ignore[call-overload]
    )
    err: bytes = command.communicate()[1]
    assert command.returncode == 0, err
    return float(err.splitlines()[-1])


def lines() -> Iterator[bytes]:
    for start in range(0, EVENTS, 1000):
        yield b"".join(
            b'{"kind":"load.tested","stream":"s:%d","body":{"n":%d}}\n' % (n % 1000, n)
            for n in range(start, start + 1000)
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("million")


@pytest.fixture(scope="module")
def million(folder: Path) -> tuple[Path, float]:
    """A ledger of a million events, and the memory that `append --nl -` took for them."""
    read, write = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            pipe.writelines(lines())
        os._exit(0)
    os.close(write)
    path = folder / "million.tally"
    peak = peak_mib("append", "--nl", "-", "-f", str(path), stdin=read)
    os.close(read)
    os.waitpid(writer, 0)
    return path, peak


def test_append(million: tuple[Path, float]) -> None:
    assert million[1] < LIMIT_MIB


@pytest.mark.parametrize(
    "arguments",
    [
        "tail",
        f"tail -n {EVENTS}",
        f"tail --nl -n {EVENTS}",
        "export",
        "log --json",
        "log --text nosuch",
        "verify --jobs 1",
        "replay --html report.html",
    ],
)
def test_reading(million: tuple[Path, float], arguments: str) -> None:
    assert peak_mib(*arguments.split(), "--file", str(million[0])) < LIMIT_MIB


def test_import(million: tuple[Path, float], folder: Path) -> None:
    export = folder / "million.jsonl.gz"
    assert peak_mib("export", "-o", str(export), "--file", str(million[0])) < LIMIT_MIB
    assert peak_mib("import", str(export), str(folder / "copy.tally")) < LIMIT_MIB
