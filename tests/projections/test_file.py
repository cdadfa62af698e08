"""The views file: where it goes, what is noticed of it, and that other people's files are left alone."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tallystick import Ledger, MemoryStore, NotViews, Unavailable, Views, views_of

Open = Callable[..., Ledger]


@pytest.fixture
def filled(ledger: Ledger, make: Any) -> Ledger:
    for number in range(30):
        ledger.record(make.session(f"{number:03d}", ["the blue mug", "a red cup"]))
    return ledger


def views_path(ledger: Ledger) -> Path:
    path = views_of(ledger).path
    assert path is not None
    return path


def built(ledger: Ledger) -> Path:
    """The complete views of a ledger in a file that nobody has open."""
    with Views(ledger) as views:
        views.catch_up()
        path = views.path
    assert path is not None and not Path(f"{path}-wal").exists()
    return path


# -- its place ---------------------------------------------------------------------------------


def test_the_views_are_beside_the_ledger(filled: Ledger, tmp_path: Path) -> None:
    assert views_path(filled) == tmp_path / "a.tally.views"
    assert not views_path(filled).exists(), "nothing is written before it is read"
    views_of(filled).catch_up()
    assert views_path(filled).exists() and views_of(filled).elsewhere is None


def test_the_views_are_beside_the_real_file_behind_a_link(filled: Ledger, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.tally"
    link.symlink_to(tmp_path / "a.tally")
    with Ledger.open(link, read_only=True) as linked:
        assert views_path(linked) == tmp_path / "a.tally.views"


def test_a_ledger_without_a_file_has_views_in_memory(make: Any) -> None:
    with Ledger.over(MemoryStore()) as ledger:
        ledger.record([make.started()])
        views = views_of(ledger)
        assert views.path is None
        assert len(views.rows("SELECT * FROM sessions")) == 1
        ledger.erase(2, "asked for")
        assert views.rows("SELECT label FROM sessions") == [{"label": None}]
        views.rebuild()
        assert len(views.rows("SELECT * FROM sessions")) == 1


def test_a_path_can_be_given(filled: Ledger, tmp_path: Path) -> None:
    with Views(filled, path=tmp_path / "other.sqlite") as views:
        assert len(views.rows("SELECT * FROM sessions")) == 30
    assert (tmp_path / "other.sqlite").exists() and not (tmp_path / "a.tally.views").exists()


def test_a_place_that_is_not_there_is_an_error(filled: Ledger, tmp_path: Path) -> None:
    with Views(filled, path=tmp_path / "missing" / "a.views") as views, pytest.raises(Unavailable):
        views.catch_up()


def test_the_views_are_as_private_as_the_ledger(filled: Ledger, tmp_path: Path) -> None:
    (tmp_path / "a.tally").chmod(0o600)
    assert stat.S_IMODE(built(filled).stat().st_mode) == 0o600


READ_ONLY = """
import fcntl, os, sys
from pathlib import Path
from tallystick import Ledger, views_of
from tallystick.cli import main
import tallystick.projections.views, sqlite_utils, tallystick.cli.views, difflib
sqlite_utils.Database(memory=True).close()  # loads the rest while it can be read
if os.getuid() == 0:  # nobody may write into a folder of root's
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.environ["XDG_CACHE_HOME"] = sys.argv[2]
with Ledger.open(sys.argv[1], read_only=True) as ledger:
    views = views_of(ledger)
    print(len(views.rows("SELECT * FROM sessions")), views.path, views.elsewhere, sep="|")
sys.exit(main(["-f", sys.argv[1], "views", "path"]))
"""


def open_to_all(folder: Path) -> None:
    """Let a user that is nobody reach a folder."""
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)


def test_a_ledger_in_a_read_only_folder_has_its_views_in_the_cache(
    open_ledger: Open, make: Any, tmp_path: Path
) -> None:
    folder, cache = tmp_path / "kept", tmp_path / "cache"
    folder.mkdir()
    cache.mkdir()
    with open_ledger("kept/a.tally") as ledger:
        ledger.record([make.started()])
        ledger_id = ledger.stats()["ledger_id"]
    (folder / "a.tally").chmod(0o444)
    open_to_all(tmp_path)
    folder.chmod(0o555)
    cache.chmod(0o777)
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(folder / "a.tally"), str(cache)],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        folder.chmod(0o755)
    place = cache / "tallystick" / f"{ledger_id}.views"
    assert done.stdout.splitlines() == [f"1|{place}|{folder} cannot be written", str(place)], done.stderr
    assert done.stderr == f"the views are in {place}, since {folder} cannot be written\n"
    assert place.exists() and not (folder / "a.tally.views").exists()
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700


def test_a_folder_that_turns_out_to_be_read_only(
    filled: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `access` says of a place is not always so: the error of opening it counts, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = os.open

    def refuse(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path) == str(tmp_path / "a.tally.views"):
            raise OSError(30, "Read-only file system")
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)
    views = views_of(filled)
    assert len(views.rows("SELECT * FROM sessions")) == 30
    assert views.path is not None and views.path.parent == tmp_path / "cache" / "tallystick"
    assert views.elsewhere == f"{tmp_path} cannot be written"


def test_nowhere_to_write(filled: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a.tally"))  # a file, so no directory can be made
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    views = views_of(filled)
    assert len(views.rows("SELECT * FROM sessions")) == 30  # built in memory
    assert (views.path, views.elsewhere) == (
        None,
        f"neither {tmp_path} nor {tmp_path / 'a.tally' / 'tallystick'} can be written",
    )


# -- what is noticed ---------------------------------------------------------------------------


def damage_nothing(path: Path) -> None:
    """Views that are fine stay as they are."""


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    os.truncate(path, 0)


def cut_in_the_header(path: Path) -> None:
    os.truncate(path, 50)


def cut_to_a_page(path: Path) -> None:
    os.truncate(path, 8192)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_a_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def scribble(path: Path) -> None:
    """Noise in the middle, where tables and indexes are."""
    data = bytearray(path.read_bytes())
    data[4096:] = random.Random(1).randbytes(len(data) - 4096)
    path.write_bytes(data)


def drop_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as con:
        con.execute("DROP TABLE actions")


def drop_its_index(path: Path) -> None:
    with closing(sqlite3.connect(path)) as con:
        con.execute("DROP TABLE messages_fts")


def drop_what_it_says_of_itself(path: Path) -> None:
    with closing(sqlite3.connect(path)) as con:
        con.execute("DROP TABLE tally_projections")


def empty_what_it_says_of_itself(path: Path) -> None:
    with closing(sqlite3.connect(path)) as con:
        con.execute("DELETE FROM tally_views")
        con.commit()


def say_nonsense(path: Path) -> None:
    with closing(sqlite3.connect(path)) as con:
        con.execute("UPDATE tally_projections SET tables = 'x', seq = 'y'")
        con.commit()


def of_a_newer_engine(path: Path) -> None:
    with closing(sqlite3.connect(path)) as con:
        con.execute("PRAGMA user_version=99")
        con.execute("ALTER TABLE tally_projections RENAME TO tally_readers")
        con.execute("CREATE TABLE tally_future (x)")
        con.execute("CREATE VIEW a_view AS SELECT * FROM tally_future")


DAMAGES = [
    delete,
    empty,
    cut_in_the_header,
    cut_to_a_page,
    cut_in_half,
    cut_a_byte,
    scribble,
    drop_a_table,
    drop_its_index,
    drop_what_it_says_of_itself,
    empty_what_it_says_of_itself,
    say_nonsense,
    of_a_newer_engine,
]


@pytest.mark.parametrize("damage", [damage_nothing, *DAMAGES])
def test_a_file_that_is_not_as_it_should_be_is_built_anew(
    filled: Ledger, damage: Callable[[Path], None], dump: Any, at_once: Any
) -> None:
    path = built(filled)
    damage(path)
    with Views(filled) as views:
        assert views.status()
        assert dump(views) == at_once(filled)
        assert {status.state for status in views.status()} == {"current"}
        assert len(views.search("mug")) == 20
    with Views(filled) as views:
        tables = {row["name"] for row in views.rows("SELECT name FROM sqlite_schema")}
        assert "tally_future" not in tables and "a_view" not in tables


@pytest.mark.parametrize("damage", [damage_nothing, *DAMAGES])
def test_the_same_while_the_file_is_open(
    filled: Ledger, damage: Callable[[Path], None], dump: Any, at_once: Any, make: Any
) -> None:
    """The handle goes on; what it had read may serve it once more, and the next that opens it notices."""
    path = built(filled)
    with Views(filled) as views:
        assert len(views.rows("SELECT * FROM sessions")) == 30
        views.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        damage(path)
        filled.record(make.session("later", ["a green bowl"]))
        assert len(views.rows("SELECT * FROM sessions")) == 31
    with Views(filled) as views:
        assert dump(views) == at_once(filled)


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_never_raises_anything_strange(
    filled: Ledger, dump: Any, at_once: Any, seed: int
) -> None:
    """Whatever bytes change: the views are read, or refused because the file is not theirs any more."""
    path = built(filled)
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 20, 400))):
        data[rng.randrange(100, len(data))] = rng.randrange(256)
    path.write_bytes(data)
    with Views(filled) as views:
        for sql in ("SELECT count(*) FROM messages", "SELECT * FROM sessions", "SELECT * FROM streams"):
            try:
                views.rows(sql)
            except sqlite3.Error as error:
                pytest.fail(f"{type(error).__name__}: {error}")
        views.search("mug")
        views.rebuild()
        assert dump(views) == at_once(filled)


def test_views_of_another_ledger_are_built_anew(
    open_ledger: Open, make: Any, dump: Any, at_once: Any
) -> None:
    first, second = open_ledger("a.tally"), open_ledger("b.tally")
    first.record(make.session("01A", ["only in the first", "zebra"]))
    second.record(make.session("02B", ["only in the second"]))
    path = built(first)
    other = Path(str(path).replace("a.tally", "b.tally"))
    shutil.copy(path, other)
    with Views(second) as views:
        assert [row["id"] for row in views.rows("SELECT id FROM sessions")] == ["02B"]
        assert views.search("zebra") == []
        assert dump(views) == at_once(second)
    assert b"zebra" not in other.read_bytes()


def test_a_history_that_was_replaced_is_noticed(
    tmp_path: Path, open_ledger: Open, reproducible: Any, make: Any, dump: Any, at_once: Any
) -> None:
    """A backup restored, another tail grown: the ledger's hash at that seq is not the one that was kept."""
    with open_ledger(**reproducible()) as ledger:
        ledger.record([make.started("01A")])
        ledger.backup(tmp_path / "backup.tally")
        ledger.record([make.message("of the lost tail"), make.started("lost")])
        built(ledger)
    for suffix in ("", ".head"):
        os.replace(tmp_path / f"backup.tally{suffix}", tmp_path / f"a.tally{suffix}")
    with open_ledger() as restored:
        with Views(restored) as views:
            assert {status.state for status in views.status()} == {"stale"}
            assert [row["id"] for row in views.rows("SELECT id FROM sessions")] == ["01A"]
        restored.record([make.started("other"), make.started("tail"), make.started("longer")])
    with open_ledger() as restored:
        assert dump(views_of(restored)) == at_once(restored)
        assert views_of(restored).search("lost") == []


# -- what is not ours --------------------------------------------------------------------------


def a_text(path: Path) -> None:
    path.write_text("Views of the Alps, a travel diary.\n" * 50)


def a_short_text(path: Path) -> None:
    path.write_text("notes")


def a_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as con:
        con.execute("CREATE TABLE views (x)")
        con.execute("INSERT INTO views VALUES (1)")
        con.commit()


def a_ledger(path: Path) -> None:
    Ledger.open(path).close()


@pytest.mark.parametrize("other", [a_text, a_short_text, a_database, a_ledger])
def test_a_file_of_others_is_not_touched(
    filled: Ledger, tmp_path: Path, other: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.tally.views"
    other(path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    with Views(filled) as views:
        for attempt in (views.catch_up, views.rebuild, views.status, lambda: views.search("x")):
            with pytest.raises(NotViews, match="move it away"):
                attempt()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert not Path(f"{path}-wal").exists()


def test_a_folder_in_its_place(filled: Ledger, tmp_path: Path) -> None:
    (tmp_path / "a.tally.views").mkdir()
    with Views(filled) as views, pytest.raises(NotViews, match="is a directory"):
        views.catch_up()


# -- other programs ----------------------------------------------------------------------------


def test_sqlite_utils_opens_it(filled: Ledger) -> None:
    path = built(filled)
    command = [sys.executable, "-m", "sqlite_utils"]
    run = subprocess.run([*command, "tables", str(path), "--nl"], capture_output=True, text=True, check=True)
    assert '{"table": "sessions"}' in run.stdout.splitlines()
    run = subprocess.run(
        [*command, "search", str(path), "messages", "mug", "-c", "text", "--limit", "1", "--nl"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == '{"text": "the blue mug"}\n'


def test_any_sqlite_opens_it(filled: Ledger) -> None:
    """As Datasette does: a plain connection, read-only, while the views are in use."""
    views_of(filled).catch_up()
    with closing(sqlite3.connect(f"file:{views_path(filled)}?mode=ro", uri=True)) as con:
        assert con.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert con.execute("SELECT count(*) FROM sessions").fetchone() == (30,)
        found = con.execute("SELECT count(*) FROM messages_fts WHERE messages_fts MATCH 'mug'").fetchone()
        assert found == (30,)
        # How Datasette finds the index of a table.
        like = '%VIRTUAL TABLE%USING FTS%content="messages"%'
        sql = "SELECT name FROM sqlite_schema WHERE rootpage = 0 AND sql LIKE ?"
        assert con.execute(sql, (like,)).fetchall() == [("messages_fts",)]
