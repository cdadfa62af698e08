"""Erased rows held against their records, in one span and across spans."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tallystick.ledger.erasures import Erasures, Flaw


def hash_of(seq: int) -> bytes:
    return seq.to_bytes(32, "big")


def test_nothing_noted_is_no_problem() -> None:
    erasures = Erasures()
    assert (erasures.erased, erasures.open, erasures.first_problem()) == (0, False, None)


def test_a_record_accounts_for_an_erased_row() -> None:
    erasures = Erasures()
    erasures.add_erased(3, hash_of(3), salt_left=False, own=False)
    assert erasures.open
    assert erasures.first_problem() == (3, Flaw.UNRECORDED)
    erasures.add_record(3, hash_of(3))
    assert not erasures.open
    assert (erasures.erased, erasures.first_problem()) == (1, None)


def test_a_record_with_another_hash_accounts_for_nothing() -> None:
    erasures = Erasures()
    erasures.add_erased(3, hash_of(3), salt_left=False, own=False)
    erasures.add_record(3, hash_of(4))
    assert erasures.first_problem() == (3, Flaw.UNRECORDED)
    erasures.add_record(3, hash_of(3))
    assert erasures.first_problem() is None


def test_the_ledgers_own_events_keep_their_bodies() -> None:
    erasures = Erasures()
    erasures.add_erased(3, hash_of(3), salt_left=False, own=True)
    erasures.add_record(3, hash_of(3))
    assert erasures.first_problem() == (3, Flaw.PROOF_GONE)


def test_a_salt_that_was_left_and_a_body_that_was_kept() -> None:
    erasures = Erasures()
    erasures.add_erased(3, hash_of(3), salt_left=True, own=False)
    erasures.add_record(3, hash_of(3))
    assert erasures.first_problem() == (3, Flaw.SALT_LEFT)
    erasures.add_record(2, hash_of(2))
    assert list(erasures.recorded_with_body()) == [2]
    erasures.note_kept(2)
    assert erasures.first_problem() == (2, Flaw.BODY_LEFT)


rows = st.dictionaries(
    st.integers(1, 40),
    st.tuples(st.booleans(), st.booleans(), st.sampled_from(["right", "wrong", "none"])),
    max_size=15,
)


@given(rows, st.sets(st.integers(1, 40), max_size=3), st.lists(st.integers(0, 100), max_size=3))
def test_spans_absorbed_say_what_one_walk_says(
    erased: dict[int, tuple[bool, bool, str]], kept: set[int], cuts: list[int]
) -> None:
    """The rows come in order, then all the records; cut anywhere into spans."""
    steps: list[tuple[str, int, Any]] = [("row", seq, erased[seq][:2]) for seq in sorted(erased)]
    for seq, (_, _, record) in sorted(erased.items()):
        if record != "none":
            steps.append(("record", seq, hash_of(seq if record == "right" else seq + 1)))
    steps += [("record", seq, hash_of(seq)) for seq in sorted(kept - set(erased))]

    def noted(steps: list[tuple[str, int, Any]]) -> Erasures:
        erasures = Erasures()
        for what, seq, value in steps:
            if what == "row":
                erasures.add_erased(seq, hash_of(seq), *value)
            else:
                erasures.add_record(seq, value)
        return erasures

    whole = noted(steps)
    joined = Erasures()
    places = [0, *sorted(cut % (len(steps) + 1) for cut in cuts), len(steps)]
    for start, end in itertools.pairwise(places):
        joined.absorb(noted(steps[start:end]).dump())
    assert joined.erased == whole.erased == len(erased)
    assert joined.open == whole.open == any(record != "right" for _, _, record in erased.values())
    assert (
        sorted(joined.recorded_with_body())
        == sorted(whole.recorded_with_body())
        == sorted(kept - set(erased))
    )
    assert joined.first_problem() == whole.first_problem()
    problems = [
        (seq, flaw)
        for seq, (salt_left, own, record) in sorted(erased.items())
        for here, flaw in (
            (record != "right", Flaw.UNRECORDED),
            (salt_left, Flaw.SALT_LEFT),
            (own, Flaw.PROOF_GONE),
        )
        if here
    ]
    assert whole.first_problem() == (problems[0] if problems else None)
