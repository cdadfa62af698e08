"""Conversations out of a file: JSON lines, a JSON array of any length, one object, or messages alone.

One conversation at a time is in memory. In JSON lines the damage of a line ends with it; where values span
lines, brackets are counted to find the end of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from tallystick.ledger import canonical
from tallystick.ledger.errors import BadLine

from .lines import BOM, READ_BYTES, readable

#: One conversation; as values in memory it may take many times as much.
CONVERSATION_BYTES_MAX: Final = 16 << 20
#: No parser follows deeper nesting.
DEPTH_MAX: Final = 10_000
_SPACE: Final = b" \t\r\n"
_NEWLINE: Final = ord("\n")
#: What moves brackets: a whole string, or a bracket; a lone quote begins a string whose end is not read yet.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{}]', re.DOTALL)
_SCALAR: Final = re.compile(rb"[^\s,\[\]{}]+")


class Found(NamedTuple):
    """A conversation as it stood in its file; `value` is a BadLine if it could not be read.

    line: where it begins, from 1. number: its place in an array, from 1; 0 if it is in none.
    """

    line: int
    number: int
    value: Any

    def bad(self, name: str, problem: str) -> BadLine:
        """The error that this conversation has a problem."""
        return BadLine(name, self.line, f"conversation {self.number}: {problem}" if self.number else problem)


def read_conversations(file: BinaryIO, name: str) -> Iterator[Found]:
    """Every conversation of a file. Raises BadLine where reading cannot go on."""
    source = _Source(file, name)
    first = source.peek()
    if source.has_long_line() or _is_part(source.peek_line()):
        yield from _of_array(source) if first == b"[" else _of_values(source)
        return
    while source.peek():
        line = source.line_number
        yield from _of_line(line, source.line(), name)


def _of_line(line: int, text: bytes, name: str) -> Iterator[Found]:
    """The conversations on a line: one, or an array of them."""
    value = _parsed(text, line, name)
    if not isinstance(value, list) or _is_message(value[:1]):
        yield Found(line, 0, _conversation(value))
        return
    for number, item in enumerate(value, start=1):
        yield Found(line, number, _conversation(item))


def _of_values(source: _Source) -> Iterator[Found]:
    """Objects one behind the other, over many lines."""
    while source.peek():
        line = source.line_number
        yield Found(line, 0, _conversation(_parsed(source.value(), line, source.name)))


def _of_array(source: _Source) -> Iterator[Found]:
    """The conversations in an array, or the one whose messages it holds."""
    begin = source.line_number
    items = _items(source)
    first = next(items, None)
    if first is None:
        return
    if not _is_message([first.value]):
        for found in chain([first], items):
            yield found._replace(value=_conversation(found.value))
        return
    messages = [first.value]
    size = 0
    for item in items:
        messages.append(item.value)
        size += source.taken
        if size > CONVERSATION_BYTES_MAX:
            raise BadLine(source.name, item.line, _too_long())
    for message in messages:
        if isinstance(message, BadLine):
            yield Found(begin, 0, message)
            return
    yield Found(begin, 0, _conversation(messages))


def _items(source: _Source) -> Iterator[Found]:
    source.take()
    number = 1
    if source.peek() == b"]":
        source.take()
    else:
        while True:
            source.peek()
            line = source.line_number
            yield Found(line, number, _parsed(source.value(), line, source.name))
            number += 1
            sign = source.peek() and source.take()
            if sign == b"]":
                break
            if sign != b",":
                found = repr(sign.decode("utf-8", "replace")) if sign else "the end"
                raise BadLine(
                    source.name, source.line_number, f"expected , or ] after item {number - 1}, found {found}"
                )
    if source.peek():
        raise BadLine(source.name, source.line_number, "expected nothing behind the end of the array")


def _parsed(text: bytes, line: int, name: str) -> Any:
    try:
        return canonical.parse(text)
    except (msgspec.MsgspecError, ValueError) as error:
        return BadLine(name, line, f"not JSON ({error})")


def _is_message(values: list[Any]) -> bool:
    """Whether the first of these is a message, and so all of them a conversation."""
    return any(isinstance(value, dict) and "role" in value and "messages" not in value for value in values)


def _conversation(value: Any) -> Any:
    return {"messages": value} if isinstance(value, list) else value


def _is_part(line: bytes) -> bool:
    """Whether a line ends inside an object or array that goes on in the next."""
    if not isinstance(_parsed(line, 0, ""), BadLine):
        return False
    depth = 0
    for match in _TOKEN.finditer(line):
        token = match[0]
        if token == b'"':
            return False  # no string goes on over lines: this one is damaged
        if len(token) == 1:
            depth += 1 if token in b"{[" else -1
            if depth > DEPTH_MAX:
                return False  # parsing it will say so
    return depth > 0


def _too_long() -> str:
    limit = f"{CONVERSATION_BYTES_MAX >> 20} MiB"
    return f"a conversation of more than {limit}; give one a line, or an array of them"


class _Source:
    """A file as lines or as JSON values, with no more of it in memory than is needed."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.line_number = 1
        #: Length of the last value.
        self.taken = 0
        self._file = file
        self._buffer = b""
        self._at = 0
        while len(self._buffer) < len(BOM) and self._fill():
            pass
        if self._buffer.startswith(BOM):
            self._at = len(BOM)

    def _fill(self) -> bool:
        """Read on; what was taken goes. False at the end."""
        with readable(self.name, self.line_number):
            block: bytes = self._file.read1(READ_BYTES)  # type: ignore[attr-defined]
        self._buffer = self._buffer[self._at :] + block
        self._at = 0
        return bool(block)

    def peek(self) -> bytes:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in _SPACE:
                    return self._buffer[self._at : self._at + 1]
                self.line_number += self._buffer[self._at] == _NEWLINE
                self._at += 1
            if not self._fill():
                return b""

    def take(self) -> bytes:
        """The next character."""
        return self._take(self._at + 1)

    def _take(self, end: int) -> bytes:
        text = self._buffer[self._at : end]
        self._at = end
        self.taken = len(text)
        self.line_number += text.count(b"\n")
        return text

    def has_long_line(self) -> bool:
        """Whether this line is longer than any conversation may be."""
        return self._line_end() is None

    def peek_line(self) -> bytes:
        """The rest of this line, which stays to be read."""
        return self._buffer[self._at : self._line_end()]

    def line(self) -> bytes:
        """The rest of this line. Raises BadLine if it is too long."""
        end = self._line_end()
        if end is None:
            raise BadLine(self.name, self.line_number, _too_long())
        return self._take(end)

    def _line_end(self) -> int | None:
        """Where in the buffer this line ends; None if it is too long."""
        searched = 0
        while (end := self._buffer.find(b"\n", self._at + searched)) < 0:
            searched = len(self._buffer) - self._at
            if searched > CONVERSATION_BYTES_MAX:
                return None
            if not self._fill():
                return len(self._buffer)
        return end if end - self._at <= CONVERSATION_BYTES_MAX else None

    def value(self) -> bytes:
        """The next JSON value, as far as quotes and brackets tell. Raises BadLine if it is too large."""
        if self._buffer[self._at] not in b'{["':
            scalar = _SCALAR.match(self._buffer, self._at)
            return self._take(scalar.end() if scalar else self._at + 1)
        searched = depth = 0
        while True:
            end = len(self._buffer)
            for token in _TOKEN.finditer(self._buffer, self._at + searched):
                sign = token[0]
                if sign == b'"':
                    end = token.start()
                    break
                if len(sign) == 1:
                    depth += 1 if sign in b"{[" else -1
                if depth > DEPTH_MAX:
                    raise BadLine(self.name, self.line_number, "nested too deeply")
                if depth <= 0:
                    return self._take(token.end())
            searched = end - self._at
            if len(self._buffer) - self._at > CONVERSATION_BYTES_MAX:
                raise BadLine(self.name, self.line_number, _too_long())
            if not self._fill():
                return self._take(len(self._buffer))
