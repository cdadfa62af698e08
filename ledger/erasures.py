"""Erased rows and the records that account for them, held compactly while a log is walked."""

from __future__ import annotations

import enum
from array import array
from bisect import bisect_left
from typing import Final

from .chain import HASH_BYTES


class Flaw(enum.Enum):
    """How an erased row and its record can disagree."""

    UNRECORDED = "its body is gone and no later ledger.body_erased names it and its hash"
    SALT_LEFT = "its body was erased, but its salt is still there"
    PROOF_GONE = "its body was erased, but the ledger's own events are part of the proof"
    BODY_LEFT = "it is recorded as erased, but its body is still there"


_PENDING: Final = 0
_RECORDED: Final = 1


class Erasures:
    """Matches erased rows (met in order of seq) with later `ledger.body_erased` records.

    41 bytes an erased row, so that a log with millions of them verifies in little memory.
    """

    def __init__(self) -> None:
        self._seqs = array("Q")
        self._hashes = bytearray()
        self._states = bytearray()
        self._salt_left = array("Q")
        self._proof_gone = array("Q")
        # Records that met no erased row here: of an earlier span, or of a body still present.
        self._unmet_seqs = array("Q")
        self._unmet_hashes = bytearray()
        self._kept = array("Q")

    @property
    def erased(self) -> int:
        """How many erased rows were added."""
        return len(self._seqs)

    @property
    def open(self) -> bool:
        """Whether an erased row still lacks its record."""
        return _PENDING in self._states

    def add_erased(self, seq: int, body_hash: bytes, salt_left: bool, own: bool) -> None:
        """Note a row whose body is gone, `own` if it is the ledger's; seqs come in ascending order."""
        self._seqs.append(seq)
        self._hashes += body_hash
        self._states.append(_PENDING)
        if salt_left:
            self._salt_left.append(seq)
        if own:
            self._proof_gone.append(seq)

    def add_record(self, seq: int, body_hash: bytes) -> None:
        """Note a record that the body of `seq`, with this hash, was erased."""
        index = bisect_left(self._seqs, seq)
        start = index * HASH_BYTES
        if index == len(self._seqs) or self._seqs[index] != seq:
            self._unmet_seqs.append(seq)
            self._unmet_hashes += body_hash
        elif self._hashes[start : start + HASH_BYTES] == body_hash:
            self._states[index] = _RECORDED

    def recorded_with_body(self) -> array[int]:
        """The seqs recorded as erased whose rows had a body, or lay before the first row."""
        return self._unmet_seqs

    def note_kept(self, seq: int) -> None:
        """A row recorded as erased has its body still, on a second look."""
        self._kept.append(seq)

    def first_problem(self) -> tuple[int, Flaw] | None:
        """The lowest seq whose row and record disagree, and how; None if all agree."""
        problems = [(seq, Flaw.SALT_LEFT) for seq in self._salt_left[:1]]
        problems += [(seq, Flaw.PROOF_GONE) for seq in self._proof_gone[:1]]
        problems += [(min(self._kept), Flaw.BODY_LEFT)] if self._kept else []
        pending = self._states.find(_PENDING)
        if pending >= 0:
            problems.insert(0, (self._seqs[pending], Flaw.UNRECORDED))
        return min(problems, key=lambda problem: problem[0], default=None)

    # -- across processes ------------------------------------------------------------------

    def dump(self) -> list[str]:
        """Everything noted, as text that another process can `absorb`."""
        arrays = (self._seqs, self._salt_left, self._proof_gone, self._unmet_seqs)
        return [part.tobytes().hex() for part in arrays] + [
            part.hex() for part in (self._hashes, self._states, self._unmet_hashes)
        ]

    def absorb(self, dumped: list[str]) -> None:
        """Take over what a later span noted; its records may account for rows noted here."""
        seqs, salt_left, proof_gone, unmet_seqs, hashes, states, unmet_hashes = map(bytes.fromhex, dumped)
        self._seqs.frombytes(seqs)
        self._salt_left.frombytes(salt_left)
        self._proof_gone.frombytes(proof_gone)
        self._hashes += hashes
        self._states += states
        unmet = array("Q")
        unmet.frombytes(unmet_seqs)
        for index, seq in enumerate(unmet):
            self.add_record(seq, unmet_hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES])
