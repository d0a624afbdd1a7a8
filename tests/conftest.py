"""For all tests: what makes their asserts explain themselves, and what makes thousands of them fast."""

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from two_processes import pytest_runtestloop  # noqa: F401

pytest.register_assert_rewrite("tinyauthstore.testing", "support")

MEMORY_DISK = "/dev/shm"
"""Where Linux has it."""

ENOUGH = 2**30
"""Bytes: several times what the tests write."""


def pytest_configure() -> None:
    """Ctrl-C is heeded, and temporary files lie in memory.

    What a shell starts in the background ignores Ctrl-C, and so do the processes that it starts: the tests that send
    it to one would wait for ever. Temporary files need not survive a power cut, and a real disk makes the tests wait.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.keys() & {"TMPDIR", "PYTEST_DEBUG_TEMPROOT"} or not os.access(MEMORY_DISK, os.W_OK):
        return
    space = os.statvfs(MEMORY_DISK)
    if space.f_bavail * space.f_frsize >= ENOUGH:
        os.environ["TMPDIR"] = tempfile.tempdir = MEMORY_DISK  # for the processes that tests start, too


def pytest_collection_finish() -> None:
    """Thousands of collected tests live until the end: no garbage collection need look at them again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[Any]:
    """A test that its class says will fail, by ``expected_failure(name)``, must do so, or it is a failure.

    As with ``xfail(strict=True)``; but pytest would read a module again for the traceback of each of hundreds.
    """
    expected = getattr(pyfuncitem.cls, "expected_failure", None)
    limit = None if expected is None else expected(pyfuncitem.name)
    if limit is None:
        return (yield)
    try:
        result = yield
    except (Exception, pytest.fail.Exception):
        raise pytest.xfail.Exception(limit.reason, pytrace=False) from None
    if limit.strict:
        pytest.fail(f"this passes, though it is said to fail: {limit.reason}", pytrace=False)
    return result
