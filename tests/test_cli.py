"""The command line, run as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tinyauthstore import ShelveAdapter, SQLiteAdapter, __version__
from tinyauthstore.cli import main

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """``python -m tinyauthstore`` in a fresh interpreter, warnings fatal."""
    command = [sys.executable, "-W", "error", "-m", "tinyauthstore", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=60)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """What ``demo`` prints on its default target."""
    assert main(["demo"]) == 0
    return capsys.readouterr().out


def test_the_demo_succeeds_in_well_under_two_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    finished = run("demo", cwd=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert time.monotonic() - start < 2
    assert list(tmp_path.iterdir()) == []


def test_the_demo_fits_a_plain_terminal_of_80_columns(printed: str) -> None:
    assert printed.isascii()
    assert [line for line in printed.splitlines() if len(line) > 80] == []


def test_the_demo_shows_no_whole_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def remembered(size: int) -> str:
        made.append(f"{len(made)}{'a-secret-token' * 3}")
        return made[-1]

    monkeypatch.setattr("secrets.token_urlsafe", remembered)
    assert main(["demo"]) == 0
    shown = re.sub(r"\s", "", capsys.readouterr().out)
    assert len(made) >= 5
    assert [token for token in made if token[:12] in shown] == []


def test_the_demo_shows_the_answers_that_matter(printed: str) -> None:
    flat = re.sub(r"\s+", " ", printed)
    for told in (
        r'link again .*? is refused: use_verification_token\(.*?\) -> None',
        r'create_user\(email="ada@example.com"\) -> ConflictError: User.email is taken',
        r'get_session_and_user\("\'; DROP TABLE users; --"\) -> None',
        r"revoke_session\(.*?\) -> True get_session_and_user\(.*?\) -> None",
        r"purge_expired\(\) -> Purged\(sessions=1, verification_tokens=1\)",
        r"check\(\) -> \[\] \(none\)",
    ):
        assert re.search(told, flat), told


def test_the_demo_ends_with_the_look_up_it_measured(printed: str) -> None:
    (measured,) = re.findall(r"([0-9.]+) microseconds for a look-up", printed)
    assert 0.05 < float(measured) < 10_000


@pytest.mark.parametrize("target", ["memory:", "sqlite:///:memory:", "sqlite:///new.db", "shelve:new"])
def test_the_demo_runs_on_any_target(target: str, tmp_path: Path) -> None:
    finished = run("demo", target, cwd=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "Purged(sessions=1, verification_tokens=1)" in finished.stdout


@pytest.mark.parametrize("adapter, scheme", [(SQLiteAdapter, "sqlite:///"), (ShelveAdapter, "shelve://")])
def test_the_demo_never_touches_a_store_that_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], adapter: Any, scheme: str
) -> None:
    path = tmp_path / "auth"
    with adapter(path) as store:
        user = store.create_user(email="ada@example.com")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert main(["demo", f"{scheme}{path}"]) == 2
    assert f"{path} exists already" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    with adapter(path) as store:
        assert store.get_user_by_email("ada@example.com") == user


def test_a_bad_target_is_refused_with_the_good_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "postgres://db"]) == 2
    message = capsys.readouterr().err
    assert "'postgres://db'" in message and "sqlite:///auth.db" in message and "memory:" in message


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -W error -m tinyauthstore demo | head -n 1"
    finished = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert finished.stderr == ""
    assert finished.stdout.startswith(f"tinyauthstore {__version__}")


def test_the_version_is_printed() -> None:
    assert run("--version").stdout == f"tinyauthstore {__version__}\n"


def test_help_names_the_commands_and_the_targets() -> None:
    assert "demo" in run("--help").stdout
    finished = run("demo", "--help").stdout
    assert '"memory:"' in finished
    assert [line for line in finished.splitlines() if len(line) > 80] == []


def test_no_command_says_what_is_missing() -> None:
    finished = run()
    assert finished.returncode == 2
    assert "COMMAND" in finished.stderr
