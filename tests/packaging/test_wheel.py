"""The package as users get it: sdist, from it the wheel, installed alone outside the repository."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tallystick import __version__

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "tallystick"

# Builds in an isolated environment and installs from the package index.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def package_files() -> dict[str, Path]:
    """The files that belong in the wheel, by their name in it."""
    found: dict[str, Path] = {}
    for folder in (PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_symlink())):
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md":
                found[path.relative_to(PACKAGE.parent).as_posix()] = path
    return found


def not_of_the_source(folder: str, names: list[str]) -> set[str]:
    """What a clean checkout would not have: earlier builds, caches, virtual environments."""
    return {
        name
        for name in names
        if name == "__pycache__"
        or name.endswith(".egg-info")
        or (Path(folder) == ROOT and (name in ("build", "dist") or name.startswith(".")))
        or (Path(folder) / name / "pyvenv.cfg").exists()
    }


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from the sdist."""
    work = tmp_path_factory.mktemp("build")
    source = work / "source"
    shutil.copytree(ROOT, source, symlinks=True, ignore=not_of_the_source)
    run(sys.executable, "-m", "build", "--outdir", work / "dist", source, cwd=work)
    return work / "dist"


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    [path] = dist.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [path] = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new virtual environment with the wheel installed."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=True)
    commands = home / ("Scripts" if sys.platform == "win32" else "bin")
    run(commands / "python", "-m", "pip", "install", "--quiet", wheel, cwd=home)
    return commands


def test_names_carry_the_version(sdist: Path, wheel: Path) -> None:
    assert sdist.name == f"tallystick-{__version__}.tar.gz"
    assert wheel.name == f"tallystick-{__version__}-py3-none-any.whl"


def test_the_sdist_holds_files_and_no_links(sdist: Path) -> None:
    """Links into folders that the sdist does not have would lead nowhere."""
    with tarfile.open(sdist) as archive:
        assert [member.name for member in archive if not (member.isfile() or member.isdir())] == []


def test_the_wheel_holds_the_files_of_the_package(wheel: Path) -> None:
    expected = package_files()
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("tallystick/")}
        assert sorted(packed) == sorted(expected), (
            "a new kind of data file belongs in package-data in pyproject.toml"
        )
        for name, path in expected.items():
            assert archive.read(name) == path.read_bytes(), name


def test_the_wheel_holds_schema_and_sample_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert [name for name in names if name.startswith("tallystick/ledger/") and name.endswith(".sql")]
    assert "tallystick/cli/support_desk_day.jsonl" in names


def test_the_wheel_holds_no_other_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"tallystick", f"tallystick-{__version__}.dist-info"}


def test_the_wheel_carries_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"tallystick-{__version__}.dist-info/licenses/LICENSE")
        metadata = archive.read(f"tallystick-{__version__}.dist-info/METADATA").decode()
    assert text == (ROOT / "LICENSE").read_bytes()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


def test_the_installed_command_says_its_version(bin_folder: Path, tmp_path: Path) -> None:
    for command in ([bin_folder / "tally"], [bin_folder / "python", "-m", "tallystick"]):
        assert __version__ in run(*command, "--version", cwd=tmp_path).stdout


def test_top_level_names_stay_free_for_users(bin_folder: Path, tmp_path: Path) -> None:
    folders = sorted(path.name for path in PACKAGE.iterdir() if path.is_symlink())
    script = "import sys, importlib.util as u; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    assert run(bin_folder / "python", "-c", script, *folders, cwd=tmp_path).stdout.strip() == "[]"


def test_every_installed_module_can_be_imported(bin_folder: Path, tmp_path: Path) -> None:
    """With the declared dependencies alone, which the tools of a developer cannot fill in for."""
    modules = sorted(
        re.sub(r"/__init__$", "", name.removesuffix(".py")).replace("/", ".")
        for name in package_files()
        if name.endswith(".py")
    )
    script = "import sys, importlib as i; [i.import_module(n) for n in sys.argv[1:]]"
    run(bin_folder / "python", "-W", "error", "-c", script, *modules, cwd=tmp_path)


def test_the_installed_demo_runs(bin_folder: Path, tmp_path: Path) -> None:
    done = run(bin_folder / "tally", "demo", cwd=tmp_path)
    assert done.stdout
    assert "Traceback" not in done.stderr


def test_the_declared_python_is_the_one_that_tools_check_for() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    lowest = config["project"]["requires-python"].removeprefix(">=")
    assert config["tool"]["mypy"]["python_version"] == lowest
    assert config["tool"]["ruff"]["target-version"] == "py" + lowest.replace(".", "")
