"""Head lines, rows decoded to events, receipts."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import BadHead, Event, Head, MalformedEvent, NewEvent, Receipt, Row
from tallystick.ledger import canonical
from tallystick.ledger.event import COLUMNS, Draft

ID = "7a11e5c0ffee4a5e8bd2f0e1d2c3b4a5"
HASH = "da28f8aa3cf3d57072bd4919fb42d52071704d5aaa3dad6db1504d3f209fa607"

heads = st.builds(
    Head,
    st.integers(0, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
    st.none() | st.binary(min_size=16, max_size=16),
)


@given(heads)
def test_parse_is_the_inverse_of_str(head: Head) -> None:
    assert Head.parse(str(head)) == head


@given(heads, st.sampled_from(["\n", " ", "\r\n", "\t"]))
def test_white_space_around_a_head_line_is_no_part_of_it(head: Head, space: str) -> None:
    assert Head.parse(f"{space}{head}{space}") == head


def test_the_head_line() -> None:
    head = Head(12, bytes.fromhex(HASH), bytes.fromhex(ID))
    assert str(head) == f"tally1:{ID}:12:{HASH}"
    assert str(Head(12, bytes.fromhex(HASH))) == f"12:{HASH}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        HASH,
        f"12:{HASH[:-1]}",
        f"12:{HASH}0",
        f"12:{HASH.upper()}",
        f"-1:{HASH}",
        f"+1:{HASH}",
        f"1.0:{HASH}",
        f"1_2:{HASH}",
        f":{HASH}",
        f"{'1' * 20}:{HASH}",
        f"\u0661:{HASH}",
        f"12: {HASH}",
        f"12:{HASH}\n13:{HASH}",
        f"tally1:{ID}:12",
        f"tally1:{ID[:-2]}:12:{HASH}",
        f"tally1:{ID.upper()}:12:{HASH}",
        f"tally1::12:{HASH}",
        f"tally2:{ID}:12:{HASH}",
        f"tally1:12:{HASH}",
        f"{ID}:12:{HASH}",
        "x" * 10_000,
    ],
)
def test_what_is_no_head_line(text: str) -> None:
    with pytest.raises(BadHead) as caught:
        Head.parse(text)
    assert caught.value.text == text.strip()
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@given(st.text())
def test_parse_reads_or_refuses_any_text(text: str) -> None:
    try:
        head = Head.parse(text)
    except BadHead:
        return
    assert Head.parse(str(head)) == head


def test_heads_are_values() -> None:
    head = Head(3, b"h" * 32, b"i" * 16)
    assert head == Head(3, b"h" * 32, b"i" * 16)
    assert len({head, Head(3, b"h" * 32, b"i" * 16)}) == 1
    assert Head(3, b"z" * 32) < Head(4, b"a" * 32)
    with pytest.raises(AttributeError):
        head.seq = 4  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Receipt(1, b"", 2).seq = 4  # type: ignore[misc]


def row(**columns: Any) -> Row:
    whole: dict[str, Any] = dict.fromkeys(COLUMNS, b"\0" * 32)
    whole |= {"seq": 7, "at": 0, "kind": "a.b", "stream": "s", "key": None, "meta": None, "salt": b"\0" * 16}
    return Row(**{**whole, "body": b"{}", **columns})


def test_an_event_is_a_row_decoded() -> None:
    event = Event.from_row(row(key="k", meta=b'{"actor":"x"}', body=b"[1,null]"))
    assert (event.seq, event.at, event.kind, event.stream, event.key) == (7, 0, "a.b", "s", "k")
    assert (event.meta, event.body, event.erased) == ({"actor": "x"}, [1, None], False)


def test_a_null_body_is_not_an_erased_one() -> None:
    null, erased = Event.from_row(row(body=b"null")), Event.from_row(row(body=None, salt=None))
    assert (null.body, null.erased) == (None, False)
    assert (erased.body, erased.erased) == (None, True)


@pytest.mark.parametrize(
    ("at", "time"),
    [
        (0, dt.datetime(1970, 1, 1, tzinfo=dt.UTC)),
        (-1, dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)),
        (1_735_689_600_000_001, dt.datetime(2025, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC)),
    ],
)
def test_time_is_exact_to_the_microsecond(at: int, time: dt.datetime) -> None:
    event = Event.from_row(row(at=at))
    assert event.time == time
    assert event.time.utcoffset() == dt.timedelta(0)


@pytest.mark.parametrize(
    "columns",
    [
        {"body": b""},
        {"body": b"{"},
        {"body": b"{}{}"},
        {"body": b"\xff"},
        {"body": b'"\\ud800"'},
        {"body": b"NaN"},
        {"body": b"[" * 100_000},
        {"body": 5},
        {"meta": b"{'a': 1}"},
        {"meta": 1.5},
    ],
    ids=repr,
)
def test_a_row_that_cannot_be_decoded(columns: dict[str, Any]) -> None:
    with pytest.raises(
        MalformedEvent, match=r"^event 7 cannot be decoded \(.+\); run `tally verify`$"
    ) as caught:
        Event.from_row(row(**columns))
    assert caught.value.seq == 7


def test_the_fields_of_a_new_event_have_defaults() -> None:
    event = NewEvent(kind="a.b")
    assert (event.body, event.stream, event.key, event.meta, event.at) == ({}, "main", None, None, None)
    assert NewEvent(kind="a.b").body is not event.body


@given(st.integers(1, 2**62), st.binary(min_size=32, max_size=32))
def test_a_draft_placed_keeps_its_columns(seq: int, prev_hash: bytes) -> None:
    draft = Draft(5, "a.b", "s", "k", b"{}", b"s" * 16, canonical.encode([1]), b"d" * 32, b"label")
    placed = draft.place(seq, prev_hash)
    assert (placed.seq, placed.prev_hash) == (seq, prev_hash)
    for column in ("kind", "stream", "key", "meta", "body", "body_hash", "salt", "at"):
        assert getattr(placed, column) == getattr(draft, column)
    assert placed.hash != draft.place(seq + 1, prev_hash).hash
