"""docs/events.md is what the structs say, and every built-in kind is on it."""

from pathlib import Path

import msgspec

from tallystick.events.catalogue import KINDS
from tallystick.events.page import events_page, struct_of
from tallystick.ledger.kinds import RESERVED_AREAS, RESERVED_KINDS, check_kind

PAGE = Path(__file__).resolve().parents[2] / "docs" / "events.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == events_page(), "run: python -m tallystick.events > docs/events.md"


def structs(body: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    nested = [found for field in msgspec.structs.fields(body) if (found := struct_of(field.type))]
    return [body, *(inner for struct in nested for inner in structs(struct))]


def test_every_kind_is_reserved_versioned_and_described() -> None:
    for kind, body in KINDS.items():
        assert check_kind(kind).split(".")[0] in RESERVED_AREAS or kind in RESERVED_KINDS
        fields = {field.name: field for field in msgspec.structs.fields(body)}
        assert isinstance(fields["v"].default, int)
        for struct in structs(body):
            for name in {field.name for field in msgspec.structs.fields(struct)} - {"v"}:
                assert f"\n{name}: " in "\n" + (struct.__doc__ or "").replace("\n    ", "\n"), (
                    f"{kind}: {struct.__name__}'s docstring does not say what {name} holds"
                )


def test_clock_readings_and_run_ids_are_never_derived() -> None:
    observed = {"run_id", "urn", "error", "exception_repr", "runtime_ms", "duration_ms"}
    for kind, body in KINDS.items():
        derived = {field.name: field.type for field in msgspec.structs.fields(body)}.get("derived")
        if derived is not None:
            names = {field.name for struct in structs(derived) for field in msgspec.structs.fields(struct)}
            assert not {name for name in names if name in observed or name.endswith("_at")}, kind
