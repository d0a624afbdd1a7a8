"""What leaves this folder when it is packed, and what is said about it.

Built by the backend that ``pyproject.toml`` names, if it is installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import tinyauthstore

ROOT = Path(__file__).parents[1]
NAME = f"tinyauthstore-{tinyauthstore.__version__}"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SYSTEMS, CHANGES = (
    README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0] for heading in ("Systems and versions", "Changes")
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive of the source, the wheel, and what the archive unpacks to."""
    pytest.importorskip("flit_core.buildapi")
    folder = tmp_path_factory.mktemp("built")
    script = "import sys, flit_core.buildapi as b; b.build_sdist(sys.argv[1]); b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, folder], cwd=ROOT, check=True)
    with tarfile.open(folder / f"{NAME}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def listed(*options: str) -> set[str]:
    """What Git lists. Skips the test where there is no clone to ask."""
    if not (ROOT / ".git").exists() or not (git := shutil.which("git")):
        pytest.skip("this is no clone, or there is no Git")
    ran = subprocess.run([git, "ls-files", "-z", *options], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in ran.stdout.split("\0") if name and (ROOT / name).exists()}


def test_the_source_archive_has_every_file_of_a_clone(built: Path) -> None:
    """Its tests, too, with the files that they read, and what the README shows."""
    assert listed() - files(built / NAME) == set()


def test_the_source_archive_has_nothing_that_git_ignores(built: Path) -> None:
    """Neither caches nor what npm installed, but for the one file that says what the archive is."""
    assert files(built / NAME) - listed("--cached", "--others", "--exclude-standard") == {"PKG-INFO"}


def test_the_source_archive_has_the_files_of_the_tests(built: Path) -> None:
    """Byte for byte, in an unpacked archive as in a clone."""
    names = {f"tests/files/{name}" for name in files(ROOT / "tests" / "files")}
    assert names
    assert {name for name in names if (built / NAME / name).read_bytes() != (ROOT / name).read_bytes()} == set()


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    """With its command line, its conformance kit and its types."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {name for name in files(ROOT / "tinyauthstore") if "__pycache__" not in name}
    assert held == {f"tinyauthstore/{name}" for name in ours}
    assert {"tinyauthstore/py.typed", "tinyauthstore/cli/__init__.py"} <= held


def test_what_was_packed_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    """So that pip, which may be given either, installs the same."""
    script = "import sys, flit_core.buildapi as b; print(b.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, tmp_path], cwd=built / NAME, check=True)
    [again], [wheel] = tmp_path.glob("*.whl"), built.glob("*.whl")
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel) as other:
        assert {name: one.read(name) for name in one.namelist()} == {
            name: other.read(name) for name in other.namelist()
        }


# --- what is said -----------------------------------------------------------------------------


def test_the_changes_begin_with_this_version() -> None:
    """Or a release has nothing said about it."""
    assert re.findall(r"^\*\*([\d.]+)\.\*\*", CHANGES, re.MULTILINE)[0] == tinyauthstore.__version__


def test_the_readme_says_how_each_python_of_the_metadata_was_tried() -> None:
    """None is claimed without that."""
    known = r"Programming Language :: Python :: (3\.\d+)"
    claimed = {match[1] for one in PROJECT["classifiers"] if (match := re.fullmatch(known, one))}
    assert len(claimed) >= 4
    assert {python for python in claimed if not re.search(rf"\b{python}\.\d", SYSTEMS)} == set()


def test_the_readme_names_the_pyodide_that_is_tried() -> None:
    """The one that is installed for the tests."""
    needed = json.loads((ROOT / "tests" / "node" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert f"`pyodide` {needed['pyodide']}," in SYSTEMS


def test_no_address_and_no_licence_is_made_up() -> None:
    """Both are the owner's to give."""
    assert not {"urls", "license", "license-files", "authors", "maintainers"} & PROJECT.keys()
