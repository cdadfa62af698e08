"""YAML without its surprises: a small subset, read from the parser's events, bounded before it is built.

A policy is text that people edit and that decides about money, so nothing in it may mean something else
than it seems. Refused are aliases and anchors (bombs), tags (types from outside), a key given twice, keys
that are no text, and unquoted words that YAML 1.1 and YAML 1.2 read differently (`NO`, `on`, `2026-03-01`,
`12:30`, `0x1F`, `1_000`, `007`, `.5`, `1e3`). What is left is JSON: an unquoted scalar is a number if JSON
would read it as one, `true`, `false` or `null` (also as `True` or `TRUE`, and `~` or nothing for null), else
text.

Always PyYAML's own parser, never libyaml's: the same text must give the same policy everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import yaml

from tallystick.ledger.canonical import MAX_INTEGER

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 20
MAX_NODES: Final = 20_000
#: Anchors and aliases that are named one by one.
_REFERENCES_NAMED_MAX: Final = 3

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
#: YAML 1.2, section 10.3.2: the core schema.
_YAML_1_2_NUMBER: Final = re.compile(
    r"0o[0-7]+|0x[0-9a-fA-F]+|[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_WORDS: Final = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_TEXT_TAG: Final = "tag:yaml.org,2002:str"


class Fault(NamedTuple):
    """Something that the subset does not allow. `line` counts from 1."""

    line: int
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.problem}"


class Unreadable(Exception):
    """The text is not in the subset; `faults` are all that were found.

    `value` is what it says as far as it could be read, or None; a number at fault stands in it as 0.
    """

    def __init__(self, faults: list[Fault], value: Any = None) -> None:
        self.faults = faults
        self.value = value
        super().__init__("; ".join(map(str, faults)))


def read_yaml(text: str) -> Any:
    """The JSON value of a YAML document of the subset. Raises Unreadable."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Unreadable([Fault(1, "has a lone surrogate")]) from None
    if size > MAX_BYTES:
        raise Unreadable([Fault(1, f"{size:,} bytes, more than the {MAX_BYTES:,} allowed")])
    reader = _Reader(text)
    try:
        value = reader.document()
    except yaml.YAMLError as error:
        raise Unreadable([*reader.all_faults(), _syntax_fault(error)]) from None
    if reader.faults:
        raise Unreadable(reader.all_faults(), None if reader.references else value)
    return value


class _Stop(yaml.YAMLError):
    """A fault after which there is no use in reading on."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


def _syntax_fault(error: yaml.YAMLError) -> Fault:
    if isinstance(error, _Stop):
        return error.fault
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    return Fault(mark.line + 1 if mark is not None else 1, f"is no YAML: {problem}")


class _Reader:
    """Builds a value from the parser's events, and keeps the faults that allow reading on."""

    def __init__(self, text: str) -> None:
        self.faults: list[Fault] = []
        #: Lines with an anchor or an alias.
        self.references: list[int] = []
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._implicit = yaml.SafeLoader("")
        self._nodes = 0

    def all_faults(self) -> list[Fault]:
        """The faults, with how many anchors and aliases were not named one by one."""
        more = self.references[_REFERENCES_NAMED_MAX:]
        told = [Fault(more[0], f"and {len(more):,} more anchors and aliases")] if more else []
        return [*self.faults, *told]

    def document(self) -> Any:
        next(self._events)  # the stream's start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 0)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _Stop(Fault(_line(event), "a second document; a policy is one document"))
        return value

    def _value(self, event: Any, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _Stop(Fault(_line(event), f"more than {MAX_NODES:,} values"))
        if isinstance(event, yaml.AliasEvent):
            self._reference(event, f"the alias *{event.anchor}; write the value again")
            return None
        if event.anchor is not None:
            self._reference(event, f"the anchor &{event.anchor}; anchors and aliases are not allowed")
        if event.tag is not None:
            self._fault(event, f"the tag {event.tag}; tags are not allowed")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if depth >= MAX_DEPTH:
            raise _Stop(Fault(_line(event), f"nested deeper than {MAX_DEPTH} levels"))
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(depth + 1)
        return self._object(depth + 1)

    def _list(self, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, depth))
        return items

    def _object(self, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._value(event, depth)
            if not isinstance(key, str):
                self._fault(event, "a key that is no text; quote it")
            elif key in members:
                self._fault(event, f"the key {key!r} comes twice in one object")
            value = self._value(next(self._events), depth)
            if isinstance(key, str):
                members.setdefault(key, value)
        return members

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if not event.implicit[0]:  # quoted, or a block
            return text
        if text in _WORDS:
            return _WORDS[text]
        number = _NUMBER.fullmatch(text)
        is_text: bool = self._implicit.resolve(yaml.ScalarNode, text, (True, False)) == _TEXT_TAG  # type: ignore[no-untyped-call]
        if number is not None and not is_text:
            return self._number(event, text, whole=not (number[1] or number[2]))
        if number is not None or not is_text or _YAML_1_2_NUMBER.fullmatch(text):
            is_word = number is None and not _YAML_1_2_NUMBER.fullmatch(text) and not text[:1].isdigit()
            remedy = "quote it" if is_word else "write a plain number, or quote it if it is text"
            problem = f"{text[:40]!r} means different things to different readers of YAML; {remedy}"
            self._fault(event, problem)
            return text if is_word else 0
        return text

    def _number(self, event: Any, text: str, *, whole: bool) -> int | float:
        if len(text) > 40:
            self._fault(event, "a number of more than 40 characters; shorten it, or quote it if it is text")
            return 0
        value = int(text) if whole else float(text)
        if not math.isfinite(value) or (whole and abs(value) > MAX_INTEGER):
            problem = f"the number {text} is beyond what readers of JSON can hold"
            self._fault(event, f"{problem}; give a smaller one, or quote it if it is text")
            return 0
        return value

    def _reference(self, event: Any, problem: str) -> None:
        """A fault that a text built to explode has by the thousand."""
        self.references.append(_line(event))
        if len(self.references) <= _REFERENCES_NAMED_MAX:
            self._fault(event, problem)

    def _fault(self, event: Any, problem: str) -> None:
        self.faults.append(Fault(_line(event), problem))


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1
