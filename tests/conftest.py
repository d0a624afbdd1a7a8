"""Asserts in the modules that tests share explain themselves as those in tests do."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("tinyauthstore.testing", "support")


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
