"""A run that two processes share tells what one process would, and no trouble of the second is missed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import PATIENCE

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="it needs to know of two CPUs")

CONFTEST = """
import os

import two_processes
from two_processes import pytest_runtestloop

two_processes.LARGE = two_processes.CHUNK = 1
os.sched_getaffinity = lambda process: {0, 1}
"""

MODULE = """
import os, pathlib, signal, time

import pytest

FIRST = os.getpid()
second_is_there = pathlib.Path("second")

@pytest.mark.parametrize("number", range(20))
def test_it(number, tmp_path):
    if os.getpid() == FIRST:
        while not (second_is_there.exists() or os.environ.get("ONE_PROCESS")):
            time.sleep(0.01)
        in_the_first()
    else:
        second_is_there.touch()
        in_the_second()

"""

Told = tuple[int, str, dict[str, int]]
"""The exit code, the output and the counts in it."""

Run = Callable[..., Told]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs twenty tests, some in each process."""

    def run(*options: str, first: str = "pass", second: str = "pass", alone: str = "") -> Told:
        (tmp_path / "conftest.py").write_text(CONFTEST)
        bodies = f"def in_the_first(): {first}\ndef in_the_second(): {second}\n"
        (tmp_path / "test_toy.py").write_text(MODULE + bodies)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        command += ["-c", os.devnull, "--rootdir", str(tmp_path), "--basetemp", str(tmp_path / "base")]
        changes = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "ONE_PROCESS": alone, "PYTEST_ADDOPTS": ""}
        changes["PYTHONPATH"] = str(Path(__file__).parent)
        process = subprocess.run(
            [*command, *options], env={**os.environ, **changes}, cwd=tmp_path,
            check=False, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert process.stderr == ""
        counts = re.findall(r"(\d+) (passed|failed|skipped|warnings?)", process.stdout.splitlines()[-1])
        return process.returncode, process.stdout, {what: int(count) for count, what in counts}

    return run


def test_both_take_part_and_every_test_counts_once(run: Run, tmp_path: Path) -> None:
    code, _, counts = run("--junitxml=report.xml")
    assert (code, counts) == (0, {"passed": 20}) and (tmp_path / "second").exists()
    names = [case.attrib["name"] for case in ElementTree.parse(tmp_path / "report.xml").iter("testcase")]
    assert sorted(names) == sorted(f"test_it[{number}]" for number in range(20))


def test_the_environment_turns_it_off(run: Run, tmp_path: Path) -> None:
    code, _, counts = run(alone="1")
    assert (code, counts) == (0, {"passed": 20}) and not (tmp_path / "second").exists()


def test_a_failure_in_the_second_is_shown_and_fails_the_run(run: Run) -> None:
    code, output, counts = run(second="print('printed there'); assert FIRST == 'another'")
    assert code == 1 and counts["failed"] >= 1 and sum(counts.values()) == 20
    assert "printed there" in output and re.search(r"E +AssertionError: assert \d+ == 'another'", output)
    assert run("-x", second="assert False")[2]["failed"] == 1


def test_skips_and_warnings_in_the_second_are_told(run: Run) -> None:
    skip = "import warnings; warnings.warn('careful'); pytest.skip('not here')"
    code, output, counts = run("-rs", second=skip)
    assert code == 0 and counts["passed"] + counts["skipped"] == 20
    assert "UserWarning: careful" in output and "not here" in output


@pytest.mark.parametrize(
    "crash, told",
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "It ended with SIGKILL."),
        ("os._exit(0)", "The second process ended in this test."),
        ("pytest.exit('enough')", "Exit: enough"),
    ],
)
def test_a_crash_of_the_second_fails_the_tests_that_it_had_taken(run: Run, crash: str, told: str) -> None:
    code, output, counts = run(second=crash)
    assert code == 1 and told in output
    assert 1 <= counts["failed"] <= 2 and sum(counts.values()) == 20


def test_a_crash_after_the_last_test_fails_the_run(run: Run) -> None:
    end = "leave = os._exit; os._exit = lambda status: leave(3)"
    code, output, counts = run(second=end)
    assert code == 1 and counts == {"passed": 20}
    assert "The second process did not end well. It ended with exit code 3." in output


def test_an_interrupt_ends_both(run: Run) -> None:
    """However long the second's test would take."""
    code, output, _ = run(first="os.kill(FIRST, signal.SIGINT)", second=f"time.sleep({2 * PATIENCE})")
    assert code == 2 and "KeyboardInterrupt" in output
