"""The second verifier, docs/verify_ledger.py, on exports of the vector ledger whose lines were altered."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from vector_ledger import EXPORT, LEDGER_ID, MAKE, Line, dump, lines, look, own_hash, rehash, run, verdict

pytestmark = pytest.mark.usefixtures("nearby")

Alteration = Callable[[list[Line]], None]

ALTERATIONS: list[tuple[str, int, Alteration]] = []


def altered(word: str, seq: int) -> Callable[[Alteration], Alteration]:
    def remember(alteration: Alteration) -> Alteration:
        ALTERATIONS.append((word, seq, alteration))
        return alteration

    return remember


def setting(word: str, found_at: int, event: int, /, **columns: object) -> None:
    """An alteration that sets columns of one event."""

    def set_columns(events: list[Line]) -> None:
        events[event - 1].update(columns)

    set_columns.__name__ = f"{'_and_'.join(columns)}_of_event_{event}"
    ALTERATIONS.append((word, found_at, set_columns))


setting("edited", 3, 3, body='{"order":81,"parcels":3,"v":1}')
setting("edited", 3, 3, salt="00" * 16)
setting("edited", 3, 3, body_hash="00" * 32)
setting("edited", 5, 5, body_hash="00" * 32)
setting("edited", 3, 3, hash="00" * 32)
setting("edited", 12, 12, hash="00" * 32)
setting("edited", 3, 3, at=1735689602500001)
setting("edited", 3, 3, kind="order.stopped")
setting("edited", 3, 3, stream="order:82")
setting("edited", 3, 3, key=None)
setting("edited", 2, 2, key="req-7f3c")
setting("edited", 3, 3, meta=None)
setting("edited", 2, 2, meta="{}")
setting("edited", 8, 8, body='{"body_hash":"' + "00" * 32 + '","reason":"none","seq":5,"v":1}')
setting("edited", 1, 1, body=lines()[0]["body"].replace(LEDGER_ID, "0" * 32))
setting("link broken", 4, 4, prev_hash="00" * 32)
setting("link broken", 1, 1, prev_hash="00" * 32)
setting("erased without record", 3, 3, body=None, salt=None)
setting("erased without record", 5, 8, body=None, salt=None)
setting("erased without record", 9, 9, body=None)
setting("malformed", 5, 5, salt="00" * 16)
setting("malformed", 5, 5, salt=MAKE.salt_of(5).hex(), body=MAKE.erased_body().decode())
setting("malformed", 3, 3, salt=None)
setting("malformed", 3, 3, salt="00" * 15)
setting("malformed", 3, 3, hash=lines()[2]["hash"].upper())
setting("malformed", 3, 3, hash=lines()[2]["hash"] + " ")
setting("malformed", 3, 3, prev_hash=None)
setting("malformed", 3, 3, body_hash="0" * 63)
setting("malformed", 3, 3, kind="Order.shipped")
setting("malformed", 3, 3, kind="order.shipped\n")
setting("malformed", 3, 3, kind="shipped")
setting("malformed", 3, 3, kind="a." + "b" * 127)
setting("malformed", 3, 3, stream="")
setting("malformed", 3, 3, stream="a\x00b")
setting("malformed", 3, 3, stream="ß" * 257)
setting("malformed", 3, 3, key="")
setting("malformed", 3, 3, key=7)
setting("malformed", 3, 3, meta="")
setting("malformed", 3, 3, meta={"actor": "refund-bot"})
setting("malformed", 3, 3, body="")
setting("malformed", 3, 3, seq=3.0)
setting("malformed", 3, 3, seq="3")
setting("malformed", 3, 3, seq=2)
setting("malformed", 3, 3, at=2**63)
setting("malformed", 3, 3, at=None)
setting("malformed", 3, 3, extra=1)
setting("malformed", 1, 1, seq=0)
setting("malformed", 1, 1, kind="ledger.opened")
setting("malformed", 1, 1, body=None, salt=None)
setting("malformed", 1, 1, body="{}")
setting("malformed", 1, 1, body="[1]")
setting("malformed", 1, 1, body='{"format":1,"ledger_id":"7A')


@altered("gap", 4)
def one_line_is_gone(events: list[Line]) -> None:
    del events[3]


@altered("gap", 1)
def the_first_line_is_gone(events: list[Line]) -> None:
    del events[0]


@altered("gap", 3)
def two_lines_are_swapped(events: list[Line]) -> None:
    events[2], events[3] = events[3], events[2]


@altered("malformed", 5)
def a_line_comes_twice(events: list[Line]) -> None:
    events.insert(4, dict(events[3]))


@altered("malformed", 1)
def no_lines_are_left(events: list[Line]) -> None:
    events.clear()


@altered("malformed", 3)
def a_name_is_missing(events: list[Line]) -> None:
    del events[2]["meta"]


@altered("reordered", 3)
def two_rows_change_places(events: list[Line]) -> None:
    events[2], events[3] = events[3] | {"seq": 3}, events[2] | {"seq": 4}


@altered("reordered", 4)
def a_row_is_taken_out_and_the_rest_renumbered(events: list[Line]) -> None:
    del events[3]
    for seq, line in enumerate(events, 1):
        line["seq"] = seq


@altered("reordered", 12)
def an_early_row_is_put_at_the_end(events: list[Line]) -> None:
    events[11] = events[1] | {"seq": 12}


@altered("link broken", 7)
def a_row_is_forged_whole_in_the_middle(events: list[Line]) -> None:
    events[5]["body"] = '{"v":2}'
    events[5]["body_hash"] = blake3(bytes.fromhex(events[5]["salt"]) + b'{"v":2}').hexdigest()
    own_hash(events[5])


@altered("link broken", 6)
def a_whole_row_follows_another(events: list[Line]) -> None:
    events[5]["prev_hash"] = "11" * 32
    own_hash(events[5])


@altered("link broken", 1)
def the_chain_starts_from_another_genesis(events: list[Line]) -> None:
    events[0]["prev_hash"] = "11" * 32
    rehash(events, 1)


@altered("erased without record", 5)
def the_record_names_another_body_hash(events: list[Line]) -> None:
    events[7]["body"] = json.dumps({"v": 1, "seq": 5, "body_hash": "00" * 32, "reason": "none"})
    rehash(events, 8)


@altered("malformed", 4)
def a_record_names_a_row_that_still_has_its_body(events: list[Line]) -> None:
    record = {"v": 1, "seq": 4, "body_hash": events[3]["body_hash"], "reason": "none"}
    events[8].update(kind="ledger.body_erased", body=json.dumps(record))
    rehash(events, 9)


@altered("malformed", 8)
def the_record_names_no_earlier_event(events: list[Line]) -> None:
    record = {"v": 1, "seq": 9, "body_hash": events[8]["body_hash"], "reason": "none"}
    events[7]["body"] = json.dumps(record)
    rehash(events, 8)


@altered("malformed", 8)
def the_record_cannot_be_read(events: list[Line]) -> None:
    events[7]["body"] = '{"body_hash":"' + "00" * 32 + '","seq":5,"seq":5}'
    rehash(events, 8)


@altered("malformed", 8)
def a_record_is_itself_erased_with_a_record(events: list[Line]) -> None:
    record = {"v": 1, "seq": 8, "body_hash": events[7]["body_hash"], "reason": "none"}
    events[4].update(salt=MAKE.salt_of(5).hex(), body=MAKE.erased_body().decode())
    events[7].update(salt=None, body=None)
    events[8].update(kind="ledger.body_erased", body=json.dumps(record))
    rehash(events, 9)


@altered("edited", 9)
def a_row_finding_comes_before_what_the_end_tells(events: list[Line]) -> None:
    events[2].update(body=None, salt=None)
    events[8]["stream"] = "sensor:2"


@pytest.mark.parametrize(
    ("word", "seq", "alteration"),
    ALTERATIONS,
    ids=[f"{number}-{alteration.__name__}" for number, (_, _, alteration) in enumerate(ALTERATIONS)],
)
def test_an_alteration_is_found(word: str, seq: int, alteration: Alteration, tmp_path: Path) -> None:
    events = lines()
    alteration(events)
    status, line = look(tmp_path / "altered.jsonl", dump(events))
    assert (status, verdict(line)) == (1, ("BROKEN", seq, word)), line


BYTES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("no JSON", lambda line: b"{" + line),
    ("an empty line", lambda line: b"\n" + line),
    ("cut short", lambda line: line[:100] + b"\n"),
    ("not UTF-8", lambda line: line.replace(b"order:81", b"order:\xff1")),
    ("lone surrogate", lambda line: line.replace(b'"order:81"', b'"\\ud83d"')),
    ("lone surrogate in the body", lambda line: line.replace(b'"body":"', b'"body":"\\ud83d')),
    ("name twice", lambda line: line.replace(b'{"seq":3,', b'{"seq":3,"seq":3,')),
    ("an array", lambda line: b"[1]\n"),
    ("too deep", lambda line: b"[" * 100_000 + b"\n"),
    ("too many digits", lambda line: line.replace(b'"seq":3', b'"seq":' + b"3" * 5000)),
]


@pytest.mark.parametrize("alteration", [pair[1] for pair in BYTES], ids=[pair[0] for pair in BYTES])
def test_a_line_that_cannot_be_read_is_malformed(
    alteration: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    data = EXPORT.read_bytes().split(b"\n")
    data[2] = alteration(data[2] + b"\n").removesuffix(b"\n")
    status, line = look(tmp_path / "altered.jsonl", b"\n".join(data))
    assert (status, verdict(line)) == (1, ("BROKEN", 3, "malformed")), line


def test_compressed_data_cut_short_is_malformed(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(EXPORT.read_bytes())[:-200])
    status, line = run(cut)
    assert status == 1 and verdict(line)[2] == "malformed"
