"""docs/commands.md is what the commands say, and each command and option says something."""

from pathlib import Path

import click
import pytest

from tallystick.cli.app import COMMANDS, tally
from tallystick.cli.page import commands_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
NAMES = [name for group in COMMANDS.values() for name in group]


def command(name: str) -> click.Command:
    found = tally.get_command(click.Context(tally, **tally.context_settings), name)
    assert found is not None
    return found


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == commands_page(), "run: python -m tallystick.cli.page > docs/commands.md"


@pytest.mark.parametrize("name", NAMES)
def test_each_command_and_option_has_help(name: str) -> None:
    described = command(name)
    assert described.name == name
    assert described.help, f"{name} has no help"
    for parameter in described.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"
        else:
            metavar = (parameter.metavar or parameter.human_readable_name).strip("[]").upper()
            assert metavar in described.help, f"the help of {name} does not say what {metavar} is"


def test_the_page_shows_every_command_and_option() -> None:
    page = commands_page()
    for name in NAMES:
        start = page.index(f"\n### tally {name}\n")
        section = page[start : page.find("\n### ", start + 1)]
        for parameter in command(name).params:
            if isinstance(parameter, click.Option):
                for option in parameter.opts:
                    assert f"`{option}`" in section
        assert "\nExit status: 0 " in section


def test_the_page_fits_the_options_that_take_no_value() -> None:
    assert "| `--json` | Print one JSON document. |" in commands_page()
    assert "| `--limit`" not in commands_page().replace("`-n`, `--limit` `N`", "")
