"""The tables that `apply` writes to: what is read is what was written, whatever waits and was kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples

from tallystick import BadRow, Table
from tallystick.projections import tables as module
from tallystick.projections.file import ViewsFile
from tallystick.projections.tables import Rows

NOTES = Table(
    {"id": int, "text": str, "tags": list, "facts": dict, "done": bool, "weight": float, "raw": bytes},
    pk="id",
    indexes=("done",),
    search=("text",),
)
WORDS = Table({"word": str, "place": str, "count": int}, pk=("word", "place"), search=("place", "word"))
NAMED = Table({"name": str, "text": str}, pk="name", search=("text",))


@pytest.fixture
def file() -> Iterator[ViewsFile]:
    file = ViewsFile(None, bytes(16))
    file.query_only(False)
    for name, table in {"notes": NOTES, "words": WORDS, "named": NAMED}.items():
        file.create(name, table)
    yield file
    file.close()


@pytest.fixture
def notes(file: ViewsFile) -> Rows:
    return Rows(file.con, "notes", NOTES)


def stored(rows: Rows, table: str = "notes") -> list[Any]:
    rows.flush()
    return rows._con.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


FULL = {
    "id": 1,
    "text": "blue mug",
    "tags": ["a", {"b": [1]}],
    "facts": {"z": None, "a": 1},
    "done": True,
    "weight": 0.5,
    "raw": b"\0\xff",
}


def test_a_row_comes_back_as_it_was_put(notes: Rows) -> None:
    notes.put(FULL)
    assert notes.get(1) == FULL
    assert stored(notes) == [(1, "blue mug", '["a",{"b":[1]}]', '{"a":1,"z":null}', 1, 0.5, b"\0\xff")]
    assert notes.get(1) == FULL
    notes.discard()
    assert notes.get(1) == FULL


def test_columns_not_given_are_none(notes: Rows) -> None:
    notes.put({"id": 1})
    assert notes.get(1) == {**dict.fromkeys(NOTES.columns), "id": 1}


def test_what_is_given_out_is_a_copy(notes: Rows) -> None:
    row = dict(FULL)
    notes.put(row)
    row["text"] = "changed by the caller"
    got = notes.get(1)
    assert got is not None
    got["tags"].append("changed too")
    got["text"] = "and this"
    assert notes.get(1) == FULL


def test_put_replaces_and_update_changes(notes: Rows) -> None:
    notes.put(FULL)
    notes.put({"id": 1, "text": "other"})
    notes.update(1, tags=["x"], done=False)
    assert notes.get(1) == {
        **dict.fromkeys(NOTES.columns),
        "id": 1,
        "text": "other",
        "tags": ["x"],
        "done": False,
    }


def test_add_counts(notes: Rows) -> None:
    words = Rows(notes._con, "words", WORDS)
    words.put({"word": "mug", "place": "desk"})
    words.add(("mug", "desk"), count=2)
    words.flush()
    words.add(("mug", "desk"), count=3)
    assert words.get(("mug", "desk")) == {"word": "mug", "place": "desk", "count": 5}


def test_change_is_in_place(notes: Rows) -> None:
    notes.put(FULL)
    notes.flush()
    row = notes.change(1)
    assert row is not None and row["done"] == 1
    row["weight"] = 2.0
    assert notes.get(1) == {**FULL, "weight": 2.0}
    assert stored(notes)[0][5] == 2.0
    assert notes.change(2) is None


def test_delete_find_and_delete_where(notes: Rows) -> None:
    for number in range(1, 6):
        notes.put({"id": number, "text": "odd" if number % 2 else "even"})
    notes.delete(5)
    notes.delete(99)
    assert [row["id"] for row in notes.find(text="odd")] == [1, 3]
    assert notes.find(text="odd", id=3)[0]["id"] == 3
    assert len(notes.find()) == 4
    notes.delete_where(text="even")
    assert notes.get(2) is None
    assert [row[0] for row in stored(notes)] == [1, 3]
    notes.delete_where(tags=None)
    assert stored(notes) == []


@pytest.mark.parametrize(
    ("doing", "problem"),
    [
        (lambda notes: notes.put({"id": 1, "txt": "x"}), "no column 'txt'"),
        (lambda notes: notes.put({"text": "x"}), r"needs its key \(id\)"),
        (lambda notes: notes.put({**FULL, "tags": "x"}), "tags takes a list or a dict"),
        (lambda notes: notes.update(1, text="x"), "no row 1 to update"),
        (lambda notes: notes.add(1, weight=1), "no row 1 to add to"),
        (lambda notes: (notes.put(FULL), notes.update(1, txt="x")), "no column 'txt'"),
        (lambda notes: (notes.put(FULL), notes.update(1, id=2)), "a key cannot be changed"),
        (lambda notes: notes.find(txt="x"), "no column 'txt'"),
        (lambda notes: notes.delete_where(txt="x"), "no column 'txt'"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(notes: Rows, doing: Any, problem: str) -> None:
    with pytest.raises(BadRow, match=problem):
        doing(notes)


@pytest.mark.parametrize(
    "row",
    [
        {"id": "1"},
        {"id": 1.0},
        {"id": 1 << 63},
        {"id": 1, "text": 5},
        {"id": 1, "text": b"x"},
        {"id": 1, "weight": "heavy"},
        {"id": 1, "raw": "text"},
        {"id": 1, "done": "yes"},
        {"id": 1, "done": 0.5},
    ],
)
def test_values_of_another_type_are_refused_when_written(notes: Rows, row: dict[str, Any]) -> None:
    """SQLite would store them, some converted: what is read would depend on when it is read."""
    notes.put(row)
    with pytest.raises(msgspec.ValidationError):
        notes.flush()


def test_a_key_of_several_columns_needs_all(notes: Rows) -> None:
    words = Rows(notes._con, "words", WORDS)
    with pytest.raises(BadRow, match=r"needs its key \(word, place\)"):
        words.put({"word": "mug"})


def found(con: sqlite3.Connection, table: str, query: str) -> list[Any]:
    sql = f"SELECT t.* FROM {table}_fts AS f JOIN {table} AS t ON t.rowid = f.rowid WHERE {table}_fts MATCH ?"
    rows = con.execute(sql, (query,)).fetchall()
    con.execute(f"INSERT INTO {table}_fts ({table}_fts, rank) VALUES ('integrity-check', 1)")
    return rows


@pytest.mark.parametrize("reread", [False, True])
def test_the_text_index_follows_its_rows(file: ViewsFile, reread: bool) -> None:
    rows = Rows(file.con, "named", NAMED)

    def flush() -> None:
        rows.flush()
        if reread:
            rows.discard()

    rows.put({"name": "a", "text": "blue mug"})
    rows.put({"name": "b", "text": None})
    flush()
    assert [row[0] for row in found(file.con, "named", "mug")] == ["a"]
    rows.update("a", text="red cup")
    rows.put({"name": "b", "text": "a mug at last"})
    flush()
    assert [row[0] for row in found(file.con, "named", "mug")] == ["b"]
    assert [row[0] for row in found(file.con, "named", "cup")] == ["a"]
    rows.delete("b")
    rows.delete("never there")
    rows.put({"name": "c", "text": "mug"})
    rows.delete("c")
    flush()
    assert found(file.con, "named", "mug") == []


def test_the_text_index_survives_a_vacuum(file: ViewsFile) -> None:
    """Rows with text keys have numbers that VACUUM might change, in theory; the index knows rows by them."""
    rows = Rows(file.con, "named", NAMED)
    for number in range(50):
        rows.put({"name": f"n{number}", "text": f"word{number}"})
    rows.flush()
    for number in range(0, 50, 2):
        rows.delete(f"n{number}")
    rows.flush()
    file.con.execute("VACUUM")
    assert found(file.con, "named", "word7") == [("n7", "word7")]


keys = st.integers(1, 6)
words = st.sampled_from([None, "", "blue", "blue mug", "mug mug"])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, words),
        st.tuples(st.just("update"), keys, words),
        st.tuples(st.just("change"), keys, words),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("delete_where"), words),
        st.tuples(st.just("get"), keys),
        st.just(("flush",)),
        st.just(("discard",)),
    ),
    max_size=40,
)


@pytest.mark.parametrize("keyed", ["integer", "text", "both"])
def test_like_a_dict_with_an_index(keyed: str) -> None:
    """Whatever is done in whatever order, a table is a dict of rows, and its index finds what they hold."""
    table = {
        "integer": Table({"id": int, "text": str}, pk="id", search=("text",)),
        "text": Table({"id": str, "text": str}, pk="id", search=("text",)),
        "both": Table({"id": int, "more": str, "text": str}, pk=("id", "more"), search=("text",)),
    }[keyed]

    def full(key: int) -> dict[str, Any]:
        return {"id": str(key) if keyed == "text" else key} | ({"more": "m"} if keyed == "both" else {})

    def key_of(key: int) -> Any:
        return tuple(full(key).values()) if keyed == "both" else full(key)["id"]

    @settings(max_examples=examples(60), deadline=None)
    @given(operations)
    def run(operations: list[tuple[Any, ...]]) -> None:
        file = ViewsFile(None, bytes(16))
        file.query_only(False)
        file.create("t", table)
        rows = Rows(file.con, "t", table)
        model: dict[int, Any] = {}
        for operation in operations:
            match operation:
                case ("put", key, text):
                    rows.put({**full(key), "text": text})
                    model[key] = text
                case ("update", key, text) if key in model:
                    rows.update(key_of(key), text=text)
                    model[key] = text
                case ("change", key, text):
                    row = rows.change(key_of(key))
                    assert (row is not None) == (key in model)
                    if row is not None:
                        row["text"] = model[key] = text
                case ("delete", key):
                    rows.delete(key_of(key))
                    model.pop(key, None)
                case ("delete_where", text):
                    rows.delete_where(text=text)
                    model = {key: value for key, value in model.items() if value != text}
                case ("get", key):
                    row = rows.get(key_of(key))
                    assert row == ({**full(key), "text": model[key]} if key in model else None)
                case ("flush",):
                    rows.flush()
                case ("discard",):
                    rows.flush()
                    rows.discard()
        rows.flush()
        assert {row["id"]: row["text"] for row in rows.find()} == {
            full(key)["id"]: text for key, text in model.items()
        }
        for word in ("blue", "mug"):
            held = {full(key)["id"] for key, text in model.items() if word in (text or "").split()}
            assert {row[0] for row in found(file.con, "t", word)} == held
        file.close()

    run()


def test_few_rows_are_kept_in_memory(notes: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_ROWS", 10)
    for number in range(100):
        notes.put({"id": number, "text": str(number)})
    notes.flush()
    for number in range(100):
        row = notes.get(number)
        assert row is not None and row["text"] == str(number)
    assert len(notes._kept) + len(notes._kept_before) <= 20


def test_few_rows_wait_in_memory(notes: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_ROWS", 10)
    for number in range(100):
        notes.put({"id": number})
        assert len(notes._waiting) <= 10
    assert len(stored(notes)) == 100
