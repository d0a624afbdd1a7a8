"""What tests about real processes need: fresh interpreters, forked children, a crew that collides.

Whatever a helper here starts is killed after ``PATIENCE`` seconds: a deadlock is a failure, not a wait.
"""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import tinyauthstore

PATIENCE = 30
"""Seconds."""

FLAGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
"""For a fresh interpreter: warnings are errors, but for the one about forking beside other threads (since
Python 3.12), where that is just what is being tested."""


@contextmanager
def every_connection(kind: type[sqlite3.Connection]) -> Iterator[None]:
    """Meanwhile, all new SQLite connections of this process are of that class."""
    plain: Any = sqlite3.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *args, **options: plain(*args, factory=kind, **options))
        yield


# --- fresh interpreters -----------------------------------------------------------------------


def start_python(script: str, *arguments: str | os.PathLike[str]) -> subprocess.Popen[str]:
    """A fresh interpreter that runs ``script``, with pipes for all three of its streams."""
    folders = [Path(tinyauthstore.__file__).parent.parent, Path(__file__).parent]
    return subprocess.Popen(
        [sys.executable, *FLAGS, "-c", script, *map(os.fspath, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
    )  # fmt: skip


def run_python(script: str, *arguments: str | os.PathLike[str]) -> str:
    """What ``script`` printed; AssertionError if it failed or complained."""
    with start_python(script, *arguments) as process:
        try:
            printed, complaints = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0 and not complaints, complaints or f"it ended with {process.returncode}"
    return printed


def apart(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a fresh interpreter, which has one thread and may therefore fork.

    The test takes ``tmp_path``, and further parameters only if JSON can carry them.
    """

    @functools.wraps(test)
    def run(tmp_path: Path, **parameters: Any) -> None:
        script = "import support; support.run_apart()"
        run_python(script, test.__module__, test.__name__, tmp_path, json.dumps(parameters))

    return run


def run_apart() -> None:
    """The other end of ``apart``."""
    module, name, folder, parameters = sys.argv[1:]
    signal.alarm(PATIENCE)
    test: Any = getattr(importlib.import_module(module), name)
    test.__wrapped__(Path(folder), **json.loads(parameters))


# --- forked children --------------------------------------------------------------------------


def fork(body: Callable[[], object]) -> int:
    """Run ``body`` in a forked child, whose id is returned; it ends without the parent's clean-up."""
    if (process := os.fork()) != 0:
        return process
    signal.alarm(PATIENCE)
    status = 1
    try:
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def exit_code(process: int) -> int:
    """Wait for a forked child: 0 if its body returned, negative if a signal killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class Gate:
    """Lets processes wait for each other across ``fork()``: whoever passes waits until it was opened."""

    def __init__(self) -> None:
        self._exit, self._entry = os.pipe()

    def open(self) -> None:
        os.write(self._entry, b".")

    def wait(self) -> None:
        os.read(self._exit, 1)


# --- a crew -----------------------------------------------------------------------------------

Task = Callable[..., Generator[None, None, Any]]
"""What a member of a crew does: it gets ready, yields, and is resumed when all are ready."""


class Crew:
    """Processes that set off at the same moment; started once, because starting costs more than a race."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")  # nothing inherited: as strangers to each other
        self._barrier = context.Barrier(size)  # kept: it is gone from the system with its last owner here
        self._pipes, self._processes = [], []
        for _ in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._barrier), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def race(self, count: int, task: Task, *arguments: Any) -> list[Any]:
        """What ``task(i, *arguments)`` returned, or raised, in each of ``count`` processes."""
        for i, pipe in enumerate(self._pipes):
            pipe.send((task, (i, *arguments)) if i < count else (_idle, ()))
        return [pipe.recv() for pipe in self._pipes][:count]

    def close(self) -> None:
        for pipe, process in zip(self._pipes, self._processes):
            pipe.send(None)
            process.join(PATIENCE)
            pipe.close()
            process.close()


def _idle() -> Generator[None, None, None]:
    yield


def _serve(pipe: Connection, barrier: Any) -> None:
    while (order := pipe.recv()) is not None:
        task, arguments = order
        steps, answer = task(*arguments), None
        try:
            next(steps)
        except Exception as error:
            answer = error
        barrier.wait(PATIENCE)
        try:
            next(steps)
        except StopIteration as stop:
            answer = answer or stop.value
        except Exception as error:
            answer = error
        pipe.send(answer)
