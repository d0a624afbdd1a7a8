"""Servers that tests start for themselves, in a directory of their own."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

PATIENCE = 30
"""Seconds."""


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Until ``ready()``; the test fails if the server ends before, or takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, f"{process.args} has ended"
        assert time.monotonic() < deadline, f"{process.args} does not answer"
        time.sleep(0.02)


@contextmanager
def postgres_server(**settings: str) -> Iterator[str]:
    """The directory of the socket of a new PostgreSQL server, whose superuser is ``postgres``, without a password.

    It does not wait for the disk unless ``fsync="on"`` is among the settings. Skips the test where PostgreSQL is not
    installed.
    """
    found = [folder for folder in glob.glob("/usr/lib/postgresql/*/bin") if os.path.exists(f"{folder}/initdb")]
    path = os.pathsep.join([os.environ["PATH"], *found])
    initdb, server = (shutil.which(name, path=path) for name in ("initdb", "postgres"))
    if not (initdb and server):
        pytest.skip("needs PostgreSQL's initdb and postgres")
    become: list[str] = []
    folder = tempfile.mkdtemp(prefix="pg-")
    try:
        if os.getuid() == 0:  # as whom PostgreSQL refuses to run
            try:
                account = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("needs a user postgres, or not to run as root")
            os.chown(folder, account.pw_uid, account.pw_gid)
            become = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        data = f"{folder}/data"
        make = [*become, initdb, "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, timeout=PATIENCE, cwd="/")
        options = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off"} | settings
        start = [*become, server, "-D", data, *(f"--{name}={value}" for name, value in options.items())]
        with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/") as process:
            try:
                pid_file = f"{data}/postmaster.pid"
                wait_for(lambda: os.path.exists(pid_file) and "ready" in _last_line(pid_file), process)
                yield folder
            finally:
                process.terminate()
                process.send_signal(3)  # SIGQUIT: at once
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _last_line(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return (file.read().splitlines() or [""])[-1]
