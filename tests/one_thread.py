"""Runs tests where Python can start neither threads nor processes: ``node/wasm.mjs`` calls ``run`` under WebAssembly."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

import pytest

CANNOT = "can't start new thread"
"""What ``threading`` says there."""


class OneThread:
    """A pytest plugin: a test that would have to start a thread is skipped, by what Python says of it, not by name."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if str(error) != CANNOT:
                raise
            pytest.skip(CANNOT)


def run(arguments: Sequence[str]) -> int:
    """Pytest's exit code. Nothing is written beside the tests, and no plugin of another Python is loaded."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.dont_write_bytecode = True
    print("Python", sys.version)
    return int(pytest.main(["-p", "no:cacheprovider", *arguments], plugins=[OneThread()]))
