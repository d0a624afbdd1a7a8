"""What mypy infers of ``typing_samples.py`` is what its comments say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).with_name("typing_samples.py")
LINES = dict(enumerate(SAMPLES.read_text().splitlines(), 1))
EXPECTED = {number: comment for number, line in LINES.items() if (comment := line.partition("  # ")[2])}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What mypy says of each line."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--hide-error-context", "--no-error-summary"]
    command += ["--cache-dir", str(tmp_path_factory.mktemp("mypy")), str(SAMPLES)]
    ran = subprocess.run(command, cwd=SAMPLES.parent.parent, capture_output=True, text=True)
    found: dict[int, str] = {}
    for line in ran.stdout.splitlines():
        path, number, message = re.match(r"(.*?):(\d+): (.*)", line).groups()  # type: ignore[union-attr]
        assert path == "tests/typing_samples.py", line
        found.setdefault(int(number), message)
    assert found, ran.stderr
    return found


def short(message: str) -> str:
    """A type or an error without the modules of the names in it."""
    message = re.sub(r"\b(?:\w+\.)+(?=\w)", "", message)
    return re.sub(r'^note: Revealed type is "(.*)"$', r"\1", message)


def test_nothing_is_said_of_other_lines(said: dict[int, str]) -> None:
    assert {number: message for number, message in said.items() if number not in EXPECTED} == {}


@pytest.mark.parametrize("number", EXPECTED, ids=lambda number: LINES[number].partition("  # ")[0].strip())
def test_mypy_says_what_the_comment_does(said: dict[int, str], number: int) -> None:
    assert short(said.get(number, "nothing")).startswith(EXPECTED[number])
