"""Timing, and comparing what was timed.

The floor is measured anew right before whatever is compared to it: A B A C A D, round after round, so that
a machine that grows slower slows both. A ratio is that of two neighbours; what is printed is the median of
the rounds' ratios (not the ratio of medians), and the smallest and largest of them.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean, median
from time import perf_counter_ns
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

Sample = Callable[[], float]
"""Measures one round and returns nanoseconds for each operation (or bytes for each record)."""


PASSES = 5
"""How often a round of look-ups goes through its keys: "warm" means that the processor's caches are, too."""


class Skipped(Exception):
    """A row that cannot be measured here, and in a few words why."""


# --- timing -----------------------------------------------------------------------------------


class _NoCollection:
    """The garbage collector kept from running inside a measured stretch."""

    def __enter__(self) -> None:
        self._was_on = gc.isenabled()
        gc.disable()

    def __exit__(self, *error: object) -> None:
        if self._was_on:
            gc.enable()


def ns_per_call(call: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Nanoseconds that ``call`` takes for each of the items, the loop (about 10 ns) included."""
    with _NoCollection():
        start = perf_counter_ns()
        for item in items:
            call(item)
        return (perf_counter_ns() - start) / len(items)


async def ns_per_await(call: Callable[[Any], Awaitable[Any]], items: Sequence[Any]) -> float:
    """The same for what is awaited, one after the other."""
    with _NoCollection():
        start = perf_counter_ns()
        for item in items:
            await call(item)
        return (perf_counter_ns() - start) / len(items)


def ns_in_window(call: Callable[[Any], Any], items: Sequence[Any], seconds: float) -> float:
    """The same, going through the items again and again for that long."""
    passes: list[float] = []
    end = perf_counter_ns() + seconds * 1e9
    while not passes or perf_counter_ns() < end:
        passes.append(ns_per_call(call, items))
    return fmean(passes)


def latencies(
    call: Callable[[Any], Any], items: Iterable[Any], before: Callable[[], Any] | None = None
) -> list[int]:
    """What each single call took, in nanoseconds, the clock (about 50 ns) included; ``before`` is not."""
    taken = []
    for item in items:
        if before is not None:
            before()
        start = perf_counter_ns()
        call(item)
        taken.append(perf_counter_ns() - start)
    return taken


def looking_up(
    call: Callable[[Any], Any], keys: Sequence[Any], *, found: bool = True, passes: int = PASSES
) -> Sample:
    """A round of look-ups, once it is sure that they find what they should: a wrong answer is no figure."""
    verify(call, keys, found=found)
    return partial(ns_per_call, call, list(keys) * passes)


def verify(call: Callable[[Any], Any], keys: Sequence[Any], *, found: bool = True) -> None:
    """AssertionError unless the first keys are found (or, where none should be, are not)."""
    for key in keys[:10]:
        if (call(key) is not None) is not found:
            raise AssertionError(f"{call!r} {'missed what is' if found else 'found what is not'} there")


def interleaved(samples: Sequence[Callable[[], T]], rounds: int, *, warm_up: bool = True) -> list[list[T]]:
    """Every sample's rounds, taken in turns, after one round to warm up that does not count."""
    taken: list[list[T]] = [[] for _ in samples]
    for number in range(rounds + warm_up):
        for sample, figures in zip(samples, taken):
            figure = sample()
            if number >= warm_up:
                figures.append(figure)
    return taken


# --- what was measured ------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """What a row should reach: a ratio, or a time in nanoseconds, at most (or at least) ``limit``."""

    limit: float
    of: str = "ratio"
    at_least: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a table: a figure for each round, and the same round's ratio to the floor.

    ``figures`` are nanoseconds for each operation, or what ``unit`` says. Both lists are empty where nothing
    was measured; then ``note`` says why. ``size`` is the number of sessions, where rows differ in that.
    """

    name: str
    figures: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    bar: Bar | None = None
    note: str = ""
    unit: str = "ns"
    ours: bool = True
    size: int = 0

    @property
    def figure(self) -> float:
        """The median over the rounds."""
        return median(self.figures)

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios to the floor; None for the floor itself."""
        return median(self.ratios) if self.ratios else None

    @property
    def passed(self) -> bool | None:
        """Whether the median meets the bar; None where there is no bar or nothing was measured."""
        if self.bar is None or not self.figures:
            return None
        reached = self.figure if self.bar.of == "time" else self.ratio
        if reached is None:
            return None
        return reached >= self.bar.limit if self.bar.at_least else reached <= self.bar.limit


@dataclass(frozen=True)
class Section:
    """A table: rows that share a floor. ``chart`` names the chart that it is drawn in, as ``label``."""

    title: str
    floor: str
    rows: list[Row]
    chart: str = ""
    label: str = ""
    group: str = ""


class Contender(NamedTuple):
    """A row to be: ``make`` prepares it (and may raise Skipped) and returns what measures a round."""

    name: str
    make: Callable[[], Sample]
    bar: Bar | None = None
    ours: bool = True
    size: int = 0


theirs = partial(Contender, ours=False)
"""A row that is not this package's: a floor, a peer."""


def compared(row: Row, figures: Sequence[float], floor: Sequence[float]) -> Row:
    """The row with its figures, set against the floor's figures of the same rounds."""
    ratios = [figure / other for figure, other in zip(figures, floor, strict=True)]
    return replace(row, figures=list(figures), ratios=ratios)


def race(
    title: str,
    contenders: Iterable[Contender],
    *,
    rounds: int,
    warm_up: bool = True,
    floor: str | None = None,
    unit: str = "ns",
    chart: str = "",
    label: str = "",
) -> Section:
    """Measure the contenders beside the first of them, which is their floor, and compare them to it.

    ``floor`` names what the ratios are to, where the first row's name does not say it.
    """
    (first, base), *others = [_prepared(contender, unit) for contender in contenders]
    running = [sample for _, sample in others if sample is not None]
    turns = running if base is None else [turn for sample in running for turn in (base, sample)] or [base]
    taken = iter(interleaved(turns, rounds, warm_up=warm_up))
    rows, floor_figures = [], []
    for row, sample in others:
        if sample is not None and base is not None:
            beside = next(taken)
            floor_figures += beside
            row = compared(row, next(taken), beside)
        elif sample is not None:  # the floor was skipped: figures are all that can be told
            row = replace(row, figures=next(taken))
        rows.append(row)
    if base is not None:
        first = replace(first, figures=floor_figures or next(taken))
    return Section(title, floor or first.name, [first, *rows], chart, label)


def _prepared(contender: Contender, unit: str) -> tuple[Row, Sample | None]:
    """The contender's row, yet without figures, and what measures a round of it."""
    row = Row(contender.name, bar=contender.bar, unit=unit, ours=contender.ours, size=contender.size)
    try:
        return row, contender.make()
    except Skipped as reason:
        return replace(row, note=f"skipped: {reason}"), None
