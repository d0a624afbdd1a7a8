"""Runs the suite in two processes at once, and needs nothing but pytest for it.

A run of ``LARGE`` tests or more forks when the tests are collected. Both processes then take chunks of tests
from a queue, so that they finish together. The second one, the worker, logs nothing itself: the first process
logs the worker's reports as its own. So counts, tracebacks, ``--junitxml``, ``-x`` and the exit code are
those of one run. A test that the worker did not finish, because it crashed, say, has failed.

Modules in ``TIMED`` stay in the first process, so that no two of their tests ever run at the same time.

Everything runs in one process where less than two CPUs are at hand, with options that are for watching single
tests (``-s``, ``--pdb``, ``--setup-show``), and with ``ONE_PROCESS=1`` in the environment.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import pytest
from _pytest.runner import runtestprotocol  # as every plugin that moves tests to other processes does

LARGE = 1000
"""Tests: with fewer, there is little to gain."""

CHUNK = 40
"""Tests: few enough for both processes to finish at about the same time."""

TIMED = {
    "test_aio", "test_benchmarks", "test_claims", "test_cli", "test_coherence", "test_fork", "test_postgres",
    "test_processes", "test_transactions",
}  # fmt: skip
"""Modules whose tests race, keep several processes busy or look at a clock."""

WATCHING = ("collectonly", "usepdb", "trace", "setupshow", "setuponly", "setupplan")
"""Options, by their internal names."""

GRACE = 10
"""Seconds that a worker which is no longer needed has for its teardown."""

Chunk = list[tuple[int, pytest.Item]]
"""Tests, each with its place among those collected: the names of two may be the same."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    if not _is_worth_it(session):
        return None  # pytest's own loop
    numbered = [*enumerate(session.items)]
    timed = [one for one in numbered if one[1].path.stem in TIMED]
    others = [one for one in numbered if one[1].path.stem not in TIMED]
    _First(session).run(timed, _Queue(others))
    return True


def _is_worth_it(session: pytest.Session) -> bool:
    config = session.config
    return (
        len(session.items) >= LARGE
        and not os.environ.get("ONE_PROCESS")
        and hasattr(os, "sched_getaffinity")
        and len(os.sched_getaffinity(0)) >= 2
        and threading.active_count() == 1  # a fork copies one thread only
        and not session.testsfailed  # in collection
        and not any(config.getoption(name, None) for name in WATCHING)
        and config.getoption("capture", "no") != "no"
        and not hasattr(config, "workerinput")  # a worker of pytest-xdist
    )


class _Queue:
    """Chunks for whichever process asks next: a pipe holds their numbers, and each number is read once."""

    def __init__(self, tests: Chunk) -> None:
        self._chunks = [tests[i : i + CHUNK] for i in range(0, len(tests), CHUNK)]
        self._exit, entry = os.pipe()
        os.write(entry, b"".join(struct.pack("H", number) for number in range(len(self._chunks))))
        os.close(entry)

    def take(self) -> Iterator[tuple[int, pytest.Item]]:
        while number := os.read(self._exit, struct.calcsize("H")):
            yield from self._chunks[struct.unpack("H", number)[0]]

    def close(self) -> None:
        os.close(self._exit)


class _Reports:
    """A file that the worker appends to while the first process reads; a pipe would be full now and then."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0  # of the reader: the file's own position is shared by both processes

    def write(self, *record: Any) -> None:
        content = pickle.dumps(record)
        self._file.write(struct.pack("Q", len(content)) + content)

    def read(self) -> Iterator[Any]:
        """What has come and is complete."""
        start = struct.calcsize("Q")
        while len(head := os.pread(self._file.fileno(), start, self._position)) == start:
            size = struct.unpack("Q", head)[0]
            content = os.pread(self._file.fileno(), size, self._position + start)
            if len(content) < size:
                break
            self._position += start + size
            yield pickle.loads(content)


# --- the worker -------------------------------------------------------------------------------


class _Worker:
    """The second process, from the fork to its end; as a plugin there, it puts reports into the file."""

    def __init__(self, session: pytest.Session, reports: _Reports, parent: int) -> None:
        self._session = session
        self._config = session.config
        self._reports = reports
        self._parent = parent
        self._number = -1

    def run(self, tests: Iterator[tuple[int, pytest.Item]]) -> None:
        """Does not return, and leaves all that is to be done at the end of a session to the first process."""
        status = 1
        try:
            self._config.pluginmanager.register(self)
            for self._number, item, following in _with_the_following(tests):
                if os.getppid() != self._parent:
                    break
                self._config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            else:
                status = 0
        except BaseException as error:
            self._reports.write("broken", "".join(traceback.format_exception(error)))
        finally:
            try:
                self._session._setupstate.teardown_exact(None)  # it is still set up after a KeyboardInterrupt
            finally:
                os._exit(status)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        self._reports.write("begun", self._number)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        serialize = self._config.hook.pytest_report_to_serializable
        found = [serialize(config=self._config, report=report) for report in reports]
        self._reports.write("ended", self._number, found)
        return True

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: object
    ) -> None:
        warning_message.source = None  # seldom there, and perhaps nothing to pickle
        where = {"when": when, "nodeid": nodeid, "location": location}
        self._reports.write("warned", {"warning_message": warning_message, **where})


def _with_the_following(
    tests: Iterator[tuple[int, pytest.Item]],
) -> Iterator[tuple[int, pytest.Item, pytest.Item | None]]:
    """Each test with the one after it, with which it may share fixtures."""
    one = next(tests, None)
    while one is not None:
        following = next(tests, None)
        yield *one, following and following[1]
        one = following


# --- the first process ------------------------------------------------------------------------


class _First:
    """The process that was there before, which logs all."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._hook = session.config.hook
        self._unfinished = dict(enumerate(session.items))
        self._begun = -1  # the worker's latest
        self._arrived: list[tuple[int, list[pytest.TestReport]]] = []
        self._how_it_ended = self._trouble = ""

    def run(self, timed: Chunk, queue: _Queue) -> None:
        with tempfile.TemporaryFile(buffering=0) as file:
            self._reports = _Reports(file)
            self._start_worker(queue)
            try:
                self._work(iter(timed))
                self._work(queue.take())
                self._await_worker()
            finally:
                self._stop_worker()
                queue.close()
        self._account()

    def _start_worker(self, queue: _Queue) -> None:
        config, parent = self._session.config, os.getpid()
        factory: Any = config._tmp_path_factory  # type: ignore[attr-defined]
        factory.getbasetemp()  # made now: one for both
        capture = config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()  # each process needs files of its own for what it captures
        sys.stdout.flush()
        sys.stderr.flush()
        self._process = os.fork()
        self._running = True
        if not self._process:
            try:
                capture.start_global_capturing()
                capture.suspend_global_capture()
                _Worker(self._session, self._reports, parent).run(queue.take())
            finally:
                os._exit(1)
        capture.start_global_capturing()
        capture.suspend_global_capture()

    def _work(self, tests: Iterator[tuple[int, pytest.Item]]) -> None:
        for number, item, following in _with_the_following(tests):
            self._hook.pytest_runtest_protocol(item=item, nextitem=following)
            del self._unfinished[number]
            self._stop_if_told_to()
            self._receive()
            failed = any(report.failed for _, reports in self._arrived for report in reports)
            if failed or len(self._arrived) >= CHUNK:  # many at a time, for whole lines of dots of one module
                self._log()

    def _stop_if_told_to(self) -> None:
        """As pytest's own loop does; ``-x``, for one, tells."""
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)

    def _receive(self) -> None:
        for what, *details in self._reports.read():
            if what == "begun":
                self._begun = details[0]
            elif what == "ended":
                number, found = details
                restore: Callable[..., Any] = self._hook.pytest_report_from_serializable
                reports = [restore(config=self._session.config, data=one) for one in found]
                self._arrived.append((number, reports))
            elif what == "warned":
                self._hook.pytest_warning_recorded.call_historic(kwargs=details[0])
            else:
                self._trouble = details[0]

    def _log(self) -> None:
        arrived, self._arrived = self._arrived, []
        for number, reports in arrived:
            self._log_test(self._unfinished.pop(number), reports)
        if arrived:
            gc.collect()
            gc.freeze()  # reports live until the end; tests that collect garbage need not look at them again

    def _log_test(self, item: pytest.Item, reports: Sequence[pytest.TestReport]) -> None:
        self._hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in reports:
            self._hook.pytest_runtest_logreport(report=report)
        self._hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        self._stop_if_told_to()

    def _await_worker(self) -> None:
        while not self._worker_has_ended():
            self._receive()
            self._log()
            time.sleep(0.02)
        self._receive()  # its last
        self._log()

    def _worker_has_ended(self) -> bool:
        if self._running:
            process, status = os.waitpid(self._process, os.WNOHANG)
            self._running = process == 0
            if process and (code := os.waitstatus_to_exitcode(status)):
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                self._how_it_ended = f"It ended with {how}.\n"
        return not self._running

    def _stop_worker(self) -> None:
        """If it still runs: it is not needed any more."""
        end = time.monotonic() + GRACE
        if not self._worker_has_ended():
            os.kill(self._process, signal.SIGINT)
        while not self._worker_has_ended():
            if time.monotonic() > end:
                os.kill(self._process, signal.SIGKILL)
            time.sleep(0.02)

    def _account(self) -> None:
        """Whatever went wrong in the worker, no test is forgotten: what is still unfinished has failed."""
        trouble = self._how_it_ended + self._trouble
        for number in sorted(self._unfinished, key=lambda number: number != self._begun):
            item = self._unfinished.pop(number)
            when = "in" if number == self._begun else "before"
            text = f"The second process ended {when} this test. {trouble}"
            failure = pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
            end = pytest.TestReport(item.nodeid, item.location, {}, "passed", None, "teardown")
            self._log_test(item, [failure, end])
            trouble = ""  # told once
        if trouble:
            self._session.shouldfail = f"The second process did not end well. {trouble}"
            self._stop_if_told_to()
