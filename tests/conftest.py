"""For all tests: what makes their asserts explain themselves, and what makes thousands of them fast."""

import gc

import pytest
from two_processes import pytest_runtestloop  # noqa: F401

pytest.register_assert_rewrite("tinyauthstore.testing", "support")


def pytest_collection_finish() -> None:
    """Thousands of collected tests live until the end: no garbage collection need look at them again."""
    gc.collect()
    gc.freeze()
