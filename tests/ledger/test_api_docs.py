"""Public names are documented, and errors speak in one line."""

from __future__ import annotations

import copy
import enum
import inspect
import pickle
import types
from typing import Any

import pytest

import tallystick
from tallystick import TallyError
from tallystick.ledger import errors

NAMES = sorted(set(tallystick.__all__) - {"__version__"})
ERRORS = sorted(
    (
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, TallyError) and value.__module__ == errors.__name__
    ),
    key=lambda error: error.__name__,
)

#: A field of each name that an error's constructor takes.
SAMPLES: dict[str, Any] = {
    "path": "body.items[2].price",
    "problem": "nan is no JSON number",
    "remedy": "use null or a string",
    "size_bytes": 1_048_577,
    "limit_bytes": 1_048_576,
    "kind": "decision.recorded",
    "key": "req-7f3a",
    "seq": 41,
    "difference": "body",
    "stream": "order:81",
    "expected": 41,
    "actual": 43,
    "seqs": (41, 42),
    "last": 43,
    "where": "/var/lib/agents.tally",
    "found": 2,
    "known": 1,
    "waited_s": 30.0,
    "detail": "database disk image is malformed",
    "head_file": "agents.tally.head",
    "text": "tally1:zz",
    "source": "events.jsonl",
    "line": 12,
    "cause": TallyError("agents.tally: the disk is full"),
    "results": ("an ExecutionTrace",),
    "erased": False,
    "reason": "the disk is full",
    "seen": 40,
    "events": 3,
    "kept": False,
    "triggers": ("audit",),
    "ledger_id": bytes(16),
    "named": b"x" * 16,
}


def sample(error: type[TallyError]) -> TallyError:
    if error.__init__ is Exception.__init__:
        return error("agents.tally: something went wrong")
    names = list(inspect.signature(error.__init__).parameters)[1:]
    return error(*(SAMPLES[name] for name in names))


def public_methods(value: type) -> list[Any]:
    return [
        getattr(member, "__func__", getattr(member, "fget", member))
        for name, member in vars(value).items()
        if not name.startswith("_")
        and isinstance(member, types.FunctionType | classmethod | staticmethod | property)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_a_docstring(name: str) -> None:
    value = getattr(tallystick, name)
    doc = vars(value).get("__doc__") if isinstance(value, type) else inspect.getdoc(value)
    assert doc and doc.strip(), name
    inherited = {base.__doc__ for base in value.__mro__[1:]} if isinstance(value, type) else set()
    assert doc not in inherited


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(getattr(tallystick, name), type)])
def test_the_methods_of_a_public_class_have_docstrings(name: str) -> None:
    value = getattr(tallystick, name)
    if not issubclass(value, enum.Enum):
        bare = [method.__qualname__ for method in public_methods(value) if not method.__doc__]
        assert bare == []


def test_every_error_is_public() -> None:
    assert {error.__name__ for error in ERRORS} <= set(tallystick.__all__)
    assert len(ERRORS) > 20


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_the_message_of_an_error_is_one_line(error: type[TallyError]) -> None:
    made = sample(error)
    text = str(made)
    assert text and "\n" not in text and text == text.strip()
    assert len(text) < 300
    assert made.args == (text,)
    assert made.appended is None


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_keeps_its_fields(error: type[TallyError]) -> None:
    if error.__init__ is Exception.__init__:
        return
    names = list(inspect.signature(error.__init__).parameters)[1:]
    made = sample(error)
    for name in names:
        if hasattr(made, name):
            assert getattr(made, name) == SAMPLES[name]
    message_only = {"Closed", "Corrupt", "LedgerNotFound"}
    assert error.__name__ in message_only or all(hasattr(made, name) for name in names)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_can_be_copied_and_sent_to_another_process(error: type[TallyError], again: Any) -> None:
    made = sample(error)
    made.appended = 5
    other = again(made)
    assert type(other) is error
    assert other is not made
    assert (str(other), other.args, repr(vars(other))) == (str(made), made.args, repr(vars(made)))
    other.appended = 6
    assert made.appended == 5


def test_a_path_inside_another() -> None:
    error = errors.NotCanonical("body.x", "problem", "remedy").inside("events[3]")
    assert (error.path, str(error)) == ("events[3].body.x", "events[3].body.x: problem; remedy")


def test_callers_can_branch_on_builtin_types_too() -> None:
    assert issubclass(errors.InvalidEvent, ValueError)
    assert issubclass(errors.BadHead, ValueError)
    assert issubclass(errors.BadLine, ValueError)
    assert issubclass(errors.NoSuchEvent, LookupError)
    assert issubclass(errors.Locked, errors.Unavailable)
    assert issubclass(errors.Unavailable, errors.StoreError)
    assert issubclass(errors.OutcomeUnknown, errors.StoreError)
    assert not issubclass(errors.Closed, errors.StoreError)
