"""The vector ledger, its lines altered and put together again, and what the second verifier says of it."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import second_verifier
from blake3 import blake3
from loading import load
from second_verifier import SCRIPT

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
EXPORT = VECTORS / "ledger.jsonl"
HEAD = (VECTORS / "ledger.head").read_text("ascii").strip()
LEDGER_ID = HEAD.split(":")[1]
MAKE = load(VECTORS / "make.py", "vectors_make")

Line = dict[str, Any]

SCHEMA = """
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, stream TEXT NOT NULL, key TEXT,
  meta BLOB, salt BLOB, body BLOB, body_hash BLOB NOT NULL, prev_hash BLOB NOT NULL, hash BLOB NOT NULL
)
"""


def run(*arguments: str | Path, stdin: bytes | None = None) -> tuple[int, str]:
    """Run the script as a command: exit status, and the one line that it printed."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err
    if done.returncode != 2:
        assert (out + err).count("\n") == 1 and (out == "") == (done.returncode == 3)
    return done.returncode, (out + err).strip()


def look(path: Path, data: bytes | None = None) -> tuple[int, str]:
    """The same in this process, which is faster; `data` is written to the file first."""
    if data is not None:
        path.write_bytes(data)
    return second_verifier.look(path)


def verdict(line: str) -> tuple[str, int, str]:
    """What a BROKEN line says: ('BROKEN', seq, word)."""
    match = re.fullmatch(r"(BROKEN) seq (\d+): ([a-z ]+): .+", line)
    assert match, line
    return match[1], int(match[2]), match[3]


def lines() -> list[Line]:
    return [json.loads(line) for line in EXPORT.read_text("utf-8").removesuffix("\n").split("\n")]


def dump(altered: list[Line]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in altered).encode()


def rehash(altered: list[Line], start: int) -> None:
    """Make every hash from event `start` on follow again, as a careful forger would."""
    for at in range(start - 1, len(altered)):
        line = altered[at]
        if at:
            line["prev_hash"] = altered[at - 1]["hash"]
        if line["body"] is not None:
            salt, body = bytes.fromhex(line["salt"]), line["body"].encode()
            line["body_hash"] = blake3(salt + body).hexdigest()
        own_hash(line)


def own_hash(line: Line) -> None:
    """Make the line's hash follow from its other columns, whatever they say."""
    meta = None if line["meta"] is None else line["meta"].encode()
    fixed = (bytes.fromhex(line["body_hash"]), bytes.fromhex(line["prev_hash"]))
    event = MAKE.Event(line["seq"], line["at"], line["kind"], line["stream"], line["key"], meta, *fixed)
    line["hash"] = event.hash().hex()


def column_value(name: str, value: Any) -> Any:
    if value is None or name in ("seq", "at", "kind", "stream", "key"):
        return value
    return value.encode() if name in ("meta", "body") else bytes.fromhex(value)


def sqlite_ledger(path: Path, rows: list[Line]) -> Path:
    database = sqlite3.connect(path)
    database.execute("PRAGMA page_size=4096")
    database.execute(SCHEMA)
    for row in rows:
        values = [column_value(name, value) for name, value in row.items()]
        database.execute("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?,?)", values)
    database.commit()
    database.close()
    return path
