"""Imports between the folders point one way.

    ledger <- events <- projections <- recorders <- replay <- cli, service

A module may import from its own folder and from those to the left, from the standard library
and from other distributions. `cli` and `service` stay apart. Of the names in `tallystick`
itself only `_version` may be imported: the public API stands above all folders.

Imports are read from the source, so those inside functions and under TYPE_CHECKING count.
A string that names a module of the package counts too: it is how imports are put off.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "tallystick"
RANK = {
    "ledger": 0,
    "events": 1,
    "projections": 2,
    "recorders": 3,
    "replay": 4,
    "cli": 5,
    "service": 5,
}
# Importable by accident when the repository is on sys.path, as under `python -m pytest`.
REPOSITORY_FOLDERS = {*RANK, "benchmarks", "docs", "examples", "src", "tests"}
MODULE_PATH = re.compile(rf"{PACKAGE}\.({'|'.join(RANK)})(\.\w+)*(:\w+)?")


class Import(NamedTuple):
    path: Path
    line: int
    folder: str  # the top folder that the importing module is in
    target: str  # what is imported, by its full name


def imports_of_folder(folder: Path) -> Iterator[Import]:
    for path in sorted(folder.rglob("*.py")):
        package = ".".join((PACKAGE, *path.parent.relative_to(folder.parent).parts))
        for line, target in imports_of_source(path.read_text("utf-8"), package):
            yield Import(path, line, folder.name, target)


def imports_of_source(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Each imported name in full, with its line. `package` is what relative imports start from."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = resolve_name("." * level + (module or ""), package)
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(str(text)), *_],
            ) if not MODULE_PATH.fullmatch(text):
                yield node.lineno, resolve_name(text, package)
            case ast.Constant(str(text)) if MODULE_PATH.fullmatch(text):
                yield node.lineno, text.replace(":", ".")


def complaint(folder: str, target: str) -> str | None:
    """Why a module in `folder` may not import `target`, or None if it may."""
    top, *rest = target.split(".")
    if top in REPOSITORY_FOLDERS:
        return f"imports {target}, which only the repository has (folders are imported as {PACKAGE}.*)"
    if top != PACKAGE or rest[:1] == ["_version"]:
        return None
    if not rest or rest[0] not in RANK:
        return f"imports {target} from the public API"
    if rest[0] == folder or RANK[rest[0]] < RANK[folder]:
        return None
    return f"imports {target}, and {folder} may not use {rest[0]}"


def violations(root: Path) -> list[str]:
    """A line for each import below `root` that points the wrong way."""
    return [
        f"{found.path.relative_to(root).as_posix()}:{found.line}: {why}"
        for folder in RANK
        for found in imports_of_folder(root / folder)
        if (why := complaint(found.folder, found.target))
    ]


def test_every_folder_of_the_package_has_a_place_in_the_order() -> None:
    assert {path.parent.name for path in ROOT.glob(f"src/{PACKAGE}/*/__init__.py")} <= set(RANK)


def test_imports_point_one_way() -> None:
    assert violations(ROOT) == []


def test_other_distributions_are_declared() -> None:
    """What the modules import is in pyproject.toml, as a dependency or in an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(name for extra in extras.values() for name in extra)]
    declared = {distribution(requirement) for requirement in requirements}
    installed = packages_distributions()
    known = sys.stdlib_module_names | REPOSITORY_FOLDERS | {PACKAGE}
    undeclared = [
        f"{found.path.relative_to(ROOT)}:{found.line}: {top}"
        for folder in RANK
        for found in imports_of_folder(ROOT / folder)
        if (top := found.target.split(".")[0]) not in known
        and declared.isdisjoint(distribution(name) for name in installed.get(top, [top]))
    ]
    assert undeclared == []


def distribution(requirement: str) -> str:
    """The normalized name that a requirement starts with: `sqlite-utils` for `sqlite_utils>=3.38`."""
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


# The checker itself, on one module at a time: where it stands, and what it says.

WRONG = {
    "to the right": ("ledger/chain.py", "import tallystick.events"),
    "to the right, by name": ("events/kernel.py", "from tallystick.recorders.kernel.kernel import Kernel"),
    "to the right, as a package": ("projections/engine.py", "from tallystick import replay"),
    "to the right, relative": ("ledger/chain.py", "from ..recorders import kernel"),
    "to the right, relative, from a subfolder": ("ledger/sqlite/store.py", "from ...replay import report"),
    "to the right, relative, from __init__": ("recorders/gateway/__init__.py", "from ...cli import main"),
    "in a function": ("ledger/chain.py", "def f():\n    if True:\n        import tallystick.cli"),
    "under TYPE_CHECKING": (
        "events/kernel.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tallystick.replay import Report",
    ),
    "by string": ("ledger/chain.py", "TABLE = {'run': 'tallystick.replay.run'}"),
    "by string, with an attribute": ("ledger/chain.py", "TABLE = {'run': 'tallystick.replay.run:main'}"),
    "by import_module": (
        "ledger/chain.py",
        "import importlib\nimportlib.import_module('..events', __package__)",
    ),
    "cli to service": ("cli/serve.py", "from tallystick.service import app"),
    "service to cli": ("service/app.py", "from tallystick.cli import main"),
    "the public API": ("cli/append.py", "from tallystick import Ledger"),
    "the public API, whole": ("cli/append.py", "import tallystick"),
    "the public API, star": ("cli/append.py", "from tallystick import *"),
    "a folder of the repository": ("cli/append.py", "from ledger.chain import digest"),
    "tests": ("ledger/chain.py", "import tests.support"),
}

RIGHT = {
    "to the left": ("replay/run.py", "from tallystick.recorders.kernel.kernel import Kernel"),
    "to the left, relative": ("events/kernel.py", "from ..ledger import event"),
    "to the left, as a package": ("cli/append.py", "from tallystick import ledger, _version"),
    "its own folder": ("cli/append.py", "from . import options\nfrom tallystick.cli.options import FILE"),
    "its own folder, from a subfolder": (
        "ledger/sqlite/store.py",
        "from ..event import Row\nfrom . import x",
    ),
    "the version": ("ledger/created.py", "from tallystick._version import __version__"),
    "others": ("service/app.py", "from __future__ import annotations\nimport json, msgspec\nimport os.path"),
    "prose": ("ledger/chain.py", "'''See tallystick.replay for the other half.'''"),
}


@pytest.mark.parametrize(("name", "source"), WRONG.values(), ids=list(WRONG))
def test_the_checker_reports(name: str, source: str, tmp_path: Path) -> None:
    write(tmp_path / name, source)
    [line] = violations(tmp_path)
    assert line.startswith(f"{name}:{len(source.splitlines())}: imports ")


@pytest.mark.parametrize(("name", "source"), RIGHT.values(), ids=list(RIGHT))
def test_the_checker_allows(name: str, source: str, tmp_path: Path) -> None:
    write(tmp_path / name, source)
    assert violations(tmp_path) == []


def write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(source, "utf-8")
