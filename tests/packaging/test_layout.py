"""The import package is made of symbolic links to the folders at the top of the repository."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "tallystick"
LINKS = sorted(path for path in PACKAGE.iterdir() if path.is_symlink())
#: Run from a checkout, not installed.
NOT_INSTALLED = {"benchmarks"}
FOLDERS = sorted(path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name not in NOT_INSTALLED)


def test_the_package_has_links() -> None:
    assert LINKS, f"no symbolic links in {PACKAGE}: was the repository checked out without them?"


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
def test_a_link_leads_to_the_top_folder_of_its_name(link: Path) -> None:
    assert os.readlink(link) == f"../../{link.name}"
    assert link.resolve() == ROOT / link.name
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_package_folder_at_the_top_has_its_link(folder: Path) -> None:
    assert folder.name in {link.name for link in LINKS}, f"ln -s ../../{folder.name} src/tallystick/"


def test_subpackages_are_links_and_not_folders() -> None:
    folders = [path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.is_symlink()]
    assert set(folders) <= {"__pycache__"}


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
def test_folders_with_modules_are_packages(link: Path) -> None:
    """A folder without `__init__.py` works in the repository and is missing from the wheel."""
    bare = {path.parent for path in link.rglob("*.py") if not (path.parent / "__init__.py").exists()}
    assert not bare
