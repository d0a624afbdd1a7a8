"""Asserts in the modules that tests share explain themselves as those in tests do."""

import gc

import pytest

pytest.register_assert_rewrite("tinyauthstore.testing", "support")


def pytest_collection_finish() -> None:
    """Thousands of collected tests live until the end: no garbage collection need look at them again."""
    gc.collect()
    gc.freeze()
