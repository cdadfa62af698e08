"""Policies from their texts in a ledger, parsed once as long as they are remembered; bad ones, too.

A policy of the largest size takes seconds to parse and some megabytes to keep, and a ledger from somebody
else may name many by turns.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from tallystick.recorders.gateway.errors import InvalidPolicy
from tallystick.recorders.gateway.policy import Policy

#: Characters of the texts of all policies that are remembered: a few hundred of usual size.
CHARACTERS_MAX: Final = 1 << 20


class _Remembered:
    """Texts and what came of parsing them; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[str, Policy | InvalidPolicy] = OrderedDict()
        self._characters = 0

    def get(self, text: str) -> Policy | InvalidPolicy | None:
        with self._lock:
            found = self._found.get(text)
            if found is not None:
                self._found.move_to_end(text)
            return found

    def put(self, text: str, found: Policy | InvalidPolicy) -> None:
        with self._lock:
            if text not in self._found:
                self._characters += len(text)
            self._found[text] = found
            while self._characters > CHARACTERS_MAX and len(self._found) > 1:
                gone, _ = self._found.popitem(last=False)
                self._characters -= len(gone)


_remembered: Final = _Remembered()


def parsed(text: str) -> Policy:
    """The policy that a text holds. Raises InvalidPolicy."""
    found = _remembered.get(text)
    if found is None:
        try:
            found = Policy.parse(text, "policy")
        except InvalidPolicy as error:
            found = error.with_traceback(None)
        _remembered.put(text, found)
    if isinstance(found, InvalidPolicy):
        raise InvalidPolicy(found.source, found.problems)
    return found
