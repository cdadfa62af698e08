"""Erasing bodies: what may be erased, and the rows that an erasure appends.

The store then nulls the bodies in the same transaction and scrubs their bytes. That every erased
body is on record is looked at elsewhere, by verification (erasures.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from . import chain, records
from .arguments import check_seq
from .drafting import Drafter
from .errors import InvalidEvent, NotErasable
from .event import Draft, Head, Receipt, Row
from .store import Store, row_at


class Erasure:
    """The bodies of some events on their way out. Raises InvalidEvent, NoSuchEvent, NotErasable.

    `receipts` are those of the records, one for each of `seqs`, once `rows` has been called.
    """

    def __init__(self, store: Store, drafter: Drafter, seqs: Sequence[int], reason: str) -> None:
        if not isinstance(reason, str) or not reason.strip():
            raise InvalidEvent("reason", "must not be empty", "say why the body has to go")
        seqs = list(seqs)
        for seq in seqs:
            check_seq(seq, "seq")
        self.seqs = list(dict.fromkeys(seqs))
        for seq in self.seqs:
            kind = row_at(store, seq).kind
            if kind.startswith("ledger."):
                raise NotErasable(seq, f"{kind} events are part of the proof")
        self.receipts: list[Receipt] = []
        self._store = store
        self._drafter = drafter
        self._reason = reason

    def rows(self, head: Head, about: Sequence[Draft]) -> list[Row]:
        """The records, then a recorder's own events about the erasure, as rows that follow `head`."""
        self.receipts.clear()
        rows: list[Row] = []
        for seq in self.seqs:
            draft = self._record(seq)
            if draft is None:  # erased before, or by another process just now
                self.receipts.append(self._receipt_of(seq))
                continue
            rows.append(draft.place(head.seq + 1, head.hash))
            head = Head(rows[-1].seq, rows[-1].hash)
            self.receipts.append(Receipt(head.seq, head.hash, draft.at))
        for draft in about:
            rows.append(draft.place(head.seq + 1, head.hash))
            head = Head(rows[-1].seq, rows[-1].hash)
        return rows

    def _record(self, seq: int) -> Draft | None:
        """The record of erasing an event's body; None if it is erased already."""
        row = row_at(self._store, seq)
        if row.body is None:
            return None
        if row.salt is None or chain.body_hash(row.salt, row.body) != row.body_hash:
            raise NotErasable(seq, "its body was altered, which erasing it would hide; run `tally verify`")
        erased = records.BodyErased(seq=seq, body_hash=row.body_hash.hex(), reason=self._reason)
        return self._drafter.own(records.BODY_ERASED, erased, records.STREAM)

    def _receipt_of(self, seq: int) -> Receipt:
        """The receipt of the record that the event's body was erased before."""
        for row in self._store.read(seq, stream=records.STREAM, kinds=[records.BODY_ERASED]):
            if row.body is not None and msgspec.json.decode(row.body, type=records.BodyErased).seq == seq:
                return Receipt(row.seq, row.hash, row.at)
        raise NotErasable(seq, "its body is missing without a record; run `tally verify`")
