"""What several tests need: something to store, and processes: fresh, forked, or a crew that collides.

Whatever a helper here starts is killed after ``PATIENCE`` seconds: a deadlock is a failure, not a wait.
"""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tinyauthstore

PATIENCE = 30
"""Seconds."""

FLAGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
"""For a fresh interpreter: warnings are errors, but for the one about forking beside other threads (since
Python 3.12), where that is just what is being tested."""


# --- something to store -----------------------------------------------------------------------


def link(store: Any, user_id: str, account_id: str = "1", **tokens: Any) -> Any:
    """``link_account`` for an account at GitHub."""
    given = {"type": "oauth", "provider": "github", "provider_account_id": account_id} | tokens
    return store.link_account(user_id=user_id, **given)


def register(store: Any, user_id: str, credential_id: str = "1", **fields: Any) -> Any:
    """``create_authenticator`` for a passkey."""
    given = {"credential_public_key": "key", "credential_device_type": "singleDevice", "counter": 1}
    given |= {
        "credential_id": credential_id,
        "provider_account_id": "1",
        "credential_backed_up": False,
    } | fields
    return store.create_authenticator(user_id=user_id, **given)


def furnish(store: Any) -> None:
    """Ada, with one of everything."""
    store.create_user(id="ada", email="ada@example.com", name="Ada")
    link(store, "ada", claims={"nested": [1, 2]})
    register(store, "ada")
    store.create_session(user_id="ada", session_token="session")
    store.create_verification_token(identifier="ada@example.com", token="token")


@contextmanager
def every_connection(kind: type[sqlite3.Connection]) -> Iterator[None]:
    """Meanwhile, all new SQLite connections of this process are of that class."""
    plain: Any = sqlite3.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *args, **options: plain(*args, factory=kind, **options))
        yield


@contextmanager
def every_statement(note: Callable[[str], Any]) -> Iterator[None]:
    """Meanwhile, every connection that is opened tells ``note`` what runs on it."""

    class Traced(sqlite3.Connection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.set_trace_callback(note)

    with every_connection(Traced):
        yield


# --- a store of any kind ----------------------------------------------------------------------

# By attribute: a test in a fresh interpreter may have to import the package late, or in parts.
ANY_STORE: dict[str, Callable[..., Any]] = {
    "memory": lambda folder, **options: tinyauthstore.MemoryAdapter(**options),
    "sqlite": lambda folder, **options: tinyauthstore.SQLiteAdapter(":memory:", **options),
    "shelve": lambda folder, **options: tinyauthstore.ShelveAdapter(
        folder / "shelf", durability="normal", **options
    ),
    "split": lambda folder, **options: tinyauthstore.SplitAdapter(
        **{role: tinyauthstore.MemoryAdapter(**options) for role in ("users", "sessions", "verification")}
    ),
}


@pytest.fixture(params=ANY_STORE, name="make")
def make_any(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes stores of each kind in turn, with options; whatever it made is closed after the test."""
    made: list[Any] = []

    def make(**options: Any) -> Any:
        made.append(ANY_STORE[request.param](tmp_path, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


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


# --- tests about tests ------------------------------------------------------------------------


class Ending(NamedTuple):
    """How a test of another run ended: ``how`` is "passed" or the name of the exception."""

    suite: str
    test: str
    how: str
    text: str


class Witness:
    """A pytest plugin that notes how each test ends. A class may name its ``cases``: how these begin."""

    def __init__(self) -> None:
        self.seen: list[Ending] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        config.option.tbstyle = "native"  # others read a long module again for every failure

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.name.startswith(getattr(item.cls, "cases", ""))]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: pytest.CallInfo[None]) -> Any:
        report = yield
        if call.excinfo is not None:
            text = str(call.excinfo.value)[:1000]
            self.seen.append(Ending(item.cls.__name__, item.name, call.excinfo.typename, text))
        elif call.when == "call":
            self.seen.append(Ending(item.cls.__name__, item.name, "passed", ""))
        return report


def run_tests(module: str) -> list[Ending]:
    """How the tests in the classes of that module end, in a fresh interpreter, without any configuration."""
    printed = run_python("import support; support.serve_as_tests()", Path(__file__).with_name(f"{module}.py"))
    return [Ending(*one) for one in json.loads(printed)]


def serve_as_tests() -> None:
    """The other end of ``run_tests``."""
    witness, folder = Witness(), os.path.dirname(__file__)
    # Where the package is installed, its own plugin would be loaded, and found to be imported already.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-c", os.devnull, "--rootdir", folder, "--noconftest", "-W", "error"]
    pytest.main([*options, "-p", "no:cacheprovider", "-p", "no:terminal", sys.argv[1]], plugins=[witness])
    print(json.dumps(witness.seen))


# --- shelves ----------------------------------------------------------------------------------


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


DBM_BACKENDS = [name for name in ("dumb", "gnu", "ndbm", "sqlite3") if _importable(f"dbm.{name}")]
"""The backends that this Python has."""


def state(store: Any) -> dict[str, dict[Any, Any]]:
    """Every record of a store that keeps them in memory, by kind and key."""
    return {plural: dict(records) for plural, records in store.snapshot().state.items() if records}


def abandon(store: Any) -> None:
    """Leave a shelf as if its process had been killed now."""
    store._closed = True
    store._files.close()


# --- Node -------------------------------------------------------------------------------------

SCRIPTS = Path(__file__).with_name("node")


def node_folder(folder: Path, package: str, scripts: str) -> Path:
    """``folder``, made one in which Node finds the packages of tests/node, and those of its ``scripts`` (a pattern).

    Node looks for packages beside a script, wherever it was started. The test is skipped where Node or the package
    is missing; ``.ci/run`` shows how to install them.
    """
    if shutil.which("node") is None:
        pytest.skip("needs Node")
    packages = Path(os.environ.get("TINYAUTHSTORE_NODE") or SCRIPTS, "node_modules").absolute()
    if not (packages / package).is_dir():
        pytest.skip("needs `npm install` in tests/node, or TINYAUTHSTORE_NODE: a folder with its node_modules")
    (folder / "node_modules").symlink_to(packages)
    for script in SCRIPTS.glob(scripts):
        shutil.copy(script, folder)
    return folder
