"""import, the inverse of export."""

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
from second_verifier import look

from tallystick import Ledger
from tallystick.cli import lines

pytestmark = pytest.mark.usefixtures("nearby")


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
    said_status, said = look("log.jsonl")
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
        assert look("log.gz")[0] == 1
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
