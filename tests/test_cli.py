"""The command line, run as a user runs it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from support import FLAGS, PATIENCE
from test_cli_commands import ADA, KINDS, columns, files

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


# --- in a pipe, and in a terminal -------------------------------------------------------------


def start(*arguments: str, cwd: Path, **options: Any) -> subprocess.Popen[bytes]:
    """The command line in a fresh interpreter, with pipes for all three of its streams unless ``options`` say else."""
    command = [sys.executable, "-W", "error", "-m", "tinyauthstore", *arguments]
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | options
    return subprocess.Popen(command, cwd=cwd, env={"PYTHONPATH": str(ROOT), "TERM": "xterm"}, **streams)


@pytest.mark.parametrize("kind", ["ours", "shelf", "prisma.sqlite", "better-auth.sqlite"])
def test_a_process_opens_each_kind_of_store(kind: str, tmp_path: Path) -> None:
    KINDS[kind](str(tmp_path / "store"))
    finished = run("-s", "store", "users", cwd=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert ADA in finished.stdout and "\033" not in finished.stdout


def test_what_is_told_beside_the_output_comes_after_it(tmp_path: Path) -> None:
    KINDS["ours"](str(tmp_path / "store"))
    with start("-s", "store", "users", "--limit", "1", cwd=tmp_path, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        assert process.stdout.read().endswith(b" Ada\n1 user; more: --after ada\n")


SHOWING = """
import shlex, sys
from tinyauthstore.cli import main
for line in sys.argv[1:]:
    print("$", line, flush=True)
    status = main(shlex.split(line))
    print("status", status, flush=True)
"""


def in_terminal(*lines: str, cwd: Path, typed: bytes = b"", width: int = 80) -> str:
    """What these command lines show, one after the other, in a terminal."""
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    command = [sys.executable, *FLAGS, "-c", SHOWING, *lines]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=environment) as process:
        os.close(theirs)
        os.write(terminal, typed)
        shown, end = b"", time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                shown += os.read(terminal, 65536) if select.select([terminal], [], [], 1)[0] else b""
            except OSError:  # nobody has its other end any more
                break
        process.kill()
        os.close(terminal)
    return shown.decode().replace("\r\n", "\n")


def test_a_terminal_of_80_columns_shows_every_kind_of_store_in_lines_that_fit(tmp_path: Path) -> None:
    for kind, make in KINDS.items():
        make(str(tmp_path / kind))
    commands = ("stats", "users", f"show {ADA}", "sessions", "check")
    shown = in_terminal(*(f"-s {kind} {command}" for kind in KINDS for command in commands), cwd=tmp_path)
    assert shown.count("status 0\n") == len(KINDS) * len(commands)
    plain = re.sub(r"\033\[[01]m", "", shown)
    assert "\033[1mID" in shown and "\033[1mSESSION" in shown and "\033" not in plain
    assert [line for line in plain.splitlines() if columns(line) > 80] == []
    piped = run("-s", "ours", "users", cwd=tmp_path).stdout
    assert f"$ -s ours users\n{piped}status 0\n" in plain


def test_a_wider_terminal_shows_more(tmp_path: Path) -> None:
    with SQLiteAdapter(tmp_path / "store") as store:
        store.create_user(email=f"{'long.' * 10}@example.com", name="A name that goes on and on")
    shown = in_terminal("-s store users", cwd=tmp_path, width=140)
    assert f"{'long.' * 10}@example.com  A name that goes on and on\n" in shown


def test_a_question_is_answered_in_the_terminal(tmp_path: Path) -> None:
    KINDS["ours"](str(tmp_path / "store"))
    shown = in_terminal("-s store delete-user ada", "-s store delete-user ada", cwd=tmp_path, typed=b"n\ny\n")
    question = "Delete ada@example.com, with accounts, sessions and passkeys? [y/N] "
    assert re.findall(re.escape(question) + "(.*)", shown) and "nothing was changed" in shown
    assert "deleted ada\n" in shown


AS_NOBODY = """
import os, sys
from tinyauthstore.cli import main
main(["-s", "memory:", "stats"])  # imports what it needs
os.setgid(65534)
os.setuid(65534)
for line in (["users"], ["purge", "--yes"], ["dump"], ["init"], ["backup", "other"]):
    print(main(["-s", sys.argv[1], *line]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_file_that_is_not_writable_is_out_of_reach_and_keeps_its_directory_clean(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for kind in ("ours", "prisma.sqlite", "shelf"):
            store = Path(folder) / kind
            KINDS[kind](str(store))
            if kind != "shelf":
                store.chmod(0o644)
            before = files(Path(folder))
            command = [sys.executable, *FLAGS, "-c", AS_NOBODY, str(store)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={"PYTHONPATH": str(ROOT)})
            init = "3" if kind == "shelf" else "2"  # whether that directory is empty cannot be told
            assert done.stdout.split()[-5:] == ["3", "3", "3", init, "3"], done.stdout + done.stderr
            assert done.stderr.count("\n") == 5 and done.stderr.count("tinyauthstore: ") == 5
            assert kind == "shelf" or done.stderr.count("writable for this user, or its directory is not (SQLite needs both)") == 4
            assert files(Path(folder)) == before


# --- interrupted, or cut off ------------------------------------------------------------------


def test_control_c_while_a_dump_is_loaded_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    with SQLiteAdapter(tmp_path / "full") as store, store.transaction():
        for number in range(3000):
            store.create_user(email=f"{number}@example.com")
    SQLiteAdapter(tmp_path / "store").close()
    assert main(["-s", str(tmp_path / "full"), "dump", str(tmp_path / "dump")]) == 0
    before = files(tmp_path)
    with start("-s", "store", "load", cwd=tmp_path) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write((tmp_path / "dump").read_bytes()[:-9999])  # more than a pipe holds: most of it was read
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"tinyauthstore: interrupted; nothing is half done\n"
    assert process.returncode == 130
    assert files(tmp_path) == before


@pytest.mark.parametrize("command", ["users --limit 2000", "dump", "export redis"])
def test_output_that_nobody_can_take_is_no_traceback(command: str, tmp_path: Path) -> None:
    with SQLiteAdapter(tmp_path / "store") as store, store.transaction():
        for number in range(2000):
            store.create_user(email=f"{number}@example.com")
    with open("/dev/full", "wb") as full, start("-s", "store", *command.split(), cwd=tmp_path, stdout=full) as process:
        assert process.stderr is not None
        assert process.stderr.read() == b"tinyauthstore: No space left on device\n"
    assert process.returncode == 3
    with start("-s", "store", *command.split(), cwd=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_streams_that_are_closed_are_no_traceback(tmp_path: Path) -> None:
    KINDS["ours"](str(tmp_path / "store"))
    line = f"'{sys.executable}' -W error -m tinyauthstore -s store"
    script = f"{line} users >&-; echo $?; {line} users 2>&- | wc -l; {line} purge <&-; echo $?"
    finished = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    )
    assert finished.stdout.split() == ["3", "3", "2"]
    assert [line.partition(": ")[0] for line in finished.stderr.splitlines()] == ["tinyauthstore"] * 2


def test_a_terminal_without_unicode_shows_escapes(tmp_path: Path) -> None:
    with SQLiteAdapter(tmp_path / "store") as store:
        store.create_user(email=ADA, name="Zo\xeb 山")
    environment = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "tinyauthstore", "-s", "store", "users"]
    assert b"Zo\\xeb \\u5c71" in subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment).stdout
