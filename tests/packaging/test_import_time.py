"""`import tallystick` loads nothing that it does not need yet.

What is loaded is checked rather than how long it takes: a clock in a test suite lies, and
these modules are where the time would go.
"""

import json
import subprocess
import sys

HEAVY = {"apsw", "blake3", "click", "importlib.metadata", "msgspec", "orjson", "rich"}


def loaded_by(statements: str) -> set[str]:
    """The modules that `statements` load in a new interpreter, beyond those loaded at its start."""
    script = f"import sys, json; before = set(sys.modules)\n{statements}\n"
    script += "print(json.dumps(sorted(set(sys.modules) - before)))"
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(run.stdout))


def test_importing_the_package_loads_no_dependency() -> None:
    loaded = loaded_by("import tallystick")
    assert "tallystick" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_importing_the_package_loads_no_module_of_it() -> None:
    assert not {name for name in loaded_by("import tallystick") if name.startswith("tallystick.")}


def test_listing_the_public_names_loads_none() -> None:
    assert loaded_by("import tallystick; dir(tallystick); tallystick.__all__").isdisjoint(HEAVY)


def test_the_version_needs_no_package_metadata() -> None:
    assert loaded_by("import tallystick; tallystick.__version__").isdisjoint(HEAVY)
