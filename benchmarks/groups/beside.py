"""Look-ups while another process writes to the same file: the worst that can happen to a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from tinyauthstore import SQLiteAdapter

from .. import bars, floors
from ..measure import Bar, Contender, Sample, Section, latencies, ns_in_window, race, theirs, verify
from ..processes import helper, write_steadily
from ..workshop import SQLITE_FILE, Workshop, digest, keys_of, shuffled

WRITES_PER_SECOND = (0, 10, 100, 1_000)

Measure = Callable[[Callable[[Any], Any], Sequence[Any]], float]
"""A round of look-ups: what to call, with what."""


def sections(shop: Workshop) -> Iterator[Section]:
    """Writes 0, 10, 100, 1,000 times a second; and before every single look-up."""
    plan = shop.plan
    for rate in WRITES_PER_SECOND:
        file = shop.copy(SQLITE_FILE, plan.sessions)
        with (
            _readers(shop, file, bars.COLD if rate else bars.WARM) as readers,
            helper(write_steadily, file, rate) as writer,
        ):
            section = race("", readers(partial(ns_in_window, seconds=plan.window)), rounds=plan.few_rounds)
            writer.send("how many?")
            really = f" ({writer.recv():,.0f} measured)" if rate else ""
        yield replace(
            section, title=f"Session by token, another process writes {rate:,} times a second{really}"
        )

    file = shop.copy(SQLITE_FILE, plan.sessions)
    with _readers(shop, file, bars.COLD) as readers, floors.opened(file, "off") as other:
        commit = partial(
            other.execute, "UPDATE sessions SET expires = expires + 1 WHERE token_digest = ?", (digest(0),)
        )
        yield race(
            "Session by token, a foreign commit before every single look-up",
            readers(lambda call, keys: fmean(latencies(call, keys, before=commit))),
            rounds=plan.rounds,
        )


@contextmanager
def _readers(shop: Workshop, file: Path, bar: Bar) -> Iterator[Callable[[Measure], list[Contender]]]:
    """Three readers of one file, as contenders once it is said how a round of theirs is measured."""
    keys = keys_of(shuffled(shop.plan.sessions, shop.plan.look_ups))

    def reading(measure: Measure, call: Callable[[Any], Any], some: Sequence[Any]) -> Sample:
        verify(call, some)
        return partial(measure, call, some)

    with (
        floors.opened(file) as bare,
        SQLiteAdapter(file) as store,
        SQLiteAdapter(file, cache_size=0) as uncached,
    ):
        yield lambda measure: [
            theirs(
                floors.BARE_JOIN, partial(reading, measure, floors.select(bare, floors.JOIN), keys.digests)
            ),
            Contender("SQLite file", partial(reading, measure, store.get_session_and_user, keys.tokens), bar),
            Contender(
                "SQLite file, cache_size=0",
                partial(reading, measure, uncached.get_session_and_user, keys.tokens),
            ),
        ]
