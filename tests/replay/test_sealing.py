"""The digest of a projection: as docs/replay.md says, byte by byte; the same however tables were built."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tallystick import (
    BUILT_IN,
    BadProjection,
    Durability,
    Event,
    Ledger,
    MemoryStore,
    Projection,
    ProjectionDigest,
    Table,
    Tables,
    Views,
    seal_projections,
)

COLUMNS: dict[str, type] = {
    "id": str, "n": int, "x": float, "raw": bytes, "flag": bool, "items": list, "more": dict
}  # fmt: skip
TYPES = {"id": "TEXT", "n": "INTEGER", "x": "REAL", "raw": "BLOB", "flag": "INTEGER", "items": "TEXT"}
TYPES |= {"more": "TEXT"}


class Things(Projection):
    name = "things"
    version = 7
    tables = {  # noqa: RUF012
        "things": Table(columns=COLUMNS, pk=("id", "n")),
        "counts": Table(columns={"kind": str, "count": int}, pk="kind"),
    }

    def apply(self, event: Event, tables: Tables) -> None:
        if event.kind == "thing.made":
            body = event.body
            tables["things"].put({**body, "raw": body["raw"].encode()})
        if tables["counts"].get(event.kind) is None:
            tables["counts"].put({"kind": event.kind, "count": 0})
        tables["counts"].add(event.kind, count=1)


def lp(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def value(given: Any) -> bytes:
    """A value as the page says."""
    match given:
        case None:
            return b"\x00"
        case int():
            return b"\x01" + struct.pack(">q", given)
        case float():
            return b"\x02" + struct.pack(">d", given)
        case str():
            return b"\x03" + lp(given.encode())
        case _:
            return b"\x04" + lp(given)


def table(name: str, columns: dict[str, str], key: list[str], rows: list[list[Any]]) -> bytes:
    parts = [lp(name.encode()), struct.pack(">I", len(columns))]
    parts += [lp(column.encode()) + lp(kind.encode()) for column, kind in columns.items()]
    parts += [struct.pack(">I", len(key)), *(lp(column.encode()) for column in key)]
    parts += [b"\x01" + b"".join(map(value, row)) for row in rows]
    return b"".join(parts) + b"\x00" + struct.pack(">Q", len(rows))


def test_the_digest_is_of_the_bytes_that_the_page_says() -> None:
    made = [
        {
            "id": "b",
            "n": 1,
            "x": 0.5,
            "raw": "r",
            "flag": True,
            "items": [1, "a"],
            "more": {"b": 1, "a": None},
        },
        {"id": "é", "n": -1, "x": None, "raw": "", "flag": False, "items": None, "more": None},
        {"id": "b", "n": -1, "x": 3.0, "raw": "", "flag": None, "items": [], "more": {}},
        {"id": "Z", "n": 0, "x": -1e300, "raw": "", "flag": None, "items": None, "more": None},
    ]
    with Ledger.over(MemoryStore()) as ledger, Views(ledger, projections=[Things()]) as views:
        for body in made:
            ledger.append("thing.made", body)
        [found] = views.digests()
    rows: list[list[Any]] = [
        ["Z", 0, -1e300, b"", None, None, None],
        ["b", -1, 3.0, b"", None, "[]", "{}"],
        ["b", 1, 0.5, b"r", 1, '[1,"a"]', '{"a":null,"b":1}'],
        ["é", -1, None, b"", 0, None, None],
    ]
    counts = table(
        "counts", {"kind": "TEXT", "count": "INTEGER"}, ["kind"], [["ledger.created", 1], ["thing.made", 4]]
    )
    things = table("things", TYPES, ["id", "n"], rows)
    whole = b"tally.projection.v1\0" + lp(b"things") + struct.pack(">QI", 7, 2) + counts + things
    assert found == ProjectionDigest("things", 7, 5, f"blake3:{blake3(whole).hexdigest()}")


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(-3, 3)), max_size=12), st.data())
def test_however_the_tables_were_built(keys: list[tuple[str, int]], data: st.DataObject) -> None:
    """At once, step by step: the same digest; and another one for other rows."""
    blank = {"x": None, "raw": "", "flag": None, "items": None, "more": None}
    with Ledger.over(MemoryStore()) as ledger:
        with Views(ledger, projections=[Things()]) as stepwise:
            for id_, n in keys:
                if not _is_text(id_):
                    continue
                ledger.append("thing.made", {"id": id_, "n": n, **blank})
                if data.draw(st.booleans()):
                    stepwise.catch_up()
            [one] = stepwise.digests()
        with Views(ledger, projections=[Things()]) as at_once:
            [other] = at_once.digests()
            assert one == other
            ledger.append("thing.made", {"id": "another", "n": 9, **blank})
            [grown] = at_once.digests(["things"])
    assert grown.digest != one.digest


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_what_is_sealed_is_what_was_there(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "a.tally", durability=Durability.PROCESS) as ledger:
        ledger.append("order.placed", {})
        sealed = seal_projections(ledger, ["streams"])
        [event] = ledger.read(kinds=["projection.sealed"])
        assert event.body == {
            "v": 1, "name": "streams", "version": sealed[0].version, "seq": 2, "digest": sealed[0].digest
        }  # fmt: skip
        assert [one.name for one in seal_projections(ledger)] == [one.name for one in BUILT_IN]
        with pytest.raises(BadProjection):
            seal_projections(ledger, ["moon"])
        assert ledger.head().seq == 3 + len(BUILT_IN)


def test_a_digest_names_no_other_projection(tmp_path: Path) -> None:
    """Two projections with the same tables and rows have different digests, as have two versions."""
    digests = set()
    for name, version in (("one", 1), ("two", 1), ("one", 2)):
        made: Callable[..., Any] = type("Made", (Things,), {"name": name, "version": version})
        with Ledger.over(MemoryStore()) as ledger, Views(ledger, projections=[made()]) as views:
            digests.add(views.digests()[0].digest)
    assert len(digests) == 3
