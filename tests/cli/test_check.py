"""verify and head: the three words, their statuses, and the anchors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick import Ledger


def test_unanchored_is_good_unless_an_anchor_is_asked_for(tally: Callable[..., Any], orders: Path) -> None:
    result = tally("verify")
    assert result.status == 0
    assert result.out.startswith("UNANCHORED 6 events: every hash derived again, but nothing outside")
    assert "keep the line of `tally head` elsewhere" in result.err
    assert tally("verify", "--anchored").status == 3
    assert tally("verify", "--anchored", "--json").json["verdict"] == "UNANCHORED"


def test_verified_by_a_head_kept_elsewhere(tally: Callable[..., Any], orders: Path) -> None:
    head = tally("head").out
    Path("head.txt").write_text(head)
    Path("head.json").write_text(tally("head", "--json").out)
    for kept in ("head.txt", "head.json", head.strip(), head.strip().split(":", 2)[2]):
        result = tally("verify", "--expect", kept, "--anchored")
        assert (result.status, result.err) == (0, "")
        assert result.out.startswith("VERIFIED 6 events")
    tally("append", "a.b")
    later = tally("verify", "--expect", "head.txt")
    assert later.status == 0
    assert "the anchor vouches for events 1 to 6 only" in later.out
    assert tally("verify", "--expect", "head.txt", "--anchored").status == 3


def test_a_json_document_that_is_no_head(tally: Callable[..., Any], orders: Path) -> None:
    for text in ('{"line": 3}', "{}", '{"line": "6:ab"}', '{"line"', "[1]"):
        Path("head.json").write_text(text)
        result = tally("verify", "--expect", "head.json")
        assert result.status == 2
        assert "the file head.json holds no head line" in result.err


def test_broken_names_the_event(tally: Callable[..., Any], orders: Path, alter: Callable[..., None]) -> None:
    head = tally("head").out.strip()
    alter(orders, 4, body=b'{"order":30}')
    for arguments in ([], ["--expect", head], ["--anchored"], ["--range", "4:5"], ["--stream", "order:1"]):
        result = tally("verify", *arguments)
        assert result.status == 1
        assert result.out.startswith("BROKEN at event 4: edited: ")
    found = tally("verify", "--json")
    assert found.status == 1
    assert found.json["verdict"] == "BROKEN"
    assert found.json["finding"]["seq"] == 4
    assert found.json["finding"]["problem"] == "edited"
    assert tally("verify", "--range", "1:3").status == 0
    assert tally("verify", "--range", "5:").status == 0
    assert tally("verify", "--stream", "order:0").status == 0


def test_a_wrong_anchor_breaks_it(tally: Callable[..., Any], orders: Path) -> None:
    head = tally("head", "--json").json
    other = f"tally1:{head['ledger_id']}:{head['seq']}:{'0' * 64}"
    assert tally("verify", "--expect", other).status == 1
    later = f"tally1:{head['ledger_id']}:{head['seq'] + 1}:{head['hash']}"
    result = tally("verify", "--expect", later)
    assert result.status == 1
    assert "truncated" in result.out
    assert tally("verify", "--expect", "0" * 32).status == 2


def test_a_log_that_lost_its_end(tally: Callable[..., Any], orders: Path, tmp_path: Path) -> None:
    whole = orders.read_bytes()
    tally("append", "a.b")
    orders.write_bytes(whole)
    for name in ("-wal", "-shm"):
        Path(f"{orders}{name}").unlink(missing_ok=True)
    result = tally("verify")
    assert result.status == 1
    assert "BROKEN at event 7: truncated" in result.out
    refused = tally("append", "a.b")
    assert refused.status == 1
    assert "its end was lost" in refused.err
    assert tally("log", "-n", "1").status == 0


def test_the_report_as_json(tally: Callable[..., Any], orders: Path) -> None:
    tally("erase", "3", "--reason", "x", "--yes")
    head = tally("head").out.strip()
    assert tally("verify", "--expect", head, "--json").json == {
        "verdict": "VERIFIED",
        "events": 7,
        "first": 1,
        "last": 7,
        "scope": "chain",
        "erased": 1,
        "anchored_to": 7,
        "head": head,
        "finding": None,
    }
    part = tally("verify", "--range", "2:3", "--json").json
    assert (part["first"], part["last"], part["events"], part["head"]) == (2, 3, 2, None)


def test_several_processes(tally: Callable[..., Any], orders: Path) -> None:
    assert tally("verify", "--jobs", "2").out.startswith("UNANCHORED 6 events")


def test_head_is_what_the_library_says(tally: Callable[..., Any], orders: Path) -> None:
    with Ledger.open(orders, read_only=True) as ledger:
        head = ledger.head()
    assert tally("head").out == f"{head}\n"
    assert head.ledger_id is not None
    assert tally("head", "--json").json == {
        "ledger_id": head.ledger_id.hex(),
        "seq": 6,
        "hash": head.hash.hex(),
        "line": str(head),
    }


@pytest.mark.parametrize(
    ("no_colour", "start"), [({}, "\x1b[33m\x1b[1mUNANCHORED\x1b[0m 6"), ({"NO_COLOR": "1"}, "UNANCHORED 6")]
)
def test_colours_on_a_terminal(
    terminal: Callable[..., tuple[int, str]], orders: Path, no_colour: dict[str, str], start: str
) -> None:
    status, shown = terminal("verify", **no_colour)
    assert status == 0
    assert shown.startswith(start)
