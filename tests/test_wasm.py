"""The kit passes on CPython 3.14 under WebAssembly, a Python of 32 bits without threads: npm's ``pyodide``, in Node.

In memory and in SQLite, in memory and in a file of WebAssembly's own file system; alone, split, and with a secret. Not
over shelves, which need ``dbm``, nor awaited, which takes a second thread. What else needs one skips itself.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from support import node_folder
from one_thread import CANNOT

pytestmark = pytest.mark.soak

HERE = Path(__file__).parent
LONGEST = 600
"""Seconds: it takes about forty on an idle machine."""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest prints there."""
    folder = node_folder(tmp_path_factory.mktemp("wasm"), "pyodide", "wasm.mjs")
    # With what is soaked here: the whole kit, over each store that can be had there.
    chosen = ["tests/test_contract.py", "-m", "", "-k", "not Shelve and not Async"]
    chosen += ["-q", "-rfEs", "-W", "error", "--tb=short"]
    # As much of the stack as main threads have for sure: JSON of some depth is read by recursion.
    command = ["node", "--stack-size=6000", "wasm.mjs", HERE.parent, Path(pytest.__file__).parents[1], *chosen]
    ran = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=LONGEST)
    return ran.stdout + ran.stderr[-5000:]  # whose beginning would be all of Pyodide in one line


def test_it_is_cpython_3_14(printed: str) -> None:
    """A package for another Python would prove something else."""
    assert re.match(r"Python 3\.14\.", printed), printed[:200]


def test_the_kit_passes_but_for_what_needs_a_thread(printed: str) -> None:
    """In every store of the selection."""
    print(printed)
    summary = printed.strip().rpartition("\n")[2]
    found = re.fullmatch(r"(\d+) passed, (\d+) skipped, \d+ deselected in .*", summary)
    assert found, summary
    assert int(found[1]) > 2700, "they ran"
    assert int(found[2]) < int(found[1]) / 20, "few tests need threads"


def test_nothing_else_is_skipped(printed: str) -> None:
    """Each skip's reason is what Python says where it cannot start a thread."""
    reasons = re.findall(r"^SKIPPED .*?: (.*)$", printed, re.MULTILINE)
    assert {*reasons} == {CANNOT}
