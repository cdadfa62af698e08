"""Which decisions a back-test is about: the conditions of `--where`.

A decision is looked at as the row that `tally decisions` would list it by, made from its event alone: the
views may be missing, altered, or in a place that cannot be written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, Final

import msgspec

from tallystick.events import gateway as events
from tallystick.ledger.event import Row
from tallystick.projections.decisions import Recorded, said_text, table_row
from tallystick.recorders.gateway.stages import ADVISORY, ENFORCE, STRENGTH, Label

from ..errors import BadSelection

#: The label of a decision that nobody has labelled.
NO_LABEL: Final = "none"
LABELS: Final = (*(label.value for label in Label), NO_LABEL)
#: What may be asked of a decision, in the order in which it is told.
KEYS: Final = ("verdict", "tenant", "action", "label", "policy", "mode", "since", "until", "text")
_ALLOWED: Final[Mapping[str, Sequence[str]]] = {
    "verdict": tuple(STRENGTH),
    "label": LABELS,
    "mode": (ENFORCE, ADVISORY),
}
_HASH_PREFIX: Final = "sha256:"
_decode = msgspec.json.Decoder(Recorded).decode
#: As SQLite's LIKE in the listing: case makes no difference for A to Z, and for no other letter.
_FOLD: Final = {ord(letter): ord(letter.lower()) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


class Where(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Conditions on decisions, which hold together; of several values of one, any.

    verdict: as recorded. tenant: its id. action: action types, perhaps with `*` and `?`. label: the last one
    given, or `none`. policy: the id, or the beginning of the hash, of the policy that it was made under.
    mode: `enforce` or `advisory`. since, until: microseconds since 1970 UTC, the second not included. text:
    in ids, intent, evidence, reasons, rules, or what was said of it since.
    """

    verdict: tuple[str, ...] = ()
    tenant: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    policy: tuple[str, ...] = ()
    mode: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    text: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise BadSelection for what no decision could fit."""
        for key, allowed in _ALLOWED.items():
            for value in getattr(self, key):
                if value not in allowed:
                    raise BadSelection(key, f"{value!r} is none", f"use {', '.join(allowed)}")
        for key in ("tenant", "action", "policy", "text"):
            if not all(isinstance(value, str) and value for value in getattr(self, key)):
                raise BadSelection(key, "is empty", "leave it out, or say which")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise BadSelection("until", "is not after since", "give the earlier time first")

    def in_time(self, row: Row) -> bool:
        """Whether an event is within the span of time."""
        return (self.since is None or row.at >= self.since) and (self.until is None or row.at < self.until)

    @property
    def asks_body(self) -> bool:
        """Whether it takes more than the time to tell."""
        return msgspec.structs.replace(self, since=None, until=None) != Where()

    def fits(self, row: Row, label: str, said: Iterable[Row]) -> bool:
        """Whether a decision fits. label: its last one. said: the events about it since.

        Raises MsgspecError if its body is no decision's.
        """
        if not self.asks_body:
            return True
        listed = table_row(row, _decode(row.body or b""))
        return (
            _among(listed["verdict"], self.verdict)
            and _among(listed["tenant_id"], self.tenant)
            and _among(label, self.label)
            and _among(listed["mode"], self.mode)
            and _any(self.action, lambda glob: fnmatchcase(listed["action_type"], glob))
            and _any(self.policy, lambda name: _is_policy(listed, name))
            and (not self.text or self._says(listed, said))
        )

    def _says(self, listed: Mapping[str, Any], said: Iterable[Row]) -> bool:
        wanted = [text.translate(_FOLD) for text in self.text]
        for text in chain((listed["intent"], listed["words"]), map(_text_of, said)):
            folded = text.translate(_FOLD)
            if any(each in folded for each in wanted):
                return True
        return False


def _among(value: str | None, wanted: Sequence[str]) -> bool:
    return not wanted or value in wanted


def _any(wanted: Sequence[str], holds: Any) -> bool:
    return not wanted or any(map(holds, wanted))


def _is_policy(listed: Mapping[str, Any], name: str) -> bool:
    digest = (listed["policy_hash"] or "").removeprefix(_HASH_PREFIX)
    return name == listed["policy_id"] or digest.startswith(name.removeprefix(_HASH_PREFIX))


def _text_of(row: Row) -> str:
    """The words of something that was said of a decision; none if it was erased, or is malformed."""
    try:
        body = msgspec.json.decode(row.body or b"null")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
    if not isinstance(body, dict):
        return ""
    if row.kind == events.LABELED:
        return said_text({name: body.get(name) for name in ("label", "summary")})
    return said_text(body.get("data"))
