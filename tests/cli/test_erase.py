"""erase, in the ledger and in its views."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger_files import bodies

from tallystick import Ledger, Session, Views


@pytest.mark.usefixtures("orders")
def test_erase_and_erase_again(tally: Callable[..., Any]) -> None:
    first = tally("erase", "3", "--reason", "asked for", "--yes")
    assert first.err == "erased the body of event 3; event 7 records it\n"
    again = tally("erase", "3", "--reason", "asked for", "--yes")
    assert again.err == "the body of event 3 was erased before; event 7 records it\n"
    assert again.out == first.out
    assert tally("erase", "4", "--reason", "x", "--yes", "--json").json["seq"] == 8
    assert bodies()[1] is None
    assert tally("verify").status == 0
    assert tally("erase", "2", "--reason", " ", "--yes").status == 2


def test_erase_is_forgotten_by_the_views_at_once(tally: Callable[..., Any]) -> None:
    with Ledger.open("agents.tally") as ledger, Session.start(ledger, label="a call") as session:
        session.message("user", "my pin is quetzalcoatl")
        seq = ledger.head().seq
    assert "quetzalcoatl" in tally("search", "pin").out.replace("[", "").replace("]", "")
    assert any(b"quetzalcoatl" in file.read_bytes() for file in Path().glob("agents.tally.views*"))
    assert tally("erase", str(seq), "--reason", "asked for", "--yes").status == 0
    assert not any(b"quetzalcoatl" in file.read_bytes() for file in Path().glob("agents.tally*"))


def test_erase_says_if_the_views_could_not_forget(tally: Callable[..., Any]) -> None:
    with Ledger.open("agents.tally") as ledger:
        ledger.append("note.kept", {"text": "x"})
    Path("agents.tally.views").write_text("something else")
    done = tally("erase", "2", "--reason", "asked for", "--yes")
    assert (done.status, done.out[:2]) == (3, "3:")
    assert "the views may still hold what was erased" in done.err


def test_erase_says_if_a_reader_keeps_the_text_in_the_views(
    tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallystick.projections.file.SCRUB_TIMEOUT_S", 0.1)
    with Ledger.open("agents.tally") as ledger, Session.start(ledger, label="a call") as session:
        session.message("user", "my pin is quetzalcoatl")
        seq = ledger.head().seq
    tally("sessions")
    reader = sqlite3.connect("agents.tally.views", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM messages").fetchall()
    done = tally("erase", str(seq), "--reason", "asked for", "--yes")
    reader.close()
    assert (done.status, done.err.splitlines()[0]) == (
        3,
        f"erased the body of event {seq}; event {seq + 2} records it",
    )
    assert "another program is reading" in done.err.splitlines()[1]
    tally("sessions")
    assert not any(b"quetzalcoatl" in file.read_bytes() for file in Path().glob("agents.tally*"))


def test_erase_removes_the_copy_of_the_views_in_the_cache(
    tally: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
    with Ledger.open("agents.tally") as ledger:
        ledger.append("note.kept", {"text": "x"})
        ledger_id = ledger.head().ledger_id
        assert ledger_id is not None
        copy = Path("cache/tallystick") / f"{ledger_id.hex()}.views"
        copy.parent.mkdir(parents=True)
        with Views(ledger, path=copy) as views:
            views.catch_up()
    assert copy.exists()
    assert tally("erase", "2", "--reason", "asked for", "--yes").status == 0
    assert list(copy.parent.glob("*.views*")) == []


@pytest.mark.usefixtures("orders")
def test_erase_of_what_cannot_be_decoded(
    tally: Callable[..., Any], orders: Path, alter: Callable[..., None]
) -> None:
    alter(orders, 4, meta=b"no JSON")
    assert tally("erase", "4", "--reason", "x", "--yes").status == 0


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize(
    ("keys", "status", "said"),
    [(b"y\n", 0, "erased the body"), (b"n\n", 2, "nothing was erased"), (b"\x03", 130, "tally: interrupted")],
)
def test_erase_asks_on_a_terminal(
    terminal: Callable[..., tuple[int, str]], keys: bytes, status: int, said: str
) -> None:
    result, shown = terminal("erase", "3", "--reason", "x", after="[y/N]: ", keys=keys)
    assert result == status, shown
    assert "3  order.shipped  order:0  {" in shown
    assert f"\n{said}" in shown
    assert (bodies()[1] is None) == (status == 0)
