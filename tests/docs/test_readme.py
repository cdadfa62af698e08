"""README's tour is what happens: its commands and its Python are run, and their output compared.

Output is compared after hashes, ids and times are masked. `python tests/docs/test_readme.py`
writes the output of today into the README.
"""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r"```(console|python)\n(.*?)```\n", re.DOTALL)
WIDTH = 100
MASKS = [
    (re.compile(r"\b[0-9a-f]{32,64}\b"), "<hex>"),
    (re.compile(r"\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d\.\d+Z?"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)? (KiB|MiB)"), "<size>"),
    (re.compile(r"\b(20\d\d-)?\d\d-\d\d \d\d:\d\d\b(?!:)"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)? m?s\b"), "<duration>"),
    (re.compile(r"\bdec_[0-9A-Z]{8,26}\b"), "<decision>"),
    (
        re.compile(r"^[0-9a-hjkmnp-tv-z]{8,10}(?=  <time>)|(?<=<time>  )[0-9a-hjkmnp-tv-z]{8,10}\b", re.M),
        "<id>",
    ),
    (re.compile(r"(?<=\S) {2,}"), "  "),
]


def run_on_terminal(command: str, folder: Path) -> str:
    """What a person sees: the command's output, stdout and stderr, on a terminal of WIDTH columns."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    scripts = Path(sys.executable).parent
    environment = {
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "HOME": str(folder),
        "TERM": "dumb",
        "NO_COLOR": "1",
        "COLUMNS": str(WIDTH),
        "LANG": "C.UTF-8",
    }
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    output = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # Linux says so when the other side is gone
            break
        if not piece:
            break
        output += piece
    os.close(parent)
    process.wait()
    lines = output.decode().replace("\r\n", "\n").splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def render(text: str, folder: Path) -> str:
    """The text with the output of each command replaced by what it prints now."""
    shutil.copytree(ROOT / "docs", folder / "docs")

    def fresh(block: re.Match[str]) -> str:
        language, content = block.groups()
        if language == "python":
            for _ in range(2):  # whoever tries it tries it again
                result = subprocess.run(
                    [sys.executable, "-c", content], cwd=folder, capture_output=True, text=True, check=False
                )
                assert result.returncode == 0, f"README's Python fails:\n{result.stderr}"
            return block[0]
        commands = [line[2:] for line in content.splitlines() if line.startswith("$ ")]
        shown = "".join(f"$ {command}\n{run_on_terminal(command, folder)}" for command in commands)
        return f"```console\n{shown}```\n"

    return BLOCK.sub(fresh, text)


def masked(text: str) -> str:
    for pattern, name in MASKS:
        text = pattern.sub(name, text)
    return text


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_the_tour_is_what_happens(tmp_path: Path) -> None:
    text = README.read_text("utf-8")
    assert BLOCK.search(text), "README shows no commands"
    assert masked(render(text, tmp_path)) == masked(text), "run: python tests/docs/test_readme.py"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        README.write_text(render(README.read_text("utf-8"), Path(temporary)), encoding="utf-8")
