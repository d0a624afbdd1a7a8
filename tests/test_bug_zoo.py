"""The conformance kit bites: broken adapters fail the tests meant for them, and sound ones pass the same."""

from __future__ import annotations

from typing import Any

import pytest
from bug_zoo import ENDINGS, MEANT, SOUND, ZOO
from support import Ending, run_tests


@pytest.fixture(scope="module")
def endings() -> list[Ending]:
    """Of every meant test, for the specimens and for the sound adapters."""
    return run_tests("bug_zoo")


def of(endings: list[Ending], adapter: type[Any], test: str) -> set[str]:
    """How that test, or its cases, ended for that adapter."""
    suite = f"Test{adapter.__name__}"
    return {one.how for one in endings if one.suite == suite and one.test.startswith(test)}


@pytest.mark.parametrize(
    "specimen, test", [(specimen, test) for specimen, tests in ZOO.items() for test in tests]
)
def test_a_defect_is_caught_by_the_test_meant_for_it(
    endings: list[Ending], specimen: type[Any], test: str
) -> None:
    """By an assertion, or by the very error that is the defect; not by some crash on the way."""
    found = of(endings, specimen, test) - {"passed"}
    assert found, f"no case of {test} saw: {specimen.__doc__}"
    assert found <= {ENDINGS[specimen] or "AssertionError", "Failed"}


@pytest.mark.parametrize("adapter", SOUND)
@pytest.mark.parametrize("test", MEANT)
def test_a_sound_adapter_passes(endings: list[Ending], adapter: type[Any], test: str) -> None:
    """What catches a defect catches nothing else."""
    assert of(endings, adapter, test) == {"passed"}


def test_the_zoo_is_worth_a_visit() -> None:
    """More than twenty specimens, each with a defect of its own and a word on what that leads to."""
    assert len(ZOO) > 20
    assert len({specimen.__doc__ for specimen in ZOO}) == len(ZOO)
    assert all("__doc__" in vars(specimen) and vars(specimen)["__doc__"] for specimen in ZOO)
    assert not [(one, other) for one in ZOO for other in ZOO if one is not other and issubclass(one, other)]
