"""docs/events.md is what the structs say, and every built-in kind is on it."""

from pathlib import Path

import msgspec

from tallystick.events.catalogue import KINDS
from tallystick.events.page import events_page
from tallystick.ledger.kinds import RESERVED_AREAS, RESERVED_KINDS, check_kind

PAGE = Path(__file__).resolve().parents[2] / "docs" / "events.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == events_page(), "run: python -m tallystick.events > docs/events.md"


def test_every_kind_is_reserved_versioned_and_described() -> None:
    for kind, body in KINDS.items():
        assert check_kind(kind).split(".")[0] in RESERVED_AREAS or kind in RESERVED_KINDS
        fields = {field.name: field for field in msgspec.structs.fields(body)}
        assert isinstance(fields["v"].default, int)
        for name in fields:
            assert f"\n{name}: " in "\n" + (body.__doc__ or "").replace("\n    ", "\n") or name == "v", (
                f"{kind}: the docstring does not say what {name} holds"
            )
